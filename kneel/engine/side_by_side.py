"""Several networks at once on the cores of a CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from kneel.engine.cpu import cpu_threads

Answer = TypeVar("Answer")


def side_by_side(calls: Sequence[Callable[[], Answer]]) -> list[Answer]:
    """
    Answer several calls of networks at once, each on its share of the CPU threads that torch has.

    One after another, every operation is shared out among the threads and waited for, and what runs on one thread only
    (NNPACK, small operations) leaves the others idle. No other thread may begin to use torch meanwhile: it would keep
    the share as its number of threads (several threads share networks by `kneel.stage.Stage.shared`).

    Parameters
    ----------
    calls
        What to call; no gradients are kept.

    Returns
    -------
    list
        The answers, in the order of the calls.
    """
    threads = torch.get_num_threads()
    workers = min(threads, len(calls))
    if workers <= 1:
        return [_answer(call) for call in calls]
    # new threads take over what is set here; the old pool's would not
    with cpu_threads(threads // workers), ThreadPoolExecutor(workers) as pool:
        return list(pool.map(_answer, calls))


@torch.no_grad()  # in the thread that it runs in, for which that of the caller does not hold
def _answer(call: Callable[[], Answer]) -> Answer:
    return call()
