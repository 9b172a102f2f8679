"""The mean knee: whether 16 points are a knee at all, and how large it stands in the picture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kneel.imaging.schema import CENTER


class Alignment(NamedTuple):
    """How a set of points lies on the mean knee.

    Attributes
    ----------
    scale : float
        Size of the points / size of the mean knee.
    residual : float
        Root mean square distance that remains, in the unit of the mean knee.
    deviation : ndarray, shape (K, 2)
        What remains of each point, (x, y) in the frame and unit of the mean knee; the residual is its length.
    """

    scale: float
    residual: float
    deviation: NDArray[np.float64]


@dataclass(frozen=True)
class MeanShape:
    """Mean knee of a training set.

    Attributes
    ----------
    points : ndarray, shape (16, 2)
        (x, y) in mm from landmark `CENTER`; lateral at small x, distal at large y.
    residual : float
        Root mean square distance of the training knees from it after alignment, mm.
    """

    points: NDArray[np.float64]
    residual: float

    @classmethod
    def of(cls, knees: Iterable[ArrayLike]) -> MeanShape:
        """Average a set of knees.

        Parameters
        ----------
        knees : iterable of array_like, shape (16, 2)
            (x, y) in mm; at least one.

        Returns
        -------
        MeanShape
            Knees are averaged as they stand, so the mean has their mean size and turn.
        """
        centred = np.array([np.asarray(knee, float) - np.asarray(knee, float)[CENTER] for knee in knees])
        mean = centred.mean(axis=0)
        residuals = [align(knee, mean).residual for knee in centred]
        return cls(mean, float(np.sqrt(np.mean(np.square(residuals)))))

    def align(self, points: ArrayLike) -> Alignment:
        """Lay points on this knee; see `align`.

        Parameters
        ----------
        points : array_like, shape (16, 2)
            (x, y) in any unit; mirrored to look like a right knee.

        Returns
        -------
        Alignment
            Scale in that unit per mm, the rest in mm.
        """
        return align(points, self.points)


def align(points: ArrayLike, reference: ArrayLike) -> Alignment:
    """Find the shift, rotation and scale, but no reflection, that brings a reference closest to points.

    Parameters
    ----------
    points, reference : array_like, shape (K, 2)
        (x, y) in units of their own; not all in one place.

    Returns
    -------
    Alignment
        Scale of `points` against `reference`; the rest in the unit of `reference`. Points in one place: scale 0, and
        deviations to the middle of the reference.

    References
    ----------
    Umeyama, Least-Squares Estimation of Transformation Parameters Between Two Point Patterns, IEEE TPAMI 13 (1991).
    """
    p, q = np.asarray(points, float), np.asarray(reference, float)
    # as complex numbers a rotation with scale is one product, which leaves reflections out by itself
    z = (p - p.mean(axis=0)) @ np.array([1, 1j])
    w = (q - q.mean(axis=0)) @ np.array([1, 1j])
    power = float(np.vdot(w, w).real)
    factor = np.vdot(w, z) / power
    rest = (z / factor if factor else 0) - w
    deviation = np.stack([rest.real, rest.imag], axis=-1)
    return Alignment(float(abs(factor)), float(np.sqrt(np.mean(np.abs(rest) ** 2))), deviation)
