"""A narrow residual network for the whole joint, trained from random weights.

Dimensions: B knees, N base width.
"""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from deepknee.model import GRADES, GradingNet, resized


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around which the input is added (He et al. 2016).

    Written here, as torchvision is slow to load and its ResNet is 64 channels wide at least.

    Parameters
    ----------
    channels, out
        Channels of input and output.
    stride
        Of the first convolution; the way around it is averaged by as much (He et al. 2019, ResNet-D).
    """

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        last = nn.BatchNorm2d(out)
        nn.init.zeros_(last.weight)  # a block begins as the identity
        conv = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.body = nn.Sequential(*_conv(channels, out, stride), nn.ReLU(inplace=True), conv, last)
        self.around = nn.Sequential()
        if stride > 1:
            self.around.append(nn.AvgPool2d(stride, ceil_mode=True))
        if channels != out:
            self.around.extend([nn.Conv2d(channels, out, kernel_size=1, bias=False), nn.BatchNorm2d(out)])

    def forward(self, maps: Tensor) -> Tensor:
        """Return feature maps (B, out, h, w)."""
        return functional.relu(self.body(maps) + self.around(maps))


class ResNet18(GradingNet):
    """Grade a knee from one picture of the whole joint.

    Parameters
    ----------
    width
        Channels N of the first stage; the four stages have N, 2 N, 4 N and 8 N.
    dropout
        Share of the 16 N pooled features that is dropped in training.
    input_px
        Width to which pictures are resized; the height follows.

    Notes
    -----
    The layout is that of ResNet-18 with the stem and the way around of ResNet-D. The lateral and the medial half of the
    last maps are pooled apart, so that it can tell where the joint space is lost.
    """

    def __init__(self, *, width: int = 24, dropout: float = 0.2, input_px: int = 144) -> None:
        super().__init__()
        self.input_px = input_px
        stem = [*_conv(1, width // 2, 2), nn.ReLU(inplace=True), *_conv(width // 2, width), nn.ReLU(inplace=True)]
        self.stem = nn.Sequential(*stem, nn.MaxPool2d(3, stride=2, padding=1))
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        blocks = []
        for before, after in pairwise(widths):
            blocks += [ResidualBlock(before, after, after // before), ResidualBlock(after, after, 1)]
        self.body = nn.Sequential(*blocks)
        self.final = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * widths[-1], GRADES))

    def features(self, *pictures: Tensor) -> tuple[Tensor, ...]:
        """Return the last feature maps.

        Parameters
        ----------
        pictures : one Tensor, shape (B, 1, H, W)
            Standardised.

        Returns
        -------
        tuple of one Tensor, shape (B, 8 N, h, w)
            A 32nd of the resized picture, rounded up.
        """
        height, width = pictures[0].shape[-2:]
        picture = resized(*pictures, size=(round(height * self.input_px / width), self.input_px))
        return (self.body(self.stem(picture)),)

    def judge(self, *maps: Tensor) -> Tensor:
        """Return the logits (B, 5) of feature maps."""
        return self.final(functional.adaptive_avg_pool2d(maps[0], (1, 2)).flatten(1))


def _conv(channels: int, out: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out)]
