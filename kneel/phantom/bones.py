"""Contours and depth of the four bones of a knee, built around its 16 landmarks.

All lengths are mm in the knee's own frame: origin at landmark 4, right knee (lateral = small x), y down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from kneel.imaging.schema import FEMUR, TIBIA
from kneel.phantom.curves import closed, through_x, through_y

SHAFT_MM = 260.0  # how far shafts run from the joint: past the border of any film

# Half width of a bone in units of the half width at its corner landmarks, at a distance (mm) from the joint; read off films.
_TIBIA_MEDIAL = [(9, 1.01), (14, 1.0), (20, 0.96), (32, 0.83), (46, 0.68), (62, 0.54), (85, 0.43), (130, 0.37)]
_TIBIA_LATERAL = [(9, 1.02), (14, 1.03), (22, 0.98), (32, 0.83), (46, 0.63), (62, 0.5), (85, 0.42), (130, 0.37)]
_FEMUR_MEDIAL = [
    (8, 1.06),
    (12, 1.06),
    (18, 1.03),
    (24, 1.07),
    (31, 1.16),
    (37, 1.15),
    (43, 1.03),
    (50, 0.86),
    (62, 0.64),
]
_FEMUR_LATERAL = [
    (8, 1.05),
    (12, 1.03),
    (18, 1.01),
    (24, 1.08),
    (31, 1.17),
    (36, 1.13),
    (43, 0.99),
    (52, 0.82),
    (64, 0.61),
]
_FEMUR_SHAFT = [(80, 0.49), (105, 0.43), (140, 0.41)]

# Depth along the ray, reach of the rounded edge, cortex (all mm) and bone volume fraction, at y (mm).
_TIBIA_PROFILE = [
    (-12, 9, 4, 0.15, 0.20),
    (-3, 14, 4, 0.15, 0.20),
    (4, 30, 5, 0.15, 0.20),
    (9, 43, 6, 0.15, 0.19),
    (16, 46, 9, 0.25, 0.16),
    (30, 43, 12, 0.6, 0.12),
    (60, 34, 14, 2.2, 0.06),
    (100, 28, 13, 4.2, 0.02),
    (SHAFT_MM, 27, 13, 4.5, 0.02),
]
_FEMUR_PROFILE = [
    (-SHAFT_MM, 29, 15, 5.0, 0.02),
    (-130, 30, 15, 4.8, 0.02),
    (-90, 34, 16, 3.2, 0.03),
    (-62, 42, 17, 1.2, 0.06),
    (-45, 50, 18, 0.5, 0.10),
    (-30, 54, 18, 0.3, 0.13),
    (-15, 54, 16, 0.22, 0.15),
    (-5, 50, 14, 0.2, 0.16),
    (6, 42, 14, 0.2, 0.17),
]
_FIBULA_PROFILE = [
    (0, 12, 6, 0.35, 0.14),
    (20, 20, 10, 0.4, 0.12),
    (45, 14, 6, 1.2, 0.08),
    (90, 13, 6, 2.6, 0.02),
    (SHAFT_MM, 13, 6, 3.0, 0.02),
]
_PATELLA_PROFILE = [(-90, 17, 13, 0.3, 0.16), (0, 17, 13, 0.3, 0.16)]


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


@dataclass(frozen=True)
class Spurs:
    """Length in mm of the marginal osteophytes, at landmarks 0, 8, 9 and 15."""

    tibia_lateral: float
    tibia_medial: float
    femur_lateral: float
    femur_medial: float


def make_tibia(points: NDArray[np.float64], spurs: Spurs, tilt: float, sharp: float, rng: Generator) -> Bone:
    """Draw the tibia through landmarks 0 to 8.

    Parameters
    ----------
    points : ndarray, shape (16, 2)
        Landmarks in mm.
    spurs : Spurs
        Osteophytes.
    tilt : float
        Tangent of the angle of the shaft to the perpendicular of the plateaus; positive leans medially.
    sharp : float
        Sharpness of the spines, 0 round to 1 pointed.
    rng : Generator
        Small variations of the metaphysis.

    Returns
    -------
    Bone
        Its contour has every tibial landmark as a vertex.
    """
    tibia = points[TIBIA]
    top = tibial_surface(points, sharp)
    frame = _Frame.between(tibia[0], tibia[8], down=1)
    lateral = frame.wall(tibia[0], _varied(_TIBIA_LATERAL, rng), spurs.tibia_lateral, tilt)
    medial = frame.wall(tibia[8], _varied(_TIBIA_MEDIAL, rng), spurs.tibia_medial, tilt)
    return Bone("tibia", np.concatenate([top, medial[1:], lateral[:0:-1]]), np.array(_TIBIA_PROFILE, float).T)


def tibial_surface(points: NDArray[np.float64], sharp: float) -> NDArray[np.float64]:
    """Draw the upper contour of the tibia.

    Parameters
    ----------
    points : ndarray, shape (16, 2)
        Landmarks in mm.
    sharp : float
        Sharpness of the spines, 0 to 1.

    Returns
    -------
    ndarray, shape (n, 2)
        From landmark 0 to 8.
    """
    round_top = through_x(points[TIBIA])
    pointed = through_x(points[TIBIA], corners=(3, 5))
    return np.column_stack([round_top[:, 0], (1 - sharp) * round_top[:, 1] + sharp * pointed[:, 1]])


def make_femur(points: NDArray[np.float64], spurs: Spurs, tilt: float, arch: float, rng: Generator) -> Bone:
    """Draw the femur through landmarks 9 to 15.

    Parameters
    ----------
    points : ndarray, shape (16, 2)
        Landmarks in mm.
    spurs : Spurs
        Osteophytes.
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
    frame = _Frame.between(femur[0], femur[6], down=-1)
    lateral = frame.wall(femur[0], _varied(_FEMUR_LATERAL + _FEMUR_SHAFT, rng), spurs.femur_lateral, tilt)
    medial = frame.wall(femur[6], _varied(_FEMUR_MEDIAL + _FEMUR_SHAFT, rng), spurs.femur_medial, tilt)
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
    return through_x([*femur[:3], shoulders[0], roof, shoulders[1], *femur[4:]])


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
    x, y = points[0] + [rng.normal(3.5, 2.5), rng.normal(11, 2.5)]
    inner = np.array([(0, 0), (5.5, 5), (8.5, 12), (7, 24), (4, 40), (3.5, 70), (3.5, SHAFT_MM)])
    outer = np.array([(0, 0), (-8, 4), (-12, 12), (-10.5, 22), (-7.5, 40), (-7, 70), (-7, SHAFT_MM)])
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
    radius = 1 + 0.12 * np.maximum(np.sin(angle), 0) ** 4 + 0.05 * np.cos(2 * angle) + rng.normal(0, 0.015, len(angle))
    outline = np.column_stack([22.5 * radius * np.cos(angle), 20.5 * radius * np.sin(angle)]) * size
    profile = np.array(_PATELLA_PROFILE, float).T
    return Bone("patella", closed(outline) + center, profile)


@dataclass(frozen=True)
class _Frame:
    """Axes of a bone end: along the line of its two corners and away from the joint."""

    middle: NDArray[np.float64]
    across: NDArray[np.float64]
    away: NDArray[np.float64]
    half: float

    @classmethod
    def between(cls, left: NDArray[np.float64], right: NDArray[np.float64], *, down: int) -> _Frame:
        across = (right - left) / np.hypot(*(right - left))
        return cls(
            (left + right) / 2, across, down * np.array([-across[1], across[0]]), float(np.hypot(*(right - left)) / 2)
        )

    def wall(self, corner: NDArray[np.float64], table: ArrayLike, spur: float, tilt: float) -> NDArray[np.float64]:
        """Side of the bone from a corner landmark to the end of the shaft, undercut below an osteophyte."""
        sign = np.sign((corner - self.middle) @ self.across)
        distance, width = np.array(table, float).T
        base = 2.2 + 0.9 * spur
        # the spur ends at the landmark; the wall retreats behind it and comes back further down
        lip = [(0, self.half), (0.8 + 0.3 * spur, self.half + 0.5 - 0.3 * spur), (base, self.half + 0.9 - spur)]
        keep = distance > base + 2
        body = self.half * width[keep] - spur * np.exp(-(distance[keep] - base) / 10)
        knots = [*lip, *zip(distance[keep] * self.half / 37, body, strict=True), (SHAFT_MM, body[-1])]
        knots = [knot for i, knot in enumerate(knots) if i == 0 or knot[0] > max(k[0] for k in knots[:i])]
        away, out = through_x(knots).T
        lean = tilt * 12 * np.logaddexp(0, (away - 25) / 12)  # straight at the joint, tilted from 25 mm on
        return self.middle + np.outer(sign * out + lean, self.across) + np.outer(away, self.away)


def _varied(table: list[tuple[float, float]], rng: Generator) -> NDArray[np.float64]:
    values = np.array(table, float)
    values[:, 1] += rng.normal(0, 0.012, len(values))
    values[:, 0] *= rng.normal(1, 0.05)
    return values
