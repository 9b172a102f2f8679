"""How well grades are predicted."""

import math

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score, confusion_matrix, log_loss, roc_auc_score

from deepknee.model import GRADES

OA_GRADE = 2  # radiographic osteoarthritis: KL 2 and above


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
            Mean negative log of the true grade's probability, which counts as no less than the smallest float.

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
