"""Films read over a Ray cluster: they are sent out by the hundred, and each node writes what it has read as a shard."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch
from tqdm import tqdm

from deepknee.batch import MakeReader, Overlap, Summary, in_threads
from deepknee.films import Film
from deepknee.hand_out import NotSeen, any_there, cut, hand_out
from deepknee.output import CRASHED, FolderError
from deepknee.pipeline import Reader
from deepknee.shard_folder import Plan, ShardFolder, film_rows
from deepknee.shard_tables import write_tables
from deepknee.shards import FAILED, Row, load_arrow
from kneel.engine.ray_cluster import Share, connected, slots
from kneel.imaging.one_writer import one_writer

_AT_ONCE = 2  # shards a place: one in work, and one so that it need not wait


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
        No Ray, no cluster, no room on it, processes die on it whatever they read, or a node does not see the films.
    FolderError
        The output folder cannot be used, or something else took shards out of it.
    FolderBusy
        Another process of this machine writes into it.
    WeightsError, DeviceError
        A node cannot load the networks.
    OSError
        Outputs cannot be written.
    """
    load_arrow()
    with one_writer(folder.root):  # on the machine of the command; nodes write shards of names of their own
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
    earlier = len(films) - len(plan.pending)
    return Summary(len(films), earlier, tally.read, tally.knees, tally.failed, tally.repeated, interrupted)


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
        work = Work(folder, plan.run, make_reader, share)

        def send(films: Sequence[Film]) -> Any:
            return task.remote(work, films, any_there(films))

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


def read_here(work: Work, films: Sequence[Film], seen: bool) -> Path:
    """Read films and write their shard; called by Ray on a node.

    Parameters
    ----------
    work : Work
        How.
    films : sequence of Film
        Which.
    seen : bool
        Whether the machine where the command runs sees any of them.

    Returns
    -------
    Path
        The file of the shard: so little goes over Ray.

    Raises
    ------
    NotSeen
        This node sees none, though the command does. Failing fast, it would be sent ever more of them.
    """
    if seen and not any_there(films):
        what = f"node {socket.gethostname()} sees none of {len(films)} films, as {films[0].path}"
        raise NotSeen(f"{what}, and the command does: does that node see the films under the same path?")
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
