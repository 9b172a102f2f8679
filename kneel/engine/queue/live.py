"""What a runner shows: a live table on a terminal, a line an event elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Row:
    """A job that runs.

    Attributes
    ----------
    job, device
        Which, and where.
    epoch, epochs
        Epochs that are over, and all; 0 of 0 where another runner has it.
    monitor, metric
        Name and last value of what it is judged by.
    seconds_left
        Until it ends; None where nobody knows.
    """

    job: str
    device: str
    epoch: int
    epochs: int
    monitor: str
    metric: float | None
    seconds_left: float | None

    @classmethod
    def elsewhere(cls, job: str, reason: str) -> Row:
        """Describe a job of another runner."""
        return cls(job, reason, 0, 0, "", None, None)


class Display:
    """Lines of plain text: what began and what ended."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave what was shown last."""

    def event(self, words: str) -> None:
        """Say that something happened."""
        print(words, flush=True)

    def draw(self, rows: Sequence[Row], counts: Mapping[str, int], seconds_left: float | None) -> None:
        """
        Show how things stand.

        Parameters
        ----------
        rows
            The jobs that run.
        counts
            Jobs by what becomes of them.
        seconds_left
            Until all is done; None where nobody knows.
        """


class Table(Display):
    """A table at the foot of the terminal; the events scroll above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the table as it was last."""
        self._live.stop()

    def event(self, words: str) -> None:
        """Say that something happened, in the colour of its first word."""
        from rich.text import Text

        kind, _, _ = words.partition(" ")
        colour = {"done": "green", "failed": "red", "stopped": "yellow", "wait": "dim"}.get(kind, "")
        text = Text(words)
        text.stylize(colour, 0, len(kind))
        self._console.print(text, soft_wrap=True)

    def draw(self, rows: Sequence[Row], counts: Mapping[str, int], seconds_left: float | None) -> None:
        """Draw the table anew; rows that do not fit on the terminal are counted."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table as RichTable

        room = max(1, self._console.height - 6)
        table = RichTable(title_justify="left", caption_justify="left", expand=False)
        for name in ("job", "GPU", "epoch", "", "metric", "ETA"):
            table.add_column(name, justify="right" if name in ("epoch", "metric", "ETA") else "left", overflow="fold")
        for row in rows[:room]:
            bar: Any = ProgressBar(total=row.epochs, completed=row.epoch, width=12) if row.epochs else ""
            epoch = f"{row.epoch}/{row.epochs}" if row.epochs else ""
            metric = "" if row.metric is None else f"{row.monitor} {row.metric:.4g}"
            table.add_row(row.job, row.device, epoch, bar, metric, duration(row.seconds_left) if row.epochs else "")
        more = [f"{len(rows) - room} more run"] if len(rows) > room else []
        words = [f"{number} {what}" for what, number in counts.items() if number]
        table.caption = ", ".join(more + words) + f"; all done in {duration(seconds_left)}"
        self._live.update(table if rows else ", ".join(words), refresh=True)


def display() -> Display:
    """Choose the table on a terminal, and plain lines elsewhere."""
    return Table() if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" else Display()


def duration(seconds: float | None) -> str:
    """
    Say a duration in two units.

    Parameters
    ----------
    seconds
        None where nobody knows.

    Examples
    --------
    >>> duration(59.4), duration(3700), duration(180000), duration(None)
    ('59 s', '1 h 01 min', '2 d 02 h', '?')
    """
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02d} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
