#!/usr/bin/env python
"""Say how good KL grades are: metrics with 95 % intervals over subjects, calibration, sets of grades, two models.

Grades a data set (--data) with networks (--weights), or takes predictions that were made before (--predictions; layout:
deepknee/predictions.py). A data set is a folder of the folders 0 to 4 with {subject}{L or R}.png (the public set of
Chen 2018), ROIs that create_grading_dataset.py cut, or films with annotations.csv (a phantom cohort). One that holds a
subject that a network was trained on is refused; where a snapshot does not say enough, the report does. Writes to
--out:
  report.md             start here: all figures and pictures, and what they mean
  predictions.csv       one row a knee: true grade, five probabilities, each network's own, set of grades
  figures.csv           every figure with its interval
  comparison.csv        with --against: the differences of two models on the same knees
  predictions_against.csv  what the second of them said, where it was graded here
  robustness.csv        with --robustness: the same knees mirrored, inverted, turned, scaled, shifted ...
  confusion.png, roc.png, precision_recall.png, reliability.png

Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from deepknee.conformal import COVERAGE, LARGEST
from deepknee.ensemble import Grader
from deepknee.evaluate import evaluate, same_knees
from deepknee.evaluate_report import write_report
from deepknee.made_of import day_and_code, named_files
from deepknee.out_of_fold import grade_out_of_fold
from deepknee.pipeline import DeviceError, choose_device
from deepknee.predictions import (
    GradePredictions,
    PredictionTableError,
    grade_folder,
    read_predictions,
    source_of,
    write_predictions,
)
from deepknee.robustness import WORDS, robustness_table
from deepknee.weights import WeightsError, find_graders
from kneel.bootstrap import RESAMPLES
from kneel.engine.atomic import DiskFull
from kneel.engine.config import ConfigError
from kneel.engine.folds import LeakageError
from kneel.engine.snapshot import SnapshotError
from kneel.imaging.radiograph import RadiographError
from kneel.imaging.schema import AnnotationError

EXAMPLES = """\
examples
  evaluate_kl.py --data DATA/chen2018/val --out evaluation --robustness
  evaluate_kl.py --data DATA/chen2018/test --weights workdir/mine --against workdir/resnet --out both
  evaluate_kl.py --data DATA/most --weights workdir/five_folds --out_of_fold --out folds
  evaluate_kl.py --predictions a/predictions.csv --against b/predictions.csv --out both"""
PREDICTIONS, AGAINST = "predictions.csv", "predictions_against.csv"
USER_ERRORS = (
    *(PredictionTableError, WeightsError, SnapshotError, LeakageError, DeviceError, ConfigError, RadiographError),
    *(AnnotationError, OSError),
)


def main(words: Sequence[str] | None = None) -> int:
    """Evaluate; 0 when done, 2 when it cannot be, 1 when the disk is full."""
    parser = build_parser()
    given = parser.parse_args(words)
    _check(parser, given)
    try:
        made_of = [day_and_code(), *([f"knees: `{given.data}`"] if given.data is not None else [])]
        table = _table_against(given, made_of)
        first, grader = _predictions(given, made_of)
        second = _graded(given, given.against, made_of) if given.against is not None and table is None else None
        models = [first, *(_beside(first, other) for other in (table, second) if other is not None)]
        robust = None
        if grader is not None and given.robustness:
            robust = robustness_table(grader, given.data, first, resamples=given.resamples)
        how = {"resamples": given.resamples, "coverage": given.coverage, "largest": given.largest}
        evaluated = [evaluate(one, **how) for one in models]
        # nothing is written before all is done: what is refused leaves an older report whole
        if grader is not None:
            _keep(given.out / PREDICTIONS, first)
        if grader is not None and given.against is None:
            (given.out / AGAINST).unlink(missing_ok=True)
        if second is not None:
            _keep(given.out / AGAINST, second)
        write_report(given.out, evaluated, **how, made_of=made_of, robustness=robust, robustness_words=WORDS)
    except USER_ERRORS as error:
        print(f"evaluate_kl: {error}", file=sys.stderr)
        return 1 if isinstance(error, DiskFull) else 2
    for one in evaluated:
        print(f"{one.predictions.model}: kappa {one.cell('quadratic kappa')}, accuracy {one.cell('accuracy')}")
        print(f"  {one.predictions.training}")
    print(f"Open {given.out / 'report.md'}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain, epilog=EXAMPLES)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path, metavar="DIR", help="data set to grade")
    what.add_argument("--predictions", type=Path, metavar="CSV", help="predictions that were made before")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where everything goes")
    parser.add_argument(
        "--weights",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="folder of the snapshots of one experiment, or files that form an ensemble (default: as `deepknee read`)",
    )
    parser.add_argument(
        "--against",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="second model: predictions (.csv) of the same knees, or as --weights, to grade --data with",
    )
    parser.add_argument(
        "--out_of_fold",
        action="store_true",
        help="--data is what the folds of a training were cut from: grade each knee by the network that held it out",
    )
    parser.add_argument("--name", help="of the model in the report (default: the experiment's)")
    parser.add_argument("--robustness", action="store_true", help="also grade changed pictures; needs folders 0 to 4")
    parser.add_argument(
        "--resamples", type=int, default=RESAMPLES, metavar="N", help="of the bootstrap (default: %(default)s)"
    )
    parser.add_argument(
        "--coverage", type=float, default=COVERAGE, metavar="C", help="of cross-fitted sets (default: %(default)s)"
    )
    parser.add_argument(
        "--largest", type=int, default=LARGEST, metavar="N", help="set to give one grade for (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: %(default)s")
    return parser


def _check(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    if given.out.exists() and not given.out.is_dir():
        parser.error(f"--out {given.out}: is a file; must be a folder")
    if given.resamples < 1 or given.largest < 1:
        parser.error("--resamples and --largest must be 1 or more")
    if not 0 < given.coverage < 1:
        parser.error(f"--coverage {given.coverage}: must lie between 0 and 1, such as 0.9")
    if given.predictions is not None and (given.weights or given.robustness):
        parser.error("--weights and --robustness grade pictures: give --data instead of --predictions")
    if given.out_of_fold and (given.predictions is not None or given.robustness):
        parser.error("--out_of_fold grades --data as they are: leave out --predictions and --robustness")
    if given.predictions is not None and given.against and not _is_table(given.against):
        parser.error("--against networks needs --data to grade; with --predictions it must be a .csv")


def _is_table(places: Sequence[Path]) -> bool:
    return len(places) == 1 and places[0].suffix == ".csv"


def _table_against(given: argparse.Namespace, made_of: list[str]) -> GradePredictions | None:
    """Read the second model's table, before hours of grading; refuse one that the new predictions would replace."""
    if given.against is None or not _is_table(given.against):
        return None
    path, ours = given.against[0], given.out / PREDICTIONS
    table = read_predictions(path)
    if given.data is not None and ours.exists() and ours.samefile(path):
        raise PredictionTableError(f"--against {path}: the new predictions would replace it; give another --out")
    made_of.append(f"against: {named_files([path])}")
    return table


def _predictions(given: argparse.Namespace, made_of: list[str]) -> tuple[GradePredictions, Grader | None]:
    """Read or make the predictions of the first model; with the grader that made them."""
    if given.predictions is not None:
        read = read_predictions(given.predictions)
        made_of.append(f"predictions: {named_files([given.predictions])}")
        return (replace(read, model=given.name) if given.name else read), None
    if given.robustness and source_of(given.data).source != "graded_folder":
        raise FileNotFoundError(f"{given.data}: --robustness changes pictures of the folders 0 to 4; there are none")
    name, grader, files = _load(given.weights, given.device)
    made_of.append(f"{given.name or name}: {files}")
    return _grade(given)(grader, given.data, model=given.name or name), grader


def _grade(given: argparse.Namespace) -> Callable[..., GradePredictions]:
    return grade_out_of_fold if given.out_of_fold else grade_folder


def _graded(given: argparse.Namespace, networks: Sequence[Path], made_of: list[str]) -> GradePredictions:
    name, grader, files = _load(networks, given.device)
    made_of.append(f"against, {name}: {files}")
    return _grade(given)(grader, given.data, model=name)


def _keep(path: Path, made: GradePredictions) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)  # now that nothing was refused
    write_predictions(path, made)


def _beside(first: GradePredictions, second: GradePredictions) -> GradePredictions:
    """Put the second model into the order of the first, under a name of its own."""
    if second.model == first.model:
        second = replace(second, model=f"{second.model} (against)")
    return same_knees(first, second)


def _load(places: Sequence[Path] | None, device: str) -> tuple[str, Grader, str]:
    """Load an ensemble; with its name, and words on its files and whether its calibration acts."""
    name, paths = find_graders(places)
    try:
        grader = Grader.from_snapshots(paths, device=choose_device(device))
    except ValueError as error:
        raise WeightsError(str(error)) from error
    return name, grader, "; ".join([named_files(paths), *([doubt] if (doubt := grader.calibration_doubt) else [])])


if __name__ == "__main__":
    sys.exit(main())
