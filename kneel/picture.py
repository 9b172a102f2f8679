"""One film with annotated knees -> its ROI and low-cost pictures in memory, with what is to be remembered of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kneel.film_task import DrawnKnee, FilmTask, KneeRow, Problem, Record, request_of
from kneel.imaging.dicom import read_radiograph
from kneel.imaging.geometry import RoiFrame, Spacing, millimetres_per_pixel, resize_points
from kneel.imaging.oai import detector_spacing
from kneel.imaging.polarity import bright_picture
from kneel.imaging.preparing import DARK_BONE, encode_png, orientation_remarks
from kneel.imaging.radiograph import Radiograph, RadiographError
from kneel.imaging.schema import LC_SPACING_MM, ROI_SIZE, KneeAnnotation
from kneel.imaging.via import FROM_BEHIND


def cut_pictures(task: FilmTask, *, hc: str, lc: str) -> tuple[Record, dict[str, bytes]]:
    """Read a film and cut its knees.

    Parameters
    ----------
    task : FilmTask
        What to do.
    hc, lc : str
        Folders that the pictures' names begin with.

    Returns
    -------
    record : Record
        Its problems say why a knee is not among its rows; a film that cannot be read is a problem, not an error.
    pictures : dict of str to bytes
        PNG files by name; empty when no knee could be cut.
    """
    both = "".join(sorted(knee.side for knee in task.knees))
    try:
        request, data = request_of(task), task.path.read_bytes()
        film = read_radiograph(task.path)
        if film.columns_reversed and any(isinstance(knee, DrawnKnee) for knee in task.knees):
            raise RadiographError(f"{FROM_BEHIND}; annotate a picture of it that was turned over (mirrored)")
        spacing, kind = _spacing(task, film)
    except (RadiographError, OSError) as error:
        text = error.problem if isinstance(error, RadiographError) else str(error)
        problem = Problem(task.subject_id, both, str(task.path), "missing", text)
        return Record(task.subject_id, {}, problems=(problem,)), {}
    problems = [Problem(task.subject_id, both, str(task.path), "note", text) for text in _remarks(task, film)]
    good: list[KneeAnnotation] = []
    points: list[NDArray[np.float64]] = []
    for knee in task.knees:
        wrong = _misplaced(knee, spacing, film.pixels.shape)
        if wrong is None:
            good.append(_annotate(task, knee, film.pixels.shape[1], spacing))
            points.append(_on_film(knee, spacing))
        else:
            problems.append(Problem(task.subject_id, knee.side, str(task.path), "missing", wrong))
    describe = partial(
        KneeRow,
        subject_id=task.subject_id,
        spacing_row_mm=spacing[0],
        spacing_column_mm=spacing[1],
        spacing_kind=kind,
        film=str(task.path),
        film_bytes=len(data),
        film_sha256=hashlib.sha256(data).hexdigest(),
    )
    grey, dark = bright_picture(film, points)
    if dark:
        problems.append(Problem(task.subject_id, both, str(task.path), "note", DARK_BONE))
    rows, pictures = _cut(task, grey, good, spacing, (hc, lc), describe)
    pixels = hashlib.sha256(f"{film.pixels.dtype} {film.pixels.shape}".encode() + film.pixels.tobytes()).hexdigest()
    done = Record(task.subject_id, request, tuple(rows), tuple(good), tuple(problems), film.patient_id, pixels)
    return done, pictures


def _cut(
    task: FilmTask,
    grey: NDArray[np.uint8],
    knees: Sequence[KneeAnnotation],
    spacing: Spacing,
    folders: tuple[str, str],
    describe: Callable[..., KneeRow],
) -> tuple[list[KneeRow], dict[str, bytes]]:
    """Make the pictures of the knees that can be cut, and their rows."""
    rows: list[KneeRow] = []
    pictures: dict[str, bytes] = {}
    if not knees:
        return rows, pictures
    if not task.bilateral:  # room for the other knee, so that a half of the film is a knee
        black = np.zeros_like(grey)
        grey = np.hstack([grey, black] if knees[0].side == "R" else [black, grey])
    small = _low_cost(grey, spacing)
    low = f"{folders[1]}/{task.subject_id}.png"
    pictures[low] = encode_png(small)
    for knee in knees:
        name = f"{folders[0]}/{task.subject_id}_{knee.kl}_{knee.side}.png"
        pictures[name] = encode_png(knee.frame(spacing).crop(grey))
        rows.append(
            describe(
                side=knee.side,
                kl=knee.kl,
                roi=name,
                roi_size=f"{ROI_SIZE}x{ROI_SIZE}",
                roi_bytes=len(pictures[name]),
                lc=low,
                lc_size=f"{small.shape[1]}x{small.shape[0]}",
                lc_bytes=len(pictures[low]),
            )
        )
    return rows, pictures


def _spacing(task: FilmTask, film: Radiograph) -> tuple[Spacing, str]:
    if isinstance(task.spacing, tuple):
        return task.spacing, "given"
    if task.spacing == "detector":
        found = detector_spacing(task.path)
        if found is None:
            raise RadiographError("no ImagerPixelSpacing (0018,1164) or PixelSpacing (0028,0030) of two equal numbers")
        return found, "detector"
    if film.spacing_mm is None and task.spacing_if_none is not None:
        return task.spacing_if_none, "given"
    if film.spacing_mm is None:
        raise RadiographError("no spacing: neither its header nor you say how many mm a pixel is")
    return film.spacing_mm, film.spacing_kind


def _remarks(task: FilmTask, film: Radiograph) -> list[str]:
    """What the header says against the table; the table, made by eye, is believed."""
    remarks = []
    if film.columns_reversed:
        remarks.append("PatientOrientation says the film is seen from behind; sides were taken as they look on it")
    remarks += orientation_remarks(film)
    if task.bilateral and film.laterality in ("L", "R"):
        remarks.append(f"the header says that it shows the {film.laterality} knee only; it was taken to show both")
    return remarks


def _misplaced(knee: KneeAnnotation | DrawnKnee, spacing: Spacing, shape: tuple[int, ...]) -> str | None:
    """Say why points cannot be a knee on this film: outside of it, or running the wrong way."""
    points = _on_film(knee, spacing)
    height, width = shape
    inside = ((points >= -0.5) & (points <= (width - 0.5, height - 0.5))).all(axis=1)
    if not inside.all():
        x, y = points[~inside][0]
        return (
            f"{16 - inside.sum()} of 16 points lie outside the film, one at ({x:.0f}, {y:.0f}) of {width} x {height} "
            "pixels: another film, another spacing, or a film of one knee"
        )
    runs = np.sign([points[8, 0] - points[0, 0], points[15, 0] - points[9, 0]])
    if (runs != (1 if knee.side == "R" else -1)).any():
        return (
            f"its points run from x = {points[0, 0]:.0f} to {points[8, 0]:.0f} (tibia) and {points[9, 0]:.0f} to "
            f"{points[15, 0]:.0f} (femur); from the lateral to the medial edge of a {knee.side} knee x must "
            f"{'grow' if knee.side == 'R' else 'fall'}: wrong side, wrong order, or a mirrored film"
        )
    return None


def _on_film(knee: KneeAnnotation | DrawnKnee, spacing: Spacing) -> NDArray[np.float64]:
    return knee.points if isinstance(knee, DrawnKnee) else knee.film_points(spacing)


def _annotate(task: FilmTask, knee: KneeAnnotation | DrawnKnee, width: int, spacing: Spacing) -> KneeAnnotation:
    """The knee in KNEEL's terms, on the film as `_cut` widens it."""
    if isinstance(knee, KneeAnnotation):
        return knee
    moved = 0 if task.bilateral or knee.side == "R" else width
    return KneeAnnotation.from_film(task.subject_id, knee.side, knee.kl, knee.points + (moved, 0), spacing)


def _low_cost(grey: NDArray, spacing: Spacing) -> NDArray:
    """Shrink a film to 1 mm. Its first corner stays, as `KneeAnnotation.film_points` has it; a part of a mm goes."""
    factor = millimetres_per_pixel(spacing) / LC_SPACING_MM
    width, height = np.maximum(np.array([grey.shape[1], grey.shape[0]]) * factor + 1e-6, 1).astype(int).tolist()
    middle = resize_points(((width - 1) / 2, (height - 1) / 2), 1 / factor)
    scale = (float(1 / factor[0]), float(1 / factor[1]))
    return RoiFrame((float(middle[0]), float(middle[1])), scale, (width, height)).crop(grey)
