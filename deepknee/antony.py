"""The network of Antony et al. 2017, which classifies and regresses the grade at once: a baseline of 2018.

Dimensions: B knees.

References
----------
J. Antony, K. McGuinness, K. Moran, N. E. O'Connor. Automatic Detection of Knee Joints and Quantification of Knee
Osteoarthritis Severity using Convolutional Neural Networks. MLDM 2017, arXiv:1703.09856, section 3.4.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from deepknee.model import GRADES, GradingNet, resized

HEIGHT, WIDTH = 200, 300  # pixels of the input


class AntonyNet(GradingNet):
    """Grade a knee from a band of 200 x 300 pixels around the joint.

    The layers are those of the comparison of 2018; every convolution is followed by batch norm and ReLU, every group by
    3 x 3 max-pooling with stride 2:

    ========== =============================== ============
    group      convolutions                    maps after
    ========== =============================== ============
    block1     11 x 11, stride 2, 32           47 x 72
    block2     two 3 x 3, 64                   23 x 35
    block3     two 3 x 3, 96, dropout each     11 x 17
    fc         linear 17,952 -> 512, dropout
    heads      linear 512 -> 5, 512 -> 1
    ========== =============================== ============

    Parameters
    ----------
    dropout
        Share of activations dropped in training.
    """

    def __init__(self, *, dropout: float = 0.5) -> None:
        super().__init__()
        self.block1 = _conv(1, 32, 11, stride=2, padding=0)
        self.block2 = nn.Sequential(_conv(32, 64), _conv(64, 64))
        self.block3 = nn.Sequential(_conv(64, 96), nn.Dropout(dropout), _conv(96, 96), nn.Dropout(dropout))
        self.fc = nn.Sequential(nn.Linear(96 * 11 * 17, 512), nn.Dropout(dropout))
        self.classes, self.grade = nn.Linear(512, GRADES), nn.Linear(512, 1)

    def forward(self, *pictures: Tensor) -> Tensor:
        """Return the outputs of both heads.

        Parameters
        ----------
        pictures : one Tensor, shape (B, 1, H, W)
            Standardised; resized to 200 x 300 where they are not.

        Returns
        -------
        Tensor, shape (B, 6)
            The five logits, then the regressed grade.
        """
        return self._heads(*self.features(*pictures))

    def features(self, *pictures: Tensor) -> tuple[Tensor, ...]:
        """Return the last feature maps before they are pooled, one Tensor of shape (B, 96, 23, 35)."""
        picture = resized(*pictures, size=(HEIGHT, WIDTH))
        return (self.block3(_pool(self.block2(_pool(self.block1(picture))))),)

    def judge(self, *maps: Tensor) -> Tensor:
        """Return the logits (B, 5) of feature maps."""
        return self._heads(*maps)[:, :GRADES]

    def _heads(self, maps: Tensor) -> Tensor:
        hidden = self.fc(_pool(maps).flatten(1))
        return torch.cat([self.classes(hidden), self.grade(hidden)], dim=1)


def joint_loss(outputs: Tensor, grades: Tensor, classification: float = 0.5, labels: Tensor | None = None) -> Tensor:
    r"""Weigh the losses of both heads: :math:`a \, CE(z, y) + (1 - a) \, mean (g - y)^2`.

    The code of 2018 subtracted grades of shape (B,) from regressed ones of shape (B, 1), which compares every knee with
    every other: a matrix of (B, B) differences, of which the best that the head can do is the mean grade of the batch.

    Parameters
    ----------
    outputs : Tensor, shape (B, 6)
        Logits z and regressed grade g.
    grades : Tensor, shape (B,), int64
        True grades y.
    classification : float
        Weight a.
    labels : Tensor, shape (B, 5), optional
        Probabilities in place of y in the cross-entropy.

    Returns
    -------
    Tensor, scalar
    """
    regressed = outputs[:, GRADES]
    squared = functional.mse_loss(regressed, grades.to(regressed.dtype))
    entropy = functional.cross_entropy(outputs[:, :GRADES], grades if labels is None else labels)
    return classification * entropy + (1 - classification) * squared


def _conv(channels: int, out: int, kernel: int = 3, *, stride: int = 1, padding: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel, stride=stride, padding=padding), nn.BatchNorm2d(out), nn.ReLU(inplace=True)
    )


def _pool(maps: Tensor) -> Tensor:
    return functional.max_pool2d(maps, 3, stride=2)
