"""What an ensemble answers.

Dimensions: N knees, S ROI pixels, A answers: M networks, each upright and with every turn.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepknee.conformal import Conformal


@dataclass(frozen=True, eq=False)
class Grade:
    """Grades of N knees.

    Attributes
    ----------
    probabilities : ndarray, shape (N, 5), float64
        Of KL 0 to 4; every row sums to 1.
    attention : ndarray, shape (N, S, S), float32
        Where the likeliest grade comes from, on the grid of the ROI, in [0, 1]; 0 outside what the networks see of the
        upright knee.
    members : ndarray, shape (A, N, 5), float64, or None
        Probabilities of each network by itself: upright, then with every turn, then those of the next network.
    conformal : Conformal or None
        What `sets` and `abstain` come from; None where the snapshots hold no threshold for just this ensemble.
    """

    probabilities: NDArray[np.float64]
    attention: NDArray[np.float32]
    members: NDArray[np.float64] | None = None
    conformal: Conformal | None = None

    @property
    def kl(self) -> NDArray[np.int64]:
        """Likeliest grade of each knee, shape (N,)."""
        return self.probabilities.argmax(1)

    @property
    def sets(self) -> NDArray[np.bool_] | None:
        """Grades in the conformal set of each knee, shape (N, 5); None without a threshold."""
        return None if self.conformal is None else self.conformal.sets(self.probabilities)

    @property
    def abstain(self) -> NDArray[np.bool_] | None:
        """For which knees no single grade should be given, shape (N,); None without a threshold."""
        return None if self.conformal is None or self.sets is None else self.conformal.abstain(self.sets)
