"""Finding the knees of a film and their 16 landmarks.

The joint-centre network (LC) looks at the two halves of a film and at the whole of it; the landmark network (HC) looks
at a 140 mm ROI around each centre, and once more around the centre that it found itself. A knee is believed when its
heat maps are sharp and its points look like a knee.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kneel.find import find_joint_centers, find_landmarks_of_several
from kneel.imaging.geometry import Side, Spacing, millimetres_per_pixel
from kneel.imaging.radiograph import Radiograph, normalize_percentiles
from kneel.imaging.schema import CENTER
from kneel.located import JointCenter, LocatedKnee
from kneel.looks import CLEAR, features
from kneel.nominal_scale import is_squarish, is_wide, look_closer, search_scale
from kneel.shape import Alignment
from kneel.stage import Picture, Stage

# each of these brings the confidence down by e^-1/2: heat maps so many times as wide as on an ordinary knee,
# points so many times as far from the mean knee as the training knees are
WIDE, ODD = 3.0, 2.0
MIN_CONFIDENCE = 0.1
DOUBTFUL = 0.5
TWO_KNEES_MM = 300.0  # films from this width on are made for two knees
MIN_SEPARATION_MM = 80.0  # of two joint centres on one film; knees are wider than that
PLAUSIBLE_SCALE = (0.7, 1.4)  # size of a knee against the mean; beyond it the spacing is doubted


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

    def shared(self, turn: threading.Lock, most: int) -> KneeLocalizer:
        """Return the same localizer for several threads at once; see `Stage.shared`."""
        return KneeLocalizer(self.lc.shared(turn, most), self.hc.shared(turn, most))

    def locate(self, radiograph: Radiograph, film: Picture | None = None) -> list[LocatedKnee]:
        """Find 0, 1 or 2 knees.

        Parameters
        ----------
        radiograph : Radiograph
            The film.
        film : ndarray, shape (H, W), float32, optional
            Its pixels by `normalize_percentiles`, where somebody has them already.

        Returns
        -------
        list of LocatedKnee
            The patient's right knee first.
        """
        if film is None:
            film = normalize_percentiles(radiograph.pixels, padding=radiograph.padding)
        if radiograph.spacing_mm is not None:
            knees = self._at_spacing(film, radiograph, radiograph.spacing_mm)
        else:
            knees = self._at_any_spacing(film, radiograph)
        doubts = self._doubts(film, radiograph, knees)
        knees = [replace(knee, flags=(*doubts, *knee.flags)) for knee in knees]
        if radiograph.columns_reversed:
            # all below speaks of what a knee looks like; on a film seen from behind, left knees look like right ones
            flag = ("reversed_columns",)
            knees = [replace(knee, side=radiograph.look_of(knee.side), flags=flag + knee.flags) for knee in knees]
        return sorted(knees, key=lambda knee: knee.side, reverse=True)

    def _at_any_spacing(self, film: Picture, radiograph: Radiograph) -> list[LocatedKnee]:
        """Find the scale by the knees; a film that it makes wide enough for two is asked for the second one again."""
        knees = search_scale(
            film.shape,
            lambda spacing_mm: self._at_spacing(film, radiograph, spacing_mm),
            self._size,
            self._crop_reader(film, radiograph),
        )
        if _one_is_missing(radiograph, knees):
            pair = self._two_knees(film, knees[0].spacing_mm, expected=True)
            knees = self._placed(pair, radiograph) if len(pair) == 2 else knees
        return [replace(knee, flags=("nominal_scale", *knee.flags)) for knee in knees]

    def _doubts(self, film: Picture, radiograph: Radiograph, knees: Sequence[LocatedKnee]) -> list[str]:
        """Say what about number and sides of the knees does not fit to what the film says of itself."""
        doubts = ["side_from_name"] if radiograph.side_from_name else []
        if radiograph.laterality in ("L", "R") and len(knees) == 1 and self._looks_mirrored(film, knees[0]):
            doubts.append("side_uncertain")
        return [*doubts, "fewer_knees_than_expected"] if _one_is_missing(radiograph, knees) else doubts

    def _crop_reader(self, film: Picture, radiograph: Radiograph) -> Callable[[], list[LocatedKnee]] | None:
        """Return what reads a squarish film as a crop of one joint: the landmark networks alone, from its middle."""
        if radiograph.laterality == "B" or not is_squarish(film.shape):
            return None
        named = radiograph.laterality
        looks: tuple[Side, ...] = ("R", "L") if named is None else (radiograph.look_of(named),)

        def look(spacing_mm: Spacing, at: Mapping[Side, tuple[float, float]]) -> list[LocatedKnee]:
            centers = [JointCenter(side, center, self.lc.typical_spread_mm) for side, center in at.items()]
            return self._believed(film, centers, spacing_mm, passes=1)

        def read() -> list[LocatedKnee]:
            knees = look_closer(film.shape, looks, look, self._size)
            if named is not None:
                return knees
            return [replace(knee, flags=("side_from_image", *knee.flags)) for knee in self._likelier(knees)]

        return read

    def _at_spacing(self, film: Picture, radiograph: Radiograph, spacing_mm: Spacing) -> list[LocatedKnee]:
        """Believe in two knees first, then in the side that the header names, then in place and look together."""
        named = radiograph.laterality
        wide = film.shape[1] * spacing_mm[1] >= TWO_KNEES_MM
        for_two = is_wide(film.shape) or (wide and radiograph.spacing_mm is not None)  # no scale is believed yet
        by_place = self._two_knees(film, spacing_mm, expected=named == "B" or (named is None and for_two))
        if len(by_place) == 2:
            return self._placed(by_place, radiograph)
        if named == "L" or named == "R":
            return self._looking_like(film, spacing_mm, radiograph.look_of(named))
        by_look = self._one_knee(film, spacing_mm)
        if not by_place or not by_look:
            flag = "side_from_position" if by_place else "side_from_image"
            return [replace(knee, flags=(flag, *knee.flags)) for knee in by_place or by_look]
        # one knee, seen in a half and on the whole film: a film wide enough for two knees shows a right one at its left
        knee, other = (by_place[0], by_look[0]) if wide else (by_look[0], by_place[0])
        flags = ["side_from_position" if wide else "side_from_image"]
        if knee.side != other.side and "side_uncertain" not in knee.flags:
            flags.append("side_uncertain")
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

    def _placed(self, pair: Sequence[LocatedKnee], radiograph: Radiograph) -> list[LocatedKnee]:
        """Note of two knees that their sides are those of their places, unless the film says that it shows both."""
        conflict = ("more_knees_than_named",) if radiograph.laterality in ("L", "R") else ()
        flags: tuple[str, ...] = () if radiograph.laterality == "B" else ("side_from_position", *conflict)
        return [replace(knee, flags=(*flags, *knee.flags)) for knee in pair]

    def _one_knee(self, film: Picture, spacing_mm: Spacing) -> list[LocatedKnee]:
        """Look at the whole film both ways round, and take the likelier look.

        Not the way with the surer answer: the joint-centre network is trained on both, and both are knees in shape.
        """
        return self._likelier(self._looking_like(film, spacing_mm, "R", "L"))

    def _likelier(self, answers: list[LocatedKnee]) -> list[LocatedKnee]:
        if len(answers) < 2:
            return answers
        one, other = answers
        chance = self._chance(one, other)
        knee = one if chance >= 0.5 else other
        clear = max(chance, 1 - chance) >= CLEAR
        return [knee if clear else replace(knee, flags=("side_uncertain", *knee.flags))]

    def _looks_mirrored(self, film: Picture, knee: LocatedKnee) -> bool:
        """Say whether a knee clearly looks like the other side: a wrong letter or header, or a mirrored picture.

        A pair is not asked: mirrored, its knees change places too, and all fits as before.
        """
        other = self._as_seen(knee, _opposite(knee.side))
        mirrored = self._believed(film, [other], knee.spacing_mm, passes=1)
        return any(self._chance(other, knee) >= CLEAR for other in mirrored)

    def both_looks(self, film: Picture, knee: LocatedKnee) -> list[LocatedKnee]:
        """Look at a knee as it was found, and as its mirror image.

        Parameters
        ----------
        film : ndarray, shape (H, W), float32
            In [0, 1].
        knee : LocatedKnee
            As `locate` found it, on a film whose columns are not reversed.

        Returns
        -------
        list of LocatedKnee
            The given look first; those that look like no knee at all are left out.
        """
        centers = [self._as_seen(knee, look) for look in (knee.side, _opposite(knee.side))]
        return self._believed(film, centers, knee.spacing_mm)

    def _as_seen(self, knee: LocatedKnee, look: Side) -> JointCenter:
        return JointCenter(look, knee.center, self.lc.typical_spread_mm)

    def look_features(self, knee: LocatedKnee) -> NDArray[np.float64]:
        """Describe a look for `kneel.looks.LookModel`: see `kneel.looks.features`."""
        mm = float(np.sqrt(knee.spacing_mm[0] * knee.spacing_mm[1]))
        return features(knee.spread_px * mm, self._align(knee))

    def _chance(self, one: LocatedKnee, other: LocatedKnee) -> float:
        """Say how likely the first of both looks is the true one."""
        return self.hc.look.probability(self.look_features(one), self.look_features(other))

    def _looking_like(self, film: Picture, spacing_mm: Spacing, *looks: Side) -> list[LocatedKnee]:
        """Look at the whole film for a knee that looks like each of the given sides."""
        centers = find_joint_centers(film, spacing_mm, [("whole", look) for look in looks], self.lc)
        return self._believed(film, centers, spacing_mm)

    def _believed(
        self, film: Picture, centers: Sequence[JointCenter], spacing_mm: Spacing, *, passes: int = 2
    ) -> list[LocatedKnee]:
        """Read the knees at the centres; the landmark networks are not asked where the centre is unbelievable."""
        sure = [center for center in centers if self._confidence(center.spread_mm) >= MIN_CONFIDENCE]
        where = [(center.center, center.side) for center in sure]
        found = find_landmarks_of_several(film, where, spacing_mm, self.hc, passes=passes)
        knees = [self._knee(center, *points, spacing_mm) for center, points in zip(sure, found, strict=True)]
        return [knee for knee in knees if knee.confidence >= MIN_CONFIDENCE]

    def _knee(
        self, center: JointCenter, landmarks: NDArray[np.float64], spread: NDArray[np.float64], spacing_mm: Spacing
    ) -> LocatedKnee:
        alignment = self._align_points(landmarks, spacing_mm, center.side)
        mm = float(np.sqrt(spacing_mm[0] * spacing_mm[1]))
        confidence = self._confidence(center.spread_mm, float(spread.mean()) * mm, alignment.residual)
        flags = ("low_confidence",) if confidence < DOUBTFUL else ()
        if not PLAUSIBLE_SCALE[0] <= alignment.scale <= PLAUSIBLE_SCALE[1]:
            flags = (*flags, "implausible_size")
        x, y = landmarks[CENTER]
        return LocatedKnee(center.side, (float(x), float(y)), landmarks, spread, confidence, spacing_mm, flags)

    def _size(self, knee: LocatedKnee) -> float:
        return self._align(knee).scale

    def _align(self, knee: LocatedKnee) -> Alignment:
        return self._align_points(knee.landmarks, knee.spacing_mm, knee.side)

    def _align_points(self, landmarks: NDArray[np.float64], spacing_mm: Spacing, side: Side) -> Alignment:
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


def _one_is_missing(radiograph: Radiograph, knees: Sequence[LocatedKnee]) -> bool:
    """Say whether one knee was found where the film says that it shows both, or where it stands as one of two."""
    if len(knees) != 1 or radiograph.laterality in ("L", "R"):
        return False
    columns, mm = radiograph.pixels.shape[1], knees[0].spacing_mm[1]
    beside = abs(knees[0].center[0] - (columns - 1) / 2) * mm >= MIN_SEPARATION_MM / 2
    return radiograph.laterality == "B" or (columns * mm >= TWO_KNEES_MM and beside)


def _opposite(side: Side) -> Side:
    return "L" if side == "R" else "R"
