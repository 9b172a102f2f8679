"""What the search for knees finds: joint centres, and knees with their landmarks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kneel.imaging.geometry import Side, Spacing


@dataclass(frozen=True)
class JointCenter:
    """Where a knee seems to be.

    Attributes
    ----------
    side : {"L", "R"}
        What the knee looks like: ``"R"`` has its lateral side at small x, ``"L"`` was mirrored for the network.
    center : (float, float)
        (x, y) in film pixels.
    spread_mm : float
        Root mean square radius of the heat map.
    """

    side: Side
    center: tuple[float, float]
    spread_mm: float


@dataclass(frozen=True)
class LocatedKnee:
    """A knee and its landmarks.

    Attributes
    ----------
    side : {"L", "R"}
        Laterality.
    center : (float, float)
        Joint centre (landmark `CENTER`), (x, y) in film pixels.
    landmarks : ndarray, shape (16, 2)
        (x, y) in film pixels, order of `kneel.imaging.schema.LANDMARKS`.
    spread_px : ndarray, shape (16,)
        Root mean square radius of each heat map, film pixels.
    confidence : float
        In [0, 1]; 1 is a mean knee with sharp heat maps. Not a probability, and it says little of the side: a knee
        seen the wrong way round is nearly as sure.
    spacing_mm : (float, float)
        (row, column) mm per film pixel that the ROI was cut with; nominal where the film has none.
    flags : tuple of str
        What a reader should know: ``nominal_scale``, ``side_from_position``, ``side_from_name``, ``side_from_image``,
        ``side_uncertain``, ``more_knees_than_named``, ``fewer_knees_than_expected``, ``low_confidence``,
        ``implausible_size``, ``reversed_columns``.
    """

    side: Side
    center: tuple[float, float]
    landmarks: NDArray[np.float64]
    spread_px: NDArray[np.float64]
    confidence: float
    spacing_mm: Spacing
    flags: tuple[str, ...] = ()
