"""What is measured on the 16 landmarks of a knee: joint space, alignment, widths. numpy only.

All functions take points of one knee or of many, (x, y) with y down, lateral at small x (left knees mirrored), in any
unit in which both axes are alike: millimetres, or pixels of a film whose pixels are square.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]


class KneeMeasures(NamedTuple):
    """Measures of knees; each of shape (...), lengths in the unit of the points.

    Attributes
    ----------
    jsw_medial, jsw_lateral : ndarray
        Minimum joint space width of a compartment; see `joint_space_widths`.
    jlca_deg : ndarray
        Joint line convergence angle, degrees; see `joint_line_convergence`.
    tibial_width, femoral_width : ndarray
        Distance of the two edges of a bone: landmarks 0 and 8, 9 and 15.
    """

    jsw_medial: Values
    jsw_lateral: Values
    jlca_deg: Values
    tibial_width: Values
    femoral_width: Values


def measure_knee(points: ArrayLike) -> KneeMeasures:
    """Measure knees.

    Parameters
    ----------
    points : array_like, shape (..., 16, 2)
        Landmarks, order of `kneel.imaging.schema.LANDMARKS`.

    Returns
    -------
    KneeMeasures
        Arrays of shape (...).

    Raises
    ------
    ValueError
        The shape is another.

    Examples
    --------
    A joint space of 4 between flat bones, 80 wide:

    >>> x = [-40, -30, -15, -5, 0, 5, 15, 30, 40, -40, -25, -12, 0, 12, 25, 40]
    >>> knee = [(x, 4.0) for x in x[:9]] + [(x, 0.0) for x in x[9:]]
    >>> [float(value) for value in measure_knee(knee)]
    [4.0, 4.0, 0.0, 80.0, 80.0]
    """
    points = _checked(points)
    medial, lateral = joint_space_widths(points)
    widths = (np.linalg.norm(points[..., b, :] - points[..., a, :], axis=-1) for a, b in ((0, 8), (9, 15)))
    return KneeMeasures(medial, lateral, joint_line_convergence(points), *widths)


def joint_space_widths(points: ArrayLike) -> tuple[Values, Values]:
    """Return the minimum joint space width of both compartments.

    Parameters
    ----------
    points : array_like, shape (..., 16, 2)
        Landmarks.

    Returns
    -------
    medial, lateral : ndarray, shape (...)
        Smallest distance of the polylines 13..15 (femur) to 6..8 (tibia), and 9..11 to 0..2; 0 where they cross, or
        where femur lies below tibia.
    """
    points = _checked(points)
    along = points[..., 8, :] - points[..., 0, :]
    up = np.stack([along[..., 1], -along[..., 0]], -1)
    up *= np.where(((points[..., 9:, :].mean(-2) - points[..., :9, :].mean(-2)) * up).sum(-1) < 0, -1, 1)[..., None]
    medial, lateral = (
        np.where(_overlap(femur, tibia, along, up), 0.0, polyline_distance(femur, tibia))[()]
        for femur, tibia in (
            (points[..., 13:16, :], points[..., 6:9, :]),
            (points[..., 9:12, :], points[..., 0:3, :]),
        )
    )
    return medial, lateral


def joint_line_convergence(points: ArrayLike) -> Values:
    """Return the joint line convergence angle (JLCA): of the femoral line 10-14 against the tibial line 1-7.

    Parameters
    ----------
    points : array_like, shape (..., 16, 2)
        Landmarks.

    Returns
    -------
    ndarray, shape (...)
        Degrees; positive where the joint opens to the lateral side.
    """
    points = _checked(points)
    femur, tibia = (points[..., b, :] - points[..., a, :] for a, b in ((10, 14), (1, 7)))
    cross = tibia[..., 0] * femur[..., 1] - tibia[..., 1] * femur[..., 0]
    return np.degrees(np.arctan2(cross, (tibia * femur).sum(-1)))


def polyline_distance(a: ArrayLike, b: ArrayLike) -> Values:
    """Smallest distance of two polylines.

    Parameters
    ----------
    a : array_like, shape (..., P, 2)
        Corners of the first, at least two.
    b : array_like, shape (..., Q, 2)
        Corners of the second.

    Returns
    -------
    ndarray, shape (...)
        0 where they cross.
    """
    first, second = np.asarray(a, float), np.asarray(b, float)
    # segments that do not cross are closest at one of their ends
    distance = np.minimum(_points_to_polyline(first, second), _points_to_polyline(second, first))
    return np.where(_cross(first, second), 0.0, distance)[()]  # a number for one knee


def _checked(points: ArrayLike) -> Values:
    values = np.asarray(points, float)
    if values.shape[-2:] != (16, 2):
        raise ValueError(f"points have shape {values.shape}: must be (..., 16, 2)")
    return values


def _overlap(femur: Values, tibia: Values, along: Values, up: Values) -> NDArray[np.bool_]:
    """Say whether a corner of the femur lies below the tibia's line, or one of the tibia's above that of the femur."""
    return _under(femur, tibia, along, up) | _under(tibia, femur, along, -up)


def _under(points: Values, line: Values, along: Values, up: Values) -> NDArray[np.bool_]:
    place, height = ((points * axis[..., None, :]).sum(-1)[..., :, None] for axis in (along, up))
    places, heights = ((line * axis[..., None, :]).sum(-1)[..., None, :] for axis in (along, up))
    start, end = places[..., :-1], places[..., 1:]
    beside = ((place - start) * (place - end) <= 0) & (start != end)
    share = (place - start) / np.where(beside, end - start, 1)
    return (beside & (height < heights[..., :-1] + share * np.diff(heights))).any((-2, -1))


def _points_to_polyline(points: Values, line: Values) -> Values:
    """(..., P, 2) to the segments of (..., Q, 2): the smallest distance (...)."""
    start, step = line[..., None, :-1, :], np.diff(line, axis=-2)[..., None, :, :]  # (..., 1, Q - 1, 2)
    offset = points[..., :, None, :] - start
    length = (step**2).sum(-1)
    along = np.clip((offset * step).sum(-1) / np.where(length > 0, length, 1), 0, 1)
    return np.linalg.norm(offset - along[..., None] * step, axis=-1).min(axis=(-2, -1))


def _cross(a: Values, b: Values) -> NDArray[np.bool_]:
    """Whether any segment of one polyline crosses one of the other."""
    p, r = a[..., :-1, None, :], np.diff(a, axis=-2)[..., :, None, :]
    q, s = b[..., None, :-1, :], np.diff(b, axis=-2)[..., None, :, :]
    # the ends of each segment lie on both sides of the other's line
    of_b = _side(r, q - p) * _side(r, q + s - p) < 0
    of_a = _side(s, p - q) * _side(s, p + r - q) < 0
    return np.asarray((of_a & of_b).any(axis=(-2, -1)))


def _side(direction: Values, offset: Values) -> Values:
    return direction[..., 0] * offset[..., 1] - direction[..., 1] * offset[..., 0]
