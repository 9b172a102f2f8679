"""From an 8-bit ROI to the pictures that a network reads, with random changes.

What is drawn is drawn for one knee, on the CPU, from torch's global generator, which the engine seeds for every sample.
What is then done is the same for one knee and for a batch on any device. Draws and changes are those of
`torchvision.transforms.v2`, whose transforms change whole batches in one and the same way.

Dimensions: B knees, S ROI pixels.
"""

import math
from typing import Any, NamedTuple, Self

import cv2
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import grid_sample
from torch.utils.data import default_collate

from deepknee.views import View
from kneel.engine.changes import blur, by_picture
from kneel.engine.config import Settings

Range = tuple[float, float]


class Augmentation(Settings):
    """How far training pictures are changed; every draw is uniform in its range.

    Attributes
    ----------
    brightness, contrast
        Factors, of which now one, now the other comes first; contrast is around the mean of the ROI. What then lies
        beyond black or white is cut off.
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


class Draws(NamedTuple):
    """What is drawn for a knee, as numbers, or for a batch, as tensors (B,).

    Attributes
    ----------
    right, down
        How far the crop moves, in ROI pixels.
    sigma
        Standard deviation of the blur, in ROI pixels; 0 for none.
    brighten_first
        Whether brightness comes before contrast.
    brightness, contrast, gamma, scale
        As in `Augmentation`.
    turn_deg
        Clockwise as seen.
    """

    right: Any
    down: Any
    sigma: Any
    brighten_first: Any
    brightness: Any
    contrast: Any
    turn_deg: Any
    scale: Any
    gamma: Any


class TrainingPictures:
    """Random pictures of ROIs: at once for one of them, or drawn for each and made for a batch.

    Parameters
    ----------
    view
        What the network sees of a ROI.
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
        self.augmentation, self._side, self._height = augmentation, geometry.roi_px, view.size[0]
        # which pixels of the ROI the network sees, (h, w): of all pictures of a knee, one below the other
        self._seen = torch.cat(view.cut(torch.arange(self._side**2).view(self._side, self._side)))
        x, y = self._seen % self._side, self._seen // self._side
        self._from_middle = torch.complex(x - (self._side - 1) / 2, y - (self._side - 1) / 2)

    def __call__(self, roi: Tensor) -> tuple[Tensor, ...]:
        """Draw and make the pictures of one knee.

        Parameters
        ----------
        roi : Tensor, shape (1, S, S), uint8
            The ROI.

        Returns
        -------
        tuple of Tensor, shapes (1, rows, columns), float32
            In [0, 1], not standardised: lateral and mirrored medial patch, or one window.
        """
        return tuple(picture[0] for picture in self.make(*default_collate([self.draw(roi)])))

    def draw(self, roi: Tensor) -> tuple[Tensor, Draws]:
        """Draw what calling would draw, and compress; leave to `make` what else is done to the ROI.

        Parameters
        ----------
        roi : Tensor, shape (1, S, S), uint8
            The ROI.

        Returns
        -------
        roi : Tensor, shape (1, S, S), uint8
            Compressed as JPEG and decompressed, if so drawn: a codec works on one picture, on the CPU.
        draws : Draws of numbers
            What can be stacked for `make`.
        """
        a = self.augmentation
        right, down = torch.randint(-a.jitter_px, a.jitter_px + 1, (2,)).tolist()
        if a.jpeg is not None and _every_other():
            roi = _compressed(roi, int(torch.randint(a.jpeg[0], a.jpeg[1] + 1, ())))
        sigma = _uniform(1e-3, a.blur_px) if a.blur_px and _every_other() else 0.0
        order = torch.randperm(4).tolist()  # torchvision's ColorJitter has four changes, of which these are two
        brightness, contrast = _factor(a.brightness), _factor(a.contrast)
        turn = _uniform(-a.rotation_deg, a.rotation_deg)
        if a.scale == (1.0, 1.0):
            turn = -turn  # torchvision's RandomRotation turns the other way than its RandomAffine
        scale, gamma = _factor(a.scale), _uniform(*a.gamma)
        first = order.index(0) < order.index(1)
        return roi, Draws(right, down, sigma, first, brightness, contrast, turn, scale, gamma)

    def make(self, rois: Tensor, draws: Draws) -> tuple[Tensor, ...]:
        """Make what was drawn, on the device where the ROIs are.

        Parameters
        ----------
        rois : Tensor, shape (B, 1, S, S), uint8
            From `draw`, stacked.
        draws : Draws of Tensor, shapes (B,)
            From `draw`, stacked.

        Returns
        -------
        tuple of Tensor, shapes (B, 1, rows, columns), float32
            What calling gives, to rounding.

        Raises
        ------
        ValueError
            The ROIs have another size.
        """
        if tuple(rois.shape[-2:]) != (self._side, self._side):
            raise ValueError(f"ROIs have shape {tuple(rois.shape)}: must end in {self._side} x {self._side}")
        greys, largest = rois.float().div_(255), self.augmentation.blur_px
        if largest:
            greys = blur(greys, draws.sigma, 2 * math.ceil(3 * largest) + 1)
        seen = self._cut(self._recoloured(greys, draws), draws) ** by_picture(draws.gamma.to(greys))
        return seen.split(self._height, dim=-2)

    def _recoloured(self, greys: Tensor, draws: Draws) -> Tensor:
        """Change brightness and contrast of whole ROIs, in the order drawn for each; the given greys are lost."""
        brightness, contrast = by_picture(draws.brightness.to(greys)), by_picture(draws.contrast.to(greys))
        first, varied = by_picture(draws.brighten_first), self.augmentation.brightness != _SAME
        if varied:
            greys.mul_(torch.where(first, brightness, 1)).clamp_(0, 1)
        if self.augmentation.contrast != _SAME:
            mean = greys.mean((1, 2, 3), keepdim=True)
            greys.mul_(contrast).add_((1 - contrast) * mean).clamp_(0, 1)
        if varied:
            greys.mul_(torch.where(first, 1, brightness)).clamp_(0, 1)
        return greys

    def _cut(self, greys: Tensor, draws: Draws) -> Tensor:
        """Look up the pixels that the network sees, (B, 1, h, w): those of the moved crop in the turned, scaled ROI."""
        if not self.augmentation.rotation_deg and self.augmentation.scale == _SAME:
            places = self._seen.to(greys.device) + (draws.right + self._side * draws.down)[:, None, None]
            return greys.flatten(1).gather(1, places.flatten(1)).view(-1, 1, *self._seen.shape)
        # what is found x + iy from the middle has come from (x + iy) exp(-i turn) / scale; not by a matrix product,
        # which on a GPU may be in TF32 and a tenth of a pixel off
        shift = torch.complex(*(by.to(greys)[:, None, None] for by in (draws.right, draws.down)))
        back = torch.polar(1 / draws.scale, -draws.turn_deg.deg2rad()).to(shift)[:, None, None]
        source = torch.view_as_real((self._from_middle.to(shift.device) + shift) * back)
        found = grid_sample(greys, source * (2 / self._side), "bilinear", "zeros", align_corners=False)
        # what fades to black at the border fades once more: torchvision multiplies by what it makes of a white ROI
        fading = ((self._side + 1) / 2 - source.abs()).clamp_(0, 1)
        return found.mul_((fading[..., 0] * fading[..., 1])[:, None])


_SAME = (1.0, 1.0)


def _every_other() -> bool:
    return bool(torch.rand(1) < 0.5)


def _factor(bounds: Range) -> float:
    return 1.0 if bounds == _SAME else _uniform(*bounds)


def _uniform(low: float, high: float) -> float:
    return float(torch.empty(()).uniform_(low, high))


def _compressed(roi: Tensor, quality: int) -> Tensor:
    """Compress as JPEG and decompress (OpenCV; torchvision's own is going to be removed)."""
    _, code = cv2.imencode(".jpg", roi[0].numpy(), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return torch.from_numpy(cv2.imdecode(code, cv2.IMREAD_GRAYSCALE))[None]
