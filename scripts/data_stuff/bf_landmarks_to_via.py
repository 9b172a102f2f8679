"""Bring BoneFinder's knee points to VIA (VGG Image Annotator 2), to be looked over there and put right.

BoneFinder writes NAME.pts for the left knee of a film NAME and NAME_f.pts for the right one, found on the film turned
over; in millimetres of the detector. Films are looked for below --films under the same name, with or without extension.

Writes to --out: {subject}.png, films as VIA can show them, and via.json, which VIA loads (Annotation > Import) and
create_datasets_from_via.py reads. The 16 points are those that KNEEL took of BoneFinder's 74; --points takes others.
A film with points of one knee needs its file attribute knees (1 or 2 on the film) filled in there.
Films seen from behind (PatientOrientation) are refused: on them a grade's side is not the side that a knee looks like.
A via.json that is there may be what you saved in VIA: it is left alone, and nothing done, unless --overwrite is given.
Exit status: 0 all done, 1 some files could not be used (they are named), 2 nothing was done.

Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from kneel.imaging.bonefinder import POINTS, landmarks_on_film, read_pts
from kneel.imaging.dicom import read_radiograph
from kneel.imaging.geometry import Side
from kneel.imaging.oai import detector_spacing
from kneel.imaging.radiograph import RadiographError, normalize_percentiles
from kneel.imaging.schema import LANDMARKS, AnnotationError
from kneel.imaging.via import FROM_BEHIND, ViaKnee, ViaKnees, via_entry
from kneel.imaging.writing import write_whole

FLIPPED = "_f"
VIA = "via.json"
NO_GRADE = -1


def main() -> int:
    """Read the command line, convert film by film."""
    given = parse()
    try:
        indices = POINTS if given.points is None else read_indices(given.points)
        grades = {} if given.kl is None else read_grades(given.kl)
        stems = sorted({unflipped(path) for path in given.pts.rglob("*.pts")})
        if not stems:
            raise AnnotationError(f"{given.pts}: no .pts file in it")
        if (given.out / VIA).exists() and not given.overwrite:
            what = "is there, and may hold corrections made in VIA; move it, or let --overwrite replace it"
            raise AnnotationError(f"{given.out / VIA}: {what}")
        given.out.mkdir(parents=True, exist_ok=True)
    except (AnnotationError, OSError) as error:
        print(f"bf_landmarks_to_via: {error}", file=sys.stderr)
        return 2
    entries: dict[str, dict] = {}
    problems = []
    # before any picture is written: of two films of one subject nobody knows which was meant
    films_of = Counter(subject_of(stem, given) for stem in stems)
    for stem in tqdm(stems, "films", unit="film"):
        try:
            subject = subject_of(stem, given)
            if films_of[subject] > 1:
                raise AnnotationError(f"{stem}: {films_of[subject]} films are of subject {subject}; see --subject-part")
            entry = convert(stem, given, indices, grades)
            entries[f"{entry['filename']}{entry['size']}"] = entry
        except (AnnotationError, RadiographError, OSError) as error:
            problems.append(str(error))
    write_whole(given.out / VIA, json.dumps(entries, indent=1).encode())
    print("".join(f"missing: {problem}\n" for problem in problems), end="", file=sys.stderr)
    print(f"{len(entries)} of {len(stems)} films in {given.out / VIA}")
    return 1 if problems else 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=Path, required=True, metavar="DIR", help="the films")
    parser.add_argument(
        "--pts", type=Path, required=True, metavar="DIR", help="BoneFinder's files, in the same folders"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where pictures and via.json go")
    parser.add_argument(
        "--kl", type=Path, metavar="CSV", help="grades: subject_id, side (L, R), kl (default: left empty)"
    )
    parser.add_argument(
        "--spacing", type=float, metavar="MM", help="mm per pixel of films whose header does not say it"
    )
    parser.add_argument(
        "--subject-part",
        type=int,
        default=-1,
        metavar="N",
        help="which part of a film's path below --films is the subject, from 0; 1 in the OAI (default: the file name)",
    )
    parser.add_argument(
        "--points", type=Path, metavar="CSV", help="landmark (0-15), index (of BoneFinder's point, from 0)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the via.json that is there")
    given = parser.parse_args()
    if given.spacing is not None and not 0 < given.spacing < math.inf:
        parser.error(f"--spacing {given.spacing}: must be a positive number of mm")
    return given


def unflipped(path: Path) -> Path:
    """Return the film's name that a .pts file belongs to, as a path below the folder of the points."""
    stem = path.with_suffix("")
    return stem.with_name(stem.name.removesuffix(FLIPPED))


def subject_of(stem: Path, given: argparse.Namespace) -> str:
    """Return the part of a film's path that names its subject; nothing where there is no such part."""
    parts = stem.relative_to(given.pts).parts
    return parts[given.subject_part] if -len(parts) <= given.subject_part < len(parts) else ""


def convert(
    stem: Path, given: argparse.Namespace, indices: Sequence[int], grades: Mapping[tuple[str, Side], int]
) -> dict:
    """Write one film's picture and return its entry."""
    name = stem.relative_to(given.pts)
    path = find_film(given.films / name)
    subject = subject_of(stem, given)
    if not subject:
        raise AnnotationError(f"{stem}: its path has no part {given.subject_part} to be the subject")
    film = read_radiograph(path)
    if film.columns_reversed:
        raise RadiographError(
            f"{path}: {FROM_BEHIND}; turn it over (mirror it) and let BoneFinder find its points anew"
        )
    spacing = detector_spacing(path) or ((given.spacing, given.spacing) if given.spacing else None)
    if spacing is None:
        raise RadiographError(f"{path}: no spacing, in whose millimetres the points are; see --spacing")
    sources: dict[Side, Path] = {
        "R": stem.with_name(stem.name + FLIPPED + ".pts"),
        "L": stem.with_name(stem.name + ".pts"),
    }
    knees = []
    for side, source in sources.items():
        if source.is_file():
            try:
                points = landmarks_on_film(read_pts(source), side, spacing, film.pixels.shape[1], indices=indices)
            except AnnotationError as error:
                text = str(error)
                raise AnnotationError(text if str(source) in text else f"{source}: {text}") from error
            knees.append(ViaKnee(side, grades.get((subject, side), NO_GRADE), points))
    grey = normalize_percentiles(film.pixels, padding=film.padding)
    picture = cv2.imencode(".png", np.rint(grey * 255).astype(np.uint8))[1].tobytes()
    write_whole(given.out / f"{subject}.png", picture)
    entry = via_entry(f"{subject}.png", len(picture), ViaKnees(subject, tuple(knees), len(knees) == 2, spacing))
    if len(knees) == 1:  # whether the other knee is on the film, only who sees it can say
        del entry["file_attributes"]["knees"]
    return entry


def find_film(stem: Path) -> Path:
    """Find the film of a name: without extension, or with the only one there is."""
    if stem.is_file():
        return stem
    found = sorted(path for path in stem.parent.glob(f"{stem.name}.*") if path.suffix != ".pts" and path.is_file())
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise AnnotationError(f"{stem}: must be one film, with or without extension; there is {names}")
    return found[0]


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield where a row stands and the row."""
    with path.open(newline="", encoding="utf-8-sig") as stream:
        rows = csv.DictReader(stream)
        if missing := [column for column in columns if column not in (rows.fieldnames or ())]:
            raise AnnotationError(f"{path}: no column {', '.join(missing)}; needs {', '.join(columns)}")
        for line, row in enumerate(rows, 2):
            yield f"{path}, line {line}", row


def read_indices(path: Path) -> list[int]:
    """Read which of BoneFinder's points is each landmark."""
    found: dict[int, int] = {}
    for where, row in read_table(path, ("landmark", "index")):
        if not (row["landmark"].isdecimal() and row["index"].isdecimal()):
            raise AnnotationError(
                f"{where}: landmark and index are {row['landmark']!r} and {row['index']!r}, not numbers"
            )
        if found.setdefault(int(row["landmark"]), int(row["index"])) != int(row["index"]):
            raise AnnotationError(f"{where}: landmark {row['landmark']} stands there twice")
    if sorted(found) != list(range(len(LANDMARKS))):
        raise AnnotationError(f"{path}: column landmark holds {sorted(found)}, must be each of 0 to 15 once")
    return [found[landmark] for landmark in sorted(found)]


def read_grades(path: Path) -> dict[tuple[str, Side], int]:
    """Read Kellgren-Lawrence grades by subject and side."""
    grades: dict[tuple[str, Side], int] = {}
    for where, row in read_table(path, ("subject_id", "side", "kl")):
        if row["side"] not in ("L", "R") or row["kl"] not in ("0", "1", "2", "3", "4"):
            raise AnnotationError(f"{where}: side is {row['side']!r} (L or R) and kl {row['kl']!r} (0 to 4)")
        knee: tuple[str, Side] = (row["subject_id"], "L" if row["side"] == "L" else "R")
        before = grades.setdefault(knee, int(row["kl"]))
        if before != int(row["kl"]):  # a table of several visits, say: whichever came last would be taken
            raise AnnotationError(f"{where}: kl of {' '.join(knee)} is {row['kl']}, and {before} in a line before")
    return grades


if __name__ == "__main__":
    sys.exit(main())
