"""Films handed out to the tasks of a cluster in pieces, and again where a process or a node dies over them."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deepknee.films import Film
from deepknee.output import FolderError
from kneel.engine.ray_cluster import ClusterError

MOST_FILMS = 100  # of a shard: about a minute of a core, and some 80 kB
_PER_PLACE = 4  # shards at least, where there are so many films, so that places end at about the same time
_TRIES = 2  # of a shard whose worker process dies, before it is halved
_NODES = 10  # that may die under a shard and be none of its films' doing
_DEATHS = 10  # in a row for every shard in work: then it is the cluster, not a film
_LAG_SECONDS = 60.0  # of what another machine wrote into a shared folder


class NotSeen(ClusterError):
    """A node sees none of the films of a piece, though this machine saw some when it sent the piece out."""


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
        Starts the task for some films, telling it whether there are `any_there`, and returns its reference.
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
            if isinstance(error.cause, NotSeen) and not any_there(piece.films):  # deleted since; `send` tells the node
                again.append(piece)
                continue
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


def any_there(films: Iterable[Film]) -> bool:
    """Say whether this machine sees any of some films; it asks for the first alone where all is well."""
    return any(os.path.exists(film.path) for film in films)


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
