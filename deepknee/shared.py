"""A grader for several threads, each of which reads a film of its own."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from deepknee.ensemble import Grader
from deepknee.grade import Grade
from kneel.engine.gather import Gather


class SharedGrader(Grader):
    """Grade what several threads ask for, together.

    Parameters
    ----------
    grader : Grader
        With the networks.
    turn : threading.Lock
        Held while networks run.
    most : int
        ROIs of different threads that pass the networks together; see `kneel.engine.gather.Gather`.
    """

    def __init__(self, grader: Grader, turn: threading.Lock, most: int) -> None:
        vars(self).update(vars(grader))
        self._grader = grader
        self._gather: Gather[NDArray[np.uint8], Grade] = Gather(self._one_by_one, np.shape, most, turn)

    def predict(self, rois: NDArray[np.uint8]) -> Grade:
        """Grade knees; see `Grader.predict`."""
        if not len(rois):
            return self._grader.predict(rois)
        grades = self._gather(list(rois))
        return Grade(
            np.concatenate([grade.probabilities for grade in grades]),
            np.concatenate([grade.attention for grade in grades]),
            _joined([grade.members for grade in grades]),
            grades[0].conformal,
        )

    def _one_by_one(self, rois: list[NDArray[np.uint8]]) -> list[Grade]:
        """Grade together, and hand out a grade a knee."""
        grade = self._grader.predict(np.stack(rois))
        members = grade.members
        return [
            Grade(
                grade.probabilities[i : i + 1],
                grade.attention[i : i + 1],
                None if members is None else members[:, i : i + 1],
                grade.conformal,
            )
            for i in range(len(rois))
        ]


def _joined(members: list[NDArray[np.float64] | None]) -> NDArray[np.float64] | None:
    there = [each for each in members if each is not None]
    return np.concatenate(there, axis=1) if there else None
