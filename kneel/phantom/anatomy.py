"""A knee of a given Kellgren-Lawrence grade: landmarks, bones and the fine lines that a film shows of them.

All lengths are mm at the detector in the knee's own frame: origin at landmark 4 (the joint centre), right knee
(lateral = small x), y down. Left knees are mirrored when the film is made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from kneel.phantom.bones import (
    Bone,
    Spurs,
    femoral_surface,
    make_femur,
    make_fibula,
    make_patella,
    make_tibia,
    tibial_surface,
)
from kneel.phantom.curves import between, shifted
from kneel.phantom.shapes import SHAPE_SIZE, Compartment, draw_landmarks

# Kellgren and Lawrence 1957: 0 none; 1 doubtful lipping; 2 definite osteophytes; 3 several, definite narrowing, some
# sclerosis; 4 large osteophytes, marked narrowing, severe sclerosis, deformity. The means below grow accordingly; the
# spread makes neighbouring grades overlap, as they do for human readers.
_SPUR_MM = (0.25, 1.0, 2.3, 3.5, 5.2)
_SCLEROSIS = (0.0, 0.06, 0.2, 0.7, 1.4)
_SPINE_SHARPNESS = (0.25, 0.4, 0.55, 0.7, 0.8)
_CYST_CHANCE = (0.0, 0.0, 0.03, 0.15, 0.35)


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


@dataclass(frozen=True)
class Knee:
    """A knee before it is placed on a film.

    Attributes
    ----------
    kl : int
        Kellgren-Lawrence grade, 0 to 4.
    points : ndarray, shape (16, 2)
        Landmarks in mm, order of `kneel.imaging.schema.LANDMARKS`; each lies on the contour of its bone.
    narrowed : {"medial", "lateral"}
        Compartment with the narrower joint space.
    spurs : Spurs
        Osteophytes in mm.
    bones : tuple of Bone
        femur, tibia, fibula, patella.
    details : tuple of Detail
        Subchondral plates, rims, notch, scars, cysts.
    """

    kl: int
    points: NDArray[np.float64]
    narrowed: Compartment
    spurs: Spurs
    bones: tuple[Bone, ...]
    details: tuple[Detail, ...]


@dataclass(frozen=True)
class Habitus:
    """What both knees of a subject share.

    Attributes
    ----------
    latent : ndarray, shape (32,)
        Standard normal numbers behind the shape, see `draw_landmarks`.
    flexion : float
        Tilt of the plateaus against the ray in mm of rim that shows, about 0 to 5.
    arch : float
        Width of the notch, 0 to 1.
    """

    latent: NDArray[np.float64]
    flexion: float
    arch: float

    @classmethod
    def draw(cls, rng: Generator) -> Habitus:
        """Draw a subject.

        Parameters
        ----------
        rng : Generator
            Source of randomness.

        Returns
        -------
        Habitus
            The subject.
        """
        return cls(rng.standard_normal(SHAPE_SIZE), float(rng.gamma(2.5, 0.8)), float(rng.uniform(0, 1)))


def draw_knee(kl: int, rng: Generator, habitus: Habitus | None = None) -> Knee:
    """Draw a knee of a grade.

    Parameters
    ----------
    kl : int
        Kellgren-Lawrence grade, 0 to 4.
    rng : Generator
        Source of randomness.
    habitus : Habitus, optional
        The subject; drawn when not given.

    Returns
    -------
    Knee
        Landmarks, bones and details.

    Raises
    ------
    ValueError
        The grade is not 0 to 4.
    """
    habitus = habitus or Habitus.draw(rng)
    points, narrowed = draw_landmarks(kl, rng, latent=habitus.latent)
    spurs = _draw_spurs(kl, narrowed, rng)
    sharp = float(np.clip(rng.normal(_SPINE_SHARPNESS[kl], 0.15), 0, 1))
    # the femur leans laterally on its way up (physiological valgus); medial narrowing takes it towards varus
    lean = rng.normal(5.0, 2.0) - (kl * rng.normal(0.9, 0.4)) * (1 if narrowed == "medial" else -1)
    femur_tilt, tibia_tilt = -np.tan(np.radians(lean)), np.tan(np.radians(rng.normal(0, 1.5)))
    bones = (
        make_femur(points, spurs, float(femur_tilt), habitus.arch, rng),
        make_tibia(points, spurs, float(tibia_tilt), sharp, rng),
        make_fibula(points, rng),
        make_patella(points, rng),
    )
    sclerosis = _SCLEROSIS[kl] * rng.lognormal(0, 0.45) + abs(rng.normal(0, 0.05))
    details = (
        *_plates(points, narrowed, sclerosis, sharp, habitus, rng),
        *_notch(points, rng),
        *_scars(points, rng),
        *_cysts(points, narrowed, kl, rng),
    )
    return Knee(kl, points, narrowed, spurs, bones, details)


def _draw_spurs(kl: int, narrowed: Compartment, rng: Generator) -> Spurs:
    knee = _SPUR_MM[kl] * rng.lognormal(0, 0.22)
    medial, lateral = (1.15, 0.85) if narrowed == "medial" else (0.85, 1.15)
    lengths = knee * np.array([lateral, medial, lateral, medial]) * rng.lognormal(0, 0.35, 4)
    return Spurs(*np.clip(lengths, 0, 8.5).tolist())


def _plates(
    points: NDArray[np.float64], narrowed: Compartment, sclerosis: float, sharp: float, habitus: Habitus, rng: Generator
) -> list[Detail]:
    """Subchondral plates, thicker where the joint is narrow, and the far rims of the tilted plateaus."""
    details = []
    top, bottom = tibial_surface(points, sharp), femoral_surface(points, habitus.arch)
    for side, (low, high), (f_low, f_high) in (
        ("lateral", (points[0, 0] + 2, points[2, 0] + 5), (points[9, 0] + 3, points[11, 0])),
        ("medial", (points[6, 0] - 3, points[8, 0] - 2), (points[13, 0], points[15, 0] - 3)),
    ):
        worn = sclerosis if side == narrowed else 0.15 * sclerosis
        surface, condyle = between(top, low, high), between(bottom, f_low, f_high)
        thickness = rng.uniform(1.0, 1.8) + 1.1 * worn
        details += [
            _crescent(surface, thickness, 3.0 + 1.6 * worn, 0.25, "tibia"),
            _crescent(surface, 2.6 * thickness, 1.2 + 1.4 * worn, 0.8, "tibia"),
            _crescent(surface, 9 + 2 * worn, 2.2 * worn, 2.5, "tibia"),
            _crescent(condyle, -0.8 * thickness, 1.3 + 1.2 * worn, 0.4, "femur"),
            _crescent(condyle, -7 - 2 * worn, 1.6 * worn, 2.5, "femur"),
        ]
        rim = shifted(surface, dy=habitus.flexion * rng.uniform(0.6, 1.2) * np.hanning(len(surface) + 2)[1:-1] ** 0.3)
        details.append(Detail(rim, 0.7, rng.uniform(1.0, 3.0), 0.2, "tibia"))
    return details


def _crescent(surface: NDArray[np.float64], thickness: float, bone: float, blur: float, inside: str) -> Detail:
    """Band under an articular surface, thickest in its middle."""
    depth = thickness * np.hanning(len(surface) + 2)[1:-1] ** 0.5
    return Detail(np.concatenate([surface, shifted(surface, dy=depth)[::-1]]), 0.0, bone, blur, inside)


def _notch(points: NDArray[np.float64], rng: Generator) -> list[Detail]:
    """Intercondylar fossa: less bone between two walls that run on upwards from the notch."""
    roof = points[12]
    height, half = rng.uniform(12, 24), rng.uniform(7.5, 10.5)
    lateral = np.array(
        [[roof[0] - half, roof[1] + 6], [roof[0] - half - 1, roof[1] - 4], [roof[0] - 0.8 * half, roof[1] - height]]
    )
    medial = np.array(
        [[roof[0] + half, roof[1] + 6], [roof[0] + half, roof[1] - 5], [roof[0] + 0.85 * half, roof[1] - height]]
    )
    fossa = np.concatenate([lateral, medial[::-1]])
    return [
        Detail(fossa, 0.0, -rng.uniform(0.5, 2.0), 1.5, "femur"),
        Detail(lateral, 0.9, rng.uniform(0.5, 3.0), 0.45, "femur"),
        Detail(medial, 0.9, rng.uniform(1.5, 4.5), 0.4, "femur"),
    ]


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
        details.append(Detail(line, 0.8, rng.uniform(0.3, 1.8), 0.3, bone))
    return details


def _cysts(points: NDArray[np.float64], narrowed: Compartment, kl: int, rng: Generator) -> list[Detail]:
    """Subchondral cysts of advanced disease: small holes with a dense rim."""
    if rng.random() >= _CYST_CHANCE[kl]:
        return []
    turn = np.linspace(0, 2 * np.pi, 25)
    radius = rng.uniform(1.2, 3.0)
    center = points[7 if narrowed == "medial" else 1] + [rng.normal(0, 4), radius + rng.uniform(2, 5)]
    circle = center + radius * np.column_stack([np.cos(turn), 0.8 * np.sin(turn)])
    return [Detail(circle, 0.0, -2.5, 0.4, "tibia"), Detail(circle, 0.6, 1.5, 0.3, "tibia")]
