"""The lists of films that DeepKnee's authors split their data by: film path, then the boxes of both joints.

One line a film, without a header: ``PATH X1 Y1 X2 Y2 X1 Y1 X2 Y2``. What the numbers are was measured on the lists
themselves (14,600 lines) and read in the authors' script:

- pixels of the film, first and one-past-last column and row of a square;
- 120 mm wide: the widths 600, 706 and 1200 (MOST), 600, 704, 760, 800, 1176, 1188, 1200 (OAI) are 120 mm at 0.2, 0.17,
  0.1 mm and so on. Only the middle matters, around which the authors cut 140 mm;
- the first box is the LEFT knee, which on a film as radiologists hang it lies at larger x; so it does on every line;
- ``-1 -1 -1 -1`` is a knee that was not found.

Beside MOST's list lies one of bad boxes, one a line: ``{line}{L|R}``, lines counted from 0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from kneel.imaging.geometry import Side

BOX_MM = 120.0
SIDES: tuple[Side, Side] = ("L", "R")  # order of the boxes on a line


class ListError(ValueError):
    """A list that cannot be used: says file and line, and what would be right."""


@dataclass(frozen=True)
class Box:
    """A square around a joint: first and one-past-last column and row, film pixels, as for slices."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def center(self) -> tuple[float, float]:
        """(x, y) of its middle; an integer is the centre of a pixel."""
        return (self.left + self.right - 1) / 2, (self.top + self.bottom - 1) / 2

    @property
    def size(self) -> float:
        """Width in pixels: `BOX_MM` unless it was drawn by hand."""
        return self.right - self.left


@dataclass(frozen=True)
class ListedFilm:
    """A line of a list.

    Attributes
    ----------
    name : str
        Path of the film below the download's folder.
    boxes : dict of side to Box
        Knees that were found.
    poor : frozenset of side
        Knees whose box is listed as bad.
    where : str
        File and line.
    """

    name: str
    boxes: dict[Side, Box]
    poor: frozenset[str]
    where: str


def read_lists(lists: list[Path], poor: Path | None = None) -> list[ListedFilm]:
    """Read one or more lists of films.

    Parameters
    ----------
    lists : list of Path
        The authors' format.
    poor : Path, optional
        List of bad boxes, for a single list of films: it counts that list's lines.

    Returns
    -------
    list of ListedFilm
        In the order of the lines.

    Raises
    ------
    ListError
        A line is none of these, or `poor` comes with several lists.
    """
    if poor is not None and len(lists) != 1:
        raise ListError(f"{poor}: counts the lines of one list, and there are {len(lists)}; cut them one by one")
    films = []
    for path in lists:
        lines = _lines(path)
        bad = _read_poor(poor, len(lines)) if poor is not None else set()
        for number, line in enumerate(lines):
            boxed = frozenset(side for side in SIDES if (number, side) in bad)
            films.append(_parse(line, boxed, f"{path.name}, line {number + 1}"))
    if not films:
        raise ListError(f"{', '.join(map(str, lists))}: no film in it")
    return films


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ListError(f"{path}: cannot be read as text ({error})") from error


def _parse(line: str, poor: frozenset[str], where: str) -> ListedFilm:
    words = re.split(r"[\s,]+", line.strip())
    try:
        numbers = np.array(words[1:], float)
    except ValueError:
        numbers = np.array([])
    if numbers.shape != (8,) or not np.isfinite(numbers).all():
        raise ListError(f"{where}: {line.strip()!r}, must be a path and the 8 numbers x1 y1 x2 y2 of both knees")
    inside = PurePosixPath(words[0])
    if inside.is_absolute() or ".." in inside.parts:
        raise ListError(f"{where}: path is {words[0]!r}, must lie below the download's folder")
    boxes: dict[Side, Box] = {}
    for side, corners in zip(SIDES, numbers.reshape(2, 4).tolist(), strict=True):
        box = Box(*corners)
        if box.right > box.left and box.bottom > box.top:
            boxes[side] = box
        elif corners != [-1] * 4:
            raise ListError(f"{where}: box {corners} is empty; x1 < x2 and y1 < y2, or -1 -1 -1 -1 for no knee")
    return ListedFilm(str(inside), boxes, poor, where)


def _read_poor(path: Path, count: int) -> set[tuple[int, str]]:
    bad = set()
    for number, line in enumerate(_lines(path), 1):
        match = re.fullmatch(r"(\d+)([LR])", line.strip())
        if line.strip() and (match is None or int(match[1]) >= count):
            raise ListError(f"{path}, line {number}: {line.strip()!r}, must be 0 to {count - 1} followed by L or R")
        if match is not None:
            bad.add((int(match[1]), match[2]))
    return bad
