"""The published search for the knees of a bilateral film, written down plainly: what the fast one is held against.

KNEEL (Tiulpin, Melekhov, Saarakkala, ICCVW 2019) reads a film as follows; `KneeLocalizer` with the same networks gives
the same points within 0.05 px, faster.

1. The film is cut into halves, the right knee at its left; the other half is mirrored. Each is resampled to the grid of
   the joint-centre networks, one point by each network, and the mean of the points is the joint centre.
2. Around it a ROI is cut on the grid of the landmark networks, left knees mirrored; 16 points by each network, and
   their means.
3. The same once more, the ROI laid around the joint centre that step 2 found.

What the original does otherwise, and neither this nor `KneeLocalizer` follows:

- Coordinates. It mixes three conventions, which moves points by 3.3 % of their distance from the ROI's centre, and
  joint centres that are far from the middle of their half by millimetres. Here all go through `RoiFrame` and the codec.
- Padding. It pads each half with zeros to a square before the joint-centre networks see it. Here they see the half
  alone: a picture of any size is one to them. With networks that learnt from padded pictures this may move the ROI of
  step 2, which step 3 lays anew.
- Films of one knee, or of none. It always knows two, as does this; `KneeLocalizer` asks whether to believe them.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from kneel.imaging.geometry import RoiFrame, Side, Spacing
from kneel.imaging.schema import CENTER
from kneel.stage import Picture, Stage
from kneel.windows import Part, search_window

HALVES: tuple[tuple[Part, Side], ...] = (("left half", "R"), ("right half", "L"))


def locate_plainly(
    film: Picture, spacing_mm: Spacing, lc: Stage, hc: Stage, *, passes: int = 2
) -> dict[Side, NDArray[np.float64]]:
    """Find the landmarks of both knees: one picture and one network at a time.

    Parameters
    ----------
    film : ndarray, shape (H, W), float32
        Grey picture in [0, 1], bright bone, as radiologists hang it.
    spacing_mm : (float, float)
        (row, column) spacing.
    lc, hc : Stage
        Networks of both stages, as `Stage.from_snapshots` leaves them with ``plain=True``.
    passes : int
        How often the landmark networks look.

    Returns
    -------
    dict
        Of each side the points, shape (16, 2), (x, y) in film pixels.
    """
    knees = {}
    for part, side in HALVES:
        window = search_window(film, part, spacing_mm, side=side, window_spacing_mm=lc.spacing_mm)
        center = _mean_answer(lc, window.picture, window.frame)[0]
        for _ in range(passes):
            frame = hc.frame(center, spacing_mm, side)
            points = _mean_answer(hc, frame.crop(film), frame)
            center = points[CENTER]
        knees[side] = points
    return knees


@torch.no_grad()
def _mean_answer(stage: Stage, picture: Picture, frame: RoiFrame) -> NDArray[np.float64]:
    """Ask each network, and return the mean of its points in film pixels."""
    seen = torch.from_numpy(picture)[None, None]
    answers = [frame.to_image(net(seen).points[0].double().numpy()) for net in stage.nets]
    return np.mean(answers, axis=0)
