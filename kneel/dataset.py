"""Annotated pictures behind an augmentation, for the landmark networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

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
