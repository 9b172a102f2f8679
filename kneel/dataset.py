"""Annotated pictures for the landmark networks: cut from whole films, or read from KNEEL-format ROI images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from tqdm import tqdm

from kneel.engine.config import Settings
from kneel.imaging.cohort import CohortFilm, read_cohort
from kneel.imaging.dicom import read_radiograph
from kneel.imaging.geometry import RoiFrame, Side, Spacing
from kneel.imaging.radiograph import RadiographError, normalize_percentiles
from kneel.imaging.schema import (
    CENTER,
    ROI_MM,
    ROI_SIZE,
    ROI_SPACING_MM,
    AnnotationError,
    KneeAnnotation,
    read_annotations,
)
from kneel.windows import Part, half_with, search_window

Stage = Literal["lc", "hc"]
LC_SPACING_MM = 1.0  # of KNEEL's low-cost images


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


class KneelSource(Settings):
    """KNEEL's annotation table with pictures: ROI ``{subject}_{kl}_{side}.png`` (HC), films ``{subject}.png`` (LC).

    Attributes
    ----------
    source : "kneel_csv"
        Chooses this source.
    annotations : str
        The CSV, below the data root.
    images : str
        Folder of the pictures, below the data root: 466 x 466 ROIs at 0.3 mm, left knees mirrored, or 1 mm films of
        both knees. 8 bit, bright bone, after `kneel.imaging.radiograph.normalize_percentiles` of the whole film.
    """

    source: Literal["kneel_csv"]
    annotations: str
    images: str


Source = Annotated[PhantomSource | KneelSource, Field(discriminator="source")]


@dataclass(frozen=True)
class LandmarkSample:
    """One annotated picture.

    Attributes
    ----------
    picture : ndarray, shape (H, W), uint8
        Bright bone; lateral at small x.
    points : ndarray, shape (M, 2)
        (x, y) in pixels of the picture.
    subject_id : str
        Subject.
    kl : int
        Kellgren-Lawrence grade.
    """

    picture: NDArray[np.uint8]
    points: NDArray[np.float64]
    subject_id: str
    kl: int


class LandmarkDataset(Dataset[dict[str, Tensor]]):
    """Samples behind an augmentation.

    Parameters
    ----------
    samples : sequence of LandmarkSample
        What to show.
    transform : v2.Compose
        From `kneel.augment`.
    """

    def __init__(self, samples: Sequence[LandmarkSample], transform: v2.Compose) -> None:
        self.samples = samples
        self.transform = transform

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Go through all samples once."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return ``picture`` (1, h, w) in [0, 1], ``points`` (M, 2) pixels, ``visible`` (M,) bool."""
        sample = self.samples[index]
        picture = tv_tensors.Image(torch.from_numpy(sample.picture)[None])
        points: Any = tv_tensors.KeyPoints(
            torch.from_numpy(sample.points.astype(np.float32)), canvas_size=sample.picture.shape
        )
        picture, points = self.transform(picture, points)
        return _as_batch_item(picture.as_subclass(Tensor), points.as_subclass(Tensor))


def _as_batch_item(picture: Tensor, points: Tensor) -> dict[str, Tensor]:
    size = torch.tensor([picture.shape[-1], picture.shape[-2]])
    visible = ((points > -0.5) & (points < size - 0.5)).all(-1)
    return {"picture": picture, "points": points, "visible": visible}


def load_samples(
    folder: Path, source: PhantomSource | KneelSource, stage: Stage, *, spacing_mm: float, margin: float
) -> list[LandmarkSample]:
    """Read all pictures of a source into memory, in parallel, with a progress bar.

    Parameters
    ----------
    folder : Path
        The cohort (phantom source) or the data root (KNEEL source).
    source : PhantomSource or KneelSource
        What lies there.
    stage : {"lc", "hc"}
        Joint centres on half films, or 16 points on ROIs.
    spacing_mm : float
        mm per pixel of the pictures.
    margin : float
        HC from films: the ROI's extent beyond 140 mm for augmentation to move in, as a share of 140 mm.

    Returns
    -------
    list of LandmarkSample
        In the order of the annotations.

    Raises
    ------
    FileNotFoundError, AnnotationError, RadiographError
        A picture is missing or cannot be read; all such files are named in one message.
    """
    if isinstance(source, PhantomSource):
        cut = partial(_cut_film, stage=stage, spacing_mm=spacing_mm, margin=margin)
        return _in_parallel(cut, read_cohort(folder), str(folder))
    knees = read_annotations(folder / source.annotations)
    if not knees:
        raise AnnotationError(f"{folder / source.annotations}: holds no knee")
    images = folder / source.images
    if stage == "hc":
        return _in_parallel(partial(_read_roi, images, spacing_mm=spacing_mm), knees, str(images))
    by_subject: dict[str, list[KneeAnnotation]] = {}
    for knee in knees:
        by_subject.setdefault(knee.subject_id, []).append(knee)
    return _in_parallel(partial(_read_lc_film, images, spacing_mm=spacing_mm), by_subject.values(), str(images))


def _in_parallel(read: Callable[[Any], list[LandmarkSample]], items: Iterable[Any], title: str) -> list[LandmarkSample]:
    """Read every item on a few threads (decoders and OpenCV leave Python's lock); gather the failures into one."""
    items = list(items)
    samples: list[LandmarkSample] = []
    failures: list[str] = []

    def attempt(item: Any) -> list[LandmarkSample] | RadiographError:
        try:
            return read(item)
        except RadiographError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        for result in tqdm(pool.map(attempt, items), total=len(items), desc=title, unit="film", leave=False):
            if isinstance(result, RadiographError):
                failures.append(str(result))
            else:
                samples.extend(result)
    if failures:
        raise RadiographError(f"{len(failures)} of {len(items)} pictures cannot be used:\n" + "\n".join(failures))
    return samples


def _cut_film(film: CohortFilm, *, stage: Stage, spacing_mm: float, margin: float) -> list[LandmarkSample]:
    radiograph = read_radiograph(film.path)
    if radiograph.spacing_mm is None:
        raise RadiographError(f"{film.path}: no spacing, so annotations in mm cannot be placed on it")
    grey = normalize_percentiles(radiograph.pixels, padding=radiograph.padding)
    picture = np.rint(grey * 255).astype(np.uint8)
    sides: list[Side] = [radiograph.look_of(knee.side) for knee in film.knees]
    points = [knee.film_points(radiograph.spacing_mm) for knee in film.knees]
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
    knee: KneeAnnotation,
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
    knee : KneeAnnotation
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
    return LandmarkSample(window.picture, window.frame.to_roi(center[None]), knee.subject_id, knee.kl)


def _roi_sample(
    film: NDArray[np.uint8],
    knee: KneeAnnotation,
    points: NDArray[np.float64],
    look: Side,
    film_spacing_mm: Spacing,
    spacing_mm: float,
    margin: float,
) -> LandmarkSample:
    extent = ROI_MM * (1 + margin)
    frame = RoiFrame.around(points[CENTER], extent, film_spacing_mm, side=look, roi_spacing_mm=spacing_mm)
    return LandmarkSample(frame.crop(film), frame.to_roi(points), knee.subject_id, knee.kl)


def _read_picture(path: Path) -> NDArray[np.uint8]:
    picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path.is_file() else None
    if picture is None:
        raise RadiographError(f"{path}: {'not a picture' if path.is_file() else 'missing'}")
    return picture.astype(np.uint8, copy=False)


def _read_roi(images: Path, knee: KneeAnnotation, *, spacing_mm: float) -> list[LandmarkSample]:
    path = images / f"{knee.subject_id}_{knee.kl}_{knee.side}.png"
    picture = _read_picture(path)
    if picture.shape != (ROI_SIZE, ROI_SIZE):
        raise RadiographError(f"{path}: {picture.shape[1]} x {picture.shape[0]}, must be {ROI_SIZE} x {ROI_SIZE}")
    frame = RoiFrame.covering((0, ROI_SIZE, 0, ROI_SIZE), (ROI_SPACING_MM,) * 2, side="R", roi_spacing_mm=spacing_mm)
    return [LandmarkSample(frame.crop(picture), frame.to_roi(knee.points), knee.subject_id, knee.kl)]


def _read_lc_film(images: Path, knees: Sequence[KneeAnnotation], *, spacing_mm: float) -> list[LandmarkSample]:
    """Cut the halves of one of KNEEL's films; all of them show both knees, though most have one annotated."""
    picture = _read_picture(images / f"{knees[0].subject_id}.png")
    spacing = (LC_SPACING_MM,) * 2
    return [
        center_sample(picture, knee, knee.film_points(spacing), knee.side, spacing, spacing_mm=spacing_mm, halves=True)
        for knee in knees
    ]
