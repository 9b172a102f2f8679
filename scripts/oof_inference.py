#!/usr/bin/env python
"""Predict the landmarks of every knee with the network that was not trained on its subject (out of fold).

Takes the best snapshot of every fold from WORKDIR/NAME/fold_K; NAME is that of the experiment file without .yaml. A
snapshot that was trained on another split of the subjects is refused, and so is a training with epochs to go. An
experiment with a validation set of its own is predicted on that. With --test_annotations and --test_images, a separate
test set in KNEEL's format is predicted instead, by the mean of all folds; subjects that the experiment's data hold are
refused.

Writes a table (layout: kneel/predictions.py) for assess_test_results.py. Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kneel.authors import is_authors_file, load_landmark_experiment
from kneel.engine.atomic import DiskFull
from kneel.engine.config import ConfigError, load_config
from kneel.engine.folds import LeakageError
from kneel.engine.snapshot import SnapshotError
from kneel.engine.transfer import RunUnfinished
from kneel.experiment import LandmarkExperiment
from kneel.imaging.radiograph import RadiographError
from kneel.imaging.schema import AnnotationError
from kneel.oof import on_test_set, out_of_fold
from kneel.predictions import PredictionError, Predictions, write_predictions
from kneel.sources import KneelSource

USER_ERRORS = (
    *(ConfigError, AnnotationError, RadiographError, LeakageError, SnapshotError, PredictionError),
    *(RunUnfinished, OSError),
)


def main(words: Sequence[str] | None = None) -> int:
    """Predict; 0 when done, 2 when it cannot be, 1 when the disk is full."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", type=Path, required=True, metavar="FILE", help="landmark experiment (YAML)")
    parser.add_argument("--data_root", type=Path, required=True, metavar="DIR", help="where the data are")
    parser.add_argument("--workdir", type=Path, required=True, metavar="DIR", help="where all runs are")
    parser.add_argument("--out", type=Path, metavar="CSV", help="default: WORKDIR/NAME/oof.csv, or test.csv")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="also write the ROIs, for --images of the report")
    parser.add_argument("--test_annotations", type=Path, metavar="CSV", help="test set: table of points")
    parser.add_argument("--test_images", type=Path, metavar="DIR", help="test set: pictures, as for kneel_csv")
    given = parser.parse_args(words)
    if (given.test_annotations is None) != (given.test_images is None):
        parser.error("--test_annotations and --test_images go together")
    name, kind = given.experiment.stem, "oof" if given.test_images is None else "test"
    out = given.out or given.workdir / name / f"{kind}.csv"
    try:
        write_predictions(out, predict(given, name))
    except USER_ERRORS as error:
        print(f"oof_inference: {error}", file=sys.stderr)
        return 1 if isinstance(error, DiskFull) else 2
    print(f"predictions: {out}")
    return 0


def predict(given: argparse.Namespace, name: str) -> Predictions:
    """Read the experiment and predict what is asked for."""
    path = given.experiment
    experiment = load_landmark_experiment(path) if is_authors_file(path) else load_config(path, LandmarkExperiment)
    if given.test_images is None:
        return out_of_fold(experiment, given.data_root, given.workdir, name=name, pictures=given.pictures)
    annotations, images = (str(path.resolve()) for path in (given.test_annotations, given.test_images))
    test = KneelSource(source="kneel_csv", annotations=annotations, images=images)
    return on_test_set(experiment, given.data_root, given.workdir, name=name, test=test, pictures=given.pictures)


if __name__ == "__main__":
    sys.exit(main())
