"""Figures of `deepknee.metrics.evaluation_metrics` on thousands of resamples at once.

The same numbers as a call for every resample, in a fraction of a second instead of minutes: all but AUC and average
precision follow from means over knees.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepknee.metrics import BINS, OA_GRADE, calibration_places
from deepknee.model import GRADES
from kneel.bootstrap import SubjectBootstrap

Values = NDArray[np.float64]


def resampled_metrics(
    probabilities: Values, grades: NDArray[np.int64], bootstrap: SubjectBootstrap
) -> dict[str, Values]:
    """Work out the figures on every resample.

    Parameters
    ----------
    probabilities : ndarray, shape (N, 5)
        Rows sum to 1.
    grades : ndarray, shape (N,)
        True grades.
    bootstrap : SubjectBootstrap
        R resamples of these knees.

    Returns
    -------
    dict of ndarray, shape (R,)
        By the names of `evaluation_metrics`; NaN where a figure has no value on a resample.
    """
    cells = np.zeros((len(grades), GRADES, GRADES))
    cells[np.arange(len(grades)), grades, probabilities.argmax(1)] = 1
    _, table = bootstrap.means(cells)
    # sklearn's log_loss clips in the same way
    true = np.maximum(probabilities[np.arange(len(grades)), grades], np.finfo(float).eps)
    auc, precision = _ranked(probabilities[:, OA_GRADE:].sum(1), grades >= OA_GRADE, bootstrap)
    return {
        **_tabled(table),
        "auc_oa": auc,
        "ap_oa": precision,
        "cross_entropy": bootstrap.means(-np.log(true))[1],
        "ece": resampled_error(probabilities, grades, bootstrap),
    }


def resampled_error(probabilities: Values, grades: NDArray[np.int64], bootstrap: SubjectBootstrap) -> Values:
    """Work out `deepknee.metrics.calibration_error` on every resample, shape (R,)."""
    gaps = np.zeros((len(grades), BINS))
    places = calibration_places(probabilities, BINS)
    gaps[np.arange(len(grades)), places] = (probabilities.argmax(1) == grades) - probabilities.max(1)
    return np.abs(bootstrap.means(gaps)[1]).sum(1)


def _tabled(table: Values) -> dict[str, Values]:
    """Return what follows from confusion tables (R, true, predicted) of shares that sum to 1."""
    hits, true, predicted = np.diagonal(table, axis1=1, axis2=2), table.sum(2), table.sum(1)
    recall, f1 = _ratio(hits, true), _ratio(2 * hits, true + predicted)
    distance = np.abs(np.subtract.outer(np.arange(GRADES), np.arange(GRADES)))
    expected = np.einsum("ri,rj,ij->r", true, predicted, distance**2)
    observed = (table * distance**2).sum((1, 2))
    return {
        "accuracy": hits.sum(1),
        "balanced_accuracy": np.nanmean(recall, axis=1),
        "kappa": np.where(expected > 0, 1 - observed / np.where(expected > 0, expected, 1), 0.0),
        "mae": (table * distance).sum((1, 2)),
        "mse": observed,
        **{f"recall_{k}": recall[:, k] for k in range(GRADES)},
        **{f"f1_{k}": f1[:, k] for k in range(GRADES)},
    }


def _ranked(chances: Values, disease: NDArray[np.bool_], bootstrap: SubjectBootstrap) -> tuple[Values, Values]:
    """Return AUC and average precision; knees of equal probability share a step of the curves."""
    levels, step = np.unique(chances, return_inverse=True)

    def both(rows: NDArray[np.intp]) -> tuple[float, float]:
        ill, well = (np.bincount(step[rows[part]], minlength=len(levels)) for part in (disease[rows], ~disease[rows]))
        if not ill.any() or not well.any():
            return np.nan, np.nan
        auc = ill @ (well.cumsum() - well / 2) / (ill.sum() * well.sum())
        found, called = ill[::-1].cumsum(), (ill + well)[::-1].cumsum()  # from the likeliest down
        return auc, ill[::-1] @ (found / np.maximum(called, 1)) / ill.sum()

    auc, precision = bootstrap.statistic(both).T
    return auc, precision


def _ratio(part: Values, whole: Values) -> Values:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
