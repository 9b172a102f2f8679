"""Labels of training knees from elsewhere: probabilities that are mixed with the true grades.

They are what several readers voted, or what other networks say (Hinton, Vinyals and Dean, Distilling the Knowledge in a
Neural Network, 2015). The table has the layout of `deepknee.predictions`. Beside one that networks made,
`scripts/label_kl.py` notes whom these were trained on, so that no knowledge of validation knees comes in that way.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepknee.dataset import GradedKnees
from deepknee.predictions import GradePredictions, PredictionTableError, encode_predictions, read_predictions
from deepknee.unseen import Training
from kneel.engine.atomic import write_atomic
from kneel.engine.folds import LeakageError, marked_subjects

_NAMED = 10


def check_replaceable(path: Path) -> None:
    """Refuse to replace a table that people made or changed.

    Raises
    ------
    PredictionTableError
        There is a table, and not as networks made it.
    """
    if path.exists() and not _note(path).exists():
        raise PredictionTableError(f"{path}: is there, and not from networks; give another --out, or move it away")
    if path.exists():
        _teachers(path)


def write_labels(path: Path, labels: GradePredictions, teachers: Sequence[Training]) -> None:
    """Write a table that networks made, and beside it (``.json``) whom they were trained on.

    Parameters
    ----------
    path : Path
        CSV to write.
    labels : GradePredictions
        Of the training knees.
    teachers : sequence of Training
        One a network.

    Raises
    ------
    LeakageError
        A snapshot does not note whom it was trained on.
    """
    silent = [teacher.place for teacher in teachers if teacher.marks is None]
    if silent:
        raise LeakageError(f"{silent[0]}: does not note whom it was trained on, so it cannot be asked to teach")
    kept = [{"place": "/".join(Path(one.place).parts[-3:]), "trained_on": one.marks} for one in teachers]
    table = encode_predictions(labels)
    note = {"table": hashlib.sha256(table).hexdigest(), "teachers": kept}
    # the note first: were the table not to follow, there would be none, or not that of the note; a table without its
    # note would pass for one that readers made, whom nobody asks what they have seen
    write_atomic(_note(path), (json.dumps(note, indent=1) + "\n").encode())
    write_atomic(path, table)


def read_labels(path: Path, knees: GradedKnees, folder: Path, val: GradedKnees) -> NDArray[np.float32]:
    """Read the labels of training knees.

    Parameters
    ----------
    path : Path
        The CSV; knees in it that are not asked for are passed over.
    knees : GradedKnees
        N training knees.
    folder : Path
        Where their data set lies.
    val : GradedKnees
        Validation knees, of whose subjects no network that made the table may have seen any.

    Returns
    -------
    ndarray, shape (N, 5), float32
        Rows sum to 1.

    Raises
    ------
    PredictionTableError
        The table cannot be used, is of networks and without a note, is not the one of its note, or lacks knees.
    LeakageError
        A network that made it was trained on validation subjects.
    OSError
        The file is not there, or cannot be opened.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such file, and the experiment asks for it (labels); scripts/label_kl.py writes one"
        )
    read = read_predictions(path)
    if read.members is not None and not _note(path).exists():
        raise PredictionTableError(
            f"{path}: has the answers of several networks (m0_p0 ...) and no {_note(path).name} beside it that says "
            "whom they were trained on: scripts/label_kl.py writes both; of readers' votes leave these columns out"
        )
    _check_teachers(path, val)
    where = {knee: row for row, knee in enumerate(read.knees.knee)}
    names = knees.names_within(folder)
    missing = [name for name in names if name not in where]
    if missing:
        raise PredictionTableError(
            f"{path}: lacks {len(missing)} of {len(names)} training knees: {', '.join(missing[:_NAMED])}"
        )
    rows = np.array([where[name] for name in names])
    other = np.flatnonzero(read.grades[rows] != knees.grades)
    if len(other):
        first = other[0]
        raise PredictionTableError(
            f"{path}: true_kl of {len(other)} knees is not their grade: {names[first]} has "
            f"{read.grades[rows[first]]}, and is in the data set as {knees.grades[first]}"
        )
    return read.probabilities[rows].astype(np.float32)


def describe_labels(path: Path) -> dict[str, Any]:
    """Say which table it is, for the snapshot: its SHA-256, and the networks that made it, if any."""
    names = [teacher["place"] for teacher in _teachers(path)]
    return {"sha256": _digest(path), **({"teachers": names} if names else {})}


def teachers_marks(path: Path) -> list[str]:
    """Return the marks (`kneel.engine.folds.subject_marks`) of whom each network that made a table was trained on."""
    return [teacher["trained_on"] for teacher in _teachers(path)]


def _check_teachers(path: Path, val: GradedKnees) -> None:
    for teacher in _teachers(path):
        if seen := marked_subjects(val.subjects, teacher["trained_on"]):
            raise LeakageError(
                f"{path}: {teacher['place']}, which made it, was trained on {len(seen)} of the validation subjects: "
                f"{', '.join(sorted(seen)[:_NAMED])}"
            )


def _teachers(path: Path) -> list[dict[str, str]]:
    """Read the note beside a table; a table without one was made by readers."""
    note = _note(path)
    if not note.exists():
        return []
    try:
        content = json.loads(note.read_bytes())
        table, teachers = content["table"], content["teachers"]
    except (ValueError, KeyError, TypeError) as error:
        raise PredictionTableError(
            f"{note}: damaged ({error}); move it and its table away, and scripts/label_kl.py writes both anew"
        ) from error
    if table != _digest(path):
        raise PredictionTableError(
            f"{path}: was changed since {note.name} beside it was written, which says whom the networks behind it were "
            "trained on; move it away, and scripts/label_kl.py writes both anew"
        )
    return teachers


def _note(path: Path) -> Path:
    return path.with_suffix(".json")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
