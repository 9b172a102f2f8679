"""The record of a run on disk: its rows, its best and last snapshot, and whether it may be gone on with."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kneel.engine.averaging import WeightAverage, averaged_weights
from kneel.engine.config import TrainingConfig
from kneel.engine.optim import flatten_optimizer, restore_optimizer
from kneel.engine.queue.fence import check_owned
from kneel.engine.same import differences
from kneel.engine.snapshot import (
    SnapshotError,
    code_version,
    load_snapshot,
    load_training_state,
    save_snapshot,
    update_snapshot,
)

Row = dict[str, float]

_FILES = ("last.safetensors", "last.json", "best.safetensors", "best.json", "metrics.csv")


class RunExists(FileExistsError):
    """The folder holds a run already, and nobody said what to do with it."""


class ResumeError(ValueError):
    """The stored run is not the one that is asked for; says what differs."""


def claim_folder(workdir: Path, name: str, *, resume: bool, overwrite: bool) -> Path:
    """
    Check the folder of a run; nothing is written or deleted.

    Parameters
    ----------
    workdir, name
        Folder of all runs, and the folder of this one in it.
    resume, overwrite
        What may be done with a run that is there.

    Returns
    -------
    Path
        ``workdir/name``.

    Raises
    ------
    RunExists
        When a run is there and neither is allowed.
    ValueError
        When both are, or the name is not the plain name of a folder.
    """
    if name in ("", ".", "..") or Path(name).name != name or "\\" in name:
        raise ValueError(f"name = {name!r}: must be the plain name of a folder")
    if resume and overwrite:
        raise ValueError("resume and overwrite: one keeps what the other deletes; choose one")
    folder = workdir / name
    found = [file for file in _FILES if (folder / file).exists()]
    if found and not (resume or overwrite):
        raise RunExists(
            f"{folder} holds a run already ({', '.join(found)}); resume it, overwrite it or rename this one"
        )
    if resume and found and _FILES[0] not in found:
        raise RunExists(f"{folder} holds {', '.join(found)} but no {_FILES[0]} to go on from; overwrite or move it")
    return folder


class Record:
    """
    Rows of the epochs that are over, and their snapshots.

    ``last.safetensors`` is the authority: rows, weights, optimizer. All else is written after it, and again from it
    when a run is resumed, so a kill between two files does no harm.

    Parameters
    ----------
    folder
        Folder of the run, as `claim_folder` returned it.
    config
        Training settings.
    described
        What the task says of itself for its snapshots, JSON.
    processes
        Number of data-parallel processes.
    """

    def __init__(self, folder: Path, config: TrainingConfig, described: Mapping[str, Any], processes: int) -> None:
        self.path_best, self.path_last = folder / "best.safetensors", folder / "last.safetensors"
        self.history: list[Row] = []
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
        choose = min if self._config.mode == "min" else max
        start = self._config.swa_start
        averaged = [
            row for row in self.history if start is not None and row["epoch"] >= start + self._config.swa_frequency
        ]
        return choose(averaged or self.history, key=lambda row: row[self._config.monitor])

    def start(self) -> None:
        """Make the folder and clear it of an earlier run."""
        check_owned()
        self.path_last.parent.mkdir(parents=True, exist_ok=True)
        for file in _FILES:
            (self.path_last.parent / file).unlink(missing_ok=True)

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
        tensors, settings = flatten_optimizer(optimizer)
        if average is not None:
            tensors |= average.flatten()
        rows = [_without_nan(row) for row in self.history]
        extra = {"history": rows, "processes": self._processes, "optimizer": settings}
        extra["scaler"] = scaler.state_dict() if scaler else None
        save_snapshot(self.path_last, module.state_dict(), self._meta_now(), training_state=(tensors, extra))
        if self.best is self.history[-1]:
            judged = averaged_weights(tensors) or module.state_dict()
            save_snapshot(self.path_best, judged, self._meta_now())

    def restore(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any, average: WeightAverage | None = None
    ) -> None:
        """
        Take up the stored run; nothing is written.

        Parameters
        ----------
        module, optimizer, scaler, average
            As for `save`; they get the stored state.

        Raises
        ------
        ResumeError
            When settings differ, naming each with both values, or the best snapshot is gone.
        """
        weights, meta = load_snapshot(self.path_last)
        tensors, extra = load_training_state(self.path_last)
        self._check_same({**meta, "processes": extra["processes"]}, len(extra["history"]))
        module.load_state_dict(weights)
        restore_optimizer(optimizer, tensors, extra["optimizer"])
        if scaler:
            scaler.load_state_dict(extra["scaler"])
        if average is not None and averaged_weights(tensors):
            average.restore(tensors)
        self.history = [{key: math.nan if v is None else v for key, v in row.items()} for row in extra["history"]]
        if self.best is not self.history[-1] and not self.path_best.exists():
            raise ResumeError(f"{self.path_best} is gone: epoch {self.best['epoch']} was the best; start over")

    def repair(self) -> None:
        """Write what the stored epoch wrote, the same bytes: a kill may have come between its files."""
        weights, meta = load_snapshot(self.path_last)
        tensors, extra = load_training_state(self.path_last)
        save_snapshot(self.path_last, weights, meta, training_state=(tensors, extra))
        if self.best is self.history[-1]:
            best = averaged_weights(tensors) or weights
            if _holds(self.path_best, best, meta["epoch"]):
                # others may have added to its metadata, such as a temperature; only its JSON may be missing
                update_snapshot(self.path_best, {})
            else:
                save_snapshot(self.path_best, best, meta)

    def _check_same(self, stored: Mapping[str, Any], done: int) -> None:
        asked = {**self._meta, "processes": self._processes}
        ignored = {"epoch", "metrics", "code"}
        old, new = ({key: value for key, value in tree.items() if key not in ignored} for tree in (stored, asked))
        if differ := differences(old, new, done):
            raise ResumeError(f"{self.path_last} ({done} epochs) is another run: {'; '.join(differ)}")

    def _meta_now(self) -> dict[str, Any]:
        row = _without_nan(self.history[-1])
        return {**self._meta, "epoch": row.pop("epoch"), "metrics": row}


def _without_nan(row: Row) -> dict[str, float | None]:
    """JSON has no NaN; the engine makes every other value finite."""
    return {key: None if math.isnan(value) else value for key, value in row.items()}


def _holds(path: Path, weights: Mapping[str, torch.Tensor], epoch: int) -> bool:
    """Say whether a snapshot can be read and has these weights of this epoch."""
    try:
        stored, meta = load_snapshot(path)
    except (SnapshotError, OSError):
        return False
    same = stored.keys() == weights.keys() and all(torch.equal(stored[name], weights[name]) for name in weights)
    return same and meta.get("epoch") == epoch
