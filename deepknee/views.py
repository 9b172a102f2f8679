"""What a kind of network sees of a ROI, and where that lies: cutting out and laying back are inverses.

Dimensions: B knees, S ROI pixels.
"""

from dataclasses import dataclass
from itertools import product
from typing import Protocol, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepknee.patches import PatchGeometry
from kneel.imaging.geometry import turn_about_middle

Array = TypeVar("Array", np.ndarray, Tensor)
Grey = TypeVar("Grey", NDArray[np.uint8], NDArray[np.float32])


class View(Protocol):
    """The pictures of a knee that a network takes, all of one size."""

    @property
    def geometry(self) -> PatchGeometry:
        """Of the ROIs."""

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of every picture."""

    def cut(self, rois: Array) -> tuple[Array, ...]:
        """Cut the pictures out of ROIs.

        Parameters
        ----------
        rois : ndarray or Tensor, shape (..., S, S)
            Lateral at small x.

        Returns
        -------
        tuple of ndarray or Tensor, shapes (..., rows, columns)

        Raises
        ------
        ValueError
            The ROIs have another size.
        """

    def merge(self, *pictures: Array) -> Array:
        """Lay pictures back to where they were cut: (..., rows, columns) each to (..., S, S), zero elsewhere."""


@dataclass(frozen=True)
class Compartments:
    """The lateral and the mirrored medial patch; see `PatchGeometry.split_compartments`.

    Attributes
    ----------
    geometry : PatchGeometry
        Of the ROIs.
    """

    geometry: PatchGeometry

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of a patch."""
        return self.geometry.patch, self.geometry.patch

    def cut(self, rois: Array) -> tuple[Array, ...]:
        """Cut both patches; see `View.cut`."""
        return self.geometry.split_compartments(rois)

    def merge(self, *pictures: Array) -> Array:
        """Lay both patches back; see `View.merge`."""
        lateral, medial = pictures
        return self.geometry.merge_compartments(lateral, medial)


@dataclass(frozen=True)
class Window:
    """One rectangle of the ROI, as wide as the crop.

    Attributes
    ----------
    geometry : PatchGeometry
        Of the ROIs.
    top : int
        First row, counted in the ROI.
    height : int
        Number of rows.
    """

    geometry: PatchGeometry
    top: int
    height: int

    @classmethod
    def crop(cls, geometry: PatchGeometry) -> "Window":
        """Take the whole crop."""
        return cls(geometry, geometry.margin, geometry.crop)

    @classmethod
    def around_joint(cls, geometry: PatchGeometry, aspect: float) -> "Window":
        """Take `aspect` times as many rows as columns, the joint in the middle as far as the crop reaches."""
        height = round(geometry.crop * aspect)
        joint = (geometry.roi_px - 1) / 2 + geometry.joint_mm[1] / geometry.spacing_mm
        top = round(joint - (height - 1) / 2)
        last = geometry.margin + geometry.crop - height
        return cls(geometry, min(max(top, geometry.margin), last), height)

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the rectangle."""
        return self.height, self.geometry.crop

    def cut(self, rois: Array) -> tuple[Array, ...]:
        """Cut the rectangle; see `View.cut`."""
        side = self.geometry.roi_px
        if tuple(rois.shape[-2:]) != (side, side):
            raise ValueError(f"ROI has shape {tuple(rois.shape)}: must end in {side} x {side}")
        return (rois[self._place()],)

    def merge(self, *pictures: Array) -> Array:
        """Lay the rectangle back; see `View.merge`."""
        shapes = [tuple(picture.shape) for picture in pictures]
        if len(shapes) != 1 or shapes[0][-2:] != self.size:
            raise ValueError(f"pictures have shapes {shapes}: must be one that ends in {self.size[0]} x {self.size[1]}")
        return self._lay(pictures[0])

    def _lay(self, picture: Array) -> Array:
        shape = (*picture.shape[:-2], self.geometry.roi_px, self.geometry.roi_px)
        roi = np.zeros(shape, picture.dtype) if isinstance(picture, np.ndarray) else picture.new_zeros(shape)
        roi[self._place()] = picture
        return roi

    def _place(self) -> tuple:
        left = self.geometry.margin
        return ..., slice(self.top, self.top + self.height), slice(left, left + self.geometry.crop)


def plain_pictures(view: View, rois: Tensor) -> tuple[Tensor, ...]:
    """Cut pictures without any change, for validation and reading.

    Parameters
    ----------
    view : View
        What to cut.
    rois : Tensor, shape (..., S, S), uint8
        ROIs.

    Returns
    -------
    tuple of Tensor, shapes (..., rows, columns), float32
        In [0, 1], not standardised.
    """
    return tuple(picture.to(torch.float32) / 255 for picture in view.cut(rois))


def turned(rois: Grey, degrees: float) -> Grey:
    """Turn ROIs about their centre, for another look at them.

    Parameters
    ----------
    rois : ndarray, shape (N, S, S), uint8 or float32
        ROIs.
    degrees : float
        Counter-clockwise as seen.

    Returns
    -------
    ndarray, shape (N, S, S), of the same type
        Between pixels linear; what comes in at the border repeats the border.
    """
    matrix = turn_about_middle(rois.shape[1:], degrees)
    return np.stack([cv2.warpAffine(roi, matrix, roi.shape[::-1], borderMode=cv2.BORDER_REPLICATE) for roi in rois])


def turned_from(shown: NDArray[np.bool_], degrees: float) -> NDArray[np.bool_]:
    """Say which pixels of a ROI go into the given pixels of the turned one.

    Parameters
    ----------
    shown : ndarray, shape (S, S), bool
        Pixels of what `turned` returns.
    degrees : float
        As of `turned`.

    Returns
    -------
    ndarray, shape (S, S), bool
        Pixels of what it was given.
    """
    # turned, the coordinates of the pixels say where each has come from; rounded, as interpolation spoils the last bits
    y, x = turned(np.indices(shown.shape, np.float32), degrees)[:, shown].round(3)
    sources = np.zeros_like(shown)
    for down, right in product((np.floor, np.ceil), repeat=2):
        sources[down(y).astype(int), right(x).astype(int)] = True
    return sources
