"""Image <-> ROI coordinates: the sole owner of the pixel conventions.

Points are float (x, y); an integer is the CENTRE of a pixel, so the picture of a ``W`` pixel wide image spans
``-0.5 .. W - 0.5``. From this follow the formulae that the whole project uses:

========================  =============================
resize by a factor ``s``  ``x' = (x + 0.5) s - 0.5``
mirror                    ``x' = W - 1 - x``
turn over                 ``y' = H - 1 - y``
normalise                 ``u = (x + 0.5) / W``
========================  =============================

The last one is carried out where networks answer, in `kneel.codec`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Side = Literal["L", "R"]
Spacing = tuple[float, float]


def resize_points(points: ArrayLike, factor: ArrayLike) -> NDArray[np.float64]:
    """Move points with an image that is resized.

    Parameters
    ----------
    points : array_like, shape (..., 2)
        (x, y) in pixels of the image before resizing.
    factor : float or array_like, shape (2,)
        New size / old size, one for both axes or (x, y).

    Returns
    -------
    ndarray, shape (..., 2)
        (x, y) in pixels of the resized image.

    Examples
    --------
    The centre of the first pixel of a doubled image lies between the first two new pixels:

    >>> resize_points([[0.0, 0.0]], 2)
    array([[0.5, 0.5]])
    """
    return (np.asarray(points, float) + 0.5) * np.asarray(factor, float) - 0.5


def mirror_points(points: ArrayLike, width: int) -> NDArray[np.float64]:
    """Move points with an image that is flipped left to right: ``x -> width - 1 - x``.

    Parameters
    ----------
    points : array_like, shape (..., 2)
        (x, y) in pixels.
    width : int
        Width of the image in pixels.

    Returns
    -------
    ndarray, shape (..., 2)
        (x, y) in pixels of the flipped image.

    Examples
    --------
    >>> mirror_points([[0.0, 3.0]], 10)
    array([[9., 3.]])
    """
    out = np.array(points, float)
    out[..., 0] = width - 1 - out[..., 0]
    return out


def turn_points_over(points: ArrayLike, height: int) -> NDArray[np.float64]:
    """Move points with an image whose last row becomes the first: ``y -> height - 1 - y``.

    Parameters
    ----------
    points : array_like, shape (..., 2)
        (x, y) in pixels.
    height : int
        Height of the image in pixels.

    Returns
    -------
    ndarray, shape (..., 2)
        (x, y) in pixels of the image turned over.

    Examples
    --------
    >>> turn_points_over([[0.0, 3.0]], 10)
    array([[0., 6.]])
    """
    return mirror_points(np.asarray(points, float)[..., ::-1], height)[..., ::-1]


def turn_about_middle(shape: Sequence[int], degrees: float, scale: float = 1.0) -> NDArray[np.float64]:
    """Return the matrix that turns and scales an image about its middle.

    Parameters
    ----------
    shape : (int, int, ...)
        Rows and columns of the image.
    degrees : float
        Counter-clockwise as seen.
    scale : float
        Above 1 enlarges.

    Returns
    -------
    ndarray, shape (2, 3)
        From (x, y, 1) before to (x, y) after, in pixels whose integers are centres; what cv2.warpAffine takes.
    """
    height, width = shape[:2]
    middle = (width - 1) / 2, (height - 1) / 2  # OpenCV's integers are pixel centres, as ours
    return np.asarray(cv2.getRotationMatrix2D(middle, degrees, scale), float)


def millimetres_per_pixel(spacing_mm: Spacing) -> NDArray[np.float64]:
    """Return DICOM's (row, column) spacing as the (x, y) factor that turns pixels into millimetres.

    Parameters
    ----------
    spacing_mm : (float, float)
        Distance between rows, then between columns, as in PixelSpacing (0028,0030).

    Returns
    -------
    ndarray, shape (2,)
        Millimetres per pixel along x and along y.
    """
    row, column = spacing_mm
    return np.array([column, row], float)


@dataclass(frozen=True)
class RoiFrame:
    """An axis-aligned window on an image, resampled to a grid of its own and mirrored or not.

    Attributes
    ----------
    center : (float, float)
        (x, y) of the middle of the window in image pixels.
    scale : (float, float)
        Image pixels per ROI pixel along x and along y.
    size : (int, int)
        Width and height of the ROI in ROI pixels.
    mirrored : bool
        Whether the ROI is the mirror image of the window (left knees are mirrored to look like right ones).
    upside_down : bool
        Whether the window lies upside down on the image: the first row of the ROI is its lowest.
    """

    center: tuple[float, float]
    scale: tuple[float, float]
    size: tuple[int, int]
    mirrored: bool = False
    upside_down: bool = False

    def __post_init__(self) -> None:
        """Refuse windows without an extent."""
        if min(self.size) < 1 or not all(np.isfinite(self.scale)) or min(self.scale) <= 0:
            raise ValueError(f"ROI size {self.size} and scale {self.scale} must be positive")
        if not all(np.isfinite(self.center)):
            raise ValueError(f"ROI center {self.center} must be finite")

    @classmethod
    def around(
        cls,
        center: Sequence[float] | NDArray[np.float64],
        size_mm: float | tuple[float, float],
        spacing_mm: Spacing,
        *,
        side: Side,
        roi_spacing_mm: float,
    ) -> RoiFrame:
        """Lay a window of given size in mm around a point; left knees come out mirrored.

        Parameters
        ----------
        center : (float, float)
            (x, y) in image pixels.
        size_mm : float or (float, float)
            Width and height of the window in mm; one number for a square.
        spacing_mm : (float, float)
            (row, column) spacing of the image in mm.
        side : {"L", "R"}
            Laterality of the knee; ``"L"`` is mirrored.
        roi_spacing_mm : float
            mm per ROI pixel.

        Returns
        -------
        RoiFrame
            Its size is ``size_mm / roi_spacing_mm`` rounded down to whole pixels (140 mm at 0.3 mm is 466 pixels).

        Raises
        ------
        ValueError
            Side other than ``"L"`` or ``"R"``, or a size or spacing that is not positive.
        """
        if side not in ("L", "R"):
            raise ValueError(f"side is {side!r}: must be 'L' or 'R'")
        width_mm, height_mm = (size_mm, size_mm) if isinstance(size_mm, int | float) else size_mm
        scale = roi_spacing_mm / millimetres_per_pixel(spacing_mm)
        # the tiny term keeps 0.1 + 0.2 from losing a pixel: 45 / 0.3 is 149.99999999999997
        size = int(width_mm / roi_spacing_mm + 1e-6), int(height_mm / roi_spacing_mm + 1e-6)
        return cls((float(center[0]), float(center[1])), (float(scale[0]), float(scale[1])), size, side == "L")

    @classmethod
    def covering(
        cls,
        box: tuple[float, float, float, float],
        spacing_mm: Spacing,
        *,
        side: Side,
        roi_spacing_mm: float,
    ) -> RoiFrame:
        """Lay a window over a box of pixels; left knees come out mirrored.

        Parameters
        ----------
        box : (float, float, float, float)
            First and one-past-last column, first and one-past-last row, as for slices.
        spacing_mm : (float, float)
            (row, column) spacing of the image in mm.
        side : {"L", "R"}
            Laterality of the knee; ``"L"`` is mirrored.
        roi_spacing_mm : float
            mm per ROI pixel.

        Returns
        -------
        RoiFrame
            The smallest number of whole ROI pixels that covers the box.
        """
        left, right, top, bottom = box
        extent = np.array([right - left, bottom - top]) * millimetres_per_pixel(spacing_mm)
        width, height = np.maximum(np.ceil(extent / roi_spacing_mm - 1e-6), 1) * roi_spacing_mm
        center = (left + right - 1) / 2, (top + bottom - 1) / 2
        return cls.around(center, (float(width), float(height)), spacing_mm, side=side, roi_spacing_mm=roi_spacing_mm)

    @property
    def _matrix(self) -> NDArray[np.float64]:
        """Affine (2, 3) from ROI pixels to image pixels."""
        sx = -self.scale[0] if self.mirrored else self.scale[0]
        sy = -self.scale[1] if self.upside_down else self.scale[1]
        middle_x, middle_y = (self.size[0] - 1) / 2, (self.size[1] - 1) / 2
        return np.array([[sx, 0, self.center[0] - sx * middle_x], [0, sy, self.center[1] - sy * middle_y]])

    def turned_over(self, height: int) -> RoiFrame:
        """Return the frame that shows the same of an image whose last row becomes the first.

        Parameters
        ----------
        height : int
            Height of the image in pixels.

        Returns
        -------
        RoiFrame
            Its `crop` of the image turned over is that of this one of the image as it is.
        """
        x, y = turn_points_over(self.center, height)
        return replace(self, center=(float(x), float(y)), upside_down=not self.upside_down)

    def to_image(self, points: ArrayLike) -> NDArray[np.float64]:
        """ROI pixels to image pixels.

        Parameters
        ----------
        points : array_like, shape (..., 2)
            (x, y) in ROI pixels.

        Returns
        -------
        ndarray, shape (..., 2)
            (x, y) in image pixels.
        """
        matrix = self._matrix
        return np.asarray(points, float) * np.diag(matrix[:, :2]) + matrix[:, 2]

    def to_roi(self, points: ArrayLike) -> NDArray[np.float64]:
        """Image pixels to ROI pixels, the inverse of `to_image`.

        Parameters
        ----------
        points : array_like, shape (..., 2)
            (x, y) in image pixels.

        Returns
        -------
        ndarray, shape (..., 2)
            (x, y) in ROI pixels.
        """
        matrix = self._matrix
        return (np.asarray(points, float) - matrix[:, 2]) / np.diag(matrix[:, :2])

    def crop(self, image: NDArray, *, fill: float = 0) -> NDArray:
        """Resample the window to the ROI grid.

        Finer images are low-passed first, so that a 0.1 mm film does not alias in a 0.3 mm ROI.

        Parameters
        ----------
        image : ndarray, shape (H, W), uint8, uint16 or float32
            The image that the frame belongs to.
        fill : float
            Value outside the image.

        Returns
        -------
        ndarray, shape (h, w)
            The ROI in the type of the image.
        """
        patch, origin = _cut(image, self._bounds(image.shape))
        if patch.size == 0:
            return np.full((self.size[1], self.size[0]), fill, image.dtype)
        patch = _low_pass(patch, self.scale)
        matrix = self._matrix
        matrix[:, 2] -= origin
        return cv2.warpAffine(
            patch,
            matrix,
            self.size,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=fill,
        )

    def _bounds(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Rows and columns of the image that the window can touch: top, bottom, left, right."""
        half = np.asarray(self.size) / 2 * self.scale
        margin = 2 * np.ceil(self.scale) + 2  # reach of the low-pass and of the interpolation
        low = np.floor(np.asarray(self.center) - half - margin).astype(int)
        high = np.ceil(np.asarray(self.center) + half + margin).astype(int) + 1
        low, high = np.clip(low, 0, None), np.clip(high, 0, shape[1::-1])
        return low[1], high[1], low[0], high[0]


def _cut(image: NDArray, bounds: tuple[int, int, int, int]) -> tuple[NDArray, NDArray[np.int64]]:
    top, bottom, left, right = bounds
    return image[top:bottom, left:right], np.array([left, top])


def _low_pass(patch: NDArray, scale: tuple[float, float]) -> NDArray:
    """Widen the blur of one image pixel to that of one ROI pixel: boxes of widths 1 and s differ by (s^2 - 1) / 12."""
    sigma = [np.sqrt(max(s * s - 1, 0) / 12) for s in scale]
    if max(sigma) < 0.1:
        return patch
    # a sigma of 0 would be read as "as the other axis"; 1e-3 is the identity
    return cv2.GaussianBlur(
        patch, (0, 0), max(sigma[0], 1e-3), sigmaY=max(sigma[1], 1e-3), borderType=cv2.BORDER_REPLICATE
    )
