"""Landmark shapes of a Kellgren-Lawrence grade, drawn from the statistics of KNEEL's annotations.

The figures are those of Tiulpin, Melekhov and Saarakkala (ICCVW 2019, arXiv:1907.12237), see
``shape_statistics.json``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from kneel.imaging.schema import CENTER, FEMUR, TIBIA

Compartment = Literal["medial", "lateral"]
STATISTICS = Path(__file__).with_name("shape_statistics.json")
SHAPE_SIZE = 32
MIN_GAP_MM = 0.25  # bone on bone still has its two cortices side by side
_LIMIT_SD = 2.5  # modes are clipped here: a Gaussian tail is not a knee
_ATTEMPTS = 100


@dataclass(frozen=True)
class GradeShape:
    """Statistics of one grade.

    Attributes
    ----------
    medial_share : float
        Share of knees whose medial joint space is the narrower one.
    means : dict
        Mean shape (32,) in mm for each narrower compartment.
    modes : ndarray, shape (k, 32)
        Orthonormal deviations from the mean.
    sd : ndarray, shape (k,)
        Their standard deviations in mm.
    """

    medial_share: float
    means: dict[Compartment, NDArray[np.float64]]
    modes: NDArray[np.float64]
    sd: NDArray[np.float64]


@cache  # the file never changes while we run
def grade_shapes() -> tuple[GradeShape, ...]:
    """Load the statistics of the five grades.

    Returns
    -------
    tuple of GradeShape
        Grades 0 to 4.
    """
    grades = json.loads(STATISTICS.read_text(encoding="utf-8"))["grades"]
    return tuple(
        GradeShape(
            grade["narrowed"]["medial"]["share"],
            {name: np.array(grade["narrowed"][name]["mean"]) for name in ("medial", "lateral")},
            np.array(grade["modes"]),
            np.array(grade["sd"]),
        )
        for grade in grades
    )


def draw_landmarks(
    kl: int, rng: Generator, *, latent: NDArray[np.float64] | None = None, likeness: float = 0.6
) -> tuple[NDArray[np.float64], Compartment]:
    """Draw the 16 landmarks of a knee.

    Parameters
    ----------
    kl : int
        Kellgren-Lawrence grade, 0 to 4.
    rng : Generator
        Source of randomness.
    latent : ndarray, shape (32,), optional
        Standard normal numbers that both knees of a subject share. They live in the space of the shapes, not of the
        modes, so that knees of unlike grades resemble each other too.
    likeness : float
        Correlation of the two knees of a subject who share `latent`, 0 to 1.

    Returns
    -------
    points : ndarray, shape (16, 2)
        (x, y) in mm relative to the joint centre, right knee (lateral = small x), y down.
    narrowed : {"medial", "lateral"}
        Compartment with the narrower joint space.

    Raises
    ------
    ValueError
        The grade is not 0 to 4.
    """
    if kl not in range(5):
        raise ValueError(f"kl is {kl!r}: must be 0 to 4")
    grade = grade_shapes()[kl]
    narrowed: Compartment = "medial" if rng.random() < grade.medial_share else "lateral"
    for attempt in range(_ATTEMPTS):
        normal = rng.standard_normal(SHAPE_SIZE)
        if latent is not None:
            # a subject whose latent fits no knee of this grade is let go step by step
            shared = likeness * min(1.0, 2 * (1 - attempt / _ATTEMPTS))
            normal = np.sqrt(shared) * latent + np.sqrt(1 - shared) * normal
        weights = np.clip(grade.modes @ normal, -_LIMIT_SD, _LIMIT_SD) * grade.sd
        points = (grade.means[narrowed] + weights @ grade.modes).reshape(16, 2)
        points = _part_bones(points - points[CENTER])
        if _is_ordered(points):
            return points, narrowed
    raise RuntimeError(f"no plausible shape of grade {kl} in {_ATTEMPTS} draws: {STATISTICS} may be damaged")


def _is_ordered(points: NDArray[np.float64]) -> bool:
    """Landmarks run from lateral to medial, spines and notch point up, and the notch is clear of the spines."""
    tibia, femur = points[TIBIA], points[FEMUR]
    steps = min(np.diff(tibia[:, 0]).min(), np.diff(femur[:, 0]).min())
    spines_up = min(tibia[2, 1] - tibia[3, 1], tibia[6, 1] - tibia[5, 1]) > 1
    notch_up = min(femur[2, 1], femur[4, 1]) - femur[3, 1] > 2
    return bool(steps > 1.5 and spines_up and notch_up and _gap(points, femur[2, 0], femur[4, 0])[1].min() > 0)


def _part_bones(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lift the femur where it would enter the tibia, hinged so that the other compartment stays as it is."""
    points = points.copy()
    femur = points[FEMUR]
    if np.diff(points[TIBIA][:, 0]).min() <= 0 or np.diff(femur[:, 0]).min() <= 0:
        return points  # not a shape; the caller draws again
    for inner, outer in ((4, 6), (2, 0)):
        for _ in range(4):  # a lift of the landmarks reaches a contact between them only in part
            x, gap = _gap(points, femur[inner, 0], femur[outer, 0])
            lack = MIN_GAP_MM - gap.min()
            if lack <= 0:
                break
            # full lift at the place of contact and beyond, none across the joint
            femur[:, 1] -= lack * np.clip(femur[:, 0] / x[gap.argmin()], 0, 1)
    return points


def _gap(points: NDArray[np.float64], start: float, end: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Height of the joint space at places between two x, measured between the smooth contours."""
    tibia, femur = points[TIBIA], points[FEMUR]
    x = np.linspace(start, end, 60)
    inside = np.clip(x, tibia[0, 0], tibia[-1, 0])
    return x, PchipInterpolator(*tibia.T)(inside) - PchipInterpolator(*femur.T)(x)
