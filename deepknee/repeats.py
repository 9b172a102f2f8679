"""Films that are there more than once, under whatever names: the same pixels are read as the same landmarks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

FLAG = "film_repeated"
TOLERANCE_PX = 0.1  # on a few films another number of threads moved points by 0.0006, a JPEG by 0.02
_ENDS = (0, 8, 9, 15)  # the outermost points of tibia and femur


def outline(landmarks: Iterable[float]) -> NDArray[np.float32]:
    """Return what tells a knee from those of other pictures, in little memory.

    Parameters
    ----------
    landmarks : iterable of float
        x0, y0 ... x15, y15 in film pixels.

    Returns
    -------
    ndarray, shape (8,), float32
        The outermost points of tibia and femur.
    """
    return np.fromiter(landmarks, np.float32).reshape(16, 2)[_ENDS, :].ravel()


def repeated(outlines: Mapping[str, NDArray[np.float32]]) -> frozenset[str]:
    """Say which films are there more than once: all of a picture, as the first is no more right than the last.

    Parameters
    ----------
    outlines : mapping of str to ndarray, shape (8,)
        By film, that of its first knee.

    Returns
    -------
    frozenset of str
        Films whose outline differs from that of another by no more than `TOLERANCE_PX` in every coordinate. A copy of
        another size or without its spacing is read differently, and is not among them.
    """
    films = list(outlines)
    if not films:
        return frozenset()
    knees = np.array(list(outlines.values()))
    order = np.argsort(knees[:, 0], kind="stable")
    knees, found = knees[order], np.zeros(len(films), bool)
    for step in count(1):  # each with the one that is so many places further on, as long as any of these is near
        apart = knees[step:] - knees[:-step]
        near = (apart[:, 0] <= TOLERANCE_PX) & ~(found[step:] & found[:-step])
        if not near.any():
            break
        same = near & (np.abs(apart) <= TOLERANCE_PX).all(1)
        found[step:] |= same
        found[:-step] |= same
    return frozenset(films[place] for place in order[found])


def mark_repeated(records: Iterable[dict[str, Any]]) -> int:
    """Add `FLAG` to the flags of knees whose film is there more than once.

    Parameters
    ----------
    records : iterable of dict
        From `deepknee.report.knee_record`; changed in place.

    Returns
    -------
    int
        How many films these are.
    """
    records = list(records)
    first = {record["file"]: record for record in reversed(records)}
    outlines = {file: outline(value for point in one["landmarks"] for value in point) for file, one in first.items()}
    films = repeated(outlines)
    for record in records:
        if record["file"] in films:
            record["flags"].append(FLAG)
    return len(films)
