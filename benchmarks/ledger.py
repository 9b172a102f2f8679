"""What the stages of a reading cost: calls, seconds, multiply-accumulates (MACs), bytes; each without its inner stages.

Stages are functions and methods of the packages, watched from outside while a film is read, so that what is booked is
the reading itself and not a copy of it made for measuring; all that no stage covers is booked as the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

import deepknee.ensemble
import deepknee.pipeline
import kneel.localize
from deepknee.ensemble import Grader
from deepknee.pipeline import Reader
from kneel.engine.cpu import cpu_threads
from kneel.imaging.geometry import RoiFrame

REST = "the rest (Python)"


class Stage(NamedTuple):
    """One line of the account.

    Attributes
    ----------
    name : str
        As tables show it.
    owner : object
        Module, class or object that has the function.
    function : str
        Its name there.
    """

    name: str
    owner: Any
    function: str


@dataclass
class Cost:
    """What was booked on one stage.

    Attributes
    ----------
    calls : int
        How often it ran.
    seconds : float
        By the ledger's clock.
    macs : int
        Multiply-accumulates of convolutions and matrix products, as they are defined, whatever algorithm computes
        them; 0 unless operations are counted.
    moved : int
        Bytes: arrays that go into and come out of the stage, and tensors likewise of every torch operation in it.
        What stays in a cache between two operations is counted as moved all the same.
    """

    calls: int = 0
    seconds: float = 0.0
    macs: int = 0
    moved: int = 0


def reading_stages(reader: Reader) -> list[Stage]:
    """Name the stages of reading a film with this reader.

    Parameters
    ----------
    reader : Reader
        Its own stages are watched; other readers share the functions.
    """
    return [
        Stage("decode", deepknee.pipeline, "read_radiograph"),
        Stage("normalise", kneel.localize, "normalize_percentiles"),
        Stage("normalise", deepknee.pipeline, "normalize_percentiles"),
        Stage("to 8 bits", deepknee.pipeline, "_display"),
        Stage("LC networks", reader.localizer.lc, "batch"),
        Stage("windows and ROIs", RoiFrame, "crop"),
        Stage("HC networks", reader.localizer.hc, "batch"),
        Stage("contrast of ROIs", deepknee.ensemble, "adjust_contrast"),
        Stage("KL networks", Grader, "predict"),
        Stage("attention", Grader, "_attention"),
        Stage("dark bone?", deepknee.pipeline, "knees_are_dark"),
        Stage("measures", deepknee.pipeline, "measure_knee"),
    ]


class Ledger:
    """Books what a piece of work costs, stage by stage.

    Parameters
    ----------
    stages : sequence of Stage
        What is watched; several functions may share a name.
    count : bool
        Count operations and bytes, on one thread, which takes time: do not time in the same run.
    clock : callable
        Seconds of some clock; `time.process_time` where the machine has other work.
    """

    def __init__(
        self, stages: Sequence[Stage], *, count: bool = False, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.stages, self.count, self.clock = stages, count, clock
        self.costs = {name: Cost() for name, _, _ in stages} | {REST: Cost()}
        self._open = [REST]  # stages that are running, the innermost last
        self._since = 0.0
        self._flops = FlopCounterMode(display=False, custom_mapping=_ALSO_COUNTED)
        self._bytes = _Bytes()
        self._seen = 0, 0

    @property
    def total(self) -> Cost:
        """All of it; the calls are those of the work."""
        each = self.costs.values()
        sums = (sum(getattr(cost, name) for cost in each) for name in ("seconds", "macs", "moved"))
        return Cost(self.costs[REST].calls, *sums)

    @contextmanager
    def booking(self) -> Iterator[None]:
        """Book everything that happens meanwhile."""
        with ExitStack() as watched:
            for name, owner, function in self.stages:
                watch = self._watch(name, getattr(owner, function))
                watched.enter_context(patch.object(owner, function, watch))
            if self.count:
                watched.enter_context(cpu_threads(1))  # what runs on threads of its own is not counted
                watched.enter_context(self._flops)
                watched.enter_context(self._bytes)
            self._since, self._seen = self.clock(), self._counted()
            self.costs[REST].calls += 1
            yield
            self._settle()

    def _watch(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self._settle()
            self._open.append(name)
            self.costs[name].calls += 1
            try:
                result = function(*args, **kwargs)
                if self.count:
                    self.costs[name].moved += sum(map(_array_bytes, (*args, *kwargs.values(), result)))
                return result
            finally:
                self._settle()
                self._open.pop()

        return watched

    def _settle(self) -> None:
        """Book what happened since the last time on the innermost stage."""
        now, counted = self.clock(), self._counted()
        cost = self.costs[self._open[-1]]
        cost.seconds += now - self._since
        cost.macs += counted[0] - self._seen[0]
        cost.moved += counted[1] - self._seen[1]
        self._since, self._seen = now, counted

    def _counted(self) -> tuple[int, int]:
        return self._flops.get_total_flops() // 2, self._bytes.total


def _array_bytes(thing: Any) -> int:
    """Size of an array, of the pixels of a radiograph, or of arrays in a list."""
    if isinstance(thing, list | tuple):
        return sum(map(_array_bytes, thing))
    pixels = getattr(thing, "pixels", thing)
    return pixels.nbytes if isinstance(pixels, np.ndarray) else 0


def _convolution(x_shape: Any, w_shape: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    return conv_flop_count(list(x_shape), list(w_shape), list(out_shape))


_ALSO_COUNTED = {torch.ops.aten._nnpack_spatial_convolution: _convolution}  # torch's own counter leaves it out


class _Bytes(TorchDispatchMode):
    """Adds up the tensors that operations read and write; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.total += sum(_tensor_bytes(each) for each in (*args, result))
        return result


def _tensor_bytes(thing: Any) -> int:
    if isinstance(thing, list | tuple):
        return sum(map(_tensor_bytes, thing))
    return thing.numel() * thing.element_size() if isinstance(thing, torch.Tensor) else 0
