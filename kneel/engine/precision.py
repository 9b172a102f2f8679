"""Which floating-point type a quantity is in."""

from typing import Any

import torch


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """
    Leave the half precisions, which sum and compare too coarsely.

    Parameters
    ----------
    tensor
        Of any floating-point type.

    Returns
    -------
    Tensor
        float32 of what is narrower; else the tensor.
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def in_float64(batch: Any) -> Any:
    """
    Widen the floating-point tensors of a batch.

    Parameters
    ----------
    batch
        Tensors in lists, tuples and mappings.
    """
    from accelerate.utils import recursively_apply  # slow to load, and reading needs none of it

    return recursively_apply(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor, batch)
