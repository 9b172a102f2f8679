"""The folder of an evaluation: figures as CSV, pictures, and report.md that shows and explains them all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from deepknee.evaluate import Evaluation, compare
from deepknee.evaluate_figures import draw_all
from deepknee.metrics import BINS
from deepknee.model import GRADES
from kneel.engine.snapshot import write_atomic
from kneel.engine.tables import markdown

NOTICE = "*Research use only. Not a medical device.*"
INTERVALS = """In brackets 95 % intervals: percentile bootstrap, {resamples} resamples of the subjects, both knees of
one together."""
GRADING = f"""The grade is the likeliest of the five; errors are in grades. Balanced accuracy is the mean recall. AUC
and average precision are of P(KL >= 2). Expected calibration error: the gap between the probability of the likeliest
grade and the share of knees graded right, over {BINS} bins of equal width, weighted by their knees. Chance alone
makes it greater than 0, and resampling adds to it, so its interval lies high. Where the same knees chose the epoch of
the networks, all figures are a little optimistic, here and below; where they fitted the temperature, cross-entropy and
calibration error of this table are."""
CROSSED = """Every knee judged by a temperature and a threshold that were fitted on the other half of the subjects;
mean over ten ways to halve them. The set of a knee is the run of neighbouring grades of `deepknee/conformal.py`, made
to hold the true grade of {coverage:.3g} % of knees, on average over all grades; the rows by KL say for which grades
it does. A knee is abstained from where its set holds more than {largest} grades. The further temperature is what the
halves would divide these answers by beyond that which the networks hold; 1 leaves them."""
STORED = "The sets that the snapshots themselves gave; a fair test only on knees that they were not fitted on."
COMPARED = """Same knees, same resamples of the subjects for both: the interval is that of the difference. "yes" where
it leaves out 0; of twenty figures of equal models, one does so by chance."""
_SECTIONS = (("grading", "Grading", GRADING), ("cross-fitted", "Calibration and sets, cross-fitted", CROSSED))


def write_report(
    folder: Path,
    evaluated: Sequence[Evaluation],
    *,
    resamples: int,
    coverage: float,
    largest: int,
    made_of: Sequence[str] = (),
    robustness: pd.DataFrame | None = None,
    robustness_words: str = "",
) -> None:
    """Write figures.csv, comparison.csv (of two models), robustness.csv, the pictures and report.md.

    Tables that an earlier report left there and this one has not are removed.

    Parameters
    ----------
    folder : Path
        Where the files go; made if it is not there.
    evaluated : sequence of Evaluation
        One or two models; the same knees in the same order.
    resamples, coverage, largest
        What they were evaluated with.
    made_of : sequence of str
        What to say of data and networks, a line each.
    robustness : DataFrame, optional
        From `deepknee.robustness.robustness_table`, of the first model.
    robustness_words : str
        What to say of it.

    Raises
    ------
    PredictionTableError
        The knees of the models are not the same.
    """
    compared = compare(*evaluated) if len(evaluated) == 2 else None
    folder.mkdir(parents=True, exist_ok=True)
    figures = pd.concat([one.table.assign(model=one.predictions.model) for one in evaluated], ignore_index=True)
    _csv(folder / "figures.csv", figures[["model", "group", "figure", "value", "low", "high"]])
    draw_all(folder, evaluated)
    text = ["# KL grades: predicted against true", NOTICE, markdown(_who(evaluated)), *_training(evaluated)]
    text.append(INTERVALS.format(resamples=resamples))
    for group, title, words in _SECTIONS:
        words = words.format(coverage=100 * coverage, largest=largest)
        text += [f"## {title}", words, markdown(_wide(figures, group))]
    if (figures.group == "stored sets").any():
        text += ["## Sets of the snapshots", STORED, markdown(_wide(figures, "stored sets"))]
    for name, made in (("comparison.csv", compared), ("robustness.csv", robustness)):
        if made is None:  # one that lies there is of another report
            (folder / name).unlink(missing_ok=True)
    if compared is not None:
        _csv(folder / "comparison.csv", compared)
        text += ["## The two models compared", COMPARED, markdown(_differences(compared, evaluated))]
    if robustness is not None:
        _csv(folder / "robustness.csv", robustness)
        text += ["## Robustness", robustness_words, markdown(_robust(robustness))]
    pictures = {"confusion": "confusion matrix", "roc": "ROC curve", "precision_recall": "precision and recall"}
    pictures["reliability"] = "reliability of the likeliest grade"
    text += ["## Pictures", *(f"![{words}]({name}.png)" for name, words in pictures.items())]
    if made_of:
        text += ["## What this was made of", "\n".join(f"- {line}" for line in made_of)]
    write_atomic(folder / "report.md", ("\n\n".join(text) + "\n").encode())


def _training(evaluated: Sequence[Evaluation]) -> list[str]:
    """Say of each model whether it knew the subjects; once, where the same is to be said of both."""
    words = list(dict.fromkeys(one.predictions.training for one in evaluated))
    if len(words) == 1:
        return words
    return [f"{one.predictions.model}: {one.predictions.training}" for one in evaluated]


def _who(evaluated: Sequence[Evaluation]) -> pd.DataFrame:
    rows = []
    for one in evaluated:
        knees = one.predictions.knees
        grades = " / ".join(str((knees.true_kl == grade).sum()) for grade in range(GRADES))
        answers = len(one.predictions.networks) if one.predictions.members is not None else "one, or not told apart"
        counts = {"knees": len(knees), "subjects": knees.subject_id.nunique(), "KL 0 / 1 / 2 / 3 / 4": grades}
        rows.append({"model": one.predictions.model, "answers averaged": answers, **counts})
    return pd.DataFrame(rows)


def _wide(figures: pd.DataFrame, group: str) -> pd.DataFrame:
    """One row a figure and one column a model."""
    part = figures[figures.group == group]
    cells = [_cell(row.value, row.low, row.high) for row in part.itertuples()]
    table = part.assign(cell=cells).pivot_table(
        index="figure", columns="model", values="cell", aggfunc="first", sort=False
    )
    return table[list(dict.fromkeys(part.model))].reset_index()


def _differences(compared: pd.DataFrame, evaluated: Sequence[Evaluation]) -> pd.DataFrame:
    first, second = (one.predictions.model for one in evaluated)
    rows = [
        {
            "figure": row.figure,
            first: f"{row.first:.3f}",
            f"{second} (second)": f"{row.second:.3f}",
            "first less second": _cell(row.difference, row.low, row.high, sign="+"),
            "differ": "yes" if row.differ else "",
        }
        for row in compared.itertuples()
    ]
    return pd.DataFrame(rows)


def _robust(table: pd.DataFrame) -> pd.DataFrame:
    rows = [
        {
            "knees shown": row.condition,
            "quadratic kappa": f"{row.kappa:.3f}",
            "loss of kappa": _cell(row.loss, row.low, row.high, sign="+"),
            "accuracy": f"{row.accuracy:.3f}",
            "grades changed": f"{100 * row.changed:.1f} %",
            "largest change of a probability": f"{row.largest_change:.3g}",
        }
        for row in table.itertuples()
    ]
    return pd.DataFrame(rows)


def _cell(value: float, low: float, high: float, sign: str = "") -> str:
    if pd.isna(value):
        return "none"
    return f"{value:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def _csv(path: Path, table: pd.DataFrame) -> None:
    write_atomic(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode())
