"""How the numbers of a training are laid out on a board: which share a window, and in which colour."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kneel.engine.board import quantities

# Okabe and Ito's palette keeps apart for colour-blind readers; (red, green, blue).
COLORS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233))


@dataclass(frozen=True)
class Curve:
    """
    One quantity over the epochs.

    Attributes
    ----------
    name
        Such as ``val_loss``.
    values
        One an epoch; NaN has no value.
    low, high
        Ends of its intervals, where it has any.
    """

    name: str
    values: tuple[float, ...]
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None


def windows(rows: Sequence[Mapping[str, float]]) -> dict[str, list[Curve]]:
    """
    Sort the quantities of a training into windows.

    Parameters
    ----------
    rows
        One an epoch, at least one.

    Returns
    -------
    dict of list of Curve
        By title. ``train_loss`` and ``val_loss`` share the window ``loss``; names that differ from a number on, such as
        ``recall_0`` and ``recall_1``, share ``recall``.
    """
    found: dict[str, list[Curve]] = {}
    for name in quantities(rows[0]):
        ends = (_column(rows, f"{name}{end}") for end in ("_low", "_high"))
        found.setdefault(_title(name), []).append(Curve(name, _column(rows, name) or (), *ends))
    return found


def _title(name: str) -> str:
    return re.sub(r"_\d.*", "", name.removeprefix("train_").removeprefix("val_"))


def _column(rows: Sequence[Mapping[str, float]], name: str) -> tuple[float, ...] | None:
    return tuple(row.get(name, math.nan) for row in rows) if name in rows[0] else None
