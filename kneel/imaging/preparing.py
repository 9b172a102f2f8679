"""What all preparation of data sets from downloads shares: processes, files that are whole or not there, problems.

A preparation cuts one film after the other into pictures, remembers each in a record so that a broken run goes on where
it stopped, and lists everything that is missing, with the reason, in a table of `Problem`.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

import cv2
import numpy as np

from kneel.imaging.one_writer import FolderBusy
from kneel.imaging.radiograph import Radiograph
from kneel.imaging.writing import write_rows

GOES_ON = "started again it goes on where it stopped"

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Problem:
    """Something the user must know.

    Attributes
    ----------
    subject_id, side, film : str
        Whom and what it is about; side ``"LR"`` is both knees, the empty string neither.
    kind : {"missing", "note"}
        ``missing``: the knees are not in the data set. ``note``: a decision.
    problem : str
        What is wrong, and what would be right.
    """

    subject_id: str
    side: str
    film: str
    kind: Literal["missing", "note"]
    problem: str


DARK_BONE = "its knees have dark bone, whatever the header says: it was inverted"


def orientation_remarks(film: Radiograph) -> list[str]:
    """Say that a film does not stand upright by its header, and what to do; nothing of one that does."""
    if not film.rows_reversed and film.on_side is None:
        return []
    lies = f"PatientOrientation says that the film lies {'upside down' if film.rows_reversed else 'on its side'}"
    return [f"{lies}; it was taken as it is stored: look at its pictures, and leave it out if its knees lie so"]


def run_tasks(
    work: Callable[[Task], Result], tasks: Sequence[Task], jobs: int, *, ordered: bool = False
) -> Iterator[Result]:
    """Do tasks one after the other, or in several processes of one OpenCV thread each.

    Parameters
    ----------
    work : callable
        Must be picklable when `jobs` is more than 1.
    tasks : sequence
        What to call it with.
    jobs : int
        Processes.
    ordered : bool
        Yield in the order of the tasks.

    Yields
    ------
    object
        One result a task, as they are finished where not `ordered`.
    """
    if jobs == 1:
        yield from map(work, tasks)
        return
    # spawn: forking a process that holds OpenCV's threads can deadlock
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker) as pool:
        pending = [pool.submit(work, task) for task in tasks]
        try:
            yield from (future.result() for future in (pending if ordered else as_completed(pending)))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _start_worker() -> None:
    """One OpenCV thread a process; Ctrl-C is for the process that started them."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def write_table(path: Path, kind: type, rows: Sequence[Any]) -> None:
    """Write dataclasses as a CSV table, whole or not at all.

    Parameters
    ----------
    path : Path
        The table.
    kind : type
        The dataclass; its fields are the columns.
    rows : sequence of `kind`
        One row each.
    """
    write_rows(path, [[field.name for field in fields(kind)], *map(astuple, rows)])


def encode_png(picture: np.ndarray) -> bytes:
    """Encode a grey picture, or raise OSError.

    Parameters
    ----------
    picture : ndarray, shape (H, W), uint8
        The picture.
    """
    written, data = cv2.imencode(".png", picture)
    if not written:
        raise OSError(f"a picture of {picture.shape} cannot be made a PNG")
    return data.tobytes()


def picture_fault(root: Path, name: str, length: int, size: str) -> str | None:
    """Read a written picture back; say what is wrong.

    Parameters
    ----------
    root : Path
        Folder that the name starts from.
    name : str
        The picture.
    length : int
        Its bytes.
    size : str
        ``{width}x{height}`` in pixels.

    Returns
    -------
    str or None
        None when all is as it was written.
    """
    path = root / name
    if not path.is_file():
        return f"{name}: not there after writing"
    data = path.read_bytes()
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if len(data) == length else None
    if picture is None or picture.dtype != np.uint8 or f"{picture.shape[1]}x{picture.shape[0]}" != size:
        return f"{name}: {len(data)} bytes, must be an 8 bit picture of {size} pixels in {length} bytes"
    return None


def exit_status(name: str, jobs: int, prepare: Callable[[], bool], refusals: tuple[type[Exception], ...]) -> int:
    """Run a preparation and turn what can go wrong into one line on stderr.

    Parameters
    ----------
    name : str
        Of the script.
    jobs : int
        Number of processes that was asked for.
    prepare : callable
        Returns whether all is there.
    refusals : tuple of exception types
        Errors that say that nothing can be done with what was given.

    Returns
    -------
    int
        Exit status: 0 all is there, 1 something is missing, 2 nothing was done, 130 stopped by Ctrl-C.
    """
    if jobs < 1:
        print(f"{name}: --jobs is {jobs}, must be at least 1", file=sys.stderr)
        return 2
    wrong: tuple[type[Exception], ...] = (FolderBusy, *refusals)
    try:
        return 0 if prepare() else 1
    except wrong as error:
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


def tell_problem(problem: Problem) -> None:
    """Print one line on stderr: kind, whom it is about, the film, and what is wrong.

    Parameters
    ----------
    problem : Problem
        What to tell.
    """
    who = " ".join(word for word in (problem.subject_id, "+".join(problem.side)) if word)
    where = f"{problem.film}: " if problem.film else ""
    print(f"{problem.kind:8}{who + ': ' if who else ''}{where}{problem.problem}", file=sys.stderr)
