"""One film: knees are placed, their attenuation is summed along the rays and the detector stores it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from kneel.imaging.geometry import Side
from kneel.imaging.schema import CENTER
from kneel.phantom.anatomy import Habitus, Knee, draw_knee
from kneel.phantom.attenuation import Absorption, add_knee, trabeculae
from kneel.phantom.detector import Exposure, develop, expose
from kneel.phantom.film import Collimation, Implant, add_beads, add_implant, add_letter, burn_text
from kneel.phantom.pose import Pose
from kneel.phantom.soft_tissue import KNEE_HALF_WIDTH_MM, Leg, legs_attenuation

Photometric = Literal["MONOCHROME1", "MONOCHROME2"]


@dataclass(frozen=True)
class FilmSpec:
    """What is asked of a film; everything else is drawn while rendering.

    Attributes
    ----------
    rows, columns : int
        Size in pixels.
    spacing_mm : float
        Pixel size, equal on both axes, in the mm in which shapes are given.
    knees : tuple of (side, kl)
        From the left of the picture to its right: a right knee comes before a left one.
    bits_stored : int
        10 to 14.
    photometric : {"MONOCHROME1", "MONOCHROME2"}
        Polarity of the stored values.
    implant : {"none", "prosthesis", "plate"}
        Metal, in the first knee.
    """

    rows: int
    columns: int
    spacing_mm: float
    knees: tuple[tuple[Side, int], ...]
    bits_stored: int = 12
    photometric: Photometric = "MONOCHROME2"
    implant: Implant = "none"

    def __post_init__(self) -> None:
        """Refuse what cannot be a film."""
        sides = tuple(side for side, _ in self.knees)
        if sides not in (("R",), ("L",), ("R", "L")):
            raise ValueError(f"knees have sides {sides}: must be ('R',), ('L',) or ('R', 'L')")
        if not 8 <= self.bits_stored <= 16:
            raise ValueError(f"bits_stored is {self.bits_stored}: must be 8 to 16")
        if min(self.rows, self.columns) < 64 or not self.spacing_mm > 0:
            raise ValueError(f"film of {self.rows} x {self.columns} at {self.spacing_mm} mm: too small")


@dataclass(frozen=True)
class PhantomKnee:
    """Truth about a knee on a film.

    Attributes
    ----------
    side : {"L", "R"}
        Laterality.
    kl : int
        Kellgren-Lawrence grade.
    landmarks : ndarray, shape (16, 2)
        (x, y) in film pixels, integer = pixel centre.
    anatomy : Knee
        The knee before it was placed.
    pose : Pose
        How it was placed.
    """

    side: Side
    kl: int
    landmarks: NDArray[np.float64]
    anatomy: Knee
    pose: Pose

    @property
    def center(self) -> NDArray[np.float64]:
        """(x, y) film pixel of the joint centre."""
        return self.landmarks[CENTER]


@dataclass(frozen=True)
class Film:
    """A rendered film.

    Attributes
    ----------
    pixels : ndarray, shape (H, W), uint16
        Stored values.
    spec : FilmSpec
        What was asked.
    knees : tuple of PhantomKnee
        Truth, in the order of the specification.
    exposure : Exposure
        How it was taken and processed.
    burned_in_text : bool
        Whether the console wrote into the picture.
    """

    pixels: NDArray[np.uint16]
    spec: FilmSpec
    knees: tuple[PhantomKnee, ...]
    exposure: Exposure
    burned_in_text: bool


def render_film(spec: FilmSpec, rng: Generator, *, noise: bool = True) -> Film:
    """Render a film.

    Parameters
    ----------
    spec : FilmSpec
        What is asked.
    rng : Generator
        Source of everything else.
    noise : bool
        Quantum noise and trabecular texture.

    Returns
    -------
    Film
        Pixels and truth.
    """
    habitus, absorption, exposure = Habitus.draw(rng), Absorption.at(rng.uniform(40, 54)), Exposure.draw(rng)
    # where the patient stands: middle of the knees and how far they are apart, in shares of the film
    stand = rng.normal(0.5, 0.015), rng.normal(0.5, 0.04), rng.uniform(0.2, 0.265) if len(spec.knees) == 2 else 0.0
    knees = tuple(_place(spec, index, habitus, stand, rng) for index in range(len(spec.knees)))
    shape = spec.rows, spec.columns
    bone = max(float(np.ptp(knee.anatomy.points[:, 0])) for knee in knees) / 2
    leg = Leg(
        (bone + rng.uniform(14, 30)) / KNEE_HALF_WIDTH_MM,
        rng.gamma(4, 2.0) + 3,
        rng.uniform(0.85, 1.0),
        rng.normal(2, 2),
    )
    attenuation = legs_attenuation([(leg, knee.pose) for knee in knees], shape, absorption, rng)
    density, grain = float(np.clip(rng.normal(0.86, 0.12), 0.5, 1.2)), rng.uniform(0.03, 0.14)
    for knee in knees:
        add_knee(attenuation, knee.anatomy, knee.pose, absorption, trabeculae(rng, grain) if noise else None, density)
    if spec.implant != "none":
        add_implant(attenuation, knees[0].anatomy, knees[0].pose, spec.implant, rng)
    _add_lead(attenuation, spec, knees, rng)
    values = develop(expose(attenuation, spec.spacing_mm, exposure, rng if noise else None), spec.spacing_mm, exposure)
    text = bool(rng.random() < 0.3)
    _frame(values, spec, text, rng)
    return Film(_store(values, spec, rng), spec, knees, exposure, text)


def _place(
    spec: FilmSpec, index: int, habitus: Habitus, stand: tuple[float, float, float], rng: Generator
) -> PhantomKnee:
    """Draw a knee and put it on the film: side by side, or one in the middle."""
    side, kl = spec.knees[index]
    anatomy = draw_knee(kl, rng, habitus)
    across, down, apart = stand
    x = (across + (2 * index - 1) * apart) * spec.columns + rng.normal(0, 5) / spec.spacing_mm
    y = down * spec.rows + rng.normal(0, 6) / spec.spacing_mm
    # magnification differs with the distance of the knee from the detector
    scale = rng.normal(1, 0.015) / spec.spacing_mm
    pose = Pose((float(x), float(y)), scale, float(rng.normal(0, 0.035)), side == "L")
    return PhantomKnee(side, kl, pose.to_film(anatomy.points), anatomy, pose)


def _add_lead(attenuation: NDArray, spec: FilmSpec, knees: tuple[PhantomKnee, ...], rng: Generator) -> None:
    """Side letters beside the knees, and sometimes a ruler."""
    for knee in knees:
        if rng.random() < 0.9:
            outwards = -1 if knee.side == "R" else 1
            x = knee.center[0] + outwards * rng.uniform(68, 85) / spec.spacing_mm
            y = knee.center[1] + rng.uniform(-110, 90) / spec.spacing_mm
            x = np.clip(x, 0, spec.columns - 20 / spec.spacing_mm)
            add_letter(attenuation, knee.side, (x, y), spec.spacing_mm, rng)
    if rng.random() < 0.3:
        x = spec.columns * (0.5 if len(knees) == 2 else rng.choice([0.06, 0.94]))
        add_beads(attenuation, x, spec.spacing_mm, rng)


def _frame(values: NDArray, spec: FilmSpec, text: bool, rng: Generator) -> None:
    blades = Collimation.draw(rng)
    field = blades.open_field(values.shape, spec.spacing_mm)
    if field is not None:
        outside = {"black": 0.0, "dim": 0.12, "white": 1.0}[blades.outside]
        values[~field] = np.float32(outside)
    if text:
        burn_text(values, spec.spacing_mm, rng)


def _store(values: NDArray, spec: FilmSpec, rng: Generator) -> NDArray[np.uint16]:
    """Quantise to the stored bits, not always using all of them."""
    top = (1 << spec.bits_stored) - 1
    floor, ceiling = rng.uniform(0, 0.03) * top, rng.uniform(0.85, 1.0) * top
    stored = np.clip(np.rint(values * np.float32(ceiling - floor) + np.float32(floor)), 0, top).astype(np.uint16)
    return top - stored if spec.photometric == "MONOCHROME1" else stored
