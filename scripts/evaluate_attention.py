#!/usr/bin/env python
"""Measure which map of attention says most truly where the grades come from.

Every knee is read as `deepknee read` would. Of the grade that it was given, each map is asked two things: how soon does
the probability of that grade fall when the most attended pixels are blurred (deletion: low is good) and rise when they
alone are sharp (insertion: high is good); and how much of the map lies in the joint space, widened by 5 % of the tibial
width. Two maps that do not know the networks stand beside them: one at random, and the joint space itself. The grade is
that of all networks and of all looks, upright and turned, and pixels that none of them shows are left alone; the maps
explain the upright knee.

Writes to --out:
  attention.md/.csv  the figures, with 95 % intervals by bootstrap over subjects, and their differences from random
                     maps; .md says too whether the networks were trained on any of these subjects
  knees.csv          one row a knee and map
  curves.png         mean curves with their intervals
  maps.png           maps of a few knees of every grade; the outline is the joint space
Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from deepknee.attention import BLUR_MM, METHODS, blur_rois
from deepknee.cli import parse_count
from deepknee.ensemble import Grader
from deepknee.faithfulness import (
    STEPS,
    area_under,
    joint_band,
    perturbation_curves,
    random_map,
    share_inside,
)
from deepknee.graded_folder import graded_files, subject_and_side
from deepknee.knee_reading import KneeReading, ReadingError
from deepknee.pipeline import DeviceError, Reader, load_reader
from deepknee.sources import DatasetError
from deepknee.unseen import tell_unseen
from deepknee.weights import WeightsError
from kneel.bootstrap import SubjectBootstrap, interval
from kneel.imaging.cohort import read_cohort
from kneel.imaging.radiograph import RadiographError
from kneel.imaging.schema import AnnotationError

mpl.use("Agg")  # figures go to files: no display is needed
import matplotlib.pyplot as plt

FIGURES = {
    "deletion": "area under deletion (low is good)",
    "insertion": "area under insertion (high is good)",
    "inside": "share of attention in the joint space",
}
RANDOM, BAND = "random", "joint space"
MAPS = (*METHODS, RANDOM, BAND)
SHOWN = 2  # knees a grade in maps.png


@dataclass(frozen=True, eq=False)
class Measured:
    """One knee: its reading, and of each map the heat (S, S), both curves (K + 1,), and its row of knees.csv."""

    reading: KneeReading
    band: NDArray[np.bool_]
    heats: dict[str, NDArray[np.float32]]
    curves: dict[str, NDArray[np.float64]]
    rows: list[dict]


def main() -> int:
    """Evaluate; 0 when done, 2 when there is nothing to evaluate with."""
    given = parse()
    try:
        reader = load_reader(given.weights, given.device)
        knees = choose(cohort_knees(given.cohort) if given.cohort else graded_knees(given.graded), given.per_grade)
    except (WeightsError, DeviceError, DatasetError, AnnotationError, FileNotFoundError) as error:
        print(f"evaluate_attention: {error}", file=sys.stderr)
        return 2
    measured, problems = measure_all(knees, reader, given.steps, given.seed)
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    if not measured:
        print("evaluate_attention: no knee could be read", file=sys.stderr)
        return 2
    given.out.mkdir(parents=True, exist_ok=True)
    rows = pd.DataFrame([row for knee in measured for row in knee.rows])
    rows.to_csv(given.out / "knees.csv", index=False)
    subjects, grades = ([knee.rows[0][name] for knee in measured] for name in ("subject_id", "kl"))
    trainings = [member.training for member in reader.grader.members]
    training = tell_unseen(trainings, subjects, grades, str(given.cohort or given.graded))
    bootstrap = SubjectBootstrap(subjects)
    summary = summarize(rows, bootstrap)
    summary.to_csv(given.out / "attention.csv", index=False)
    text = markdown(summary, rows, len(problems), training)
    (given.out / "attention.md").write_text(text, encoding="utf-8")
    draw_curves(measured, bootstrap, given.out / "curves.png")
    draw_maps(measured, given.out / "maps.png")
    print(f"{text}\ntables and figures: {given.out}")
    return 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--graded", type=Path, metavar="DIR", help="folders 0 to 4 of crops {subject}{L or R}.png")
    where.add_argument("--cohort", type=Path, metavar="DIR", help="films/ with annotations.csv")
    parser.add_argument("--weights", action="append", metavar="DIR", help="snapshots (default: as `deepknee read`)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the tables and figures go")
    parser.add_argument("--per-grade", type=parse_count, metavar="N", help="at most N knees a grade (default: all)")
    parser.add_argument("--steps", type=parse_count, default=STEPS, help="points of a curve (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random maps (default: %(default)s)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: %(default)s")
    return parser.parse_args()


Knee = tuple[Path, str, str, int]  # film, subject, side, true grade


def graded_knees(folder: Path) -> list[Knee]:
    """List the crops of a graded folder."""
    return [(path, *subject_and_side(path), int(path.parent.name)) for path in graded_files(folder)]


def cohort_knees(folder: Path) -> list[Knee]:
    """List the annotated knees of a cohort."""
    return [(film.path, film.subject_id, knee.side, knee.kl) for film in read_cohort(folder) for knee in film.knees]


def choose(knees: list[Knee], per_grade: int | None) -> list[Knee]:
    """Keep the first knees of each grade."""
    seen: Counter[int] = Counter()
    chosen = []
    for knee in knees:
        seen[knee[-1]] += 1
        if per_grade is None or seen[knee[-1]] <= per_grade:
            chosen.append(knee)
    return chosen


def measure_all(knees: list[Knee], reader: Reader, steps: int, seed: int) -> tuple[list[Measured], list[str]]:
    """Measure what can be read; say of the rest why not."""
    graders = {method: Grader(reader.grader.members, mode=reader.grader.mode, device=reader.grader.device,
                              attention=method) for method in METHODS}  # fmt: skip
    measured, problems = [], []
    for number, (path, subject, side, kl) in enumerate(tqdm(knees, "knees", unit="knee")):
        try:
            found = {knee.side: knee for knee in reader.read(path).knees}
        except (RadiographError, ReadingError) as error:
            problems.append(f"{path}: {error}")
            continue
        if side not in found:
            problems.append(f"{path}: no knee {side} found")
            continue
        row = {"file": path.name, "subject_id": subject, "side": side, "kl": kl}
        measured.append(measure(found[side], graders, row, steps, np.random.default_rng([seed, number])))
    return measured, problems


def measure(knee: KneeReading, graders: dict[str, Grader], who: dict, steps: int, rng: np.random.Generator) -> Measured:
    """Work out every map of one knee, its curves and its share in the joint space."""
    any_grader = graders["gradcam"]
    geometry = any_grader.geometry
    size, grain_px = geometry.roi_px, BLUR_MM / geometry.spacing_mm
    seen, band = any_grader.seen, joint_band(knee.frame.to_roi(knee.landmarks), size)
    blurred = blur_rois(knee.roi[None], grain_px)[0]
    heats = {method: grader.predict(knee.roi[None]).attention[0] for method, grader in graders.items()}
    heats |= {RANDOM: random_map(size, grain_px, rng) * seen, BAND: (band & seen).astype(np.float32)}
    who = who | {"predicted_kl": knee.kl, "probability": knee.probabilities[knee.kl]}
    who["band_area"] = (band & seen).sum() / seen.sum()

    def predict(rois: NDArray[np.uint8]) -> NDArray[np.float64]:
        return any_grader.judge(rois)[0]

    curves, rows = {}, []
    for name, heat in heats.items():
        pair = perturbation_curves(predict, knee.roi, blurred, heat, knee.kl, seen, steps=steps, rng=rng)
        curves[name] = np.stack(pair)
        deletion, insertion = area_under(curves[name])
        row = {"map": name, "deletion": deletion, "insertion": insertion, "inside": share_inside(heat, band)}
        rows.append(who | row | {"empty": not heat.any()})
    return Measured(knee, band, heats, curves, rows)


def summarize(rows: pd.DataFrame, bootstrap: SubjectBootstrap) -> pd.DataFrame:
    """Put one figure of one map into a row, with its difference from the random map of the same knee."""
    lines = []
    for figure in FIGURES:
        values = np.stack([rows.loc[rows["map"] == name, figure] for name in MAPS], axis=1)  # (N, maps)
        both = np.concatenate([values, values - values[:, [MAPS.index(RANDOM)]]], axis=1)
        mean, resampled = bootstrap.means(both)
        low, high = interval(resampled)
        for column, name in enumerate(MAPS):
            line = {"figure": figure, "map": name, "knees": int(np.isfinite(values[:, column]).sum())}
            for prefix, place in (("", column), ("less_random_", column + len(MAPS))):
                line |= {f"{prefix}{end}": what[place] for end, what in
                         (("mean", mean), ("low", low), ("high", high))}  # fmt: skip
            lines.append(line)
    return pd.DataFrame(lines)


def markdown(summary: pd.DataFrame, rows: pd.DataFrame, left_out: int, training: str) -> str:
    """Write the table for people."""
    ours = rows[rows["map"] == RANDOM]
    lines = [
        f"{len(ours)} knees of {ours.subject_id.nunique()} subjects ({left_out} left out); 95 % intervals by bootstrap "
        f"over subjects. The joint space fills {ours.band_area.mean():.0%} of what the networks see. The grade "
        f"explained is the likeliest; it has a probability of {ours.probability.mean():.2f} on average. {training}",
        "",
    ]
    for figure, words in FIGURES.items():
        lines += [f"| {words} | mean | 95 % | less random | 95 % | empty maps |", "|---|---|---|---|---|---|"]
        for line in summary[summary.figure == figure].itertuples():
            own, other = (
                "—" if line.map == RANDOM and less else
                f"{getattr(line, f'{less}mean'):.3f} | {getattr(line, f'{less}low'):.3f} to "
                f"{getattr(line, f'{less}high'):.3f}" for less in ("", "less_random_")
            )  # fmt: skip
            empty = int(rows.loc[rows["map"] == line.map, "empty"].sum())
            lines.append(f"| {line.map} | {own} | {'— | —' if other == '—' else other} | {empty} |")
        lines.append("")
    return "\n".join([*lines, "Research use only. Not a medical device."]) + "\n"


def draw_curves(measured: list[Measured], bootstrap: SubjectBootstrap, path: Path) -> None:
    """Draw the mean curves of every map."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
    for name, color in zip(MAPS, ("tab:red", "tab:blue", "tab:green", "0.4", "tab:orange"), strict=True):
        curves = np.stack([knee.curves[name] for knee in measured])  # (N, 2, K + 1)
        mean, resampled = bootstrap.means(curves)
        shares = np.linspace(0, 1, curves.shape[-1])
        for axis, line, low, high in zip(axes, mean, *interval(resampled), strict=True):
            axis.plot(shares, line, color=color, label=f"{name}: {area_under(line):.2f}")
            axis.fill_between(shares, low, high, color=color, alpha=0.1, linewidth=0)
    axes[0].set(title="deletion (low is good)", ylabel="probability of the explained grade", ylim=(0, 1))
    axes[1].set(title="insertion (high is good)")
    axes[0].set_xlabel("share of pixels blurred, most attended first")
    axes[1].set_xlabel("share of pixels sharp, most attended first")
    for axis in axes:
        axis.legend(title="map: area under the curve", fontsize=8, title_fontsize=8)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_maps(measured: list[Measured], path: Path) -> None:
    """Draw the maps of the first knees of every true grade."""
    kls = [knee.rows[0]["kl"] for knee in measured]
    chosen = [[knee for knee, kl in zip(measured, kls, strict=True) if kl == grade][:SHOWN] for grade in range(5)]
    knees: Iterator[Measured] = (knee for part in chosen for knee in part)
    count = sum(map(len, chosen))
    figure, axes = plt.subplots(count, 1 + len(METHODS), figsize=(9, 2.3 * count), squeeze=False, layout="constrained")
    for line, knee in zip(axes, knees, strict=True):
        for axis, name in zip(line, ("", *METHODS), strict=True):
            axis.imshow(knee.reading.roi, cmap="gray")
            axis.contour(knee.band, [0.5], colors="w", linewidths=0.5)
            if name:
                heat = knee.heats[name]
                axis.imshow(heat, cmap="jet", alpha=0.55 * np.sqrt(heat), vmin=0, vmax=1)
                inside = next(row["inside"] for row in knee.rows if row["map"] == name)
                axis.set_title(f"{name}: {inside:.0%} inside", fontsize=8)
            axis.set(xticks=[], yticks=[])
        row = knee.rows[0]
        line[0].set_title(f"{row['subject_id']}{row['side']}, KL {row['kl']}", fontsize=8)
        line[0].set_ylabel(f"read as {row['predicted_kl']}: {row['probability']:.2f}", fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
