"""The network as it is used: grey pictures in, points in pixels of the picture out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from kneel.codec import SoftArgmax
from kneel.engine.config import Settings
from kneel.hourglass import STRIDE, BlockName, HourglassNet

CRITERION = "criterion"  # name under which a loss that learns is trained along with the network


class HourglassSettings(Settings):
    """The ``model:`` part of a landmark experiment; see `kneel.hourglass.HourglassNet`.

    Attributes
    ----------
    width : int
        Base width N.
    depth : int
        How many times the hourglass halves its map.
    block : {"multiscale", "regular"}
        Multi-scale or bottleneck blocks.
    se_ratio : int or None
        Ratio of the squeeze-and-excitation in every block, or none.
    dropout : float
        Share of channels dropped before the mixer convolutions.
    channels : int
        1, or 3 for weights that expect the grey picture three times.
    align_corners : bool
        True only for the authors' weights.
    grid : {"center", "corner"}
        Soft-argmax grid; ``"corner"`` only for the authors' weights.
    """

    width: int = Field(24, ge=4)
    depth: int = Field(4, ge=1, le=6)
    block: BlockName = "multiscale"
    se_ratio: int | None = Field(None, ge=2)
    dropout: float = Field(0.25, ge=0, lt=1)
    channels: Literal[1, 3] = 1
    align_corners: bool = False
    grid: Literal["center", "corner"] = "center"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.se_ratio is not None and self.se_ratio > 2 * self.width:
            raise ValueError(f"se_ratio = {self.se_ratio}: must not be above twice the width, {2 * self.width}")
        return self


class Located(NamedTuple):
    """Points of a batch of B pictures, M landmarks each.

    Attributes
    ----------
    points : Tensor, shape (B, M, 2)
        (x, y) in pixels of the picture.
    spread : Tensor, shape (B, M)
        Root mean square radius of the heat map around the point, pixels.
    """

    points: Tensor
    spread: Tensor


class LandmarkNet(nn.Module):
    """Hourglass with its normalisation in front and its soft-argmax behind.

    Parameters
    ----------
    landmarks : int
        1 (joint centre) or 16.
    mean, std : float
        Of the training pictures, on the [0, 1] scale.
    settings : HourglassSettings
        Architecture.
    """

    def __init__(self, *, landmarks: int, mean: float, std: float, settings: HourglassSettings) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        self.channels = settings.channels
        # the authors' networks were trained on 450 pixels as they are: they answer for W / (W // 4) pixels a cell
        self.multiple = STRIDE * 2**settings.depth if settings.grid == "center" else 1
        self.codec = SoftArgmax(settings.grid)
        self.net = HourglassNet(
            landmarks=landmarks,
            channels=settings.channels,
            width=settings.width,
            depth=settings.depth,
            block=settings.block,
            se_ratio=settings.se_ratio,
            dropout=settings.dropout,
            align_corners=settings.align_corners,
        ).to(memory_format=torch.channels_last)  # the layout that CPUs with bfloat16 units and tensor cores convolve in

    def forward(self, pictures: Tensor) -> Located:
        """Locate the landmarks.

        Parameters
        ----------
        pictures : Tensor, shape (B, 1, H, W)
            Grey pictures in [0, 1]; any size.

        Returns
        -------
        Located
            In pixels of the pictures.
        """
        height, width = pictures.shape[-2:]
        # whole cells at every depth: padding to the right and below leaves all coordinates as they are
        padded = F.pad(pictures, (0, -width % self.multiple, 0, -height % self.multiple))
        size = padded.shape[-1], padded.shape[-2]
        x = ((padded - self.mean) / self.std).expand(-1, self.channels, -1, -1)
        heatmaps = self.net(x)
        points = self.codec.to_pixels(self.codec.decode(heatmaps), size)
        return Located(points, self.codec.spread(heatmaps, size))


def build_network(arguments: dict) -> LandmarkNet:
    """Make the network that a snapshot describes.

    Parameters
    ----------
    arguments : dict
        ``landmarks``, ``mean``, ``std`` and ``settings``, as `network_arguments` gives them.

    Returns
    -------
    LandmarkNet
        Untrained.
    """
    return LandmarkNet(**{**arguments, "settings": HourglassSettings(**arguments["settings"])})


def network_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out what a loss learnt beside the network.

    Parameters
    ----------
    weights : mapping of str to Tensor
        Of a snapshot.

    Returns
    -------
    dict of str to Tensor
        What `build_network`'s network loads.
    """
    return {name: value for name, value in weights.items() if not name.startswith(f"{CRITERION}.")}


def network_arguments(landmarks: int, mean: float, std: float, settings: HourglassSettings) -> dict:
    """Describe a network so that JSON can carry it; the inverse of `build_network`.

    Parameters
    ----------
    landmarks, mean, std, settings
        As in `LandmarkNet`.

    Returns
    -------
    dict
        Plain values.
    """
    return {"landmarks": landmarks, "mean": mean, "std": std, "settings": settings.model_dump()}
