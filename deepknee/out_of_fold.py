"""Grades of a cross-validation: every knee by the network of the fold that held its subject out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from deepknee.dataset import load_knees
from deepknee.ensemble import Grader
from deepknee.predictions import GradePredictions, grade_knees, source_of
from deepknee.unseen import held_out


def grade_out_of_fold(grader: Grader, folder: Path, *, model: str) -> GradePredictions:
    """Grade the knees that the folds of a training were cut from.

    Parameters
    ----------
    grader : Grader
        Of all folds.
    folder : Path
        As for `deepknee.predictions.source_of`.
    model : str
        Name of the predictions.

    Returns
    -------
    GradePredictions
        In the order of the data set. Without sets: no threshold was fitted for one network. Members are there where
        the networks answer turned knees as well: answer A of a knee is that of its own network, not of one for all.

    Raises
    ------
    FileNotFoundError
        The folder is no data set.
    RadiographError
        Pictures cannot be used; all are named.
    LeakageError
        There is not just one network that was not trained on a subject; see `deepknee.unseen.held_out`.
    """
    knees = load_knees(folder, source_of(folder), grader.geometry, "film")
    trainings = [member.training for member in grader.members]
    which, words = held_out(trainings, knees.subjects, knees.grades.tolist(), str(folder))
    rows = [np.flatnonzero(which == number) for number in range(len(trainings))]
    parts = [
        grade_knees(Grader([member], mode=grader.mode, device=grader.device), knees.subset(mine), folder, model=model)
        for member, mine in zip(grader.members, rows, strict=True)
        if len(mine)
    ]
    order = np.argsort(np.concatenate(rows))
    told_apart = [part.members for part in parts if part.members is not None]
    members = np.concatenate(told_apart, axis=1)[:, order] if told_apart else None
    table = pd.concat([part.knees for part in parts], ignore_index=True).iloc[order].reset_index(drop=True)
    probabilities = np.concatenate([part.probabilities for part in parts])[order]
    return GradePredictions(model, table, probabilities, members, training=words)
