"""Annotated pictures: cut from whole films, read from KNEEL-format ROI images, or from crops of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kneel.dataset import LandmarkSample
from kneel.engine.pixel_cache import cached
from kneel.engine.reading import read_all
from kneel.imaging.cohort import CohortFilm, read_cohort
from kneel.imaging.crops import AnnotatedCrop, read_crops, read_grey
from kneel.imaging.dicom import read_radiograph
from kneel.imaging.geometry import RoiFrame, Side, Spacing
from kneel.imaging.polarity import bright_picture
from kneel.imaging.radiograph import RadiographError, normalize_percentiles
from kneel.imaging.schema import (
    CENTER,
    LC_SPACING_MM,
    ROI_MM,
    ROI_SIZE,
    ROI_SPACING_MM,
    AnnotationError,
    KneeAnnotation,
    read_annotations,
)
from kneel.sources import CropSource, KneelSource, PhantomSource, SeveralSources, Source
from kneel.windows import Part, half_with, search_window

_CODE = [Path(__file__), Path(__file__).with_name("windows.py"), Path(__file__).with_name("imaging")]
_NOTED = ("subject_id", "side", "kl")
Stage = Literal["lc", "hc"]
Split = Literal["train", "val"]


def load_samples(
    root: Path, source: Source, split: Split, stage: Stage, *, spacing_mm: float, margin: float
) -> list[LandmarkSample]:
    """Read the pictures of one split of a source, in parallel, with a progress bar; the second time from the cache.

    Parameters
    ----------
    root : Path
        The data root, which the source's paths start from.
    source : Source
        What lies there.
    split : {"train", "val"}
        Which part; sources without a validation set of their own have none in it.
    stage : {"lc", "hc"}
        Joint centres on half films, or 16 points on ROIs.
    spacing_mm : float
        mm per pixel of the pictures.
    margin : float
        HC from films and crops: the ROI's extent beyond 140 mm for augmentation to move in, as a share of 140 mm.

    Returns
    -------
    list of LandmarkSample
        In the order of the annotations.

    Raises
    ------
    FileNotFoundError, AnnotationError, RadiographError
        A picture is missing or cannot be read; all such files are named in one message.
    """
    if isinstance(source, SeveralSources):
        samples = []
        for part in source.parts:
            once = load_samples(root, part.data, split, stage, spacing_mm=spacing_mm, margin=margin)
            samples += once * (part.repeat if split == "train" else 1)
        return samples
    if split == "val" and source.val is None:
        return []
    if isinstance(source, PhantomSource):
        folder = root / str(getattr(source, split))
        settings = {"stage": stage, "spacing_mm": spacing_mm, "margin": margin}
        return _kept(_cut_film, settings, read_cohort(folder), str(folder))
    if isinstance(source, CropSource):
        settings = {"stage": stage, "spacing_mm": spacing_mm, "margin": margin}
        return _kept(_cut_crop, settings, _crops_of(root, source, split), str(root / source.images))
    return _load_kneel(root, source, stage, spacing_mm)


def _crops_of(root: Path, source: CropSource, split: Split) -> list[AnnotatedCrop]:
    name = getattr(source, split)
    crops = [crop for crop in read_crops(root / source.table, root / source.images) if crop.split == name]
    if not crops:
        raise AnnotationError(f"{root / source.table}: no row with split {name!r}")
    return crops


def _load_kneel(root: Path, source: KneelSource, stage: Stage, spacing_mm: float) -> list[LandmarkSample]:
    knees = read_annotations(root / source.annotations)
    if not knees:
        raise AnnotationError(f"{root / source.annotations}: holds no knee")
    images = root / source.images
    if stage == "hc":
        rois = [(images / f"{knee.subject_id}_{knee.kl}_{knee.side}.png", knee) for knee in knees]
        return _kept(_read_roi, {"spacing_mm": spacing_mm}, rois, str(images))
    by_subject: dict[str, list[KneeAnnotation]] = {}
    for knee in knees:
        by_subject.setdefault(knee.subject_id, []).append(knee)
    films = [(images / f"{subject}.png", annotated) for subject, annotated in by_subject.items()]
    return _kept(_read_lc_film, {"spacing_mm": spacing_mm}, films, str(images))


def _kept(
    read: Callable[..., list[LandmarkSample]], settings: dict[str, Any], items: list[Any], title: str
) -> list[LandmarkSample]:
    """Take the samples of all items from the cache, or read them and leave them there."""

    def make() -> tuple[list[NDArray[np.uint8]], list[dict[str, Any]]]:
        samples, refused = read_all(partial(read, **settings), items, title, RadiographError)
        if refused:
            what = f"{len(refused)} of {len(items)} pictures cannot be used"
            raise RadiographError("\n".join([f"{what}:", *refused]))
        notes = [{name: getattr(sample, name) for name in _NOTED} for sample in samples]
        points = [{"points": sample.points.tolist()} for sample in samples]
        return [sample.picture for sample in samples], [a | b for a, b in zip(notes, points, strict=True)]

    kept = cached(make, [read.__name__, settings, items], _CODE, title)
    return [
        LandmarkSample(picture, **note | {"points": np.array(note["points"], float)})
        for picture, note in zip(kept.pixels, kept.notes, strict=True)
    ]


def _cut_film(film: CohortFilm, *, stage: Stage, spacing_mm: float, margin: float) -> list[LandmarkSample]:
    radiograph = read_radiograph(film.path)
    if radiograph.spacing_mm is None:
        raise RadiographError(f"{film.path}: no spacing, so annotations in mm cannot be placed on it")
    sides: list[Side] = [radiograph.look_of(knee.side) for knee in film.knees]
    points = [knee.film_points(radiograph.spacing_mm) for knee in film.knees]
    picture, _ = bright_picture(radiograph, points)
    if stage == "hc":
        return [
            _roi_sample(picture, knee, at, side, radiograph.spacing_mm, spacing_mm, margin)
            for knee, at, side in zip(film.knees, points, sides, strict=True)
        ]
    # both knees may be on the film although one is annotated
    halves = len(film.knees) == 2 or radiograph.laterality == "B"
    return [
        center_sample(picture, knee, at, side, radiograph.spacing_mm, spacing_mm=spacing_mm, halves=halves)
        for knee, at, side in zip(film.knees, points, sides, strict=True)
    ]


def center_sample(
    film: NDArray[np.uint8],
    knee: KneeAnnotation | AnnotatedCrop,
    points: NDArray[np.float64],
    look: Side,
    film_spacing_mm: Spacing,
    *,
    spacing_mm: float,
    halves: bool,
) -> LandmarkSample:
    """Cut the part of a film in which reading would look for a knee's joint centre.

    Parameters
    ----------
    film : ndarray, shape (H, W), uint8
        The film, bright bone.
    knee : KneeAnnotation or AnnotatedCrop
        Whose it is.
    points : ndarray, shape (16, 2)
        Its landmarks in film pixels.
    look : {"L", "R"}
        ``"L"`` mirrors the picture.
    film_spacing_mm : (float, float)
        (row, column) spacing of the film.
    spacing_mm : float
        mm per pixel of the picture.
    halves : bool
        Whether the film shows both knees: then the half that holds the centre is cut, else all of it.

    Returns
    -------
    LandmarkSample
        One point: landmark `CENTER`.

    Raises
    ------
    RadiographError
        The centre lies outside the film: picture and table do not belong together, or not at this spacing.
    """
    center = points[CENTER]
    height, width = film.shape
    if not (0 <= center[0] < width and 0 <= center[1] < height):
        place = f"({center[0]:.0f}, {center[1]:.0f}) of {width} x {height} pixels"
        raise RadiographError(f"subject {knee.subject_id}, knee {knee.side}: the joint centre lies outside, at {place}")
    part: Part = half_with(center[0], width) if halves else "whole"
    window = search_window(film, part, film_spacing_mm, side=look, window_spacing_mm=spacing_mm)
    return LandmarkSample(window.picture, window.frame.to_roi(center[None]), knee.subject_id, knee.side, knee.kl)


def _roi_sample(
    film: NDArray[np.uint8],
    knee: KneeAnnotation | AnnotatedCrop,
    points: NDArray[np.float64],
    look: Side,
    film_spacing_mm: Spacing,
    spacing_mm: float,
    margin: float,
) -> LandmarkSample:
    extent = ROI_MM * (1 + margin)
    frame = RoiFrame.around(points[CENTER], extent, film_spacing_mm, side=look, roi_spacing_mm=spacing_mm)
    return LandmarkSample(frame.crop(film), frame.to_roi(points), knee.subject_id, knee.side, knee.kl)


def _cut_crop(crop: AnnotatedCrop, *, stage: Stage, spacing_mm: float, margin: float) -> list[LandmarkSample]:
    """Treat a crop as a small film of one knee, its grey levels as reading would see them."""
    picture, spacing = _to_bytes(normalize_percentiles(crop.read())), (crop.mm_per_px, crop.mm_per_px)
    if stage == "hc":
        return [_roi_sample(picture, crop, crop.points, crop.side, spacing, spacing_mm, margin)]
    return [center_sample(picture, crop, crop.points, crop.side, spacing, spacing_mm=spacing_mm, halves=False)]


def _to_bytes(grey: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(grey * 255).astype(np.uint8)


def _read_roi(roi: tuple[Path, KneeAnnotation], *, spacing_mm: float) -> list[LandmarkSample]:
    path, knee = roi
    picture = read_grey(path)
    if picture.shape != (ROI_SIZE, ROI_SIZE):
        raise RadiographError(f"{path}: {picture.shape[1]} x {picture.shape[0]}, must be {ROI_SIZE} x {ROI_SIZE}")
    frame = RoiFrame.covering((0, ROI_SIZE, 0, ROI_SIZE), (ROI_SPACING_MM,) * 2, side="R", roi_spacing_mm=spacing_mm)
    return [LandmarkSample(frame.crop(picture), frame.to_roi(knee.points), knee.subject_id, knee.side, knee.kl)]


def _read_lc_film(film: tuple[Path, Sequence[KneeAnnotation]], *, spacing_mm: float) -> list[LandmarkSample]:
    """Cut the halves of one of KNEEL's films; all of them show both knees, though most have one annotated."""
    path, knees = film
    picture = read_grey(path)
    spacing = (LC_SPACING_MM,) * 2
    return [
        center_sample(picture, knee, knee.film_points(spacing), knee.side, spacing, spacing_mm=spacing_mm, halves=True)
        for knee in knees
    ]
