"""A folder of graded ROIs cut from whole films: ``knees.csv`` and the pictures that it names.

`scripts/data_stuff/create_grading_dataset.py` writes it, ``data: {source: graded_rois}`` of an experiment reads it.
Unlike a graded folder, the table knows subject (several visits of one stay together) and spacing, and bone is bright:
films with dark bone were inverted before they were cut.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deepknee.intensity import Contrast, adjust_contrast
from deepknee.model import GRADES
from deepknee.patches import PatchGeometry
from deepknee.roi_row import KNEES, RoiRow
from deepknee.sources import DatasetError, GradedKnee, read_picture
from kneel.imaging.schema import LANDMARKS


@dataclass(frozen=True)
class GradedRoi:
    """What training needs of a row: the picture's place and pixel size, the knee's grade, subject and landmarks.

    Landmarks are (16, 2), (x, y) in pixels of the picture; None for a knee that was cut by a box.
    """

    path: Path
    subject: str
    grade: int
    mm_per_px: float
    points: NDArray[np.float64] | None


def graded_rois(folder: Path) -> list[GradedRoi]:
    """List the ROIs of a folder; the pictures themselves are not read.

    Parameters
    ----------
    folder : Path
        Holds ``knees.csv``.

    Returns
    -------
    list of GradedRoi
        In the order of the table.

    Raises
    ------
    DatasetError
        The table is missing, lacks a column, or holds a value that cannot be.
    """
    table = folder / KNEES
    if not table.is_file():
        raise DatasetError(
            f"{table}: missing; scripts/data_stuff/create_grading_dataset.py writes it when it is through"
        )
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    needed = ("file", "subject_id", "kl", "mm_per_px", "points")
    missing = [name for name in needed if name not in rows]
    if missing:
        columns = ", ".join(field.name for field in fields(RoiRow))
        raise DatasetError(f"{table}: no column {', '.join(missing)}; its columns are {columns}")
    if rows.file.duplicated().any():
        twice = rows.file[rows.file.duplicated()].iloc[0]
        raise DatasetError(f"{table}: {twice} stands there twice, which row is right cannot be told")
    values = zip(*(rows[name] for name in needed), strict=True)
    return [_listed(folder, f"{table}, line {line}", *value) for line, value in enumerate(values, 2)]


def _listed(folder: Path, where: str, file: str, subject: str, kl: str, mm_per_px: str, points: str) -> GradedRoi:
    if kl not in map(str, range(GRADES)):
        raise DatasetError(f"{where}: kl is {kl!r}, must be 0 to {GRADES - 1}")
    try:
        spacing, numbers = float(mm_per_px), np.array(points.split(",") if points else [], float)
    except ValueError:
        raise DatasetError(f"{where}: mm_per_px is {mm_per_px!r}, points {points!r}: must be numbers") from None
    if len(numbers) not in (0, 2 * len(LANDMARKS)) or not np.isfinite(numbers).all():
        raise DatasetError(f"{where}: points is {points!r}, must be empty or x,y of {len(LANDMARKS)} landmarks")
    if not 0 < spacing < np.inf:
        raise DatasetError(f"{where}: mm_per_px is {mm_per_px!r}, must be a positive number")
    if not file or not subject:
        raise DatasetError(f"{where}: file is {file!r} and subject_id {subject!r}, neither may be empty")
    return GradedRoi(folder / file, subject, int(kl), spacing, numbers.reshape(-1, 2) if len(numbers) else None)


def read_graded_roi(knee: GradedRoi, geometry: PatchGeometry, contrast: Contrast) -> GradedKnee:
    """Read one ROI on the grid of a geometry.

    Parameters
    ----------
    knee : GradedRoi
        What to read.
    geometry : PatchGeometry
        Size of the ROI, and where the joint lies in it; a picture of just that size and pixel size is taken as it is.
    contrast : {"film", "roi", "patches"}
        See `deepknee.intensity.Intensity`.

    Raises
    ------
    RadiographError
        The picture cannot be read.
    DatasetError
        It is not square and of 8 bits, or smaller than the geometry asks for.
    """
    roi = _on_grid(read_picture(knee.path), knee, geometry)
    return GradedKnee(adjust_contrast(roi, contrast, geometry), knee.grade, knee.subject, str(knee.path))


def _on_grid(picture: NDArray[np.uint8], knee: GradedRoi, geometry: PatchGeometry) -> NDArray[np.uint8]:
    """Lay the geometry's ROI around the joint centre, which is the middle of the picture, or by the landmarks."""
    middle, spacing = (len(picture) - 1) / 2, (knee.mm_per_px, knee.mm_per_px)
    if geometry.follow == "centre":
        frame = geometry.frame((middle, middle), spacing, "R")  # pictures of left knees are mirrored already
    elif knee.points is not None:
        frame = geometry.frame_of(knee.points, spacing, "R")
    else:
        raise DatasetError(
            f"{knee.path}: has no landmarks, as it was cut by a list of boxes, and geometry.follow = landmarks needs "
            "them: cut the data set with networks (--weights), or follow the centre"
        )
    reach = float(np.abs(frame.to_image(np.array([(0, 0), frame.size]) - 0.5) - middle).max())
    if reach > len(picture) / 2 + 0.5:
        held, asked = len(picture) * knee.mm_per_px, 2 * reach * knee.mm_per_px
        raise DatasetError(
            f"{knee.path}: shows {held:.1f} mm around the joint, the experiment's geometry needs {asked:.1f}: cut the "
            f"data set with a larger --roi_mm, or ask for less in geometry.roi_mm and joint_mm"
        )
    return frame.crop(picture)
