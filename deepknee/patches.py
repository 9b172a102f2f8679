"""Where the network looks: the window of a knee (ROI) and its lateral and medial patches.

A ROI shows a right knee, or a left one mirrored: lateral is at small x. The medial patch is mirrored once more, so that
the joint margin is at small x in both patches and one branch can read either.
"""

from collections.abc import Sequence
from typing import Literal, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from kneel.engine.config import Settings
from kneel.imaging.geometry import RoiFrame, Side, Spacing, millimetres_per_pixel
from kneel.imaging.schema import CENTER

TIBIAL_WIDTH_MM = 79.0  # mean of KNEEL's 748 annotated knees, at the detector
_PLATEAUS_AND_CONDYLES = [1, 2, 6, 7, 10, 14]

Array = TypeVar("Array", np.ndarray, torch.Tensor)


class PatchGeometry(Settings):
    """Size and place of the ROI and of its two patches; the default is that of the 2018 paper.

    Attributes
    ----------
    follow
        What the ROI is laid by. ``centre``: by the joint centre (landmark `kneel.imaging.schema.CENTER`) and the film's
        spacing at the detector (`Radiograph.roi_spacing_mm`), as in 2018. ``landmarks``: by `joint_middle`, and every
        knee is scaled to a tibial width of `TIBIAL_WIDTH_MM`, so that films without spacing are cut alike and small and
        large knees fill the ROI alike; all millimetres below are then those of such a knee.
    roi_mm
        Width and height of the ROI in mm.
    roi_px
        The same in pixels.
    joint_mm
        (x, y) of the joint (its centre or middle, see `follow`) from the middle of the ROI, in mm; x towards medial, y
        downwards.
    crop
        Width and height in pixels of the square from which patches are cut. It lies in the middle of the ROI; the rim
        around it is room for jitter.
    patch
        Width and height of a patch in pixels. The lateral one touches the lateral border of the crop, the medial one
        the medial border.
    top
        First row of both patches, counted in the crop.
    """

    follow: Literal["centre", "landmarks"] = "centre"
    roi_mm: float = Field(140.0, gt=0)
    roi_px: int = Field(350, ge=1)
    joint_mm: tuple[float, float] = (0.0, 0.0)
    crop: int = Field(300, ge=1)
    patch: int = Field(128, ge=1)
    top: int = Field(100, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.crop > self.roi_px or (self.roi_px - self.crop) % 2:
            raise ValueError(f"crop = {self.crop} must be at most roi_px = {self.roi_px} and leave an even rim")
        if 2 * self.patch > self.crop:
            raise ValueError(f"patch = {self.patch}: two of them must fit side by side into crop = {self.crop}")
        if self.top + self.patch > self.crop:
            raise ValueError(f"top = {self.top} + patch = {self.patch} must be at most crop = {self.crop}")
        return self

    @property
    def margin(self) -> int:
        """Pixels of ROI on every side of the crop: the furthest that a jittered crop can move."""
        return (self.roi_px - self.crop) // 2

    @property
    def spacing_mm(self) -> float:
        """Millimetres per ROI pixel."""
        return self.roi_mm / self.roi_px

    def frame_of(self, landmarks: NDArray[np.float64], spacing_mm: Spacing, side: Side) -> RoiFrame:
        """Lay the ROI around a knee.

        Parameters
        ----------
        landmarks : ndarray, shape (16, 2)
            (x, y) in film pixels, order of `kneel.imaging.schema.LANDMARKS`.
        spacing_mm : (float, float)
            (row, column) spacing of the film in mm; with ``follow = landmarks`` only its ratio counts.
        side : {"L", "R"}
            What the knee looks like on the film; the ROI of a left one is mirrored.

        Returns
        -------
        RoiFrame
            Of `roi_px` x `roi_px` pixels.

        Raises
        ------
        ValueError
            The landmarks have no tibial width to be scaled by.
        """
        if self.follow == "centre":
            return self.frame(landmarks[CENTER], spacing_mm, side)
        width = float(np.linalg.norm((landmarks[8] - landmarks[0]) * millimetres_per_pixel(spacing_mm)))
        if not width > 0:
            raise ValueError(f"landmarks {landmarks[[0, 8]].tolist()} of the tibial edges: must lie apart")
        row, column = (value * TIBIAL_WIDTH_MM / width for value in spacing_mm)
        return self.frame(joint_middle(landmarks), (row, column), side)

    def frame(self, center: Sequence[float] | NDArray[np.float64], spacing_mm: Spacing, side: Side) -> RoiFrame:
        """Lay the ROI around a point.

        Parameters
        ----------
        center : (float, float)
            (x, y) of the joint in film pixels.
        spacing_mm : (float, float)
            (row, column) spacing of the film in mm.
        side : {"L", "R"}
            Laterality; the ROI of a left knee is mirrored.

        Returns
        -------
        RoiFrame
            Of `roi_px` x `roi_px` pixels.
        """
        medial = -1 if side == "L" else 1  # a right knee's medial side is at large x, a left knee's at small x
        offset = np.array([medial * self.joint_mm[0], self.joint_mm[1]]) / millimetres_per_pixel(spacing_mm)
        middle = np.asarray(center, float) - offset
        return RoiFrame.around(middle, self.roi_mm, spacing_mm, side=side, roi_spacing_mm=self.spacing_mm)

    def split_compartments(self, roi: Array) -> tuple[Array, Array]:
        """Cut the lateral and the medial patch out of ROIs.

        Parameters
        ----------
        roi : ndarray or Tensor, shape (..., roi_px, roi_px)
            ROIs with lateral at small x.

        Returns
        -------
        lateral, medial : ndarray or Tensor, shape (..., patch, patch)
            The medial patch is mirrored.

        Raises
        ------
        ValueError
            The ROI has another size.
        """
        if tuple(roi.shape[-2:]) != (self.roi_px, self.roi_px):
            raise ValueError(f"ROI has shape {tuple(roi.shape)}: must end in {self.roi_px} x {self.roi_px}")
        rows, lateral, medial = self._windows()
        return roi[..., rows, lateral], roi[..., rows, medial]

    def merge_compartments(self, lateral: Array, medial: Array) -> Array:
        """Lay two patches back to where they were cut, the inverse of `split_compartments`.

        Parameters
        ----------
        lateral, medial : ndarray or Tensor, shape (..., patch, patch)
            The medial patch mirrored, as `split_compartments` returns it.

        Returns
        -------
        ndarray or Tensor, shape (..., roi_px, roi_px)
            Zero outside the patches.

        Raises
        ------
        ValueError
            The patches have another size or differ in shape.
        """
        if lateral.shape != medial.shape or tuple(lateral.shape[-2:]) != (self.patch, self.patch):
            found = f"patches have shapes {tuple(lateral.shape)} and {tuple(medial.shape)}"
            raise ValueError(f"{found}: both must end in {self.patch} x {self.patch}")
        shape = (*lateral.shape[:-2], self.roi_px, self.roi_px)
        roi = np.zeros(shape, lateral.dtype) if isinstance(lateral, np.ndarray) else lateral.new_zeros(shape)
        rows, lateral_columns, medial_columns = self._windows()
        roi[..., rows, lateral_columns] = lateral
        roi[..., rows, medial_columns] = medial
        return roi

    def _windows(self) -> tuple[slice, list[int], list[int]]:
        """ROI rows of both patches and ROI columns of each; the medial columns run backwards, which mirrors."""
        first = self.margin + self.top
        left, right = self.margin, self.margin + self.crop
        return (
            slice(first, first + self.patch),
            list(range(left, left + self.patch)),
            list(range(right - 1, right - 1 - self.patch, -1)),
        )


def joint_middle(landmarks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a point in the middle of the joint that no single landmark decides.

    Parameters
    ----------
    landmarks : ndarray, shape (..., 16, 2)
        (x, y), order of `kneel.imaging.schema.LANDMARKS`.

    Returns
    -------
    ndarray, shape (..., 2)
        x half-way between the tibial edges (0, 8); y the mean of plateaus and condyles (1, 2, 6, 7, 10, 14).
    """
    x = landmarks[..., [0, 8], 0].mean(-1)
    return np.stack([x, landmarks[..., _PLATEAUS_AND_CONDYLES, 1].mean(-1)], -1)
