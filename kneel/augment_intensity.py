"""Augmentation of the grey values; landmarks stay where they are. Pictures are (1, H, W) in [0, 1].

What is drawn is drawn for one picture, on the CPU; what is then done is the same for one picture and for a batch on any
device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from kneel.engine.changes import blur, by_picture

Params = dict[str, Tensor]


class Change(v2.Transform, ABC):
    """A change of grey values: its parameters, drawn for one picture, are tensors that can be stacked for many."""

    _transformed_types: tuple[type, ...] = (tv_tensors.Image,)

    @abstractmethod
    def change(self, pictures: Tensor, params: Params) -> Tensor:
        """Change a batch, on its device.

        Parameters
        ----------
        pictures : Tensor, shape (B, 1, H, W)
            In [0, 1].
        params : dict of Tensor, shape (B, ...)
            What `make_params` drew for each of them.
        """

    def idle(self, params: Params) -> bool:
        """Say whether these parameters leave a picture as it is."""
        return False

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Change one picture (1, H, W)."""
        if not isinstance(inpt, tv_tensors.Image) or self.idle(params):
            return inpt
        changed = self.change(inpt.as_subclass(Tensor)[None], {name: value[None] for name, value in params.items()})
        return tv_tensors.wrap(changed[0], like=inpt)


class RandomWindow(Change):
    """Darken all outside a random rectangle that holds the landmarks.

    Parameters
    ----------
    probability : float
        How often.
    """

    _transformed_types = (tv_tensors.Image, tv_tensors.KeyPoints)  # these are what it draws from

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def make_params(self, flat_inputs: list[Any]) -> Params:
        """Draw whether and where, around the landmarks that are among the inputs."""
        points = next(each for each in flat_inputs if isinstance(each, tv_tensors.KeyPoints))
        size = torch.tensor(points.canvas_size[::-1], dtype=torch.float32)
        if torch.rand(()) >= self.probability:
            return {"box": torch.cat([torch.zeros(2), size])}
        xy = points.as_subclass(Tensor).float()
        low, high = xy.amin(0).clamp(min=0), xy.amax(0)
        left_top = (low * torch.rand(2)).floor()
        return {"box": torch.cat([left_top, (high + (size - high).clamp(min=0) * torch.rand(2)).ceil()])}

    def change(self, pictures: Tensor, params: Params) -> Tensor:
        """Darken."""
        return pictures * _inside(params["box"], pictures)


class RandomPolarity(Change):
    """Turn bright bone into dark bone.

    Parameters
    ----------
    probability : float
        How often. Every second time pixels that are 0 (less than half a grey level of 255) stay so: the black that ROIs
        and windows have outside a film.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def make_params(self, flat_inputs: list[Any]) -> Params:
        """Draw whether, and whether black stays."""
        chance = torch.rand(())
        return {"invert": chance < self.probability, "keep_black": chance < self.probability / 2}

    def idle(self, params: Params) -> bool:
        """Say whether nothing is inverted."""
        return not params["invert"]

    def change(self, pictures: Tensor, params: Params) -> Tensor:
        """Invert."""
        inverted = (1 - pictures).clamp(min=0)  # interpolation may have left a white pixel a rounding error above 1
        inverted = inverted.masked_fill(by_picture(params["keep_black"]) & (pictures < 0.5 / 255), 0)
        return torch.where(by_picture(params["invert"]), inverted, pictures)


class RandomGamma(Change):
    """Raise the grey values to a random power.

    Parameters
    ----------
    low, high : float
        Range of the exponent; its logarithm is drawn evenly.
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.bounds = torch.tensor([low, high]).log()

    def make_params(self, flat_inputs: list[Any]) -> Params:
        """Draw the exponent."""
        low, high = self.bounds
        return {"gamma": (low + (high - low) * torch.rand(())).exp()}

    def change(self, pictures: Tensor, params: Params) -> Tensor:
        """Raise."""
        return pictures ** by_picture(params["gamma"])


class Blur(Change):
    """torchvision's Gaussian blur of a grey picture, with its draws, by `kneel.engine.changes.blur`.

    Parameters
    ----------
    kernel_size : int
        Odd width of the kernel, pixels.
    sigma : (float, float)
        Range of the standard deviation, pixels.
    probability : float
        How often.
    """

    def __init__(self, kernel_size: int, sigma: tuple[float, float], probability: float = 1.0) -> None:
        super().__init__()
        self.kernel_size, self.sigma, self.probability = kernel_size, sigma, probability

    def make_params(self, flat_inputs: list[Any]) -> Params:
        """Draw the standard deviation; 0 for no blur."""
        if self.probability < 1 and torch.rand(()) >= self.probability:
            return {"sigma": torch.zeros(())}
        return {"sigma": torch.empty(1).uniform_(*self.sigma)[0]}

    def idle(self, params: Params) -> bool:
        """Say whether nothing is blurred."""
        return not params["sigma"]

    def change(self, pictures: Tensor, params: Params) -> Tensor:
        """Blur."""
        return blur(pictures, params["sigma"], self.kernel_size)


class RandomNoise(Change):
    """Add Gaussian and salt-and-pepper noise of random strength.

    The noise itself comes from a seed that is drawn: the same on every CPU, another one on a GPU.

    Parameters
    ----------
    sigma : float
        Largest standard deviation, as a share of the grey range.
    share : float
        Largest share of pixels set to 0 or 1.
    """

    def __init__(self, sigma: float, share: float) -> None:
        super().__init__()
        self.sigma, self.share = sigma, share

    def make_params(self, flat_inputs: list[Any]) -> Params:
        """Draw the seed and the strengths."""
        seed = torch.randint(2**62, ())
        return {"seed": seed, "sigma": self.sigma * torch.rand(()), "share": self.share * torch.rand(())}

    def change(self, pictures: Tensor, params: Params) -> Tensor:
        """Add it, each picture's own."""
        device = pictures.device
        sources = [torch.Generator(device).manual_seed(seed) for seed in params["seed"].tolist()]
        noise = torch.empty_like(pictures)
        if self.sigma:
            for own, source in zip(noise, sources, strict=True):
                own.normal_(generator=source)
            pictures = pictures + noise * by_picture(params["sigma"])
        if self.share:
            for own, source in zip(noise, sources, strict=True):
                own.uniform_(generator=source)
            half = by_picture(params["share"]) / 2
            pictures = pictures.masked_fill(noise < half, 0).masked_fill(noise > 1 - half, 1)
        return pictures.clamp(0, 1)


class Cutout(Change):
    """Hide a square of the picture behind grey (v2.RandomErasing warns about landmarks).

    Parameters
    ----------
    share : float
        Side of the square as a share of the shorter side of the picture.
    probability : float
        How often.
    """

    def __init__(self, share: float, probability: float = 1.0) -> None:
        super().__init__()
        self.share, self.probability = share, probability

    def make_params(self, flat_inputs: list[Any]) -> Params:
        """Draw whether and where."""
        if self.probability < 1 and torch.rand(()) >= self.probability:
            return {"box": torch.tensor([0, 0, -1, -1])}
        height, width = v2.query_size(flat_inputs)
        side = max(1, round(self.share * min(height, width)))
        top = int(torch.randint(height - side + 1, ()))
        left = int(torch.randint(width - side + 1, ()))
        return {"box": torch.tensor([left, top, left + side - 1, top + side - 1])}

    def idle(self, params: Params) -> bool:
        """Say whether nothing is hidden."""
        return bool(params["box"][2] < 0)

    def change(self, pictures: Tensor, params: Params) -> Tensor:
        """Hide."""
        return pictures.masked_fill(_inside(params["box"], pictures), 0.5)


def _inside(boxes: Tensor, pictures: Tensor) -> Tensor:
    """Say which pixels lie in boxes (B, 4): left, top, right, bottom, all of them inside; bool (B, 1, H, W)."""
    x, y = (torch.arange(pictures.shape[axis], device=pictures.device) for axis in (-1, -2))
    left, top, right, bottom = boxes[:, :, None].unbind(1)
    across, down = (x >= left) & (x <= right), (y >= top) & (y <= bottom)
    return down[:, None, :, None] & across[:, None, None, :]
