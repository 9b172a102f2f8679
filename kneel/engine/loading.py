"""Which samples go into which batch on which rank, and the loader that fetches them."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from kneel.engine.seeding import worker_init


def train_batches(order: Sequence[int], batch_size: int, rank: int, world: int) -> list[list[int]]:
    """
    Cut the epoch's order into the batches of one rank; all ranks get equally many samples.

    A last, smaller batch is kept when every rank gets at least two samples of it (batch norm has no statistics of
    one), or one where the batch size itself means one; up to ``world - 1`` of its samples are left out.

    Parameters
    ----------
    order
        Sample numbers in the order of this epoch, the same on every rank.
    batch_size
        Samples of a batch over all ranks, a multiple of `world`.
    rank, world
        Number of this process, and how many there are.

    Returns
    -------
    list of list of int
        Sample numbers by batch.

    Raises
    ------
    ValueError
        When no batch remains or the batch size is no multiple of `world`.

    Examples
    --------
    >>> train_batches(range(10), batch_size=4, rank=0, world=1)
    [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    >>> train_batches(range(9), batch_size=4, rank=1, world=2)
    [[1, 3], [5, 7]]
    """
    if batch_size % world:
        raise ValueError(f"batch_size = {batch_size}: must be a multiple of the number of processes, {world}")
    batches = []
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        each = len(batch) // world
        if each >= min(2, batch_size // world):
            batches.append(list(batch[rank : each * world : world]))
    if not batches:
        raise ValueError(f"the training set of {len(order)} sample(s) makes no batch of two samples a process")
    return batches


def val_batches(length: int, batch_size: int, rank: int, world: int) -> list[list[int]]:
    """
    Deal all samples to the ranks in turn; ranks that come short take samples from the start again.

    Parameters
    ----------
    length
        Number of samples, at least 1.
    batch_size
        Samples of a batch over all ranks.
    rank, world
        Number of this process, and how many there are.

    Returns
    -------
    list of list of int
        Sample numbers by batch; sample ``i`` is number ``i // world`` of rank ``i % world``.

    Examples
    --------
    >>> val_batches(3, batch_size=4, rank=1, world=2)
    [[1, 0]]
    """
    mine = [number % length for number in range(rank, math.ceil(length / world) * world, world)]
    size = max(1, batch_size // world)
    return [mine[start : start + size] for start in range(0, len(mine), size)]


def make_loader(
    dataset: Dataset[Any], batches: list[list[int]], *, num_workers: int, pin: bool, seed: int, epoch: int, rank: int
) -> DataLoader[Any]:
    """
    Build the loader of one epoch; it draws nothing from the global generator of this process.

    Parameters
    ----------
    dataset
        Map-style data set.
    batches
        Sample numbers by batch.
    num_workers
        Loader processes; 0 loads here.
    pin
        Whether batches go to page-locked memory, for CUDA.
    seed, epoch, rank
        Key of the loader processes' randomness.
    """
    init = partial(worker_init, seed=seed, epoch=epoch, rank=rank)
    # The generator gives the loader the base seed it asks for, which worker_init then replaces.
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        worker_init_fn=init,
        pin_memory=pin,
        generator=torch.Generator(),
    )
