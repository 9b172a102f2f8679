"""A plain radiograph in memory, and the one intensity normalisation that every network sees."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from kneel.imaging.geometry import Side

SpacingKind = Literal["calibrated", "detector", "demagnified", "given", "none"]
Laterality = Literal["L", "R", "B"]

_EXACT_COUNT = 2**24
"""``cv2.calcHist`` answers in float32, which counts exactly up to here: larger images are counted in bands."""


class RadiographError(ValueError):
    """A film that cannot be read: the text names the file, the tag, its value and what would be valid.

    Attributes
    ----------
    problem : str
        What is wrong, without the file.
    source : str or None
        The file, when known.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.source: str | None = None

    def __str__(self) -> str:
        return self.problem if self.source is None else f"{self.source}: {self.problem}"


@dataclass(frozen=True, eq=False)
class Radiograph:
    """One film: bright-bone grey levels and what its header says about them.

    Attributes
    ----------
    pixels : ndarray of uint8 or uint16, shape (H, W)
        Read-only grey levels in arbitrary linear units, dense bone brighter than air whatever the file's polarity
        was. Row 0 is the top, column 0 the left of the film as stored: nothing is mirrored here. Padding is 0.
    spacing_mm : (float, float) or None
        Distance of neighbouring rows, then of neighbouring columns, in millimetres.
    spacing_kind : {"calibrated", "detector", "demagnified", "given", "none"}
        ``calibrated``: millimetres in the patient. ``detector``: millimetres at the detector, which magnifies a knee
        by some 5-15 %. ``demagnified``: the detector's, divided by the file's magnification factor. ``given``: by the
        caller. ``none``: not known.
    magnification_ignored : bool
        Whether the file has a magnification factor by which the detector's millimetres were not divided.
    detector_mm : (float, float) or None
        As `spacing_mm`, at the detector, whatever was divided out or calibrated; None when the file does not say it,
        or the caller gave another.
    laterality : {"L", "R", "B"} or None
        Side(s) on the film as its tags say, or a picture's file name; never guessed from the picture.
    side_from_name : bool
        Whether `laterality` is the last letter of a file name like ``9001695L.png``.
    view : str or None
        ``AP``, ``PA`` or another view as its tags say.
    side_contradicted : bool
        Whether two tags of the header name different sides; `laterality` is the picture's own.
    other_view : str or None
        What another tag says where it contradicts `view`: one of both is AP or PA, and the other is neither.
    modality, sop_class_uid, sop_instance_uid, study_instance_uid, series_instance_uid, patient_id : str or None
        As in the header; None when absent or empty.
    columns_reversed : bool
        True when Patient Orientation says that columns run towards the patient's right, so that the LEFT edge of the
        film is the patient's left: a film seen from behind.
    rows_reversed : bool
        True when Patient Orientation says that rows run towards the patient's head, so that the TOP of the film is the
        patient's feet: a film that lies upside down.
    on_side : str or None
        Patient Orientation, such as ``F\\R``, where it says that the film lies on its side; None otherwise.
    padding : ndarray of bool, shape (H, W), or None
        True where the detector saw nothing. None when no pixel is padding.
    source : str
        Where it was read from.
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    spacing_mm: tuple[float, float] | None = None
    spacing_kind: SpacingKind = "none"
    laterality: Laterality | None = None
    view: str | None = None
    other_view: str | None = None
    side_contradicted: bool = False
    modality: str | None = None
    sop_class_uid: str | None = None
    sop_instance_uid: str | None = None
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    patient_id: str | None = None
    side_from_name: bool = False
    columns_reversed: bool = False
    rows_reversed: bool = False
    on_side: str | None = None
    padding: NDArray[np.bool_] | None = None
    source: str = "<memory>"
    detector_mm: tuple[float, float] | None = None
    magnification_ignored: bool = False

    @property
    def roi_spacing_mm(self) -> tuple[float, float] | None:
        """Spacing that the ROIs of graders are cut by, in training and in reading: at the detector where that is known.

        Films of OAI and MOST say no other, and the authors of both networks cut by it.
        """
        return self.spacing_mm if self.detector_mm is None else self.detector_mm

    def look_of(self, side: Side) -> Side:
        """Say which side a knee of the given side looks like on this film, and the reverse.

        Parameters
        ----------
        side : {"L", "R"}
            Laterality of a knee; or its look, for the answer to be its laterality.

        Returns
        -------
        {"L", "R"}
            ``"R"`` when its lateral end lies at small x. On a film seen from behind left knees look like right ones.
        """
        if not self.columns_reversed:
            return side
        return "R" if side == "L" else "L"

    def turned_over(self) -> Radiograph:
        """Return the film with its last row first; points move by `kneel.imaging.geometry.turn_points_over`."""
        pixels = self.pixels[::-1].copy()
        pixels.flags.writeable = False
        padding = None if self.padding is None else self.padding[::-1].copy()
        return replace(self, pixels=pixels, padding=padding, rows_reversed=not self.rows_reversed)


def normalize_percentiles(
    pixels: NDArray[np.uint8] | NDArray[np.uint16],
    low: float = 5,
    high: float = 99,
    *,
    padding: NDArray[np.bool_] | None = None,
    measured: NDArray[np.uint8] | NDArray[np.uint16] | None = None,
) -> NDArray[np.float32]:
    """Clip grey levels at two percentiles and scale them to [0, 1].

    The same as clipping at ``np.percentile(pixels, [low, high])``, but the percentiles are read off the histogram and
    the result off a table with one entry per grey level, so that a film is walked twice instead of sorted.

    Parameters
    ----------
    pixels : ndarray of uint8 or uint16, shape (H, W)
        Grey levels.
    low, high : float
        Percentiles, ``0 <= low < high <= 100``.
    padding : ndarray of bool, shape (H, W), optional
        True where there is no exposure: not counted in the percentiles, and 0 in the result.
    measured : ndarray of the type of `pixels`, shape (h, w), optional
        Take the percentiles of these grey levels instead, such as a part of the picture.

    Returns
    -------
    ndarray of float32, shape (H, W)
        Values in [0, 1]. Where both percentiles fall on one grey level, the limit of ever closer percentiles: 0 up to
        that level and 1 above it; so a constant image is 0 throughout, and so is an image that is all padding.

    Raises
    ------
    TypeError
        If ``pixels`` is not uint8 or uint16, ``measured`` is of another type, or ``padding`` is not bool.
    ValueError
        If ``pixels`` is not two-dimensional, the shapes differ or the percentiles are not in order.

    Examples
    --------
    >>> normalize_percentiles(np.array([[0, 5, 10, 20]], np.uint8), 0, 100)
    array([[0.  , 0.25, 0.5 , 1.  ]], dtype=float32)
    """
    _check_arguments(pixels, low, high, padding)
    if measured is not None and measured.dtype != pixels.dtype:
        raise TypeError(f"measured is {measured.dtype}; {pixels.dtype}, as the pixels are, is valid")
    histogram = _count_levels(pixels, padding) if measured is None else _count_levels(measured, None)
    lowest, highest = (_percentile_of(histogram, q) for q in (low, high))
    levels = np.arange(histogram.size)
    step = highest == lowest
    table = levels > lowest if step else np.clip((levels - lowest) / (highest - lowest), 0, 1)
    result = cast(NDArray[np.float32], cv2.LUT(pixels, table.astype(np.float32)))
    if padding is not None:
        result[padding] = 0
    return result


def _check_arguments(pixels: NDArray, low: float, high: float, padding: NDArray | None) -> None:
    """Refuse what ``normalize_percentiles`` does not promise to handle."""
    if pixels.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"pixels are {pixels.dtype}; uint8 or uint16 are valid")
    if pixels.ndim != 2 or pixels.size == 0:
        raise ValueError(f"pixels have shape {pixels.shape}; (H, W) with at least one pixel is valid")
    if not 0 <= low < high <= 100:
        raise ValueError(f"percentiles are {low} and {high}; 0 <= low < high <= 100 is valid")
    if padding is not None and padding.dtype != np.bool_:
        raise TypeError(f"padding is {padding.dtype}; bool is valid")
    if padding is not None and padding.shape != pixels.shape:
        raise ValueError(f"padding has shape {padding.shape}; that of the pixels, {pixels.shape}, is valid")


def _count_levels(pixels: NDArray, padding: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    """Return how many pixels that are not padding have each grey level."""
    levels = 2 ** (8 * pixels.itemsize)
    histogram = np.zeros(levels, np.int64)
    band = max(1, _EXACT_COUNT // pixels.shape[1])
    for top in range(0, len(pixels), band):
        rows = pixels[top : top + band]
        mask = None if padding is None else (~padding[top : top + band]).view(np.uint8)
        histogram += cv2.calcHist([rows], [0], mask, [levels], [0, levels]).ravel().astype(np.int64)
    return histogram


def _percentile_of(histogram: NDArray[np.int64], q: float) -> float:
    """Return the q-th percentile, linear between the two nearest ranks as ``np.percentile`` has it; 0 of nothing."""
    cumulative = histogram.cumsum()
    last = int(cumulative[-1]) - 1
    if last < 0:
        return 0.0
    rank = q / 100 * last
    below = int(rank)
    left, right = np.searchsorted(cumulative, [below, min(below + 1, last)], side="right")
    return float(left + (rank - below) * (right - left))
