"""Dark bone: pictures whose grey levels are inverted, which no header tells of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kneel.imaging.radiograph import Radiograph, normalize_percentiles

_LIMIT = -0.25
_WHITE, _ALL = 254, 0.99
_HALF_WIDTH = 0.64  # of a crop of the public set, in tibial widths
HALF_MM = 50.6  # the same of a knee of the mean tibial width, 79 mm


def bright_picture(film: Radiograph, knees: Sequence[NDArray[np.float64]]) -> tuple[NDArray[np.uint8], bool]:
    """Return a film whose landmarks are known in 8 bits, with bright bone whatever its header says.

    Parameters
    ----------
    film : Radiograph
        The film.
    knees : sequence of ndarray, shape (16, 2)
        Landmarks of its knees in film pixels.

    Returns
    -------
    picture : ndarray, shape (H, W), uint8
        After `kneel.imaging.radiograph.normalize_percentiles` of the whole film.
    dark : bool
        Whether it had dark bone, and was inverted.
    """
    picture = grey_levels(film)
    dark = knees_are_dark(picture, knees)
    return (grey_levels(inverted(film)) if dark else picture), dark


def grey_levels(film: Radiograph) -> NDArray[np.uint8]:
    """Return a film as it is in 8 bits, after `kneel.imaging.radiograph.normalize_percentiles` of all of it."""
    return np.rint(255 * normalize_percentiles(film.pixels, padding=film.padding)).astype(np.uint8)


def has_dark_bone(roi: NDArray[np.uint8]) -> bool:
    """Say whether a crop around a knee is contrast-inverted.

    Bone fills the middle columns of such a crop, skin and air its left and right borders; so the middle half must be
    the brighter one. On the 6,604 training and validation crops of Chen 2018 the rule names 84: all 84 are inverted,
    and so is none of the 28 others nearest to the limit (all these were looked at) nor any other of 529 crops of
    which it was known beforehand. From borders to middle the 84 fall by 1.34 or more standard deviations of their
    grey levels, the others rise by 0.81 or more; the limit lies half-way. With white outside the middle 60 to 90 % of
    327 other crops none is named.

    Parameters
    ----------
    roi : ndarray, shape (S, S), uint8
        Joint in the middle, shaft upright. White columns at its left and right, of a page or of shutters, are left out.
    """
    seen = np.flatnonzero((roi >= _WHITE).mean(0) < _ALL)
    if len(seen) > roi.shape[1] // 2:
        roi = roi[:, seen[0] : seen[-1] + 1]
    size = roi.shape[1]
    border = max(1, size // 18)
    middle = roi[:, size // 4 : size - size // 4].mean()
    borders = (roi[:, :border].mean() + roi[:, -border:].mean()) / 2
    return bool(middle - borders < _LIMIT * roi.std())


def knees_are_dark(film: NDArray[np.uint8], knees: Sequence[NDArray[np.float64]]) -> bool:
    """Say whether the knees of a film have dark bone: every one of them by `has_dark_bone`.

    Parameters
    ----------
    film : ndarray, shape (H, W), uint8
        The film as it is.
    knees : sequence of ndarray, shape (16, 2)
        Landmarks of each knee in film pixels; they need not be exact.

    Returns
    -------
    bool
        False without knees, and where a knee's window is empty.
    """
    middles = [landmarks.mean(0) for landmarks in knees]
    return crops_are_dark(film, middles, [_HALF_WIDTH * float(np.linalg.norm(knee[8] - knee[0])) for knee in knees])


def crops_are_dark(film: NDArray[np.uint8], middles: Sequence[NDArray[np.float64]], halves: Sequence[float]) -> bool:
    """Say whether crops of a film around its joints have dark bone: every one of them by `has_dark_bone`.

    Parameters
    ----------
    film : ndarray, shape (H, W), uint8
        The film as it is.
    middles : sequence of ndarray, shape (2,)
        Joint centres, (x, y) in film pixels.
    halves : sequence of float
        Half the width of each crop, pixels; the rule was measured on crops of `HALF_MM`, about.

    Returns
    -------
    bool
        False without crops, and where one is empty.
    """
    return bool(middles) and all(_is_dark(film, *crop) for crop in zip(middles, halves, strict=True))


def inverted(radiograph: Radiograph) -> Radiograph:
    """Return the film with bright for dark; padding stays 0."""
    highest = np.iinfo(radiograph.pixels.dtype).max
    pixels = highest - radiograph.pixels
    if radiograph.padding is not None:
        pixels[radiograph.padding] = 0
    return replace(radiograph, pixels=pixels)


def _is_dark(film: NDArray[np.uint8], middle: NDArray[np.float64], half: float) -> bool:
    """Ask of the part of the film that a crop of the public set would show; nothing beyond its edges is counted."""
    low = np.clip(np.floor(middle - half), 0, None).astype(int)
    high = np.ceil(middle + half).astype(int) + 1
    window = film[low[1] : high[1], low[0] : high[0]]
    return min(window.shape) > 1 and has_dark_bone(window)
