"""Where graded knees come from: annotated films, a folder of graded pictures, or a table of ROIs."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from deepknee.intensity import Contrast, adjust_contrast
from deepknee.model import GRADES
from deepknee.patches import PatchGeometry
from deepknee.polarity import has_dark_bone, inverted, knees_are_dark
from deepknee.roi_row import is_picture_name
from kneel.engine.config import Settings
from kneel.imaging.cohort import CohortFilm
from kneel.imaging.crops import AnnotatedCrop, read_crops
from kneel.imaging.dicom import read_radiograph
from kneel.imaging.geometry import Side
from kneel.imaging.radiograph import Radiograph, RadiographError, normalize_percentiles

LANDMARK_TABLE = "landmarks.csv"  # what scripts/data_stuff/locate_landmarks.py writes; columns of kneel.imaging.crops
_NAMED = "SUBJECT followed by L or R and .png"
# what stands between subject and side is of neither: 9000099_L.png shows 9000099, whom snapshots are asked for
_NAME = re.compile(r"(?P<subject>.+?)[_ .-]*(?P<side>[LR])\.png")


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


def graded_files(folder: Path) -> list[Path]:
    """List the pictures of a graded folder.

    Parameters
    ----------
    folder : Path
        Holds the folders 0 to 4; hidden files are passed over.

    Returns
    -------
    list of Path
        By grade, then by name.

    Raises
    ------
    DatasetError
        A grade's folder is missing, a file's name is not ``{subject}{L|R}.png`` or that of a ROI with a table, or a
        knee is there twice, be it under two grades.
    """
    missing = [str(grade) for grade in range(GRADES) if not (folder / str(grade)).is_dir()]
    if missing:
        raise DatasetError(f"{folder}: no folder {', '.join(missing)}; needs one a grade, 0 to {GRADES - 1}")
    paths = [path for grade in range(GRADES) for path in sorted((folder / str(grade)).iterdir())]
    paths = [path for path in paths if not path.name.startswith(".")]
    refuse([f"{path}: must be named {_NAMED}" for path in paths if not _NAME.fullmatch(path.name)])
    if cut := [path for path in paths if is_picture_name(path.name)]:
        raise DatasetError(
            f"{cut[0]}: is named as create_grading_dataset.py names ROIs, whose left knees are mirrored already and of "
            "which a table tells the subjects: name the folder of knees.csv instead (source: graded_rois)"
        )
    knees = [subject_and_side(path) for path in paths]
    times = Counter(knees)
    refuse(
        [f"{path}: this knee is there more than once" for path, one in zip(paths, knees, strict=True) if times[one] > 1]
    )
    return paths


def subject_and_side(path: Path) -> tuple[str, Side]:
    """Tell whose knee a picture of a graded folder shows, and which.

    Raises
    ------
    DatasetError
        It is not named ``{subject}{L|R}.png``.
    """
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise DatasetError(f"{path}: must be named {_NAMED}")
    return match["subject"], "L" if match["side"] == "L" else "R"


def graded_landmarks(folder: Path) -> dict[Path, AnnotatedCrop]:
    """Read the landmarks of a graded folder.

    Parameters
    ----------
    folder : Path
        Holds the folders 0 to 4 and `LANDMARK_TABLE`.

    Returns
    -------
    dict of AnnotatedCrop
        Rows by picture; that they are of the picture as it lies there now is for `read_graded` to see.

    Raises
    ------
    DatasetError
        There is no table, or a row says another side or grade than the name of its picture.
    AnnotationError
        It cannot be read.
    """
    table = folder / LANDMARK_TABLE
    if not table.is_file():
        how = f"python scripts/data_stuff/locate_landmarks.py --images {folder} writes it"
        raise DatasetError(f"{table}: missing, and geometry.follow = landmarks needs it; {how}")
    crops = read_crops(table, folder)
    refuse([f"{table}: says {crop.side} and KL {crop.kl} of {crop.path}" for crop in crops if not _is_named(crop)])
    return {crop.path: crop for crop in crops}


def _is_named(crop: AnnotatedCrop) -> bool:
    """Say whether side and grade of a row are those that name and folder of its picture tell."""
    match = _NAME.fullmatch(crop.path.name)
    return match is None or (match["side"], crop.path.parent.name) == (crop.side, str(crop.kl))


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


def read_graded(
    path: Path, geometry: PatchGeometry, contrast: Contrast, landmarks: Mapping[Path, AnnotatedCrop] | None = None
) -> GradedKnee:
    """Read one picture of a graded folder.

    Parameters
    ----------
    path : Path
        ``{grade}/{subject}{L|R}.png``.
    geometry, contrast
        As for `read_film`.
    landmarks : mapping, optional
        What `graded_landmarks` returned; needed where the geometry follows them.

    Raises
    ------
    RadiographError
        The file cannot be read, or is another than its landmarks were found on.
    DatasetError
        It is not square or not of 8 bits, or its landmarks are missing or far outside.
    """
    subject, side = subject_and_side(path)
    picture = read_picture(path)
    picture = 255 - picture if has_dark_bone(picture) else picture
    if geometry.follow == "centre":
        roi = _resize(picture if side == "R" else picture[:, ::-1], geometry.roi_px)
    else:
        if landmarks is None or path not in landmarks:
            raise DatasetError(f"{path}: not in the table of landmarks; locate_landmarks.py completes it")
        landmarks[path].check_picture()
        points, size = landmarks[path].points, np.array(picture.shape[::-1])
        if (np.abs(points - (size - 1) / 2) > size).any():  # further out than half a picture
            raise DatasetError(f"{path}: landmarks lie far outside the picture; put its row in {LANDMARK_TABLE} right")
        roi = geometry.frame_of(points, (1.0, 1.0), side).crop(picture)
    return GradedKnee(adjust_contrast(roi, contrast, geometry), int(path.parent.name), subject, str(path))


def _resize(picture: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    if len(picture) == size:
        return np.ascontiguousarray(picture)
    how = cv2.INTER_AREA if len(picture) > size else cv2.INTER_LINEAR
    return cv2.resize(picture, (size, size), interpolation=how).astype(np.uint8, copy=False)


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
    picture, points = _grey(radiograph), [knee.film_points(spacing) for knee in film.knees]
    if knees_are_dark(picture, points):
        picture = _grey(inverted(radiograph))
    knees = []
    for knee, at in zip(film.knees, points, strict=True):
        look, scale = radiograph.look_of(knee.side), radiograph.roi_spacing_mm or spacing
        roi = geometry.frame_of(at, scale, look).crop(picture)
        name = f"{film.path}, knee {knee.side}"
        knees.append(GradedKnee(adjust_contrast(roi, contrast, geometry), knee.kl, knee.subject_id, name))
    return knees


def _grey(film: Radiograph) -> NDArray[np.uint8]:
    return np.rint(255 * normalize_percentiles(film.pixels, padding=film.padding)).astype(np.uint8)


def refuse(problems: Sequence[str]) -> None:
    """Raise a `DatasetError` that lists all problems, if there is any."""
    if problems:
        raise DatasetError(f"{len(problems)} pictures cannot be used:\n" + "\n".join(problems))
