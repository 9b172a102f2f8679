"""Where graded knees come from: annotated films, a folder of graded pictures, or a table of ROIs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from deepknee.intensity import Contrast, adjust_contrast
from deepknee.patches import PatchGeometry
from kneel.engine.config import Settings
from kneel.imaging.cohort import CohortFilm
from kneel.imaging.dicom import read_radiograph
from kneel.imaging.polarity import bright_picture
from kneel.imaging.radiograph import RadiographError


class DatasetError(RadiographError):
    """Pictures that cannot be used; names every one of them and why."""


class PhantomSource(Settings):
    """Whole films with annotations: a phantom cohort, or any folder of that layout (see `kneel.imaging.cohort`).

    Attributes
    ----------
    source : "phantom"
        Chooses this source.
    train : str
        Cohort folder below the data root.
    val : str or None
        Validation cohort; None holds out a fold of `train`.
    """

    source: Literal["phantom"]
    train: str = "train"
    val: str | None = "val"


class GradedFolderSource(Settings):
    """Pictures of single knees, one folder a grade: ``{train,val}/{0..4}/{subject}{L|R}.png``.

    The layout of the public set of Chen 2018 (Mendeley Data 10.17632/56rmx5bjcr): left knees as on the film, some
    crops with dark bone. Left knees are mirrored and dark bone is inverted on reading. A geometry that follows the
    centre takes the whole picture as the ROI, resized to `PatchGeometry.roi_px`; one that follows landmarks cuts it by
    those of `LANDMARK_TABLE` in each of the two folders.

    Attributes
    ----------
    source : "graded_folder"
        Chooses this source.
    train, val : str
        Folders below the data root.
    """

    source: Literal["graded_folder"]
    train: str = "train"
    val: str = "val"


class GradedRoisSource(Settings):
    """ROIs cut from whole films, with a table: what ``create_grading_dataset.py`` writes (see `deepknee.rois`).

    Attributes
    ----------
    source : "graded_rois"
        Chooses this source.
    train : str
        Folder of ``knees.csv`` below the data root.
    val : str or None
        The same for validation; None holds out a fold of `train`.
    """

    source: Literal["graded_rois"]
    train: str = "train"
    val: str | None = "val"


Source = Annotated[PhantomSource | GradedFolderSource | GradedRoisSource, Field(discriminator="source")]


@dataclass(frozen=True)
class GradedKnee:
    """One knee before it joins the others.

    Attributes
    ----------
    roi : ndarray, shape (S, S), uint8
        Lateral at small x, bright bone.
    grade : int
        KL grade.
    subject : str
        Subject.
    name : str
        Where it comes from.
    """

    roi: NDArray[np.uint8]
    grade: int
    subject: str
    name: str


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Read a picture of one knee as it is stored.

    Parameters
    ----------
    path : Path
        The picture.

    Returns
    -------
    ndarray, shape (S, S), uint8

    Raises
    ------
    RadiographError
        The file cannot be read.
    DatasetError
        It is not square or not of 8 bits.
    """
    picture = read_radiograph(path).pixels
    if picture.dtype != np.uint8 or picture.shape[0] != picture.shape[1]:
        found = f"{picture.shape[1]} x {picture.shape[0]} pixels of {picture.dtype}"
        raise DatasetError(f"{path}: {found}, must be square and of 8 bits")
    return picture.astype(np.uint8, copy=False)


def read_film(film: CohortFilm, geometry: PatchGeometry, contrast: Contrast) -> list[GradedKnee]:
    """Cut the annotated knees out of one film; one whose knees have dark bone is inverted, as reading does.

    Parameters
    ----------
    film : CohortFilm
        A film with one or two annotated knees.
    geometry : PatchGeometry
        Size of the ROIs, and where the joint lies in them.
    contrast : {"film", "roi", "patches"}
        See `deepknee.intensity.Intensity`.

    Raises
    ------
    RadiographError
        The film cannot be read or has no spacing.
    """
    radiograph = read_radiograph(film.path)
    spacing = radiograph.spacing_mm
    if spacing is None:
        raise RadiographError(f"{film.path}: no spacing, so annotations in mm cannot be placed on it")
    points = [knee.film_points(spacing) for knee in film.knees]
    picture, _ = bright_picture(radiograph, points)
    knees = []
    for knee, at in zip(film.knees, points, strict=True):
        look, scale = radiograph.look_of(knee.side), radiograph.roi_spacing_mm or spacing
        roi = geometry.frame_of(at, scale, look).crop(picture)
        name = f"{film.path}, knee {knee.side}"
        knees.append(GradedKnee(adjust_contrast(roi, contrast, geometry), knee.kl, knee.subject_id, name))
    return knees


def refuse(problems: Sequence[str]) -> None:
    """Raise a `DatasetError` that lists all problems, if there is any."""
    if problems:
        raise DatasetError(f"{len(problems)} pictures cannot be used:\n" + "\n".join(problems))
