"""A knee of a given Kellgren-Lawrence grade: landmarks, bones and the fine lines that a film shows of them.

All lengths are mm at the detector in the knee's own frame: origin at landmark 4 (the joint centre), right knee
(lateral = small x), y down. Left knees are mirrored when the film is made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from kneel.phantom.bones import Bone, make_femur, make_fibula, make_patella, make_tibia
from kneel.phantom.condition import Condition
from kneel.phantom.details import Detail, draw_details
from kneel.phantom.shapes import SHAPE_SIZE, draw_landmarks


@dataclass(frozen=True)
class Knee:
    """A knee before it is placed on a film.

    Attributes
    ----------
    condition : Condition
        Grade, narrowed compartment, osteophytes, sclerosis.
    points : ndarray, shape (16, 2)
        Landmarks in mm, order of `kneel.imaging.schema.LANDMARKS`; each lies on the contour of its bone.
    bones : tuple of Bone
        femur, tibia, fibula, patella.
    details : tuple of Detail
        Subchondral plates, rims, notch, scars, cysts.
    """

    condition: Condition
    points: NDArray[np.float64]
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
    condition = Condition.draw(kl, narrowed, rng)
    # on its way up the femur leans laterally (physiological valgus)
    femur_tilt = -np.tan(np.radians(rng.normal(5.0, 2.0) - condition.varus))
    tibia_tilt = np.tan(np.radians(rng.normal(0, 1.5)))
    bones = (
        make_femur(points, condition, float(femur_tilt), habitus.arch, rng),
        make_tibia(points, condition, float(tibia_tilt), rng),
        make_fibula(points, rng),
        make_patella(points, rng),
    )
    details = draw_details(bones, points, condition, flexion=habitus.flexion, arch=habitus.arch, rng=rng)
    return Knee(condition, points, bones, details)
