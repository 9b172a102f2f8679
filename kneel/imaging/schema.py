"""The 16 knee landmarks and KNEEL's annotation table.

The table is that of Tiulpin, Melekhov and Saarakkala (ICCVW 2019, arXiv:1907.12237): one row a knee, points as pixels
of a 466 x 466 ROI (140 mm at 0.3 mm, left knees mirrored), ``center`` and ``bbox`` as pixels of the whole film at
0.3 mm after padding by 100 pixels on every side.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kneel.imaging.geometry import RoiFrame, Side, Spacing, millimetres_per_pixel, mirror_points, resize_points
from kneel.imaging.writing import write_rows

LANDMARKS = (
    "tibia lateral edge",
    "tibia lateral plateau, outer",
    "tibia lateral plateau, inner",
    "tibia lateral spine",
    "tibia centre between the spines",
    "tibia medial spine",
    "tibia medial plateau, inner",
    "tibia medial plateau, outer",
    "tibia medial edge",
    "femur lateral edge",
    "femur lateral condyle, outer",
    "femur lateral condyle, inner",
    "femur notch",
    "femur medial condyle, inner",
    "femur medial condyle, outer",
    "femur medial edge",
)
TIBIA = slice(0, 9)
FEMUR = slice(9, 16)
CENTER = 4  # the joint centre: between the tibial spines

ROI_MM = 140.0
ROI_SPACING_MM = 0.3
ROI_SIZE = 466
LC_SPACING_MM = 1.0  # of KNEEL's low-cost images, from which joint centres are learnt
PADDING = 100  # pixels of 0.3 mm around the film in the columns center and bbox
CONVENTION = "pixel-centre"

_COLUMNS = ("subject_id", "side", "kl", "tibia", "femur", "bbox", "center")


class AnnotationError(ValueError):
    """A row or column of an annotation table that cannot be used."""


@dataclass(frozen=True)
class KneeAnnotation:
    """One annotated knee.

    Attributes
    ----------
    subject_id : str
        Subject; both knees of a subject share it.
    side : {"L", "R"}
        Laterality.
    kl : int
        Kellgren-Lawrence grade, 0 to 4.
    points : ndarray, shape (16, 2)
        (x, y) in ROI pixels (0.3 mm), order of `LANDMARKS`; lateral is at small x, also in left knees.
    origin : (int, int)
        (x, y) of the ROI's first pixel in the whole film at 0.3 mm, without padding.
    """

    subject_id: str
    side: Side
    kl: int
    points: NDArray[np.float64]
    origin: tuple[int, int]

    def frame(self, spacing_mm: Spacing) -> RoiFrame:
        """Return the window of the ROI on a film.

        Parameters
        ----------
        spacing_mm : (float, float)
            (row, column) spacing of the film in mm.

        Returns
        -------
        RoiFrame
            From film pixels to this annotation's 466 x 466 ROI pixels.
        """
        factor = ROI_SPACING_MM / millimetres_per_pixel(spacing_mm)
        middle = resize_points(np.asarray(self.origin) + (ROI_SIZE - 1) / 2, factor)
        return RoiFrame(
            (float(middle[0]), float(middle[1])),
            (float(factor[0]), float(factor[1])),
            (ROI_SIZE, ROI_SIZE),
            self.side == "L",
        )

    def film_points(self, spacing_mm: Spacing) -> NDArray[np.float64]:
        """Return the landmarks in pixels of the film.

        Parameters
        ----------
        spacing_mm : (float, float)
            (row, column) spacing of the film in mm.

        Returns
        -------
        ndarray, shape (16, 2)
            (x, y) in film pixels.
        """
        return self.frame(spacing_mm).to_image(self.points)

    @classmethod
    def from_film(
        cls, subject_id: str, side: Side, kl: int, film_points: ArrayLike, spacing_mm: Spacing
    ) -> KneeAnnotation:
        """Describe a knee whose landmarks are known in film pixels.

        Parameters
        ----------
        subject_id : str
            Subject.
        side : {"L", "R"}
            Laterality.
        kl : int
            Kellgren-Lawrence grade, 0 to 4.
        film_points : array_like, shape (16, 2)
            (x, y) in film pixels.
        spacing_mm : (float, float)
            (row, column) spacing of the film in mm.

        Returns
        -------
        KneeAnnotation
            Its ROI is centred on landmark `CENTER`, to the nearest pixel of 0.3 mm.
        """
        at_03 = resize_points(film_points, millimetres_per_pixel(spacing_mm) / ROI_SPACING_MM)
        origin = np.rint(at_03[CENTER]).astype(int) - ROI_SIZE // 2
        points = at_03 - origin
        if side == "L":
            points = mirror_points(points, ROI_SIZE)
        return cls(str(subject_id), side, int(kl), points, (int(origin[0]), int(origin[1])))


def read_annotations(path: str | os.PathLike[str]) -> list[KneeAnnotation]:
    """Read a table in KNEEL's format.

    KNEEL's own file mirrors images by ``W - 1 - x`` but points by ``W - x``: its left knees sit one pixel (0.3 mm) too
    far medial, and are moved back here. Files written by `write_annotations` carry the column ``convention`` and are
    taken as they are.

    Parameters
    ----------
    path : path_like
        CSV with columns subject_id, side, kl, tibia, femur, bbox, center and, when written by us, convention.

    Returns
    -------
    list of KneeAnnotation
        In the order of the file.

    Raises
    ------
    AnnotationError
        A column is missing or a value cannot be read; says file, row, column and what would be right.
    """
    with Path(path).open(newline="", encoding="utf-8-sig") as stream:  # spreadsheets put a mark in front
        rows = csv.DictReader(stream)
        check_columns(Path(path), rows.fieldnames or (), _COLUMNS)
        return [_parse(row, f"{path}, line {number}") for number, row in enumerate(rows, start=2)]


def check_columns(table: Path, found: Sequence[str], needed: Sequence[str]) -> None:
    """Refuse a table of annotations without a column that it needs.

    Parameters
    ----------
    table : Path
        For the message.
    found, needed : sequence of str
        Names of columns.

    Raises
    ------
    AnnotationError
        A column is missing; says if the table is separated by something else than commas.
    """
    if len(found) == 1 and (other := next((mark for mark in ";\t|" if mark in found[0]), None)):
        raise AnnotationError(f"{table}: its columns are separated by {other!r}, must be by commas")
    if missing := [name for name in needed if name not in found]:
        raise AnnotationError(f"{table}: no column {', '.join(missing)}; needs {', '.join(needed)}")


def write_annotations(path: str | os.PathLike[str], knees: Iterable[KneeAnnotation]) -> None:
    """Write a table in KNEEL's format, to thousandths of a pixel; beside first, then renamed.

    Parameters
    ----------
    path : path_like
        CSV to write.
    knees : iterable of KneeAnnotation
        One row each.
    """
    write_rows(Path(path), [[*_COLUMNS, "convention"], *map(_row, knees)])


def _row(knee: KneeAnnotation) -> list[object]:
    corner = np.asarray(knee.origin) + PADDING
    box = np.asarray([*corner, *(corner + ROI_SIZE)])
    numbers = (knee.points[TIBIA], knee.points[FEMUR], box, corner + ROI_SIZE // 2)
    return [knee.subject_id, knee.side, knee.kl, *map(_format, numbers), CONVENTION]


def _format(numbers: NDArray) -> str:
    return ",".join(f"{value:.3f}".rstrip("0").rstrip(".") for value in numbers.ravel())


def _parse(row: dict[str, str], where: str) -> KneeAnnotation:
    if not row["subject_id"]:
        raise AnnotationError(f"{where}: subject_id is empty, must name the subject")
    side = row["side"]
    if side not in ("L", "R"):
        raise AnnotationError(f"{where}: side is {side!r}, must be L or R")
    if row["kl"] not in {"0", "1", "2", "3", "4"}:
        raise AnnotationError(f"{where}: kl is {row['kl']!r}, must be 0 to 4")
    convention = row.get("convention")
    if convention not in (None, CONVENTION):
        raise AnnotationError(f"{where}: convention is {convention!r}, must be {CONVENTION} or the column absent")
    points = np.concatenate([_numbers(row, "tibia", 18, where), _numbers(row, "femur", 14, where)]).reshape(16, 2)
    if side == "L" and convention is None:
        points[:, 0] -= 1
    corner = _numbers(row, "bbox", 4, where)[:2] - PADDING
    if (corner % 1 != 0).any():
        raise AnnotationError(f"{where}: bbox is {row['bbox']!r}, must be whole pixels")
    return KneeAnnotation(row["subject_id"], side, int(row["kl"]), points, (int(corner[0]), int(corner[1])))  # type: ignore[arg-type]


def _numbers(row: dict[str, str], column: str, count: int, where: str) -> NDArray[np.float64]:
    try:
        values = np.array([float(text) for text in row[column].split(",")])
    except (ValueError, AttributeError) as error:
        raise AnnotationError(f"{where}: {column} is {row[column]!r}, must be {count} numbers with commas") from error
    if len(values) != count or not np.isfinite(values).all():
        raise AnnotationError(f"{where}: {column} holds {len(values)} numbers, must be {count} finite ones")
    return values
