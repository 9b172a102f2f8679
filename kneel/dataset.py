"""Annotated pictures behind an augmentation, for the landmark networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from kneel.augment import TrainingTransform
from kneel.imaging.geometry import Side


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
    side : {"L", "R"}
        Laterality of the knee; left ones are mirrored in the picture.
    kl : int
        Kellgren-Lawrence grade.
    """

    picture: NDArray[np.uint8]
    points: NDArray[np.float64]
    subject_id: str
    side: Side
    kl: int


Item = dict[str, Any]


class LandmarkDataset(Dataset[Item]):
    """Samples behind an augmentation.

    Parameters
    ----------
    samples : sequence of LandmarkSample
        What to show.
    transform : callable
        From `kneel.augment`.
    """

    def __init__(self, samples: Sequence[LandmarkSample], transform: Callable[[Any, Any], tuple[Any, Any]]) -> None:
        self.samples = samples
        self.transform = transform

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    def __iter__(self) -> Iterator[Item]:
        """Go through all samples once."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Item:
        """Return ``picture`` (1, h, w) in [0, 1], ``points`` (M, 2) pixels, ``visible`` (M,) bool."""
        picture, points = (each.as_subclass(Tensor) for each in self.transform(*_wrapped(self.samples[index])))
        return {"picture": picture, "points": points, "visible": _inside(points, picture.shape[-2:])}


class AugmentedDataset(LandmarkDataset):
    """Training samples, whose augmentation can be left to the device (`kneel.engine.task.Deferring`).

    Parameters
    ----------
    samples : sequence of LandmarkSample
        What to show.
    transform : TrainingTransform
        The augmentation.
    """

    transform: TrainingTransform

    def deferred(self) -> tuple[Dataset[Item], Callable[[Item], Item]]:
        """Return the samples as stored, with what is drawn for each, and what makes augmented batches of them."""
        return _Drawn(self.samples, self.transform), self._made

    def _made(self, batch: Item) -> Item:
        picture = self.transform.make(batch["picture"], batch["drawn"])
        return {"picture": picture, "points": batch["points"], "visible": batch["visible"]}


class _Drawn(Dataset[Item]):
    """Samples as stored, on a canvas of the largest one's size, with moved points and what is drawn for the picture."""

    def __init__(self, samples: Sequence[LandmarkSample], transform: TrainingTransform) -> None:
        self.samples, self.transform = samples, transform
        self.canvas = [max(sample.picture.shape[axis] for sample in samples) for axis in (0, 1)] if samples else [0, 0]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        picture, points, drawn = self.transform.draw(*_wrapped(self.samples[index]))
        if self.transform.bends:
            missing = [whole - side for whole, side in zip(self.canvas, picture.shape[-2:], strict=True)]
            picture = torch.nn.functional.pad(picture, (0, missing[1], 0, missing[0]))
        return {
            "picture": picture,
            "points": points,
            "visible": _inside(points, self.transform.size[::-1]),
            "drawn": drawn,
        }


def _wrapped(sample: LandmarkSample) -> tuple[tv_tensors.Image, tv_tensors.KeyPoints]:
    points = torch.from_numpy(sample.points.astype(np.float32))
    picture = tv_tensors.Image(torch.from_numpy(sample.picture)[None])
    return picture, tv_tensors.KeyPoints(points, canvas_size=sample.picture.shape)


def _inside(points: Tensor, shape: Sequence[int]) -> Tensor:
    size = torch.tensor([shape[1], shape[0]])
    return ((points > -0.5) & (points < size - 0.5)).all(-1)
