"""SIGTERM, by which schedulers ask a command to stop, heard as Ctrl-C is."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[list[int]]:
    """Raise `KeyboardInterrupt` in the main thread, which this must be called in, when SIGTERM comes.

    Only the first does: some, like ``timeout``, send it twice in a row, which must not stop the last writing too.

    Yields
    ------
    list of int
        SIGTERM, once it came; it tells SIGTERM from Ctrl-C.
    """
    caught: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if not caught:
            caught.append(number)
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield caught
    finally:
        signal.signal(signal.SIGTERM, before)
