"""Crops of knees that carry KNEEL's 16 points: a table beside a folder of pictures.

The layout of the public Chen 2018 set, ``{split}/{kl}/{subject}{side}.png``, with landmarks in a CSV.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from kneel.imaging.geometry import Side
from kneel.imaging.radiograph import RadiographError
from kneel.imaging.schema import LANDMARKS, AnnotationError, check_columns

_POINTS = tuple(f"{axis}{number}" for number in range(len(LANDMARKS)) for axis in "xy")
COLUMNS = ("file", "subject_id", "side", "kl", "split", "mm_per_px", "inverted", *_POINTS)
PICTURE = "picture_sha256"  # a column that a table may have


@dataclass(frozen=True)
class AnnotatedCrop:
    """One knee, cut out of its film by others and annotated.

    Attributes
    ----------
    path : Path
        The picture.
    subject_id : str
        Subject.
    side : {"L", "R"}
        Laterality; left knees are as on the film, not mirrored.
    kl : int
        Kellgren-Lawrence grade, 0 to 4.
    split : str
        Part of the data set that the knee belongs to.
    mm_per_px : float
        Pixel size.
    inverted : bool
        Whether bone is dark in the stored picture.
    points : ndarray, shape (16, 2)
        (x, y) in pixels of the picture as stored, order of `kneel.imaging.schema.LANDMARKS`.
    picture_sha256 : str
        Of the file that the points were found on; empty where the table does not say it.
    """

    path: Path
    subject_id: str
    side: Side
    kl: int
    split: str
    mm_per_px: float
    inverted: bool
    points: NDArray[np.float64]
    picture_sha256: str = ""

    def check_picture(self) -> None:
        """Refuse a picture that was replaced since its points were found; of a missing one its reader will say so.

        Raises
        ------
        RadiographError
            It is another file than the table's.
        """
        if not self.picture_sha256 or not self.path.is_file():
            return
        if hashlib.sha256(self.path.read_bytes()).hexdigest() != self.picture_sha256:
            raise RadiographError(
                f"{self.path}: is not the picture that its points in the table were found on ({PICTURE} is another): "
                "run locate_landmarks.py again; where the row is yours and right, empty that column"
            )

    def read(self) -> NDArray[np.uint8]:
        """Read the picture, bright bone.

        Returns
        -------
        ndarray, shape (H, W), uint8
            Inverted pictures are righted.

        Raises
        ------
        RadiographError
            As `check_picture` and `read_grey`.
        """
        self.check_picture()
        grey = read_grey(self.path)
        return 255 - grey if self.inverted else grey


def read_grey(path: Path) -> NDArray[np.uint8]:
    """Read a picture of 8 bits.

    Parameters
    ----------
    path : Path
        The picture; of a coloured one the brightness is taken.

    Returns
    -------
    ndarray, shape (H, W), uint8

    Raises
    ------
    RadiographError
        It is missing, is none, or has more than 8 bits.
    """
    # with its own depth: OpenCV would else cut 16 bits down to the upper 8, and leave 16 grey levels of 12 bits
    how = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH
    picture = cv2.imread(str(path), how) if path.is_file() else None
    if picture is None:
        raise RadiographError(f"{path}: {'not a picture' if path.is_file() else 'missing'}")
    if picture.dtype != np.uint8:
        raise RadiographError(f"{path}: its grey levels are {picture.dtype}, must be of 8 bits")
    return picture.astype(np.uint8, copy=False)


def read_crops(table: str | os.PathLike[str], images: str | os.PathLike[str]) -> list[AnnotatedCrop]:
    """Read a table of annotated crops; the pictures themselves are not read.

    Parameters
    ----------
    table : path_like
        CSV with columns file, subject_id, side, kl, split, mm_per_px, inverted (0 or 1), x0, y0 ... x15, y15; it may
        have picture_sha256.
    images : path_like
        Folder that the column ``file`` starts from.

    Returns
    -------
    list of AnnotatedCrop
        In the order of the table.

    Raises
    ------
    AnnotationError
        A column is missing, a value cannot be read, or a picture stands there twice; says file, line, column and what
        would be right.
    """
    with Path(table).open(newline="", encoding="utf-8-sig") as stream:  # spreadsheets put a mark in front
        rows = csv.DictReader(stream)
        check_columns(Path(table), rows.fieldnames or (), COLUMNS)
        crops = [_parse(row, Path(images), f"{table}, line {number}") for number, row in enumerate(rows, start=2)]
    if twice := [str(path) for path, times in Counter(crop.path for crop in crops).items() if times > 1]:
        more = f" and {len(twice) - 1} more" if len(twice) > 1 else ""
        raise AnnotationError(f"{table}: {twice[0]}{more} stands there twice, which row is right cannot be told")
    return crops


def _parse(row: dict[str, str], images: Path, where: str) -> AnnotatedCrop:
    for column, allowed in (("side", "LR"), ("kl", "01234"), ("inverted", "01")):
        if row[column] not in tuple(allowed):
            raise AnnotationError(f"{where}: {column} is {row[column]!r}, must be one of {', '.join(allowed)}")
    if not row["subject_id"]:
        raise AnnotationError(f"{where}: subject_id is empty, must name the subject")
    points = np.array([_number(row, column, where) for column in _POINTS]).reshape(-1, 2)
    mm_per_px = _number(row, "mm_per_px", where)
    if mm_per_px <= 0:
        raise AnnotationError(f"{where}: mm_per_px is {mm_per_px}, must be positive")
    side: Side = "L" if row["side"] == "L" else "R"
    inverted = row["inverted"] == "1"
    who = row["subject_id"], side, int(row["kl"]), row["split"]
    return AnnotatedCrop(images / row["file"], *who, mm_per_px, inverted, points, row.get(PICTURE) or "")


def _number(row: dict[str, str], column: str, where: str) -> float:
    try:
        value = float(row[column])
    except (ValueError, TypeError):
        value = np.nan
    if not np.isfinite(value):
        raise AnnotationError(f"{where}: {column} is {row[column]!r}, must be a number")
    return value
