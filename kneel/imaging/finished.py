"""Films cut one after the other into pictures, each remembered in a record, so that a run goes on where it stopped.

The record of a film is ``records/{name}.json``. It vouches for the film's pictures as long as the same is asked for by
the same code; it is written last.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from tqdm import tqdm

from kneel.imaging.preparing import Problem, picture_fault, run_tasks
from kneel.imaging.writing import write_whole

RECORDS = "records"


class SameName(ValueError):
    """Two films whose records would have one name."""


class CutKnee(Protocol):
    """A row of the table of knees."""

    @property
    def pictures(self) -> tuple[tuple[str, int, str], ...]:
        """Name, bytes and ``{width}x{height}`` of each picture."""


class FilmRecord(Protocol):
    """What came of a film; `request` is empty where it could not be read."""

    @property
    def request(self) -> dict[str, Any]:
        """What was asked, as JSON."""

    @property
    def rows(self) -> Sequence[CutKnee]:
        """The knees that were cut."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON."""


class NamedTask(Protocol):
    """What to cut from a film."""

    @property
    def name(self) -> str:
        """Of the film's record: unlike that of any other task, and part of a file name."""


Task = TypeVar("Task", bound=NamedTask)
Record = TypeVar("Record", bound=FilmRecord)


@dataclass(frozen=True)
class Cutting(Generic[Task, Record]):
    """How films become pictures.

    Attributes
    ----------
    cut : callable
        From a task to its record and its pictures by name. Must be picklable to be used by several processes.
    request : callable
        Describes a task and the film as it lies there, JSON; raises OSError where there is no film.
    parse : callable
        Rebuilds a record from what its `to_json` gave; KeyError, TypeError or ValueError when it is none.
    code : tuple of Path
        Source files that decide what is cut, besides those of `kneel.imaging`.
    """

    cut: Callable[[Task], tuple[Record, dict[str, bytes]]]
    request: Callable[[Task], dict[str, Any]]
    parse: Callable[[dict[str, Any]], Record]
    code: tuple[Path, ...]


def cut_films(
    out: Path,
    tasks: Sequence[Task],
    how: Cutting[Task, Record],
    *,
    tables: Iterable[str],
    jobs: int = 1,
    progress: bool = False,
) -> tuple[dict[str, Record], int]:
    """Write the pictures of many films; films that are finished are left alone.

    Finished is a film whose record was written by the same code, asks for the same, and whose pictures have the
    recorded sizes when read back. A broken run leaves neither a record nor a part of a picture. No other process may
    write into `out` meanwhile (`kneel.imaging.one_writer`).

    Parameters
    ----------
    out : Path
        Folder to write to; made when missing.
    tasks : sequence
        One a film.
    how : Cutting
        What to do with them.
    tables : iterable of str
        Files in `out` that speak of pictures: taken away before any is cut, so that a broken run leaves none.
    jobs : int
        Processes.
    progress : bool
        Show a progress bar.

    Returns
    -------
    records : dict
        Of every task, by its name.
    skipped : int
        Number of tasks that an earlier run had finished.

    Raises
    ------
    SameName
        Two tasks have one name: one's record would vouch for the pictures of the other.
    """
    times = Counter(task.name for task in tasks)
    if twice := [name for name, count in times.items() if count > 1]:
        raise SameName(
            f"{len(twice)} names are of several films, as {twice[0]} (where folders are joined by _): rename one"
        )
    (out / RECORDS).mkdir(parents=True, exist_ok=True)
    code = code_digest([Path(__file__).parent, *how.code])
    records = {task.name: record for task in tasks if (record := _finished(out, task, how, code)) is not None}
    skipped = len(records)
    todo = [task for task in tasks if task.name not in records]
    if todo:  # tables of an earlier run say nothing of the pictures that are cut now
        for table in tables:
            (out / table).unlink(missing_ok=True)
    done = run_tasks(partial(_cut_one, out, how.cut, code), todo, jobs)
    records.update(tqdm(done, "films", len(tasks), unit="film", initial=skipped, disable=not progress))
    return records, skipped


def row_fault(out: Path, row: CutKnee) -> str | None:
    """Read a knee's pictures back.

    Parameters
    ----------
    out : Path
        Folder that their names start from.
    row : CutKnee
        The knee.

    Returns
    -------
    str or None
        What is wrong; None when all is as it was written.
    """
    faults = (picture_fault(out, *picture) for picture in row.pictures)
    return next((fault for fault in faults if fault), None)


def strangers(out: Path, patterns: Iterable[str], known: Iterable[CutKnee], table: str) -> list[Problem]:
    """Name the pictures that no row speaks of, as an earlier run that was asked for something else leaves them.

    Parameters
    ----------
    out : Path
        The folder.
    patterns : iterable of str
        Where pictures lie in it, such as ``rois/*.png``.
    known : iterable of CutKnee
        The rows.
    table : str
        Name of their table.

    Returns
    -------
    list of Problem
        A note each, by pattern, then by name.
    """
    names = {name for row in known for name, _, _ in row.pictures}
    found = [path.relative_to(out).as_posix() for pattern in patterns for path in sorted(out.glob(pattern))]
    text = f"left by an earlier run, and not listed in {table}"
    return [Problem("", "", name, "note", text) for name in found if name not in names]


def code_digest(places: Sequence[Path]) -> str:
    """Describe source files by their content.

    Parameters
    ----------
    places : sequence of Path
        Files, or folders of them.

    Returns
    -------
    str
        Another one where a file has another name or content.
    """
    files = [file for place in places for file in (sorted(place.rglob("*.py")) if place.is_dir() else [place])]
    digests = [[file.name, hashlib.sha256(file.read_bytes()).hexdigest()] for file in files]
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def _cut_one(
    out: Path, cut: Callable[[Task], tuple[Record, dict[str, bytes]]], code: str, task: Task
) -> tuple[str, Record]:
    """Cut one film and write what came of it; the record last, as it vouches for the pictures."""
    record, pictures = cut(task)
    for name, data in pictures.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        write_whole(out / name, data)
    path = out / RECORDS / f"{task.name}.json"
    if record.request:
        write_whole(path, json.dumps({"code": code, **record.to_json()}).encode())
    else:
        path.unlink(missing_ok=True)
    return task.name, record


def _finished(out: Path, task: Task, how: Cutting[Task, Record], code: str) -> Record | None:
    try:
        stored = json.loads((out / RECORDS / f"{task.name}.json").read_text(encoding="utf-8"))
        same = stored.pop("code", None) == code and stored["request"] == json.loads(json.dumps(how.request(task)))
        record = how.parse(stored)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # there is none, or it is of another writing: the film is cut again
    return record if same and not any(row_fault(out, row) for row in record.rows) else None
