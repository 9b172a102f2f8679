#!/usr/bin/env python
"""Fit the temperature of grading networks and the threshold of their sets, and store both in their snapshots.

The knees (--data; as for evaluate_kl.py) must be such as the networks were not trained on, and are refused otherwise:
those that chose their epoch will do, knees of a test set must not be used. All networks named are one ensemble: the
temperature makes the cross-entropy of their mean probability smallest, the threshold makes sets of neighbouring grades
that hold the true one of --coverage of the knees (deepknee/conformal.py). Weights stay byte for byte; each file is
written beside its place, then renamed. With --turns the networks are also shown every knee turned by these angles, then
and in all readings to come, and all answers are averaged.

What is printed is cross-fitted: every knee is judged by what was fitted on the other half of the subjects.
Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deepknee.calibration import fit_all, why_doubtful
from deepknee.conformal import COVERAGE, LARGEST
from deepknee.ensemble import Grader
from deepknee.evaluate import evaluate
from deepknee.member import LARGEST_TURN, GraderSettings, Member, load_member
from deepknee.pipeline import DeviceError, choose_device
from deepknee.predictions import grade_folder
from deepknee.weights import WeightsError, find_graders
from kneel.engine.atomic import DiskFull
from kneel.engine.config import ConfigError
from kneel.engine.folds import LeakageError, subject_marks
from kneel.engine.snapshot import SnapshotError, load_snapshot, update_snapshot
from kneel.engine.transfer import weights_digest
from kneel.imaging.radiograph import RadiographError
from kneel.imaging.schema import AnnotationError

USER_ERRORS = (
    *(WeightsError, SnapshotError, LeakageError, DeviceError, ConfigError, RadiographError, AnnotationError),
    OSError,
)


def main(words: Sequence[str] | None = None) -> int:
    """Calibrate; 0 when done, 2 when it cannot be, 1 when the disk is full."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="validation knees")
    parser.add_argument(
        "--weights",
        type=Path,
        nargs="+",
        metavar="PATH",
        required=True,
        help="folder of the snapshots of one experiment, or files that form an ensemble; they are changed",
    )
    parser.add_argument(
        "--coverage", type=float, default=COVERAGE, metavar="C", help="of the sets (default: %(default)s)"
    )
    parser.add_argument(
        "--largest", type=int, default=LARGEST, metavar="N", help="set to give one grade for (default: %(default)s)"
    )
    parser.add_argument(
        "--turns",
        type=float,
        nargs="*",
        metavar="DEGREES",
        help="such as -6 6; none after it: upright only (default: as stored)",
    )
    parser.add_argument("--dry_run", action="store_true", help="fit and print, but store nothing")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: %(default)s")
    given = parser.parse_args(words)
    if not 0 < given.coverage < 1 or given.largest < 1:
        parser.error("--coverage must lie between 0 and 1, such as 0.9, and --largest must be 1 or more")
    turns = given.turns or ()
    if len(set(turns)) < len(turns) or not all(0 < abs(degrees) <= LARGEST_TURN for degrees in turns):
        parser.error(
            f"--turns must be different angles of {LARGEST_TURN} degrees at most, and not 0: upright is there anyway"
        )
    try:
        calibrate(given)
    except USER_ERRORS as error:
        print(f"calibrate_kl: {error}", file=sys.stderr)
        return 1 if isinstance(error, DiskFull) else 2
    return 0


def calibrate(given: argparse.Namespace) -> None:
    """Fit, print and store."""
    name, paths = find_graders(given.weights)
    # from the logits as trained, so that calibrating twice gives what once gives
    members = [_uncalibrated(load_member(path), given.turns) for path in paths]
    if any(member.settings.mode == "2018" for member in members):
        raise ConfigError(f"{paths[0]}: its mode is 2018, whose probabilities know no temperature; only mode mean does")
    made = grade_folder(Grader(members, device=choose_device(given.device)), given.data, model=name)
    temperature, conformal = fit_all(made.networks, made.grades, coverage=given.coverage, largest=given.largest)
    doubt = why_doubtful(made.networks, made.grades, temperature)
    table = evaluate(made, coverage=given.coverage, largest=given.largest).table
    turns = "".join(f", turned by {degrees:g}" for degrees in members[0].settings.turns_deg)
    print(
        f"{name}: {len(paths)} networks, upright{turns}; {len(made.grades)} knees of {len(set(made.subjects))} subjects"
    )
    print(made.training)
    print(f"temperature {temperature:.4f}, threshold {conformal.threshold:.4f}")
    if doubt is not None:
        print(f"calibrate_kl: warning: {doubt}; are these the right networks and knees?", file=sys.stderr)
    for group in ("grading", "cross-fitted"):
        part = table[(table.group == group) & ~table.figure.str.startswith(("recall", "F1"))]
        print(f"\n{'as trained' if group == 'grading' else group}")
        for row in part.itertuples():
            print(f"  {row.figure}: {row.value:.3f} ({row.low:.3f} to {row.high:.3f})")
    if given.dry_run:
        print("\nnothing stored (--dry_run)")
        return
    angles = {"turns_deg": list(members[0].settings.turns_deg)}  # all have the same, or they made no Grader
    weights = "".join(sorted(weights_digest(load_snapshot(path)[0]) for path in paths))
    fit = hashlib.sha256(weights.encode()).hexdigest()[:16]
    sets = {**conformal.model_dump(mode="json"), **angles, "fit": fit}
    fitted = {"temperature": temperature, "conformal": sets, **angles}
    fitted["calibrated_on"] = subject_marks(made.subjects)  # so that a report can tell when these knees are shown
    for path in paths:
        update_snapshot(path, fitted)
        print(f"stored in {path}")


def _uncalibrated(member: Member, turns: Sequence[float] | None) -> Member:
    """Take what was fitted off a network, and show it knees turned by other angles where any are given."""
    settings = {**member.settings.model_dump(), "temperature": 1.0, "conformal": None}
    if turns is not None:
        settings["turns_deg"] = tuple(turns)
    return replace(member, settings=GraderSettings.model_validate(settings))


if __name__ == "__main__":
    sys.exit(main())
