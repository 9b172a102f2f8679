"""Attention laid over a knee; and a small picture of it for the eye that follows a training."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepknee.attention import enlarge, gradcam, normalize_maps
from deepknee.intensity import Intensity
from deepknee.model import GradingNet
from deepknee.views import View
from kneel.engine.pictures import write_label

SKETCH_PX = 256


def sketch_attention(
    net: GradingNet, view: View, pictures: Sequence[Tensor], grades: Tensor, intensity: Intensity
) -> list[NDArray[np.uint8]]:
    """Draw Grad-CAM of the likeliest grade, with the true grade and the predicted one.

    Parameters
    ----------
    net : GradingNet
        In evaluation mode.
    view : View
        What it sees of a ROI.
    pictures : sequence of Tensor, shapes (B, 1, P, Q)
        Just that, in [0, 1]; see `deepknee.views.plain_pictures`.
    grades : Tensor, shape (B,), int64
        True grades.
    intensity : Intensity
        How grey levels are standardised.

    Returns
    -------
    list of ndarray, shape (h, SKETCH_PX, 3), uint8
        RGB, as much of the ROI as the network sees.
    """
    features = net.features(*map(intensity.standardize, pictures))
    chances = net.judge(*features).float().softmax(1)
    predicted = chances.argmax(1)
    maps = gradcam(net, features, predicted)
    heat = normalize_maps(view.merge(*(enlarge(each, view.size) for each in maps)))
    seen = view.merge(*(picture[:, 0] for picture in pictures))
    box = _box(view.merge(*(torch.ones_like(picture[0, 0]) for picture in pictures)))
    arrays = (part.detach().float().cpu().numpy() for part in (seen[:, *box], heat[:, *box], chances))
    knees = zip(*arrays, grades.tolist(), predicted.tolist(), strict=True)
    return [
        write_label(lay_over(_enlarge(grey), _enlarge(warm)), f"KL {true}, read {read} ({chance[read]:.2f})")
        for grey, warm, chance, true, read in knees
    ]


def lay_over(grey: NDArray[np.floating], heat: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Lay a heat map over a picture.

    Parameters
    ----------
    grey, heat : ndarray, shape (H, W)
        In [0, 1].

    Returns
    -------
    ndarray, shape (H, W, 3), uint8
        RGB.
    """
    # the dark fifth of the map is left out: attention must not look like a shadow on the film
    colors = cv2.applyColorMap(np.rint(51 + 204 * heat).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    share = 0.65 * heat[..., None]
    return np.rint(255 * grey[..., None] * (1 - share) + colors * share).astype(np.uint8)


def _box(seen: Tensor) -> tuple[slice, slice]:
    """Return the rows and columns of a picture, shape (S, S), in which anything is not 0."""
    there = [(seen != 0).any(axis).nonzero()[:, 0].tolist() for axis in (1, 0)]
    rows, columns = (slice(numbers[0], numbers[-1] + 1) for numbers in there)
    return rows, columns


def _enlarge(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    size = SKETCH_PX, round(SKETCH_PX * picture.shape[0] / picture.shape[1])
    return np.clip(cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_LINEAR), 0, 1)
