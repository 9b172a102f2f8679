"""Films with graded knees -> ROIs and tables, which ``data: {source: graded_rois}`` of an experiment reads.

======================================  ================================================================================
``knees.csv``                           the knees that are there, one a row (`deepknee.roi_row.RoiRow`)
``rois/{kl}/{subject}_V{visit}_{side}.png``  their pictures
``problems.csv``                        knees that are not there, each with its reason, and decisions
``records/{film}.json``                 what is finished, for the next run to go on from
======================================  ================================================================================
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from deepknee.grading_film import ROIS, Locate, RoiRecord, RoiSize, cut_rois, request_of
from deepknee.grading_plan import Plan
from deepknee.roi_row import KNEES, RoiRow
from kneel.imaging.finished import Cutting, cut_films, row_fault, strangers
from kneel.imaging.one_writer import one_writer
from kneel.imaging.preparing import Problem, write_table

PROBLEMS = "problems.csv"
_CODE = tuple(Path(__file__).with_name(f"{name}.py") for name in ("grading_film", "boxes", "roi_row"))


@dataclass(frozen=True)
class GradingSet:
    """What a run came to.

    Attributes
    ----------
    rows : tuple of RoiRow
        Knees whose pictures are there and were read back.
    asked : int
        Number of knees that were asked for: those of `rows` and of `missing`.
    skipped : int
        Number of films that an earlier run had finished.
    problems : tuple of Problem
        By subject.
    """

    rows: tuple[RoiRow, ...]
    asked: int
    skipped: int
    problems: tuple[Problem, ...]

    @property
    def missing(self) -> tuple[Problem, ...]:
        """The problems for which a knee is missing, one each."""
        return tuple(problem for problem in self.problems if problem.kind == "missing")

    @property
    def reasons(self) -> Counter[str]:
        """How many knees are missing, by the first words of the reason."""
        return Counter(problem.problem.split(":")[0] for problem in self.missing)

    @property
    def fixable(self) -> int:
        """Number of knees that are missing for want of a film that can be read, not by what the film shows."""
        return sum(self.reasons[reason] for reason in ("film missing", "film unreadable", "not written"))


def prepare_grading_set(
    out: Path,
    plan: Plan,
    *,
    size: RoiSize | None = None,
    locate: Locate | None = None,
    jobs: int = 1,
    progress: bool = False,
) -> GradingSet:
    """Cut the ROIs of many films; films that are finished are left alone.

    Finished is as in `kneel.imaging.finished.cut_films`; the same is asked for when film, its size and time, grades,
    boxes or networks, and the size of the ROIs are the same.

    Parameters
    ----------
    out : Path
        Folder to write to; made when missing.
    plan : Plan
        What to do.
    size : RoiSize, optional
        Of the ROIs; 140 mm on 350 pixels when not given, as in the 2018 paper.
    locate : Locate, optional
        What finds the knees; without it they are cut around the boxes of the plan.
    jobs : int
        Processes.
    progress : bool
        Show a progress bar.

    Returns
    -------
    GradingSet
        Every knee of the plan is among its rows or has a missing problem of its own.

    Raises
    ------
    RuntimeError
        The knees do not add up: a fault of this program.
    """
    size = size or RoiSize()
    how = Cutting(
        cut=partial(cut_rois, size=size, locate=locate),
        request=partial(request_of, size=size, locate=locate),
        parse=RoiRecord.from_json,
        code=_CODE,
    )
    with one_writer(out):
        records, skipped = cut_films(out, plan.tasks, how, tables=(KNEES, PROBLEMS), jobs=jobs, progress=progress)
        rows: list[RoiRow] = []
        problems = list(plan.problems)
        for task in plan.tasks:
            problems += records[task.name].problems
            rows += records[task.name].rows
        left = strangers(out, [f"{ROIS}/*/*.png"], rows, KNEES)
        rows, lost = _read_back(out, rows)
        rows, twins = _without_copies(rows)
        problems += [*lost, *twins, *left]
        problems.sort(key=lambda problem: (problem.subject_id, problem.side, problem.kind, problem.film))
        done_set = GradingSet(tuple(rows), plan.asked, skipped, tuple(problems))
        if len(done_set.rows) + len(done_set.missing) != plan.asked:
            raise RuntimeError(
                f"{plan.asked} knees asked for, {len(rows)} there and {len(done_set.missing)} listed as missing"
            )
        write_table(out / KNEES, RoiRow, rows)
        write_table(out / PROBLEMS, Problem, problems)
        return done_set


def _read_back(out: Path, rows: Sequence[RoiRow]) -> tuple[list[RoiRow], list[Problem]]:
    """Keep the knees whose pictures are as they were written."""
    good, lost = [], []
    for row in rows:
        fault = row_fault(out, row)
        if fault is None:
            good.append(row)
        else:
            lost.append(_missing(row, f"not written: {fault}"))
    return good, lost


def _without_copies(rows: Sequence[RoiRow]) -> tuple[list[RoiRow], list[Problem]]:
    """Keep one film of those that show the same pixels.

    None is kept when they are said to be of several subjects, or the grades of a knee differ: which is right cannot be
    told, and a subject under two names would be on both sides of a split.
    """
    films: dict[str, dict[str, list[RoiRow]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        films[row.pixels_sha256][row.film_name].append(row)
    why: dict[tuple[str, str], str] = {}  # by film and side
    for copies in films.values():
        if len(copies) == 1:
            continue
        every = [row for one in copies.values() for row in one]
        subjects = {row.subject_id for row in every}
        differ = any(len({row.kl for row in every if row.side == side}) > 1 for side in "LR")
        taken: set[str] = set()
        for row in every:
            if len(subjects) > 1 or differ or row.side in taken:
                others = ", ".join(name for name in copies if name != row.film_name)
                what = (
                    "of other subjects" if len(subjects) > 1 else "with other grades" if differ else "which was taken"
                )
                why[row.film_name, row.side] = f"duplicate: the same picture as {others}, {what}"
            taken.add(row.side)
    knees = [(row, why.get((row.film_name, row.side))) for row in rows]
    return [row for row, reason in knees if reason is None], [_missing(row, reason) for row, reason in knees if reason]


def _missing(row: RoiRow, why: str) -> Problem:
    return Problem(row.subject_id, row.side, row.film_name, "missing", f"{why} (visit {row.visit})")
