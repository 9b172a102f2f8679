"""Contours and depth of the four bones of a knee, built around its 16 landmarks.

All lengths are mm in the knee's own frame: origin at landmark 4, right knee (lateral = small x), y down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from kneel.imaging.schema import FEMUR, TIBIA
from kneel.phantom.condition import Condition
from kneel.phantom.curves import closed, through_x, through_y
from kneel.phantom.walls import FEMUR_LATERAL, FEMUR_MEDIAL, SHAFT_MM, TIBIA_LATERAL, TIBIA_MEDIAL, BoneEnd

# Depth along the ray, reach of the rounded edge, cortex (all mm) and bone volume fraction, at y (mm).
_TIBIA_PROFILE = [
    (-12, 9, 4, 0.15, 0.26),
    (-3, 14, 4, 0.15, 0.26),
    (4, 30, 5, 0.15, 0.26),
    (9, 43, 6, 0.15, 0.26),
    (16, 46, 6, 0.4, 0.23),
    (30, 43, 10, 0.6, 0.17),
    (60, 34, 14, 2.2, 0.06),
    (100, 28, 13, 4.2, 0.02),
    (SHAFT_MM, 27, 13, 4.5, 0.02),
]
_FEMUR_PROFILE = [
    (-SHAFT_MM, 29, 15, 5.0, 0.02),
    (-130, 30, 15, 4.8, 0.02),
    (-90, 34, 16, 3.2, 0.03),
    (-62, 42, 17, 1.0, 0.08),
    (-45, 50, 13, 0.5, 0.15),
    (-30, 54, 11, 0.4, 0.20),
    (-15, 54, 9, 0.38, 0.23),
    (-5, 50, 9, 0.3, 0.24),
    (6, 42, 9, 0.25, 0.25),
]
_FIBULA_PROFILE = [
    (0, 16, 7, 0.45, 0.25),
    (20, 24, 11, 0.6, 0.22),
    (45, 14, 6, 1.2, 0.08),
    (90, 13, 6, 2.6, 0.02),
    (SHAFT_MM, 13, 6, 3.0, 0.02),
]
_PATELLA_PROFILE = [(-90, 16, 22, 0.15, 0.2), (0, 16, 22, 0.15, 0.2)]


@dataclass(frozen=True)
class Bone:
    """One bone as the rays see it.

    Attributes
    ----------
    name : str
        femur, tibia, fibula or patella.
    contour : ndarray, shape (n, 2)
        Closed outline, (x, y) in mm.
    profile : ndarray, shape (5, k)
        Rows y (increasing), depth along the ray, reach of the rounded edge, cortex (all mm), bone volume fraction.
    """

    name: str
    contour: NDArray[np.float64]
    profile: NDArray[np.float64]


def make_tibia(points: NDArray[np.float64], condition: Condition, tilt: float, rng: Generator) -> Bone:
    """Draw the tibia through landmarks 0 to 8.

    Parameters
    ----------
    points : ndarray, shape (16, 2)
        Landmarks in mm.
    condition : Condition
        Osteophytes and spines.
    tilt : float
        Tangent of the angle of the shaft to the perpendicular of the plateaus; positive leans medially.
    rng : Generator
        Small variations of the metaphysis.

    Returns
    -------
    Bone
        Its contour has every tibial landmark as a vertex.
    """
    tibia = points[TIBIA]
    top = tibial_surface(points, condition.sharpness)
    end = BoneEnd.between(tibia[0], tibia[8], down=1)
    lateral = end.wall(tibia[0], TIBIA_LATERAL, condition.spurs.tibia_lateral, tilt, rng)
    medial = end.wall(tibia[8], TIBIA_MEDIAL, condition.spurs.tibia_medial, tilt, rng)
    return Bone("tibia", np.concatenate([top, medial[1:], lateral[:0:-1]]), np.array(_TIBIA_PROFILE, float).T)


def tibial_surface(points: NDArray[np.float64], sharpness: float) -> NDArray[np.float64]:
    """Draw the upper contour of the tibia.

    Parameters
    ----------
    points : ndarray, shape (16, 2)
        Landmarks in mm.
    sharpness : float
        Of the spines, 0 round to 1 pointed.

    Returns
    -------
    ndarray, shape (n, 2)
        From landmark 0 to 8.
    """
    round_top = through_x(points[TIBIA])
    pointed = through_x(points[TIBIA], corners=(3, 5))
    return np.column_stack([round_top[:, 0], (1 - sharpness) * round_top[:, 1] + sharpness * pointed[:, 1]])


def make_femur(points: NDArray[np.float64], condition: Condition, tilt: float, arch: float, rng: Generator) -> Bone:
    """Draw the femur through landmarks 9 to 15.

    Parameters
    ----------
    points : ndarray, shape (16, 2)
        Landmarks in mm.
    condition : Condition
        Osteophytes and spines.
    tilt : float
        Tangent of the angle of the shaft to the perpendicular of the condyles; positive leans medially.
    arch : float
        Width of the notch's roof, 0 a tent to 1 an arch.
    rng : Generator
        Small variations of the epicondyles.

    Returns
    -------
    Bone
        Its contour has every femoral landmark as a vertex.
    """
    femur = points[FEMUR]
    bottom = femoral_surface(points, arch)
    end = BoneEnd.between(femur[0], femur[6], down=-1)
    lateral = end.wall(femur[0], FEMUR_LATERAL, condition.spurs.femur_lateral, tilt, rng)
    medial = end.wall(femur[6], FEMUR_MEDIAL, condition.spurs.femur_medial, tilt, rng)
    return Bone("femur", np.concatenate([bottom, medial[1:], lateral[:0:-1]]), np.array(_FEMUR_PROFILE, float).T)


def femoral_surface(points: NDArray[np.float64], arch: float) -> NDArray[np.float64]:
    """Draw the lower contour of the femur.

    Parameters
    ----------
    points : ndarray, shape (16, 2)
        Landmarks in mm.
    arch : float
        Width of the notch's roof, 0 to 1.

    Returns
    -------
    ndarray, shape (n, 2)
        From landmark 9 to 15.
    """
    femur = points[FEMUR]
    roof = femur[3]
    shoulders = []
    for wall in (femur[2], femur[4]):
        # a point halfway to the wall that lies higher than the straight line makes an arch of a tent
        shoulders.append([0.5 * (roof[0] + wall[0]), roof[1] + (0.5 - 0.38 * arch) * (wall[1] - roof[1])])
    # condyles turn up towards their sides
    ends = [
        edge + 0.22 * (condyle - edge) + [0, 0.28 * (condyle - edge)[1]] for condyle, edge in (femur[1::-1], femur[5:])
    ]
    return through_x([femur[0], ends[0], *femur[1:3], shoulders[0], roof, shoulders[1], *femur[4:6], ends[1], femur[6]])


def make_fibula(points: NDArray[np.float64], rng: Generator) -> Bone:
    """Draw the fibula, whose head overlaps the lateral tibia.

    Parameters
    ----------
    points : ndarray, shape (16, 2)
        Landmarks in mm.
    rng : Generator
        Position, size and lean.

    Returns
    -------
    Bone
        The fibula.
    """
    size = (points[8, 0] - points[0, 0]) / 76 * rng.normal(1, 0.06)
    x, y = points[0] + [rng.normal(0.5, 2.5), rng.normal(11, 2.5)]
    inner = np.array([(0, 0), (3.2, 0.8), (6, 3.5), (8.3, 9), (8, 15), (6, 25), (4, 40), (3.5, 70), (3.5, SHAFT_MM)])
    outer = np.array(
        [(0, 0), (-4, 0.8), (-8, 3.5), (-11, 8), (-12, 13), (-10.5, 22), (-7.5, 40), (-7, 70), (-7, SHAFT_MM)]
    )
    lean = rng.normal(-0.03, 0.04)
    walls = [through_y(np.column_stack([side[:, 0] * size + lean * side[:, 1], side[:, 1]])) for side in (inner, outer)]
    profile = np.array(_FIBULA_PROFILE, float).T
    profile[0] += y
    return Bone("fibula", np.concatenate([walls[0], walls[1][:0:-1]]) + [x, y], profile)


def make_patella(points: NDArray[np.float64], rng: Generator) -> Bone:
    """Draw the patella, which lies in front of the distal femur.

    Parameters
    ----------
    points : ndarray, shape (16, 2)
        Landmarks in mm.
    rng : Generator
        Position, size and outline.

    Returns
    -------
    Bone
        The patella.
    """
    size = (points[15, 0] - points[9, 0]) / 74 * rng.normal(1, 0.06)
    center = [points[12, 0] + rng.normal(-3, 3), points[12, 1] - rng.normal(27, 4)]
    angle = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    radius = 1 + 0.14 * np.maximum(np.sin(angle), 0) ** 4 - 0.025 * np.cos(4 * angle) + rng.normal(0, 0.02, len(angle))
    outline = np.column_stack([22.5 * radius * np.cos(angle), 20.5 * radius * np.sin(angle)]) * size
    profile = np.array(_PATELLA_PROFILE, float).T
    return Bone("patella", closed(outline) + center, profile)
