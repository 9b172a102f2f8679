"""Landmark losses over points that may be out of the picture.

Shapes: B knees, M landmarks. All of them in the unit of the points: pixels of the ROI in this project's experiments.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from scipy.integrate import quad
from scipy.interpolate import CubicSpline
from torch import Tensor, nn

from kneel.engine.config import Settings

LossKind = Literal["wing", "l1", "l2", "elastic", "robust"]
_ACTS_WITH: dict[str, LossKind] = {
    "width": "wing",
    "curvature": "wing",
    "l2_share": "elastic",
    "alpha_init": "robust",
    "scale_init": "robust",
}


class LossSettings(Settings):
    """The loss, in pixels of the ROI (see `kneel.losses`), and what sharpens the heat maps.

    The authors' code trains on shares of the picture instead, where errors never reach the width of their wing loss and
    it is all but L1: the numbers are theirs, the shape of the loss is that of Feng et al.'s paper.

    Attributes
    ----------
    kind : {"wing", "l1", "l2", "elastic", "robust"}
        Which.
    width : float
        Wing: where the logarithm ends, pixels.
    curvature : float
        Wing: steepness at 0, pixels.
    l2_share : float
        Elastic: weight of the square against that of the absolute value.
    alpha_init : float
        Robust: shape at the start, in (0, 2); learnt.
    scale_init : float
        Robust: scale at the start, pixels; learnt. The default is the authors' .01 of a ROI of 450 pixels.
    spread : float
        Weight of the heat maps' width in pixels. Soft-argmax alone leaves maps as wide as they like; narrow ones learn
        faster and say how sure they are (Nibali et al., arXiv:1801.07372, regularise the variance likewise). 0 is
        KNEEL's own loss.
    """

    kind: LossKind = "wing"
    width: float = Field(15.0, gt=0)
    curvature: float = Field(3.0, gt=0)
    l2_share: float = Field(0.5, ge=0, le=1)
    alpha_init: float = Field(1.0, gt=0, lt=2)
    scale_init: float = Field(4.5, gt=0)
    spread: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _no_idle_options(self) -> Self:
        """Refuse a parameter of another loss; its default does nothing, and stands in files of resolved settings."""
        for name in sorted(_ACTS_WITH):
            idle = type(self).model_fields[name].default
            if _ACTS_WITH[name] != self.kind and getattr(self, name) != idle:
                raise ValueError(
                    f"{name} = {getattr(self, name)} acts only with kind {_ACTS_WITH[name]}, not {self.kind}"
                )
        return self


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


def visible_mean(loss: Tensor, visible: Tensor, usual: Tensor | None = None) -> Tensor:
    """Mean of a loss over the points inside the picture.

    Parameters
    ----------
    loss : Tensor, shape (B, M, 1 or 2)
        Loss of each point or coordinate.
    visible : Tensor, shape (B, M), bool
        Which points count.
    usual : Tensor, shape (), optional
        Mean number of points that count in a sample, where these samples are a part of a larger batch: the means of its
        parts, weighted by their numbers of samples, then add up to that over all of its points.

    Returns
    -------
    Tensor, shape ()
        0 where no point counts.
    """
    weight = visible.unsqueeze(-1).to(loss.dtype).expand_as(loss)
    total = weight.sum() if usual is None else usual * len(loss) * loss.shape[-1]
    return (loss * weight).sum() / total.where(total > 0, 1)


def elastic(prediction: Tensor, target: Tensor, *, l2_share: float = 0.5) -> Tensor:
    """Elastic loss of each coordinate: ``(1 - l2_share) |e| + l2_share e^2``.

    Parameters
    ----------
    prediction, target : Tensor, shape (B, M, 2)
        Points.
    l2_share : float
        Weight of the square in [0, 1]; 0 is L1, 1 is L2.

    Returns
    -------
    Tensor, shape (B, M, 2)
        At least 0.
    """
    error = prediction - target
    return (1 - l2_share) * error.abs() + l2_share * error.square()


class RobustLoss(nn.Module):
    """General adaptive robust loss: a negative log likelihood whose shape and scale are learnt with the network.

    ``|a - 2| / a (((e / c)^2 / |a - 2| + 1)^(a / 2) - 1) + log c + log Z(a)`` for each coordinate, with its own shape
    ``a`` in (0, 2), from a Cauchy-like (0) to a Gaussian (2) tail, and its own scale ``c``.

    Parameters
    ----------
    landmarks : int
        M.
    alpha_init : float
        Shape at the start, in (0, 2).
    scale_init : float
        Scale at the start, in the unit of the points.

    References
    ----------
    Barron, A General and Adaptive Robust Loss Function, CVPR 2019, eq. (1), (15), (16).
    """

    def __init__(self, landmarks: int, *, alpha_init: float = 1.0, scale_init: float = 0.01) -> None:
        super().__init__()
        self.scale_init = scale_init
        # shape 2 sigmoid(.) and scale softplus(.) stay inside their ranges whatever the optimizer does
        start = math.log(alpha_init / (2 - alpha_init))
        self.latent_alpha = nn.Parameter(torch.full((landmarks, 2), start))
        self.latent_scale = nn.Parameter(torch.full((landmarks, 2), math.log(math.e - 1)))
        knots, coefficients = _log_partition()
        self.register_buffer("_knots", knots, persistent=False)
        self.register_buffer("_coefficients", coefficients, persistent=False)

    @property
    def alpha(self) -> Tensor:
        """Shape of each coordinate, (M, 2), in (0, 2)."""
        return (2 * self.latent_alpha.sigmoid()).clamp(_ALPHA_RIM, 2 - _ALPHA_RIM)

    @property
    def scale(self) -> Tensor:
        """Scale of each coordinate, (M, 2), in the unit of the points."""
        return self.scale_init * F.softplus(self.latent_scale).clamp(min=1e-3)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Points (B, M, 2) and their truth -> (B, M, 2); may be below 0, as a density may be above 1."""
        alpha, scale = self.alpha, self.scale
        rest = 2 - alpha
        square = ((prediction - target) / scale).square()
        distance = rest / alpha * ((square / rest + 1) ** (alpha / 2) - 1)
        return distance + scale.log() + self._log_z(alpha)

    def _log_z(self, alpha: Tensor) -> Tensor:
        knots, coefficients = self.get_buffer("_knots"), self.get_buffer("_coefficients")
        index = torch.searchsorted(knots, alpha.detach(), right=True).sub(1).clamp(0, len(knots) - 2)
        step = alpha - knots[index]
        cubic = coefficients[:, index]
        return ((cubic[0] * step + cubic[1]) * step + cubic[2]) * step + cubic[3]


def build_criterion(settings: LossSettings, landmarks: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Choose the loss that an experiment names.

    Parameters
    ----------
    settings : LossSettings
        Kind and parameters.
    landmarks : int
        M.

    Returns
    -------
    callable
        Points (B, M, 2) and their truth -> (B, M, 2); an `nn.Module` where it has something to learn.
    """
    if settings.kind == "wing":
        return partial(wing, width=settings.width, curvature=settings.curvature)
    if settings.kind == "robust":
        return RobustLoss(landmarks, alpha_init=settings.alpha_init, scale_init=settings.scale_init)
    return partial(elastic, l2_share={"l1": 0.0, "l2": 1.0, "elastic": settings.l2_share}[settings.kind])


_ALPHA_RIM = 1e-3  # distance of the shape from 0 and 2, where the formula divides by zero


@cache
def _log_partition() -> tuple[Tensor, Tensor]:
    """Knots over [0, 2] and cubic coefficients (4, knots - 1) of log Z(a), Z the integral of exp(-loss) at scale 1."""
    alphas = 1 - np.cos(np.linspace(0, np.pi, 97))  # denser towards both ends, where log Z is steep
    values = [math.log(2 * quad(_density, 0, np.inf, args=(alpha,), limit=200)[0]) for alpha in alphas]
    spline = CubicSpline(alphas, values)
    return torch.tensor(spline.x, dtype=torch.float32), torch.tensor(spline.c, dtype=torch.float32)


def _density(error: float, alpha: float) -> float:
    if alpha == 0:
        return 1 / (error**2 / 2 + 1)
    if alpha == 2:
        return math.exp(-(error**2) / 2)
    rest = 2 - alpha
    return math.exp(-rest / alpha * ((error**2 / rest + 1) ** (alpha / 2) - 1))
