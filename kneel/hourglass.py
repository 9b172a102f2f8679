"""The hourglass landmark network of KNEEL (Tiulpin, Melekhov, Saarakkala, ICCVW 2019).

Module names follow the authors' released state dicts. The two "1x1" mixer convolutions of the paper's figure are 3x3 in
the released code; weights load only that way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kneel.blocks import BottleneckBlock, MultiScaleBlock, ResidualBlock, conv_bn

BlockName = Literal["multiscale", "regular"]
BLOCKS: dict[BlockName, type[ResidualBlock]] = {"multiscale": MultiScaleBlock, "regular": BottleneckBlock}
STRIDE = 4  # image pixels per heat-map cell


class Hourglass(nn.Module):
    """One recursion of the hourglass: a branch at this scale plus a branch at half of it.

    Parameters
    ----------
    depth : int
        How many times the map is halved.
    channels, out_channels : int
        Widths before and after.
    block : callable
        ``block(channels, out_channels)`` makes a block.
    align_corners : bool
        How the lower branch is brought back to size: the authors' network aligns the corner cells (True), which shifts
        cells by up to half a cell against the pooling; False is the inverse of the pooling.
    """

    def __init__(
        self,
        depth: int,
        channels: int,
        out_channels: int,
        *,
        block: Callable[[int, int], ResidualBlock],
        align_corners: bool,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.lower1 = block(channels, channels)
        self.lower2 = block(channels, channels)
        self.lower3 = block(channels, channels)
        self.lower4 = (
            Hourglass(depth - 1, channels, out_channels, block=block, align_corners=align_corners)
            if depth > 1
            else block(channels, out_channels)
        )
        self.lower5 = block(out_channels, out_channels)
        self.upper1 = block(channels, channels)
        self.upper2 = block(channels, channels)
        self.upper3 = block(channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out_channels, H, W)."""
        upper = self.upper3(self.upper2(self.upper1(x)))
        lower = self.lower3(self.lower2(self.lower1(F.max_pool2d(x, 2))))
        lower = self.lower5(self.lower4(lower))
        return upper + F.interpolate(lower, upper.shape[-2:], mode="bilinear", align_corners=self.align_corners)


class HourglassNet(nn.Module):
    """Grey image to one heat map a landmark.

    Parameters
    ----------
    landmarks : int
        Heat maps: 1 (joint centre) or 16.
    channels : int
        Image channels; the authors' weights expect the grey image three times.
    width : int
        Base width N; the hourglass works at 4 N and answers at 8 N.
    depth : int
        How many times the hourglass halves its map; the smallest map is the image / (4 * 2 ** depth).
    block : {"multiscale", "regular"}
        Multi-scale or bottleneck blocks.
    se_ratio : int or None
        Squeeze-and-excitation in every block with this ratio (the authors' is 16), or none.
    dropout : float
        Share of channels dropped before each mixer convolution while training.
    align_corners : bool
        See `Hourglass`; True for the authors' weights.
    """

    def __init__(
        self,
        *,
        landmarks: int,
        channels: int = 1,
        width: int = 24,
        depth: int = 4,
        block: BlockName = "multiscale",
        se_ratio: int | None = None,
        dropout: float = 0.25,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        n, make = width, partial(BLOCKS[block], se_ratio=se_ratio)
        self.layer1 = nn.Sequential(*conv_bn(channels, n, 7, stride=2), make(n, 2 * n))
        self.layer2 = nn.Sequential(make(2 * n, 2 * n), make(2 * n, 2 * n), make(2 * n, 4 * n))
        self.hourglass = Hourglass(depth, 4 * n, 8 * n, block=make, align_corners=align_corners)
        self.mixer = nn.Sequential(
            nn.Dropout2d(dropout), conv_bn(8 * n, 8 * n), nn.Dropout2d(dropout), conv_bn(8 * n, 4 * n)
        )
        self.out_block = nn.Sequential(nn.Conv2d(4 * n, landmarks, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W), normalised -> heat maps before softmax (B, landmarks, H / 4, W / 4)."""
        x = self.layer2(F.max_pool2d(self.layer1(x), 2))
        features = self.mixer(self.hourglass(x))
        # not in bfloat16 under autocast: its steps, 1/16 at 8 to 16, are what the cells around a peak differ by
        with torch.autocast(x.device.type, enabled=False):
            return self.out_block(features.to(self.out_block[0].weight.dtype))
