"""From anatomy to attenuation: path lengths of the rays through bone, muscle and fat, times what they absorb."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from kneel.phantom.anatomy import Knee
from kneel.phantom.bones import Bone
from kneel.phantom.details import Detail
from kneel.phantom.pose import LOW, Pose, Window, enlarge, fill, window_of

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


def add_knee(
    attenuation: NDArray,
    knee: Knee,
    pose: Pose,
    absorption: Absorption,
    texture: NDArray | None,
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
    bone: Bone, mask: NDArray, pose: Pose, window: Window, texture: NDArray | None, density: float
) -> tuple[NDArray, NDArray]:
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
    if texture is not None:
        # the cortex is uneven; the pattern, read at a quarter of its frequency, says where
        u, v = _texture_place(x, y)
        uneven = cv2.blur(cv2.remap(texture, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT), (5, 5))
        uneven = enlarge(np.exp(0.6 * uneven / max(uneven.std(), 1e-6)).clip(0.4, 2).astype(np.float32), window, LOW)
        cortex = cortex * (1 + (uneven - 1) * np.clip(1.2 - cortex, 0, 1))  # shafts are even
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


def _rounded(share: NDArray) -> NDArray:
    """Quarter ellipse: 0 at 0, 1 from 1 on."""
    rest = 1 - np.clip(share, 0, 1)
    return cv2.sqrt(1 - rest * rest)


def _add_detail(mineral: NDArray, detail: Detail, pose: Pose, window: Window) -> None:
    line = pose.to_film(detail.line)
    blur = max(detail.blur * pose.scale, 0.5)
    near = window_of(line, (window[0].stop, window[1].stop), margin=int(3 * blur) + 2)
    rows = slice(max(near[0].start, window[0].start), near[0].stop)
    columns = slice(max(near[1].start, window[1].start), near[1].stop)
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    drawn = fill(line, (rows, columns), width=detail.width * pose.scale).astype(np.float32)
    softened = cv2.GaussianBlur(drawn, (0, 0), blur)
    target = mineral[
        rows.start - window[0].start : rows.stop - window[0].start,
        columns.start - window[1].start : columns.stop - window[1].start,
    ]
    target += softened * np.float32(detail.bone / 255)


# Trabecular pattern: a canvas in the knee's frame whose columns converge with the bones towards the shafts.
_CANVAS_MM = 0.16
_CANVAS_HALF = (48.0, 80.0)
_SPREAD = ([-120, -90, -60, -40, 0, 12, 30, 50, 75, 120], [0.42, 0.5, 0.72, 0.95, 1.0, 1.0, 0.88, 0.66, 0.5, 0.42])


def trabeculae(rng: Generator, strength: float) -> NDArray:
    """Draw the trabecular pattern of a knee: mostly along the load, crossed by finer horizontal struts.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    strength : float
        Standard deviation relative to the bone volume fraction.

    Returns
    -------
    ndarray, shape (1000, 600)
        Zero mean; pixels of 0.16 mm in the knee's frame.
    """
    shape = tuple(int(2 * half / _CANVAS_MM) for half in _CANVAS_HALF[::-1])
    total = np.zeros(shape, np.float32)
    for sigma_x, sigma_y, weight in ((0.14, 0.38, 1.0), (0.22, 2.5, 0.5), (0.6, 0.14, 0.45), (3.5, 5.0, 0.3)):
        noise: NDArray = rng.standard_normal(shape, dtype=np.float32)
        noise = cv2.GaussianBlur(noise, (0, 0), sigma_x / _CANVAS_MM, sigmaY=sigma_y / _CANVAS_MM)
        total += noise * np.float32(weight / noise.std())
    return total * np.float32(strength / total.std())


def _texture_place(x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    spread = np.interp(y, *_SPREAD).astype(np.float32)
    return (x / spread + _CANVAS_HALF[0]) / _CANVAS_MM - 0.5, (y + _CANVAS_HALF[1]) / _CANVAS_MM - 0.5
