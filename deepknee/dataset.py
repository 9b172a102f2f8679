"""Graded knees in memory, without a subject on both sides of a split."""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

import kneel.imaging
from deepknee.augment import TrainingPictures
from deepknee.graded_folder import graded_files, graded_landmarks, read_graded
from deepknee.intensity import Contrast
from deepknee.patches import PatchGeometry
from deepknee.rois import graded_rois, read_graded_roi
from deepknee.sources import DatasetError, GradedKnee, Source, read_film, refuse
from kneel.engine.folds import check_leakage, check_pictures, grouped_folds, picture_digest
from kneel.engine.pixel_cache import Pictures, cached
from kneel.engine.reading import read_all
from kneel.imaging.cohort import read_cohort
from kneel.imaging.radiograph import RadiographError

_log = logging.getLogger(__name__)
_HERE = Path(__file__).parent
_CODE = [_HERE / f"{name}.py" for name in ("dataset", "sources", "graded_folder", "patches", "intensity", "rois")]
_CODE.append(Path(kneel.imaging.__file__).parent)  # the films' decoders, dark bone


@dataclass(frozen=True, eq=False)
class GradedKnees:
    """N knees in one block of memory.

    Attributes
    ----------
    rois : ndarray, shape (N, S, S), uint8
        Lateral at small x, bright bone.
    grades : ndarray, shape (N,), int64
        KL grades.
    subjects, names : tuple of str
        Subject of each knee, and where it comes from.
    """

    rois: NDArray[np.uint8]
    grades: NDArray[np.int64]
    subjects: tuple[str, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of knees."""
        return len(self.grades)

    def names_within(self, folder: Path) -> list[str]:
        """Name the knees from the folder of their data set on, with ``/`` on every system."""
        return [_below(folder, name).replace(os.sep, "/") for name in self.names]

    def subset(self, indices: NDArray[np.int64]) -> "GradedKnees":
        """Return some of the knees."""
        subjects, names = (tuple(words[i] for i in indices) for words in (self.subjects, self.names))
        return GradedKnees(self.rois[indices], self.grades[indices], subjects, names)


class PatchDataset(Dataset[tuple[Any, ...]]):
    """Pictures of knees with their label and grade.

    Parameters
    ----------
    knees
        What to show.
    cut
        From a ROI (1, S, S) uint8 to the pictures that a network sees; see `deepknee.views.View.cut`.
    labels
        What is learnt, (N, 5) float32: the grades as probabilities, soft or not.
    """

    def __init__(self, knees: GradedKnees, cut: Callable[[Tensor], tuple[Any, ...]], labels: Tensor) -> None:
        self.knees, self.cut, self.labels = knees, cut, labels

    def __len__(self) -> int:
        """Return the number of knees."""
        return len(self.knees)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """Return the pictures, such as both patches, (1, P, P) each, then the label (5,) and the grade."""
        pictures = self.cut(torch.from_numpy(self.knees.rois[index])[None])
        return *pictures, self.labels[index], int(self.knees.grades[index])


class TrainingDataset(PatchDataset):
    """Changed pictures of training knees, whose changes can be left to the device (`kneel.engine.task.Deferring`).

    Parameters
    ----------
    knees
        What to show.
    cut
        How it is changed.
    labels
        As of `PatchDataset`.
    """

    cut: TrainingPictures

    def deferred(self) -> tuple[Dataset[tuple[Any, ...]], Callable[[Sequence[Any]], list[Tensor]]]:
        """Return the 8-bit ROIs with what is drawn for each, and what makes batches of this set of them."""
        return PatchDataset(self.knees, self.cut.draw, self.labels), self._made

    def _made(self, batch: Sequence[Any]) -> list[Tensor]:
        rois, draws, *rest = batch
        return [*self.cut.make(rois, draws), *rest]


def load_split(
    root: Path,
    source: Source,
    geometry: PatchGeometry,
    contrast: Contrast,
    *,
    folds: int,
    fold: int,
    seed: int,
) -> tuple[GradedKnees, GradedKnees]:
    """Read the training and the validation knees, and make sure that they share no subject.

    Parameters
    ----------
    root : Path
        Folder that the source's paths start from.
    source : PhantomSource, GradedFolderSource or GradedRoisSource
        What lies there.
    geometry : PatchGeometry
        Size of the ROIs.
    contrast : {"film", "roi", "patches"}
        See `deepknee.intensity.Intensity`.
    folds, fold, seed : int
        Which fold of how many is held out, where the source has no validation set.

    Returns
    -------
    train, val : GradedKnees

    Raises
    ------
    DatasetError
        Pictures cannot be used; all are named.
    LeakageError
        A subject, or one and the same picture, is on both sides.
    """
    if source.val is not None:
        train, val = (load_knees(root / part, source, geometry, contrast) for part in (source.train, source.val))
        check_leakage(train.subjects, val.subjects)
    else:
        both = load_knees(root / source.train, source, geometry, contrast)
        train, val = map(both.subset, grouped_folds(both.subjects, both.grades.tolist(), folds, seed)[fold])
    check_pictures(*(zip(part.names, part.rois, strict=True) for part in (train, val)))
    return train, val


def load_knees(
    folder: Path, source: Source, geometry: PatchGeometry, contrast: Contrast, *, keep: bool = True
) -> GradedKnees:
    """Read all knees of a folder, in parallel, with a progress bar; the second time from the cache.

    Parameters
    ----------
    folder : Path
        A cohort, a folder of the folders 0 to 4, or one of ``knees.csv``.
    source, geometry, contrast
        As for `load_split`.
    keep : bool
        False for a folder that is read this once: the cache then holds nothing of it.

    Returns
    -------
    GradedKnees
        In the order of the annotations, or of grades and file names.

    Raises
    ------
    DatasetError
        Pictures cannot be used, or there is none.
    """
    items: Sequence[Any]
    read: Callable[[Any], list[GradedKnee]]
    landmarks = None
    if source.source == "phantom":
        items, read = read_cohort(folder), lambda film: read_film(film, geometry, contrast)
    elif source.source == "graded_rois":
        items, read = graded_rois(folder), lambda knee: [read_graded_roi(knee, geometry, contrast)]
    else:
        landmarks = graded_landmarks(folder) if geometry.follow == "landmarks" else None
        items, read = graded_files(folder), lambda path: [read_graded(path, geometry, contrast, landmarks)]

    def make() -> tuple[list[NDArray[np.uint8]], list[dict[str, Any]]]:
        knees, refused = read_all(read, items, str(folder), RadiographError)
        refuse(refused)
        if not knees:
            raise DatasetError(f"{folder}: no knees in it")
        # names from the folder on: whoever takes them from the cache may spell the folder otherwise
        notes = [{"grade": knee.grade, "subject": knee.subject, "name": _below(folder, knee.name)} for knee in knees]
        return [knee.roi for knee in knees], notes

    depends_on = [source.source, geometry, contrast, items, landmarks]
    kept = cached(make, depends_on, _CODE, str(folder)) if keep else Pictures(*make())
    grade, subject, name = ([note[field] for note in kept.notes] for field in ("grade", "subject", "name"))
    names = tuple(str(folder / each) for each in name)
    _tell_repeats(names, kept.pixels)
    return GradedKnees(kept.stacked(), np.array(grade, np.int64), tuple(subject), names)


def _tell_repeats(names: Sequence[str], rois: Iterable[NDArray[np.uint8]]) -> None:
    """Warn of a picture that is there under several names: it counts as several knees."""
    known: dict[bytes, str] = {}
    pairs = [(known.setdefault(picture_digest(roi), name), name) for name, roi in zip(names, rois, strict=True)]
    if same := [f"{other} and {one}" for one, other in pairs if one != other]:
        more = f", and {len(same) - 1} more such" if len(same) > 1 else ""
        _log.warning("the same picture under two names, which count as two knees: %s%s", same[0], more)


def _below(folder: Path, name: str) -> str:
    return name.removeprefix(f"{folder}{os.sep}")
