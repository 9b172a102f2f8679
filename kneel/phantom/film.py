"""What else is on a film: side letters, ruler beads, metal in the knee, collimation and burned-in text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from kneel.imaging.schema import FEMUR, TIBIA
from kneel.phantom.anatomy import Knee
from kneel.phantom.curves import shifted
from kneel.phantom.pose import Pose, fill, window_of

Implant = Literal["none", "prosthesis", "plate"]
_FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX)
_METAL = 4.0  # attenuation of an implant: nearly nothing passes
_LEAD = 3.0


def add_implant(attenuation: NDArray, knee: Knee, pose: Pose, kind: Implant, rng: Generator) -> None:
    """Add metal to a knee, inside its contours so that the landmarks stay on visible edges.

    Parameters
    ----------
    attenuation : ndarray, shape (H, W)
        Line integrals, changed in place.
    knee : Knee
        Anatomy.
    pose : Pose
        Its place on the film.
    kind : {"none", "prosthesis", "plate"}
        What to add.
    rng : Generator
        Sizes.
    """
    parts: list[tuple[NDArray[np.float64], float]] = []
    tibia, femur = knee.points[TIBIA], knee.points[FEMUR]
    if kind == "prosthesis":
        parts = [
            (np.concatenate([femur, shifted(femur, dy=-rng.uniform(8, 12))[::-1]]), 0.0),
            (np.concatenate([tibia, shifted(tibia, dy=rng.uniform(3, 4.5))[::-1]]), 0.0),
            (np.array([[0.0, tibia[0, 1]], [0.0, tibia[0, 1] + rng.uniform(28, 45)]]), rng.uniform(9, 13)),
        ]
    elif kind == "plate":
        side = tibia[0, 0] + 4
        plate = np.array([[side, tibia[0, 1] + 8], [side + 4, tibia[0, 1] + 30], [side + 17, tibia[0, 1] + 110]])
        screws = [
            np.array([[side, y], [side + rng.uniform(40, 62), y + rng.normal(0, 2)]])
            for y in tibia[0, 1] + [11, 18, 26]
        ]
        parts = [(plate, 4.0), *((screw, 3.5) for screw in screws)]
    for outline, width in parts:
        line = pose.to_film(outline)
        window = window_of(line, attenuation.shape, margin=int(width * pose.scale) + 2)
        if attenuation[window].size:
            attenuation[window] += fill(line, window, width=width * pose.scale) * np.float32(_METAL / 255)


def add_letter(
    attenuation: NDArray, letter: str, corner: tuple[float, float], spacing_mm: float, rng: Generator
) -> None:
    """Add a lead side marker: a letter, or a plate from which it is cut.

    Parameters
    ----------
    attenuation : ndarray, shape (H, W)
        Line integrals, changed in place.
    letter : str
        R or L.
    corner : (float, float)
        (x, y) film pixel of its lower left corner.
    spacing_mm : float
        Pixel size.
    rng : Generator
        Style and size.
    """
    size = rng.uniform(9, 16) / spacing_mm
    font = _FONTS[rng.integers(len(_FONTS))]
    stroke = max(round(rng.uniform(1.2, 2.4) / spacing_mm), 1)
    (width, height), _ = cv2.getTextSize(letter, font, 1.0, stroke)
    scale = size / max(height, 1)
    edge = round(0.3 * size)
    canvas = np.zeros((round(size) + 2 * edge, round(width * scale) + 2 * edge), np.uint8)
    cv2.putText(canvas, letter, (edge, edge + round(size)), font, scale, 255, stroke, cv2.LINE_AA)
    if rng.random() < 0.4:
        canvas = 255 - canvas
    _stamp(attenuation, canvas, corner, _LEAD)


def add_beads(attenuation: NDArray, x: float, spacing_mm: float, rng: Generator) -> None:
    """Add a ruler: a column of steel beads 20 mm apart.

    Parameters
    ----------
    attenuation : ndarray, shape (H, W)
        Line integrals, changed in place.
    x : float
        Film column of the beads.
    spacing_mm : float
        Pixel size.
    rng : Generator
        First bead and size.
    """
    radius = rng.uniform(1.0, 1.8) / spacing_mm
    size = int(2 * radius) + 3
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    bead = (255 * np.sqrt(np.maximum(1 - (rows**2 + columns**2) / radius**2, 0))).astype(np.uint8)
    for y in np.arange(rng.uniform(20, 60), attenuation.shape[0] * spacing_mm, 20.0) / spacing_mm:
        _stamp(attenuation, bead, (x, y), _LEAD)


def _stamp(attenuation: NDArray, canvas: NDArray, corner: tuple[float, float], amount: float) -> None:
    top, left = max(round(corner[1]), 0), max(round(corner[0]), 0)
    target = attenuation[top : top + canvas.shape[0], left : left + canvas.shape[1]]
    target += canvas[: target.shape[0], : target.shape[1]] * np.float32(amount / 255)


@dataclass(frozen=True)
class Collimation:
    """The blades: margins in mm at left, top, right, bottom; a turn in radians; what is shown outside of them."""

    margins: tuple[float, float, float, float]
    turn: float
    outside: Literal["black", "white", "dim"]

    @classmethod
    def draw(cls, rng: Generator) -> Collimation:
        """Draw the blades of a film; every other film is open.

        Parameters
        ----------
        rng : Generator
            Source of randomness.

        Returns
        -------
        Collimation
            The blades.
        """
        margins = rng.uniform(0, 14, 4) * (rng.random(4) < 0.7) * (rng.random() < 0.55)
        outside = rng.choice(["black", "dim", "white"], p=[0.75, 0.2, 0.05])
        return cls((*margins.tolist(),), float(rng.normal(0, 0.008)), str(outside))  # type: ignore[arg-type]

    def open_field(self, shape: tuple[int, int], spacing_mm: float) -> NDArray[np.bool_] | None:
        """Return where the beam passes.

        Parameters
        ----------
        shape : (int, int)
            Rows and columns.
        spacing_mm : float
            Pixel size.

        Returns
        -------
        ndarray of bool, shape (H, W), or None
            None when the blades are fully open.
        """
        if not any(self.margins):
            return None
        height, width = shape
        left, top, right, bottom = np.array(self.margins) / spacing_mm
        corners = np.array(
            [[left, top], [width - right, top], [width - right, height - bottom], [left, height - bottom]]
        )
        middle = np.array([width / 2, height / 2])
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        turned = (corners - middle) @ np.array([[cos, sin], [-sin, cos]]) + middle
        return fill(turned, (slice(0, height), slice(0, width))) > 0


def burn_text(values: NDArray, spacing_mm: float, rng: Generator) -> None:
    """Write a projection note into the picture, as consoles do.

    Parameters
    ----------
    values : ndarray, shape (H, W)
        Display values 0 to 1, changed in place.
    spacing_mm : float
        Pixel size.
    rng : Generator
        Words and place.
    """
    words = str(rng.choice(["PA", "PA FLEXION", "WEIGHT BEARING", "STANDING", "FIXED FLEXION PA"]))
    scale = rng.uniform(4, 8) / spacing_mm / 22
    stroke = max(round(2 * scale), 1)
    (width, height), descent = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, scale, stroke)
    canvas = np.zeros((height + 2 * descent, width), np.uint8)
    cv2.putText(canvas, words, (0, height + descent // 2), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, stroke, cv2.LINE_AA)
    top = round(rng.choice([0.02, 0.95]) * (values.shape[0] - len(canvas)))
    left = round(rng.uniform(0.02, 0.6) * values.shape[1])
    target = values[top : top + len(canvas), left : left + width]
    np.maximum(target, canvas[:, : target.shape[1]] / np.float32(255), out=target)
