"""The Siamese network of Tiulpin et al. 2018 (Scientific Reports 8:1727).

Dimensions: B knees, N base width, P patch pixels, K grades.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

GRADES = 5
MIN_PATCH = 49  # pixels; of a smaller patch nothing is left after the last convolution


class Branch(nn.Module):
    """Six 3 x 3 convolutions that turn a patch into feature maps, the same for both compartments.

    Parameters
    ----------
    width
        Channels N of the first block; the last has 4 N.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block1 = nn.Sequential(_conv(1, width, stride=2), _conv(width, width), _conv(width, width))
        self.block2 = nn.Sequential(_conv(width, 2 * width), _conv(2 * width, 2 * width))
        self.block3 = _conv(2 * width, 4 * width)

    def forward(self, patches: Tensor) -> Tensor:
        """Return the last feature maps, before they are pooled.

        Parameters
        ----------
        patches : Tensor, shape (B, 1, P, P)
            Standardised patches.

        Returns
        -------
        Tensor, shape (B, 4 N, h, w)
            10 x 10 maps for patches of 128 x 128.
        """
        features = functional.max_pool2d(self.block1(patches), 2)
        features = functional.max_pool2d(self.block2(features), 2)
        return self.block3(features)


class GradingNet(nn.Module, ABC):
    """What every network that grades can do; see `deepknee.networks` for the kinds.

    It sees one or more pictures of a knee, of which it makes feature maps, and judges these.
    """

    def forward(self, *pictures: Tensor) -> Tensor:
        """Return the logits, and behind them whatever else the loss of its kind needs: (B, K or more)."""
        return self.judge(*self.features(*pictures))

    @abstractmethod
    def features(self, *pictures: Tensor) -> tuple[Tensor, ...]:
        """Return the last feature maps (B, C, h, w) of every picture (B, 1, H, W): those that attention explains."""

    @abstractmethod
    def judge(self, *maps: Tensor) -> Tensor:
        """Return the logits (B, K) of the feature maps."""


class KneeNet(GradingNet):
    """Grade a knee from its lateral and its mirrored medial patch, read by one branch.

    Module names and shapes are those of the authors' weights, which load with ``strict=True`` once ``module.`` is
    taken off their keys.

    Parameters
    ----------
    width
        Channels N of the first block.
    dropout
        Share of the 8 N pooled features that is dropped in training.
    grades
        Number of grades K.

    Notes
    -----
    Both patches go through the branch as one batch, so in training the batch statistics are those of both
    compartments together, which are also the running statistics that evaluation uses.
    """

    def __init__(self, *, width: int = 64, dropout: float = 0.2, grades: int = GRADES) -> None:
        super().__init__()
        self.branch = Branch(width)
        self.final = nn.Sequential(nn.Dropout(dropout), nn.Linear(8 * width, grades))
        self.apply(_initialise)

    def features(self, *pictures: Tensor) -> tuple[Tensor, ...]:
        """Return the last feature maps of both compartments.

        Parameters
        ----------
        pictures : two Tensors, shapes (B, 1, P, P)
            The lateral and the medial patch, standardised; medial mirrored.

        Returns
        -------
        tuple of two Tensors, shapes (B, 4 N, h, w)
        """
        lateral, medial = pictures
        both = self.branch(torch.cat([lateral, medial]))
        return both[: len(lateral)], both[len(lateral) :]

    def judge(self, *maps: Tensor) -> Tensor:
        """Return the logits (B, K) of the feature maps of both compartments."""
        return self.classify(*map(pool, maps))

    def classify(self, lateral: Tensor, medial: Tensor) -> Tensor:
        """Return the logits (B, K) of pooled features, shapes (B, 4 N)."""
        return self.final(torch.cat([lateral, medial], dim=1))


def resized(picture: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Resize pictures (B, 1, h, w) to rows and columns, without aliasing; those that have the size stay as they are."""
    if tuple(picture.shape[-2:]) == size:
        return picture
    return functional.interpolate(picture, size=size, mode="bilinear", antialias=True)


def pool(maps: Tensor) -> Tensor:
    """Return the mean of each feature map: (B, C, h, w) to (B, C)."""
    return maps.mean(dim=(-2, -1))


def _conv(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel_size=3, stride=stride), nn.BatchNorm2d(out, eps=1e-3), nn.ReLU(inplace=True)
    )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
