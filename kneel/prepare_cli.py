"""What the scripts that cut data sets share: their options, and what is told at the end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from kneel.film_task import FilmTask, Problem
from kneel.imaging.schema import AnnotationError
from kneel.prepare import PROBLEMS, TABLE, Prepared, prepare_films

GOES_ON = "started again it goes on where it stopped"
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
    if given.jobs < 1:
        print(f"{name}: --jobs is {given.jobs}, must be at least 1", file=sys.stderr)
        return 2
    try:
        done = prepare_films(given.out, tasks, problems, jobs=given.jobs, progress=True)
    except AnnotationError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{name}: {error}; {GOES_ON}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{name}: stopped; {GOES_ON}", file=sys.stderr)
        return 130
    except BrokenProcessPool:
        print(f"{name}: a process was killed, most likely for memory: use fewer --jobs; {GOES_ON}", file=sys.stderr)
        return 1
    tell(done, given.out)
    return 1 if done.missing else 0


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
        who = " ".join(word for word in (problem.subject_id, "+".join(problem.side)) if word)
        where = f"{problem.film}: " if problem.film else ""
        print(f"{problem.kind:8}{who + ': ' if who else ''}{where}{problem.problem}", file=sys.stderr)
    subjects = len({knee.subject_id for knee in done.knees})
    print(
        f"{len(done.knees)} of {done.asked} knees of {subjects} subjects in {out / TABLE}; "
        f"{done.skipped} subjects were finished before"
    )
    if done.problems:
        print(f"missing: {len(done.missing)}, notes: {len(notes)}; all of them in {out / PROBLEMS}")
