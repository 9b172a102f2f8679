#!/usr/bin/env python
"""Train a baseline on a landmark experiment: the floor that a network has to beat.

  mean      the mean training shape, wherever the ROI lies; does not look at the picture
  ridge     ridge regression from the ROI at 32 x 32 pixels to the coordinates
  resnet18  a plain ResNet-18, untrained weights, that regresses coordinates

Data, ROI, folds and seed are the experiment's; augment, loss, mixup and training act on resnet18 only, model and
transfer on none. Landmark ROIs lie around the annotated joint centre, so the mean shape has that point for nothing.
Writes WORKDIR/NAME_BASELINE/: fold_K/ with the model, predictions.csv (validation knees of all folds, points in pixels
of the ROI; layout: kneel/predictions.py) and metrics.csv (each fold and all, errors in mm, 95 % interval of
the mean by bootstrap over subjects); with --fold predictions_fold_K.csv and metrics_fold_K.csv. NAME is the name of the
experiment file. Research use only.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from kneel.authors import is_authors_file, load_landmark_experiment
from kneel.baselines import BASELINES, ResNetTask, fit_linear, predict_resnet, small_pictures
from kneel.bootstrap import SubjectBootstrap, interval
from kneel.engine.atomic import DiskFull, write_atomic
from kneel.engine.config import ConfigError, load_config
from kneel.engine.fit import fit
from kneel.engine.folds import LeakageError
from kneel.engine.hold import RunBusy
from kneel.engine.record import ResumeError, RunExists
from kneel.engine.snapshot import SnapshotError
from kneel.engine.trainer import TrainingDiverged
from kneel.experiment import LandmarkExperiment
from kneel.imaging.radiograph import RadiographError
from kneel.imaging.schema import AnnotationError
from kneel.metrics import error_summary
from kneel.oof import gather
from kneel.predictions import PredictionError, Predictions, write_predictions
from kneel.train import LandmarkTask

USER_ERRORS = (
    ConfigError,
    AnnotationError,
    RadiographError,
    LeakageError,
    RunExists,
    ResumeError,
    SnapshotError,
    PredictionError,
    TrainingDiverged,
    FileNotFoundError,
)
PASSING_ERRORS = (DiskFull, RunBusy)  # another time it may work


def main() -> int:
    """Train; 0 when done, 2 when it cannot be (trying again would not help), 1 when something else went wrong."""
    given = parse()
    try:
        metrics = run(given)
    except (*USER_ERRORS, *PASSING_ERRORS) as error:
        print(f"train_baselines: {error}", file=sys.stderr)
        return 1 if isinstance(error, PASSING_ERRORS) else 2
    print(metrics.round(3).to_string(index=False))
    return 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--experiment", type=Path, required=True, metavar="FILE", help="experiment file (YAML), lc or hc"
    )
    parser.add_argument("--data_root", type=Path, required=True, metavar="DIR", help="where the data are")
    parser.add_argument("--workdir", type=Path, required=True, metavar="DIR", help="where all runs go")
    parser.add_argument("--baseline", choices=BASELINES, required=True, help="which one")
    parser.add_argument("--fold", type=int, metavar="K", help="one held-out fold, from 0 (default: all of them)")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--resume", action="store_true", help="go on with a ResNet-18 that was interrupted")
    group.add_argument("--overwrite", action="store_true", help="replace a run that is there")
    given = parser.parse_args()
    if given.resume and given.baseline != "resnet18":
        parser.error(f"--resume: {given.baseline} has nothing to go on with; use --overwrite")
    return given


def run(given: argparse.Namespace) -> pd.DataFrame:
    """Train the folds and write the tables; returns the metrics."""
    read = load_landmark_experiment if is_authors_file(given.experiment) else load_experiment
    experiment, name = read(given.experiment), f"{given.experiment.stem}_{given.baseline}"
    folder = given.workdir / name
    suffix = "" if given.fold is None else f"_fold_{given.fold}"
    predictions = folder / f"predictions{suffix}.csv"
    if predictions.exists() and not (given.overwrite or given.resume):
        raise RunExists(f"{predictions} is there already; --overwrite replaces it, or use another --workdir")
    folds = range(1 if experiment.data.val is not None else experiment.folds) if given.fold is None else [given.fold]
    parts = []
    for fold in tqdm(folds, "folds", unit="fold", disable=None):
        task, points, truth = train_fold(experiment, given, name, fold)
        own = np.stack([knee.points for knee in task.samples[1]])  # in the pictures of which the ROI is the middle
        parts.append(gather(name, task.samples[1], str(fold), experiment.roi.spacing_mm, points - truth + own))
    everything = Predictions.joined(parts)
    judged = [judge(part, str(fold)) for part, fold in zip(parts, folds, strict=True)]
    metrics = pd.DataFrame(judged + [judge(everything, "all")] * (len(parts) > 1))
    write_predictions(predictions, everything)
    write_atomic(folder / f"metrics{suffix}.csv", metrics.to_csv(index=False).encode())
    return metrics


def load_experiment(path: Path) -> LandmarkExperiment:
    """Read an experiment file of ours."""
    return load_config(path, LandmarkExperiment)


def train_fold(
    experiment: LandmarkExperiment, given: argparse.Namespace, name: str, fold: int
) -> tuple[LandmarkTask, NDArray, NDArray]:
    """Fit one fold; returns it with the predicted and the true points of its validation knees, (N, M, 2) pixels."""
    size, folder = experiment.roi.size, given.workdir / name
    if given.baseline != "resnet18":
        task = LandmarkTask(experiment, given.data_root, name=name, fold=fold)
        model = fit_linear(task, given.baseline)
        (folder / f"fold_{fold}").mkdir(parents=True, exist_ok=True)
        model.save(folder / f"fold_{fold}" / "model.npz")
        pictures, truth = small_pictures(task.samples[1], size)
        return task, model(pictures), truth
    task = ResNetTask(experiment, given.data_root, name=name, fold=fold)
    options = {"resume": given.resume, "overwrite": given.overwrite}
    result = fit(task, experiment.training, folder, name=f"fold_{fold}", **options)
    _, truth = small_pictures(task.samples[1], size)
    return task, predict_resnet(result.path_best, task.val_dataset(), experiment.training.batch_size), truth


def judge(predictions: Predictions, fold: str) -> dict[str, Any]:
    """Summarise the errors in mm, with a 95 % interval of the mean by bootstrap over subjects."""
    errors = predictions.errors_mm
    _, resampled = SubjectBootstrap(predictions.knees.subject_id.tolist()).means(errors.mean(axis=1))
    low, high = (float(end) for end in interval(resampled))
    summary = error_summary(errors)
    head = {"experiment": predictions.experiment, "fold": fold, "knees": len(errors)}
    return head | {"error_mm": summary.pop("error_mm"), "low_95": low, "high_95": high} | summary


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())
