"""What the benchmarks of training share: rates of repeated work, each setting in a process of its own."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

import torch


def apart(measure: Callable[..., list[float]], *arguments: object) -> tuple[list[float], float]:
    """Measure in a new process; images/s of every round, and its peak memory in GB."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        rates = pool.submit(measure, *arguments).result()
        return rates, pool.submit(peak_gigabytes).result()


def peak_gigabytes() -> float:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def told(rates: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(rates):.2f} ({min(rates):.2f} to {max(rates):.2f})"


def timed(work: Iterator[None], rounds: int, device: str, images: int) -> list[float]:
    """Images/s of each round, of so many images each, after one that is not counted."""
    next(work)
    rates = []
    for _ in range(rounds):
        began = time.perf_counter()
        next(work)
        if device == "cuda":
            torch.cuda.synchronize()
        rates.append(images / (time.perf_counter() - began))
    return rates
