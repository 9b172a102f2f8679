"""What the scripts that cut data sets share: their options, and what is told at the end."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from kneel.film_task import FilmTask, Problem
from kneel.imaging.preparing import exit_status, tell_problem
from kneel.imaging.schema import AnnotationError
from kneel.prepare import PROBLEMS, TABLE, Prepared, prepare_films

NOTES_SHOWN = 20  # on the terminal


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --out and --jobs.

    Parameters
    ----------
    parser : ArgumentParser
        Changed in place.
    """
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the data set goes")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: %(default)s)")


def run(name: str, given: argparse.Namespace, tasks: Sequence[FilmTask], problems: Sequence[Problem]) -> int:
    """Cut the films and tell what came of it.

    Parameters
    ----------
    name : str
        Of the script.
    given : Namespace
        With out and jobs.
    tasks : sequence of FilmTask
        What to cut.
    problems : sequence of Problem
        What is known to be missing already.

    Returns
    -------
    int
        Exit status: 0 every knee is there, 1 some are missing, 2 nothing was done, 130 stopped by Ctrl-C.
    """

    def prepare() -> bool:
        done = prepare_films(given.out, tasks, problems, jobs=given.jobs, progress=True)
        tell(done, given.out)
        return not done.missing

    return exit_status(name, given.jobs, prepare, (AnnotationError,))


def tell(done: Prepared, out: Path) -> None:
    """Say what is missing, subject by subject, the first notes, and how many knees there are.

    Parameters
    ----------
    done : Prepared
        What a run came to.
    out : Path
        Where it wrote to.
    """
    notes = [problem for problem in done.problems if problem.kind == "note"]
    for problem in [*done.missing, *notes[:NOTES_SHOWN]]:
        tell_problem(problem)
    subjects = len({knee.subject_id for knee in done.knees})
    print(
        f"{len(done.knees)} of {done.asked} knees of {subjects} subjects in {out / TABLE}; "
        f"{done.skipped} subjects were finished before"
    )
    if done.problems:
        print(f"missing: {len(done.missing)}, notes: {len(notes)}; all of them in {out / PROBLEMS}")
