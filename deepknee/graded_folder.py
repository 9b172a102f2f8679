"""A graded folder: pictures of single knees in the folders 0 to 4, and the landmarks found on them."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from deepknee.intensity import Contrast, adjust_contrast
from deepknee.model import GRADES
from deepknee.patches import PatchGeometry
from deepknee.roi_row import is_picture_name
from deepknee.sources import DatasetError, GradedKnee, read_picture, refuse
from kneel.imaging.crops import AnnotatedCrop, read_crops
from kneel.imaging.geometry import Side
from kneel.imaging.polarity import has_dark_bone

LANDMARK_TABLE = "landmarks.csv"  # what scripts/data_stuff/locate_landmarks.py writes; columns of kneel.imaging.crops
_NAMED = "SUBJECT followed by L or R and .png"
_OF_SYSTEMS = {"thumbs.db", "desktop.ini", "__macosx"}  # what Windows and macOS leave in folders, beside hidden files
# what stands between subject and side is of neither: 9000099_L.png shows 9000099, whom snapshots are asked for
_NAME = re.compile(r"(?P<subject>.+?)[_ .-]*(?P<side>[LR])\.png")


def graded_files(folder: Path) -> list[Path]:
    """List the pictures of a graded folder.

    Parameters
    ----------
    folder : Path
        Holds the folders 0 to 4, and files; what is hidden or of the operating system is passed over.

    Returns
    -------
    list of Path
        By grade, then by name.

    Raises
    ------
    DatasetError
        A grade's folder is missing or another folder is there, a file's name is not ``{subject}{L|R}.png`` or that of
        a ROI with a table, or a knee is there twice, be it under two grades.
    """
    missing = [str(grade) for grade in range(GRADES) if not (folder / str(grade)).is_dir()]
    if missing:
        raise DatasetError(f"{folder}: no folder {', '.join(missing)}; needs one a grade, 0 to {GRADES - 1}")
    folders = [path for path in _shown(folder) if path.is_dir()]
    grades = {str(grade) for grade in range(GRADES)}
    if other := [str(path) for path in folders if path.name not in grades]:
        raise DatasetError(f"{', '.join(other)}: no KL grade; only the folders 0 to {GRADES - 1} may be there")
    paths = [path for grade in sorted(grades) for path in _shown(folder / grade)]
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


def _shown(folder: Path) -> list[Path]:
    """List what people put into a folder, by name."""
    return [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".") and path.name.lower() not in _OF_SYSTEMS
    ]


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
        There is no table, or a row says another subject, side or grade than the name of its picture.
    AnnotationError
        It cannot be read.
    """
    table = folder / LANDMARK_TABLE
    if not table.is_file():
        how = f"python scripts/data_stuff/locate_landmarks.py --images {folder} writes it"
        raise DatasetError(f"{table}: missing, and geometry.follow = landmarks needs it; {how}")
    crops = read_crops(table, folder)
    said = "{0}: says subject {1.subject_id}, {1.side} and KL {1.kl} of {1.path}"
    refuse([said.format(table, crop) for crop in crops if not _is_named(crop)])
    return {crop.path: crop for crop in crops}


def _is_named(crop: AnnotatedCrop) -> bool:
    """Say whether subject, side and grade of a row are those that name and folder of its picture tell."""
    match = _NAME.fullmatch(crop.path.name)
    named = match and (match["subject"], match["side"], crop.path.parent.name)
    return match is None or named == (crop.subject_id, crop.side, str(crop.kl))


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
