"""Building blocks of the hourglass network (Tiulpin, Melekhov, Saarakkala, ICCVW 2019).

Module names follow the authors' released state dicts, so that their weights load as they are. Of the multi-scale block
they were read from such a file; those of the bottleneck (``bottleneck``, ``conv``, ``out``) and of the
squeeze-and-excitation (``se_block.scorer.1``, ``.3``: 1x1 convolutions) are assumed from the authors' later release of
the same network, and the numbers of parameters agree with those counted in the original.
Shapes: B batch, C channels, H x W feature map.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


def conv_bn(channels: int, out_channels: int, kernel: int = 3, *, stride: int = 1, relu: bool = True) -> nn.Sequential:
    """Convolution that keeps the size, batch norm, and a ReLU or none.

    Parameters
    ----------
    channels, out_channels : int
        Widths before and after.
    kernel : int
        Odd kernel size; the padding is half of it.
    stride : int
        Stride of the convolution.
    relu : bool
        Whether a ReLU follows.

    Returns
    -------
    nn.Sequential
        (B, channels, H, W) -> (B, out_channels, H / stride, W / stride).
    """
    layers: list[nn.Module] = [
        nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2),
        nn.BatchNorm2d(out_channels),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


class SqueezeExcitation(nn.Module):
    """Weigh the channels by what the whole map holds (Hu, Shen, Sun, CVPR 2018).

    Parameters
    ----------
    channels : int
        Width C.
    ratio : int
        The bottleneck between the two layers has C / ratio units.
    """

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        if channels < ratio:
            raise ValueError(
                f"squeeze-and-excitation ratio {ratio}: must not be above the width of a block, {channels}"
            )
        self.scorer = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // ratio, 1),
            nn.ReLU(),
            nn.Conv2d(channels // ratio, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return x * self.scorer(x).sigmoid()


class ResidualBlock(nn.Module, ABC):
    """What the blocks share: a branch, squeezed and excited or not, plus a skip connection.

    Parameters
    ----------
    channels, out_channels : int
        Widths before and after; a convolution in the skip connection where they differ.
    se_ratio : int or None
        Ratio of a squeeze-and-excitation at the end of the branch, or none.
    """

    def __init__(self, channels: int, out_channels: int, se_ratio: int | None = None) -> None:
        super().__init__()
        self.skip = conv_bn(channels, out_channels, relu=False) if channels != out_channels else nn.Identity()
        self.se_block = nn.Identity() if se_ratio is None else SqueezeExcitation(out_channels, se_ratio)

    @abstractmethod
    def branch(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out_channels, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out_channels, H, W)."""
        return self.se_block(self.branch(x)) + self.skip(x)


class MultiScaleBlock(ResidualBlock):
    """Hierarchical, parallel, multi-scale block (Bulat, Tzimiropoulos, ICCV 2017).

    Three 3x3 convolutions in a row; their outputs, seen at three receptive fields, are concatenated.

    Parameters
    ----------
    channels, out_channels, se_ratio
        As in `ResidualBlock`.
    """

    def __init__(self, channels: int, out_channels: int, se_ratio: int | None = None) -> None:
        super().__init__(channels, out_channels, se_ratio)
        half, quarter = out_channels // 2, out_channels // 4
        self.scale1 = conv_bn(channels, half)
        self.scale2 = conv_bn(half, quarter)
        self.scale3 = conv_bn(quarter, out_channels - half - quarter, relu=False)

    def branch(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out_channels, H, W)."""
        first = self.scale1(x)
        second = self.scale2(first)
        return torch.cat([first, second, self.scale3(second)], dim=1)


class BottleneckBlock(ResidualBlock):
    """Bottleneck block of the regular hourglass: three convolutions, the middle one at half the width.

    All of them are 3x3: only so the network has the 6,958,480 parameters that were counted in the original.

    Parameters
    ----------
    channels, out_channels, se_ratio
        As in `ResidualBlock`.
    """

    def __init__(self, channels: int, out_channels: int, se_ratio: int | None = None) -> None:
        super().__init__(channels, out_channels, se_ratio)
        half = out_channels // 2
        self.bottleneck = conv_bn(channels, half)
        self.conv = conv_bn(half, half)
        self.out = conv_bn(half, out_channels, relu=False)

    def branch(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out_channels, H, W)."""
        return self.out(self.conv(self.bottleneck(x)))
