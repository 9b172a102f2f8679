"""From film to points with a perfect oracle in place of the network, everything around it being the real thing.

The oracle's heat map is the brightness of what it is shown, so its soft-argmax is the spot's centre of mass. What
remains is the error of windows, ROIs, mirroring, padding, grids and the way back to the film.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kneel.find import find_joint_centers, find_landmarks
from kneel.hourglass import STRIDE
from kneel.network import HourglassSettings, LandmarkNet
from kneel.stage import Stage

SPOT_MM = 3.0
# corners and centre of a right knee, mm from the joint centre; lateral at small x
KNEE_MM = np.array([(-38, 8), (0, 0), (38, 7), (-37, -14), (37, -14)], float)


class Brightness(nn.Module):
    """Heat maps whose softmax is the picture itself, a cell of the map being the mean of its pixels."""

    def __init__(self, landmarks):
        super().__init__()
        self.landmarks = landmarks

    def forward(self, x):
        return F.avg_pool2d(x, STRIDE).clamp(min=1e-12).log().expand(-1, self.landmarks, -1, -1)


def stage(landmarks, spacing_mm, size):
    net = LandmarkNet(landmarks=landmarks, mean=0.0, std=1.0, settings=HourglassSettings(width=4, depth=4))
    net.net = Brightness(landmarks)
    return Stage([net], spacing_mm=spacing_mm, size=size, device=torch.device("cpu"), typical_spread_mm=1.0)


def spot(shape, point, spacing):
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    distance = ((x - point[0]) * spacing[1]) ** 2 + ((y - point[1]) * spacing[0]) ** 2
    return np.exp(-distance / (2 * SPOT_MM**2)).astype(np.float32)


@pytest.mark.parametrize("side", ["R", "L"])
@pytest.mark.parametrize(
    ("shape", "spacing", "hc_spacing", "hc_size"),
    [
        ((700, 901), (0.4, 0.4), 0.3, (448, 448)),
        ((520, 640), (0.5, 0.55), 0.6, (224, 224)),  # oblong pixels
        ((813, 1000), (0.37, 0.37), 0.5, (300, 290)),  # no whole cells: padded
        ((400, 371), (0.9, 0.9), 0.4, (384, 352)),  # a film coarser than the ROI
    ],
    ids=str,
)
def test_perfect_networks_lose_nothing_off_centre(shape, spacing, hc_spacing, hc_size, side):
    """The whole walk: the joint-centre stage on half of the film, then landmarks from 12 mm beside its answer."""
    height, width = shape
    x = 0.31 * width if side == "R" else width - 1 - 0.31 * width  # nearer to the middle of the film than of its half
    center, towards_medial = np.array([x, 0.63 * height]), 1 if side == "R" else -1
    for mm in KNEE_MM:
        point = center + mm * (towards_medial, 1) / spacing[::-1]
        film = spot(shape, point, spacing)
        part = "left half" if point[0] < (width - 1) / 2 else "right half"
        (found,) = find_joint_centers(film, spacing, [(part, side)], stage(1, 1.0, (256, 448)))
        np.testing.assert_allclose(found.center, point, atol=0.05)
        start = np.asarray(found.center) + np.array([9.0, -8.0]) / spacing[::-1]
        landmarks, _ = find_landmarks(film, start, side, spacing, stage(16, hc_spacing, hc_size))
        np.testing.assert_allclose(landmarks, np.tile(point, (16, 1)), atol=0.05)
