"""Pictures of an evaluation: confusion matrix, ROC, precision and recall, reliability; two models in one picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_curve, roc_curve

from deepknee.evaluate import Evaluation
from deepknee.metrics import BINS, OA_GRADE, calibration_bins
from deepknee.model import GRADES
from kneel.engine.snapshot import write_atomic

# Okabe and Ito's palette keeps apart for colour-blind readers.
COLORS = ("#0072B2", "#D55E00")
_BLUES = "Blues"


def draw_all(folder: Path, evaluated: Sequence[Evaluation]) -> None:
    """Draw confusion.png, roc.png, precision_recall.png and reliability.png.

    Parameters
    ----------
    folder : Path
        Where the files go; must exist.
    evaluated : sequence of Evaluation
        One or two models.
    """
    for name, draw in (
        ("confusion", draw_confusion),
        ("roc", draw_roc),
        ("precision_recall", draw_precision_recall),
        ("reliability", draw_reliability),
    ):
        save_figure(draw(evaluated), folder / f"{name}.png")


def draw_confusion(evaluated: Sequence[Evaluation]) -> Figure:
    """Draw the confusion matrix of each model: shares of the true grade by colour, and numbers of knees."""
    figure = Figure(figsize=(4.6 * len(evaluated), 4.6), layout="constrained")
    for axes, one in zip(figure.subplots(1, len(evaluated), squeeze=False)[0], evaluated, strict=True):
        truth, predicted = one.predictions.grades, one.predictions.probabilities.argmax(1)
        table = confusion_matrix(truth, predicted, labels=range(GRADES))
        shares = table / np.maximum(table.sum(1, keepdims=True), 1)
        axes.imshow(shares, cmap=_BLUES, vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(table):
            dark = shares[row, column] > 0.5
            text = f"{count}\n{100 * shares[row, column]:.0f} %"
            axes.text(column, row, text, ha="center", va="center", color="white" if dark else "black", fontsize=9)
        axes.set(xlabel="predicted KL", ylabel="true KL", xticks=range(GRADES), yticks=range(GRADES))
        axes.set_title(f"{one.predictions.model}\nkappa {one.cell('quadratic kappa')}", fontsize=10)
    return figure


def draw_roc(evaluated: Sequence[Evaluation]) -> Figure:
    """Draw the ROC curve of P(KL >= 2) of each model."""
    figure = Figure(figsize=(4.8, 5.0), layout="constrained")
    axes = figure.subplots()
    for one, color in zip(evaluated, COLORS, strict=False):
        false, true, _ = roc_curve(*_disease(one), drop_intermediate=False)
        axes.plot(false, true, color=color, label=f"{one.predictions.model}\nAUC {one.cell('AUC, KL >= 2')}")
    axes.plot([0, 1], [0, 1], ":", color="grey")
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", title="KL ≥ 2")
    _square(axes, "lower right")
    return figure


def draw_precision_recall(evaluated: Sequence[Evaluation]) -> Figure:
    """Draw precision against recall of P(KL >= 2) of each model."""
    figure = Figure(figsize=(4.8, 5.0), layout="constrained")
    axes = figure.subplots()
    for one, color in zip(evaluated, COLORS, strict=False):
        precision, recall, _ = precision_recall_curve(*_disease(one))
        label = f"{one.predictions.model}\naverage precision {one.cell('average precision, KL >= 2')}"
        axes.step(recall, precision, where="post", color=color, label=label)
    axes.axhline(_disease(evaluated[0])[0].mean(), linestyle=":", color="grey", label="share of KL ≥ 2")
    axes.set(xlabel="recall (sensitivity)", ylabel="precision", title="KL ≥ 2")
    _square(axes, "lower left")
    return figure


def draw_reliability(evaluated: Sequence[Evaluation]) -> Figure:
    """Draw how often the likeliest grade is right against its probability, and how many knees each point stands for."""
    figure = Figure(figsize=(4.8, 5.8), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    width = 0.9 / BINS / len(evaluated)
    for number, (one, color) in enumerate(zip(evaluated, COLORS, strict=False)):
        count, confidence, right = calibration_bins(one.predictions.probabilities, one.predictions.grades)
        there = count > 0
        label = f"{one.predictions.model}\nECE {one.cell('expected calibration error')}"
        share, error = right[there] / count[there], _spread(right[there], count[there])
        x = confidence[there] / count[there]
        axes.errorbar(x, share, error, fmt="o-", markersize=4, linewidth=1, capsize=2, color=color, label=label)
        left = np.arange(BINS) / BINS + 0.05 / BINS + number * width
        below.bar(left, count, width, align="edge", color=color)
    axes.plot([0, 1], [0, 1], ":", color="grey")
    axes.set(ylabel="share graded right", title="likeliest grade")
    _square(axes, "upper left")
    axes.set_aspect("auto")  # both panels keep one width
    below.set(xlabel="probability of the likeliest grade", ylabel="knees", xlim=(0, 1))
    return figure


def _spread(right: NDArray[np.float64], count: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Wilson's 95 % interval of right / count as distances below and above, shape (2, B)."""
    z = 1.96
    share = right / count
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return np.maximum([share - (middle - half), middle + half - share], 0)


def _disease(one: Evaluation) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    return one.predictions.grades >= OA_GRADE, one.predictions.probabilities[:, OA_GRADE:].sum(1)


def _square(axes: Axes, legend: Literal["lower right", "lower left", "upper left"]) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1.005), aspect="equal")
    axes.grid(alpha=0.3)
    axes.legend(loc=legend, fontsize=8, frameon=False)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG; beside first, then renamed.

    Parameters
    ----------
    figure : Figure
        What to write.
    path : Path
        Where.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    write_atomic(path, buffer.getvalue())
