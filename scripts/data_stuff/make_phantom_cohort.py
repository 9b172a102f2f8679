"""Write a cohort of phantom films with known landmarks and grades.

Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kneel.phantom import write_cohort


def main() -> int:
    """Read the command line, write the cohort; 2 when it asks for the impossible."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write films/, annotations.csv, films.csv to")
    parser.add_argument("--n", type=int, required=True, help="number of films (one per subject)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: %(default)s)")
    parser.add_argument("--spacing", type=float, help="pixel size of all films in mm (default: drawn from .1 to .2)")
    parser.add_argument("--single", type=float, default=0.15, help="share of one-knee films (default: %(default)s)")
    parser.add_argument("--implants", type=float, default=0.03, help="share of films with metal (default: %(default)s)")
    parser.add_argument("--first-subject", type=int, help="number of the first subject (default: set by the seed)")
    given = parser.parse_args()
    try:
        cohort = write_cohort(
            given.out,
            given.n,
            given.seed,
            jobs=given.jobs,
            single_knee_fraction=given.single,
            implant_fraction=given.implants,
            spacing_mm=given.spacing,
            first_subject=given.first_subject,
            progress=True,
        )
    except (ValueError, OSError) as error:
        print(f"make_phantom_cohort: {error}", file=sys.stderr)
        return 2
    print(f"{len(cohort.subjects)} films in {cohort.films}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
