"""Which samples go into which batch, and the loader that fetches one process's share of them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from kneel.engine.config import ConfigError, TrainingConfig
from kneel.engine.seeding import derive_seed, seed_everything
from kneel.engine.task import Deferring


def train_batches(length: int, batch_size: int, world: int) -> list[range]:
    """
    Cut an epoch into whole batches, which the processes then deal among themselves, sample i to process i % world.

    A last, smaller batch is kept when every process gets a sample of it, and two in all (batch norm has no statistics
    of one) or one where the batch size itself means one.

    Parameters
    ----------
    length
        Samples of the epoch.
    batch_size
        Samples of a batch over all processes.
    world
        How many processes there are.

    Returns
    -------
    list of range
        Places in the order of the epoch, by batch.

    Raises
    ------
    ConfigError
        When a batch has fewer samples than there are processes.
    ValueError
        When no batch remains.

    Examples
    --------
    >>> train_batches(10, batch_size=4, world=1)
    [range(0, 4), range(4, 8), range(8, 10)]
    >>> train_batches(9, batch_size=4, world=2)
    [range(0, 4), range(4, 8)]
    """
    if batch_size < world:
        raise ConfigError(f"batch_size = {batch_size}: must be at least the number of processes, {world}")
    starts = range(0, length, batch_size)
    batches = [range(start, min(start + batch_size, length)) for start in starts]
    batches = [batch for batch in batches if len(batch) >= max(world, min(2, batch_size))]
    if not batches:
        raise ValueError(f"the training set of {length} sample(s) makes no batch for {world} process(es)")
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


class KeyedSamples(Dataset[Any]):
    """
    Samples in an order, each with randomness of its own: the same on any number of processes and loader processes.

    Parameters
    ----------
    dataset
        Map-style data set.
    order
        Sample number by place.
    key
        With the place it seeds the global generators before a sample is fetched.
    """

    def __init__(self, dataset: Dataset[Any], order: Sequence[int], key: tuple[int | str, ...]) -> None:
        self.dataset, self.order, self.key = dataset, order, key

    def __len__(self) -> int:
        """Return the number of places."""
        return len(self.order)

    def __getitem__(self, place: int) -> Any:
        """Fetch the sample at a place; leaves the generators changed."""
        seed_everything(derive_seed(*self.key, "sample", place), devices=False)
        return self.dataset[self.order[place]]


def make_loader(samples: KeyedSamples, batches: Sequence[Sequence[int]], *, num_workers: int, pin: bool) -> Any:
    """
    Build the loader of one epoch.

    Parameters
    ----------
    samples
        What to fetch.
    batches
        Places by batch.
    num_workers
        Loader processes; 0 loads here.
    pin
        Whether batches go to page-locked memory, for CUDA.

    Returns
    -------
    DataLoader
        Goes through the batches once.
    """
    # The generator is for a base seed that the loader insists on drawing; the samples have seeds of their own.
    return DataLoader(
        samples,
        batch_sampler=[list(batch) for batch in batches],
        num_workers=num_workers,
        pin_memory=pin,
        generator=torch.Generator(),
    )


def deferred(
    config: TrainingConfig, dataset: Dataset[Any], device: torch.device
) -> tuple[Dataset[Any], Callable[[Any], Any] | None]:
    """
    Leave the augmentation to the device, where that is asked for.

    Parameters
    ----------
    config
        Whose `augment_on` is asked.
    dataset
        The training set.
    device
        Where batches go.

    Returns
    -------
    dataset
        What is to be fetched.
    finish
        What is still to be done to a batch on the device, or None.

    Raises
    ------
    ConfigError
        When the data set cannot do what is asked.
    """
    where = config.augment_on
    if where == "device" and not isinstance(dataset, Deferring):
        raise ConfigError("augment_on = device: these pictures are augmented by the loader alone; loader or auto")
    if isinstance(dataset, Deferring) and (where == "device" or (where == "auto" and device.type == "cuda")):
        return dataset.deferred()
    return dataset, None
