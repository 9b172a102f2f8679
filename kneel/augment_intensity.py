"""Augmentation of the grey values; landmarks stay where they are. Pictures are (1, H, W) in [0, 1]."""

from __future__ import annotations

from typing import Any

import cv2
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2


class RandomWindow(v2.Transform):
    """Darken all outside a random rectangle that holds the landmarks.

    Parameters
    ----------
    probability : float
        How often.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, image: tv_tensors.Image, points: tv_tensors.KeyPoints) -> tuple[Any, Any]:
        """Leave the points as they are."""
        if torch.rand(()) >= self.probability:
            return image, points
        size = torch.tensor(points.canvas_size[::-1], dtype=torch.float32)
        xy = points.as_subclass(Tensor).float()
        low, high = xy.amin(0).clamp(min=0), xy.amax(0)
        left, top = (low * torch.rand(2)).long().tolist()
        right, bottom = (high + (size - high).clamp(min=0) * torch.rand(2)).ceil().long().tolist()
        dark = torch.zeros_like(image)
        dark[..., top : bottom + 1, left : right + 1] = image[..., top : bottom + 1, left : right + 1]
        return tv_tensors.wrap(dark, like=image), points


class RandomPolarity(v2.Transform):
    """Turn bright bone into dark bone.

    Parameters
    ----------
    probability : float
        How often. Every second time pixels that are 0 stay so: the black that ROIs and windows have outside a film.
    """

    _transformed_types = (tv_tensors.Image,)

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw whether, and whether black stays."""
        chance = float(torch.rand(()))
        return {"invert": chance < self.probability, "keep_black": chance < self.probability / 2}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Apply it to a picture in [0, 1]."""
        if not params["invert"]:
            return inpt
        picture = inpt.as_subclass(Tensor)
        inverted = (1 - picture).clamp(min=0)  # interpolation may have left a white pixel a rounding error above 1
        if params["keep_black"]:
            inverted = inverted.masked_fill(picture == 0, 0)
        return tv_tensors.wrap(inverted, like=inpt)


class RandomGamma(v2.Transform):
    """Raise the grey values to a random power.

    Parameters
    ----------
    low, high : float
        Range of the exponent; its logarithm is drawn evenly.
    """

    _transformed_types = (tv_tensors.Image,)

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.bounds = torch.tensor([low, high]).log()

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the exponent."""
        low, high = self.bounds
        return {"gamma": float((low + (high - low) * torch.rand(())).exp())}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Apply it to a picture in [0, 1]."""
        return v2.functional.adjust_gamma(inpt, params["gamma"])


class Blur(v2.GaussianBlur):
    """torchvision's Gaussian blur of a grey picture, by rows and then by columns.

    The draws and the picture are torchvision's, which convolves with the whole two-dimensional kernel and takes ten
    times as long.

    Parameters
    ----------
    kernel_size : int
        Odd width of the kernel, pixels.
    sigma : (float, float)
        Range of the standard deviation, pixels.
    """

    _transformed_types = (tv_tensors.Image,)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Apply it to a float picture (1, H, W)."""
        grey, (sigma_x, sigma_y) = inpt.as_subclass(Tensor)[0].numpy(), params["sigma"]
        blurred = cv2.GaussianBlur(grey, self.kernel_size, sigma_x, sigmaY=sigma_y, borderType=cv2.BORDER_REFLECT_101)
        return tv_tensors.wrap(torch.from_numpy(blurred)[None], like=inpt)


class RandomNoise(v2.Transform):
    """Add Gaussian and salt-and-pepper noise of random strength.

    Parameters
    ----------
    sigma : float
        Largest standard deviation, as a share of the grey range.
    share : float
        Largest share of pixels set to 0 or 1.
    """

    _transformed_types = (tv_tensors.Image,)

    def __init__(self, sigma: float, share: float) -> None:
        super().__init__()
        self.sigma, self.share = sigma, share

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Apply it to a picture in [0, 1]."""
        noisy = inpt.as_subclass(Tensor)
        if self.sigma:
            noisy = noisy + torch.randn_like(noisy) * self.sigma * torch.rand(())
        if self.share:
            spot, share = torch.rand_like(noisy), self.share * torch.rand(())
            noisy = noisy.masked_fill(spot < share / 2, 0).masked_fill(spot > 1 - share / 2, 1)
        return tv_tensors.wrap(noisy.clamp(0, 1), like=inpt)


class Cutout(v2.Transform):
    """Hide a square of the picture behind grey (v2.RandomErasing warns about landmarks).

    Parameters
    ----------
    share : float
        Side of the square as a share of the shorter side of the picture.
    """

    _transformed_types = (tv_tensors.Image,)

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Apply it to a picture in [0, 1]."""
        height, width = inpt.shape[-2:]
        side = max(1, round(self.share * min(height, width)))
        top = int(torch.randint(height - side + 1, ()))
        left = int(torch.randint(width - side + 1, ()))
        return v2.functional.erase(inpt, top, left, side, side, torch.tensor(0.5))
