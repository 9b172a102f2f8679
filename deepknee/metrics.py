"""How well grades are predicted."""

import math

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, cohen_kappa_score, confusion_matrix, log_loss, roc_auc_score

from deepknee.model import GRADES

OA_GRADE = 2  # radiographic osteoarthritis: KL 2 and above
BINS = 15  # of the calibration error, as in Guo et al.


def grading_metrics(probabilities: NDArray[np.floating], grades: NDArray[np.integer]) -> dict[str, float]:
    """Compare predicted probabilities with the true grades.

    Parameters
    ----------
    probabilities : ndarray, shape (N, 5)
        Of KL 0 to 4; rows sum to 1.
    grades : ndarray, shape (N,)
        True KL grades, 0 to 4.

    Returns
    -------
    dict of float
        accuracy
            Share of knees graded right.
        balanced_accuracy
            Mean recall over the grades that occur.
        kappa
            Cohen's kappa with quadratic weights; 0 where it is undefined, when truth and prediction are one and
            the same grade throughout.
        mae
            Mean absolute error of the likeliest grade.
        recall_0 ... recall_4
            Share of each grade's knees graded right; NaN for a grade that does not occur.
        auc_oa
            Area under the ROC curve of P(KL >= 2) against KL >= 2; NaN where only one of the two occurs.
        cross_entropy
            Mean negative log of the true grade's probability, which counts as no less than 2.2e-16.

    Raises
    ------
    ValueError
        No knee, shapes that do not fit, a grade outside 0 to 4, or rows that are no probabilities.
    """
    chances, truth = np.asarray(probabilities, np.float64), np.asarray(grades)
    _check(chances, truth)
    chances = chances / chances.sum(1, keepdims=True)
    predicted, every = chances.argmax(1), list(range(GRADES))
    table = confusion_matrix(truth, predicted, labels=every)
    occurs = table.sum(1)
    recall = [table[k, k] / occurs[k] if occurs[k] else math.nan for k in every]
    disease = truth >= OA_GRADE
    return {
        "accuracy": float(np.mean(predicted == truth)),
        "balanced_accuracy": float(np.nanmean(recall)),
        "kappa": _kappa(truth, predicted),
        "mae": float(np.abs(predicted - truth).mean()),
        **{f"recall_{k}": float(recall[k]) for k in every},
        "auc_oa": float(roc_auc_score(disease, chances[:, OA_GRADE:].sum(1))) if 0 < disease.mean() < 1 else math.nan,
        "cross_entropy": float(log_loss(truth, chances, labels=every)),
    }


def evaluation_metrics(probabilities: NDArray[np.floating], grades: NDArray[np.integer]) -> dict[str, float]:
    """Return `grading_metrics` and what only an evaluation needs; the epochs of a training keep their columns.

    Parameters
    ----------
    probabilities, grades
        As for `grading_metrics`.

    Returns
    -------
    dict of float
        Those of `grading_metrics`, and

        mse
            Mean squared error of the likeliest grade.
        f1_0 ... f1_4
            Harmonic mean of precision and recall of each grade; NaN for a grade that is neither true nor predicted.
        ap_oa
            Average precision of P(KL >= 2) for KL >= 2, the area under the steps of the precision-recall curve; NaN
            where only one of the two occurs.
        ece
            Expected calibration error, see `calibration_error`.

    Raises
    ------
    ValueError
        As `grading_metrics`.
    """
    found = grading_metrics(probabilities, grades)
    chances, truth = np.asarray(probabilities, np.float64), np.asarray(grades)
    chances = chances / chances.sum(1, keepdims=True)
    predicted = chances.argmax(1)
    table = confusion_matrix(truth, predicted, labels=range(GRADES))
    both, disease = table.sum(0) + table.sum(1), truth >= OA_GRADE
    one_sided = disease.all() or not disease.any()
    return {
        **found,
        "mse": float(np.square(predicted - truth).mean()),
        **{f"f1_{k}": float(2 * table[k, k] / both[k]) if both[k] else math.nan for k in range(GRADES)},
        "ap_oa": math.nan if one_sided else float(average_precision_score(disease, chances[:, OA_GRADE:].sum(1))),
        "ece": calibration_error(chances, truth),
    }


def calibration_bins(
    probabilities: NDArray[np.floating], grades: NDArray[np.integer], bins: int = BINS
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Sort knees by the probability of their likeliest grade, the confidence, into bins of equal width.

    Parameters
    ----------
    probabilities : ndarray, shape (N, 5)
        Rows sum to 1.
    grades : ndarray, shape (N,)
        True grades.
    bins : int
        B, the number of bins ((b - 1) / B, b / B].

    Returns
    -------
    count, confidence, right : ndarray, shape (B,)
        Of each bin the number of knees, the sum of their confidences and the number graded right.
    """
    place, right = calibration_places(probabilities, bins), probabilities.argmax(1) == grades
    weights = np.ones(len(grades)), probabilities.max(1), right.astype(float)
    count, confidence, hits = (np.bincount(place, each, bins).astype(np.float64) for each in weights)
    return count, confidence, hits


def calibration_places(probabilities: NDArray[np.floating], bins: int = BINS) -> NDArray[np.intp]:
    """Return the bin of each knee, 0 to B - 1, shape (N,); as `calibration_bins`."""
    return np.digitize(probabilities.max(1), np.arange(1, bins) / bins, right=True)


def calibration_error(probabilities: NDArray[np.floating], grades: NDArray[np.integer], bins: int = BINS) -> float:
    """Return the expected calibration error of the likeliest grade [1]_.

        ECE = sum over bins of (n_b / N) |right_b / n_b - confidence_b|

    with confidence_b the mean confidence of the bin's n_b knees and right_b the number graded right. Chance alone makes
    it greater than 0: by about .035 for a perfectly calibrated grader on 800 knees, see `chance_error`.

    Parameters
    ----------
    probabilities, grades, bins
        As for `calibration_bins`.

    References
    ----------
    .. [1] C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger. On Calibration of Modern Neural Networks. ICML 2017, eq. 3, 5.
    """
    count, confidence, right = calibration_bins(probabilities, grades, bins)
    return float(np.abs(right - confidence).sum() / count.sum())


def chance_error(probabilities: NDArray[np.floating], draws: int = 1000, seed: int = 0) -> NDArray[np.float64]:
    """Return the calibration error that chance alone gives, if the probabilities are right: the floor of the figure.

    Parameters
    ----------
    probabilities : ndarray, shape (N, 5)
        Rows sum to 1.
    draws : int
        R, how often the grades of all knees are drawn from their probabilities.
    seed : int
        Decides the draws.

    Returns
    -------
    ndarray, shape (R,)
        `calibration_error` against the grades of each draw.
    """
    rng, steps = np.random.default_rng(seed), np.cumsum(probabilities, axis=1)[:, :-1]
    drawn = [(rng.random((len(steps), 1)) > steps).sum(1) for _ in range(draws)]
    return np.array([calibration_error(probabilities, grades) for grades in drawn])


def _kappa(truth: NDArray, predicted: NDArray) -> float:
    if len({*truth.tolist(), *predicted.tolist()}) == 1:
        return 0.0  # chance alone would agree as well
    return float(cohen_kappa_score(truth, predicted, weights="quadratic", labels=range(GRADES)))


def _check(chances: NDArray, truth: NDArray) -> None:
    if len(truth) == 0 or chances.shape != (len(truth), GRADES):
        raise ValueError(f"probabilities have shape {chances.shape} for {len(truth)} grades: must be (N, {GRADES})")
    strange = sorted(set(truth.tolist()) - set(range(GRADES)))
    if strange:
        raise ValueError(f"grades hold {strange}: must be 0 to {GRADES - 1}")
    if not (chances >= 0).all() or not np.allclose(chances.sum(1), 1, atol=1e-3):
        raise ValueError("rows of probabilities must be 0 or more and sum to 1")
