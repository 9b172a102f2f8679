"""Attention laid over a knee; and a small picture of it for the eye that follows a training."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
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
    list of ndarray, shape (SKETCH_PX, SKETCH_PX, 3), uint8
        RGB; black where the network sees nothing.
    """
    features = net.features(*map(intensity.standardize, pictures))
    chances = net.judge(*features).float().softmax(1)
    predicted = chances.argmax(1)
    maps = gradcam(net, features, predicted)
    heat = normalize_maps(view.merge(*(enlarge(each, view.size) for each in maps)))
    seen = view.merge(*(picture[:, 0] for picture in pictures))
    arrays = (part.detach().float().cpu().numpy() for part in (seen, heat, chances))
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


def _enlarge(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    size = SKETCH_PX, SKETCH_PX
    return np.clip(cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_LINEAR), 0, 1)
