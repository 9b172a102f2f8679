#!/usr/bin/env python
"""Say how good predicted landmarks are, as KNEEL's paper does and with intervals; several experiments side by side.

Takes the tables that oof_inference.py writes (layout: kneel/predictions.py). Writes to --out:
  report.md                 start here: all tables and pictures
  cv.csv, cv.tex            the paper's report of a cross-validation
  test.csv, test.tex        the paper's report of a test set
  errors.csv                radial errors, success rates and outliers, by landmark, bone and grade
  measures.csv              joint space, convergence and widths against the annotated ones
  curves, NAME_curves       cumulative errors, PNG and PDF
  NAME_measures.png         agreement of the measures
  NAME_knees.png            with --images: the best, median and worst knees, truth and prediction
Of joint-centre experiments (one point) there are errors, curves and knees only.

Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from kneel.assess_report import write_report
from kneel.bootstrap import RESAMPLES
from kneel.engine.atomic import DiskFull
from kneel.imaging.radiograph import RadiographError
from kneel.predictions import PredictionError, read_predictions


def main(words: Sequence[str] | None = None) -> int:
    """Evaluate; 0 when done, 2 when it cannot be, 1 when the disk is full."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", type=Path, nargs="+", metavar="CSV", help="predictions of one experiment each")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the report goes")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="ROIs {subject_id}_{kl}_{side}.png for the page of knees: oof_inference.py --pictures, or KNEEL's own",
    )
    parser.add_argument(
        "--resamples", type=int, default=RESAMPLES, metavar="N", help="of the bootstrap (default: %(default)s)"
    )
    given = parser.parse_args(words)
    if given.resamples < 1:
        parser.error(f"--resamples {given.resamples}: must be 1 or more")
    try:
        evaluated = [read_predictions(path) for path in given.predictions]
        bar = partial(tqdm, desc="experiments", disable=None)
        write_report(given.out, evaluated, images=given.images, resamples=given.resamples, progress=bar)
    except (PredictionError, RadiographError, OSError) as error:
        print(f"assess_test_results: {error}", file=sys.stderr)
        return 1 if isinstance(error, DiskFull) else 2
    print(f"Open {given.out / 'report.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
