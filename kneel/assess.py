"""What is said of predicted landmarks: the paper's reports, errors with intervals, measures against the annotated ones.

The paper is that of Tiulpin, Melekhov and Saarakkala (ICCVW 2019, arXiv:1907.12237).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kneel.bootstrap import SubjectBootstrap, interval
from kneel.imaging.schema import FEMUR, LANDMARKS, TIBIA
from kneel.measure import KneeMeasures, measure_knee
from kneel.metrics import (
    BOUNDS_MM,
    CV_POINTS,
    SUCCESS_BOUNDS_MM,
    TEST_POINTS,
    bone_errors,
    outliers,
    precision,
)
from kneel.predictions import Predictions

ERROR, OUTLIERS = "mean error, mm", "knees with a point off by >= 10 mm, %"
SUCCESS = {bound: f"within {bound:g} mm, %" for bound in SUCCESS_BOUNDS_MM}
MEASURES = {
    "jsw_medial": "joint space, medial minimum, mm",
    "jsw_lateral": "joint space, lateral minimum, mm",
    "jlca_deg": "joint line convergence angle, degrees",
    "tibial_width": "tibial width, mm",
    "femoral_width": "femoral width, mm",
}
ALL = "all"
Mask = NDArray[np.bool_]
Values = NDArray[np.float64]


def grade_groups(kl: Sequence[int] | pd.Series) -> dict[str, Mask]:
    """Group knees by their grade.

    Parameters
    ----------
    kl : sequence of int, length N
        Grades.

    Returns
    -------
    dict of str to ndarray, shape (N,), bool
        ``all``, ``KL < 2``, ``KL >= 2``, ``KL 0`` .. ``KL 4``; groups without a knee are left out.
    """
    grades = np.asarray(kl)
    groups = severity_groups(kl) | {f"KL {grade}": grades == grade for grade in range(5)}
    return {name: mask for name, mask in groups.items() if mask.any()}


def severity_groups(kl: Sequence[int] | pd.Series) -> dict[str, Mask]:
    """Group knees as the paper's report of a test set does.

    Parameters
    ----------
    kl : sequence of int, length N
        Grades.

    Returns
    -------
    dict of str to ndarray, shape (N,), bool
        ``all``, ``KL < 2``, ``KL >= 2``; groups without a knee are left out.
    """
    grades = np.asarray(kl)
    groups = {ALL: np.ones(len(grades), bool), "KL < 2": grades < 2, "KL >= 2": grades >= 2}
    return {name: mask for name, mask in groups.items() if mask.any()}


def point_groups(landmarks: int) -> dict[str, list[int]]:
    """Group landmarks: all, by bone, one by one.

    Parameters
    ----------
    landmarks : int
        16, or 1 for the joint centre.

    Returns
    -------
    dict of str to list of int
        Numbers of the landmarks; numbered names such as ``4 tibia centre between the spines``.
    """
    if landmarks == 1:
        return {"joint centre": [0]}
    every = list(range(landmarks))
    single = {f"{number} {name}": [number] for number, name in enumerate(LANDMARKS)}
    return {"16 points": every, "tibia": every[TIBIA], "femur": every[FEMUR], **single}


def error_figures(predictions: Predictions, bootstrap: SubjectBootstrap) -> pd.DataFrame:
    """Work out errors, success rates and outliers, with 95 % intervals.

    Parameters
    ----------
    predictions : Predictions
        Of one experiment.
    bootstrap : SubjectBootstrap
        Of its knees.

    Returns
    -------
    DataFrame
        experiment, knees (a group of `grade_groups`), points (one of `point_groups`), number of knees and of subjects,
        figure, value, low, high. Groups of points are judged on all knees, groups of knees on all points.
    """
    errors = predictions.errors_mm
    groups, grades = point_groups(errors.shape[1]), grade_groups(predictions.knees.kl)
    every = next(iter(groups))
    asked = [(ALL, points) for points in groups] + [(knees, every) for knees in grades if knees != ALL]
    columns: list[Values] = []
    rows: list[dict[str, Any]] = []
    for knees, points in asked:
        mask = grades[knees]
        about = {"experiment": predictions.experiment, "knees": knees, "points": points, "number of knees": mask.sum()}
        about["number of subjects"] = predictions.knees.subject_id[mask].nunique()
        for figure, values in _of_knees(errors[:, groups[points]]).items():
            columns.append(np.where(mask, values, np.nan))
            rows.append({**about, "figure": figure})
    value, resampled = bootstrap.means(np.stack(columns, axis=1))
    low, high = interval(resampled)
    return pd.DataFrame(rows).assign(value=value, low=low, high=high)


def _of_knees(errors: Values) -> dict[str, Values]:
    """Figures of every knee, (N,), of which the mean over knees is reported."""
    within = {name: 100 * (errors <= bound).mean(axis=1) for bound, name in SUCCESS.items()}
    return {ERROR: errors.mean(axis=1), **within, OUTLIERS: 100.0 * outliers(errors)}


def report_cv(predictions: Predictions) -> pd.DataFrame:
    """Report as the paper's table of cross-validations does.

    Per knee and bone, the mean error of the two edges of the bone; the precision is the share of knees whose error is
    within a bound, as mean and standard deviation (n - 1, as the authors' code has it) over the two bones.

    Parameters
    ----------
    predictions : Predictions
        Of one experiment, 16 points.

    Returns
    -------
    DataFrame, one row
        experiment, number of knees, ``1 mm`` .. ``2.5 mm`` and ``1 mm, SD`` .. (%), ``outliers`` (% of knees with any
        of the 16 points off by 10 mm or more).
    """
    errors = predictions.errors_mm
    row = {"experiment": predictions.experiment, "number of knees": len(errors)}
    return pd.DataFrame([row | _over_bones(errors, CV_POINTS)])


def report_test(predictions: Predictions) -> pd.DataFrame:
    """Report as the paper's table of test sets does: three points a bone, by bone and over both, by severity.

    Parameters
    ----------
    predictions : Predictions
        Of one experiment, 16 points.

    Returns
    -------
    DataFrame
        As `report_cv`, with knees (``all``, ``KL < 2``, ``KL >= 2``) and bone (``tibia``, ``femur``, ``both``, the last
        alone with standard deviations).
    """
    rows = []
    for knees, mask in severity_groups(predictions.knees.kl).items():
        errors = predictions.errors_mm[mask]
        about = {"experiment": predictions.experiment, "knees": knees, "number of knees": len(errors)}
        shares = 100 * precision(bone_errors(errors, TEST_POINTS))
        out = {"outliers": 100 * outliers(errors).mean()}
        for bone, share in zip(TEST_POINTS, shares, strict=True):
            rows.append({**about, "bone": bone, **_named(share), **out})
        rows.append({**about, "bone": "both", **_over_bones(errors, TEST_POINTS)})
    return pd.DataFrame(rows)


def _over_bones(errors: Values, points: Mapping[str, Sequence[int]]) -> dict[str, float]:
    shares = 100 * precision(bone_errors(errors, points))
    spread = {f"{name}, SD": value for name, value in _named(shares.std(axis=0, ddof=1)).items()}
    return {**_named(shares.mean(axis=0)), **spread, "outliers": 100 * outliers(errors).mean()}


def _named(shares: Values) -> dict[str, float]:
    return {f"{bound:g} mm": float(share) for bound, share in zip(BOUNDS_MM, shares, strict=True)}


def measured(predictions: Predictions) -> tuple[KneeMeasures, KneeMeasures]:
    """Measure the knees on their predicted and on their true points.

    Parameters
    ----------
    predictions : Predictions
        Of one experiment, 16 points.

    Returns
    -------
    predicted, annotated : KneeMeasures
        Arrays of shape (N,), mm and degrees.
    """
    scale = predictions.knees.mm_per_px.to_numpy(float)[:, None, None]
    return measure_knee(predictions.points * scale), measure_knee(predictions.truth * scale)


def measure_figures(predictions: Predictions, bootstrap: SubjectBootstrap) -> pd.DataFrame:
    """Compare the measures of predicted points with those of the annotated ones, with 95 % intervals.

    Parameters
    ----------
    predictions : Predictions
        Of one experiment, 16 points.
    bootstrap : SubjectBootstrap
        Of its knees.

    Returns
    -------
    DataFrame
        experiment, measure (of `MEASURES`), figure (see `agreement`), value, low, high.
    """
    rows = []
    for name, predicted, annotated in zip(KneeMeasures._fields, *measured(predictions), strict=True):
        mean, resampled = bootstrap.means(moments(predicted, annotated))
        value, drawn = agreement(mean, np.float64(len(predicted))), agreement(resampled, bootstrap.sizes)
        for figure in value:
            low, high = interval(drawn[figure])
            about = {"experiment": predictions.experiment, "measure": MEASURES[name], "figure": figure}
            rows.append({**about, "value": float(value[figure]), "low": float(low), "high": float(high)})
    return pd.DataFrame(rows)


def moments(predicted: Values, annotated: Values) -> Values:
    """Prepare two readings of N knees for `agreement`, which asks for the means over the knees.

    Parameters
    ----------
    predicted, annotated : ndarray, shape (N,)
        The readings.

    Returns
    -------
    ndarray, shape (N, 6)
        abs(x - y), x, y, x^2, y^2 and x y, of readings less the mean of `annotated`: squares stay small.
    """
    x, y = predicted - annotated.mean(), annotated - annotated.mean()
    return np.stack([np.abs(x - y), x, y, x * x, y * y, x * y], axis=1)


def agreement(means: Values, number: Values | np.float64) -> dict[str, Values]:
    """Say how well two readings x and y of the same knees agree, from their moments.

    Bias and limits of agreement are Bland and Altman's (1986), x - y with 1.96 standard deviations; the intraclass
    correlation is ICC(A, 1) of McGraw and Wong (1996): single readings, absolute agreement.

    Parameters
    ----------
    means : ndarray, shape (..., 6)
        Means of `moments` over the knees.
    number : ndarray, shape (...)
        Number of knees.

    Returns
    -------
    dict of str to ndarray, shape (...)
        NaN where it is not defined: limits of fewer than two knees, ICC of knees that are all alike.
    """
    absolute, x, y, xx, yy, xy = np.moveaxis(np.asarray(means, float), -1, 0)
    some = np.where(number > 1, number / np.maximum(number - 1, 1), np.nan)
    bias = x - y
    difference = some * np.maximum(xx + yy - 2 * xy - bias**2, 0)  # variance of x - y
    spread = 1.96 * np.sqrt(difference)
    rows = some * np.maximum(xx + yy + 2 * xy - (x + y) ** 2, 0) / 2  # mean squares: knees, readers, rest
    readers, rest = number * bias**2 / 2, difference / 2
    total = rows + rest + 2 / number * (readers - rest)
    icc = np.divide(rows - rest, total, out=np.full(np.shape(total), np.nan), where=total > 1e-12)
    return {
        "bias": bias,
        "mean absolute error": absolute,
        "lower limit of agreement": bias - spread,
        "upper limit of agreement": bias + spread,
        "ICC(A,1)": icc,
    }
