"""Landmark losses over points that may be out of the picture.

Shapes: B knees, M landmarks.
"""

from __future__ import annotations

import math

from torch import Tensor


def wing(prediction: Tensor, target: Tensor, *, width: float = 15.0, curvature: float = 3.0) -> Tensor:
    """Wing loss of each coordinate: logarithmic within `width` of the truth, linear beyond.

    Parameters
    ----------
    prediction, target : Tensor, shape (B, M, 2)
        Points, in the unit of `width`.
    width : float
        w: where the logarithm ends.
    curvature : float
        Epsilon: how steep the loss is at 0, w / epsilon.

    Returns
    -------
    Tensor, shape (B, M, 2)
        At least 0.

    References
    ----------
    Feng et al., Wing Loss for Robust Facial Landmark Localisation with Convolutional Neural Networks, CVPR 2018,
    eq. (5).
    """
    error = (prediction - target).abs()
    offset = width - width * math.log1p(width / curvature)
    return (width * (error / curvature).log1p()).where(error < width, error - offset)


def visible_mean(loss: Tensor, visible: Tensor) -> Tensor:
    """Mean of a loss over the points inside the picture.

    Parameters
    ----------
    loss : Tensor, shape (B, M, 1 or 2)
        Loss of each point or coordinate.
    visible : Tensor, shape (B, M), bool
        Which points count.

    Returns
    -------
    Tensor, shape ()
        0 where no point counts.
    """
    weight = visible.unsqueeze(-1).to(loss.dtype).expand_as(loss)
    return (loss * weight).sum() / weight.sum().clamp(min=1)
