"""What a film shows of a knee besides the outlines of its bones: plates, rims, notch, scars, cysts.

Lengths are mm in the knee's own frame, see `kneel.phantom.anatomy`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from kneel.phantom.bones import Bone, femoral_surface, tibial_surface
from kneel.phantom.condition import Condition
from kneel.phantom.curves import between, shifted, through_x


@dataclass(frozen=True)
class Detail:
    """Something thinner than a bone that adds to it or takes away from it.

    Attributes
    ----------
    line : ndarray, shape (n, 2)
        Line, or outline when `width` is 0, in mm.
    width : float
        Width of the line in mm; 0 fills the outline.
    bone : float
        mm of compact bone along the ray; negative takes bone away.
    blur : float
        Softness in mm.
    inside : str
        Name of the bone it is confined to.
    """

    line: NDArray[np.float64]
    width: float
    bone: float
    blur: float
    inside: str


def draw_details(
    bones: tuple[Bone, ...],
    points: NDArray[np.float64],
    condition: Condition,
    *,
    flexion: float,
    arch: float,
    rng: Generator,
) -> tuple[Detail, ...]:
    """Draw everything but the outlines.

    Parameters
    ----------
    bones : tuple of Bone
        The knee's bones.
    points : ndarray, shape (16, 2)
        Landmarks in mm.
    condition : Condition
        State of the knee.
    flexion : float
        mm of plateau rim that shows.
    arch : float
        Width of the notch, 0 to 1.
    rng : Generator
        Source of randomness.

    Returns
    -------
    tuple of Detail
        In no particular order.
    """
    top, bottom = tibial_surface(points, condition.sharpness), femoral_surface(points, arch)
    details = [*_notch(points, rng), *_scars(points, rng), *_ridges(points, rng)]
    for side, plateau, condyle in (
        ("lateral", (points[0, 0] + 2, points[2, 0] + 5), (points[9, 0] + 3, points[11, 0])),
        ("medial", (points[6, 0] - 3, points[8, 0] - 2), (points[13, 0], points[15, 0] - 3)),
    ):
        worn = condition.sclerosis * (1 if side == condition.narrowed else 0.15)
        details += _plates(between(top, *plateau), between(bottom, *condyle), worn, flexion, rng)
    for bone in bones:
        if bone.name in ("femur", "tibia"):
            details += _margins(bone, rng)
    if condition.cyst:
        details += _cyst(points[7 if condition.narrowed == "medial" else 1], rng)
    return tuple(details)


def _plates(
    surface: NDArray[np.float64], condyle: NDArray[np.float64], worn: float, flexion: float, rng: Generator
) -> list[Detail]:
    """Subchondral plates of a compartment, the far rim of its tilted plateau and the far edge of its condyle."""
    thickness = rng.uniform(1.0, 1.8) + 0.7 * worn
    details = [
        _crescent(surface, thickness, 5.5 + 2.4 * worn, 0.25, "tibia"),
        _crescent(surface, 2.8 * thickness, 1.6 + 1.4 * worn, 1.0 + 0.5 * worn, "tibia"),
        _crescent(surface, 11 + 2 * worn, 1.1 * worn, 4.0, "tibia"),
        _crescent(condyle, -0.8 * thickness, 1.6 + 1.7 * worn, 0.4, "femur"),
        _crescent(condyle, -8 - 2 * worn, 1.0 * worn, 3.0, "femur"),
    ]
    rim = shifted(surface, dy=flexion * rng.uniform(0.6, 1.2) * np.hanning(len(surface) + 2)[1:-1] ** 0.3)
    details += _strands(rim, rng.uniform(1.0, 4.5), "tibia", rng)
    far = shifted(condyle, dx=rng.normal(0, 1.5), dy=-rng.uniform(1.2, 5))
    details += _strands(far, rng.uniform(0.2, 2.0), "femur", rng)
    return details


def _crescent(surface: NDArray[np.float64], thickness: float, bone: float, blur: float, inside: str) -> Detail:
    """Band under an articular surface, thickest in its middle."""
    depth = thickness * np.hanning(len(surface) + 2)[1:-1] ** 0.5
    return Detail(np.concatenate([surface, shifted(surface, dy=depth)[::-1]]), 0.0, bone, blur, inside)


def _strands(line: NDArray[np.float64], bone: float, inside: str, rng: Generator) -> list[Detail]:
    """Draw a bony edge as it looks on a film: several strands, none of the full length, none quite in place."""
    details = []
    for _ in range(4):
        first, last = np.sort(rng.uniform(-0.3, 1.3, 2).clip(0, 1) * (len(line) - 1)).astype(int)
        if last - first >= 2:
            wander = rng.normal(0, 0.3, 2) + np.outer(np.linspace(-1, 1, last - first + 1), rng.normal(0, 0.3, 2))
            details.append(Detail(line[first : last + 1] + wander, 0.5, 0.42 * bone, rng.uniform(0.2, 0.5), inside))
    return details


def _notch(points: NDArray[np.float64], rng: Generator) -> list[Detail]:
    """Intercondylar fossa: less bone between two walls that run on upwards from the notch."""
    roof = points[12]
    height, half, foot = rng.uniform(14, 26), rng.uniform(7.5, 10.5), rng.uniform(4, 7)
    details = []
    outline = []
    for sign, low, high in ((-1, 1.0, 4.5), (1, 2.0, 6.0)):
        knots = np.column_stack([[0, 0.3, 0.7, 1], rng.normal([0.7, 0.85, 1, 1.1], 0.1)])
        up, out = through_x(knots * [100, 1]).T
        wall = np.column_stack([roof[0] + sign * half * out[::-1], roof[1] + foot - up / 100 * (height + foot)])
        outline.append(wall)
        details += _strands(wall, rng.uniform(low, high), "femur", rng)
    fossa = np.concatenate([outline[0], outline[1][::-1]])
    return [Detail(fossa, 0.0, -rng.uniform(0.5, 2.5), 1.5, "femur"), *details]


def _scars(points: NDArray[np.float64], rng: Generator) -> list[Detail]:
    """Scars of the growth plates: thin wavy lines across both metaphyses."""
    details = []
    for bone, y, half in (
        ("femur", points[12, 1] - rng.uniform(20, 28), 33.0),
        ("tibia", points[1, 1] + rng.uniform(11, 16), 32.0),
    ):
        x = np.linspace(-half, half, 60) * rng.uniform(0.85, 1.0)
        wave = sum(rng.normal(0, 1.6 / k) * np.sin(k * x / 18 + rng.uniform(0, 6.3)) for k in (1, 2, 3, 5))
        start = rng.integers(0, 20)
        line = np.column_stack([x, y + wave])[start : start + rng.integers(25, 60)]
        details += _strands(line, rng.uniform(0.4, 2.2), bone, rng)
    return details


def _ridges(points: NDArray[np.float64], rng: Generator) -> list[Detail]:
    """Edges of the intercondylar area in front of and behind the spines: short lines fanning out below them."""
    details = []
    for spine, outwards in ((points[3], -1), (points[5], 1), (points[4], rng.choice([-1, 1]))):
        length, slope, bend = rng.uniform(6, 15), rng.uniform(0.4, 1.6), rng.normal(0, 0.03)
        along = np.linspace(0, length, 20)
        start = spine + [rng.normal(0, 1.0), rng.uniform(1.5, 4)]
        line = start + np.column_stack([outwards * along, slope * along + bend * along**2]) / np.hypot(1, slope)
        details += _strands(line, rng.uniform(0.8, 3.5), "tibia", rng)
    return details


def _margins(bone: Bone, rng: Generator) -> list[Detail]:
    """Front and back edges of a bone end that do not lie on its outline: lines inside of both sides."""
    details = []
    x, y = bone.contour.T
    middle = bone.contour[np.abs(y) < 12, 0].mean()
    for side in (-1, 1):
        start, length = rng.uniform(6, 16), rng.uniform(12, 26)
        chosen = (
            (np.sign(x - middle) == side)
            & (np.abs(np.abs(y) - start - length / 2) < length / 2)
            & (abs(x - middle) > 22)
        )
        line = bone.contour[chosen & ((y < 0) == (bone.name == "femur"))]
        if len(line) > 8:
            inwards = rng.uniform(1.5, 6) * np.hanning(len(line) + 2)[1:-1] ** 0.35
            details += _strands(shifted(line, dx=-side * inwards), rng.uniform(0.8, 3.5), bone.name, rng)
    return details


def _cyst(place: NDArray[np.float64], rng: Generator) -> list[Detail]:
    """Subchondral cyst of advanced disease: a small hole with a dense rim."""
    turn = np.linspace(0, 2 * np.pi, 25)
    radius = rng.uniform(1.2, 3.0)
    center = place + [rng.normal(0, 4), radius + rng.uniform(2, 5)]
    circle = center + radius * np.column_stack([np.cos(turn), 0.8 * np.sin(turn)])
    return [Detail(circle, 0.0, -2.5, 0.4, "tibia"), Detail(circle, 0.6, 1.5, 0.3, "tibia")]
