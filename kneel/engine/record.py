"""The record of a run on disk: its rows, its best and last snapshot, and whether it may be gone on with."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kneel.engine.averaging import WeightAverage, averaged_weights
from kneel.engine.config import TrainingConfig
from kneel.engine.generations import Generations, Stored
from kneel.engine.optim import flatten_optimizer, restore_optimizer
from kneel.engine.provenance import code_version
from kneel.engine.queue.fence import check_owned
from kneel.engine.same import differences, other_tables
from kneel.engine.snapshot import save_snapshot

Row = dict[str, float]


class RunExists(FileExistsError):
    """The folder holds a run already, and nobody said what to do with it."""


class ResumeError(ValueError):
    """The stored run is not the one that is asked for; says what differs."""


def run_folder(workdir: Path, name: str) -> Path:
    """
    Name the folder of a run.

    Parameters
    ----------
    workdir, name
        Folder of all runs, and the folder of this one in it.

    Raises
    ------
    ValueError
        When the name is not the plain name of a folder.
    """
    if name in ("", ".", "..") or Path(name).name != name or "\\" in name:
        raise ValueError(f"name = {name!r}: must be the plain name of a folder")
    return workdir / name


def check_free(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """
    Check what is in the folder of a run; nothing is written or deleted.

    Parameters
    ----------
    folder
        From `run_folder`.
    resume, overwrite
        What may be done with a run that is there.

    Raises
    ------
    RunExists
        When a run is there and neither is allowed, or nothing that could be gone on with.
    ValueError
        When both are.
    """
    if resume and overwrite:
        raise ValueError("resume and overwrite: one keeps what the other deletes; choose one")
    files = Generations(folder)
    found = ", ".join(path.name for path in files.files if path.exists())
    if found and not (resume or overwrite):
        how = "--resume goes on with it, --overwrite replaces it, or rename this one"
        raise RunExists(f"{folder} holds a run already ({found}); {how}")
    if resume and found and not files.begun():
        how = "--overwrite replaces it, or move it"
        raise RunExists(f"{folder} holds {found} but no {files.last.name} to go on from; {how}")


class Record:
    """
    Rows of the epochs that are over, and their snapshots.

    ``last.safetensors`` is the authority: rows, weights, optimizer. All else is written after it, and again from it
    when a run is resumed, so a kill between two files does no harm. The ones before are kept (`Generations`).

    Parameters
    ----------
    folder
        Folder of the run.
    config
        Training settings.
    described
        What the task says of itself for its snapshots, JSON.
    processes
        Number of data-parallel processes.
    """

    def __init__(self, folder: Path, config: TrainingConfig, described: Mapping[str, Any], processes: int) -> None:
        self._files = Generations(folder)
        self.path_best, self.path_last = self._files.best, self._files.last
        self.history: list[Row] = []
        self._stored: Stored | None = None
        self._config, self._processes = config, processes
        ours = {"training": config.model_dump(mode="json"), "code": code_version()}
        taken = sorted(set(described) & {*ours, "epoch", "metrics"})
        if taken:
            raise ValueError(f"describe: the key(s) {', '.join(taken)} are the engine's own")
        # By way of JSON, so that what is compared on resuming looks as it does when read back.
        try:
            self._meta: dict[str, Any] = json.loads(json.dumps({**described, **ours}, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(f"describe: must be JSON: {error}") from error

    @property
    def best(self) -> Row:
        """Row of the best epoch, the first of equals; once weights are averaged, of those that judged an average."""
        return self._best_of(self.history)

    def _best_of(self, rows: Sequence[Row]) -> Row:
        choose = min if self._config.mode == "min" else max
        start = self._config.swa_start
        averaged = [row for row in rows if start is not None and row["epoch"] >= start + self._config.swa_frequency]
        return choose(averaged or rows, key=lambda row: row[self._config.monitor])

    def begun(self) -> bool:
        """Say whether a run is there to go on with."""
        return self._files.begun()

    def start(self) -> None:
        """Make the folder and clear it of an earlier run."""
        check_owned()
        self.path_last.parent.mkdir(parents=True, exist_ok=True)
        self._files.clear()

    def save(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any, average: WeightAverage | None = None
    ) -> None:
        """
        Write the last snapshot and, when its epoch is the best, the best.

        The last one holds the weights that training goes on from, the best one the weights that were judged.

        Parameters
        ----------
        module
            The trained module, unwrapped.
        optimizer
            Its optimizer, unwrapped.
        scaler
            Loss scaler of fp16, or None.
        average
            Average of the weights, or None.
        """
        check_owned()
        if len(self.history) > 1:
            self._files.keep_best(int(self._best_of(self.history[:-1])["epoch"]))
        tensors, settings = flatten_optimizer(optimizer)
        if average is not None:
            tensors |= average.flatten()
        rows = [_without_nan(row) for row in self.history]
        extra = {"history": rows, "processes": self._processes, "optimizer": settings}
        extra["scaler"] = scaler.state_dict() if scaler else None
        training = (tensors, extra)
        meta, previous = self._meta_now(), self._files.last_before
        save_snapshot(self.path_last, module.state_dict(), meta, training_state=training, previous=previous)
        if self.best is self.history[-1]:
            judged = averaged_weights(tensors) or module.state_dict()
            save_snapshot(self.path_best, judged, self._meta_now())

    def restore(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: Any,
        average: WeightAverage | None = None,
        *,
        deferring: bool = False,
    ) -> None:
        """
        Take up the stored run; nothing is written.

        Parameters
        ----------
        module, optimizer, scaler, average
            As for `save`; they get the stored state.
        deferring
            Whether the training set can leave its augmentation to the device (`kneel.engine.task.Deferring`).

        Raises
        ------
        ResumeError
            When settings differ, naming each with both values, the best snapshot is gone, or epochs are left that would
            see other pictures.
        SnapshotError
            When the last snapshot and the one before it are damaged.
        """
        stored = self._stored = self._files.newest()
        tensors, extra = stored.tensors, stored.extra
        self._check_same(stored.meta, len(extra["history"]))
        # the same change that brought augment_on drew other noise, and moved pictures with other borders
        if deferring and "augment_on" not in stored.meta["training"] and len(extra["history"]) < self._config.epochs:
            raise ResumeError(
                f"{self.path_last} was begun when pictures were augmented in another way; "
                "train.py --overwrite starts over"
            )
        module.load_state_dict(stored.weights)
        restore_optimizer(optimizer, tensors, extra["optimizer"])
        if scaler:
            scaler.load_state_dict(extra["scaler"])
        if average is not None and averaged_weights(tensors):
            average.restore(tensors)
        self.history = [{key: math.nan if v is None else v for key, v in row.items()} for row in extra["history"]]
        epoch = int(self.best["epoch"])
        if epoch < len(self.history) and self._files.find_best(epoch) is None:
            raise ResumeError(
                f"{self.path_best} is gone or damaged: epoch {epoch} was the best; train.py --overwrite starts over"
            )

    def repair(self) -> None:
        """Write what the stored epoch wrote, the same bytes: a kill may have come between its files."""
        check_owned()
        if self._stored is None:
            raise RuntimeError("repair comes after restore")
        judged = averaged_weights(self._stored.tensors) or self._stored.weights
        self._files.restore(self._stored, judged if self.best is self.history[-1] else None, int(self.best["epoch"]))
        self._stored = None

    def _check_same(self, stored: Mapping[str, Any], done: int) -> None:
        # marks say no more than the split's digests, and runs from before tables were noted go on
        ignored = {"epoch", "metrics", "code", "trained_on", "chosen_on", "tables"}
        old, new = ({key: value for key, value in tree.items() if key not in ignored} for tree in (stored, self._meta))
        differ = differences(old, new, done) + other_tables(stored.get("tables"), self._meta.get("tables", {}))
        if differ:
            raise ResumeError(f"{self.path_last} ({done} epochs) is another run: {'; '.join(differ)}")

    def _meta_now(self) -> dict[str, Any]:
        row = _without_nan(self.history[-1])
        return {**self._meta, "epoch": row.pop("epoch"), "metrics": row}


def _without_nan(row: Row) -> dict[str, float | None]:
    """JSON has no NaN; the engine makes every other value finite."""
    return {key: None if math.isnan(value) else value for key, value in row.items()}
