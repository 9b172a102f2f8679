#!/usr/bin/env python
"""Find the 16 landmarks of every knee of a graded folder {0..4}/{subject}{L or R}.png, for grading that follows them.

Writes DIR/landmarks.csv beside the five folders (columns of kneel/imaging/crops.py; then the networks' confidence,
flags and id, a digest of what the row was made from, and that of the picture, by which training refuses a picture that
was replaced since), and DIR/landmarks_problems.csv: missing, every knee that was
not found; note, those that are in the table and trained on though the networks doubt their side, size or place. Started
again, it goes on where it stopped; rows of another picture, of other networks or of other code are made anew. Rows of
landmarks.csv without a word in the column weights are yours: they stay, those that you write while it runs as well, and
those of pictures that are not there for the moment.
Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import sys
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from tqdm import tqdm

import kneel.imaging
from deepknee.graded_folder import LANDMARK_TABLE, graded_files, subject_and_side
from deepknee.html import FLAG_WORDS
from deepknee.patches import TIBIAL_WIDTH_MM
from deepknee.sources import DatasetError
from deepknee.weights import Weights, WeightsError, find_weights
from kneel.finding import FINDS
from kneel.imaging.crops import COLUMNS, PICTURE
from kneel.imaging.dicom import read_radiograph
from kneel.imaging.finished import code_digest
from kneel.imaging.one_writer import one_writer
from kneel.imaging.polarity import has_dark_bone, inverted
from kneel.imaging.preparing import Problem, exit_status, run_tasks, write_table
from kneel.imaging.radiograph import RadiographError
from kneel.imaging.writing import write_whole
from kneel.localize import KneeLocalizer

MORE = ("confidence", "flags", "weights", "made_from", PICTURE)
CODE = [
    *FINDS,
    Path(kneel.imaging.__file__).parent,
    Path(__file__),
]  # what decides, besides networks and picture, what is in a row
CURE = "take the picture away, or add its row to landmarks.csv by hand, with the column weights left empty"
DOUBTS = ("side_uncertain", "low_confidence", "implausible_size")
IF_WRONG = "If its row is wrong, put it right and empty its column weights, or take the picture away."


@dataclass(frozen=True)
class Task:
    """One picture, what its row will come from, and the networks to look with."""

    path: Path
    origin: str
    weights: str
    lc: tuple[Path, ...]
    hc: tuple[Path, ...]


def main() -> int:
    """Locate; 0 all knees found, 1 some not, 2 nothing done."""
    given = parse()
    return exit_status("locate_landmarks", given.jobs, lambda: locate_folder(given), (DatasetError, WeightsError))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="holds the folders 0 to 4")
    parser.add_argument("--weights", type=Path, action="append", help="folder of snapshots (default: pretrained/)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: %(default)s)")
    return parser.parse_args()


def locate_folder(given: argparse.Namespace) -> bool:
    """Locate what is not located yet; say whether every knee has its landmarks."""
    weights, pictures = find_weights(given.weights, ("lc", "hc")), graded_files(given.images)
    with one_writer(given.images):
        return locate_all(given, weights, pictures)


def locate_all(given: argparse.Namespace, weights: Weights, pictures: list[Path]) -> bool:
    """Do as `locate_folder` says, in a folder that no other process writes into."""
    table = given.images / LANDMARK_TABLE
    part = table.with_name(table.name + ".part")
    names = {picture.relative_to(given.images).as_posix(): picture for picture in pictures}
    known = origins(names, weights.id)
    rows = stored(table, part, known)
    networks = weights.id, tuple(weights.paths("lc")), tuple(weights.paths("hc"))
    tasks = [Task(picture, known[name], *networks) for name, picture in names.items() if name not in rows]
    problems = []
    with part.open("w", newline="", encoding="utf-8") as stream:
        writer = start_table(stream, rows)
        found = run_tasks(locate, tasks, given.jobs)
        for row in tqdm(found, "knees", len(tasks), disable=None):
            if isinstance(row, Problem):
                problems.append(row)
            else:
                writer.writerow(row)
                stream.flush()
                rows[row["file"]] = row
    corrected = by_hand(read_rows(table))
    rows |= corrected
    whole = io.StringIO()
    start_table(whole, rows)
    write_whole(table, whole.getvalue().encode())
    part.unlink(missing_ok=True)
    missing = [problem for problem in problems if problem.film not in corrected]
    notes = [note for name, row in rows.items() if name in names and (note := doubt(row))]
    listed = table.with_name("landmarks_problems.csv")
    write_table(listed, Problem, sorted([*missing, *notes], key=lambda problem: problem.film))
    print(f"{len(names) - len(missing)} of {len(names)} knees have landmarks: {table}")
    if notes:
        print(f"{len(notes)} of them are doubted, and trained on all the same: notes in {listed}")
    return not missing


def doubt(row: dict[str, str]) -> Problem | None:
    """Say what the networks doubt about a knee that they found; None of one that is sure or was put in by hand."""
    flags = row["flags"].split(";") if row.get("weights") else []
    words = [FLAG_WORDS[flag] for flag in flags if flag in DOUBTS]
    text = " ".join([*words, IF_WRONG])
    return Problem(row["subject_id"], row["side"], row["file"], "note", text) if words else None


def origins(names: dict[str, Path], weights: str) -> dict[str, str]:
    """Describe what each row comes from by a digest of the picture, the networks, and the code that looks with them."""
    how = f"{weights} {code_digest(CODE)} ".encode()
    return {name: hashlib.sha256(how + content(path)).hexdigest()[:16] for name, path in names.items()}


def content(path: Path) -> bytes:
    """Read a picture as it lies there; of one that cannot be read, `locate` will say why."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def stored(table: Path, part: Path, known: dict[str, str]) -> dict[str, dict[str, str]]:
    """Return the rows that stay, by file: those of the same origin, and before them those written by hand.

    What a broken run copied of the latter may have been corrected or deleted since: the table alone knows, if there.
    """
    earlier, broken = read_rows(table), read_rows(part)
    ours = {name: row for name, row in (earlier | broken).items() if row.get("weights") and name in known}
    same = {name: row for name, row in ours.items() if row.get("made_from") == known[name]}
    return same | by_hand(earlier if table.is_file() else broken)


def read_rows(path: Path) -> dict[str, dict[str, str]]:
    """Read a table by file, without the part of a line that a killed process leaves at its end.

    Raises
    ------
    DatasetError
        It is no such table, or names a picture twice: one row would be lost.
    """
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8-sig")  # spreadsheets put a mark in front
    if path.suffix == ".part":
        text = text[: text.rfind("\n") + 1]
    reader = csv.DictReader(io.StringIO(text))
    if text and "file" not in (reader.fieldnames or ()):
        raise DatasetError(f"{path}: no column file; must be a table with commas, as it was written")
    rows = list(reader)
    twice = [name for name, count in Counter(row["file"] for row in rows).items() if count > 1]
    if twice and path.suffix != ".part":
        raise DatasetError(f"{path}: {twice[0]} stands in it more than once; leave the row that is right")
    return {row["file"]: row for row in rows}


def by_hand(rows: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Choose the rows that no networks are named in."""
    return {name: row for name, row in rows.items() if not row.get("weights")}


def start_table(stream: TextIO, rows: dict[str, dict[str, str]]) -> csv.DictWriter:
    """Write the rows that are known; further ones go to the writer that is returned."""
    writer = csv.DictWriter(stream, [*COLUMNS, *MORE], lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows.values())
    return writer


def locate(task: Task) -> dict[str, str] | Problem:
    """Find the landmarks of the knee that the file's name tells the side of."""
    path, (subject, side) = task.path, subject_and_side(task.path)
    file = f"{path.parent.name}/{path.name}"
    try:
        radiograph = read_radiograph(path)
    except RadiographError as error:
        return Problem(subject, side, file, "missing", str(error))
    dark = has_dark_bone(np.asarray(radiograph.pixels))
    named = replace(inverted(radiograph) if dark else radiograph, laterality=side)
    knees = [knee for knee in localizer(task.lc, task.hc).locate(named) if knee.side == side]
    if not knees:
        return Problem(subject, side, file, "missing", f"no such knee was found; {CURE}")
    knee = knees[0]
    width = float(np.linalg.norm(knee.landmarks[8] - knee.landmarks[0]))
    points = [f"{value:.3f}" for value in knee.landmarks.ravel()]
    kl, size, polarity = path.parent.name, f"{TIBIAL_WIDTH_MM / width:.5f}", str(int(dark))
    values = [file, subject, side, kl, path.parent.parent.name, size, polarity, *points]
    picture = hashlib.sha256(content(path)).hexdigest()
    more = [f"{knee.confidence:.4f}", ";".join(knee.flags), task.weights, task.origin, picture]
    return dict(zip([*COLUMNS, *MORE], [*values, *more], strict=True))


@cache
def localizer(lc: tuple[Path, ...], hc: tuple[Path, ...]) -> KneeLocalizer:
    """Load the networks once a process; processes share the cores, so each has one thread."""
    torch.set_num_threads(1)
    return KneeLocalizer.from_snapshots(lc, hc)


if __name__ == "__main__":
    sys.exit(main())
