"""Pictures of an evaluation: cumulative error curves, agreement of measures."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kneel.assess import MEASURES, agreement, measured, moments
from kneel.engine.snapshot import write_atomic
from kneel.measure import KneeMeasures
from kneel.metrics import TEST_POINTS, bone_errors
from kneel.predictions import Predictions

Values = NDArray[np.float64]
# Okabe and Ito's palette keeps apart for colour-blind readers.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", ":", "-.")
_REACH_MM = 5.0  # of the cumulative curves


def curves_of(errors_mm: Values) -> dict[str, Values]:
    """Choose what the cumulative curves show.

    Parameters
    ----------
    errors_mm : ndarray, shape (N, 16) or (N, 1)
        Of knees.

    Returns
    -------
    dict of str to ndarray, one axis
        Title of a panel and its errors: each bone as in the test report, and all points.
    """
    if errors_mm.shape[1] == 1:
        return {"joint centre": errors_mm.ravel()}
    bones = bone_errors(errors_mm, TEST_POINTS)
    panels = {f"{bone}, mean of 3 points": bones[:, number] for number, bone in enumerate(TEST_POINTS)}
    return {**panels, "each of the 16 points": errors_mm.ravel()}


def draw_curves(folder: Path, name: str, lines: Mapping[str, Values]) -> None:
    """Draw cumulative error curves as NAME.png and NAME.pdf.

    Parameters
    ----------
    folder : Path
        Where the files go.
    name : str
        Their name.
    lines : mapping of str to ndarray, shape (N, M)
        Label and errors (mm) of each curve; M is the same in all.
    """
    panels = {label: curves_of(errors) for label, errors in lines.items()}
    titles = list(next(iter(panels.values())))
    figure = Figure(figsize=(3.6 * len(titles) + 0.6, 3.9 + 0.11 * len(lines)), layout="constrained")
    axes = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    for axis, title in zip(axes, titles, strict=True):
        for (label, panel), (color, dash) in zip(panels.items(), _styles(), strict=False):
            errors = np.sort(panel[title])
            # from the origin to beyond the frame, so that the curve neither starts nor ends in the air
            x = np.concatenate([[0], errors, [max(_REACH_MM, errors[-1])]])
            share = np.concatenate([[0], np.arange(1, len(errors) + 1), [len(errors)]]) / len(errors)
            axis.step(x, 100 * share, dash, where="post", color=color, label=label)
        axis.set(title=title, xlabel="error, mm", xlim=(0, _REACH_MM), ylim=(0, 101), xticks=range(6))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("within the error, %")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(3, len(lines)), frameon=False
    )
    save_figure(figure, folder, name, ("png", "pdf"))


def draw_measures(folder: Path, name: str, predictions: Predictions) -> None:
    """Draw Bland and Altman's picture of every measure as NAME.png.

    Parameters
    ----------
    folder, name
        As in `draw_curves`.
    predictions : Predictions
        16 points.
    """
    figure = Figure(figsize=(15, 3.4), layout="constrained")
    axes = figure.subplots(1, len(KneeMeasures._fields))
    for axis, measure, predicted, annotated in zip(axes, KneeMeasures._fields, *measured(predictions), strict=True):
        label, unit = MEASURES[measure].rsplit(", ", 1)
        difference = predicted - annotated
        axis.plot((predicted + annotated) / 2, difference, ".", color=_COLORS[0], markersize=3, alpha=0.5)
        found = agreement(moments(predicted, annotated).mean(axis=0), np.float64(len(predicted)))
        axis.axhline(found["bias"], color=_COLORS[1])
        for end in ("lower limit of agreement", "upper limit of agreement"):
            axis.axhline(found[end], color=_COLORS[1], linestyle="--")
        axis.set(title=label, xlabel=f"mean of both, {unit}")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("predicted − annotated")
    save_figure(figure, folder, name, ("png",))


def _styles() -> Iterator[tuple[str, str]]:
    return cycle((color, dash) for dash in _DASHES for color in _COLORS)


def save_figure(figure: Figure, folder: Path, name: str, kinds: tuple[str, ...]) -> None:
    """Write a figure as NAME.KIND for each kind; beside first, then renamed.

    Parameters
    ----------
    figure : Figure
        What to write.
    folder, name
        Where.
    kinds : tuple of str
        ``png``, ``pdf``.
    """
    for kind in kinds:
        buffer = io.BytesIO()
        # without a date the same figures give the same bytes
        metadata = {"CreationDate": None} if kind == "pdf" else None
        figure.savefig(buffer, format=kind, dpi=130, metadata=metadata)
        write_atomic(folder / f"{name}.{kind}", buffer.getvalue())
