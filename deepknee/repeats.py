"""Films that are there more than once, under whatever names: the same pixels are read as the same landmarks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

FLAG = "film_repeated"


def fingerprint(landmarks: Iterable[float]) -> int:
    """Return what knees of one picture have in common, and knees of others have not.

    Two films whose 16 points agree to a hundredth of a pixel are one. A copy of another size, compressed anew or
    without its spacing is read a little differently and is not found.

    Parameters
    ----------
    landmarks : iterable of float
        x0, y0 ... x15, y15 of a knee in film pixels.
    """
    return hash(tuple(round(100 * value) for value in landmarks))


def repeated(fingerprints: Mapping[str, int]) -> frozenset[str]:
    """Say which films are there more than once: all of a picture, as the first is no more right than the last.

    Parameters
    ----------
    fingerprints : mapping of str to int
        By film, that of one of its knees.
    """
    times = Counter(fingerprints.values())
    return frozenset(film for film, value in fingerprints.items() if times[value] > 1)


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
    prints = {file: fingerprint(v for point in record["landmarks"] for v in point) for file, record in first.items()}
    films = repeated(prints)
    for record in records:
        if record["file"] in films:
            record["flags"].append(FLAG)
    return len(films)
