"""Augmentation that moves picture and landmarks together, or the landmarks alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F


class PixelCentred(v2.Transform):
    """Run a torchvision transform on points whose integers are pixel centres.

    torchvision moves images about the middle of the picture's area but points as if an integer were a pixel's corner:
    under a scaling or rotation its points leave the picture by up to half a pixel times the scale.

    Parameters
    ----------
    transform : v2.Transform
        An affine, resizing or perspective transform. Flips, crops and padding are right as they are.
    """

    def __init__(self, transform: v2.Transform) -> None:
        super().__init__()
        self.inner = transform

    def forward(self, image: tv_tensors.Image, points: tv_tensors.KeyPoints) -> tuple[Any, Any]:
        """Move image and points together."""
        corner = tv_tensors.wrap(points.as_subclass(Tensor) + 0.5, like=points)
        image, moved = self.inner(image, corner)
        return image, tv_tensors.wrap(moved.as_subclass(Tensor) - 0.5, like=moved)


class Middle(v2.Transform):
    """Keep the middle of a picture, with black around a small one.

    torchvision's CenterCrop does so too, but pads points by another rule than pictures: where 3, 7, 11 ... pixels are
    missing, its points end up a pixel off.

    Parameters
    ----------
    size : (int, int)
        Width and height of the outcome, pixels.
    crop : bool
        Whether larger pictures are cut; else they stay as they are.
    """

    def __init__(self, size: tuple[int, int], *, crop: bool = True) -> None:
        super().__init__()
        self.size, self.crop = size, crop

    def forward(self, image: tv_tensors.Image, points: tv_tensors.KeyPoints) -> tuple[Any, Any]:
        """Cut and pad both."""
        height, width = image.shape[-2:]
        x, y = max(0, self.size[0] - width), max(0, self.size[1] - height)
        padding = [x // 2, y // 2, x - x // 2, y - y // 2]
        image, points = F.pad(image, padding), F.pad(points, padding)
        if self.crop:
            window = (height + y - self.size[1]) // 2, (width + x - self.size[0]) // 2, self.size[1], self.size[0]
            image, points = F.crop(image, *window), F.crop(points, *window)
        return image, points


class TargetJitter(v2.Transform):
    """Add Gaussian noise to the landmarks and nothing to the picture.

    Parameters
    ----------
    sigma : float
        Standard deviation, pixels.
    """

    _transformed_types = (tv_tensors.KeyPoints,)

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Move each point on its own."""
        return tv_tensors.wrap(inpt + self.sigma * torch.randn(inpt.shape), like=inpt)
