"""Building blocks of the hourglass network (Tiulpin, Melekhov, Saarakkala, ICCVW 2019).

Module names follow the authors' released state dicts, so that their weights load as they are.
Shapes: B batch, C channels, H x W feature map.
"""

from __future__ import annotations

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


class MultiScaleBlock(nn.Module):
    """Hierarchical, parallel, multi-scale residual block.

    Three 3x3 convolutions in a row; their outputs, seen at three receptive fields, are concatenated and added to the
    skip connection.

    Parameters
    ----------
    channels, out_channels : int
        Widths before and after.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        half, quarter = out_channels // 2, out_channels // 4
        self.scale1 = conv_bn(channels, half)
        self.scale2 = conv_bn(half, quarter)
        self.scale3 = conv_bn(quarter, out_channels - half - quarter, relu=False)
        self.skip = conv_bn(channels, out_channels, relu=False) if channels != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out_channels, H, W)."""
        first = self.scale1(x)
        second = self.scale2(first)
        third = self.scale3(second)
        return torch.cat([first, second, third], dim=1) + self.skip(x)
