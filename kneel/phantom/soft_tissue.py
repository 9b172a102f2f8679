"""The leg around the bones: muscle wrapped in fat, elliptical in cross-section."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from kneel.phantom.attenuation import Absorption
from kneel.phantom.pose import LOW, Pose, enlarge

# Half width of the leg in mm at y mm above (-) or below (+) the joint of a person of middling build.
KNEE_HALF_WIDTH_MM = 58.0
_OUTLINE = (
    [-260, -150, -90, -50, -20, 0, 20, 45, 80, 130, 180, 260],
    [78, 72, 66, 62, 60, KNEE_HALF_WIDTH_MM, 55, 54, 57, 59, 56, 47],
)


@dataclass(frozen=True)
class Leg:
    """Build of a leg.

    Attributes
    ----------
    size : float
        Width relative to the middling build.
    fat : float
        Thickness of the subcutaneous fat in mm.
    flatness : float
        Depth / width of the cross-section.
    shift : float
        mm by which the leg's axis lies medial of the joint centre.
    """

    size: float
    fat: float
    flatness: float
    shift: float


def leg_paths(leg: Leg, pose: Pose, shape: tuple[int, int]) -> tuple[NDArray, NDArray]:
    """Return mm of muscle and mm of fat along each ray.

    Parameters
    ----------
    leg : Leg
        Build.
    pose : Pose
        Place of its knee on the film.
    shape : (int, int)
        Rows and columns of the film.

    Returns
    -------
    muscle, fat : ndarray, shape (ceil(H / 8), ceil(W / 8))
        On the coarse grid of the film.
    """
    x, y = pose.grid((slice(0, shape[0]), slice(0, shape[1])), LOW)
    half = np.interp(y, *_OUTLINE).astype(np.float32) * np.float32(leg.size)
    # fat is thicker above the knee than on the shin
    layer = np.float32(leg.fat) * np.interp(y, [-150, 0, 60], [1.4, 1.0, 0.8]).astype(np.float32)
    outer = _ellipse(x - np.float32(leg.shift), half, leg.flatness)
    muscle = _ellipse(x - np.float32(leg.shift), half - layer, leg.flatness)
    return muscle, outer - muscle


def _ellipse(x: NDArray, half: NDArray, flatness: float) -> NDArray:
    inside = np.maximum(1 - np.abs(x / half) ** np.float32(3), 0)  # a leg is a little squarer than an ellipse
    return (2 * flatness * half * np.sqrt(inside)).astype(np.float32)


def legs_attenuation(
    legs: list[tuple[Leg, Pose]], shape: tuple[int, int], absorption: Absorption, rng: Generator
) -> NDArray:
    """Return the attenuation of the soft tissue of a whole film.

    Parameters
    ----------
    legs : list of (Leg, Pose)
        Legs on the film.
    shape : (int, int)
        Rows and columns of the film.
    absorption : Absorption
        Coefficients.
    rng : Generator
        Texture of muscle and fat.

    Returns
    -------
    ndarray, shape (H, W)
        Line integrals.
    """
    coarse = np.zeros((-(-shape[0] // LOW), -(-shape[1] // LOW)), np.float32)
    for leg, pose in legs:
        muscle, fat = leg_paths(leg, pose, shape)
        cell = LOW / pose.scale
        bundles = _noise(coarse.shape, (3 / cell, 18 / cell), 0.01, rng)
        bundles += _noise(coarse.shape, (12 / cell, 16 / cell), 0.02, rng)
        strands = _noise(coarse.shape, (2.5 / cell, 6 / cell), 0.012, rng)
        coarse += np.float32(absorption.muscle) * muscle * (1 + bundles) + np.float32(absorption.fat) * fat * (
            1 + strands
        )
    return enlarge(coarse, (slice(0, shape[0]), slice(0, shape[1])), LOW)


def _noise(shape: tuple[int, ...], sigma: tuple[float, float], strength: float, rng: Generator) -> NDArray:
    noise = cv2.GaussianBlur(rng.standard_normal(shape, dtype=np.float32), (0, 0), sigma[0], sigmaY=sigma[1])
    return noise * np.float32(strength / noise.std())
