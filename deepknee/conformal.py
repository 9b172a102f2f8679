"""Sets of grades that hold the true one with a chosen probability, and when to give no single grade.

Split conformal prediction [1]_ with a score for ordered classes [2]_. The set of a knee starts as its likeliest grade,
k*, and takes in whichever neighbour is the likelier (the lower one where they are equal), so it is always a run of
neighbouring grades. The score of a grade is the probability gathered before its turn:

    s(x, k) = sum of p(j | x) over all grades j that join before k,   s(x, k*) = 0

Of the scores s(x_i, y_i) of n graded knees, the threshold q is the ceil((n + 1) c)-th smallest, c the coverage asked
for, and the set of a new knee is {k : s(x, k) <= q}. It holds the true grade with a probability of at least c, averaged
over knees drawn as those n were; not within every grade, nor on films of another kind. Both knees of a subject count,
so the n are not quite independent: measure the coverage, see `deepknee.calibration.cross_fit`.

References
----------
.. [1] A. N. Angelopoulos, S. Bates. A Gentle Introduction to Conformal Prediction and Distribution-Free Uncertainty
   Quantification. 2021, arXiv:2107.07511.
.. [2] C. Lu, A. N. Angelopoulos, S. Pomerantz. Improving Trustworthiness of AI Disease Severity Rating in Medical
   Imaging with Ordinal Conformal Prediction Sets. MICCAI 2022, arXiv:2207.02238. Sets grow in the same order there.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kneel.engine.config import Settings

COVERAGE = 0.9
LARGEST = 2


class Conformal(Settings):
    """What turns an ensemble's probabilities into sets; stored in the snapshot of each of its networks.

    Attributes
    ----------
    coverage
        Share of knees whose set is to hold the true grade.
    threshold
        Probability q above, that a set gathers before it stops growing; 1 takes every grade.
    largest
        The grader abstains from a single grade when the set holds more grades than this. Two neighbouring grades are
        what two readers of a film often differ by; three say too little.
    networks
        How many answers the ensemble that it was fitted for averages (networks, each upright and with every turn); it
        says nothing of any other.
    turns_deg
        The turns of that ensemble.
    fit
        Digest of the weights of all its networks, so that those of another ensemble do not pass for them; empty in
        snapshots from before that was kept.
    """

    coverage: float = Field(COVERAGE, gt=0, lt=1)
    threshold: float = Field(ge=0, le=1)
    largest: int = Field(LARGEST, ge=1)
    networks: int = Field(ge=1)
    turns_deg: tuple[float, ...] = ()
    fit: str = ""

    def is_of(self, answers: int, turns_deg: Sequence[float]) -> bool:
        """Say whether it was fitted for an ensemble of so many answers and these turns, in whatever order."""
        return self.networks == answers and sorted(self.turns_deg) == sorted(turns_deg)

    def sets(self, probabilities: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Say which grades are in the set of each knee.

        Parameters
        ----------
        probabilities : ndarray, shape (N, K)
            Of the grades; rows sum to 1.

        Returns
        -------
        ndarray, shape (N, K), bool
            A run of neighbouring grades that holds the likeliest one.
        """
        return scores(probabilities) <= self.threshold

    def abstain(self, sets: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Say for which knees no single grade should be given.

        Parameters
        ----------
        sets : ndarray, shape (N, K), bool
            From `sets`.

        Returns
        -------
        ndarray, shape (N,), bool
        """
        return sets.sum(1) > self.largest


def scores(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the score s(x, k) of every grade.

    Parameters
    ----------
    probabilities : ndarray, shape (N, K)
        Rows sum to 1.

    Returns
    -------
    ndarray, shape (N, K)
        In [0, 1]; 0 for the likeliest grade.

    Examples
    --------
    >>> scores(np.array([[0.1, 0.6, 0.25, 0.05, 0.0]])).round(2).tolist()
    [[0.85, 0.0, 0.6, 0.95, 1.0]]
    """
    chances = np.asarray(probabilities, float)
    count, grades = chances.shape
    rows = np.arange(count)
    walled = np.pad(chances, ((0, 0), (1, 1)), constant_values=-1.0)  # beyond the scale: less likely than anything
    low = high = chances.argmax(1)
    found, mass = np.zeros(chances.shape), chances[rows, low]
    for _ in range(grades - 1):
        downward = walled[rows, low] >= walled[rows, high + 2]
        joins = np.where(downward, low - 1, high + 1)
        low, high = low - downward, high + ~downward
        found[rows, joins] = np.minimum(mass, 1.0)
        mass = mass + chances[rows, joins]
    return found


def fit_threshold(
    probabilities: NDArray[np.floating], grades: NDArray[np.integer], coverage: float = COVERAGE
) -> float:
    """Choose the threshold on graded knees that the networks were not trained on.

    Parameters
    ----------
    probabilities : ndarray, shape (N, K)
        Rows sum to 1.
    grades : ndarray, shape (N,)
        True grades, 0 to K - 1.
    coverage : float
        Share of knees whose set is to hold the true grade, between 0 and 1.

    Returns
    -------
    float
        The ceil((N + 1) coverage)-th smallest score of the true grades; 1 where there are too few knees for any other.

    Raises
    ------
    ValueError
        No knee, or a coverage that is not between 0 and 1.
    """
    if not 0 < coverage < 1:
        raise ValueError(f"coverage is {coverage}: must lie between 0 and 1")
    count = len(grades)
    if not count:
        raise ValueError("no knee to fit a threshold on")
    true = np.sort(scores(probabilities)[np.arange(count), grades])
    rank = math.ceil((count + 1) * coverage - 1e-9)  # .9 of 10 is 9, whatever the last bit says
    return float(true[rank - 1]) if rank <= count else 1.0
