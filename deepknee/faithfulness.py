"""Whether a map of attention tells the truth: the grade must go when what is attended to goes.

Deletion replaces the pixels of a knee by those of its blurred picture, the most attended first; insertion starts from
the blurred picture and puts pixels back, the most attended first. Both follow the probability of the explained grade.
The area under the deletion curve is small and that under the insertion curve large when the map is faithful. Neither
means much by itself, as blurred knees are nothing that the networks have seen: compare with a map that knows nothing.

Dimensions: S ROI pixels, K steps.

References
----------
Petsiuk, Das and Saenko, RISE, BMVC 2018, arXiv:1806.07421.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from kneel.imaging.schema import FEMUR, TIBIA

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float64]]
"""From ROIs (N, S, S) to probabilities (N, 5)."""

STEPS = 20
BAND_MARGIN = 0.05  # of the tibial width, about 4 mm: the subchondral bone and the spurs at the joint margins


def perturbation_curves(
    predict: Predict,
    roi: NDArray[np.uint8],
    blurred: NDArray[np.uint8],
    heat: NDArray[np.floating],
    grade: int,
    seen: NDArray[np.bool_],
    *,
    steps: int = STEPS,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Follow the probability of a grade while pixels go, or come, in the order of attention.

    Parameters
    ----------
    predict : callable
        Grades ROIs.
    roi, blurred : ndarray, shape (S, S), uint8
        The knee, and what replaces it; see `deepknee.attention.blur_rois`.
    heat : ndarray, shape (S, S)
        Attention; pixels of the same value are taken in random order.
    grade : int
        The grade that the map explains.
    seen : ndarray, shape (S, S), bool
        Pixels that take part; all others are left alone.
    steps : int
        Number of steps K.
    rng : numpy.random.Generator
        For the random order.

    Returns
    -------
    deletion, insertion : ndarray, shape (K + 1,)
        Probability after the share 0, 1 / K, ... 1 of the seen pixels has gone, or come.

    Raises
    ------
    ValueError
        The shapes differ, or nothing is seen.
    """
    shapes = {roi.shape, blurred.shape, heat.shape, seen.shape}
    if len(shapes) > 1 or not seen.any():
        raise ValueError(f"shapes are {sorted(shapes)}, {seen.sum()} pixels seen: must be one shape, and at least one")
    rank = _ranks(heat, seen, rng)
    counts = np.rint(np.linspace(0, seen.sum(), steps + 1))
    taken = seen & (rank < counts[:, None, None])
    deletion = np.where(taken, blurred, roi)
    insertion = np.where(seen & ~taken, blurred, roi)
    chances = predict(np.concatenate([deletion, insertion]))[:, grade]
    return chances[: steps + 1], chances[steps + 1 :]


def _ranks(heat: NDArray[np.floating], seen: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.intp]:
    """Number the seen pixels from the most attended to the least, ties at random; (S, S), -1 where not seen."""
    pixels = rng.permutation(np.flatnonzero(seen))  # shuffled first, as the sort below keeps the order of equals
    order = pixels[np.argsort(-heat.ravel()[pixels], kind="stable")]
    rank = np.full(heat.size, -1)
    rank[order] = np.arange(len(order))
    return rank.reshape(heat.shape)


def area_under(curves: ArrayLike) -> NDArray[np.float64]:
    """Return the mean height of curves, shape (..., K + 1) to (...), by the trapezoidal rule over shares 0 .. 1."""
    heights = np.asarray(curves, float)
    return np.trapezoid(heights, dx=1 / (heights.shape[-1] - 1), axis=-1)


def random_map(size: int, grain_px: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw a map that knows nothing, as coarse as maps of attention are.

    Single pixels at random would be no fair rival: a knee sprinkled with them looks like no knee at all, and its grade
    goes at once, whatever the map.

    Parameters
    ----------
    size : int
        Pixels S of the map.
    grain_px : float
        Distance of independent values; between them the map is bilinear.
    rng : numpy.random.Generator
        Draws them.

    Returns
    -------
    ndarray, shape (S, S), float32
        In [0, 1].
    """
    cells = max(2, round(size / grain_px))
    coarse = rng.random((cells, cells), np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR).astype(np.float32, copy=False)


def joint_band(points: ArrayLike, size: int, margin: float = BAND_MARGIN) -> NDArray[np.bool_]:
    """Return the joint space and the bone next to it.

    Parameters
    ----------
    points : array_like, shape (16, 2)
        (x, y) of the landmarks in pixels of the ROI, order of `kneel.imaging.schema.LANDMARKS`.
    size : int
        Pixels S of the ROI.
    margin : float
        How far the band reaches into the bones and beyond the joint margins, as a share of the tibial width (landmark
        0 to 8).

    Returns
    -------
    ndarray, shape (S, S), bool
        Pixels whose centre lies in the polygon between the femoral and the tibial line, or within the margin of it.
    """
    landmarks = np.asarray(points, float)
    outline = np.concatenate([landmarks[FEMUR], landmarks[TIBIA][::-1]]).astype(np.float32)
    reach = margin * np.linalg.norm(landmarks[8] - landmarks[0])
    # distance to the outline, positive inside
    depth = [[cv2.pointPolygonTest(outline, (x, y), True) for x in range(size)] for y in range(size)]
    return np.array(depth) >= -reach


def share_inside(heat: NDArray[np.floating], region: NDArray[np.bool_]) -> float:
    """Return the share of attention that lies in a region; NaN for a map of zeros."""
    total = float(heat.sum(dtype=np.float64))
    return float(heat[region].sum(dtype=np.float64)) / total if total > 0 else float("nan")
