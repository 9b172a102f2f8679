#!/usr/bin/env python
"""Let networks label their own training knees, for another network to learn from them (knowledge distillation).

Writes DIR/labels.csv, one row a knee with five probabilities (layout: deepknee/predictions.py), and labels.json, which
notes whom the networks were trained on; a table there that people made or changed is not replaced. An experiment file
asks for them so, with the weight that they have beside the true grade:
  labels: {table: labels.csv, share: 0.5}
A table of the same layout that readers' votes were written into serves as well, without labels.json.

Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from deepknee.dataset import load_knees
from deepknee.ensemble import Grader
from deepknee.label_table import check_replaceable, write_labels
from deepknee.pipeline import DeviceError, choose_device
from deepknee.predictions import PredictionTableError, grade_knees, source_of
from deepknee.weights import WeightsError, find_graders
from kneel.engine.atomic import DiskFull
from kneel.engine.config import ConfigError
from kneel.engine.folds import LeakageError
from kneel.engine.snapshot import SnapshotError
from kneel.imaging.radiograph import RadiographError
from kneel.imaging.schema import AnnotationError

USER_ERRORS = (
    *(PredictionTableError, WeightsError, SnapshotError, LeakageError, DeviceError, ConfigError, RadiographError),
    *(AnnotationError, OSError),
)


def main(words: Sequence[str] | None = None) -> int:
    """Label; 0 when done, 2 when it cannot be, 1 when the disk is full."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="training knees; as for evaluate_kl.py")
    parser.add_argument(
        "--weights",
        type=Path,
        nargs="+",
        metavar="PATH",
        required=True,
        help="folder of the snapshots of one experiment, or files that form an ensemble",
    )
    parser.add_argument("--out", type=Path, metavar="CSV", help="where the table goes (default: DIR/labels.csv)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: %(default)s")
    given = parser.parse_args(words)
    out = given.out or given.data / "labels.csv"
    try:
        check_replaceable(out)
        name, paths = find_graders(given.weights)
        grader = Grader.from_snapshots(paths, device=choose_device(given.device))
        knees = load_knees(given.data, source_of(given.data), grader.geometry, "film")
        labels = grade_knees(grader, knees, given.data, model=name)
        write_labels(out, labels, [member.training for member in grader.members])
    except USER_ERRORS as error:
        print(f"label_kl: {error}", file=sys.stderr)
        return 1 if isinstance(error, DiskFull) else 2
    print(f"{len(knees)} knees labelled by {len(paths)} networks of {name}: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
