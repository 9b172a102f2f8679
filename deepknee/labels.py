"""Soft labels: a grade is a place on a scale, and readers put the same knee on neighbouring places."""

import torch
from torch import Tensor
from torch.nn import functional

from deepknee.model import GRADES


def soft_labels(grades: Tensor, spread: float) -> Tensor:
    """Spread each true grade over its neighbours.

    Parameters
    ----------
    grades : Tensor, shape (B,), int64
        True grades y.
    spread : float
        Standard deviation s in grades; 0 leaves all weight on the true grade.

    Returns
    -------
    Tensor, shape (B, 5), float32
        Weight of grade k: proportional to exp(-(k - y)^2 / (2 s^2)); rows sum to 1.

    References
    ----------
    Diaz and Marathe, Soft Labels for Ordinal Regression, CVPR 2019 (with the squared distance of grades).
    """
    if spread == 0:
        return functional.one_hot(grades, GRADES).float()
    distance = torch.arange(GRADES, device=grades.device) - grades[:, None]
    return (-(distance**2) / (2 * spread**2)).softmax(1)
