"""Asking the networks: for joint centres in parts of a film, and for the 16 points around centres."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kneel.imaging.geometry import Side, Spacing
from kneel.imaging.schema import CENTER
from kneel.located import JointCenter
from kneel.stage import Picture, Stage
from kneel.windows import Part, search_window


def find_joint_centers(
    film: Picture, spacing_mm: Spacing, parts: Sequence[tuple[Part, Side]], stage: Stage
) -> list[JointCenter]:
    """Look for one joint centre in each given part of a film.

    Parameters
    ----------
    film : ndarray, shape (H, W), float32
        Grey picture in [0, 1], bright bone.
    spacing_mm : (float, float)
        (row, column) spacing.
    parts : sequence of (part, side)
        Where to look, and the laterality to expect there.
    stage : Stage
        Joint-centre networks.

    Returns
    -------
    list of JointCenter
        One a part, sure or not.
    """
    windows = [
        search_window(film, part, spacing_mm, side=side, window_spacing_mm=stage.spacing_mm) for part, side in parts
    ]
    centers = []
    for (_, side), window, answer in zip(parts, windows, stage.batch([w.picture for w in windows]), strict=True):
        x, y = window.frame.to_image(answer.points[0])
        centers.append(JointCenter(side, (float(x), float(y)), float(answer.spread[0]) * stage.spacing_mm))
    return centers


def find_landmarks(
    film: Picture, center: ArrayLike, side: Side, spacing_mm: Spacing, stage: Stage, *, passes: int = 2
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find the 16 points around a joint centre; look again around the centre found.

    Parameters
    ----------
    film : ndarray, shape (H, W), float32
        Grey picture in [0, 1], bright bone.
    center : array_like, shape (2,)
        (x, y) in film pixels.
    side : {"L", "R"}
        Left knees are mirrored for the network.
    spacing_mm : (float, float)
        (row, column) spacing.
    stage : Stage
        Landmark networks.
    passes : int
        How often to look; 2 refines once.

    Returns
    -------
    points : ndarray, shape (16, 2)
        (x, y) in film pixels.
    spread : ndarray, shape (16,)
        Root mean square radius of each heat map, film pixels (geometric mean of the axes).
    """
    return find_landmarks_of_several(film, [(center, side)], spacing_mm, stage, passes=passes)[0]


def find_landmarks_of_several(
    film: Picture, knees: Sequence[tuple[ArrayLike, Side]], spacing_mm: Spacing, stage: Stage, *, passes: int = 2
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """`find_landmarks` of several knees at once, which the networks read faster than one by one.

    Parameters
    ----------
    film, spacing_mm, stage, passes
        As in `find_landmarks`.
    knees : sequence of (center, side)
        Where to look, and as what.

    Returns
    -------
    list of (points, spread)
        One a knee.
    """
    centers, sides = [center for center, _ in knees], [side for _, side in knees]
    found: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for _ in range(passes):
        frames = [
            stage.frame(np.asarray(center, float), spacing_mm, side)
            for center, side in zip(centers, sides, strict=True)
        ]
        found = []
        for frame, answer in zip(frames, stage.batch([frame.crop(film) for frame in frames]), strict=True):
            landmarks = frame.to_image(answer.points)
            found.append((landmarks, answer.spread * float(np.sqrt(frame.scale[0] * frame.scale[1]))))
        centers = [landmarks[CENTER] for landmarks, _ in found]
    return found
