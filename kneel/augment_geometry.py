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

    def forward(self, *inputs: Any) -> Any:
        """Move image and points together, or points alone."""
        moved = self.inner(*(_shifted(each, 0.5) for each in inputs))
        return tuple(_shifted(each, -0.5) for each in moved) if isinstance(moved, tuple) else _shifted(moved, -0.5)


def _shifted(each: Any, by: float) -> Any:
    """Move points along both axes; leave images."""
    return tv_tensors.wrap(each.as_subclass(Tensor) + by, like=each) if isinstance(each, tv_tensors.KeyPoints) else each


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

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Say what is added and what is cut."""
        height, width = v2.query_size(flat_inputs)
        x, y = max(0, self.size[0] - width), max(0, self.size[1] - height)
        window = (height + y - self.size[1]) // 2, (width + x - self.size[0]) // 2, self.size[1], self.size[0]
        return {"padding": [x // 2, y // 2, x - x // 2, y - y // 2], "window": window}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Cut and pad an image or points."""
        padded = F.pad(inpt, params["padding"])
        return F.crop(padded, *params["window"]) if self.crop else padded


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


def follow(moves: v2.Transform, points: tv_tensors.KeyPoints) -> tuple[tv_tensors.KeyPoints, Tensor]:
    """Run transforms on points alone, and tell from what they do to three more points where pictures have to go.

    Parameters
    ----------
    moves : v2.Transform
        Flips, shifts, rotations, ...: together an affine map. They draw what they would draw for a picture.
    points : KeyPoints, shape (M, 2)
        In pixels of the picture.

    Returns
    -------
    moved : KeyPoints, shape (M, 2), float64
        In pixels of the outcome.
    matrix : Tensor, shape (2, 3), float64
        From (x, y, 1) in pixels of the outcome to (x, y) in pixels of the picture; for `warp`.
    """
    corners = torch.tensor([[0, 0], [1, 0], [0, 1]], dtype=torch.float64)
    both = tv_tensors.wrap(torch.cat([corners, points.as_subclass(Tensor).double()]), like=points)
    moved = moves(both)
    xy = moved.as_subclass(Tensor)
    there = torch.stack([xy[1] - xy[0], xy[2] - xy[0]], 1)
    back = torch.linalg.inv(there)
    return tv_tensors.wrap(xy[3:], like=moved), torch.cat([back, -back @ xy[0, :, None]], 1)


def warp(pictures: Tensor, matrices: Tensor, size: tuple[int, int]) -> Tensor:
    """Sample a batch of pictures along affine maps, between pixels linearly; black around them.

    Parameters
    ----------
    pictures : Tensor, shape (B, C, H, W)
        On any device.
    matrices : Tensor, shape (B, 2, 3)
        From `follow`.
    size : (int, int)
        Width and height of the outcome, pixels.

    Returns
    -------
    Tensor, shape (B, C, height, width)
    """
    # not torch's affine_grid: a matrix product may be in TF32 on a GPU, which would be a tenth of a pixel off
    x, y = (torch.arange(side, device=pictures.device, dtype=pictures.dtype) for side in size)
    x, y = x[None, None], y[None, :, None]
    across, down, start = matrices.to(pictures.dtype)[..., None, None].unbind(2)  # (B, 2, 1, 1) each
    axes = [across[:, axis] * x + down[:, axis] * y + start[:, axis] for axis in (0, 1)]
    sides = pictures.shape[-1], pictures.shape[-2]
    grid = torch.stack([(2 * at + 1) / side - 1 for at, side in zip(axes, sides, strict=True)], -1)
    return torch.nn.functional.grid_sample(pictures, grid, "bilinear", "zeros", align_corners=False)
