#!/usr/bin/env python
"""Read the films of a cohort whose truth is known and say how far off the reading is.

The cohort is a folder as make_phantom_cohort.py writes it: films/, annotations.csv. Writes to --out:
  knees.csv       one row an annotated knee: found or not, errors, grades, probabilities
  summary.csv/.md the figures, with 95 % intervals by bootstrap over subjects; .md also says whether the grading
                  networks were trained on any of these subjects
  errors.png      cumulative distribution of the landmark errors
  confusion.png   KL grades, truth against reading

Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from sklearn.metrics import ConfusionMatrixDisplay, cohen_kappa_score
from tqdm import tqdm

from deepknee.knee_reading import ReadingError
from deepknee.pipeline import DeviceError, Reader, load_reader
from deepknee.unseen import tell_unseen
from deepknee.weights import WeightsError
from kneel.bootstrap import SubjectBootstrap, interval
from kneel.find import find_joint_centers
from kneel.imaging.cohort import CohortFilm, read_cohort
from kneel.imaging.dicom import read_radiograph
from kneel.imaging.geometry import millimetres_per_pixel
from kneel.imaging.radiograph import RadiographError, normalize_percentiles
from kneel.imaging.schema import CENTER, LANDMARKS, AnnotationError, KneeAnnotation
from kneel.metrics import OUTLIER_MM, radial_errors
from kneel.windows import Part, half_with

mpl.use("Agg")  # figures go to files: no display is needed
import matplotlib.pyplot as plt

GRADES = range(5)
RESAMPLES = 1000


def main() -> int:
    """Evaluate; 0 when done, 2 when there is nothing to evaluate with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", type=Path, required=True, metavar="DIR", help="films with annotations.csv")
    parser.add_argument(
        "--weights",
        type=Path,
        action="append",
        metavar="DIR",
        help="folder of snapshots, may be given several times (default: as `deepknee read` finds them)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the tables and figures go")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: %(default)s")
    arguments = parser.parse_args()
    try:
        reader = load_reader(arguments.weights, arguments.device)
        films = read_cohort(arguments.cohort)
    except (WeightsError, DeviceError, AnnotationError, FileNotFoundError) as error:
        print(f"evaluate_cohort: {error}", file=sys.stderr)
        return 2
    knees = [knee for film in films for knee in film.knees]
    subjects, grades = [knee.subject_id for knee in knees], [knee.kl for knee in knees]
    training = tell_unseen([m.training for m in reader.grader.members], subjects, grades, str(arguments.cohort))
    rows = [row for film in tqdm(films, desc="films", unit="film") for row in evaluate_film(film, reader)]
    table = pd.DataFrame(rows).reindex(columns=COLUMNS)
    arguments.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(arguments.out / "knees.csv", index=False)
    summary = summarize(table)
    summary.to_csv(arguments.out / "summary.csv", index=False)
    text = f"{markdown(summary)}\nGrades: {training}\n"
    (arguments.out / "summary.md").write_text(text, encoding="utf-8")
    draw(table, arguments.out)
    print(f"{text}\ntables and figures: {arguments.out}")
    return 0


def evaluate_film(film: CohortFilm, reader: Reader) -> list[dict]:
    """Compare the reading of a film with its truth: one row a true knee, and one a knee that is not there.

    A knee that nobody annotated is there all the same, unless the header names a single one.
    """
    try:
        radiograph = read_radiograph(film.path)
        reading = {knee.side: knee for knee in reader.read(film.path).knees}
    except (RadiographError, ReadingError) as error:
        return [{**_who(film, truth), "found": False, "problem": str(error)} for truth in film.knees]
    spacing = radiograph.spacing_mm
    if spacing is None:
        return [{**_who(film, truth), "found": False, "problem": "no spacing"} for truth in film.knees]
    mm = millimetres_per_pixel(spacing)
    grey = normalize_percentiles(radiograph.pixels, padding=radiograph.padding)
    rows = []
    for truth in film.knees:
        points = truth.film_points(spacing)
        both = len(film.knees) == 2 or radiograph.laterality == "B"
        part: Part = half_with(points[CENTER, 0], grey.shape[1]) if both else "whole"
        look = radiograph.look_of(truth.side)
        (first,) = find_joint_centers(grey, spacing, [(part, look)], reader.localizer.lc)
        row = _who(film, truth)
        row["lc_error_mm"] = float(radial_errors(first.center, points[CENTER], mm))
        knee = reading.pop(truth.side, None)
        row["found"] = knee is not None
        if knee is not None:
            errors = radial_errors(knee.landmarks, points, mm)
            row |= {"hc_error_mm": errors.mean(), "hc_worst_mm": errors.max(), "predicted_kl": knee.kl}
            row |= {f"p{grade}": knee.probabilities[grade] for grade in GRADES}
            row |= {f"e{number}": error for number, error in enumerate(errors)}
        rows.append(row)
    others = reading if radiograph.laterality in ("L", "R") else ()
    return rows + [{"subject_id": film.subject_id, "side": side, "found": True} for side in others]


def _who(film: CohortFilm, truth: KneeAnnotation) -> dict:
    return {"subject_id": film.subject_id, "side": truth.side, "kl": truth.kl}


COLUMNS = [
    *("subject_id", "side", "kl", "found", "problem", "lc_error_mm", "hc_error_mm", "hc_worst_mm", "predicted_kl"),
    *(f"p{grade}" for grade in GRADES),
    *(f"e{number}" for number in range(len(LANDMARKS))),
]
# a knee that was not found has no error; it counts where the name says "all"
FIGURES: dict[str, Callable[[pd.DataFrame], float]] = {
    "knees found, share": lambda true: true.found.mean(),
    "joint centre (LC), median error, mm": lambda true: true.lc_error_mm.median(),
    "knees found with all landmarks within 10 mm, share of all": lambda true: (true.hc_worst_mm < OUTLIER_MM).mean(),
    "16 landmarks (HC), mean error of those found, mm": lambda true: true.hc_error_mm.mean(),
    "16 landmarks (HC), median of the knees' means, of those found, mm": lambda true: true.hc_error_mm.median(),
    "KL grade, quadratic kappa of those found": lambda true: kappa(true),
    "KL grade right, share of all": lambda true: (true.kl == true.predicted_kl).mean(),
    "KL grade, mean absolute error of those found": lambda true: (true.kl - true.predicted_kl).abs().mean(),
}


def kappa(true: pd.DataFrame) -> float:
    """Quadratic kappa over the knees that were found; NaN where a single grade is all there is."""
    seen = true[true.found]
    if len({*seen.kl, *seen.predicted_kl}) < 2:
        return float("nan")
    return cohen_kappa_score(seen.kl.astype(int), seen.predicted_kl.astype(int), labels=[*GRADES], weights="quadratic")


def summarize(knees: pd.DataFrame) -> pd.DataFrame:
    """Work out every figure with its interval: subjects are drawn with replacement, both knees of one together."""
    true = knees[knees.kl.notna()]
    bootstrap = SubjectBootstrap(true.subject_id.tolist(), resamples=RESAMPLES)
    samples = bootstrap.statistic(lambda draw: [figure(true.iloc[draw]) for figure in FIGURES.values()])
    ends = zip(FIGURES.items(), *interval(samples), strict=True)
    rows = [{"figure": name, "value": figure(true), "low": low, "high": high} for (name, figure), low, high in ends]
    count = {
        "subjects": true.subject_id.nunique(),
        "knees": len(true),
        "knees found that are not there": knees.kl.isna().sum(),
    }
    count["films that cannot be read"] = knees[knees.problem.notna()].subject_id.nunique()
    rows += [{"figure": name, "value": value} for name, value in count.items()]
    return pd.DataFrame(rows)


def markdown(summary: pd.DataFrame) -> str:
    """Lay the figures out as a table."""
    lines = ["| figure | value | 95 % interval |", "|---|---|---|"]
    for row in summary.itertuples():
        interval = "" if np.isnan(row.low) else f"{row.low:.3g} to {row.high:.3g}"
        lines.append(f"| {row.figure} | {row.value:.3g} | {interval} |")
    return "\n".join(lines) + "\n"


def draw(knees: pd.DataFrame, out: Path) -> None:
    """Draw the landmark errors and the grades."""
    found = knees[knees.kl.notna() & knees.found]
    if found.empty:
        return
    errors = np.sort(found.filter(regex=r"^e\d+$").to_numpy().ravel())
    figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
    axes.step(errors, np.arange(1, len(errors) + 1) / len(errors), where="post")
    axes.set(xlabel="landmark error, mm", ylabel="share of landmarks", xlim=(0, max(5, errors[-1])), ylim=(0, 1))
    axes.grid(alpha=0.3)
    figure.savefig(out / "errors.png", dpi=150)
    plt.close(figure)
    figure, axes = plt.subplots(figsize=(4.5, 4), layout="constrained")
    ConfusionMatrixDisplay.from_predictions(
        found.kl.astype(int), found.predicted_kl.astype(int), labels=[*GRADES], cmap="Blues", ax=axes, colorbar=False
    )
    axes.set(xlabel="KL read", ylabel="KL true")
    figure.savefig(out / "confusion.png", dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
