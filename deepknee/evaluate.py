"""How good predicted grades are, with intervals: metrics, honest calibration, and two models on the same knees.

All intervals are 95 % percentile intervals by bootstrap over subjects, `kneel.bootstrap`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deepknee.calibration import SPLITS, CrossFit, cross_fit
from deepknee.conformal import COVERAGE, LARGEST
from deepknee.metrics import calibration_error, chance_error, evaluation_metrics
from deepknee.model import GRADES
from deepknee.predictions import GradePredictions, PredictionTableError
from deepknee.resample import resampled_error, resampled_metrics
from kneel.bootstrap import RESAMPLES, SubjectBootstrap, interval

Values = NDArray[np.float64]
WORDS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "kappa": "quadratic kappa",
    "mae": "mean absolute error",
    "mse": "mean squared error",
    **{f"recall_{k}": f"recall, KL {k}" for k in range(GRADES)},
    **{f"f1_{k}": f"F1, KL {k}" for k in range(GRADES)},
    "auc_oa": "AUC, KL >= 2",
    "ap_oa": "average precision, KL >= 2",
    "cross_entropy": "cross-entropy",
    "ece": "expected calibration error",
}
CHANCE = "the same of a perfectly calibrated grader, by chance"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One model on one set of knees.

    Attributes
    ----------
    predictions : GradePredictions
        What was judged.
    samples : ndarray, shape (R, F)
        The figures of `WORDS`, in its order, on every resample.
    table : DataFrame
        group, figure, value, low, high: ``grading``, ``cross-fitted``, and ``stored sets`` where the predictions hold
        sets.
    """

    predictions: GradePredictions
    samples: Values
    table: pd.DataFrame

    def cell(self, figure: str, digits: int = 3) -> str:
        """Print a figure of the grading with its interval, such as ``.812 (.783 to .840)``."""
        row = self.table[(self.table.group == "grading") & (self.table.figure == figure)].iloc[0]
        return f"{row.value:.{digits}f} ({row.low:.{digits}f} to {row.high:.{digits}f})"


def evaluate(
    predictions: GradePredictions,
    *,
    resamples: int = RESAMPLES,
    coverage: float = COVERAGE,
    largest: int = LARGEST,
    splits: int = SPLITS,
) -> Evaluation:
    """Work out everything that is said of one model.

    Parameters
    ----------
    predictions : GradePredictions
        Of any number of knees.
    resamples : int
        Of the bootstrap.
    coverage, largest
        Of the cross-fitted sets, see `deepknee.conformal.Conformal`.
    splits : int
        Ways to halve the subjects for the cross-fitted figures.

    Returns
    -------
    Evaluation

    Raises
    ------
    ConfigError
        Too few subjects or knees to halve.
    """
    bootstrap = SubjectBootstrap(predictions.subjects, resamples=resamples)
    grades, chances = predictions.grades, predictions.probabilities
    found, resampled = evaluation_metrics(chances, grades), resampled_metrics(chances, grades, bootstrap)
    value = np.array([found[name] for name in WORDS])
    samples = np.stack([resampled[name] for name in WORDS], axis=1)
    crossed = cross_fit(
        predictions.networks, grades, predictions.subjects, coverage=coverage, largest=largest, splits=splits
    )
    parts = [_table("grading", list(WORDS.values()), value, samples), _cross_fitted(crossed, grades, bootstrap)]
    if predictions.sets is not None and predictions.abstain is not None:
        right = chances.argmax(1) == grades
        parts.append(_sets("stored sets", predictions.sets[None], predictions.abstain[None], right, grades, bootstrap))
    return Evaluation(predictions, samples, pd.concat(parts, ignore_index=True))


def compare(first: Evaluation, second: Evaluation) -> pd.DataFrame:
    """Tell two models apart on the same knees, by the same resamples of the subjects.

    Parameters
    ----------
    first, second : Evaluation
        With the same number of resamples; of knees in the same order, see `same_knees`.

    Returns
    -------
    DataFrame
        figure, first, second, difference (first less second) and its interval low, high; ``differ`` where the interval
        leaves out 0.

    Raises
    ------
    PredictionTableError
        The knees are not the same, or not in the same order.
    """
    if first.predictions.knees.knee.tolist() != second.predictions.knees.knee.tolist():
        raise PredictionTableError("the models are compared on other knees, or on knees in another order")
    ours, theirs = (each.table[each.table.group == "grading"].value.to_numpy(float) for each in (first, second))
    low, high = interval(first.samples - second.samples)
    table = pd.DataFrame({"figure": list(WORDS.values()), "first": ours, "second": theirs})
    table = table.assign(difference=ours - theirs, low=low, high=high)
    return table.assign(differ=(table.low > 0) | (table.high < 0))


def same_knees(first: GradePredictions, second: GradePredictions) -> GradePredictions:
    """Put the knees of a second model into the order of a first.

    Parameters
    ----------
    first, second : GradePredictions
        To be compared.

    Returns
    -------
    GradePredictions
        The second.

    Raises
    ------
    PredictionTableError
        A knee is in one only, or subject or true grade differ.
    """
    names, others = first.knees.knee, second.knees.knee
    alone = {first.model: sorted(set(names) - set(others)), second.model: sorted(set(others) - set(names))}
    missing = [f"{len(knees)} only in {model}, as {knees[0]}" for model, knees in alone.items() if knees]
    if missing:
        raise PredictionTableError(f"{first.model} and {second.model} graded different knees: {'; '.join(missing)}")
    order = second.knees.reset_index(drop=True).reset_index().set_index("knee")["index"].loc[names].to_numpy()
    for column in ("subject_id", "true_kl"):
        ours, theirs = first.knees[column].to_numpy(), second.knees[column].to_numpy()[order]
        if (ours != theirs).any():
            knee = names.to_numpy()[ours != theirs][0]
            what = f"{column} of {(ours != theirs).sum()} knees differs between them, as of {knee}"
            raise PredictionTableError(f"{first.model} and {second.model} cannot be compared: {what}")
    members, sets, abstain = second.members, second.sets, second.abstain
    return GradePredictions(
        second.model,
        second.knees.iloc[order].reset_index(drop=True),
        second.probabilities[order],
        None if members is None else members[:, order],
        None if sets is None else sets[order],
        None if abstain is None else abstain[order],
        second.training,
    )


def _cross_fitted(crossed: CrossFit, grades: NDArray[np.int64], bootstrap: SubjectBootstrap) -> pd.DataFrame:
    """Average the splits; every knee counts as it came out when its subject was not fitted on."""
    true = np.maximum(crossed.probabilities[:, np.arange(len(grades)), grades], np.finfo(float).eps)
    entropy, entropies = bootstrap.means(-np.log(true).mean(0))
    error = np.mean([calibration_error(chances, grades) for chances in crossed.probabilities])
    errors = np.mean([resampled_error(chances, grades, bootstrap) for chances in crossed.probabilities], axis=0)
    names = ["cross-entropy", "expected calibration error"]
    first = _table("cross-fitted", names, np.array([entropy, error]), np.stack([entropies, errors], axis=1))
    floor = chance_error(crossed.probabilities[0])
    chance = _table("cross-fitted", [CHANCE], floor.mean(), floor[:, None])
    fits = {"further temperature": crossed.temperatures, "threshold": crossed.thresholds}
    spread = [
        {"group": "cross-fitted", "figure": f"{name}, mean (lowest to highest of the halves)"}
        | dict(zip(("value", "low", "high"), (each.mean(), each.min(), each.max()), strict=True))
        for name, each in fits.items()
    ]
    right = crossed.probabilities.argmax(2) == grades
    sets = _sets("cross-fitted", crossed.sets, crossed.abstain, right, grades, bootstrap)
    return pd.concat([first, chance, sets, pd.DataFrame(spread)], ignore_index=True)


def _sets(
    group: str,
    sets: NDArray[np.bool_],
    abstain: NDArray[np.bool_],
    right: NDArray[np.bool_],
    grades: NDArray[np.int64],
    bootstrap: SubjectBootstrap,
) -> pd.DataFrame:
    """Say how sets of S splits, (S, N, 5), fare; shares among some knees are ratios of means over all."""
    held, size = sets[:, np.arange(len(grades)), grades], sets.sum(2)
    always = np.ones(held.shape)
    shares: Mapping[str, tuple[NDArray, NDArray]] = {
        "coverage": (held, always),
        **{f"coverage, KL {k}": (held & (grades == k), always * (grades == k)) for k in range(GRADES)},
        "grades in a set": (size, always),
        **{f"sets of {count}": (size == count, always) for count in range(1, GRADES + 1)},
        "abstained": (abstain, always),
        "accuracy where not abstained": (right & ~abstain, ~abstain),
        "accuracy where abstained": (right & abstain, abstain),
    }
    parts = np.stack([np.mean(each, axis=0) for pair in shares.values() for each in pair], axis=1).astype(float)
    mean, samples = bootstrap.means(parts)
    with np.errstate(invalid="ignore"):  # no such knee: NaN
        return _table(group, list(shares), mean[::2] / mean[1::2], samples[:, ::2] / samples[:, 1::2])


def _table(group: str, names: list[str], value: Values | float, samples: Values) -> pd.DataFrame:
    low, high = interval(samples)
    return pd.DataFrame({"group": group, "figure": names, "value": value, "low": low, "high": high})
