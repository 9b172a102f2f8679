"""Knees annotated in the VGG Image Annotator (VIA 2): its JSON and CSV, and the attributes that this project asks for.

A film's **file attributes**

================  ====================================================================================================
``subject``       whose knees; when absent, the file name without folder and extension
``kl_left``       Kellgren-Lawrence grade of the left knee, 0 to 4; likewise ``kl_right``
``knees``         1 or 2: how many knees the film shows; may be absent when both are annotated
``spacing_mm``    mm per pixel, one number or ``row,column``; when absent, as the film's header says
================  ====================================================================================================

A knee is two bones, each a ``polyline`` or a series of ``point`` shapes in the order of the regions, from the lateral
to the medial edge: 9 points of the tibia, 7 of the femur (`kneel.imaging.schema.LANDMARKS`). Each region's **region
attributes** are ``bone`` (``tibia``, ``femur``, or KNEEL's ``T``, ``F``) and ``side`` (``left``, ``right``, or ``L``,
``R``). Case does not matter in names of attributes nor in these words. Coordinates are taken as KNEEL took them and
`kneel.imaging.geometry` has them: an integer is the centre of a pixel.

``side`` is as the knee looks on the film, and grades are told of the patient's knees. The two are one on films as
radiologists hang them; of a film seen from behind (Patient Orientation) neither can be believed (`FROM_BEHIND`).
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kneel.imaging.geometry import Side, Spacing
from kneel.imaging.schema import FEMUR, LANDMARKS, TIBIA, AnnotationError
from kneel.imaging.tags import valid_spacing

FROM_BEHIND = (
    "PatientOrientation says that the film is seen from behind: what looks like a left knee is the patient's right "
    "one, and would get the grade of the left one"
)
"""Why such a film is refused."""

_COLUMNS = ("filename", "file_attributes", "region_id", "region_shape_attributes", "region_attributes")
_BONES = {"tibia": "tibia", "t": "tibia", "femur": "femur", "f": "femur"}
_SIDES: dict[str, Side] = {"left": "L", "l": "L", "right": "R", "r": "R"}
_COUNTS = {"tibia": TIBIA.stop - TIBIA.start, "femur": FEMUR.stop - FEMUR.start}
_WORDS: dict[Side, str] = {"L": "left", "R": "right"}


@dataclass(frozen=True)
class ViaFilm:
    """One film of a VIA file, not yet understood.

    Attributes
    ----------
    source : str
        The VIA file.
    filename : str
        As in the file.
    attributes : dict of str to str
        File attributes, names in lower case.
    regions : tuple of (shape, attributes)
        In the order of the regions.
    """

    source: str
    filename: str
    attributes: dict[str, str]
    regions: tuple[tuple[dict[str, Any], dict[str, str]], ...]


@dataclass(frozen=True)
class ViaKnee:
    """One knee of a film: side as it looks on the film, grade, and (x, y) film pixels of the 16 landmarks."""

    side: Side
    kl: int
    points: NDArray[np.float64]


@dataclass(frozen=True)
class ViaKnees:
    """What a film's annotations say: the subject, 1 or 2 knees, whether both are on the film, mm (row, column)."""

    subject_id: str
    knees: tuple[ViaKnee, ...]
    bilateral: bool
    spacing_mm: Spacing | None


def read_via(path: str | os.PathLike[str]) -> list[ViaFilm]:
    """Read VIA's JSON (annotations or a whole project) or CSV.

    Parameters
    ----------
    path : path_like
        What it is, is told from its first character.

    Returns
    -------
    list of ViaFilm
        Films without regions too.

    Raises
    ------
    AnnotationError
        The file is neither; names file, film and key.
    """
    name = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        return _from_json(name, json.loads(text)) if text.lstrip()[:1] == "{" else _from_csv(name, text)
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise AnnotationError(f"{name}: not a JSON or CSV export of VIA ({error})") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(f"{name}: not laid out as VIA's exports ({type(error).__name__}: {error})") from error


def _from_json(name: str, data: dict[str, Any]) -> list[ViaFilm]:
    films = []
    for entry in data.get("_via_img_metadata", data).values():
        regions = entry["regions"]
        if isinstance(regions, dict):  # VIA 1
            regions = [regions[key] for key in sorted(regions, key=int)]
        shapes = tuple((region["shape_attributes"], _lower(region["region_attributes"])) for region in regions)
        films.append(ViaFilm(name, entry["filename"], _lower(entry["file_attributes"]), shapes))
    return films


def _from_csv(name: str, text: str) -> list[ViaFilm]:
    rows = csv.DictReader(text.lstrip("#").splitlines())
    missing = [column for column in _COLUMNS if column not in (rows.fieldnames or ())]
    if missing:
        raise AnnotationError(f"{name}: no column {', '.join(missing)}; VIA's CSV has {', '.join(_COLUMNS)}")
    films: dict[str, dict[int, tuple[dict[str, Any], dict[str, str]]]] = {}
    attributes: dict[str, dict[str, str]] = {}
    for row in rows:
        film = row["filename"]
        attributes.setdefault(film, {}).update(_lower(json.loads(row["file_attributes"] or "{}")))
        shape = json.loads(row["region_shape_attributes"] or "{}")
        regions = films.setdefault(film, {})
        if shape:  # a film without regions has one row without a shape
            number = int(row["region_id"])
            if number in regions:
                raise AnnotationError(f"{name}: film {film}: region_id {number} stands there twice")
            regions[number] = shape, _lower(json.loads(row["region_attributes"] or "{}"))
    return [
        ViaFilm(name, film, attributes[film], tuple(regions[number] for number in sorted(regions)))
        for film, regions in films.items()
    ]


def _lower(attributes: Mapping[str, Any]) -> dict[str, str]:
    return {str(key).strip().lower(): str(value).strip() for key, value in attributes.items()}


def knees_of(film: ViaFilm) -> ViaKnees:
    """Understand a film's annotations.

    Parameters
    ----------
    film : ViaFilm
        As `read_via` gave it.

    Returns
    -------
    ViaKnees
        Right knee first.

    Raises
    ------
    AnnotationError
        Names file, film, region and key, the value and what would be right.
    """
    where = f"{film.source}: film {film.filename}"
    drawn: dict[tuple[Side, str], list[NDArray[np.float64]]] = {}
    for number, (shape, attributes) in enumerate(film.regions):
        here = f"{where}, region {number}"
        side = _SIDES[_choice(attributes, "side", _SIDES, here)]
        bone = _BONES[_choice(attributes, "bone", _BONES, here)]
        drawn.setdefault((side, bone), []).append(_vertices(shape, here))
    sides: list[Side] = [side for side in ("R", "L") if any(key[0] == side for key in drawn)]
    if not sides:
        raise AnnotationError(f"{where}: no region")
    knees = tuple(ViaKnee(side, _grade(film, side, where), _points(drawn, side, where)) for side in sides)
    count = film.attributes.get("knees") or ("2" if len(sides) == 2 else "")
    if count not in ("1", "2") or int(count) < len(sides):
        raise AnnotationError(
            f"{where}, file attribute knees is {count!r}: must be 1 or 2, the number of knees that the film shows "
            f"({len(sides)} annotated)"
        )
    subject = film.attributes.get("subject") or PurePosixPath(film.filename.replace("\\", "/")).stem
    return ViaKnees(subject, knees, count == "2", _spacing(film, where))


def _choice(attributes: Mapping[str, str], key: str, allowed: Mapping[str, object], where: str) -> str:
    value = attributes.get(key, "").lower()
    if value not in allowed:
        found = repr(attributes[key]) if key in attributes else "absent"
        raise AnnotationError(f"{where}, region attribute {key} is {found}: must be one of {', '.join(allowed)}")
    return value


def _vertices(shape: Mapping[str, Any], where: str) -> NDArray[np.float64]:
    """Points of one region, shape (n, 2)."""
    keys = {"point": ("cx", "cy"), "polyline": ("all_points_x", "all_points_y")}.get(str(shape.get("name")))
    if keys is None:
        raise AnnotationError(f"{where}, shape name is {shape.get('name')!r}: must be point or polyline")
    try:
        x, y = (np.atleast_1d(np.asarray(shape[key], float)) for key in keys)
        points = np.stack([x, y], axis=1)
    except (KeyError, ValueError, TypeError) as error:
        raise AnnotationError(f"{where}, shape keys {' and '.join(keys)}: must be as many numbers each") from error
    if not np.isfinite(points).all():
        raise AnnotationError(f"{where}, shape keys {' and '.join(keys)}: must be finite numbers")
    return points


def _points(
    drawn: Mapping[tuple[Side, str], Sequence[NDArray[np.float64]]], side: Side, where: str
) -> NDArray[np.float64]:
    """Join a knee's regions, tibia first; refuse what cannot be in order."""
    bones = []
    for bone, count in _COUNTS.items():
        points = np.concatenate([*drawn.get((side, bone), ()), np.empty((0, 2))])
        here = f"{where}, {_WORDS[side]} {bone}"
        if len(points) != count:
            raise AnnotationError(f"{here}: {len(points)} points, must be {count}, from the lateral to the medial edge")
        steps = np.diff(points[:, 0]) * (1 if side == "R" else -1)
        if (steps <= 0).any():  # never in KNEEL's 748 knees: points were mixed up, or the side is wrong
            number = int(np.argmax(steps <= 0)) + 1
            raise AnnotationError(
                f"{here}: point {number} (x = {points[number, 0]:g}) is not medial of point {number - 1} "
                f"(x = {points[number - 1, 0]:g}); on a {_WORDS[side]} knee x must "
                f"{'grow' if side == 'R' else 'fall'} from the lateral to the medial edge"
            )
        bones.append(points)
    return np.concatenate(bones)


def _grade(film: ViaFilm, side: Side, where: str) -> int:
    key = f"kl_{_WORDS[side]}"
    value = film.attributes.get(key, "")
    if value not in ("0", "1", "2", "3", "4"):
        raise AnnotationError(f"{where}, file attribute {key} is {value!r}: must be 0 to 4")
    return int(value)


def _spacing(film: ViaFilm, where: str) -> Spacing | None:
    text = film.attributes.get("spacing_mm", "")
    if not text:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    found = valid_spacing(numbers * 2 if len(numbers) == 1 else numbers)
    if found is None:
        raise AnnotationError(f"{where}, file attribute spacing_mm is {text!r}: must be mm per pixel, or row,column")
    return found


def via_entry(filename: str, size: int, film: ViaKnees) -> dict[str, Any]:
    """Describe a film's knees as VIA does, one point a region: the inverse of `knees_of`.

    Parameters
    ----------
    filename : str
        The picture, as VIA will look for it.
    size : int
        Its bytes.
    film : ViaKnees
        Annotations; a ``kl`` outside 0 to 4 is left for the user to fill in.

    Returns
    -------
    dict
        An entry of VIA's JSON; its key there is file name and size joined.
    """
    regions = [
        {
            "shape_attributes": {"name": "point", "cx": round(float(x), 3), "cy": round(float(y), 3)},
            "region_attributes": {"bone": "tibia" if number < TIBIA.stop else "femur", "side": _WORDS[knee.side]},
        }
        for knee in film.knees
        for number, (x, y) in enumerate(knee.points[: len(LANDMARKS)])
    ]
    attributes = {"subject": film.subject_id, "knees": "2" if film.bilateral else "1"}
    if film.spacing_mm is not None:
        attributes["spacing_mm"] = ",".join(f"{value:.6g}" for value in film.spacing_mm)
    attributes |= {f"kl_{_WORDS[knee.side]}": str(knee.kl) if knee.kl in range(5) else "" for knee in film.knees}
    return {"filename": filename, "size": size, "regions": regions, "file_attributes": attributes}
