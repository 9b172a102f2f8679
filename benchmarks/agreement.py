#!/usr/bin/env python
"""What reading fast costs in accuracy: the networks that ship, read as `deepknee read` does, and plainly.

    python benchmarks/agreement.py --table FILE --images DIR --graded DIR [--number N] [--films N]

Plainly means: the networks as they were trained (batch norms not folded), and every knee looked at twice at each
spacing, as published; phantom films of two knees by `kneel.plain`. The graders are the same networks in both ways,
on the ROIs that the points of each way lay. Compared are annotated crops (error in mm), crops of known grade, every
so many of DIR/{0..4}/*.png (quadratic kappa), and phantom films (error in mm). Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import cohen_kappa_score

from deepknee.ensemble import Grader
from deepknee.pipeline import read_knees
from deepknee.weights import find_weights
from kneel.imaging.crops import read_crops
from kneel.imaging.dicom import read_radiograph
from kneel.imaging.radiograph import Radiograph, normalize_percentiles
from kneel.localize import KneeLocalizer
from kneel.metrics import radial_errors
from kneel.phantom.render import FilmSpec, render_film
from kneel.plain import locate_plainly
from kneel.stage import Stage

CPU = torch.device("cpu")
Errors = list[tuple[float, float]]  # fast, plain


def main() -> None:
    """Compare on what was given."""
    given = parse()
    torch.set_num_threads(given.threads)
    weights = find_weights()
    stages = {
        plain: [Stage.from_snapshots(weights.paths(task), task, device=CPU, plain=plain) for task in ("lc", "hc")]
        for plain in (False, True)
    }
    fast, plain = KneeLocalizer(*stages[False]), Plain(*stages[True])
    crops = [crop for crop in read_crops(given.table, given.images) if crop.split == "val"]
    print(f"{len(crops)} annotated crops: {told(annotated(crops, fast, plain))}", flush=True)
    print(f"{given.films} phantom films: {told(phantoms(given.films, fast, stages[True]))}", flush=True)
    files = sorted(given.graded.glob("[0-4]/*.png"))
    files = files[:: max(1, len(files) // given.number)]
    grades = graded(files, fast, plain, Grader.from_snapshots(weights.paths("kl")))
    kappas = [cohen_kappa_score(grades[0], row, weights="quadratic") for row in grades[1:]]
    same = (grades[1] == grades[2]).mean()
    print(f"{grades.shape[1]} of {len(files)} graded crops: kappa fast {kappas[0]:.4f}, plain {kappas[1]:.4f}")
    print(f"the same grade on {same:.1%}")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True, help="CSV of annotated crops (see kneel/imaging/crops.py)")
    parser.add_argument("--images", type=Path, required=True, help="folder that the table's column file starts from")
    parser.add_argument("--graded", type=Path, required=True, help="folder with folders 0 to 4 of crops")
    parser.add_argument("--number", type=int, default=200, help="graded crops, about (default: %(default)s)")
    parser.add_argument("--films", type=int, default=20, help="phantom films (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    return parser.parse_args()


class Plain(KneeLocalizer):
    """Looks twice wherever it looks."""

    def _believed(self, film, centers, spacing_mm, *, passes=2):
        return super()._believed(film, centers, spacing_mm, passes=2)


def annotated(crops: Iterable, fast: KneeLocalizer, plain: KneeLocalizer) -> Errors:
    """Mean errors of crops; the side is that of the name."""
    errors: Errors = []
    for crop in crops:
        film = read_radiograph(crop.path)
        (one,), (other,) = fast.locate(film), plain.locate(film)
        errors.append(tuple(radial_errors(knee.landmarks, crop.points, crop.mm_per_px).mean() for knee in (one, other)))
    return errors


def phantoms(number: int, fast: KneeLocalizer, stages: list[Stage]) -> Errors:
    """Mean errors of the knees of phantom films, all grades in turn."""
    errors: Errors = []
    for count in range(number):
        spec = FilmSpec(1024, 1247, 0.34, (("R", count % 5), ("L", (count + 2) % 5)), bits_stored=12)
        drawn = render_film(spec, np.random.default_rng(7000 + count))
        film = Radiograph(drawn.pixels, (0.34, 0.34), spacing_kind="detector")
        found = {knee.side: knee.landmarks for knee in fast.locate(film)}
        other = locate_plainly(normalize_percentiles(film.pixels), (0.34, 0.34), *stages)
        for knee in drawn.knees:
            errors.append(tuple(radial_errors(way[knee.side], knee.landmarks, 0.34).mean() for way in (found, other)))
    return errors


def graded(files: list[Path], fast: KneeLocalizer, plain: KneeLocalizer, grader: Grader) -> np.ndarray:
    """Return three rows of grades: by folder, fast, plain; of the crops on which both ways find one knee."""
    rows = []
    for file in files:
        film = read_radiograph(file)
        ways = read_knees(film, fast, grader).knees, read_knees(film, plain, grader).knees
        if all(len(knees) == 1 for knees in ways):
            rows.append((int(file.parent.name), *(knees[0].kl for knees in ways)))
    return np.transpose(rows)


def told(errors: Errors) -> str:
    """Means of both ways, and of the difference."""
    fast, plain = np.transpose(errors)
    change = fast - plain
    return (
        f"mean error fast {fast.mean():.3f} mm, plain {plain.mean():.3f} mm; fast less plain {change.mean():+.4f} mm "
        f"({change.min():+.3f} to {change.max():+.3f} of {len(change)} knees)"
    )


if __name__ == "__main__":
    main()
