"""From a radiograph to a reading: find the knees, cut their ROIs, grade them. The only importer of `kneel.localize`."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from deepknee.attention import Method
from deepknee.ensemble import Grader
from deepknee.grade import Grade
from deepknee.knee_reading import KneeReading, Reading, ReadingError
from deepknee.model import GRADES
from deepknee.shared import SharedGrader
from deepknee.weights import Weights, WeightsError, find_weights
from kneel.imaging.dicom import read_radiograph
from kneel.imaging.geometry import RoiFrame, Spacing, millimetres_per_pixel, turn_points_over
from kneel.imaging.polarity import inverted, knees_are_dark
from kneel.imaging.radiograph import Radiograph, normalize_percentiles
from kneel.imaging.tags import is_frontal
from kneel.localize import KneeLocalizer, LocatedKnee
from kneel.measure import KneeMeasures, measure_knee

DEVICES = ("auto", "cpu", "cuda")
_OUTSIDE_SHARE = 0.1  # of the ROI: the joint itself fills about half of it


class DeviceError(ValueError):
    """A device that is not known or not there."""


def read_knees(radiograph: Radiograph, localizer: KneeLocalizer, grader: Grader) -> Reading:
    """Find and grade the knees of a film.

    Parameters
    ----------
    radiograph : Radiograph
        The film.
    localizer : KneeLocalizer
        Finds the knees and their landmarks.
    grader : Grader
        Grades their ROIs.

    Returns
    -------
    Reading
        Without knees when none was found: that is not an error here.

    Raises
    ------
    ReadingError
        A network answered with numbers that are no reading (not finite, probabilities that do not sum to 1), or two
        knees of one side.
    """
    if not radiograph.rows_reversed:
        return _read(radiograph, localizer, grader)
    # headers err, and networks see knees in many a picture that is upside down, but less surely
    turned, stored = (_read(film, localizer, grader) for film in (radiograph.turned_over(), radiograph))
    if _surest(stored) > _surest(turned):
        knees = [replace(knee, flags=("orientation_uncertain", *knee.flags)) for knee in stored.knees]
    else:
        knees = [_turned_over(knee, radiograph.pixels.shape[0]) for knee in turned.knees]
    return Reading(radiograph, tuple(knees))


def _surest(reading: Reading) -> float:
    return max((knee.confidence for knee in reading.knees), default=0.0)


def _turned_over(knee: KneeReading, height: int) -> KneeReading:
    """Say where a knee that was read on the film turned over lies on the film."""
    x, y = turn_points_over(knee.center, height)
    return replace(
        knee,
        landmarks=turn_points_over(knee.landmarks, height),
        center=(float(x), float(y)),
        frame=knee.frame.turned_over(height),
        flags=("upside_down", *knee.flags),
    )


def _read(radiograph: Radiograph, localizer: KneeLocalizer, grader: Grader) -> Reading:
    """Find and grade the knees of a film as its rows stand."""
    located, film = _locate(radiograph, localizer)
    if knees_are_dark(film, [knee.landmarks for knee in located]):
        again, film = _locate(inverted(radiograph), localizer)
        located = [replace(knee, flags=("dark_bone", *knee.flags)) for knee in again or located]
    if not located:
        return Reading(radiograph, ())
    frames = [
        grader.frame(knee.landmarks, radiograph.roi_spacing_mm or knee.spacing_mm, radiograph.look_of(knee.side))
        for knee in located
    ]
    rois = np.stack([frame.crop(film) for frame in frames])
    grade = grader.predict(rois)
    if grader.geometry.follow == "centre" and radiograph.spacing_kind == "calibrated" and not radiograph.detector_mm:
        located = [replace(knee, flags=(*knee.flags, "smaller_than_trained")) for knee in located]
    knees = zip(located, frames, rois, range(len(rois)), strict=True)
    return Reading(radiograph, tuple(_knee(radiograph, *parts, grade) for parts in knees))


@dataclass(frozen=True)
class Reader:
    """Reads films with one set of weights.

    Attributes
    ----------
    localizer : KneeLocalizer
        Finds the knees and their landmarks.
    grader : Grader
        Grades their ROIs.
    weights : Weights or None
        Where both come from.
    """

    localizer: KneeLocalizer
    grader: Grader
    weights: Weights | None = None

    def read(self, source: Any, *, spacing_mm: float | Spacing | None = None, frame: int | None = None) -> Reading:
        """Read one film.

        Parameters
        ----------
        source : path_like, bytes, binary file or pydicom.Dataset
            A DICOM file or a picture, as for `kneel.imaging.dicom.read_radiograph`.
        spacing_mm : float or (float, float), optional
            Spacing, or (row, column) spacing, in mm; goes before that of the file.
        frame : int, optional
            Which frame of a file with several.

        Returns
        -------
        Reading
            The film and its knees, if any.

        Raises
        ------
        RadiographError
            The film cannot be read.
        ReadingError
            The film can be read, its knees cannot.
        """
        return read_knees(read_radiograph(source, spacing_mm=spacing_mm, frame=frame), self.localizer, self.grader)

    def shared(self, most: int) -> Reader:
        """Make a reader that several threads may use at once.

        Films are decoded, cut and drawn in their own threads, while the networks, one call after another, answer what
        the threads ask of them. What is asked while they are busy is answered together: batches across films.

        Parameters
        ----------
        most : int
            Pictures of different films that pass the networks together; with 1, the answers are the same bits as
            without sharing.

        Returns
        -------
        Reader
            On the same networks.
        """
        turn = threading.Lock()
        return Reader(self.localizer.shared(turn, most), SharedGrader(self.grader, turn, most), self.weights)


def load_reader(
    weights: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Weights | None = None,
    device: str = "auto",
    attention: Method = "gradcam",
) -> Reader:
    """Load the networks once, to read any number of films.

    Parameters
    ----------
    weights : path_like, sequence of path_like, or Weights, optional
        Folder of snapshots, or several; by default what `deepknee.weights.find_weights` finds.
    device : {"auto", "cpu", "cuda"}
        Where the networks run; ``"auto"`` takes a CUDA device when there is one.
    attention : {"gradcam", "hirescam", "integrated"}
        How the maps of attention are worked out; see `deepknee.attention`.

    Returns
    -------
    Reader
        Ready to read.

    Raises
    ------
    WeightsError
        No weights, damaged ones, or not those of one localiser and one grader; says what to do.
    DeviceError
        Another device than these, or ``"cuda"`` where there is none.
    """
    chosen = weights if isinstance(weights, Weights) else find_weights(weights)
    place = choose_device(device)
    try:
        localizer = KneeLocalizer.from_snapshots(chosen.paths("lc"), chosen.paths("hc"), device=place)
        grader = Grader.from_snapshots(chosen.paths("kl"), device=place, attention=attention)
    except ValueError as error:
        raise WeightsError(str(error)) from error
    return Reader(localizer, grader, chosen)


def choose_device(device: str) -> str:
    """Say which torch device a choice stands for: ``"cpu"`` or ``"cuda"``.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda"}
        The choice.

    Raises
    ------
    DeviceError
        Another device than these, or ``"cuda"`` where there is none.
    """
    if device not in DEVICES:
        raise DeviceError(f"device is {device!r}: must be one of {', '.join(DEVICES)}")
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise DeviceError("device is 'cuda': torch finds no CUDA device here; choose 'auto' or 'cpu'")
    return "cuda" if available and device != "cpu" else "cpu"


def _locate(radiograph: Radiograph, localizer: KneeLocalizer) -> tuple[list[LocatedKnee], NDArray[np.uint8]]:
    """Find the knees, check that they can be some, and return them with the film as the graders see it."""
    film = normalize_percentiles(radiograph.pixels, padding=radiograph.padding)
    located = list(localizer.locate(radiograph, film))
    sides = [knee.side for knee in located]
    if len(set(sides)) != len(sides) or not set(sides) <= {"L", "R"}:
        raise ReadingError(f"{radiograph.source}: sides of the knees are {sides}: must be L, R or one of each")
    for knee in located:
        if np.shape(knee.landmarks) != (16, 2) or not np.isfinite(knee.landmarks).all():
            raise ReadingError(f"{radiograph.source}: landmarks of knee {knee.side} are not 16 finite points")
    return located, _display(film)


def _knee(
    radiograph: Radiograph,
    located: LocatedKnee,
    frame: RoiFrame,
    roi: NDArray[np.uint8],
    number: int,
    grade: Grade,
) -> KneeReading:
    chances, points = np.asarray(grade.probabilities[number], float), np.asarray(located.landmarks, float)
    # argmax of NaN is 0: without this check a broken network would call every knee healthy
    if chances.shape != (GRADES,) or not abs(chances.sum() - 1) < 1e-3 or not (chances >= 0).all():
        raise ReadingError(f"{radiograph.source}: probabilities of knee {located.side} are {chances}: must sum to 1")
    return KneeReading(
        side=located.side,
        kl=int(chances.argmax()),
        probabilities=chances,
        landmarks=points,
        spread_px=np.asarray(located.spread_px, float),
        attention=np.asarray(grade.attention[number], np.float32),
        roi=roi,
        frame=frame,
        center=(float(located.center[0]), float(located.center[1])),
        confidence=float(located.confidence),
        spacing_mm=radiograph.spacing_mm,
        spacing_kind=radiograph.spacing_kind,
        measures=_measure(points, radiograph.spacing_mm, mirrored=frame.mirrored),
        flags=tuple(dict.fromkeys([*located.flags, *_flags(radiograph, frame)])),
        grade_set=() if grade.sets is None else tuple(np.flatnonzero(grade.sets[number]).tolist()),
        coverage=None if grade.conformal is None else grade.conformal.coverage,
        abstain=None if grade.abstain is None else bool(grade.abstain[number]),
    )


def _measure(points: NDArray[np.float64], spacing_mm: Spacing | None, *, mirrored: bool) -> KneeMeasures:
    """Measure a knee in mm, or as shares of its tibial width."""
    scale = np.ones(2) if spacing_mm is None else millimetres_per_pixel(spacing_mm)
    measures = measure_knee(points * scale * (-1 if mirrored else 1, 1))
    if spacing_mm is not None:
        return measures
    lengths = {name: value / measures.tibial_width for name, value in measures._asdict().items() if name != "jlca_deg"}
    return measures._replace(**lengths)


def _flags(radiograph: Radiograph, frame: RoiFrame) -> list[str]:
    corners = frame.to_image(np.array([(0, 0), frame.size]) - 0.5)
    low, high = np.sort(corners, axis=0)
    last = np.array(radiograph.pixels.shape[::-1]) - 0.5
    inside = np.clip(np.minimum(high, last) - np.maximum(low, -0.5), 0, None)
    flags = ["roi_outside_film"] if 1 - inside.prod() / (high - low).prod() > _OUTSIDE_SHARE else []
    if radiograph.side_contradicted:
        flags.append("side_uncertain")
    if radiograph.on_side is not None:
        flags.append("on_side")
    if radiograph.magnification_ignored:
        flags.append("magnification_ignored")
    if radiograph.other_view is not None:  # a header that contradicts itself names no view
        flags.append("view_uncertain")
    elif radiograph.view is not None and not is_frontal(radiograph.view):
        flags.append("view_not_ap_pa")
    return flags


def _display(film: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[0, 1] to 0..255, to the nearest."""
    return cast(NDArray[np.uint8], cv2.convertScaleAbs(film, alpha=255))
