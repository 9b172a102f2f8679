"""Smooth curves through given points: the pen that draws bone contours."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline, PchipInterpolator

STEP_MM = 0.25  # distance of contour vertices; chords of curved bone then miss the curve by less than 2 um


def through_x(points: ArrayLike, *, corners: tuple[int, ...] = ()) -> NDArray[np.float64]:
    """Draw y(x) through points without overshoot, with a corner where asked.

    Parameters
    ----------
    points : array_like, shape (n, 2)
        (x, y) in mm, x increasing.
    corners : tuple of int
        Indices of inner points where the slope may jump.

    Returns
    -------
    ndarray, shape (m, 2)
        Vertices about `STEP_MM` apart in x; every given point is one of them.
    """
    points = np.asarray(points, float)
    knots = [0, *corners, len(points) - 1]
    x = _refine(points[:, 0])
    y = np.empty_like(x)
    for first, last in itertools.pairwise(knots):
        part = points[first : last + 1]
        inside = (x >= part[0, 0]) & (x <= part[-1, 0])
        y[inside] = PchipInterpolator(part[:, 0], part[:, 1])(x[inside])
    return np.column_stack([x, y])


def through_y(points: ArrayLike) -> NDArray[np.float64]:
    """Draw x(y) through points without overshoot.

    Parameters
    ----------
    points : array_like, shape (n, 2)
        (x, y) in mm, y increasing.

    Returns
    -------
    ndarray, shape (m, 2)
        Vertices about `STEP_MM` apart in y; every given point is one of them.
    """
    return through_x(np.asarray(points, float)[:, ::-1])[:, ::-1]


def closed(points: ArrayLike) -> NDArray[np.float64]:
    """Draw a periodic cubic spline through points.

    Parameters
    ----------
    points : array_like, shape (n, 2)
        (x, y) in mm, in order around the shape.

    Returns
    -------
    ndarray, shape (24 n, 2)
        Vertices of the closed curve.
    """
    ring = np.concatenate([np.asarray(points, float), np.asarray(points, float)[:1]])
    length = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(ring, axis=0).T))])
    return CubicSpline(length, ring, bc_type="periodic")(np.linspace(0, length[-1], 24 * len(ring) - 23)[:-1])


def shifted(
    line: NDArray[np.float64], dx: float | NDArray[np.float64] = 0.0, dy: float | NDArray[np.float64] = 0.0
) -> NDArray[np.float64]:
    """Copy a line moved by an offset that may vary along it.

    Parameters
    ----------
    line : ndarray, shape (n, 2)
        (x, y) in mm.
    dx, dy : float or ndarray, shape (n,)
        Offsets in mm.

    Returns
    -------
    ndarray, shape (n, 2)
        The moved line.
    """
    return np.column_stack([line[:, 0] + dx, line[:, 1] + dy])


def between(line: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Cut a line that runs along x.

    Parameters
    ----------
    line : ndarray, shape (n, 2)
        (x, y) in mm, x increasing.
    low, high : float
        Bounds of x in mm.

    Returns
    -------
    ndarray, shape (m, 2)
        The vertices between the bounds.
    """
    return line[(line[:, 0] >= low) & (line[:, 0] <= high)]


def _refine(knots: NDArray[np.float64]) -> NDArray[np.float64]:
    parts = [
        np.linspace(start, end, max(int(np.ceil((end - start) / STEP_MM)), 1), endpoint=False)
        for start, end in itertools.pairwise(knots)
    ]
    return np.concatenate([*parts, knots[-1:]])
