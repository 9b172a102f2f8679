"""Finding the knees of a film and their 16 landmarks.

The joint-centre network (LC) looks at the two halves of a film and at the whole of it; the landmark network (HC) looks
at a 140 mm ROI around each centre, and once more around the centre that it found itself. A knee is believed when its
heat maps are sharp and its points look like a knee.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from kneel.imaging.geometry import Side, Spacing, millimetres_per_pixel
from kneel.imaging.radiograph import Radiograph, normalize_percentiles
from kneel.imaging.schema import CENTER
from kneel.shape import Alignment
from kneel.stage import Picture, Stage
from kneel.windows import Part, search_window

# each of these brings the confidence down by e^-1/2: heat maps so many times as wide as on an ordinary knee,
# points so many times as far from the mean knee as the training knees are
WIDE, ODD = 3.0, 2.0
MIN_CONFIDENCE = 0.1
DOUBTFUL = 0.5
CLEAR_LOOK = 1.08  # a look is clear when the landmarks of the other one are at least so much less sharp
TWO_KNEES_MM = 300.0  # films from this width on are made for two knees
MIN_SEPARATION_MM = 80.0  # of two joint centres on one film; knees are wider than that
# heights in mm tried for a film without spacing: from a strip along the joint to a 43 cm cassette
NOMINAL_HEIGHTS_MM = (65.0, 100.0, 145.0, 210.0, 300.0, 430.0)
WIDE_FILM = 1.25  # width / height from which a film without spacing is expected to show two knees
WIDEST_MM = 1500.0  # no nominal height makes a film wider than that
CLOSE_SIZE = 0.05  # a scale whose knees are so near to the mean size is not corrected any more
SURE = 0.8  # confidence at which no other scale of a film without spacing is tried
PLAUSIBLE_SCALE = (0.7, 1.4)  # size of a knee against the mean; beyond it the spacing is doubted


@dataclass(frozen=True)
class JointCenter:
    """Where a knee seems to be.

    Attributes
    ----------
    side : {"L", "R"}
        What the knee looks like: ``"R"`` has its lateral side at small x, ``"L"`` was mirrored for the network.
    center : (float, float)
        (x, y) in film pixels.
    spread_mm : float
        Root mean square radius of the heat map.
    """

    side: Side
    center: tuple[float, float]
    spread_mm: float


@dataclass(frozen=True)
class LocatedKnee:
    """A knee and its landmarks.

    Attributes
    ----------
    side : {"L", "R"}
        Laterality.
    center : (float, float)
        Joint centre (landmark `CENTER`), (x, y) in film pixels.
    landmarks : ndarray, shape (16, 2)
        (x, y) in film pixels, order of `kneel.imaging.schema.LANDMARKS`.
    spread_px : ndarray, shape (16,)
        Root mean square radius of each heat map, film pixels.
    confidence : float
        In [0, 1]; 1 is a mean knee with sharp heat maps. Not a probability, and it says little of the side: a knee
        seen the wrong way round is nearly as sure.
    spacing_mm : (float, float)
        (row, column) mm per film pixel that the ROI was cut with; nominal where the film has none.
    flags : tuple of str
        What a reader should know: ``nominal_scale``, ``side_from_position``, ``side_from_name``, ``side_from_image``,
        ``side_uncertain``, ``more_knees_than_named``, ``low_confidence``, ``implausible_size``, ``reversed_columns``.
    """

    side: Side
    center: tuple[float, float]
    landmarks: NDArray[np.float64]
    spread_px: NDArray[np.float64]
    confidence: float
    spacing_mm: Spacing
    flags: tuple[str, ...] = ()


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
    centers = []
    for part, side in parts:
        window = search_window(film, part, spacing_mm, side=side, window_spacing_mm=stage.spacing_mm)
        points, spread = stage(window.picture)
        x, y = window.frame.to_image(points[0])
        centers.append(JointCenter(side, (float(x), float(y)), float(spread[0]) * stage.spacing_mm))
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
    for _ in range(passes):
        frame = stage.frame(np.asarray(center, float), spacing_mm, side)
        points, spread = stage(frame.crop(film))
        landmarks = frame.to_image(points)
        center = landmarks[CENTER]
    return landmarks, spread * float(np.sqrt(frame.scale[0] * frame.scale[1]))


class KneeLocalizer:
    """Both stages: a film goes in, its knees come out.

    Parameters
    ----------
    lc : Stage
        Joint-centre networks.
    hc : Stage
        Landmark networks, with their mean shape.
    """

    def __init__(self, lc: Stage, hc: Stage) -> None:
        if hc.shape is None:
            raise ValueError("the landmark networks come without a mean shape; knees could not be told from noise")
        self.lc, self.hc, self.shape = lc, hc, hc.shape

    @classmethod
    def from_snapshots(
        cls, lc: Sequence[Path], hc: Sequence[Path], *, device: torch.device | str = "cpu"
    ) -> KneeLocalizer:
        """Rebuild both stages from snapshot files; see `Stage.from_snapshots`."""
        where = torch.device(device)
        return cls(
            Stage.from_snapshots(lc, "lc", device=where),
            Stage.from_snapshots(hc, "hc", device=where),
        )

    def locate(self, radiograph: Radiograph) -> list[LocatedKnee]:
        """Find 0, 1 or 2 knees.

        Parameters
        ----------
        radiograph : Radiograph
            The film.

        Returns
        -------
        list of LocatedKnee
            The patient's right knee first.
        """
        film = normalize_percentiles(radiograph.pixels, padding=radiograph.padding)
        if radiograph.spacing_mm is not None:
            knees = self._at_spacing(film, radiograph, radiograph.spacing_mm)
        else:
            knees = self._at_any_scale(film, radiograph)
        if radiograph.side_from_name:
            knees = [replace(knee, flags=("side_from_name", *knee.flags)) for knee in knees]
        if radiograph.columns_reversed:
            # all below speaks of what a knee looks like; on a film seen from behind, left knees look like right ones
            flag = ("reversed_columns",)
            knees = [replace(knee, side=radiograph.look_of(knee.side), flags=flag + knee.flags) for knee in knees]
        return sorted(knees, key=lambda knee: knee.side, reverse=True)

    def _at_any_scale(self, film: Picture, radiograph: Radiograph) -> list[LocatedKnee]:
        """Try the nominal heights, each corrected by the knees' size, until an answer is sure; else the surest."""
        answers = []
        for height_mm in NOMINAL_HEIGHTS_MM:
            step = height_mm / film.shape[0]
            if step * film.shape[1] > WIDEST_MM:
                break  # no film, and a huge picture for the networks: a ruler, a banner
            knees = self._at_spacing(film, radiograph, (step, step))
            # networks see what they have learnt: points far from the usual size are pulled towards it, so look twice
            for _ in range(2):
                size = float(np.mean([self._align(k.landmarks, k.spacing_mm, k.side).scale for k in knees or ()] or 1))
                if abs(size - 1) < CLOSE_SIZE:
                    break
                step /= size
                again = self._at_spacing(film, radiograph, (step, step))
                if not again:
                    break
                knees = again
            answers.append(knees)
            complete = len(knees) == 2 or not _is_wide(film)
            if complete and _certainty(knees)[0] >= SURE:
                break
        rank = _total if _is_wide(film) else _certainty
        return [replace(knee, flags=("nominal_scale", *knee.flags)) for knee in max(answers, key=rank, default=[])]

    def _at_spacing(self, film: Picture, radiograph: Radiograph, spacing_mm: Spacing) -> list[LocatedKnee]:
        """Believe in two knees first, then in the side that the header names, then in place and look together."""
        named = radiograph.laterality
        by_place = self._two_knees(film, spacing_mm, expected=named == "B" or (named is None and _is_wide(film)))
        if len(by_place) == 2:
            conflict = ("more_knees_than_named",) if named in ("L", "R") else ()
            flags = () if named == "B" else ("side_from_position", *conflict)
            return [replace(knee, flags=(*flags, *knee.flags)) for knee in by_place]
        if named == "L" or named == "R":
            return self._looking_like(film, spacing_mm, radiograph.look_of(named))
        by_look = self._one_knee(film, spacing_mm)
        if not by_place or not by_look:
            flag = "side_from_position" if by_place else "side_from_image"
            return [replace(knee, flags=(flag, *knee.flags)) for knee in by_place or by_look]
        # one knee, seen in a half and on the whole film: a film wide enough for two knees shows a right one at its left
        wide = film.shape[1] * spacing_mm[1] >= TWO_KNEES_MM
        knee, other = (by_place[0], by_look[0]) if wide else (by_look[0], by_place[0])
        flags = ("side_from_position" if wide else "side_from_image",)
        if knee.side != other.side and "side_uncertain" not in knee.flags:
            flags = (*flags, "side_uncertain")
        return [replace(knee, flags=(*flags, *knee.flags))]

    def _two_knees(self, film: Picture, spacing_mm: Spacing, *, expected: bool) -> list[LocatedKnee]:
        """Look at the halves; a centre at the cut is half of one knee, and no knee of its own.

        Where two are expected and one centre is unbelievable, the landmark networks are asked at the mirror image of
        the other one: a pair stands about symmetrically.
        """
        centers = find_joint_centers(film, spacing_mm, [("left half", "R"), ("right half", "L")], self.lc)
        sure = [self._confidence(center.spread_mm) >= MIN_CONFIDENCE for center in centers]
        if expected and sum(sure) == 1:
            lost, (x, y) = sure.index(False), centers[sure.index(True)].center
            opposite = film.shape[1] - 1 - x, y
            centers[lost] = replace(centers[lost], center=opposite, spread_mm=self.lc.typical_spread_mm)
        x_mm = [center.center[0] * spacing_mm[1] for center in centers]
        middle_mm = (film.shape[1] - 1) / 2 * spacing_mm[1]
        if x_mm[1] - x_mm[0] < MIN_SEPARATION_MM or min(abs(x - middle_mm) for x in x_mm) < MIN_SEPARATION_MM / 4:
            return []
        return self._believed(film, centers, spacing_mm)

    def _one_knee(self, film: Picture, spacing_mm: Spacing) -> list[LocatedKnee]:
        """Look at the whole film both ways round; the way in which the landmarks are sharper names the side.

        Not the way with the surer answer: the joint-centre network is trained on both, and both are knees in shape.
        """
        looks: tuple[Side, Side] = ("R", "L")
        answers = [knee for look in looks for knee in self._looking_like(film, spacing_mm, look)]
        if len(answers) < 2:
            return answers
        sharp, blurred = sorted(answers, key=lambda knee: float(knee.spread_px.mean()))
        clear = blurred.spread_px.mean() >= CLEAR_LOOK * sharp.spread_px.mean()
        return [sharp if clear else replace(sharp, flags=("side_uncertain", *sharp.flags))]

    def _looking_like(self, film: Picture, spacing_mm: Spacing, look: Side) -> list[LocatedKnee]:
        """Look at the whole film for a knee that looks like one side."""
        centers = find_joint_centers(film, spacing_mm, [("whole", look)], self.lc)
        return self._believed(film, centers, spacing_mm)

    def _believed(self, film: Picture, centers: Sequence[JointCenter], spacing_mm: Spacing) -> list[LocatedKnee]:
        """Read the knees at the centres; the landmark networks are not asked where the centre is unbelievable."""
        sure = [center for center in centers if self._confidence(center.spread_mm) >= MIN_CONFIDENCE]
        knees = [self._knee(film, center, spacing_mm) for center in sure]
        return [knee for knee in knees if knee.confidence >= MIN_CONFIDENCE]

    def _knee(self, film: Picture, center: JointCenter, spacing_mm: Spacing) -> LocatedKnee:
        landmarks, spread = find_landmarks(film, center.center, center.side, spacing_mm, self.hc)
        alignment = self._align(landmarks, spacing_mm, center.side)
        mm = float(np.sqrt(spacing_mm[0] * spacing_mm[1]))
        confidence = self._confidence(center.spread_mm, float(spread.mean()) * mm, alignment.residual)
        flags = ("low_confidence",) if confidence < DOUBTFUL else ()
        if not PLAUSIBLE_SCALE[0] <= alignment.scale <= PLAUSIBLE_SCALE[1]:
            flags = (*flags, "implausible_size")
        x, y = landmarks[CENTER]
        return LocatedKnee(center.side, (float(x), float(y)), landmarks, spread, confidence, spacing_mm, flags)

    def _align(self, landmarks: NDArray[np.float64], spacing_mm: Spacing, side: Side) -> Alignment:
        points_mm = landmarks * millimetres_per_pixel(spacing_mm)
        if side == "L":
            points_mm = points_mm * (-1, 1)
        return self.shape.align(points_mm)

    def _confidence(self, center_spread_mm: float, spread_mm: float = 0.0, residual_mm: float = 0.0) -> float:
        """Gaussian fall-off with the widths of the heat maps and with the distance from the mean knee."""
        terms = (
            center_spread_mm / (WIDE * self.lc.typical_spread_mm),
            spread_mm / (WIDE * self.hc.typical_spread_mm),
            residual_mm / (ODD * self.shape.residual),
        )
        return float(np.exp(-0.5 * np.square(terms).sum()))


def _is_wide(film: Picture) -> bool:
    height, width = film.shape
    return width >= WIDE_FILM * height


def _total(knees: Sequence[LocatedKnee]) -> float:
    """Rank answers by the sum of the confidences: two fair knees go before one good one."""
    return sum(knee.confidence for knee in knees)


def _certainty(knees: Sequence[LocatedKnee]) -> tuple[float, int]:
    """Rank answers: by the mean confidence, then by the number of knees."""
    return float(np.mean([knee.confidence for knee in knees])) if knees else 0.0, len(knees)
