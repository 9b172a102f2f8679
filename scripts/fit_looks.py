#!/usr/bin/env python
"""Fit what tells left knees from right ones by the picture alone, and store it in the landmark networks.

Needs crops or films of single knees whose side is known, from the header or by file name (9001695L.png), and which the
landmark networks were not trained on; points are not needed. Every knee is read as if its side were unknown, then seen
both ways round (kneel/looks.py). What is printed is cross-fitted over subjects (PatientID, else or where it is one word
for all the file name without side); 10 are needed at least. Before it stands whether the networks were trained on any
of these subjects, as far as their snapshots note theirs. Weights stay byte for byte; each file is written beside its
place, then renamed.

Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from deepknee.unseen import Training, tell_unseen
from deepknee.weights import Weights, WeightsError, find_weights
from kneel.engine.snapshot import SnapshotError, load_metadata, update_snapshot
from kneel.imaging.dicom import read_radiograph
from kneel.imaging.parse import parse_dicom
from kneel.imaging.radiograph import RadiographError, normalize_percentiles
from kneel.localize import KneeLocalizer
from kneel.look_fit import cross_fitted, fit_looks
from kneel.looks import CLEAR

LEAST = 100  # knees; there are 49 weights to fit
LEAST_SUBJECTS = 10  # parts that `cross_fitted` deals them to


@dataclass(frozen=True)
class Seen:
    """The features of both looks of one knee."""

    subject: str
    right: NDArray[np.float64]
    wrong: NDArray[np.float64]


def main(words: Sequence[str] | None = None) -> int:
    """Fit; 0 when stored, 2 when it cannot be."""
    given = parse(words)
    try:
        weights = find_weights(given.weights, ("lc", "hc"))
        localizer = KneeLocalizer.from_snapshots(weights.paths("lc"), weights.paths("hc"), device=given.device)
        files = choose(given.images, given.leave_out, given.limit)
        subjects = subjects_of(files)
        check_subjects(subjects.values())
    except (WeightsError, SnapshotError, OSError, ValueError) as error:
        print(f"fit_looks: {error}", file=sys.stderr)
        return 2
    knees, left_out = [], {}
    for path in tqdm(files, "knees", unit="film"):
        try:
            knees.append(look(path, subjects[path], localizer))
        except (RadiographError, OSError) as error:
            left_out[path] = str(error)
    for path, why in left_out.items():
        print(f"fit_looks: left out: {path}: {why}", file=sys.stderr)
    if len(knees) < LEAST:
        print(f"fit_looks: {len(knees)} knees seen both ways round: at least {LEAST} are needed", file=sys.stderr)
        return 2
    try:
        check_subjects(knee.subject for knee in knees)
    except ValueError as error:
        print(f"fit_looks: {error}", file=sys.stderr)
        return 2
    whose, right, wrong = ([getattr(knee, name) for knee in knees] for name in ("subject", "right", "wrong"))
    print(whether_seen(weights, whose, given.images))
    report(cross_fitted(right, wrong, whose), len(set(whose)))
    stored = fit_looks(right, wrong).dump() | {"knees": len(knees), "networks": len(weights.paths("hc"))}
    if given.dry_run:
        print("nothing stored (--dry_run)")
        return 0
    for path in weights.paths("hc"):
        update_snapshot(path, {"look": stored})
        print(f"stored in {path}")
    return 0


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="films, searched all the way down")
    parser.add_argument(
        "--leave_out", type=Path, metavar="FILE", help="table whose column `file` names those trained on"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only so many films, drawn by a fixed seed")
    parser.add_argument("--weights", type=Path, action="append", help="folder of snapshots (default: pretrained/)")
    parser.add_argument("--dry_run", action="store_true", help="fit and print, but store nothing")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="default: %(default)s")
    return parser.parse_args(words)


def choose(folder: Path, leave_out: Path | None, limit: int | None) -> list[Path]:
    """List the films, without those that the networks were trained on."""
    names = set() if leave_out is None else {Path(file).name for file in pd.read_csv(leave_out).file}
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in names]
    if not files:
        raise FileNotFoundError(f"{folder}: no file that is not left out")
    if limit is not None and limit < len(files):
        files = [files[number] for number in sorted(np.random.default_rng(0).permutation(len(files))[:limit])]
    return files


def subjects_of(files: Iterable[Path]) -> dict[Path, str]:
    """Say whose films they are: PatientID, else the file name without side. Films of a download are all named alike.

    One PatientID for all names nobody: it is what was put in the place of names.
    """
    patients = {path: patient_of(path) for path in files}
    if len(set(patients.values()) - {None}) == 1:
        patients = dict.fromkeys(patients)
    return {path: patient or re.sub(r"[_ .-]*[LR]$", "", path.stem) for path, patient in patients.items()}


def patient_of(path: Path) -> str | None:
    """Return PatientID; None where there is none to be read: what is wrong with a damaged file, reading says."""
    with warnings.catch_warnings():  # pydicom has many about sloppy files
        warnings.simplefilter("ignore")
        try:
            return parse_dicom(memoryview(path.read_bytes()), max_bytes=2**30)[0].text("PatientID")
        except (RadiographError, OSError):
            return None


def check_subjects(subjects: Iterable[str]) -> None:
    """Refuse fewer subjects than figures can be cross-fitted over."""
    different = sorted(set(subjects))
    if len(different) < LEAST_SUBJECTS:
        raise ValueError(
            f"knees of {len(different)} subjects ({', '.join(different)}): at least {LEAST_SUBJECTS} are needed, told "
            "by PatientID or by file name"
        )


def whether_seen(weights: Weights, subjects: Sequence[str], images: Path) -> str:
    """Say whether the networks were trained on the subjects of the knees, whose grades nobody knows here."""
    paths = [*weights.paths("lc"), *weights.paths("hc")]
    trainings = [Training.of_snapshot(str(path), load_metadata(path)[0]) for path in paths]
    return tell_unseen(trainings, subjects, [0] * len(subjects), str(images))


def look(path: Path, subject: str, localizer: KneeLocalizer) -> Seen:
    """See one knee both ways round; its side is what the header or the file name says."""
    film = read_radiograph(path)
    if film.laterality not in ("L", "R") or film.columns_reversed:
        raise RadiographError(
            f"its side is {film.laterality or 'not known'}: needed is one knee, L or R, seen from before"
        )
    knees = localizer.locate(replace(film, laterality=None, side_from_name=False))
    if len(knees) != 1:
        raise RadiographError(f"{len(knees)} knees found: needed is one")
    pair = localizer.both_looks(normalize_percentiles(film.pixels, padding=film.padding), knees[0])
    if len(pair) != 2:
        raise RadiographError("only one look is believed, which says the side by itself")
    right, wrong = sorted(pair, key=lambda knee: knee.side != film.laterality)
    return Seen(subject, localizer.look_features(right), localizer.look_features(wrong))


def report(chances: NDArray[np.float64], subjects: int) -> None:
    """Print how often the side is told right, on knees of other subjects."""
    clear, right = np.maximum(chances, 1 - chances) >= CLEAR, chances > 0.5
    print(f"{len(chances)} knees of {subjects} subjects, cross-fitted: side right on {right.mean():.1%}")
    print(
        f"{CLEAR:.0%} sure or more: {clear.mean():.1%} of the knees; side right on {right[clear].mean():.1%} of these"
    )


if __name__ == "__main__":
    sys.exit(main())
