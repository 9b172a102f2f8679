"""Landmark errors in millimetres. Shapes: N knees, M landmarks."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

OUTLIER_MM = 10.0
BOUNDS_MM = (1, 1.5, 2, 2.5)
# what the validation of a landmark network tells, and which end of it is best
METRICS = {
    "error_mm": "min",
    "median_mm": "min",
    **{f"within_{bound:g}mm": "max" for bound in BOUNDS_MM},
    "outliers": "min",
    "spread_mm": "min",
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
        "outliers": float((errors >= OUTLIER_MM).any(axis=1).mean()),
    }
