"""The scale of films without spacing: nominal heights are tried, each corrected by the size of the knees found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from kneel.imaging.geometry import Side, Spacing
from kneel.located import LocatedKnee

# heights in mm tried for a film without spacing: from a strip along the joint to a 43 cm cassette
NOMINAL_HEIGHTS_MM = (65.0, 100.0, 145.0, 210.0, 300.0, 430.0)
CROP_MM = 100.0  # height of a crop around one joint, as in the public sets
WIDE_FILM = 1.25  # width / height from which a film without spacing is expected to show two knees
WIDEST_MM = 1500.0  # no nominal height makes a film wider than that
CLOSE_SIZE = 0.05  # a scale whose knees are so near to the mean size is not corrected any more
SURE = 0.8  # confidence at which no other scale of a film without spacing is tried
CORRECTIONS = 2  # networks see what they have learnt: points far from the usual size are pulled towards it

Read = Callable[[Spacing], list[LocatedKnee]]
Look = Callable[[Spacing, Mapping[Side, tuple[float, float]]], list[LocatedKnee]]


def is_wide(shape: tuple[int, ...]) -> bool:
    """Say whether a film without spacing is expected to show two knees.

    Parameters
    ----------
    shape : (int, int)
        Height and width.

    Returns
    -------
    bool
        By the ratio of its sides.
    """
    return shape[1] >= WIDE_FILM * shape[0]


def is_squarish(shape: tuple[int, ...]) -> bool:
    """Say whether a film without spacing may be a crop of one knee: neither wide nor high.

    Parameters
    ----------
    shape : (int, int)
        Height and width.

    Returns
    -------
    bool
        By the ratio of its sides.
    """
    return not is_wide(shape) and not is_wide(shape[::-1])


def search_scale(
    shape: tuple[int, ...],
    read: Read,
    size_of: Callable[[LocatedKnee], float],
    read_crop: Callable[[], list[LocatedKnee]] | None = None,
) -> list[LocatedKnee]:
    """Try the nominal heights until an answer is sure; else take the surest.

    Parameters
    ----------
    shape : (int, int)
        Height and width of the film, pixels.
    read : callable
        Finds the knees at a spacing.
    size_of : callable
        Size of a knee against the mean one, at the spacing that it was found with.
    read_crop : callable, optional
        Finds the one knee of a crop, with `look_closer`; tried first.

    Returns
    -------
    list of LocatedKnee
        At the best scale; empty when no scale shows a knee.
    """
    answers: list[list[LocatedKnee]] = []
    if read_crop is not None:
        answers.append(read_crop())
        if _certainty(answers[0])[0] >= SURE:
            return answers[0]
    for height_mm in NOMINAL_HEIGHTS_MM:
        step = height_mm / shape[0]
        if step * shape[1] > WIDEST_MM:
            break  # no film, and a huge picture for the networks: a ruler, a banner
        answers.append(_corrected(step, read, size_of))
        complete = len(answers[-1]) == 2 or not is_wide(shape)
        if complete and _certainty(answers[-1])[0] >= SURE:
            break
    return max(answers, key=_total if is_wide(shape) else _certainty, default=[])


def look_closer(
    shape: tuple[int, ...], sides: Sequence[Side], look: Look, size_of: Callable[[LocatedKnee], float]
) -> list[LocatedKnee]:
    """Look at the middle of a crop, then where the joint was found and at the size found, twice or three times in all.

    Place and size are mended by the same looks.

    Parameters
    ----------
    shape : (int, int)
        Height and width of the crop, pixels.
    sides : sequence of Side
        What the knee may look like.
    look : callable
        Looks once, at a spacing, at the given centres, (x, y) in pixels, of each look; leaves out what is no knee.
    size_of : callable
        As in `search_scale`.

    Returns
    -------
    list of LocatedKnee
        The same knee, once for each look; none when the middle shows none.
    """
    step, middle = CROP_MM / shape[0], ((shape[1] - 1) / 2, (shape[0] - 1) / 2)
    at: dict[Side, tuple[float, float]] = dict.fromkeys(sides, middle)
    knees: list[LocatedKnee] = []
    for number in range(1 + CORRECTIONS):
        found = look((step, step), at)
        if not found:
            break
        knees = found
        size = float(np.mean([size_of(knee) for knee in knees]))
        if abs(size - 1) >= CLOSE_SIZE:
            step /= size
        elif number:
            break
        at = {knee.side: knee.center for knee in knees}
    return knees


def _corrected(step: float, read: Read, size_of: Callable[[LocatedKnee], float]) -> list[LocatedKnee]:
    knees = read((step, step))
    for _ in range(CORRECTIONS):
        size = float(np.mean([size_of(knee) for knee in knees] or 1))
        if abs(size - 1) < CLOSE_SIZE:
            break
        step /= size
        again = read((step, step))
        if len(again) < len(knees):
            break
        knees = again
    return knees


def _total(knees: Sequence[LocatedKnee]) -> float:
    """Rank answers by the sum of the confidences: two fair knees go before one good one."""
    return sum(knee.confidence for knee in knees)


def _certainty(knees: Sequence[LocatedKnee]) -> tuple[float, int]:
    """Rank answers: by the mean confidence, then by the number of knees."""
    return float(np.mean([knee.confidence for knee in knees])) if knees else 0.0, len(knees)
