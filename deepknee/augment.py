"""From an 8-bit ROI to the pictures that a network reads, with and without random changes.

Randomness is torch's global generator, which the engine seeds for every epoch and worker.
"""

import math
from collections.abc import Iterator
from typing import Self

import cv2
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from deepknee.views import View
from kneel.engine.config import Settings
from kneel.imaging.blur import gaussian_blur

Range = tuple[float, float]


class Augmentation(Settings):
    """How far training pictures are changed; every draw is uniform in its range.

    Attributes
    ----------
    brightness, contrast
        Factors, as of `torchvision.transforms.v2.ColorJitter`.
    rotation_deg
        Largest turn to either side, around the middle of the ROI.
    gamma
        Exponents of the grey levels in [0, 1].
    scale
        Factors of the size, around the middle of the ROI.
    jitter_px
        Largest shift of the crop along either axis, in ROI pixels; at most the rim of the geometry.
    blur_px
        Largest standard deviation of a Gaussian blur, in ROI pixels, drawn for every other picture; 0 for none.
    jpeg
        JPEG qualities (1 to 100) at which every other picture is compressed; None for none.
    """

    brightness: Range = (0.7, 1.3)
    contrast: Range = (0.7, 1.3)
    rotation_deg: float = Field(15.0, ge=0, le=180)
    gamma: Range = (0.5, 1.5)
    scale: Range = (1.0, 1.0)
    jitter_px: int = Field(10, ge=0)
    blur_px: float = Field(0.0, ge=0)
    jpeg: tuple[int, int] | None = None

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        for name in ("brightness", "contrast", "gamma", "scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} = [{low}, {high}]: must be two rising numbers above 0")
        if self.jpeg is not None and not 1 <= self.jpeg[0] <= self.jpeg[1] <= 100:
            raise ValueError(f"jpeg = {list(self.jpeg)}: must be two rising qualities from 1 to 100")
        return self


class RandomGamma(v2.Transform):
    """Raise grey levels in [0, 1] to a random power.

    Parameters
    ----------
    gamma
        Smallest and largest exponent.
    """

    def __init__(self, gamma: Range) -> None:
        super().__init__()
        self.gamma = gamma

    def make_params(self, flat_inputs: list) -> dict[str, float]:
        """Draw the exponent."""
        return {"gamma": _uniform(*self.gamma)}

    def transform(self, inpt: Tensor, params: dict[str, float]) -> Tensor:
        """Apply it."""
        return functional.adjust_gamma(inpt, params["gamma"])


class RandomBlur(v2.Transform):
    """torchvision's Gaussian blur, with its draws, by `kneel.imaging.blur.gaussian_blur`.

    Parameters
    ----------
    largest
        Largest standard deviation in pixels; the kernel reaches three times as far.
    """

    def __init__(self, largest: float) -> None:
        super().__init__()
        self.largest, self.width = largest, 2 * math.ceil(3 * largest) + 1

    def make_params(self, flat_inputs: list) -> dict[str, float]:
        """Draw the standard deviation."""
        return {"sigma": _uniform(1e-3, self.largest)}

    def transform(self, inpt: Tensor, params: dict[str, float]) -> Tensor:
        """Apply it to (1, H, W) float32."""
        return torch.from_numpy(gaussian_blur(inpt[0].numpy(), self.width, params["sigma"]))[None]


class RandomJpeg(v2.Transform):
    """Compress as JPEG and decompress (OpenCV; torchvision's own is going to be removed).

    Parameters
    ----------
    quality
        Smallest and largest quality, 1 to 100.
    """

    def __init__(self, quality: tuple[int, int]) -> None:
        super().__init__()
        self.quality = quality

    def make_params(self, flat_inputs: list) -> dict[str, int]:
        """Draw the quality."""
        low, high = self.quality
        return {"quality": int(torch.randint(low, high + 1, ()))}

    def transform(self, inpt: Tensor, params: dict[str, int]) -> Tensor:
        """Apply it to (1, H, W) uint8."""
        _, code = cv2.imencode(".jpg", inpt[0].numpy(), [cv2.IMWRITE_JPEG_QUALITY, params["quality"]])
        return torch.from_numpy(cv2.imdecode(code, cv2.IMREAD_GRAYSCALE))[None]


class TrainingPictures:
    """Random pictures of a ROI.

    Parameters
    ----------
    view
        What the network sees of it.
    augmentation
        How far pictures are changed.

    Raises
    ------
    ValueError
        The jitter is wider than the rim around the crop.
    """

    def __init__(self, view: View, augmentation: Augmentation) -> None:
        geometry = view.geometry
        if augmentation.jitter_px > geometry.margin:
            raise ValueError(
                f"jitter_px = {augmentation.jitter_px}: must be at most {geometry.margin}, the rim that crop = "
                f"{geometry.crop} leaves in roi_px = {geometry.roi_px}"
            )
        self.view, self.jitter = view, augmentation.jitter_px
        self.change = v2.Compose(list(_changes(augmentation)))

    def __call__(self, roi: Tensor) -> tuple[Tensor, ...]:
        """Draw the pictures of one knee.

        Parameters
        ----------
        roi : Tensor, shape (1, S, S), uint8
            The ROI.

        Returns
        -------
        tuple of Tensor, shapes (1, rows, columns), float32
            In [0, 1], not standardised: lateral and mirrored medial patch, or one window.
        """
        right, down = torch.randint(-self.jitter, self.jitter + 1, (2,)).tolist()
        return self.view.cut(self.change(roi), (right, down))


def _changes(augmentation: Augmentation) -> Iterator[v2.Transform]:
    """Say what is done to a ROI (1, S, S) uint8, one after the other; it comes out as float32 in [0, 1]."""
    if augmentation.jpeg is not None:
        yield v2.RandomApply([RandomJpeg(augmentation.jpeg)])
    yield v2.ToDtype(torch.float32, scale=True)
    if augmentation.blur_px:
        yield v2.RandomApply([RandomBlur(augmentation.blur_px)])
    yield v2.ColorJitter(brightness=augmentation.brightness, contrast=augmentation.contrast)
    bilinear = v2.InterpolationMode.BILINEAR
    if augmentation.scale == (1.0, 1.0):
        yield v2.RandomRotation(augmentation.rotation_deg, bilinear)
    else:
        yield v2.RandomAffine(augmentation.rotation_deg, scale=augmentation.scale, interpolation=bilinear)
    yield RandomGamma(augmentation.gamma)


def _uniform(low: float, high: float) -> float:
    return float(torch.empty(()).uniform_(low, high))
