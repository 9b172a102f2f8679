"""Paste annotated crops of real knees over the knees of phantom films: whole films with real joints.

Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kneel.imaging.crops import read_crops
from kneel.imaging.radiograph import RadiographError
from kneel.imaging.schema import AnnotationError
from kneel.phantom.collage import write_collages


def main() -> int:
    """Read the command line, write the films; 2 when a file cannot be used."""
    given = parse()
    try:
        crops = [crop for crop in read_crops(given.table, given.images) if crop.split == given.split]
        subjects = write_collages(given.out, crops, given.seed, pairs=given.pairs, jobs=given.jobs, progress=True)
    except (AnnotationError, RadiographError, OSError, ValueError) as error:
        print(f"make_collage_cohort: {error}", file=sys.stderr)
        return 2
    print(f"{len(subjects)} films in {given.out / 'films'}")
    return 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, required=True, help="CSV of annotated crops (see kneel/imaging/crops.py)")
    parser.add_argument("--images", type=Path, required=True, help="folder that the table's column file starts from")
    parser.add_argument("--split", default="train", help="rows to take, by column split (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write films/ and annotations.csv to")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes (default: %(default)s)")
    parser.add_argument(
        "--pairs", type=float, default=0.35, help="share of films with two knees (default: %(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
