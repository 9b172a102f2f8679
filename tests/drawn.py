"""Batches whose draws can be made again, for the tests of augmentation."""

import torch
from torch.utils.data import default_collate


def batch_of(source, seed):
    """All samples, each with a seed of its own; also what the generator would draw next."""
    items, after = [], []
    for index in range(len(source)):
        torch.manual_seed(100 * seed + index)
        items.append(source[index])
        after.append(torch.rand(()))
    return default_collate(items), torch.stack(after)
