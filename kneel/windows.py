"""Where on a film the joint centre is looked for: the same windows in training and in reading."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

from numpy.typing import NDArray

from kneel.imaging.geometry import RoiFrame, Side, Spacing

Part = Literal["left half", "right half", "whole"]


def half_with(x: float, width: int) -> Part:
    """Say which half of a film a column lies in.

    Parameters
    ----------
    x : float
        Column, pixels.
    width : int
        Width of the film, pixels.

    Returns
    -------
    {"left half", "right half"}
        The middle itself counts as right.
    """
    return "left half" if x < (width - 1) / 2 else "right half"


class SearchWindow(NamedTuple):
    """A part of a film on the grid of the joint-centre network.

    Attributes
    ----------
    picture : ndarray, shape (h, w)
        The resampled part, in the type of the film; mirrored when `frame.mirrored`.
    frame : RoiFrame
        From film pixels to pixels of `picture`.
    """

    picture: NDArray
    frame: RoiFrame


def search_window(
    film: NDArray, part: Part, spacing_mm: Spacing, *, side: Side, window_spacing_mm: float
) -> SearchWindow:
    """Cut a half of a film, or all of it, and resample it.

    Parameters
    ----------
    film : ndarray, shape (H, W)
        Grey picture.
    part : {"left half", "right half", "whole"}
        Half of the picture as seen on a screen; the middle column of an odd width belongs to both.
    spacing_mm : (float, float)
        (row, column) spacing of the film in mm.
    side : {"L", "R"}
        ``"L"`` mirrors the picture.
    window_spacing_mm : float
        mm per pixel of the outcome.

    Returns
    -------
    SearchWindow
        Nothing of the other half shows in it.
    """
    height, width = film.shape
    first, last = {"left half": (0, -(-width // 2)), "right half": (width // 2, width), "whole": (0, width)}[part]
    box = (first, last, 0, height)
    frame = RoiFrame.covering(box, spacing_mm, side=side, roi_spacing_mm=window_spacing_mm)
    inside = replace(frame, center=(frame.center[0] - first, frame.center[1]))
    return SearchWindow(inside.crop(film[:, first:last]), frame)
