"""Films read over a Ray cluster: they are sent out by the hundred, and each node writes what it has read as a shard."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import torch
from tqdm import tqdm

from deepknee.batch import MakeReader, Overlap, Summary, in_threads
from deepknee.films import Film
from deepknee.output import CRASHED, FolderError
from deepknee.pipeline import Reader
from deepknee.shard_folder import Plan, ShardFolder, film_rows
from deepknee.shard_tables import write_tables
from deepknee.shards import FAILED, Row, load_arrow
from kneel.engine.ray_cluster import ClusterError, Share, connected, slots

MOST_FILMS = 100  # of a shard: about a minute of a core, and some 80 kB
_PER_PLACE = 4  # shards at least, where there are so many films, so that places end at about the same time
_AT_ONCE = 2  # shards a place: one in work, and one so that it need not wait
_TRIES = 2  # of a shard whose worker process dies, before it is halved
_NODES = 10  # that may die under a shard and be none of its films' doing
_DEATHS = 10  # in a row for every shard in work: then it is the cluster, not a film
_LAG_SECONDS = 60.0  # of what another machine wrote into a shared folder


@dataclass(frozen=True)
class Work:
    """What every node needs to know.

    Attributes
    ----------
    folder : ShardFolder
        Where shards go.
    run : int
        Number of the run.
    make_reader : callable
        Loads the networks, once in every process that reads.
    share : Share
        What one piece of work has of a machine.
    """

    folder: ShardFolder
    run: int
    make_reader: MakeReader
    share: Share


class Piece(NamedTuple):
    """Films that are read by one task.

    Attributes
    ----------
    films : tuple of Film
        Which; sorted.
    deaths : int
        How often a process died over them.
    nodes : int
        How many nodes died under them.
    """

    films: tuple[Film, ...]
    deaths: int = 0
    nodes: int = 0


def read_over_ray(
    films: Sequence[Film],
    others: Sequence[tuple[Film, str]],
    folder: ShardFolder,
    make_reader: MakeReader,
    *,
    address: str,
    share: Share,
    overwrite: bool = False,
) -> Summary:
    """Read films that are not done yet on the nodes of a cluster, and merge the tables.

    Parameters
    ----------
    films : sequence of Film
        What to read; all nodes see them under these paths, and the output folder too.
    others : sequence of (Film, str)
        Files that are no films, and why; only listed.
    folder : ShardFolder
        Where outputs go.
    make_reader : callable
        Loads the networks, once in every process that reads.
    address : str
        Of the cluster, as for `kneel.engine.ray_cluster.connected`.
    share : Share
        What one process has of a machine.
    overwrite : bool
        Also read what is done.

    Returns
    -------
    Summary
        Interrupted by Ctrl-C, it counts what is complete; the tables hold the same.

    Raises
    ------
    ClusterError
        No Ray, no cluster, no room on it, or processes die on it whatever they read.
    FolderError
        The output folder cannot be used, or something else took shards out of it.
    WeightsError, DeviceError
        A node cannot load the networks.
    OSError
        Outputs cannot be written.
    """
    load_arrow()
    plan, interrupted = folder.plan(films, overwrite=overwrite), False
    if plan.pending:
        interrupted = _on_cluster(plan, others, folder, make_reader, address, share)
    else:
        folder.open(plan.run, others)
    tally = write_tables(folder, plan, interrupted=interrupted)
    if (missing := len(films) - tally.read - tally.failed) and not interrupted:
        raise FolderError(
            f"{folder.root}: {missing} films are lost: does another command write there? Run this one again"
        )
    return Summary(len(films), len(films) - len(plan.pending), tally.read, tally.knees, tally.failed, interrupted)


def _on_cluster(
    plan: Plan,
    others: Sequence[tuple[Film, str]],
    folder: ShardFolder,
    make_reader: MakeReader,
    address: str,
    share: Share,
) -> bool:
    """Have what is pending read; say whether the user stopped it."""
    with connected(address) as ray:
        places = slots(share)
        folder.open(plan.run, others)
        # Ray's own retries are off: a film must not kill process after process. Processes are kept for the next
        # shard (max_calls=0), also on GPUs: the networks are loaded once
        task = ray.remote(num_cpus=share.cores, num_gpus=share.gpus, max_retries=0, max_calls=0)(read_here)
        send = partial(task.remote, Work(folder, plan.run, make_reader, share))
        give_up = partial(_give_up, folder=folder, run=plan.run)
        steps = hand_out(ray, cut(plan.pending, places), send, give_up, _AT_ONCE * places)
        try:
            with tqdm(total=len(plan.pending), unit="film") as bar:
                for count in steps:
                    bar.update(count)
        except (
            KeyboardInterrupt
        ):  # what is in work ends with the connection; ray.cancel can end this process (Ray 2.60)
            return True
    return False


def _give_up(film: Film, folder: ShardFolder, run: int) -> None:
    folder.save([Row(film.file, film.key, FAILED, CRASHED)], run)


def cut(films: Sequence[Film], places: int) -> Iterator[Piece]:
    """Cut films into pieces for some places, one after the other.

    Parameters
    ----------
    films : sequence of Film
        Sorted.
    places : int
        How many pieces are read at once.
    """
    size = max(1, min(MOST_FILMS, -(-len(films) // (_PER_PLACE * places))))
    return (Piece(tuple(films[start : start + size])) for start in range(0, len(films), size))


def hand_out(
    ray: Any,
    pieces: Iterator[Piece],
    send: Callable[[tuple[Film, ...]], Any],
    give_up: Callable[[Film], None],
    most: int,
) -> Generator[int]:
    """Send out pieces until each is over; where a process or node dies they go out again, halved if need be.

    Parameters
    ----------
    ray : module
        ``ray``, connected.
    pieces : iterator of Piece
        What to read; taken one by one.
    send : callable
        Starts the task for some films and returns its reference.
    give_up : callable
        Lists a film that kills what reads it.
    most : int
        Pieces on the cluster at once.

    Yields
    ------
    int
        How many films are over.

    Raises
    ------
    ClusterError
        Processes die one after another, and nothing is read meanwhile.
    FolderError
        What a node writes does not come into the folder on this machine.
    Exception
        What stopped a task: networks that do not load, outputs that cannot be written.
    """
    again: deque[Piece] = deque()
    in_work: dict[Any, Piece] = {}
    deaths = 0  # since something was read
    while True:
        while len(in_work) < most and (piece := again.popleft() if again else next(pieces, None)):
            in_work[send(piece.films)] = piece
        if not in_work:
            return
        (over, *_), _ = ray.wait(list(in_work), num_returns=1)
        piece = in_work.pop(over)
        try:
            _see(ray.get(over))
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else ClusterError(str(error))) from error
        except ray.exceptions.RayError as error:
            deaths += 1
            if deaths > _DEATHS * most:
                raise ClusterError(f"{deaths} processes or nodes died one after another: {error}") from error
            if rest := _rest(piece, isinstance(error, ray.exceptions.NodeDiedError)):
                again.extend(rest)
                continue
            give_up(piece.films[0])
        else:
            deaths = 0
        yield len(piece.films)


def _rest(piece: Piece, node_died: bool) -> list[Piece]:
    """Say what is read again of a piece that a process died over: all, halves the next time, of a single film none."""
    films, half = piece.films, len(piece.films) // 2
    if node_died and piece.nodes < _NODES:  # it was switched off, or lost its network
        return [piece._replace(nodes=piece.nodes + 1)]
    if piece.deaths + 1 < _TRIES:
        return [piece._replace(deaths=piece.deaths + 1)]
    return [Piece(films[:half]), Piece(films[half:])] if half else []


def _see(path: Path) -> None:
    """Believe that a shard is written once this machine sees it; a shared folder may lag behind."""
    end = time.monotonic() + _LAG_SECONDS
    while not path.exists():
        if time.monotonic() > end:
            raise FolderError(f"{path}: written by a node, but not there on this machine: do both see the same --out?")
        time.sleep(0.1)


def read_here(work: Work, films: Sequence[Film]) -> Path:
    """Read films and write their shard; called by Ray on a node.

    Parameters
    ----------
    work : Work
        How.
    films : sequence of Film
        Which.

    Returns
    -------
    Path
        The file of the shard: so little goes over Ray.
    """
    threads = max(1, int(work.share.cores))
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    overlap = Overlap.on("cuda") if work.share.gpus else Overlap.on("cpu") if threads > 1 else Overlap()
    reader = _reader(work)
    if overlap.films > 1:
        reader = reader.shared(overlap.pictures)
    read = partial(film_rows, reader=reader, folder=work.folder)
    found = in_threads(films, read, overlap.films) if overlap.films > 1 else map(read, films)
    return work.folder.save((row for rows in found for row in rows), work.run)


# A process of Ray reads for one run at a time: the networks of the last one are its only state.
_loaded: dict[tuple[Any, ...], Reader] = {}


def _reader(work: Work) -> Reader:
    """Load the networks when the run is another one than that of the shard before."""
    which = (str(work.folder.root), work.run, work.folder.made_by["id"])
    if which not in _loaded:
        _loaded.clear()
        _loaded[which] = work.make_reader()
    return _loaded[which]
