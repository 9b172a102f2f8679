"""Which way round a knee is: the landmark networks see it as it stands and mirrored, and one answer is more of a knee.

A network that was trained on right knees puts its points on a mirrored one as well, nearly as sharply, but not quite as
a right knee carries them. How they are off tells the looks apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from kneel.shape import Alignment

CLEAR = 0.9  # a look is clear from this probability on
FEATURES = 49  # how wide each of 16 heat maps is, the distance from the mean knee, and where each point is off
_TINY = 1e-9  # mm; only stand-ins for networks are exact


@dataclass(frozen=True)
class LookModel:
    """Logistic regression on the difference between the answers to both looks.

    Attributes
    ----------
    weights : ndarray, shape (FEATURES,)
        Of `features`, in log odds; fitted by `kneel.look_fit`.
    """

    weights: NDArray[np.float64]

    @classmethod
    def parse(cls, stored: Mapping[str, Any]) -> Self:
        """Read what `dump` returned.

        Parameters
        ----------
        stored : mapping
            The key ``look`` of a snapshot's metadata.

        Raises
        ------
        ValueError
            They are not `FEATURES` finite numbers.
        """
        weights = np.asarray(stored["weights"], float)
        if weights.shape != (FEATURES,) or not np.isfinite(weights).all():
            raise ValueError(f"look.weights has shape {weights.shape}: must be {FEATURES} finite numbers")
        return cls(weights)

    def dump(self) -> dict[str, Any]:
        """Return the weights as JSON."""
        return {"weights": [float(weight) for weight in self.weights]}

    def probability(self, one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
        """Say how likely the first of two looks is the true one, given that one of them is.

        Parameters
        ----------
        one, other : ndarray, shape (FEATURES,)
            `features` of both looks of one knee, at one spacing.

        Returns
        -------
        float
            In [0, 1]; of the looks exchanged, one less that.
        """
        return float(1 / (1 + np.exp(-np.clip((one - other) @ self.weights, -50, 50))))


def features(spread_mm: NDArray[np.float64], alignment: Alignment) -> NDArray[np.float64]:
    """Describe the answer to one look.

    Parameters
    ----------
    spread_mm : ndarray, shape (16,)
        Width of each heat map.
    alignment : Alignment
        Of the points, mirrored to look like a right knee, on the mean knee.

    Returns
    -------
    ndarray, shape (FEATURES,)
        Logarithms of the widths and of the residual, then the deviations of the points, (x, y) each, in mm.
    """
    logarithms = np.log(np.maximum([*spread_mm, alignment.residual], _TINY))
    return np.concatenate([logarithms, alignment.deviation.ravel()])


def _sharper() -> LookModel:
    """Where nothing was fitted: the look with the sharper heat maps, clear when the other is 8 % less sharp."""
    landmarks = (FEATURES - 1) // 3
    weights = np.zeros(FEATURES)
    weights[:landmarks] = -np.log(CLEAR / (1 - CLEAR)) / np.log(1.08) / landmarks
    return LookModel(weights)


SHARPER = _sharper()
