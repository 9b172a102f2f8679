"""What the machine can do at best: multiply-accumulates and memory traffic a second, measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from kneel.engine.cpu import cpu_has_bf16

SIDE = 2048  # of the matrices: 16 MiB each in float32
TRIAD = 1 << 25  # elements of each of three arrays: 128 MiB, more than any cache


class Machine(NamedTuple):
    """Best of several runs with the threads that torch has.

    Attributes
    ----------
    fp32, bf16 : float
        GMAC/s of a product of two square matrices; bf16 is None where the CPU only emulates it.
    convolution : float
        GMAC/s of a 3 x 3 convolution of 96 channels on 112 x 112 pixels, float32, channels last: the kind of work
        that the networks are made of.
    bandwidth : float
        GB/s of ``a = b + 3 c`` over arrays of 128 MiB: two read, one written.
    """

    fp32: float
    bf16: float | None
    convolution: float
    bandwidth: float

    def describe(self) -> str:
        """Say it in a sentence."""
        bf16 = "no arithmetic for it" if self.bf16 is None else f"{self.bf16:.0f} GMAC/s"
        return (
            f"{torch.get_num_threads()} threads; matrix product: float32 {self.fp32:.0f} GMAC/s, bfloat16 {bf16}; "
            f"convolution: {self.convolution:.0f} GMAC/s; memory: {self.bandwidth:.1f} GB/s (triad)"
        )


def measure_machine(clock: Callable[[], float] = time.perf_counter) -> Machine:
    """Measure for about two seconds, by any clock.

    Parameters
    ----------
    clock : callable
        Seconds.
    """
    a, b, c = (torch.ones(TRIAD) for _ in range(3))
    triad = _shortest(lambda: torch.add(b, c, alpha=3, out=a), clock)
    channels, size = 96, 112
    pictures = torch.randn(2, channels, size, size).to(memory_format=torch.channels_last)
    weights = torch.randn(channels, channels, 3, 3).to(memory_format=torch.channels_last)
    work = pictures.numel() * channels * 9
    convolution = _shortest(lambda: torch.conv2d(pictures, weights, padding=1), clock)
    bf16 = _product(torch.bfloat16, clock) if cpu_has_bf16() else None
    return Machine(_product(torch.float32, clock), bf16, work / convolution / 1e9, 3 * a.nbytes / triad / 1e9)


def _product(dtype: torch.dtype, clock: Callable[[], float]) -> float:
    left, right = torch.randn(2, SIDE, SIDE).to(dtype)
    return SIDE**3 / _shortest(lambda: left @ right, clock) / 1e9


@torch.inference_mode()
def _shortest(work: Callable[[], object], clock: Callable[[], float], runs: int = 7) -> float:
    """Seconds of the quickest of several runs, after one that does not count."""
    work()
    times = []
    for _ in range(runs):
        began = clock()
        work()
        times.append(clock() - began)
    return min(times)
