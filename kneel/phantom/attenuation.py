"""From anatomy to attenuation: path lengths of the rays through bone, muscle and fat, times what they absorb."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from kneel.phantom.anatomy import Detail, Knee
from kneel.phantom.bones import Bone

Window = tuple[slice, slice]
LOW = 8  # fields without edges are computed on a grid this much coarser than the film
_SUBPIXEL_BITS = 4

# Linear attenuation in 1/mm at 40, 50 and 60 keV (NIST XCOM / ICRU-44 compositions): knees are taken at 60 to 75 kVp,
# whose mean energy behind the leg is 40 to 50 keV.
_KEV = (40.0, 50.0, 60.0)
_MUSCLE = (0.0282, 0.0238, 0.0215)
_FAT = (0.0228, 0.0202, 0.0188)
_COMPACT_BONE = (0.1278, 0.0814, 0.0604)


@dataclass(frozen=True)
class Absorption:
    """Linear attenuation coefficients in 1/mm at one effective energy; marrow absorbs like fat."""

    muscle: float
    fat: float
    compact: float

    @classmethod
    def at(cls, kev: float) -> Absorption:
        """Interpolate the tables, log-log.

        Parameters
        ----------
        kev : float
            Effective energy, 40 to 60 keV.

        Returns
        -------
        Absorption
            Coefficients.
        """
        values = (
            np.exp(np.interp(np.log(kev), np.log(_KEV), np.log(table))) for table in (_MUSCLE, _FAT, _COMPACT_BONE)
        )
        return cls(*(float(value) for value in values))


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

    def grid(self, window: Window, step: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
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


def enlarge(coarse: NDArray[np.float32], window: Window, step: int) -> NDArray[np.float32]:
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


def fill(points: NDArray[np.float64], window: Window, *, width: float = 0.0) -> NDArray[np.uint8]:
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


def add_knee(
    attenuation: NDArray[np.float32],
    knee: Knee,
    pose: Pose,
    absorption: Absorption,
    texture: NDArray[np.float32] | None,
    density: float = 1.0,
) -> None:
    """Add the bones of a knee to an attenuation map, in place of the muscle that they displace.

    Parameters
    ----------
    attenuation : ndarray, shape (H, W)
        Line integrals, changed in place: it is the one large buffer of a film.
    knee : Knee
        Anatomy.
    pose : Pose
        Its place on the film.
    absorption : Absorption
        Coefficients.
    texture : ndarray or None
        Trabecular pattern of `trabeculae`; None leaves bone smooth.
    density : float
        Factor of the bone volume fraction (osteoporosis below 1).
    """
    for bone in knee.bones:
        contour = pose.to_film(bone.contour)
        window = window_of(contour, attenuation.shape)
        part = attenuation[window]
        if part.size == 0:
            continue
        mineral, volume = _paths(bone, fill(contour, window), pose, window, texture, density)
        inside = volume > 0
        for detail in knee.details:
            if detail.inside == bone.name:
                _add_detail(mineral, detail, pose, window)
        mineral = np.maximum(mineral, 0) * inside
        part += mineral * np.float32(absorption.compact - absorption.fat)
        part += volume * np.float32(absorption.fat - absorption.muscle)


def _paths(
    bone: Bone, mask: NDArray[np.uint8], pose: Pose, window: Window, texture: NDArray[np.float32] | None, density: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mm of compact bone and mm of whole bone along each ray.

    The cross-section is a slab of the profile's depth whose edges are rounded like an ellipse: depth at a distance d
    from the contour is ``D sqrt(1 - (1 - d/r)^2)``, the cortex what is left when the same shape, shrunk by its
    thickness, is taken out. Near the contour the ray runs along the cortex: hence the bright rims of bones.
    """
    inside = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_5)
    inside = np.maximum(inside - 0.5, 0) / np.float32(pose.scale)  # 0.5: the contour runs between two pixel centres
    x, y = pose.grid(window, LOW)
    depth, edge, cortex, fraction = (
        enlarge(np.interp(y, bone.profile[0], row).astype(np.float32), window, LOW) for row in bone.profile[1:]
    )
    volume = depth * _rounded(inside / edge)
    core = np.maximum(depth - 2 * cortex, 0) * _rounded((inside - cortex) / (edge - cortex))
    mineral = volume - core
    if texture is not None:
        u, v = _texture_place(x, y)
        pattern = cv2.remap(
            texture, enlarge(u, window, LOW), enlarge(v, window, LOW), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
        )
        fraction = fraction * (1 + pattern)
    mineral += core * fraction * np.float32(density)
    return mineral, volume


def _rounded(share: NDArray[np.float32]) -> NDArray[np.float32]:
    """Quarter ellipse: 0 at 0, 1 from 1 on."""
    rest = 1 - np.clip(share, 0, 1)
    return cv2.sqrt(1 - rest * rest)


def _add_detail(mineral: NDArray[np.float32], detail: Detail, pose: Pose, window: Window) -> None:
    line = pose.to_film(detail.line)
    blur = max(detail.blur * pose.scale, 0.5)
    near = window_of(line, (window[0].stop, window[1].stop), margin=int(3 * blur) + 2)
    rows = slice(max(near[0].start, window[0].start), near[0].stop)
    columns = slice(max(near[1].start, window[1].start), near[1].stop)
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    drawn = fill(line, (rows, columns), width=detail.width * pose.scale).astype(np.float32)
    drawn = cv2.GaussianBlur(drawn, (0, 0), blur)
    target = mineral[
        rows.start - window[0].start : rows.stop - window[0].start,
        columns.start - window[1].start : columns.stop - window[1].start,
    ]
    target += drawn * np.float32(detail.bone / 255)


# Trabecular pattern: a canvas in the knee's frame whose columns converge with the bones towards the shafts.
_CANVAS_MM = 0.25
_CANVAS_HALF = (48.0, 120.0)
_SPREAD = ([-120, -90, -60, -40, 0, 12, 30, 50, 75, 120], [0.42, 0.5, 0.72, 0.95, 1.0, 1.0, 0.88, 0.66, 0.5, 0.42])


def trabeculae(rng: Generator, strength: float) -> NDArray[np.float32]:
    """Draw the trabecular pattern of a knee: mostly along the load, crossed by finer horizontal struts.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    strength : float
        Standard deviation relative to the bone volume fraction.

    Returns
    -------
    ndarray, shape (960, 384)
        Zero mean; pixels of 0.25 mm in the knee's frame.
    """
    shape = tuple(int(2 * half / _CANVAS_MM) for half in _CANVAS_HALF[::-1])
    total = np.zeros(shape, np.float32)
    for sigma_x, sigma_y, weight in ((0.22, 1.8, 1.0), (0.5, 4.0, 0.5), (1.4, 0.2, 0.45), (3.0, 4.0, 0.6)):
        noise = rng.standard_normal(shape, np.float32)
        noise = cv2.GaussianBlur(noise, (0, 0), sigma_x / _CANVAS_MM, sigmaY=sigma_y / _CANVAS_MM)
        total += noise * np.float32(weight / noise.std())
    return total * np.float32(strength / total.std())


def _texture_place(x: NDArray[np.float32], y: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    spread = np.interp(y, *_SPREAD).astype(np.float32)
    return (x / spread + _CANVAS_HALF[0]) / _CANVAS_MM - 0.5, (y + _CANVAS_HALF[1]) / _CANVAS_MM - 0.5
