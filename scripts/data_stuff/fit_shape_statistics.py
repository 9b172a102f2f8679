"""Compute kneel/phantom/shape_statistics.json from KNEEL's annotation table, once.

The table itself is not ours to ship; only means, standard deviations and modes of its 748 knees are kept.

Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kneel.imaging.schema import CENTER, ROI_SPACING_MM, read_annotations
from kneel.imaging.writing import write_whole
from kneel.measure import joint_space_widths
from kneel.phantom.shapes import STATISTICS

CITATION = (
    "A. Tiulpin, I. Melekhov, S. Saarakkala: KNEEL: Knee Anatomical Landmark Localization Using Hourglass Networks. "
    "ICCV Workshops 2019. arXiv:1907.12237"
)
DESCRIPTION = (
    "Shapes of the 16 landmarks per Kellgren-Lawrence grade, in mm at the detector, relative to landmark 4, right knee "
    "(lateral = small x), y down, flattened x0, y0 .. x15, y15. Per grade: the share and mean of knees whose medial "
    "(or lateral) joint space is the narrower one, and the modes (rows) with standard deviations around those means."
)


def main() -> None:
    """Read the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("annotations", type=Path, help="KNEEL's bf_landmarks_1_0.3.csv")
    parser.add_argument("--out", type=Path, default=STATISTICS, help="JSON to write (default: %(default)s)")
    arguments = parser.parse_args()
    knees = read_annotations(arguments.annotations)
    points = np.stack([(knee.points - knee.points[CENTER]) * ROI_SPACING_MM for knee in knees])
    grades = np.array([knee.kl for knee in knees])
    document = {
        "description": DESCRIPTION,
        "citation": CITATION,
        "source_sha256": hashlib.sha256(arguments.annotations.read_bytes()).hexdigest(),
        "grades": [describe_grade(points[grades == kl]) for kl in range(5)],
    }
    text = json.dumps(document, indent=1)
    # a vector a line instead of a number a line
    text = re.sub(r"\[\s+([-0-9.,e\s]+?)\s+\]", lambda found: "[" + " ".join(found[1].split()) + "]", text)
    write_whole(arguments.out, (text + "\n").encode())


def describe_grade(points: NDArray[np.float64], explained: float = 0.99) -> dict[str, object]:
    """Summarise the knees of one grade.

    Parameters
    ----------
    points : ndarray, shape (n, 16, 2)
        Landmarks in mm relative to the joint centre.
    explained : float
        Share of the variance that the kept modes hold.

    Returns
    -------
    dict
        n, narrowed (per compartment: share and mean), sd (k,), modes (k, 32).
    """
    narrow_medial = np.array([medial <= lateral for medial, lateral in map(joint_space_widths, points)])
    flat = points.reshape(len(points), -1)
    residuals = np.empty_like(flat)
    narrowed = {}
    for name, members in (("medial", narrow_medial), ("lateral", ~narrow_medial)):
        mean = flat[members].mean(axis=0)
        residuals[members] = flat[members] - mean
        narrowed[name] = {"share": round(float(members.mean()), 4), "mean": mean.round(3).tolist()}
    _, singular, modes = np.linalg.svd(residuals, full_matrices=False)
    count = int(np.searchsorted(np.cumsum(singular**2) / np.sum(singular**2), explained)) + 1
    sd = singular[:count] / np.sqrt(len(points) - 2)
    return {
        "n": len(points),
        "narrowed": narrowed,
        "sd": sd.round(4).tolist(),
        "modes": modes[:count].round(4).tolist(),
    }


if __name__ == "__main__":
    main()
