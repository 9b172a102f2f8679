"""Many films: each is read on its own, in this process (one after another or overlapped) or in several.

None can stop the rest.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple, TypeVar

import cv2
import torch
from tqdm import tqdm

from deepknee.films import Film
from deepknee.folder import OutputFolder
from deepknee.output import CRASHED, no_knee, reason_of, stamp
from deepknee.pipeline import Reader
from kneel.imaging.one_writer import one_writer

T = TypeVar("T")
MakeReader = Callable[[], Reader]  # is sent to worker processes: a partial of a function, no lambda


class Overlap(NamedTuple):
    """How the films of one process overlap: some are decoded, drawn and written while the networks read another.

    Attributes
    ----------
    films : int
        At a time; 1 reads one after another.
    pictures : int
        Of different films that pass the networks together; see `deepknee.pipeline.Reader.shared`.
    """

    films: int = 1
    pictures: int = 1

    @classmethod
    def on(cls, device: str) -> Overlap:
        """Say what suits a device: a GPU waits for films and likes large batches, a CPU's cores are busy anyway."""
        return cls(8, 32) if device == "cuda" else cls(2, 1)


@dataclass(frozen=True)
class Summary:
    """What became of the films that were asked for.

    Attributes
    ----------
    films : int
        How many were asked for.
    earlier : int
        How many of them were done before.
    read : int
        How many are read now, earlier or in this run.
    knees : int
        How many knees were found on them.
    failed : int
        How many films could not be read, or showed no knee.
    repeated : int
        How many films of the tables are the same picture as another.
    interrupted : bool
        Whether the user stopped it; the rest was not tried.
    """

    films: int
    earlier: int
    read: int
    knees: int
    failed: int
    repeated: int
    interrupted: bool


def read_films(
    films: Sequence[Film],
    others: Sequence[tuple[Film, str]],
    folder: OutputFolder,
    make_reader: MakeReader,
    *,
    jobs: int = 1,
    overlap: Overlap = Overlap(),  # noqa: B008 (immutable)
    overwrite: bool = False,
) -> Summary:
    """Read films that are not done yet, and write the tables.

    Parameters
    ----------
    films : sequence of Film
        What to read.
    others : sequence of (Film, str)
        Files that are no films, and why; only listed.
    folder : OutputFolder
        Where outputs go.
    make_reader : callable
        Loads the networks, once in every process that reads.
    jobs : int
        Processes; 1 reads in this one.
    overlap : Overlap
        Of the films of this process, where it is the only one.
    overwrite : bool
        Also read what is done.

    Returns
    -------
    Summary
        Interrupted by Ctrl-C, it counts what is complete; the tables hold the same.

    Raises
    ------
    FolderError
        The output folder cannot be used.
    FolderBusy
        Another process writes into it.
    OSError
        Outputs cannot be written.
    """
    with one_writer(folder.root):
        pending = folder.pending(films, overwrite=overwrite)
        reader = make_reader() if pending else None  # before anything is removed: the networks may be unusable
        folder.open(pending, others)
        jobs = min(jobs, len(pending))
        interrupted = False
        try:
            steps = (
                _in_processes(pending, folder, make_reader, jobs)
                if jobs > 1
                else _here(pending, folder, reader, overlap)
            )
            with closing(steps), tqdm(total=len(pending), unit="film", disable=not pending) as bar:
                for _ in steps:
                    bar.update()
        except KeyboardInterrupt:
            interrupted = True
        repeated = folder.write_tables({film.key for film in films})
    records = folder.read_records()
    mine = [records[film.key] for film in films if film.key in records]
    return Summary(
        films=len(films),
        earlier=len(films) - len(pending),
        read=sum(record["status"] == "read" for record in mine),
        knees=sum(len(record.get("knees", ())) for record in mine),
        failed=sum(record["status"] == "failed" for record in mine),
        repeated=repeated,
        interrupted=interrupted,
    )


def read_one(film: Film, folder: OutputFolder, reader: Reader) -> None:
    """Read a film and write its outputs; what is wrong with the film is written down, not raised.

    Parameters
    ----------
    film : Film
        The file.
    folder : OutputFolder
        Where outputs go.
    reader : Reader
        Reads it.

    Raises
    ------
    OSError
        Outputs cannot be written.
    """
    try:
        before = stamp(film.path)
        reading = reader.read(film.path, spacing_mm=folder.spacing_mm)
        knees = folder.encode(film, reading)
    except Exception as error:  # whatever it is, it must not stop the other films, and it is listed with its reason
        folder.save_failure(film, reason_of(error))
        return
    if knees:
        folder.save(film, knees, before)
    else:
        folder.save_failure(film, no_knee(reading.radiograph))


def _here(films: Sequence[Film], folder: OutputFolder, reader: Reader | None, overlap: Overlap) -> Generator[None]:
    if reader is None:  # there is one whenever there are films
        return
    at_once = min(overlap.films, len(films))
    if at_once > 1:
        read = partial(read_one, folder=folder, reader=reader.shared(overlap.pictures))
        yield from in_threads(films, read, at_once)
        return
    for film in films:
        read_one(film, folder, reader)
        yield


def in_threads(films: Sequence[Film], read: Callable[[Film], T], at_once: int) -> Generator[T]:
    """Read each film in a thread; Ctrl-C lets those in work finish and begins no other.

    Parameters
    ----------
    films : sequence of Film
        What to read.
    read : callable
        Reads one; see `deepknee.pipeline.Reader.shared`.
    at_once : int
        Threads.

    Yields
    ------
    object
        What `read` returned, in the order in which they end.
    """
    queue = deque(films)
    in_work: set[Future[T]] = set()
    with ThreadPoolExecutor(at_once, "film") as pool:
        while queue or in_work:
            while queue and len(in_work) < at_once:
                in_work.add(pool.submit(read, queue.popleft()))
            done, in_work = wait(in_work, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()


def _in_processes(films: Sequence[Film], folder: OutputFolder, make_reader: MakeReader, jobs: int) -> Generator[None]:
    """Share films out; when a process dies, those in work are tried again one by one to find which one kills it."""
    queue = deque(films)
    while queue:
        in_work: dict[Future[None], Film] = {}
        try:
            with _pool(jobs, folder, make_reader) as pool:
                yield from _drain(pool, queue, in_work, jobs)
        except BrokenProcessPool:
            yield from _one_by_one(deque(in_work.values()), folder, make_reader, jobs)


def _drain(
    pool: ProcessPoolExecutor, queue: deque[Film], in_work: dict[Future[None], Film], at_once: int
) -> Generator[None]:
    """Hand out one film a process, so that few are suspects when one dies."""
    try:
        while queue or in_work:
            while queue and len(in_work) < at_once:
                future = pool.submit(_work, queue[0])  # a broken pool refuses here: the film must stay in the queue
                in_work[future] = queue.popleft()
            for future in wait(in_work, return_when=FIRST_COMPLETED).done:
                future.result()
                del in_work[future]
                yield
    except BaseException:  # Ctrl-C above all: what is being read is finished, what is waiting is not begun
        pool.shutdown(cancel_futures=True)
        raise


def _one_by_one(suspects: deque[Film], folder: OutputFolder, make_reader: MakeReader, jobs: int) -> Generator[None]:
    while suspects:
        try:
            with _pool(1, folder, make_reader, threads=_threads(jobs)) as pool:
                while suspects:
                    pool.submit(_work, suspects[0]).result()
                    suspects.popleft()
                    yield
        except BrokenProcessPool:
            folder.save_failure(suspects.popleft(), CRASHED)
            yield


def _threads(jobs: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // jobs)


def _pool(jobs: int, folder: OutputFolder, make_reader: MakeReader, threads: int | None = None) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # forked copies of a process with threads can hang
    settings = (folder, make_reader, threads or _threads(jobs))
    return ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker, initargs=settings)


# One worker process reads for one folder with one set of networks: its only state, set when it starts.
_worker: dict[str, Any] = {}


def _start_worker(folder: OutputFolder, make_reader: MakeReader, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the main one decides
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    _worker.update(folder=folder, reader=cache(make_reader))


def _work(film: Film) -> None:
    # loaded by the first film, not at the start: an error here reaches the main process with its own words
    read_one(film, _worker["folder"], _worker["reader"]())
