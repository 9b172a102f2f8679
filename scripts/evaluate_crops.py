#!/usr/bin/env python
"""Find the landmarks of crops of single knees, without spacing, and compare them with annotated ones.

Writes DIR/predictions.csv in the layout of scripts/oof_inference.py (for scripts/assess_test_results.py; points in
pixels of the crop, left knees mirrored; only of crops on which a knee was found) and DIR/knees.csv (every crop, with
what was found on it or why nothing was). With --graded also DIR/graded.csv: the least joint space of every crop of a
folder {0..4}/{subject}{side}.png, in tibial widths, and its rank correlation with the grade. DIR/summary.txt also says
whether the networks were trained on these subjects. Exit status 1: crops are without a prediction; 2: nothing could be
done. Dark bone is not righted here, as reading does.

Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import spearmanr
from tqdm import tqdm

from deepknee.unseen import Training, tell_unseen
from deepknee.weights import Weights, WeightsError, find_weights
from kneel.engine.snapshot import load_metadata
from kneel.imaging.crops import AnnotatedCrop, read_crops
from kneel.imaging.dicom import read_radiograph
from kneel.imaging.geometry import mirror_points
from kneel.imaging.radiograph import Radiograph, RadiographError
from kneel.imaging.schema import LANDMARKS, AnnotationError
from kneel.localize import KneeLocalizer, LocatedKnee
from kneel.measure import measure_knee
from kneel.metrics import BOUNDS_MM, OUTLIER_MM, radial_errors

Locate = Callable[[Radiograph], list[LocatedKnee]]


def main() -> int:
    """Evaluate; 0 when done, 1 when crops are without a prediction, 2 when the input cannot be used."""
    given = parse()
    try:
        weights = find_weights(given.weights, ("lc", "hc"))
        crops = [crop for crop in read_crops(given.table, given.images) if crop.split == given.split]
        if not crops:
            raise AnnotationError(f"{given.table}: no row with split {given.split!r}")
        for crop in crops:
            crop.check_picture()
        graded_files = sorted(given.graded.glob("[0-4]/*.png")) if given.graded else []
        if given.graded and not graded_files:
            raise FileNotFoundError(f"{given.graded}: no PNG pictures in folders 0 to 4")
    except (WeightsError, AnnotationError, RadiographError, OSError) as error:
        print(f"evaluate_crops: {error}", file=sys.stderr)
        return 2
    localizer = KneeLocalizer.from_snapshots(weights.paths("lc"), weights.paths("hc"))

    def locate(radiograph: Radiograph) -> list[LocatedKnee]:
        if given.invert:
            radiograph = replace(radiograph, pixels=np.iinfo(radiograph.pixels.dtype).max - radiograph.pixels)
        if given.ignore_names:
            radiograph = replace(radiograph, laterality=None, side_from_name=False)
        return localizer.locate(radiograph)

    knees = pd.DataFrame([compare(crop, locate) for crop in tqdm(crops, "crops", unit="knee")])
    given.out.mkdir(parents=True, exist_ok=True)
    predictions(crops, knees).to_csv(given.out / "predictions.csv", index=False)
    knees.drop(columns="points").to_csv(given.out / "knees.csv", index=False)
    lines, without = [*summarize(knees), whether_seen(weights, crops, given.table)], knees[knees.problem != ""]
    if graded_files:
        graded = pd.DataFrame(read_graded(graded_files, locate))
        graded.to_csv(given.out / "graded.csv", index=False)
        lines += correlate(graded)
        without = pd.concat([without, graded[graded.problem != ""]])
    text = "\n".join(lines) + "\n"
    (given.out / "summary.txt").write_text(text, encoding="utf-8")
    print(text, end="")
    for file, problem in zip(without.file, without.problem, strict=True):
        print(f"evaluate_crops: no prediction: {file}: {problem}", file=sys.stderr)
    return 1 if len(without) else 0


def whether_seen(weights: Weights, crops: Sequence[AnnotatedCrop], table: Path) -> str:
    """Say whether the networks were trained on the subjects of the crops."""
    paths = [*weights.paths("lc"), *weights.paths("hc")]
    trainings = [Training.of_snapshot(str(path), load_metadata(path)[0]) for path in paths]
    return tell_unseen(trainings, [crop.subject_id for crop in crops], [crop.kl for crop in crops], str(table))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True, help="CSV of annotated crops (see kneel/imaging/crops.py)")
    parser.add_argument("--images", type=Path, required=True, help="folder that the table's column file starts from")
    parser.add_argument("--split", default="val", help="rows to take, by column split (default: %(default)s)")
    parser.add_argument("--graded", type=Path, metavar="DIR", help="folder with folders 0 to 4 of crops")
    parser.add_argument("--invert", action="store_true", help="read the negatives of the crops")
    parser.add_argument("--ignore-names", action="store_true", help="let the picture tell the side, not the file name")
    parser.add_argument("--weights", type=Path, action="append", help="folder of snapshots (default: pretrained/)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    return parser.parse_args()


def one_knee(path: Path, locate: Locate) -> tuple[LocatedKnee | None, dict[str, Any]]:
    """Read a crop; the surest knee on it, and for the tables how many were found and what went wrong."""
    try:
        found = locate(read_radiograph(path))
    except (RadiographError, OSError) as error:
        return None, {"file": path.name, "knees": None, "problem": f"cannot be read: {error}"}
    surest = max(found, key=lambda knee: knee.confidence, default=None)
    return surest, {"file": path.name, "knees": len(found), "problem": "" if found else "no knee found"}


def compare(crop: AnnotatedCrop, locate: Locate) -> dict[str, Any]:
    """Say what was found on one crop and how far its points are off; points of another side count as they are named."""
    knee, row = one_knee(crop.path, locate)
    row |= {"subject_id": crop.subject_id, "kl": crop.kl, "side": crop.side, "points": None, "side_found": None}
    if knee is None:
        return row
    errors = radial_errors(knee.landmarks, crop.points, crop.mm_per_px)
    names = {"side_found": knee.side, "confidence": knee.confidence, "flags": ";".join(knee.flags)}
    return row | names | {"points": knee.landmarks, "error_mm": errors.mean(), "worst_mm": errors.max()}


def predictions(crops: Sequence[AnnotatedCrop], knees: pd.DataFrame) -> pd.DataFrame:
    """Lay out the knees that were found like out-of-fold predictions."""
    rows = []
    for crop, points in zip(crops, knees.points, strict=True):
        if points is None:
            continue
        head = ["crops", 0, crop.subject_id, crop.side, crop.kl, crop.mm_per_px]
        rows.append([*head, *_mirrored(points, crop).ravel(), *_mirrored(crop.points, crop).ravel()])
    names = [f"{mark}{axis}{number}" for mark in ("", "t") for number in range(len(LANDMARKS)) for axis in "xy"]
    return pd.DataFrame(rows, columns=["experiment", "fold", "subject_id", "side", "kl", "mm_per_px", *names])


def _mirrored(points: NDArray[np.float64], crop: AnnotatedCrop) -> NDArray[np.float64]:
    return mirror_points(points, crop.read().shape[1]) if crop.side == "L" else points


def summarize(knees: pd.DataFrame) -> list[str]:
    """Put the figures into lines; a knee that was not found, or on the wrong side, has no error but is counted."""
    found = knees[knees.points.notna()]
    right = found[found.side == found.side_found]
    lines = [
        f"{len(knees)} crops: on {(knees.knees == 1).sum()} one knee, on {(knees.knees > 1).sum()} more, "
        f"on {(knees.knees == 0).sum()} none; side right on {len(right)} of {len(found)}"
    ]
    if knees.knees.isna().any():
        lines.append(f"{knees.knees.isna().sum()} crops could not be read")
    if len(right):
        within = ", ".join(f"{bound:g} mm {(np.array(right.error_mm) <= bound).mean():.1%}" for bound in BOUNDS_MM)
        lines += [
            f"of those with the right side: mean error {right.error_mm.mean():.3f} mm, median of the knees' means "
            f"{right.error_mm.median():.3f} mm; knees with a mean within {within}",
            f"knees with a point off by {OUTLIER_MM:g} mm or more: {(right.worst_mm >= OUTLIER_MM).sum()}",
        ]
    return lines


def read_graded(files: Sequence[Path], locate: Locate) -> Iterable[dict[str, Any]]:
    """Measure every crop of a folder of grades."""
    for path in tqdm(files, "graded crops", unit="knee"):
        knee, row = one_knee(path, locate)
        row["kl"] = int(path.parent.name)
        if knee is not None:
            measures = measure_knee(knee.landmarks)  # lengths do not depend on the side
            width = measures.tibial_width
            row |= {"side": knee.side, "medial": measures.jsw_medial / width, "lateral": measures.jsw_lateral / width}
            row |= {"confidence": knee.confidence, "flags": ";".join(knee.flags)}
        yield row


def correlate(graded: pd.DataFrame) -> list[str]:
    """Correlate the least joint space with the grade."""
    if not (graded.knees > 0).any():
        return [f"{len(graded)} graded crops: no knee found, nothing to correlate"]
    found = graded[graded.knees > 0]
    least = found[["medial", "lateral"]].min(axis=1)
    named = found.side == found.file.str.replace(".png", "").str[-1]
    return [
        f"{len(graded)} graded crops: a knee on {len(found)}, side as in the file name on {named.sum()}; "
        f"Spearman of the least joint space with the grade {spearmanr(least, found.kl).statistic:.3f}"
    ]


if __name__ == "__main__":
    sys.exit(main())
