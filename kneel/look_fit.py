"""Fitting what tells the looks of a knee apart; apart from `kneel.looks`, because reading needs no scikit-learn."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from kneel.looks import FEATURES, LookModel

STRENGTH = 0.1  # inverse of the penalty on standardised features; a tenth or ten times as much changes little


def fit_looks(right: ArrayLike, wrong: ArrayLike) -> LookModel:
    """Fit the model: without intercept, so that exchanging the looks exchanges the answer.

    Parameters
    ----------
    right, wrong : array_like, shape (N, FEATURES)
        `kneel.looks.features` of the true look and of the mirror image of N knees.

    Returns
    -------
    LookModel
        Of the differences.

    Raises
    ------
    ValueError
        The arrays have other shapes, or hold no knee.
    """
    differences = np.asarray(right, float) - np.asarray(wrong, float)
    if differences.ndim != 2 or differences.shape[1] != FEATURES or not len(differences):
        raise ValueError(f"features have shape {differences.shape}: must be (N, {FEATURES}), N at least 1")
    # about zero, not about their mean: which of the looks is called the first is a matter of chance
    scale = np.sqrt(np.mean(np.square(differences), axis=0))
    scaled = differences / np.where(scale > 0, scale, 1)
    model = LogisticRegression(C=STRENGTH, fit_intercept=False, max_iter=5000)
    model.fit(np.concatenate([scaled, -scaled]), np.repeat([True, False], len(scaled)))
    return LookModel(model.coef_[0] / np.where(scale > 0, scale, np.inf))


def cross_fitted(right: ArrayLike, wrong: ArrayLike, subjects: ArrayLike, folds: int = 10) -> NDArray[np.float64]:
    """Return the probability of the true look of every knee, by a model that saw none of its subject.

    Parameters
    ----------
    right, wrong : array_like, shape (N, FEATURES)
        As for `fit_looks`.
    subjects : array_like, shape (N,)
        Whose knees they are; at least `folds` different ones.
    folds : int
        Parts that the subjects are dealt to.

    Returns
    -------
    ndarray, shape (N,)
        In [0, 1]; above .5 the look is told right.
    """
    right, wrong = np.asarray(right, float), np.asarray(wrong, float)
    answers = np.empty(len(right))
    for seen, held in GroupKFold(folds).split(right, groups=np.asarray(subjects)):
        model = fit_looks(right[seen], wrong[seen])
        answers[held] = [model.probability(*pair) for pair in zip(right[held], wrong[held], strict=True)]
    return answers
