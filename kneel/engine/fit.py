"""The training loop, for any task: all randomness by key, every epoch on disk before the next, resumed exactly."""

import time
from dataclasses import dataclass
from pathlib import Path

from termcolor import colored
from tqdm import tqdm

from kneel.engine.board import Board, Showing, quantities
from kneel.engine.config import TrainingConfig
from kneel.engine.cpu import cpu_threads, keep_freed_memory
from kneel.engine.hold import hold
from kneel.engine.provenance import record_start
from kneel.engine.record import Record, Row, check_free, run_folder
from kneel.engine.task import Task
from kneel.engine.trainer import Trainer


@dataclass(frozen=True)
class FitResult:
    """
    What a training came to.

    Attributes
    ----------
    best_metric, best_epoch
        Best value of the monitored metric and its epoch, from 1; the first of equals.
    path_best, path_last
        Snapshots of that epoch and of the last one.
    history
        One row an epoch: ``epoch``, ``learning_rate`` (of its last step), ``train_loss`` and the task's metrics.
    """

    best_metric: float
    best_epoch: int
    path_best: Path
    path_last: Path
    history: tuple[Row, ...]


def fit(
    task: Task,
    config: TrainingConfig,
    workdir: Path,
    *,
    name: str,
    resume: bool = False,
    overwrite: bool = False,
    board: Board | None = None,
    cpu: bool = False,
) -> FitResult:
    """
    Train a task; keep its best and its last epoch.

    Writes ``best.safetensors`` and ``last.safetensors`` (each with a readable ``.json``, and the one before as
    ``.previous``), ``metrics.csv``, ``experiment.yaml`` and ``provenance`` into ``workdir/name``. A kill at any moment
    costs at most the epoch that was running; a damaged last snapshot, one more.

    Parameters
    ----------
    task
        What to train.
    config
        How to train it.
    workdir, name
        Folder of all runs, and the folder of this one in it.
    resume
        Go on after the last complete epoch, or start if there is none. Other `threads`, `num_workers`, `augment_on`
        and `compile`, another number of processes (exact to rounding), and with the ``step``
        schedule other `epochs`, may be asked for; all else must be as it was. Bit-exact on a CPU.
    overwrite
        Replace the run that is in the folder.
    board
        Shows curves and pictures as they grow, besides ``metrics.csv``; with it ``pictures/`` are kept, one an epoch.
    cpu
        Leave a GPU alone even if there is one.

    Returns
    -------
    FitResult
        Best epoch, paths, and the numbers of all epochs.

    Raises
    ------
    RunBusy
        When another process is training into the folder.
    DiskFull
        When an epoch does not fit; the snapshots are those of the epoch before, and can be resumed.
    SnapshotError
        When the last snapshot and the one before it are damaged.
    RunExists
        When the folder holds a run and neither `resume` nor `overwrite` is given.
    ResumeError
        When the run in the folder is not this one.
    TrainingDiverged
        When the loss or the monitored metric is not finite; the snapshots are those of the epochs before.
    """
    folder = run_folder(Path(workdir), name)
    with hold(folder):
        check_free(folder, resume=resume, overwrite=overwrite)
        keep_freed_memory()
        with cpu_threads(config.threads):
            record = _train(Trainer(task, config, cpu), folder, resume, board)
    best, history = record.best, tuple(record.history)
    return FitResult(best[config.monitor], int(best["epoch"]), record.path_best, record.path_last, history)


def _train(trainer: Trainer, folder: Path, resume: bool, board: Board | None) -> Record:
    config, described = trainer.config, trainer.task.describe()
    record = Record(folder, config, described, trainer.world)
    showing = Showing(folder, board) if trainer.is_main else None
    trainer.open(record, resume)
    if showing:
        showing.begin(record.history)
    if trainer.is_main and len(record.history) < config.epochs:
        settings = {**described.get("experiment", {}), "training": config.model_dump(mode="json")}
        record_start(folder, settings, trainer.accelerator.device, len(record.history))
    for epoch in range(len(record.history), config.epochs):
        began = time.monotonic()
        train_loss, rate = trainer.train_epoch(epoch)
        trainer.average_weights(epoch)
        metrics = trainer.validate(epoch)
        record.history.append({"epoch": epoch + 1, "learning_rate": rate, "train_loss": train_loss, **metrics})
        trainer.save(record)
        if showing:
            showing.epoch(record.history, trainer.picture() if board else None)
            _report(record, config.epochs, time.monotonic() - began)
    return record


def _report(record: Record, epochs: int, seconds: float) -> None:
    row = record.history[-1]
    numbers = "  ".join(f"{key} {row[key]:.4g}" for key in quantities(row))
    mark = colored("  best", "green") if record.best is row else ""
    tqdm.write(f"epoch {row['epoch']}/{epochs}  {numbers}  ({seconds:.1f} s){mark}")
