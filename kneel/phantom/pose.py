"""Where a knee lies on a film, and the drawing of its parts in windows of that film."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Window = tuple[slice, slice]
LOW = 8  # fields without edges are computed on a grid this much coarser than the film
_SUBPIXEL_BITS = 4


@dataclass(frozen=True)
class Pose:
    """Where and how a knee lies on a film.

    Attributes
    ----------
    center : (float, float)
        (x, y) film pixel of the joint centre.
    scale : float
        Film pixels per mm of the knee's frame.
    angle : float
        Rotation in radians, positive turns x towards y.
    mirrored : bool
        Left knee.
    """

    center: tuple[float, float]
    scale: float
    angle: float
    mirrored: bool

    @property
    def matrix(self) -> NDArray[np.float64]:
        """Linear part (2, 2) from mm of the knee to film pixels."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return self.scale * np.array([[cos, -sin], [sin, cos]]) @ np.diag([-1.0 if self.mirrored else 1.0, 1.0])

    def to_film(self, points: ArrayLike) -> NDArray[np.float64]:
        """Millimetres of the knee to film pixels.

        Parameters
        ----------
        points : array_like, shape (..., 2)
            (x, y) in mm.

        Returns
        -------
        ndarray, shape (..., 2)
            (x, y) in film pixels, integer = pixel centre.
        """
        return np.asarray(points, float) @ self.matrix.T + self.center

    def grid(self, window: Window, step: int) -> tuple[NDArray, NDArray]:
        """Knee coordinates of a coarse grid that covers a window.

        Parameters
        ----------
        window : (slice, slice)
            Rows and columns of the film.
        step : int
            Film pixels per grid cell.

        Returns
        -------
        x, y : ndarray, shape (h, w)
            mm of the knee at the cells' centres.
        """
        rows, columns = (np.arange(-(-(s.stop - s.start) // step)) * step + s.start + (step - 1) / 2 for s in window)
        inverse = np.linalg.inv(self.matrix)
        dx, dy = columns - self.center[0], rows[:, None] - self.center[1]
        x = (inverse[0, 0] * dx + inverse[0, 1] * dy).astype(np.float32)
        return x, (inverse[1, 0] * dx + inverse[1, 1] * dy).astype(np.float32)


def enlarge(coarse: NDArray, window: Window, step: int) -> NDArray:
    """Interpolate a coarse grid of `Pose.grid` to the film pixels of its window.

    Parameters
    ----------
    coarse : ndarray, shape (h, w)
        Values at cell centres.
    window : (slice, slice)
        Rows and columns of the film.
    step : int
        Film pixels per grid cell.

    Returns
    -------
    ndarray, shape (rows, columns)
        Bilinear interpolation.
    """
    rows, columns = (s.stop - s.start for s in window)
    height, width = coarse.shape
    return cv2.resize(coarse, (width * step, height * step), interpolation=cv2.INTER_LINEAR)[:rows, :columns]


def window_of(points: NDArray[np.float64], shape: tuple[int, int], margin: int = 2) -> Window:
    """Return the part of a film that holds some points.

    Parameters
    ----------
    points : ndarray, shape (n, 2)
        (x, y) in film pixels.
    shape : (int, int)
        Rows and columns of the film.
    margin : int
        Pixels around them.

    Returns
    -------
    (slice, slice)
        Rows and columns; empty when nothing lies on the film.
    """
    low = np.floor(points.min(axis=0)).astype(int) - margin
    high = np.ceil(points.max(axis=0)).astype(int) + margin + 1
    top, bottom = np.clip((low[1], high[1]), 0, shape[0])
    left, right = np.clip((low[0], high[0]), 0, shape[1])
    return slice(int(top), int(bottom)), slice(int(left), int(right))


def fill(points: NDArray[np.float64], window: Window, *, width: float = 0.0) -> NDArray:
    """Draw an outline, filled, or a line, in a window of a film, with subpixel vertices.

    Parameters
    ----------
    points : ndarray, shape (n, 2)
        (x, y) in film pixels.
    window : (slice, slice)
        Rows and columns of the film.
    width : float
        Line width in pixels; 0 fills the outline.

    Returns
    -------
    ndarray, shape (rows, columns)
        255 inside.
    """
    canvas = np.zeros((window[0].stop - window[0].start, window[1].stop - window[1].start), np.uint8)
    origin = [window[1].start, window[0].start]
    vertices = np.round((points - origin) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
    if width:
        cv2.polylines(canvas, [vertices], False, 255, max(round(width), 1), cv2.LINE_AA, _SUBPIXEL_BITS)
    else:
        cv2.fillPoly(canvas, [vertices], 255, cv2.LINE_8, _SUBPIXEL_BITS)
    return canvas
