"""What is to be cut from a film and what came of it: the records that data preparation passes about."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from kneel.imaging.geometry import Side, Spacing
from kneel.imaging.preparing import Problem as Problem
from kneel.imaging.schema import KneeAnnotation


@dataclass(frozen=True)
class DrawnKnee:
    """A knee whose points were drawn on the film itself.

    Attributes
    ----------
    side : {"L", "R"}
        Side as it looks on the film: of a right knee the lateral end lies at small x.
    kl : int
        Kellgren-Lawrence grade, 0 to 4.
    points : ndarray, shape (16, 2)
        (x, y) in film pixels, order of `kneel.imaging.schema.LANDMARKS`.
    """

    side: Side
    kl: int
    points: NDArray[np.float64]


@dataclass(frozen=True)
class FilmTask:
    """One subject's film and what to cut from it.

    Attributes
    ----------
    subject_id : str
        Names the files.
    path : Path
        The film.
    knees : tuple of KneeAnnotation or tuple of DrawnKnee
        One or two: from KNEEL's table, in its millimetres, or drawn on the film.
    spacing : (float, float), "header" or "detector"
        (row, column) in mm; as the header says; or the detector's, in which KNEEL's table is written
        (`kneel.imaging.oai.detector_spacing`).
    spacing_if_none : (float, float) or None
        (row, column) in mm of a film whose header was to say and does not.
    bilateral : bool
        Whether both knees are on the film. A film of one is set beside as much black, on which side the other knee
        would be: halves of low-cost pictures are one knee each.
    """

    subject_id: str
    path: Path
    knees: tuple[KneeAnnotation, ...] | tuple[DrawnKnee, ...]
    spacing: Spacing | Literal["header", "detector"] = "header"
    spacing_if_none: Spacing | None = None
    bilateral: bool = True

    @property
    def name(self) -> str:
        """Of its record."""
        return self.subject_id


@dataclass(frozen=True)
class KneeRow:
    """One row of ``knees.csv``: a knee, its pictures (names, bytes, width x height) and the film they are from."""

    subject_id: str
    side: str
    kl: int
    roi: str
    roi_size: str
    roi_bytes: int
    lc: str
    lc_size: str
    lc_bytes: int
    spacing_row_mm: float
    spacing_column_mm: float
    spacing_kind: str
    film: str
    film_bytes: int
    film_sha256: str

    @property
    def pictures(self) -> tuple[tuple[str, int, str], ...]:
        """Name, bytes and size of each picture."""
        return (self.roi, self.roi_bytes, self.roi_size), (self.lc, self.lc_bytes, self.lc_size)


@dataclass(frozen=True)
class Record:
    """What came of a task.

    Attributes
    ----------
    subject_id : str
        Subject.
    request : dict
        What was asked, see `request_of`.
    rows : tuple of KneeRow
        Knees whose pictures were cut.
    knees : tuple of KneeAnnotation
        Their points.
    problems : tuple of Problem
        All else.
    patient_id : str or None
        As the film's header says.
    pixels_sha256 : str
        Of the film's pixels, whatever file they are in; empty when it could not be read.
    """

    subject_id: str
    request: dict[str, Any]
    rows: tuple[KneeRow, ...] = ()
    knees: tuple[KneeAnnotation, ...] = ()
    problems: tuple[Problem, ...] = ()
    patient_id: str | None = None
    pixels_sha256: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` takes."""
        knees = [{**asdict(knee), "points": knee.points.tolist()} for knee in self.knees]
        return {**asdict(self), "knees": knees}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Rebuild a record; KeyError, TypeError or ValueError when it is none.

        Parameters
        ----------
        data : dict
            As `to_json` gave it.
        """
        knees = [
            KneeAnnotation(**{**knee, "points": np.array(knee["points"], float), "origin": tuple(knee["origin"])})
            for knee in data["knees"]
        ]
        return cls(
            data["subject_id"],
            data["request"],
            tuple(KneeRow(**row) for row in data["rows"]),
            tuple(knees),
            tuple(Problem(**problem) for problem in data["problems"]),
            data["patient_id"],
            data["pixels_sha256"],
        )


def request_of(task: FilmTask) -> dict[str, Any]:
    """Describe a task and the film as it lies there, so that a change of either is seen.

    Parameters
    ----------
    task : FilmTask
        The task; its film must exist.

    Returns
    -------
    dict
        Of numbers, strings and lists.
    """
    status = task.path.stat()
    knees = [
        [knee.side, knee.kl, knee.points.tolist(), getattr(knee, "origin", None)]
        for knee in task.knees
    ]  # fmt: skip
    film = [str(task.path), status.st_size, status.st_mtime_ns]
    spacing = {"spacing": task.spacing, "spacing_if_none": task.spacing_if_none}
    return {"film": film, "knees": knees, "bilateral": task.bilateral, **spacing}
