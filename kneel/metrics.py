"""Landmark errors in millimetres. Shapes: N knees, M landmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kneel.bootstrap import SubjectBootstrap, ends, mean_intervals

OUTLIER_MM = 10.0
BOUNDS_MM = (1, 1.5, 2, 2.5)
SUCCESS_BOUNDS_MM = (*BOUNDS_MM, 4)
# the points that the paper's reports judge a bone by: its two edges, in the test report its middle as well
CV_POINTS = {"tibia": (0, 8), "femur": (9, 15)}
TEST_POINTS = {"tibia": (0, 4, 8), "femur": (9, 12, 15)}
# what the validation of a landmark network tells, and which end of it is best
METRICS = {
    "error_mm": "min",
    "median_mm": "min",
    **{f"within_{bound:g}mm": "max" for bound in BOUNDS_MM},
    "outliers": "min",
    "spread_mm": "min",
    "val_loss": "min",
}


def radial_errors(prediction: ArrayLike, truth: ArrayLike, mm_per_px: ArrayLike) -> NDArray[np.float64]:
    """Distance of every point from its truth.

    Parameters
    ----------
    prediction, truth : array_like, shape (..., 2)
        (x, y) in pixels.
    mm_per_px : float or array_like, shape (2,)
        Millimetres per pixel, one for both axes or (x, y).

    Returns
    -------
    ndarray, shape (...)
        Millimetres.
    """
    step = (np.asarray(prediction, float) - np.asarray(truth, float)) * np.asarray(mm_per_px, float)
    return np.hypot(step[..., 0], step[..., 1])


def error_summary(errors_mm: ArrayLike) -> dict[str, float]:
    """Summarise the errors of a set of knees.

    Parameters
    ----------
    errors_mm : array_like, shape (N, M)
        From `radial_errors`; N and M at least 1.

    Returns
    -------
    dict of str to float
        ``error_mm`` mean over all points, ``median_mm``, ``within_1mm`` .. ``within_2.5mm`` shares of points (the
        bound included), ``outliers`` share of knees with a point off by 10 mm or more.
    """
    errors = np.asarray(errors_mm, float)
    within = {f"within_{bound:g}mm": float((errors <= bound).mean()) for bound in BOUNDS_MM}
    return {
        "error_mm": float(errors.mean()),
        "median_mm": float(np.median(errors)),
        **within,
        "outliers": float(outliers(errors).mean()),
    }


def error_intervals(errors_mm: ArrayLike, bootstrap: SubjectBootstrap) -> dict[str, tuple[float, float]]:
    """Say between which numbers the errors of a set of knees lie.

    Parameters
    ----------
    errors_mm : array_like, shape (N, M)
        From `radial_errors`.
    bootstrap : SubjectBootstrap
        Of these knees.

    Returns
    -------
    dict of str to (float, float)
        95 % interval of each figure of `error_summary`.
    """
    errors = np.asarray(errors_mm, float)
    knees = {
        "error_mm": errors.mean(axis=1),
        **{f"within_{bound:g}mm": (errors <= bound).mean(axis=1) for bound in BOUNDS_MM},
        "outliers": outliers(errors).astype(float),
    }
    return {**mean_intervals(knees, bootstrap), "median_mm": ends(bootstrap.medians(errors))}


def bone_errors(errors_mm: ArrayLike, points: Mapping[str, Sequence[int]]) -> NDArray[np.float64]:
    """Average the errors of some points of each bone, knee by knee.

    Parameters
    ----------
    errors_mm : array_like, shape (N, 16)
        From `radial_errors`.
    points : mapping of str to sequence of int
        `CV_POINTS` or `TEST_POINTS`.

    Returns
    -------
    ndarray, shape (N, bones)
        Millimetres; bones in the order of `points`.
    """
    errors = np.asarray(errors_mm, float)
    return np.stack([errors[:, list(chosen)].mean(axis=1) for chosen in points.values()], axis=1)


def precision(bones_mm: ArrayLike) -> NDArray[np.float64]:
    """Share of knees whose error is within `BOUNDS_MM`, the bound and perfect predictions included.

    Parameters
    ----------
    bones_mm : array_like, shape (N, bones)
        From `bone_errors`; N at least 1.

    Returns
    -------
    ndarray, shape (bones, 4)
        Shares, 0 to 1.
    """
    return (np.asarray(bones_mm, float)[..., None] <= np.array(BOUNDS_MM)).mean(axis=0)


def outliers(errors_mm: ArrayLike) -> NDArray[np.bool_]:
    """Say which knees have any point off by `OUTLIER_MM` or more.

    Parameters
    ----------
    errors_mm : array_like, shape (N, M)
        From `radial_errors`.

    Returns
    -------
    ndarray, shape (N,), bool
        True for an outlier.
    """
    return np.asarray((np.asarray(errors_mm, float) >= OUTLIER_MM).any(axis=1))
