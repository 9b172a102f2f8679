"""Augmentation of a picture together with its landmarks, in `torchvision.transforms.v2`.

All randomness is torch's global generator, which the training engine seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, Field
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from kneel.augment_geometry import Middle, PixelCentred, TargetJitter, follow, warp
from kneel.augment_intensity import Blur, Change, Cutout, RandomGamma, RandomNoise, RandomPolarity, RandomWindow
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


class TrainingTransform:
    """The augmentation of training pictures: at once for one picture, or drawn for each and made for a batch.

    Parameters
    ----------
    settings : AugmentSettings
        What to vary and how much.
    size : (int, int)
        Width and height of the outcome, pixels: the middle of the moved picture, with black around small ones.
    """

    def __init__(self, settings: AugmentSettings, size: tuple[int, int]) -> None:
        self.size = size
        moves = _moves(settings, size)
        self.bends = any(isinstance(move, PixelCentred) for move in moves)  # by parts of pixels
        self._moves, self._changes = v2.Compose(moves), _changes(settings)
        self._jitter = [TargetJitter(settings.jitter)] if settings.jitter else []
        self._whole = v2.Compose([v2.ToDtype(torch.float32, scale=True), *moves, *self._changes, *self._jitter])

    def __call__(self, image: tv_tensors.Image, points: tv_tensors.KeyPoints) -> tuple[Any, Any]:
        """Augment one picture with its points.

        Parameters
        ----------
        image : Image, shape (1, H, W), uint8
            The picture.
        points : KeyPoints, shape (M, 2)
            Its landmarks, pixels.

        Returns
        -------
        image : Image, shape (1, h, w), float32
            In [0, 1].
        points : KeyPoints, shape (M, 2)
            In pixels of the outcome, some of them perhaps outside.
        """
        return self._whole(image, points)

    def draw(
        self, image: tv_tensors.Image, points: tv_tensors.KeyPoints
    ) -> tuple[Tensor, Tensor, dict[str, dict[str, Tensor]]]:
        """Draw what calling would draw, and move the points; leave to `make` what is done to the picture.

        Parameters
        ----------
        image, points
            As for a call.

        Returns
        -------
        image : Tensor, uint8
            As it was; of the outcome's size if it is moved by whole pixels at most.
        points : Tensor, shape (M, 2), float32
            In pixels of the outcome.
        drawn : dict of dict of Tensor
            What can be stacked for `make`.
        """
        drawn: dict[str, dict[str, Tensor]] = {}
        if self.bends:
            points, matrix = follow(self._moves, points)
            drawn["warp"] = {"matrix": matrix}
        else:
            image, points = self._moves(image, points)
        drawn |= {str(number): change.make_params([points]) for number, change in enumerate(self._changes)}
        for jitter in self._jitter:
            points = jitter(points)
        return image.as_subclass(Tensor), points.as_subclass(Tensor).float(), drawn

    def make(self, pictures: Tensor, drawn: dict[str, dict[str, Tensor]]) -> Tensor:
        """Make what was drawn, on the device where the pictures are.

        Parameters
        ----------
        pictures : Tensor, shape (B, 1, H, W), uint8
            With black on the right and below those that are smaller than others.
        drawn : dict of dict of Tensor
            From `draw`, stacked.

        Returns
        -------
        Tensor, shape (B, 1, h, w), float32
            In [0, 1]: what calling gives, to 1e-3, but for noise on a GPU, whose numbers are others.
        """
        pictures = pictures.float() / 255
        if self.bends:
            pictures = warp(pictures, drawn["warp"]["matrix"], self.size)
        for number, change in enumerate(self._changes):
            pictures = change.change(pictures, drawn[str(number)])
        return pictures


def _moves(settings: AugmentSettings, size: tuple[int, int]) -> list[v2.Transform]:
    s = settings
    steps: list[v2.Transform] = [Middle(size, crop=False)]  # a zoom would cut small pictures at their own borders
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
                    fill=None,  # black, without torchvision's mask that darkens the outermost pixels once more
                )
            )
        )
    # last, so that rotations and shifts bring in what lies around the window, where the picture has it
    return [*steps, Middle(size)]


def _changes(settings: AugmentSettings) -> Sequence[Change]:
    s = settings
    steps: list[Change] = []
    if s.window:
        steps.append(RandomWindow(s.window))
    if s.invert:
        steps.append(RandomPolarity(s.invert))
    if s.gamma != (1.0, 1.0):
        steps.append(RandomGamma(*s.gamma))
    if s.blur:
        steps.append(Blur(2 * int(2 * s.blur + 0.5) + 1, (0.05, s.blur), probability=0.3))
    if s.noise or s.salt_pepper:
        steps.append(RandomNoise(s.noise, s.salt_pepper))
    if s.cutout:
        steps.append(Cutout(s.cutout, probability=0.5))
    return steps


def validation_transform(size: tuple[int, int]) -> v2.Compose:
    """Compose the fixed preparation of validation pictures.

    Parameters
    ----------
    size : (int, int)
        Width and height of the outcome, pixels; the middle of the picture is kept, black is added around small ones.

    Returns
    -------
    v2.Compose
        (Image uint8 (1, H, W), KeyPoints (M, 2)) -> (Image float32 (1, h, w) in [0, 1], KeyPoints), some of them
        perhaps outside.
    """
    return v2.Compose([v2.ToDtype(torch.float32, scale=True), Middle(size)])
