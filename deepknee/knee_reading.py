"""What is read off a film: knees with their grade, landmarks, measures and map of attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kneel.imaging.geometry import RoiFrame, Side, Spacing
from kneel.imaging.radiograph import Radiograph, SpacingKind
from kneel.measure import KneeMeasures


class ReadingError(ValueError):
    """A film whose knees cannot be read although the film itself can."""


LengthUnit = Literal["mm", "tibial width"]


@dataclass(frozen=True, eq=False)
class KneeReading:
    """One knee of a film.

    Attributes
    ----------
    side : {"L", "R"}
        Laterality.
    kl : int
        Kellgren-Lawrence grade of the largest probability, 0 to 4.
    probabilities : ndarray, shape (5,)
        Of the grades 0 to 4; sum 1.
    landmarks : ndarray, shape (16, 2)
        (x, y) in film pixels, order of `kneel.imaging.schema.LANDMARKS`.
    spread_px : ndarray, shape (16,)
        How uncertain each landmark is, in film pixels.
    attention : ndarray, shape (S, S), float32
        Where the grade comes from, in [0, 1] on the grid of `roi`; see `deepknee.attention`.
    roi : ndarray, shape (S, S), uint8
        What the grading networks saw: upright, lateral at small x, so left knees of an ordinary film are mirrored.
    frame : RoiFrame
        Where `roi` and `attention` lie on the film.
    center : (float, float)
        (x, y) of the joint centre in film pixels.
    confidence : float
        Of the localiser, 0 to 1.
    spacing_mm : (float, float) or None
        (row, column) spacing of the film in mm; None when the film has none, whatever scale the ROI was given.
    spacing_kind : {"calibrated", "detector", "demagnified", "given", "none"}
        Where the spacing comes from; see `kneel.imaging.radiograph.Radiograph`.
    measures : KneeMeasures
        Joint space, alignment, widths; lengths in `length_unit`.
    flags : tuple of str
        What to know before trusting the reading: those of `kneel.localize.LocatedKnee`, ``view_not_ap_pa`` when the
        header names another view, ``view_uncertain`` instead when one tag names such a view and another does not,
        ``smaller_than_trained`` when the grader's ROI has a width in mm and the header tells the patient's alone,
        ``magnification_ignored`` when the header has a magnification factor by which nothing was divided,
        ``roi_outside_film`` when more than a tenth of the ROI has no picture, ``dark_bone`` when the film was read
        inverted (`kneel.imaging.polarity`), and where the header says that the film lies upside down ``upside_down``
        when it was read turned over, ``orientation_uncertain`` when the knees say otherwise; ``on_side`` where it says
        that the film lies on its side, which is not looked into.
    grade_set : tuple of int
        Neighbouring grades, among them `kl`, one of which is the true grade with a probability of `coverage` (see
        `deepknee.conformal`); empty where the grader has no threshold.
    coverage : float or None
        As above; None without a set.
    abstain : bool or None
        Whether the set is too large to name a single grade, so that `kl` is no more than the likeliest; None without a
        set.
    """

    side: Side
    kl: int
    probabilities: NDArray[np.float64]
    landmarks: NDArray[np.float64]
    spread_px: NDArray[np.float64]
    attention: NDArray[np.float32]
    roi: NDArray[np.uint8]
    frame: RoiFrame
    center: tuple[float, float]
    confidence: float
    spacing_mm: Spacing | None
    spacing_kind: SpacingKind
    measures: KneeMeasures
    flags: tuple[str, ...]
    grade_set: tuple[int, ...] = ()
    coverage: float | None = None
    abstain: bool | None = None

    @property
    def length_unit(self) -> LengthUnit:
        """Millimetres as `spacing_kind` has them; shares of the knee's own tibial width where there is no spacing."""
        return "tibial width" if self.spacing_mm is None else "mm"


@dataclass(frozen=True, eq=False)
class Reading:
    """A film and its knees.

    Attributes
    ----------
    radiograph : Radiograph
        The film with its metadata; holds the pixels, so keep only `knees` when you read thousands.
    knees : tuple of KneeReading
        None, one or two; the right knee first.
    """

    radiograph: Radiograph
    knees: tuple[KneeReading, ...]
