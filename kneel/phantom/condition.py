"""What a Kellgren-Lawrence grade does to a knee besides its shape: osteophytes, sclerosis, spines, cysts.

Kellgren and Lawrence 1957: 0 none; 1 doubtful lipping; 2 definite osteophytes; 3 several, definite narrowing, some
sclerosis; 4 large osteophytes, marked narrowing, severe sclerosis, deformity. The means below grow accordingly; the
spread makes neighbouring grades overlap, as they do for human readers. Narrowing itself is in the drawn shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from kneel.phantom.shapes import Compartment

_SPUR_MM = (0.2, 0.9, 2.0, 3.0, 4.2)
_SCLEROSIS = (0.0, 0.06, 0.2, 0.7, 1.4)
_SPINE_SHARPNESS = (0.25, 0.4, 0.55, 0.7, 0.8)
_CYST_CHANCE = (0.0, 0.0, 0.03, 0.15, 0.35)
_VARUS_DEGREES = 0.9  # per grade, when the medial side is the narrow one; valgus when it is the lateral


@dataclass(frozen=True)
class Spurs:
    """Length in mm of the marginal osteophytes, at landmarks 0, 8, 9 and 15."""

    tibia_lateral: float
    tibia_medial: float
    femur_lateral: float
    femur_medial: float


@dataclass(frozen=True)
class Condition:
    """State of a knee.

    Attributes
    ----------
    kl : int
        Kellgren-Lawrence grade, 0 to 4.
    narrowed : {"medial", "lateral"}
        Compartment with the narrower joint space.
    spurs : Spurs
        Osteophytes.
    sclerosis : float
        Thickening of the subchondral bone on the narrowed side, 0 none to 2.4.
    sharpness : float
        Of the tibial spines, 0 round to 1 pointed.
    cyst : bool
        Whether a subchondral cyst shows.
    varus : float
        Degrees by which the femur leans more to varus than in health.
    """

    kl: int
    narrowed: Compartment
    spurs: Spurs
    sclerosis: float
    sharpness: float
    cyst: bool
    varus: float

    @classmethod
    def draw(cls, kl: int, narrowed: Compartment, rng: Generator) -> Condition:
        """Draw the state of a knee.

        Parameters
        ----------
        kl : int
            Kellgren-Lawrence grade, 0 to 4.
        narrowed : {"medial", "lateral"}
            Compartment with the narrower joint space.
        rng : Generator
            Source of randomness.

        Returns
        -------
        Condition
            The state.
        """
        medial, lateral = (1.15, 0.85) if narrowed == "medial" else (0.85, 1.15)
        sides = np.array([lateral, medial, lateral, medial])
        lengths = _SPUR_MM[kl] * rng.lognormal(0, 0.32) * sides * rng.lognormal(0, 0.5, 4)
        return cls(
            kl=kl,
            narrowed=narrowed,
            spurs=Spurs(*np.clip(lengths, 0, 8.5).tolist()),
            sclerosis=float(np.clip(_SCLEROSIS[kl] * rng.lognormal(0, 0.6) + abs(rng.normal(0, 0.1)), 0, 2.4)),
            sharpness=float(np.clip(rng.normal(_SPINE_SHARPNESS[kl], 0.15), 0, 1)),
            cyst=bool(rng.random() < _CYST_CHANCE[kl]),
            varus=float(kl * rng.normal(_VARUS_DEGREES, 0.4) * (1 if narrowed == "medial" else -1)),
        )
