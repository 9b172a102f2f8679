"""Write phantom films laid out like the MOST download, readings (mostv01235xray.csv) and a list of boxes beside.

Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kneel.phantom.most import write_most_phantom


def main() -> int:
    """Read the command line, write the films; 2 when it asks for the impossible."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--n", type=int, default=20, help="number of subjects (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same films (default: %(default)s)")
    parser.add_argument("--spacing", type=float, help="pixel size of all films in mm (default: drawn from .139 to .2)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: %(default)s)")
    given = parser.parse_args()
    try:
        download = write_most_phantom(
            given.out, given.n, given.seed, spacing_mm=given.spacing, jobs=given.jobs, progress=True
        )
    except (ValueError, OSError) as error:
        print(f"make_phantom_most: {error}", file=sys.stderr)
        return 2
    print(f"{len(download.films)} films in {download.root}, readings {download.readings}, boxes {download.boxes}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
