"""Grey levels as the grading networks see them, the same in training and in reading; no torchvision."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from deepknee.patches import PatchGeometry
from kneel.engine.config import Settings
from kneel.imaging.radiograph import normalize_percentiles

Contrast = Literal["film", "roi", "patches"]


class Intensity(Settings):
    """What is done to grey levels before the network.

    Attributes
    ----------
    contrast
        ``film``: nothing, the film was normalised as a whole. ``roi``: every ROI is stretched between its own
        5th and 99th percentile first, for pictures whose exposure differs from one to the next. ``patches``: the same
        with the percentiles of both patches alone, so that it makes no difference how much of the film lies around.
    mean, std
        Of all pixels of the training patches, on the 0 .. 1 scale.
    """

    contrast: Contrast = "film"
    mean: float
    std: float = Field(gt=0)

    def standardize(self, patches: Tensor) -> Tensor:
        """Return ``(patches - mean) / std`` of grey levels in [0, 1]."""
        return (patches - self.mean) / self.std


def adjust_contrast(roi: NDArray[np.uint8], contrast: Contrast, geometry: PatchGeometry) -> NDArray[np.uint8]:
    """Stretch one ROI, or leave it as it is.

    Parameters
    ----------
    roi : ndarray, shape (S, S), uint8
        Bright bone.
    contrast : {"film", "roi", "patches"}
        See `Intensity`.
    geometry : PatchGeometry
        Where the patches lie.

    Returns
    -------
    ndarray, shape (S, S), uint8
    """
    if contrast == "film":
        return roi
    measured = roi if contrast == "roi" else np.concatenate(geometry.split_compartments(roi))
    return np.rint(255 * normalize_percentiles(roi, measured=measured)).astype(np.uint8)
