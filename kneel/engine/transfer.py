"""Trainings that start from the weights of another one: which file that is, and whether it may be used."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from kneel.engine.folds import LeakageError
from kneel.engine.generations import Generations
from kneel.engine.snapshot import load_snapshot


class RunUnfinished(ValueError):
    """A run that something else needs is not complete; says where it is."""


def finished_best(folder: Path) -> Path:
    """
    Name the best snapshot of a run that is complete, for another one to start from.

    Parameters
    ----------
    folder
        The run's folder. Where there is a best snapshot alone, copied from elsewhere, nothing tells that it is not.

    Raises
    ------
    FileNotFoundError
        When there is none.
    RunUnfinished
        When epochs are left to train.
    SnapshotError
        When the last snapshot and the one before it are damaged.
    """
    files = Generations(folder)
    if files.begun():
        meta = files.newest().meta
        done, epochs = meta["epoch"], meta["training"]["epochs"]
        if done < epochs:
            raise RunUnfinished(f"{folder} is at epoch {done} of {epochs}: finish it first (--resume)")
    if not files.best.is_file():
        raise FileNotFoundError(f"{files.best}: no such file")
    return files.best


def start_of(name: str, transfer: str | None, folder: Path, fold: int) -> Path | None:
    """
    Name the snapshot that an experiment starts from.

    Parameters
    ----------
    name
        The experiment.
    transfer
        The experiment that it starts from, or None.
    folder
        Where all runs lie.
    fold
        Held-out fold, the same of both.

    Returns
    -------
    Path or None
        None for an experiment that starts from nothing.

    Raises
    ------
    FileNotFoundError, RunUnfinished, SnapshotError
        As from `finished_best`; says what to train first.
    """
    if transfer is None:
        return None
    try:
        return finished_best(folder / transfer / f"fold_{fold}")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; train {transfer} first, {name} starts from it") from None


def weights_of_split(path: Path, split: Mapping[str, str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """
    Load a snapshot whose network saw no subject that the new one is judged by.

    Parameters
    ----------
    path
        The snapshot.
    split
        Digests of the subjects of the new training, from `kneel.engine.folds.split_digest`.

    Returns
    -------
    weights, meta
        As from `kneel.engine.snapshot.load_snapshot`.

    Raises
    ------
    LeakageError
        When it was trained on another split.
    SnapshotError
        When it cannot be read.
    """
    weights, meta = load_snapshot(path)
    if meta.get("split") != split:
        raise LeakageError(f"{path}: trained on another split of subjects; needs the same data, folds and seed")
    return weights, meta


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of weights alone: calibrating a training later makes no other start of it."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()
