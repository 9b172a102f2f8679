#!/usr/bin/env python
"""Train one fold of one experiment: the joint centre (lc), the 16 landmarks (hc) or the KL grade (kl).

Writes WORKDIR/NAME/fold_K/: best.safetensors, last.safetensors (each with a readable .json, and the one before it as
.previous), metrics.csv, train.log, experiment.yaml (all settings as they were used) and provenance/ (code, packages,
machine, one file a start). NAME is the name of the experiment file without .yaml.

Several GPUs or processes share every batch and train the same network as one does, to rounding:
    torchrun --nproc_per_node=N scripts/train.py ...

Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import logging
import sys
import traceback
from pathlib import Path
from typing import Literal

from board_options import add_board_options, choose_board
from pydantic import BaseModel, ConfigDict

from deepknee.experiment import GradingExperiment
from deepknee.predictions import PredictionTableError
from deepknee.source_tables import grading_tables
from deepknee.train import train_grader
from kneel.authors import is_authors_file, load_landmark_experiment
from kneel.engine.atomic import DiskFull
from kneel.engine.config import ConfigError, load_config
from kneel.engine.fit import FitResult
from kneel.engine.folds import LeakageError
from kneel.engine.hold import RunBusy
from kneel.engine.log import logged, note
from kneel.engine.processes import first_to_fail, is_main_process, signed
from kneel.engine.queue.state import HOPELESS
from kneel.engine.record import ResumeError, RunExists
from kneel.engine.same import digests
from kneel.engine.snapshot import SnapshotError
from kneel.engine.trainer import TrainingDiverged
from kneel.engine.transfer import RunUnfinished
from kneel.experiment import LandmarkExperiment
from kneel.imaging.radiograph import RadiographError
from kneel.imaging.schema import AnnotationError
from kneel.sources import tables_of
from kneel.train import train_landmarks

Experiment = LandmarkExperiment | GradingExperiment

USER_ERRORS = (
    ConfigError,
    AnnotationError,
    RadiographError,
    PredictionTableError,
    LeakageError,
    RunExists,
    ResumeError,
    SnapshotError,
    TrainingDiverged,
    FileNotFoundError,
)
PASSING_ERRORS = (DiskFull, RunBusy, RunUnfinished)  # another time it may work


class TaskName(BaseModel):
    """The one key that decides which package reads the rest of an experiment."""

    model_config = ConfigDict(extra="ignore")

    task: Literal["lc", "hc", "kl"]


def main() -> int:
    """Train; 0 when done, 2 when it cannot be (trying again would not help), 1 when something else went wrong."""
    arguments = parse()
    name = run_name(arguments.experiment.stem, arguments.seed)
    with logged(arguments.workdir / name / f"fold_{arguments.fold}"):
        return run(arguments)


def run(arguments: argparse.Namespace) -> int:
    """Train and say how it ended; as `main`."""
    try:
        result = train(arguments)
    except (*USER_ERRORS, *PASSING_ERRORS) as error:
        if first_to_fail():
            note(signed(f"train: {error}"))
            print(signed(f"train: {error}"), file=sys.stderr)
        return 1 if isinstance(error, PASSING_ERRORS) else HOPELESS
    except Exception:
        if not first_to_fail():
            return 1
        note(signed(traceback.format_exc()))
        print(signed("train: an error that nobody foresaw"), file=sys.stderr)
        raise
    if is_main_process():
        print(f"best epoch {result.best_epoch}: {result.best_metric:.4g}  {result.path_best}")
    return 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", type=Path, required=True, metavar="FILE", help="experiment file (YAML)")
    parser.add_argument("--data_root", type=Path, required=True, metavar="DIR", help="where the data are")
    parser.add_argument("--workdir", type=Path, required=True, metavar="DIR", help="where all runs go")
    parser.add_argument("--fold", type=int, default=0, metavar="K", help="held-out fold, from 0 (default: 0)")
    parser.add_argument(
        "--seed", type=int, metavar="S", help="another seed than the file's; the run is then called NAME_seed_S"
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--resume", action="store_true", help="go on after the last complete epoch, if there is one")
    group.add_argument("--overwrite", action="store_true", help="replace a run that is there")
    add_board_options(parser)
    return parser.parse_args()


def train(arguments: argparse.Namespace) -> FitResult:
    """Hand the experiment to the package that it is for."""
    name, experiment = with_seed(arguments.experiment.stem, read_experiment(arguments.experiment), arguments.seed)
    folder = arguments.workdir / name / f"fold_{arguments.fold}"
    settings = {
        "name": name,
        "fold": arguments.fold,
        "resume": arguments.resume,
        "overwrite": arguments.overwrite,
        "board": choose_board(arguments, folder) if is_main_process() else None,
    }
    train_fold = train_grader if isinstance(experiment, GradingExperiment) else train_landmarks
    return train_fold(experiment, arguments.data_root, arguments.workdir, **settings)


def read_experiment(path: Path) -> Experiment:
    """Read an experiment file as what its ``task`` says that it is; KNEEL's authors' own files are taken too."""
    if is_authors_file(path):
        return load_landmark_experiment(path)
    task = load_config(path, TaskName).task
    return load_config(path, GradingExperiment if task == "kl" else LandmarkExperiment)


def table_digests(experiment: Experiment, root: Path) -> dict[str, str]:
    """Digest the tables that an experiment's data are told by, as snapshots note them; without those not there."""
    if isinstance(experiment, GradingExperiment):
        return grading_tables(experiment, root)
    return digests(root, tables_of(experiment.data))


def run_name(name: str, seed: int | None) -> str:
    """Name of a run with another seed than the file's, or with that."""
    return name if seed is None else f"{name}_seed_{seed}"


def with_seed(name: str, experiment: Experiment, seed: int | None) -> tuple[str, Experiment]:
    """Name and settings of a run with another seed than the file's.

    The seed also deals the folds, so it starts from weights of the same seed. Graders of all seeds are one ensemble.
    """
    if seed is None:
        return name, experiment
    changes: dict[str, object] = {"training": experiment.training.model_copy(update={"seed": seed})}
    if experiment.transfer is not None:
        changes["transfer"] = run_name(experiment.transfer, seed)
    if isinstance(experiment, GradingExperiment):
        changes["ensemble"] = experiment.ensemble or name
    return run_name(name, seed), experiment.model_copy(update=changes)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO if is_main_process() else logging.ERROR, format="%(message)s")
    sys.exit(main())
