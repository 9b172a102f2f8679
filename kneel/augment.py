"""Augmentation of a picture together with its landmarks, in `torchvision.transforms.v2`.

All randomness is torch's global generator, which the training engine seeds.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import AfterValidator, Field
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from kneel.engine.config import Settings


def _rising(bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    if not 0 < low <= high:
        raise ValueError("must be two positive numbers, the smaller one first")
    return bounds


Range = Annotated[tuple[float, float], AfterValidator(_rising)]


class AugmentSettings(Settings):
    """The ``augment:`` part of a landmark experiment; the defaults change nothing.

    Attributes
    ----------
    flip : float
        Probability of a left-right flip. Only for the joint centre: 16 points have a lateral and a medial end.
    rotation : float
        Largest rotation either way, degrees.
    scale : (float, float)
        Range of magnification.
    shear : float
        Largest horizontal shear either way, degrees.
    shift : float
        Largest shift either way, as a share of the picture.
    window : float
        Probability that all outside a random rectangle around the landmarks goes dark, as under collimation.
    invert : float
        Probability that bone goes dark. In every second such picture black stays black, as outside a film.
    gamma : (float, float)
        Range of the exponent of the grey values.
    noise : float
        Largest standard deviation of additive noise, as a share of the grey range.
    salt_pepper : float
        Largest share of pixels set to black or white.
    blur : float
        Largest standard deviation of a Gaussian blur, pixels.
    cutout : float
        Side of a grey square that hides part of the picture in every second sample, as a share of the picture.
    jitter : float
        Standard deviation of noise on the target points, pixels.
    """

    flip: float = Field(0.0, ge=0, le=1)
    rotation: float = Field(0.0, ge=0, le=180)
    scale: Range = (1.0, 1.0)
    shear: float = Field(0.0, ge=0, lt=90)
    shift: float = Field(0.0, ge=0, le=1)
    window: float = Field(0.0, ge=0, le=1)
    invert: float = Field(0.0, ge=0, le=1)
    gamma: Range = (1.0, 1.0)
    noise: float = Field(0.0, ge=0, le=1)
    salt_pepper: float = Field(0.0, ge=0, le=1)
    blur: float = Field(0.0, ge=0)
    cutout: float = Field(0.0, ge=0, lt=1)
    jitter: float = Field(0.0, ge=0)


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


def training_transform(settings: AugmentSettings, size: tuple[int, int]) -> v2.Compose:
    """Compose the augmentation of training pictures.

    Parameters
    ----------
    settings : AugmentSettings
        What to vary and how much.
    size : (int, int)
        Width and height of the outcome, pixels: the middle of the moved picture, with black around small ones.

    Returns
    -------
    v2.Compose
        (Image uint8 (1, H, W), KeyPoints (M, 2)) -> (Image float32 (1, h, w) in [0, 1], KeyPoints), some of them
        perhaps outside.
    """
    s = settings
    steps: list[torch.nn.Module] = [
        v2.ToDtype(torch.float32, scale=True),
        Middle(size, crop=False),
    ]  # small pictures: a zoom would cut them at their own borders
    if s.flip:
        steps.append(v2.RandomHorizontalFlip(s.flip))
    if s.rotation or s.shear or s.shift or s.scale != (1.0, 1.0):
        steps.append(
            PixelCentred(
                v2.RandomAffine(
                    s.rotation,
                    translate=(s.shift, s.shift),
                    scale=s.scale,
                    shear=(-s.shear, s.shear),
                    interpolation=v2.InterpolationMode.BILINEAR,
                )
            )
        )
    # last, so that rotations and shifts bring in what lies around the window, where the picture has it
    steps.append(Middle(size))
    if s.window:
        steps.append(RandomWindow(s.window))
    if s.invert:
        steps.append(RandomPolarity(s.invert))
    if s.gamma != (1.0, 1.0):
        steps.append(RandomGamma(*s.gamma))
    if s.blur:
        reach = 2 * int(2 * s.blur + 0.5) + 1
        steps.append(v2.RandomApply([v2.GaussianBlur(reach, (0.05, s.blur))], 0.3))
    if s.noise or s.salt_pepper:
        steps.append(RandomNoise(s.noise, s.salt_pepper))
    if s.cutout:
        steps.append(v2.RandomApply([Cutout(s.cutout)], 0.5))
    if s.jitter:
        steps.append(TargetJitter(s.jitter))
    return v2.Compose(steps)


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


def validation_transform(size: tuple[int, int]) -> v2.Compose:
    """Compose the fixed preparation of validation pictures.

    Parameters
    ----------
    size : (int, int)
        Width and height of the outcome, pixels; the middle of the picture is kept, black is added around small ones.

    Returns
    -------
    v2.Compose
        As from `training_transform`, without randomness.
    """
    return v2.Compose([v2.ToDtype(torch.float32, scale=True), Middle(size)])
