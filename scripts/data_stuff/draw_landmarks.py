"""Draw annotations/landmarks.jpg: the 16 points on a phantom knee, as the networks see it (no picture of a person).

Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from kneel.imaging import normalize_percentiles
from kneel.imaging.geometry import RoiFrame
from kneel.imaging.schema import CENTER, FEMUR, LANDMARKS, ROI_MM, TIBIA
from kneel.phantom import FilmSpec, render_film

mpl.use("Agg")  # a picture goes to a file: no display is needed
import matplotlib.pyplot as plt

PICTURE = Path(__file__).resolve().parents[2] / "annotations" / "landmarks.jpg"
FILM_MM, SPACING_MM, ROI_SPACING_MM = 240, 0.15, 0.15
SHOWN_MM = (96.0, 60.0)  # width and height, around the joint centre
TIBIA_COLOR, FEMUR_COLOR = "#ffb000", "#4cc9f0"
APART_MM = 4.6  # from a point to its number


def main() -> None:
    """Render a knee, mark its points, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PICTURE, help="picture to write (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=5, help="seed of the knee (default: %(default)s)")
    given = parser.parse_args()
    roi, points = knee(given.seed)
    figure, axes = plt.subplots(figsize=(9.6, 7.2), dpi=100)
    show(axes, roi, points)
    for bone, color, below in ((TIBIA, TIBIA_COLOR, True), (FEMUR, FEMUR_COLOR, False)):
        mark(axes, points, bone, color, below=below)
    legend(figure)
    figure.savefig(given.out, pil_kwargs={"quality": 90, "optimize": True})


def knee(seed: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Render a right knee of grade 1.

    Parameters
    ----------
    seed : int
        Seed of the film.

    Returns
    -------
    roi : ndarray, shape (S, S)
        The 140 mm ROI, in [0, 1].
    points : ndarray, shape (16, 2)
        (x, y) in ROI pixels.
    """
    size = round(FILM_MM / SPACING_MM)
    film = render_film(FilmSpec(size, size, SPACING_MM, (("R", 1),)), np.random.default_rng(seed))
    truth = film.knees[0].landmarks
    frame = RoiFrame.around(truth[CENTER], ROI_MM, (SPACING_MM,) * 2, side="R", roi_spacing_mm=ROI_SPACING_MM)
    return frame.crop(normalize_percentiles(film.pixels)), frame.to_roi(truth)


def show(axes: Axes, roi: NDArray[np.float32], points: NDArray[np.float64]) -> None:
    """Show the part of the ROI around the joint, and say which end is which."""
    axes.imshow(roi, cmap="gray", interpolation="bilinear")
    half = np.array(SHOWN_MM) / 2 / ROI_SPACING_MM
    left, top = points[CENTER] - half
    right, bottom = points[CENTER] + half
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.set_axis_off()
    axes.set_position((0, 0.2, 1, 0.8))
    style = {"color": "white", "fontsize": 15, "fontweight": "bold", "path_effects": outline()}
    axes.text(0.02, 0.5, "LATERAL", transform=axes.transAxes, va="center", rotation=90, **style)
    axes.text(0.98, 0.5, "MEDIAL", transform=axes.transAxes, va="center", ha="right", rotation=270, **style)


def mark(axes: Axes, points: NDArray[np.float64], bone: slice, color: str, *, below: bool) -> None:
    """Draw the points of a bone and their numbers, on the bone's side of the joint space."""
    x, y = points[bone].T
    axes.plot(x, y, "-", color=color, linewidth=1.2, alpha=0.8)
    axes.plot(x, y, "o", color=color, markersize=7, markeredgecolor="black", markeredgewidth=0.8)
    step = (1 if below else -1) * APART_MM / ROI_SPACING_MM
    for number in range(bone.start, bone.stop):
        axes.text(
            points[number, 0],
            points[number, 1] + step,
            str(number),
            color=color,
            fontsize=15,
            fontweight="bold",
            ha="center",
            va="center",
            path_effects=outline(),
        )


def legend(figure: plt.Figure) -> None:
    """Name the points below the picture, a bone a block."""
    for left, bone, color in ((0.03, TIBIA, TIBIA_COLOR), (0.53, FEMUR, FEMUR_COLOR)):
        names = [f"{number:2d}  {LANDMARKS[number]}" for number in range(bone.start, bone.stop)]
        half = -(-len(names) // 2)
        for column, part in enumerate((names[:half], names[half:])):
            figure.text(left + 0.24 * column, 0.18, "\n".join(part), color=color, va="top", fontsize=9, linespacing=1.5)
    figure.set_facecolor("#1b1b1b")


def outline() -> list[withStroke]:
    """Return a black edge for text on a picture."""
    return [withStroke(linewidth=3, foreground="black")]


if __name__ == "__main__":
    main()
