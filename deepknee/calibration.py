"""Temperature of an ensemble, and figures of calibration that no knee was both fitted and judged in.

The probabilities of an ensemble of M networks with logits z_m are

    p(k | x) = (1 / M) sum over m of softmax(z_m(x) / T)_k

with one temperature T for all, chosen to make the cross-entropy on validation knees smallest (as Guo et al. [1]_
do for one network). As softmax(z / T) is softmax(log softmax(z) / T), probabilities are enough to fit it.

References
----------
.. [1] C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger. On Calibration of Modern Neural Networks. ICML 2017, section 4.2.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from deepknee.conformal import COVERAGE, LARGEST, Conformal, fit_threshold
from kneel.engine.config import ConfigError
from kneel.engine.folds import grouped_folds

Values = NDArray[np.float64]
RANGE = (0.05, 20.0)  # of temperatures: beyond, nothing of a network's answer is left
SPLITS = 10
_SAME = 1e-5  # what probabilities differ by that are the same but for rounding
_SMALLEST = 1e-12  # a probability of 0, as a rounded table may hold, has no logarithm


def mean_probabilities(networks: Values, temperature: float) -> Values:
    """Average the networks of an ensemble at another temperature.

    Parameters
    ----------
    networks : ndarray, shape (M, N, K)
        Probabilities of each network.
    temperature : float
        T > 0, relative to that of `networks`.

    Returns
    -------
    ndarray, shape (N, K)
        Rows sum to 1.
    """
    return softmax(np.log(np.maximum(networks, _SMALLEST)) / temperature, axis=-1).mean(0)


def fit_temperature(networks: Values, grades: NDArray[np.integer]) -> float:
    """Choose the temperature of the smallest cross-entropy.

    Parameters
    ----------
    networks : ndarray, shape (M, N, K)
        Probabilities of each network, for knees that it was not trained on.
    grades : ndarray, shape (N,)
        True grades.

    Returns
    -------
    float
        T within `RANGE`, relative to that of `networks`.

    Raises
    ------
    ValueError
        No knee.
    """
    if not len(grades):
        raise ValueError("no knee to fit a temperature on")
    rows = np.arange(len(grades))

    def cross_entropy(log_temperature: float) -> float:
        true = mean_probabilities(networks, np.exp(log_temperature))[rows, grades]
        return float(-np.log(np.maximum(true, _SMALLEST)).mean())

    # Of a mean of networks there may be several minima: a grid finds the lowest, a search between its neighbours ends.
    grid = np.linspace(np.log(RANGE[0]), np.log(RANGE[1]), 41)
    best = int(np.argmin([cross_entropy(point) for point in grid]))
    around = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    return float(np.exp(minimize_scalar(cross_entropy, bounds=around, method="bounded", options={"xatol": 1e-6}).x))


def why_doubtful(networks: Values, grades: NDArray[np.integer], temperature: float) -> str | None:
    """Say why a fitted temperature means little.

    Parameters
    ----------
    networks, grades
        What it was fitted on, as for `fit_temperature`.
    temperature : float
        The fit.

    Returns
    -------
    str or None
        What is wrong; None where nothing is.
    """
    chances = mean_probabilities(networks, temperature)
    if np.ptp(chances, axis=0).max() < _SAME:
        return "every knee gets the same probabilities, so that there is nothing to calibrate"
    entropy = -np.log(np.maximum(chances[np.arange(len(grades)), grades], _SMALLEST)).mean()
    shares = np.unique(grades, return_counts=True)[1] / len(grades)
    if entropy >= (known := -(shares * np.log(shares)).sum()):
        told = f"cross-entropy {entropy:.3f} at the best temperature, {known:.3f} of the frequencies"
        return f"the probabilities say no more of these knees than the frequencies of their grades do ({told})"
    if not RANGE[0] * 1.01 < temperature < RANGE[1] / 1.01:
        return f"the best temperature lies at the end of {RANGE[0]} to {RANGE[1]:g}, so that these knees do not tell it"
    return None


@dataclass(frozen=True, eq=False)
class CrossFit:
    """Every knee judged by what was fitted on other subjects, S times over.

    Attributes
    ----------
    probabilities : ndarray, shape (S, N, 5)
        At the temperature of the other half.
    sets : ndarray, shape (S, N, 5), bool
        By the threshold of the other half.
    abstain : ndarray, shape (S, N), bool
        Likewise.
    temperatures, thresholds : ndarray, shape (S, 2)
        What each half gave.
    """

    probabilities: Values
    sets: NDArray[np.bool_]
    abstain: NDArray[np.bool_]
    temperatures: Values
    thresholds: Values


def cross_fit(
    networks: Values,
    grades: NDArray[np.integer],
    subjects: Sequence[Hashable],
    *,
    coverage: float = COVERAGE,
    largest: int = LARGEST,
    splits: int = SPLITS,
) -> CrossFit:
    """Fit temperature and threshold on one half of the subjects and use them on the other, both ways round.

    Figures from this are honest about the fit, though not about networks whose epoch was chosen on the same knees.

    Parameters
    ----------
    networks : ndarray, shape (M, N, 5)
        Probabilities of each network.
    grades : ndarray, shape (N,)
        True grades.
    subjects : sequence, length N
        Their subjects, which are not cut apart.
    coverage, largest
        As for `deepknee.conformal.Conformal`.
    splits : int
        S, the number of ways to halve the subjects.

    Returns
    -------
    CrossFit
        Knees in the given order.

    Raises
    ------
    ConfigError
        Too few subjects or knees to halve.
    """
    if len(set(subjects)) < 2:
        raise ConfigError("cross-fitting halves the subjects: all knees are of one, must be of two and more")
    count = len(grades)
    probabilities = np.zeros((splits, count, networks.shape[2]))
    sets, abstain = np.zeros(probabilities.shape, bool), np.zeros((splits, count), bool)
    temperatures, thresholds = np.zeros((splits, 2)), np.zeros((splits, 2))
    for split in range(splits):
        for half, (fit, use) in enumerate(grouped_folds(subjects, grades.tolist(), 2, seed=split)):
            temperature, conformal = fit_all(networks[:, fit], grades[fit], coverage=coverage, largest=largest)
            probabilities[split, use] = mean_probabilities(networks[:, use], temperature)
            sets[split, use] = conformal.sets(probabilities[split, use])
            abstain[split, use] = conformal.abstain(sets[split, use])
            temperatures[split, half], thresholds[split, half] = temperature, conformal.threshold
    return CrossFit(probabilities, sets, abstain, temperatures, thresholds)


def fit_all(
    networks: Values, grades: NDArray[np.integer], *, coverage: float = COVERAGE, largest: int = LARGEST
) -> tuple[float, Conformal]:
    """Fit the temperature, then the threshold of the sets at that temperature.

    Parameters
    ----------
    networks, grades
        As for `fit_temperature`.
    coverage, largest
        As for `deepknee.conformal.Conformal`.

    Returns
    -------
    temperature : float
        Relative to that of `networks`.
    conformal : Conformal
        For this ensemble at that temperature.
    """
    temperature = fit_temperature(networks, grades)
    threshold = fit_threshold(mean_probabilities(networks, temperature), grades, coverage)
    return temperature, Conformal(coverage=coverage, threshold=threshold, largest=largest, networks=len(networks))
