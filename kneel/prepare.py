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

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kneel.film_task import FilmTask, KneeRow, Problem, Record, request_of
from kneel.imaging.finished import Cutting, cut_films, row_fault, strangers
from kneel.imaging.one_writer import one_writer
from kneel.imaging.preparing import write_table
from kneel.imaging.schema import AnnotationError, KneeAnnotation, write_annotations
from kneel.picture import cut_pictures

HC_FOLDER, LC_FOLDER = "hc_rois", "lc_films"
TABLE, KNEES, PROBLEMS = "bf_landmarks_1_0.3.csv", "knees.csv", "problems.csv"
_NAMED = 10
_HERE = Path(__file__).parent
_HOW = Cutting(
    cut=partial(cut_pictures, hc=HC_FOLDER, lc=LC_FOLDER),
    request=request_of,
    parse=Record.from_json,
    code=(_HERE / "picture.py", _HERE / "film_task.py"),
)


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

    Finished is as in `kneel.imaging.finished.cut_films`; the same is asked for when film, its size and time, spacing
    and points are the same.

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
    FolderBusy
        Another process writes into `out`.
    """
    problems = list(earlier)
    _check_subjects(tasks)
    with one_writer(out):
        records, skipped = cut_films(out, tasks, _HOW, tables=(TABLE, KNEES, PROBLEMS), jobs=jobs, progress=progress)
        problems += _patients(records)
        knees: list[KneeRow] = []
        annotations: list[KneeAnnotation] = []
        for task in tasks:
            record = records[task.subject_id]
            problems += record.problems
            for row, knee in zip(record.rows, record.knees, strict=True):
                fault = row_fault(out, row)
                if fault is None:
                    knees.append(row)
                    annotations.append(knee)
                else:
                    problems.append(Problem(row.subject_id, row.side, row.film, "missing", fault))
        problems += strangers(out, (f"{HC_FOLDER}/*.png", f"{LC_FOLDER}/*.png"), knees, TABLE)
        why = _copies(records)
        problems += [
            Problem(row.subject_id, row.side, row.film, "missing", why[row.subject_id])
            for row in knees
            if row.subject_id in why
        ]
        knees = [row for row in knees if row.subject_id not in why]
        annotations = [knee for knee in annotations if knee.subject_id not in why]
        problems.sort(key=lambda problem: (problem.subject_id, problem.side, problem.kind))
        write_annotations(out / TABLE, annotations)
        write_table(out / KNEES, KneeRow, knees)
        write_table(out / PROBLEMS, Problem, problems)
        asked = sum(len(task.knees) for task in tasks) + sum(
            max(len(p.side), 1) for p in earlier if p.kind == "missing"
        )
        return Prepared(tuple(knees), asked, skipped, tuple(problems))


def _copies(records: Mapping[str, Record]) -> dict[str, str]:
    """Say by subject that its film is another one's too: under two names one knee is trained on and validated on.

    As in `deepknee.grading_set` none is kept, for which name is right cannot be told.
    """
    subjects: dict[str, list[str]] = defaultdict(list)
    for subject, record in sorted(records.items()):  # processes end in any order
        if record.rows:
            subjects[record.pixels_sha256].append(subject)
    why = "duplicate: the same picture as the film of {}; leave it to the one whose it is"
    return {
        one: why.format(", ".join(other for other in several if other != one))
        for several in subjects.values()
        if len(several) > 1
        for one in several
    }


def _patients(records: Mapping[str, Record]) -> list[Problem]:
    """Note the PatientIDs that are not the subject: those of several subjects first, once each.

    They may be one person, who would be in training and in validation; or what an anonymiser wrote into every film.
    """
    subjects: dict[str, list[str]] = defaultdict(list)
    for subject, record in sorted(records.items()):
        if record.patient_id and record.rows:
            subjects[record.patient_id].append(subject)
    shared, single = [], []
    for patient, names in subjects.items():
        if len(names) > 1:
            few = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
            text = (
                f"PatientID is {patient!r} in the films of {len(names)} subjects: {few}. Unless an anonymiser wrote it "
                "they show one person, who would be in training and in validation: give these films one subject (in "
                "VIA the file attribute subject), of whom one film is taken"
            )
            shared.append(Problem("", "", "", "note", text))
        elif patient != names[0]:
            film = records[names[0]].rows[0].film
            single.append(Problem(names[0], "", film, "note", f"PatientID is {patient!r}"))
    return [*shared, *single]


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
