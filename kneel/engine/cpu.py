"""What makes training on a CPU faster: threads, arithmetic, layout, and memory kept from one step to the next."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGEST_MMAP_THRESHOLD = 32 << 20  # glibc takes no more
_KEPT = 2**31 - 1  # bytes: the largest value of a C int


def keep_freed_memory() -> bool:
    """
    Let glibc keep freed memory for the next step instead of returning it to the system; for the whole process.

    A step allocates the same activations as the one before. By default each of them is mapped and zeroed by the kernel
    anew: half of the time of a training with convolutions on two cores went there.

    Returns
    -------
    bool
        False where there is no glibc; nothing is changed then.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD) and mallopt(_M_TRIM_THRESHOLD, _KEPT))


def cpu_has_bf16() -> bool:
    """
    Say whether this CPU computes convolutions in bfloat16, as those with AVX-512 or AMX do.

    Elsewhere torch emulates them: a convolution took seven times as long as in float32 (AVX2), a matrix product eighty
    times.
    """
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def lay_out(module: nn.Module, device: torch.device) -> None:
    """
    Give a network the memory layout that the device trains it fastest in; its answers stay the same but for rounding.

    On a CPU with AVX2 alone oneDNN takes up to three times as long for the gradient of a convolution's weights channels
    last as it does in the plain layout (docs/performance.md). Elsewhere, and for reading, the layout that the network
    was made with stays.

    Parameters
    ----------
    module
        Changed in place, before an optimizer is built over its parameters.
    device
        Where it trains.
    """
    if device.type == "cpu" and not cpu_has_bf16():
        module.to(memory_format=torch.contiguous_format)


@contextmanager
def cpu_threads(number: int | None) -> Iterator[None]:
    """
    Use that many CPU threads for an operation meanwhile.

    Parameters
    ----------
    number
        Threads, or None to leave them.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
