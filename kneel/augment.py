"""Augmentation of a picture together with its landmarks, in `torchvision.transforms.v2`.

All randomness is torch's global generator, which the training engine seeds.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import AfterValidator, Field
from torchvision.transforms import v2

from kneel.augment_geometry import Middle, PixelCentred, TargetJitter
from kneel.augment_intensity import Blur, Cutout, RandomGamma, RandomNoise, RandomPolarity, RandomWindow
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
        steps.append(v2.RandomApply([Blur(reach, (0.05, s.blur))], 0.3))
    if s.noise or s.salt_pepper:
        steps.append(RandomNoise(s.noise, s.salt_pepper))
    if s.cutout:
        steps.append(v2.RandomApply([Cutout(s.cutout)], 0.5))
    if s.jitter:
        steps.append(TargetJitter(s.jitter))
    return v2.Compose(steps)


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
