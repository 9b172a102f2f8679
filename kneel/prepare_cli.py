"""What the scripts that cut data sets share: their options, and what is told at the end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from kneel.film_task import FilmTask, Problem
from kneel.imaging.schema import AnnotationError
from kneel.prepare import PROBLEMS, TABLE, prepare_films


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
        Exit status: 0 every knee is there, 1 some are missing, 2 nothing was done.
    """
    if given.jobs < 1:
        print(f"{name}: --jobs is {given.jobs}, must be at least 1", file=sys.stderr)
        return 2
    try:
        done = prepare_films(given.out, tasks, problems, jobs=given.jobs, progress=True)
    except (AnnotationError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except BrokenProcessPool:
        print(
            f"{name}: a process was killed, most likely for memory: "
            "start again with fewer --jobs; what is finished stays",
            file=sys.stderr,
        )
        return 1
    for problem in done.problems:
        who = " ".join(word for word in (problem.subject_id, "+".join(problem.side)) if word)
        where = f"{problem.film}: " if problem.film else ""
        print(f"{problem.kind:8}{who + ': ' if who else ''}{where}{problem.problem}", file=sys.stderr)
    subjects = len({knee.subject_id for knee in done.knees})
    print(
        f"{len(done.knees)} of {done.asked} knees of {subjects} subjects in {given.out / TABLE}; "
        f"{done.skipped} subjects were finished before"
    )
    if done.problems:
        notes = len(done.problems) - len(done.missing)
        print(f"{len(done.missing)} missing, {notes} notes: {given.out / PROBLEMS}")
    return 1 if done.missing else 0
