"""Which networks read a film: folders of snapshots are searched, and refused rather than guessed about."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from deepknee.one_experiment import why_not_one
from kneel.engine.snapshot import SnapshotError, load_metadata

TASKS = {"lc": "joint centres (lc)", "hc": "landmarks (hc)", "kl": "KL grades (kl)"}
PRETRAINED = "pretrained"
DEMO_RUNS = ("demo", "workdir")  # where `make demo` and run_experiments.sh put what they train
HOW_TO_GET = "train some with `make demo`, or name a folder of snapshots with --weights"


class WeightsError(ValueError):
    """Weights that are missing, or of which it is not clear which to use; says how to get or choose them."""


class UnfinishedError(WeightsError):
    """A training that is not complete; says where, and at which epoch it is."""


@dataclass(frozen=True)
class Snapshot:
    """One network on disk.

    Attributes
    ----------
    path : Path
        The file.
    task : str
        ``"lc"``, ``"hc"`` or ``"kl"``.
    experiment : str
        Name of the ensemble that its experiment belongs to, else of the experiment: what its metadata say, else the
        folder above ``fold_*``, else its own name without the fold.
    fold : int or None
        Held-out fold of the training.
    member : str or None
        Name of the training within the ensemble, such as that of one seed; None where the experiment is not part of
        one.
    settings : mapping
        The experiment, as resolved when it was trained.
    sha256 : str
        Of the file.
    """

    path: Path
    task: str
    experiment: str
    fold: int | None
    settings: Any
    sha256: str
    member: str | None = None


@dataclass(frozen=True)
class Weights:
    """The networks of one reader: an ensemble for each task, all of one experiment.

    Attributes
    ----------
    snapshots : tuple of Snapshot
        In the order of tasks, then folds.
    """

    snapshots: tuple[Snapshot, ...]

    def paths(self, task: str) -> list[Path]:
        """Return the files of a task.

        Parameters
        ----------
        task : str
            ``"lc"``, ``"hc"`` or ``"kl"``.
        """
        return [snapshot.path for snapshot in self.snapshots if snapshot.task == task]

    def absolute(self) -> Weights:
        """Return the same with absolute paths, for a process in another folder."""
        return Weights(tuple(replace(snapshot, path=snapshot.path.absolute()) for snapshot in self.snapshots))

    @cached_property
    def id(self) -> str:
        """Sixteen hexadecimal digits that change with any of the networks, and with nothing else."""
        parts = sorted(f"{snapshot.task} {snapshot.sha256}" for snapshot in self.snapshots)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        """Return experiment and files (name and sha256) of every task, as JSON."""
        return {
            task: {
                "experiment": next(s.experiment for s in self.snapshots if s.task == task),
                "files": [
                    {"file": "/".join(s.path.parts[-3:]), "sha256": s.sha256} for s in self.snapshots if s.task == task
                ],
            }
            for task in TASKS
        }

    def __str__(self) -> str:
        lines = (f"{task} {what['experiment']} x {len(what['files'])}" for task, what in self.describe().items())
        return f"{', '.join(lines)} (weights {self.id})"


def find_weights(
    folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None, tasks: Iterable[str] = TASKS
) -> Weights:
    """Find the networks to read with.

    Parameters
    ----------
    folders : path_like or sequence of path_like, optional
        Folders (or files) of snapshots, searched all the way down; each must hold one that is needed. Without them:
        ``pretrained/`` when it holds snapshots, else the newest of the complete demo runs (``demo/``, ``workdir/``);
        each in the current folder, then in the checkout that the package runs from.
    tasks : iterable of str
        Those that are needed; snapshots of others are passed over.

    Returns
    -------
    Weights
        One experiment for each task, with all of its folds, or one ensemble of experiments, with all of its members.

    Raises
    ------
    WeightsError
        None found, a named place that is not there or holds none that is needed, a task without weights, a
        ``.safetensors`` file that is damaged or no snapshot, a training of a task that is needed and not complete (its
        file itself may be named), or two experiments of one task.
    """
    tasks = tuple(tasks)
    if folders is not None:
        named = [folders] if isinstance(folders, str | os.PathLike) else list(folders)
        return _choose(_read_all(map(Path, named), tasks), ", ".join(os.fspath(place) for place in named), tasks)
    roots = list(dict.fromkeys([Path.cwd(), Path(__file__).resolve().parents[1]]))
    for root in roots:
        released = _read([root / PRETRAINED], tasks)
        if released:
            return _choose(released, str(root / PRETRAINED), tasks)
    runs: dict[Path, list[Snapshot]] = {}
    unfinished: list[UnfinishedError] = []
    for place in (root / name for root in roots for name in DEMO_RUNS):
        try:
            runs[place] = _read([place], tasks)
        except UnfinishedError as error:  # another place may have a complete one
            unfinished.append(error)
    complete = {place: run for place, run in runs.items() if {s.task for s in run} >= set(tasks)}
    if unfinished and not complete:
        raise unfinished[0]
    started = complete or {place: run for place, run in runs.items() if run}  # refused below, by what they lack
    if not started:
        looked = ", ".join(str(root / name) for root in roots for name in (PRETRAINED, *DEMO_RUNS))
        raise WeightsError(f"no weights found in {looked}: {HOW_TO_GET}")
    newest = max(started, key=lambda place: _time(started[place]))
    return _choose(started[newest], str(newest), tasks)


def find_graders(places: Sequence[Path] | None = None) -> tuple[str, list[Path]]:
    """Find an ensemble of grading networks, without the networks that find knees.

    Parameters
    ----------
    places : sequence of Path, optional
        Files: all of them are the ensemble, of whatever experiments. Or folders, as for `find_weights`.

    Returns
    -------
    name : str
        Of the experiment; of all, where files of several were named.
    paths : list of Path
        The snapshots.

    Raises
    ------
    WeightsError
        As `find_weights`.
    """
    if places and all(place.is_file() for place in places):
        chosen = [_describe(place) for place in places]
    else:
        chosen = list(find_weights(places, tasks=("kl",)).snapshots)
    return " + ".join(dict.fromkeys(snapshot.experiment for snapshot in chosen)), [each.path for each in chosen]


def _read(places: Iterable[Path], tasks: Sequence[str]) -> list[Snapshot]:
    """Read what describes the snapshots at some places; of a training, the best epoch's; those of `tasks` complete."""
    found: dict[str, Snapshot] = {}
    for place in places:
        if not place.exists():
            continue
        files = [place] if place.is_file() else sorted(place.rglob("*.safetensors"))
        for path in files:
            if path.name == "last.safetensors" and path != place:
                _check_complete(path, tasks)
                continue
            snapshot = _describe(path)
            if snapshot.task in TASKS:
                found.setdefault(snapshot.sha256, snapshot)  # a copy adds nothing to an ensemble
    return list(found.values())


def _read_all(places: Iterable[Path], tasks: Sequence[str]) -> list[Snapshot]:
    """Read the snapshots at places that somebody named: each must have something to give."""
    found: dict[str, Snapshot] = {}
    for place in places:
        if not place.exists():
            raise WeightsError(f"{place}: no such file or folder of snapshots")
        here = _read([place], tasks)
        if not any(snapshot.task in tasks for snapshot in here):
            raise WeightsError(f"{place}: no weights for {', '.join(TASKS[task] for task in tasks)}: {HOW_TO_GET}")
        found = {snapshot.sha256: snapshot for snapshot in here} | found
    return list(found.values())


def _check_complete(last: Path, tasks: Sequence[str]) -> None:
    """Refuse a training of these tasks with epochs to go, or one that was stopped before its best epoch was written."""
    best = last.with_name("best.safetensors")
    try:
        meta = _metadata(last)[0]
    except WeightsError:
        if best.is_file():
            return  # a damaged last snapshot keeps nobody from reading with the best one, which is checked by itself
        raise
    if meta.get("task") not in tasks:
        return
    done, epochs = meta.get("epoch"), (meta.get("training") or {}).get("epochs")
    if not best.is_file():
        what = f"has {last.name} but no {best.name}"
    elif done is not None and epochs is not None and done < epochs:
        what = f"is at epoch {done} of {epochs}"
    else:
        return
    raise UnfinishedError(f"{last.parent} {what}: finish it first (train.py --resume), or name one of its files itself")


def _metadata(path: Path) -> tuple[dict[str, Any], str]:
    try:
        return load_metadata(path)
    except SnapshotError as error:
        raise WeightsError(str(error)) from error


def _describe(path: Path) -> Snapshot:
    meta, digest = _metadata(path)
    name = meta.get("name")
    if not name and re.fullmatch(r"fold_?\d+", path.parent.name):
        name = path.parent.parent.name
    if not name:
        name = re.sub(r"[_-]?fold_?\d+$", "", path.stem) or path.stem
    settings = meta.get("experiment")
    ensemble = settings.get("ensemble") if isinstance(settings, dict) else None
    member = str(name) if ensemble else None
    return Snapshot(
        path, str(meta.get("task")), str(ensemble or name), meta.get("fold"), settings, digest, member=member
    )


def _choose(snapshots: list[Snapshot], where: str, tasks: Iterable[str]) -> Weights:
    """Take all, if they are one experiment for each task."""
    chosen: list[Snapshot] = []
    for task, words in ((task, TASKS[task]) for task in tasks):
        mine = [snapshot for snapshot in snapshots if snapshot.task == task]
        if not mine:
            raise WeightsError(f"{where}: no weights for {words}: {HOW_TO_GET}")
        fault = why_not_one(mine, words)
        if fault:
            raise WeightsError(
                f"{where}: {fault}; choose by naming the folders of one each: --weights A --weights B ..."
            )
        chosen += sorted(mine, key=_order)
    return Weights(tuple(chosen))


def _order(snapshot: Snapshot) -> tuple[str, float, str]:
    """Members by name, then folds, the whole before none."""
    fold = float("inf") if snapshot.fold is None else snapshot.fold
    return snapshot.member or "", fold, str(snapshot.path)


def _time(snapshots: list[Snapshot]) -> int:
    """When the last of them was written."""
    return max(snapshot.path.stat().st_mtime_ns for snapshot in snapshots)
