"""BoneFinder's points: the ``.pts`` text file, and which of its 74 knee points are KNEEL's 16.

The choice is that of KNEEL's own preparation: every other of points 47 to 63 along the tibia and of 12 to 24 along the
femur (counted from 0), which run from the lateral to the medial edge on a knee that looks like a left one. BoneFinder
finds left knees on the film (``NAME.pts``) and right ones on the film turned over (``NAME_f.pts``), in millimetres.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kneel.imaging.geometry import Side, Spacing, millimetres_per_pixel, mirror_points
from kneel.imaging.schema import LANDMARKS, AnnotationError

POINTS = (*range(47, 64, 2), *range(12, 25, 2))
"""Which of BoneFinder's points is each of `kneel.imaging.schema.LANDMARKS`."""

_LAYOUT = re.compile(r"\s*version:\s*1\s*n_points:\s*(\d+)\s*\{(.*)\}\s*", re.DOTALL)


def read_pts(path: str | os.PathLike[str]) -> NDArray[np.float64]:
    """Read a file of points: ``version: 1``, ``n_points: N``, then N lines ``x y`` in braces.

    Parameters
    ----------
    path : path_like
        The file.

    Returns
    -------
    ndarray, shape (N, 2)
        (x, y) as they stand.

    Raises
    ------
    AnnotationError
        It is not laid out so; says file, line and what would be right.
    """
    try:
        text = Path(path).read_text(encoding="ascii")
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: not a text file of points") from error
    found = _LAYOUT.fullmatch(text)
    if found is None:
        raise AnnotationError(f"{path}: must be 'version: 1', 'n_points: N' and N lines 'x y' between braces")
    lines = [line.split() for line in found[2].splitlines() if line.strip()]
    if len(lines) != int(found[1]):
        raise AnnotationError(f"{path}: n_points is {found[1]}, but {len(lines)} lines follow")
    for number, line in enumerate(lines):
        try:
            good = len(line) == 2 and all(np.isfinite(float(value)) for value in line)
        except ValueError:
            good = False
        if not good:
            raise AnnotationError(f"{path}: point {number} is {' '.join(line)!r}, must be two numbers")
    return np.array(lines, float).reshape(-1, 2)


def landmarks_on_film(
    points: NDArray[np.float64], side: Side, spacing_mm: Spacing, width: int, *, indices: Sequence[int] = POINTS
) -> NDArray[np.float64]:
    """Choose the 16 landmarks and bring them to pixels of the film.

    Parameters
    ----------
    points : ndarray, shape (N, 2)
        BoneFinder's points in mm: the centre of the first pixel is taken to be 0, as KNEEL did; of a right knee on the
        film turned over.
    side : {"L", "R"}
        Which knee.
    spacing_mm : (float, float)
        (row, column) spacing of the film that BoneFinder saw.
    width : int
        Width of the film in pixels.
    indices : sequence of 16 int
        Which point is which landmark.

    Returns
    -------
    ndarray, shape (16, 2)
        (x, y) in film pixels.

    Raises
    ------
    AnnotationError
        There are not 16 indices, or one is beyond the points.

    Notes
    -----
    KNEEL turned right knees back by ``W - x``; the mirror of pixel ``x`` is ``W - 1 - x``, which is used here.
    """
    if len(indices) != len(LANDMARKS) or not all(0 <= index < len(points) for index in indices):
        raise AnnotationError(f"{len(indices)} indices up to {max(indices)}: must be 16, below {len(points)} points")
    pixels = points[list(indices)] / millimetres_per_pixel(spacing_mm)
    return mirror_points(pixels, width) if side == "R" else pixels
