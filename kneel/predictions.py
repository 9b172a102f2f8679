"""The table of predicted landmarks beside the true ones, one row a knee, which inference writes and evaluation reads.

========================  =================================================================================
column                    what
========================  =================================================================================
experiment                name of the experiment, the same in all rows
fold                      fold that held the knee out, or ``mean`` where all folds answered together
subject_id, side, kl      the knee
mm_per_px                 size of a pixel
x0, y0 ... x15, y15       predicted points, pixels of the ROI, left knees mirrored (lateral at small x)
tx0, ty0 ... tx15, ty15   true points, likewise
========================  =================================================================================

Of the joint centre (lc), only x0, y0, tx0, ty0 are filled. Every knee is in the table once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kneel.engine.snapshot import write_atomic
from kneel.imaging.schema import LANDMARKS
from kneel.metrics import radial_errors

_KNEE = ["fold", "subject_id", "side", "kl", "mm_per_px"]
_POINTS = [f"{axis}{number}" for number in range(len(LANDMARKS)) for axis in "xy"]
_COLUMNS = ["experiment", *_KNEE, *_POINTS, *(f"t{name}" for name in _POINTS)]


class PredictionError(ValueError):
    """A table of predictions that cannot be written or used; says file, line, column and what would be right."""


@dataclass(frozen=True)
class Predictions:
    """Predicted and true landmarks of N knees.

    Attributes
    ----------
    experiment : str
        Name of the experiment.
    knees : DataFrame, N rows
        fold, subject_id, side (str), kl (int) and mm_per_px (float).
    points, truth : ndarray, shape (N, M, 2)
        (x, y) in ROI pixels, lateral at small x; M is 16, or 1 for the joint centre.
    """

    experiment: str
    knees: pd.DataFrame
    points: NDArray[np.float64]
    truth: NDArray[np.float64]

    @classmethod
    def joined(cls, parts: Sequence[Predictions]) -> Predictions:
        """Put the folds of one experiment together.

        Parameters
        ----------
        parts : sequence of Predictions
            At least one, of the same number of points.

        Returns
        -------
        Predictions
            Under the name of the first.
        """
        points, truth = (np.concatenate([getattr(part, name) for part in parts]) for name in ("points", "truth"))
        return cls(parts[0].experiment, pd.concat([part.knees for part in parts], ignore_index=True), points, truth)

    @property
    def errors_mm(self) -> NDArray[np.float64]:
        """Distance of every point from its truth, shape (N, M), mm."""
        return radial_errors(self.points, self.truth, 1.0) * self.knees.mm_per_px.to_numpy(float)[:, None]


def doubled(knees: pd.DataFrame) -> list[str]:
    """Name the knees that are in a table more than once.

    Parameters
    ----------
    knees : DataFrame
        With subject_id and side.

    Returns
    -------
    list of str
        Such as ``9000099 L``.
    """
    names = knees.subject_id.astype(str) + " " + knees.side.astype(str)
    return sorted(set(names[names.duplicated()]))


def write_predictions(path: str | os.PathLike[str], predictions: Predictions) -> None:
    """Write the table, to eight significant digits; beside first, then renamed.

    Parameters
    ----------
    path : path_like
        CSV to write; its folder must exist.
    predictions : Predictions
        What to write.

    Raises
    ------
    PredictionError
        A knee is there twice.
    """
    twice = doubled(predictions.knees)
    if twice:
        raise PredictionError(f"{len(twice)} knees are predicted more than once: {', '.join(twice[:10])}")
    table = predictions.knees.reset_index(drop=True)[_KNEE]
    table.insert(0, "experiment", predictions.experiment)
    count = 2 * predictions.points.shape[1]
    for mark, points in (("", predictions.points), ("t", predictions.truth)):
        names = [f"{mark}{name}" for name in _POINTS[:count]]
        table[names] = pd.DataFrame(points.reshape(len(table), count), columns=names)
    text = table.reindex(columns=_COLUMNS).to_csv(index=False, float_format="%.8g", lineterminator="\n")
    write_atomic(Path(path), text.encode())


def read_predictions(path: str | os.PathLike[str]) -> Predictions:
    """Read a table that `write_predictions` wrote, or one of its layout.

    Parameters
    ----------
    path : path_like
        CSV of one experiment.

    Returns
    -------
    Predictions
        In the order of the file.

    Raises
    ------
    PredictionError
        A column is missing, a value cannot be, there is no knee, a knee is there twice, or there are several
        experiments.
    OSError
        The file cannot be opened.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise PredictionError(f"{path}: no table of predictions: {error}") from error
    needed = [name for name in _COLUMNS if name in ("experiment", *_KNEE, "x0", "y0", "tx0", "ty0")]
    missing = [name for name in needed if name not in table]
    if missing:
        raise PredictionError(f"{path}: no column {', '.join(missing)}; see kneel/predictions.py for the layout")
    if table.empty:
        raise PredictionError(f"{path}: holds no knee")
    names = sorted(set(table.experiment))
    if len(names) > 1:
        raise PredictionError(f"{path}: holds the experiments {', '.join(names)}; must be one a file")
    for column, allowed in (("side", "LR"), ("kl", "01234")):
        _refuse(path, table, column, ~table[column].isin([*allowed]), f"must be one of {', '.join(allowed)}")
    # of knees of nobody the bootstrap would make one subject, and intervals without a width
    _refuse(path, table, "subject_id", table.subject_id == "", "must not be empty")
    twice = doubled(table)
    if twice:
        raise PredictionError(f"{path}: {len(twice)} knees are there more than once: {', '.join(twice[:10])}")
    table = table.reindex(columns=_COLUMNS, fill_value="")
    landmarks = 1 if (table[_POINTS[2:]] == "").all(axis=None) else len(LANDMARKS)
    used = _POINTS[: 2 * landmarks]
    scale = _numbers(path, table, ["mm_per_px"])[:, 0]
    _refuse(path, table, "mm_per_px", scale <= 0, "must be positive")
    knees = table[_KNEE].assign(kl=table.kl.astype(int), mm_per_px=scale)
    shape = len(table), landmarks, 2
    truth = _numbers(path, table, [f"t{name}" for name in used]).reshape(shape)
    return Predictions(names[0], knees, _numbers(path, table, used).reshape(shape), truth)


def _numbers(path: str | os.PathLike[str], table: pd.DataFrame, columns: Sequence[str]) -> NDArray[np.float64]:
    numbers = table[list(columns)].apply(pd.to_numeric, errors="coerce").astype(float)
    for column in columns:
        _refuse(path, table, column, ~np.isfinite(numbers[column]), "must be a finite number")
    return numbers.to_numpy()


def _refuse(
    path: str | os.PathLike[str], table: pd.DataFrame, column: str, bad: NDArray | pd.Series, right: str
) -> None:
    lines = np.flatnonzero(bad)
    if len(lines):
        value = table[column].iloc[lines[0]]
        raise PredictionError(f"{path}, line {lines[0] + 2}: {column} is {value!r}, {right}")
