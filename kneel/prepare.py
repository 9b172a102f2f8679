"""Films with annotated knees -> pictures and tables in KNEEL's layout, which `kneel.sources.KneelSource` reads.

========================================  ============================================================================
``hc_rois/{subject}_{kl}_{side}.png``     the 140 mm ROI of a knee at 0.3 mm, 466 x 466 pixels, left knees mirrored
``lc_films/{subject}.png``                the film of both knees at 1 mm
``bf_landmarks_1_0.3.csv``                the knees that are there, in KNEEL's format (`kneel.imaging.schema`)
``knees.csv``                             one row a knee: its pictures, the film it is from, spacing, checksum
``problems.csv``                          what is missing and what was decided, by subject
``records/{subject}.json``                what is finished, for the next run to go on from
========================================  ============================================================================

Pictures are 8 bit, bright bone, after `kneel.imaging.radiograph.normalize_percentiles` of the whole film.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from kneel.film_task import FilmTask, KneeRow, Problem, Record, request_of
from kneel.imaging.preparing import picture_fault, run_tasks, write_table, write_whole
from kneel.imaging.schema import AnnotationError, KneeAnnotation, write_annotations
from kneel.picture import cut_pictures

HC_FOLDER, LC_FOLDER, RECORDS = "hc_rois", "lc_films", "records"
TABLE, KNEES, PROBLEMS = "bf_landmarks_1_0.3.csv", "knees.csv", "problems.csv"


@dataclass(frozen=True)
class Prepared:
    """What a run came to.

    Attributes
    ----------
    knees : tuple of KneeRow
        Those whose pictures are there and were read back.
    asked : int
        Number of knees that were asked for.
    skipped : int
        Number of subjects that an earlier run had finished.
    problems : tuple of Problem
        By subject.
    """

    knees: tuple[KneeRow, ...]
    asked: int
    skipped: int
    problems: tuple[Problem, ...]

    @property
    def missing(self) -> tuple[Problem, ...]:
        """The problems for which knees are missing."""
        return tuple(problem for problem in self.problems if problem.kind == "missing")


def prepare_films(
    out: Path, tasks: Sequence[FilmTask], earlier: Iterable[Problem] = (), *, jobs: int = 1, progress: bool = False
) -> Prepared:
    """Write the pictures of many films; subjects that are finished are left alone.

    Finished is a subject whose record asks for the same (film, its size and time, spacing, points) and whose pictures
    have the recorded sizes when read back. A broken run leaves neither a record nor a part of a picture.

    Parameters
    ----------
    out : Path
        Folder to write to; made when missing.
    tasks : sequence of FilmTask
        One a subject.
    earlier : iterable of Problem
        What was found before films were opened, to be listed with the rest; a missing knee counts as asked for.
    jobs : int
        Processes.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Prepared
        Every knee that was asked for is among its knees or its missing problems.

    Raises
    ------
    AnnotationError
        Two tasks name one subject, or a subject cannot be part of a file name.
    """
    problems = list(earlier)
    _check_subjects(tasks)
    for folder in (HC_FOLDER, LC_FOLDER, RECORDS):
        (out / folder).mkdir(parents=True, exist_ok=True)
    records = {task.subject_id: record for task in tasks if (record := _finished(out, task))}
    skipped = len(records)
    todo = [task for task in tasks if task.subject_id not in records]
    if todo:  # tables of an earlier run say nothing of the pictures that are cut now; a broken run leaves none
        for table in (TABLE, KNEES, PROBLEMS):
            (out / table).unlink(missing_ok=True)
    done = tqdm(_run(out, todo, jobs), "films", len(tasks), unit="film", initial=skipped, disable=not progress)
    records.update((record.subject_id, record) for record in done)
    knees: list[KneeRow] = []
    annotations: list[KneeAnnotation] = []
    for task in tasks:
        record = records[task.subject_id]
        problems += record.problems
        for row, knee in zip(record.rows, record.knees, strict=True):
            fault = _fault(out, row)
            if fault is None:
                knees.append(row)
                annotations.append(knee)
            else:
                problems.append(Problem(row.subject_id, row.side, row.film, "missing", fault))
    problems += _strangers(out, knees)
    problems.sort(key=lambda problem: (problem.subject_id, problem.side, problem.kind))
    write_annotations(out / TABLE, annotations)
    write_table(out / KNEES, KneeRow, knees)
    write_table(out / PROBLEMS, Problem, problems)
    asked = sum(len(task.knees) for task in tasks) + sum(max(len(p.side), 1) for p in earlier if p.kind == "missing")
    return Prepared(tuple(knees), asked, skipped, tuple(problems))


def _check_subjects(tasks: Sequence[FilmTask]) -> None:
    seen: dict[str, Path] = {}
    for task in tasks:
        if not re.fullmatch(r"[\w-][\w.-]*", task.subject_id, re.ASCII):
            raise AnnotationError(
                f"{task.path}: subject is {task.subject_id!r}, must be letters, digits, _ and -, as it names files"
            )
        if task.subject_id in seen:
            raise AnnotationError(f"subject {task.subject_id} has two films: {seen[task.subject_id]} and {task.path}")
        seen[task.subject_id] = task.path


def _run(out: Path, tasks: Sequence[FilmTask], jobs: int) -> Iterator[Record]:
    """Yield records as they are finished."""
    return run_tasks(partial(_prepare, out), tasks, jobs)


def _prepare(out: Path, task: FilmTask) -> Record:
    """Cut one film and write what came of it; the record last, as it vouches for the pictures."""
    record, pictures = cut_pictures(task, hc=HC_FOLDER, lc=LC_FOLDER)
    for name, data in pictures.items():
        write_whole(out / name, data)
    path = out / RECORDS / f"{task.subject_id}.json"
    if record.rows:
        write_whole(path, json.dumps(record.to_json()).encode())
    else:
        path.unlink(missing_ok=True)
    return record


def _finished(out: Path, task: FilmTask) -> Record | None:
    path = out / RECORDS / f"{task.subject_id}.json"
    try:
        record = Record.from_json(json.loads(path.read_text(encoding="utf-8")))
        same = record.request == json.loads(json.dumps(request_of(task)))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # there is none, or it is of another writing: the film is cut again
    return record if same and not any(_fault(out, row) for row in record.rows) else None


def _fault(out: Path, row: KneeRow) -> str | None:
    """Read a knee's pictures back; say what is wrong."""
    wanted = ((row.roi, row.roi_bytes, row.roi_size), (row.lc, row.lc_bytes, row.lc_size))
    faults = (picture_fault(out, *picture) for picture in wanted)
    return next((fault for fault in faults if fault), None)


def _strangers(out: Path, knees: Sequence[KneeRow]) -> list[Problem]:
    """Name the pictures that no row of the table speaks of, as an earlier run with another table leaves them."""
    known = {name for row in knees for name in (row.roi, row.lc)}
    found = [path for folder in (HC_FOLDER, LC_FOLDER) for path in sorted((out / folder).glob("*.png"))]
    text = "not of this table: left by an earlier run, and not listed in " + TABLE
    names = [path.relative_to(out).as_posix() for path in found]
    return [Problem("", "", name, "note", text) for name in names if name not in known]
