"""What the benchmarks of training share: rates of repeated work, each setting in a process of its own."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

import torch
from memory import peak_bytes


def apart(measure: Callable[..., list[float]], *arguments: object) -> tuple[list[float], float]:
    """Measure in a new process; images/s of every round, and its peak memory in GB."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        rates = pool.submit(measure, *arguments).result()
        return rates, pool.submit(peak_bytes).result() / 1e9


def told(rates: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(rates):.2f} ({min(rates):.2f} to {max(rates):.2f})"


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
CLOCK_HELP = "cpu: the process's own time, for a machine with other work; with one thread (default: %(default)s)"


def timed(work: Iterator[None], rounds: int, device: str, images: int, clock: str = "wall") -> list[float]:
    """Images/s of each round, of so many images each, after one that is not counted."""
    now = CLOCKS[clock]
    next(work)
    rates = []
    for _ in range(rounds):
        began = now()
        next(work)
        if device == "cuda":
            torch.cuda.synchronize()
        rates.append(images / (now() - began))
    return rates
