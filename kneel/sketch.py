"""A small picture of one knee with its true and predicted points, for the eye that follows a training."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from kneel.engine.pictures import write_label

SKETCH_PX = 256  # longer side
_SUBPIXEL = 4  # OpenCV draws at 1/16 pixel with this shift
_FARTHEST = 1e4  # pixels; beyond, OpenCV's fixed-point numbers overflow
# Okabe and Ito's palette keeps apart for colour-blind readers; as in `kneel.assess_knees`
_TRUTH, _PREDICTION, _ERROR = (86, 180, 233), (230, 159, 0), (204, 121, 167)


def sketch_points(
    picture: ArrayLike, points: ArrayLike, truth: ArrayLike, *, mm_per_px: float, size: int = SKETCH_PX
) -> NDArray[np.uint8]:
    """Draw the truth as rings, the prediction as dots and the way between them.

    Parameters
    ----------
    picture : array_like, shape (H, W)
        In [0, 1], bright bone.
    points, truth : array_like, shape (M, 2)
        (x, y) in pixels of the picture; those outside are not seen.
    mm_per_px : float
        What a pixel measures; the mean error is written in a corner.
    size : int
        Longer side of the outcome, pixels.

    Returns
    -------
    ndarray, shape (h, w, 3), uint8
        RGB.
    """
    grey, found, true = (np.asarray(part, float) for part in (picture, points, truth))
    scale = size / max(grey.shape)
    shape = round(grey.shape[1] * scale), round(grey.shape[0] * scale)
    shown = np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8)
    shown = cv2.resize(shown, shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    canvas = np.repeat(shown[..., None], 3, axis=2)
    for there, here in zip(_fixed(true, scale), _fixed(found, scale), strict=True):
        cv2.line(canvas, there, here, _ERROR, 1, cv2.LINE_AA, _SUBPIXEL)
        cv2.circle(canvas, there, 3 << _SUBPIXEL, _TRUTH, 1, cv2.LINE_AA, _SUBPIXEL)
        cv2.circle(canvas, here, 3 << (_SUBPIXEL - 1), _PREDICTION, cv2.FILLED, cv2.LINE_AA, _SUBPIXEL)
    return write_label(canvas, f"{float(np.hypot(*(found - true).T).mean() * mm_per_px):.2f} mm")


def _fixed(points: NDArray[np.float64], scale: float) -> list[tuple[int, int]]:
    """Move points to the scaled picture, pixel centres to pixel centres, in sixteenths of a pixel."""
    moved = np.clip((points + 0.5) * scale - 0.5, -_FARTHEST, _FARTHEST)
    return [(int(x), int(y)) for x, y in np.rint(moved * (1 << _SUBPIXEL))]
