"""Where randomness comes from: every draw is keyed by (experiment seed, epoch, sample or step).

No key names a process, so one process, several, and any number of loader processes draw the same.
"""

import hashlib
import random

import numpy as np
import torch


def derive_seed(*parts: int | str) -> int:
    """
    Turn a key into a seed; the same key gives the same seed on every machine and in every Python.

    Parameters
    ----------
    *parts
        The key, such as ``(seed, "epoch", 3, "rank", 0)``. Numbers and words differ: 1 is not "1".

    Returns
    -------
    int
        A seed in [0, 2**63).

    Examples
    --------
    >>> derive_seed(0, "epoch", 1) == derive_seed(0, "epoch", 1)
    True
    >>> derive_seed(0, "epoch", 1) == derive_seed(0, "epoch", 2)
    False
    """
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, (int, str)):
            raise TypeError(f"derive_seed takes integers and words, got {part!r}")
    # repr quotes words, so no two keys share a text.
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seed_everything(seed: int, *, devices: bool = True) -> None:
    """
    Seed the global generators of Python, numpy and torch.

    Parameters
    ----------
    seed
        Any non-negative integer; numpy's generator takes 32 bits derived from it.
    devices
        Whether torch's generators of GPUs are seeded too, which costs more than all others together.
    """
    random.seed(seed)
    np.random.seed(derive_seed("numpy", seed) % 2**32)  # noqa: NPY002 (data sets of others may draw from it)
    if devices:
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)
