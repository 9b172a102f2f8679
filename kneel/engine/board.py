"""What a training shows of itself: ``metrics.csv`` always, curves and pictures on a board when one is asked for."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from kneel.engine.atomic import write_atomic
from kneel.engine.pictures import Picture, encode_jpeg

METRICS = "metrics.csv"
PICTURES = "pictures"
_ENDS = ("_low", "_high")

Rows = Sequence[Mapping[str, float]]


class Board(Protocol):
    """Something that shows how a training goes."""

    def show(self, rows: Rows, pictures: Mapping[int, Path]) -> None:
        """
        Show all epochs that are over, in place of what was shown of this training before: nothing is shown twice.

        A board that cannot be reached warns once and lets the training go on.

        Parameters
        ----------
        rows
            One an epoch, from the first on, the same names in all, such as
            ``{"epoch": 1, "kappa": 0.8, "kappa_low": 0.7, "kappa_high": 0.9}``.
        pictures
            JPEG file by epoch, in order; not every epoch must have one.
        """


class Showing:
    """
    ``metrics.csv`` and ``pictures/`` in the folder of a training, and the board that shows them.

    Parameters
    ----------
    folder
        The folder; it need not exist yet.
    board
        None shows nothing and keeps no pictures.
    """

    def __init__(self, folder: Path, board: Board | None) -> None:
        self._folder = folder
        self.board = board

    def begin(self, rows: Rows) -> None:
        """
        Show the epochs that a resumed training has behind it; forget the pictures of all others.

        Parameters
        ----------
        rows
            One an epoch that is over, none for a new training.
        """
        for epoch, path in find_pictures(self._folder).items():
            if epoch > len(rows):
                path.unlink()
        if rows:
            self.epoch(rows, None)

    def epoch(self, rows: Rows, picture: Picture | None) -> None:
        """
        Show the epoch that is over.

        Parameters
        ----------
        rows
            One an epoch, its own included.
        picture
            Its picture, where there is one.
        """
        rows = _same_names(rows)
        write_metrics(self._folder / METRICS, rows)
        if picture is not None:
            path = picture_path(self._folder, len(rows))
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, encode_jpeg(picture))
        if self.board is not None:
            self.board.show(rows, find_pictures(self._folder))


def _same_names(rows: Rows) -> Rows:
    """Give all rows the same names, NaN for a number that is not there: a run may be resumed with other metrics."""
    # in the order of the newest row, which is the order of today's metrics
    names = dict.fromkeys(name for row in (rows[-1], *rows) for name in row)
    return [{name: row.get(name, math.nan) for name in names} for row in rows]


def replay(folder: Path, board: Board) -> int:
    """
    Show on a board what the folder of a training holds.

    Parameters
    ----------
    folder
        With ``metrics.csv``, and perhaps ``pictures/``.
    board
        Where to.

    Returns
    -------
    int
        Number of epochs.

    Raises
    ------
    ValueError
        ``metrics.csv`` is no table of a training.
    """
    rows = read_metrics(folder / METRICS)
    board.show(rows, {epoch: path for epoch, path in find_pictures(folder).items() if epoch <= len(rows)})
    return len(rows)


def write_metrics(path: Path, rows: Rows) -> None:
    """
    Write the table with one row an epoch, exact decimal numbers; readers see all of it or the one before.

    Parameters
    ----------
    path
        The CSV file.
    rows
        At least one; the first decides the columns.

    Raises
    ------
    ValueError
        When a row has other names than the first.
    """
    for row in rows:
        if set(row) != set(rows[0]):
            odd = ", ".join(sorted(set(row) ^ set(rows[0])))
            raise ValueError(f"{path}: epoch {row['epoch']}: other columns than in the first row: {odd}")
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue().encode())


def read_metrics(path: Path) -> list[dict[str, float]]:
    """
    Read what `write_metrics` wrote.

    Parameters
    ----------
    path
        The CSV file.

    Returns
    -------
    list of dict
        One an epoch; NaN is a number that had no value.

    Raises
    ------
    ValueError
        The file is no such table: says the line.
    """
    rows: list[dict[str, float]] = []
    with path.open(newline="", encoding="utf-8") as file:
        for line, row in enumerate(csv.DictReader(file), 2):
            try:
                rows.append({**{name: float(value) for name, value in row.items()}, "epoch": int(row["epoch"])})
            except (KeyError, TypeError, ValueError):
                raise ValueError(f"{path}, line {line}: must hold an epoch and numbers, found {row}") from None
    return rows


def quantities(row: Mapping[str, float]) -> list[str]:
    """
    Name what a row tells of its epoch; the ends of an interval, ``NAME_low`` and ``NAME_high``, belong to NAME.

    Parameters
    ----------
    row
        Of ``metrics.csv``.

    Returns
    -------
    list of str
        In the order of the columns.
    """
    ends = {f"{name}{end}" for name in row for end in _ENDS}
    return [name for name in row if name != "epoch" and name not in ends]


def with_intervals(metrics: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """
    Put the ends of each interval behind its metric, as columns of their own.

    Parameters
    ----------
    metrics
        Number by name.
    intervals
        Low and high end by name of a metric; rounded to six digits, for they are estimates.

    Returns
    -------
    dict of float
        ``NAME``, ``NAME_low``, ``NAME_high``.

    Raises
    ------
    ValueError
        When an interval is of no metric, or its columns have a metric's name.
    """
    row: dict[str, float] = {}
    unknown = sorted(set(intervals) - set(metrics))
    if unknown:
        raise ValueError(f"intervals: {', '.join(unknown)}: no metric of that name")
    for name, value in metrics.items():
        ends = zip(_ENDS, intervals.get(name, ()), strict=False)
        row |= {name: value, **{f"{name}{end}": float(f"{at:.6g}") for end, at in ends}}
    if len(row) != len(metrics) + 2 * len(intervals):
        raise ValueError(f"intervals: _low and _high end the name of a metric itself: {', '.join(metrics)}")
    return row


def picture_path(folder: Path, epoch: int) -> Path:
    """Say where the picture of an epoch lies in the folder of a training."""
    return folder / PICTURES / f"{epoch:04}.jpg"


def find_pictures(folder: Path) -> dict[int, Path]:
    """List the pictures in the folder of a training by their epoch, in order."""
    found = {int(path.stem): path for path in (folder / PICTURES).glob("*.jpg") if path.stem.isdecimal()}
    return dict(sorted(found.items()))
