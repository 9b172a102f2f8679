"""What a grading experiment's knees, grades, points and labels are told by, so that a run knows it again."""

import csv
import hashlib
import io
import json
from pathlib import Path

from deepknee.experiment import GradingExperiment
from deepknee.graded_folder import LANDMARK_TABLE
from deepknee.model import GRADES
from deepknee.roi_row import KNEES
from deepknee.sources import GradedFolderSource, PhantomSource
from kneel.engine.same import digests
from kneel.imaging.cohort import ANNOTATIONS
from kneel.imaging.crops import COLUMNS


def grading_tables(experiment: GradingExperiment, root: Path) -> dict[str, str]:
    """Digest the tables that an experiment's data are told by; of a graded folder also which pictures it has.

    Parameters
    ----------
    experiment : GradingExperiment
        The experiment.
    root : Path
        Its data root.

    Returns
    -------
    dict of str to str
        By name below the root. What is not there is left out: whoever needs it will say so.
    """
    source = experiment.data
    names: list[str] = []
    found: dict[str, str] = {}
    for folder in [folder for folder in (source.train, source.val) if folder is not None]:
        if not isinstance(source, GradedFolderSource):
            names.append(f"{folder}/{ANNOTATIONS if isinstance(source, PhantomSource) else KNEES}")
            continue
        found[f"{folder}/*/*.png"] = _digest(_pictures(root / folder))
        if experiment.geometry.follow != "centre" and (root / folder / LANDMARK_TABLE).is_file():
            found[f"{folder}/{LANDMARK_TABLE}"] = _digest(_points(root / folder / LANDMARK_TABLE))
    if experiment.labels is not None:
        names.append(f"{source.train}/{experiment.labels.table}")
    return {name: digest for name, digest in {**digests(root, names), **found}.items() if digest}


def _digest(content: list[list[str | None]]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest() if content else ""


def _pictures(folder: Path) -> list[list[str | None]]:
    paths = sorted(path for grade in range(GRADES) for path in folder.glob(f"{grade}/*.png"))
    return [[path.parent.name, path.name] for path in paths if not path.name.startswith(".")]


def _points(table: Path) -> list[list[str | None]]:
    """Read what training takes from a table of landmarks: the rest changes with the code that looks for them."""
    rows = csv.DictReader(io.StringIO(table.read_text(encoding="utf-8-sig", errors="replace")))
    return [[row.get(column) for column in COLUMNS] for row in rows]
