"""The table of predicted grades beside the true ones, one row a knee, which grading writes and evaluation reads.

=====================  ==================================================================================
column                 what
=====================  ==================================================================================
model                  name of the model, the same in all rows
knee                   name of the knee within its data set; every knee is in the table once
subject_id, side       whose knee; both knees of a subject are drawn together by the bootstrap
true_kl                true grade, 0 to 4
p0 ... p4              predicted probabilities, sum 1
m0_p0 ... mM_p4        of each answer of an ensemble by itself, one a network and turn; may be missing. Out of fold
                       they are of the one network that held the knee out: another for each fold, its turns in order
grade_set, abstain     grades of the conformal set with ``;`` between, and ``yes`` or ``no``; may be missing
=====================  ==================================================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from deepknee.dataset import GradedKnees, load_knees
from deepknee.ensemble import Grader
from deepknee.model import GRADES
from deepknee.rois import KNEES
from deepknee.sources import GradedFolderSource, GradedRoisSource, PhantomSource, Source
from deepknee.unseen import NOT_CHECKED, check_unseen, tell_fitted
from kneel.engine.snapshot import write_atomic

_KNEE = ["knee", "subject_id", "side", "true_kl"]
_CHANCES = [f"p{grade}" for grade in range(GRADES)]
_SIDE = re.compile(r"([LR])(?:\.[a-z]+)?$")
_ROUNDED = 5e-3  # tables that people rounded to two digits: how far a probability may be from the mean
_AT_ONCE = 128  # knees, so that their attention maps do not fill the memory


class PredictionTableError(ValueError):
    """A table of predicted grades that cannot be used; says file, line, column and what would be right."""


@dataclass(frozen=True, eq=False)
class GradePredictions:
    """Predicted and true grades of N knees.

    Attributes
    ----------
    model : str
        Name of the model.
    knees : DataFrame, N rows
        knee, subject_id, side (str) and true_kl (int).
    probabilities : ndarray, shape (N, 5)
        Of KL 0 to 4; rows sum to 1.
    members : ndarray, shape (A, N, 5), or None
        Of each network by itself, once a turn, where known and `probabilities` are their mean; out of fold, the turns
        of the network that held the knee out.
    sets : ndarray, shape (N, 5), bool, or None
        Conformal set of each knee, where there is one.
    abstain : ndarray, shape (N,), bool, or None
        Knees without a single grade, where there are sets.
    training : str
        Whether the networks were trained, chosen or calibrated on any of the subjects, in words.
    """

    model: str
    knees: pd.DataFrame
    probabilities: NDArray[np.float64]
    members: NDArray[np.float64] | None = None
    sets: NDArray[np.bool_] | None = None
    abstain: NDArray[np.bool_] | None = None
    training: str = NOT_CHECKED

    @property
    def grades(self) -> NDArray[np.int64]:
        """True grades, shape (N,)."""
        return self.knees.true_kl.to_numpy(np.int64)

    @property
    def subjects(self) -> list[str]:
        """Subject of each knee."""
        return self.knees.subject_id.tolist()

    @property
    def networks(self) -> NDArray[np.float64]:
        """Probabilities of each answer, (A, N, 5); of the model as one network where they are not known."""
        return self.probabilities[None] if self.members is None else self.members


def source_of(folder: Path) -> Source:
    """Say which kind of data set lies in a folder.

    Parameters
    ----------
    folder : Path
        A folder of the folders 0 to 4, of ROIs with their table, or of films with annotations.

    Returns
    -------
    Source
        For `deepknee.dataset.load_knees`.

    Raises
    ------
    FileNotFoundError
        The folder is none of them.
    """
    if (folder / "0").is_dir():
        return GradedFolderSource(source="graded_folder")
    if (folder / KNEES).is_file():
        return GradedRoisSource(source="graded_rois")
    if (folder / "annotations.csv").is_file():
        return PhantomSource(source="phantom")
    what = f"folders 0 to {GRADES - 1} of graded pictures, nor {KNEES} of ROIs, nor annotations.csv of films"
    raise FileNotFoundError(f"{folder}: neither {what}")


def grade_folder(grader: Grader, folder: Path, *, model: str) -> GradePredictions:
    """Grade every knee of a data set.

    Parameters
    ----------
    grader : Grader
        The ensemble.
    folder : Path
        As for `source_of`.
    model : str
        Name of the predictions.

    Returns
    -------
    GradePredictions
        In the order of the data set.

    Raises
    ------
    FileNotFoundError
        The folder is no data set.
    RadiographError
        Pictures cannot be used; all are named.
    LeakageError
        A network was trained on some of the subjects; see `deepknee.unseen`.
    """
    # "film" leaves the grey levels alone: the grader treats them as its networks are used to
    knees = load_knees(folder, source_of(folder), grader.geometry, "film")
    trainings = [member.training for member in grader.members]
    training = check_unseen(trainings, knees.subjects, knees.grades.tolist(), str(folder))
    if grader.conformal is not None:  # else nothing that was fitted acts
        training = f"{training} {tell_fitted(trainings, knees.subjects)}".strip()
    return replace(grade_knees(grader, knees, folder, model=model), training=training)


def grade_knees(grader: Grader, knees: GradedKnees, folder: Path, *, model: str) -> GradePredictions:
    """Grade knees that are in memory.

    Parameters
    ----------
    grader : Grader
        The ensemble.
    knees : GradedKnees
        ROIs of the grader's geometry, contrast as on the film.
    folder : Path
        Where they come from: names of knees are told from there on.
    model : str
        Name of the predictions.

    Returns
    -------
    GradePredictions
        In the order of the knees.
    """
    starts = tqdm(range(0, len(knees), _AT_ONCE), f"grading {len(knees)} knees", leave=False, disable=None)
    parts = [grader.judge(knees.rois[start : start + _AT_ONCE]) for start in starts]
    probabilities = np.concatenate([together for together, _ in parts])
    members = np.concatenate([each for _, each in parts], axis=1)
    conformal = grader.conformal
    sets = None if conformal is None else conformal.sets(probabilities)
    names = knees.names_within(folder)
    table = pd.DataFrame({"knee": names, "subject_id": knees.subjects, "side": map(_side, names)})
    return GradePredictions(
        model,
        table.assign(true_kl=knees.grades),
        probabilities,
        # mode 2018 averages no probabilities: tempering its networks one by one would make another model of it
        members if len(members) > 1 and grader.mode == "mean" else None,
        sets,
        None if conformal is None or sets is None else conformal.abstain(sets),
    )


def _side(name: str) -> str:
    found = _SIDE.search(name)
    return found[1] if found else ""


def write_predictions(path: Path, predictions: GradePredictions) -> None:
    """Write the table; beside first, then renamed.

    Parameters
    ----------
    path : Path
        CSV to write; its folder must exist.
    predictions : GradePredictions
        What to write.
    """
    write_atomic(path, encode_predictions(predictions))


def encode_predictions(predictions: GradePredictions) -> bytes:
    """Return the table as CSV, probabilities to ten significant digits.

    Parameters
    ----------
    predictions : GradePredictions
        What to write.
    """
    table = predictions.knees[_KNEE].reset_index(drop=True)
    table.insert(0, "model", predictions.model)
    blocks = [("", predictions.probabilities)]
    blocks += [
        (f"m{number}_", each) for number, each in enumerate(() if predictions.members is None else predictions.members)
    ]
    for mark, chances in blocks:
        table[[f"{mark}{name}" for name in _CHANCES]] = pd.DataFrame(chances)
    if predictions.sets is not None and predictions.abstain is not None:
        table["grade_set"] = [";".join(map(str, np.flatnonzero(row))) for row in predictions.sets]
        table["abstain"] = np.where(predictions.abstain, "yes", "no")
    return table.to_csv(index=False, float_format="%.10g", lineterminator="\n").encode()


def read_predictions(path: Path) -> GradePredictions:
    """Read a table that `write_predictions` wrote, or one of its layout.

    Parameters
    ----------
    path : Path
        CSV of one model.

    Returns
    -------
    GradePredictions
        In the order of the file.

    Raises
    ------
    PredictionTableError
        A column is missing, a value cannot be, there is no knee, a knee is there twice, there are several models, or
        the probabilities are not the mean of the answers.
    OSError
        The file cannot be opened.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise PredictionTableError(f"{path}: no table of predictions: {error}") from error
    missing = [name for name in ("model", *_KNEE, *_CHANCES) if name not in table]
    if missing:
        raise PredictionTableError(
            f"{path}: no column {', '.join(missing)}; see deepknee/predictions.py for the layout"
        )
    if table.empty:
        raise PredictionTableError(f"{path}: holds no knee")
    models = sorted(set(table.model))
    if len(models) > 1:
        raise PredictionTableError(f"{path}: holds the models {', '.join(models)}; must be one a file")
    twice = sorted(set(table.knee[table.knee.duplicated()]))
    if twice:
        raise PredictionTableError(f"{path}: {len(twice)} knees are there more than once: {', '.join(twice[:10])}")
    _refuse(path, table, "true_kl", ~table.true_kl.isin([*"01234"]), "must be one of 0, 1, 2, 3, 4")
    _refuse(path, table, "subject_id", table.subject_id == "", "must not be empty")
    count = next(m for m in range(len(table.columns)) if f"m{m}_p0" not in table)
    chances = _probabilities(path, table, "")
    members = np.array([_probabilities(path, table, f"m{number}_") for number in range(count)]) if count else None
    if members is not None:  # grading is judged by the one, calibration by the other: they must be of one model
        off = np.abs(members.mean(0) - chances).max(1) > _ROUNDED
        _refuse(path, table, "p0", off, "and p0 to p4 must be the means of m0_p0 to m0_p4 and on; else leave those out")
    knees = table[_KNEE].assign(true_kl=table.true_kl.astype(int))
    return GradePredictions(models[0], knees, chances, members, *_sets(path, table))


def _probabilities(path: Path, table: pd.DataFrame, mark: str) -> NDArray[np.float64]:
    names = [f"{mark}{name}" for name in _CHANCES]
    missing = [name for name in names if name not in table]
    if missing:
        raise PredictionTableError(f"{path}: no column {', '.join(missing)}")
    numbers = table[names].apply(pd.to_numeric, errors="coerce").astype(float)
    for name in names:
        _refuse(path, table, name, ~numbers[name].between(0, 1), "must be a number from 0 to 1")
    total = numbers.sum(axis=1)
    _refuse(
        path,
        table,
        names[0],
        (total - 1).abs() > GRADES * _ROUNDED + 1e-9,
        f"and with {', '.join(names[1:])} it must sum to 1",
    )
    return numbers.div(total, axis=0).to_numpy()


def _sets(path: Path, table: pd.DataFrame) -> tuple[NDArray[np.bool_] | None, NDArray[np.bool_] | None]:
    if not {"grade_set", "abstain"} <= set(table):
        return None, None
    _refuse(path, table, "grade_set", ~table.grade_set.str.fullmatch(r"[0-4](;[0-4])*"), "must be grades such as 1;2")
    _refuse(path, table, "abstain", ~table.abstain.isin(["yes", "no"]), "must be yes or no")
    sets = np.array([[str(grade) in row.split(";") for grade in range(GRADES)] for row in table.grade_set])
    return sets, (table.abstain == "yes").to_numpy()


def _refuse(path: Path, table: pd.DataFrame, column: str, bad: pd.Series, right: str) -> None:
    lines = np.flatnonzero(bad)
    if len(lines):
        raise PredictionTableError(
            f"{path}, line {lines[0] + 2}: {column} is {table[column].iloc[lines[0]]!r}, {right}"
        )
