"""The snapshots of a run and the ones before them, which stand in for damaged ones."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from kneel.engine.atomic import path_beside, sync_folder, write_atomic
from kneel.engine.snapshot import SnapshotError, load_snapshot, load_training_state, save_snapshot, write_readable

_log = logging.getLogger(__name__)
METRICS = "metrics.csv"


class Stored(NamedTuple):
    """A snapshot that training can go on from.

    Attributes
    ----------
    path
        Where it was.
    weights, meta, tensors, extra
        As from :func:`kneel.engine.snapshot.load_snapshot` and :func:`kneel.engine.snapshot.load_training_state`.
    """

    path: Path
    weights: dict[str, torch.Tensor]
    meta: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    extra: dict[str, Any]


class Generations:
    """
    Two generations of the last and the best snapshot: four files, however long the run.

    When ``last.safetensors`` is of epoch k, ``last.safetensors.previous`` is of epoch k - 1, and
    ``best.safetensors.previous`` is a copy of what was the best then. So a damaged last one is replaced by that pair,
    and a damaged best one by its copy or, when it is of epoch k, out of the last one. (They do not end in .safetensors:
    no search for weights takes them for networks.)

    Parameters
    ----------
    folder
        Folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last, self.best = folder / "last.safetensors", folder / "best.safetensors"
        self.last_before, self.best_before = (
            path.with_name(f"{path.name}.previous") for path in (self.last, self.best)
        )
        self._copied: int | None = None  # epoch of the best that is known to be in best_before

    @property
    def files(self) -> list[Path]:
        """All that a run may have, the one to go on from first."""
        readable = [path.with_suffix(".json") for path in (self.last, self.best)]
        return [self.last, self.last_before, self.best, self.best_before, *readable, self.folder / METRICS]

    def begun(self) -> bool:
        """Say whether there is something to go on from, damaged perhaps."""
        return self.last.exists() or self.last_before.exists()

    def clear(self) -> None:
        """Delete all of it."""
        for path in self.files:
            path.unlink(missing_ok=True)
        self._sweep()

    def newest(self) -> Stored:
        """
        Read the last snapshot, or the one before it when that is damaged; nothing is written.

        Raises
        ------
        SnapshotError
            When none can be read; says why for each.
        """
        problems = []
        for path in (self.last, self.last_before):
            if not path.exists():
                continue
            try:
                stored = Stored(path, *load_snapshot(path), *load_training_state(path))
            except SnapshotError as error:
                problems.append(str(error))
                continue
            if problems:
                _log.warning("%s; going on from the one before it, epoch %d", problems[0], stored.meta["epoch"])
            return stored
        raise SnapshotError(
            f"{'; '.join(problems)}; there is none before it to go on from: train.py --overwrite starts over"
        )

    def find_best(self, epoch: int) -> Path | None:
        """
        Find the undamaged best snapshot of an epoch; nothing is written.

        Parameters
        ----------
        epoch
            Whose weights it must hold, from 1.
        """
        for path in (self.best, self.best_before):
            try:
                if path.exists() and load_snapshot(path)[1].get("epoch") == epoch:
                    return path
            except SnapshotError as error:
                _log.warning(
                    "%s; looking for its copy, which lacks what was stored in it after the training (temperature, sets "
                    "of grades, looks): calibrate it again",
                    error,
                )
        return None

    def restore(self, stored: Stored, best: Mapping[str, torch.Tensor] | None, epoch: int) -> None:
        """
        Bring all files to the state after the stored epoch; what a kill left half-done is done or taken away.

        Parameters
        ----------
        stored
            From `newest`.
        best
            The best weights when the stored epoch is the best one, else None.
        epoch
            The best epoch.
        """
        self._sweep()
        if stored.path != self.last:
            os.replace(stored.path, self.last)
            sync_folder(self.folder)
        write_readable(self.last)
        found = self.find_best(epoch)
        if best is not None and not (found and _same(load_snapshot(found)[0], best)):
            save_snapshot(self.best, best, stored.meta)
        elif found is not None:  # others may have added to its metadata, such as a temperature: it is not written anew
            if found != self.best:
                write_atomic(self.best, found.read_bytes())
            write_readable(self.best)

    def keep_best(self, epoch: int) -> None:
        """
        Copy the best snapshot, before an epoch is written that may replace it.

        Parameters
        ----------
        epoch
            Of the best snapshot; the same one is copied once.
        """
        if self._copied != epoch:
            write_atomic(self.best_before, self.best.read_bytes())
        self._copied = epoch

    def _sweep(self) -> None:
        for path in self.files:
            path_beside(path).unlink(missing_ok=True)


def _same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name].cpu()) for name in one)
