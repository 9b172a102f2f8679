"""Cross-validation that keeps every subject on one side."""

import hashlib
import warnings
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kneel.engine.config import ConfigError

_MARK = 12  # hexadecimal digits of a subject: 10,000 subjects share one with 10,000 others once in 3 million sets


class LeakageError(ValueError):
    """The same subject in training and in validation."""


def grouped_folds(
    groups: Sequence[Hashable], labels: Sequence[Hashable], k: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """
    Split samples into `k` folds: subjects stay together, labels are spread evenly.

    Parameters
    ----------
    groups
        Subject of each sample, length N.
    labels
        Class of each sample (the KL grade), length N.
    k
        Number of folds, from 2 to the number of subjects.
    seed
        Decides the split; the same seed gives the same folds.

    Returns
    -------
    list of (train, validation)
        `k` pairs of sorted index arrays; every sample is in validation exactly once.

    Raises
    ------
    ValueError
        When the lengths differ.
    ConfigError
        When there are fewer subjects than folds, every class has fewer samples than folds, or a fold stays empty.
    """
    # Here, not above: snapshots and settings must not wait for scikit-learn.
    from sklearn.model_selection import StratifiedGroupKFold

    if len(groups) != len(labels):
        raise ValueError(f"groups has {len(groups)} entries and labels {len(labels)}; one each per sample is needed")
    subjects = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    if not 2 <= k <= len(subjects):
        raise ConfigError(f"k = {k} folds: must be between 2 and the number of subjects, {len(subjects)}")
    classes = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    most = max(Counter(labels).values())
    if most < k:
        raise ConfigError(f"k = {k} folds: no class has as many samples; the largest has {most}")
    group_codes = np.array([subjects[group] for group in groups])
    label_codes = np.array([classes[label] for label in labels])
    # The splitter draws from the 32-bit legacy generator.
    splitter = StratifiedGroupKFold(n_splits=k, shuffle=True, random_state=seed % 2**32)
    with warnings.catch_warnings():
        # A label rarer than the folds lies in some of them only; the split is as even as it can be.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        folds = [(train, val) for train, val in splitter.split(group_codes, label_codes, group_codes)]
    if not all(len(val) for _, val in folds):
        raise ConfigError(f"k = {k} folds: {len(subjects)} subjects leave a fold empty; take fewer folds")
    for train, val in folds:
        check_leakage((groups[i] for i in train), (groups[i] for i in val))
    return folds


def check_pictures(train: Iterable[tuple[str, NDArray[Any]]], val: Iterable[tuple[str, NDArray[Any]]]) -> None:
    """
    Refuse a picture that is on both sides of a split under two names, of which subjects tell nothing.

    Parameters
    ----------
    train, val
        Name and pixels of each picture.

    Raises
    ------
    LeakageError
        Names the first pair.
    """
    known = {picture_digest(picture): name for name, picture in train}
    if pairs := [(known[digest], name) for name, picture in val if (digest := picture_digest(picture)) in known]:
        first, more = " and ".join(pairs[0]), f"; {len(pairs) - 1} more such" if len(pairs) > 1 else ""
        raise LeakageError(f"the same picture in training and in validation: {first}{more}")


def picture_digest(picture: NDArray[Any]) -> bytes:
    """Return the SHA-256 of the shape and pixels of a picture."""
    return hashlib.sha256(f"{picture.shape}".encode() + picture.tobytes()).digest()


def check_leakage(train_groups: Iterable[Hashable], val_groups: Iterable[Hashable]) -> None:
    """
    Refuse a split that has a subject on both sides.

    Parameters
    ----------
    train_groups, val_groups
        Subjects of the training and of the validation samples, repeated or not.

    Raises
    ------
    LeakageError
        Naming the first shared subjects and how many there are.
    """
    shared = sorted(set(train_groups) & set(val_groups), key=str)
    if shared:
        names = ", ".join(str(subject) for subject in shared[:10]) + (", ..." if len(shared) > 10 else "")
        raise LeakageError(f"{len(shared)} subject(s) in training and in validation: {names}")


def split_digest(train_groups: Iterable[str], val_groups: Iterable[str]) -> dict[str, str]:
    """
    Tell by a short word a part whether two trainings were split alike, without naming anybody.

    Parameters
    ----------
    train_groups, val_groups
        Subjects of the training and of the validation samples, repeated or not.

    Returns
    -------
    dict of str
        ``train`` and ``val``: the first 16 hexadecimal digits of the SHA-256 of the sorted subjects.
    """
    parts = zip(("train", "val"), (train_groups, val_groups), strict=True)
    lines = {part: "\n".join(sorted(set(groups))) for part, groups in parts}
    return {part: hashlib.sha256(text.encode()).hexdigest()[:16] for part, text in lines.items()}


def subject_marks(groups: Iterable[str]) -> str:
    """
    Note subjects so that each can be asked for later.

    Whoever knows a subject's identifier can ask for it: that is what the marks are for. They are no secret: of short
    numeric identifiers all can be tried, and whoever does so has the list of subjects.

    Parameters
    ----------
    groups
        Subjects, repeated or not.

    Returns
    -------
    str
        The first 12 hexadecimal digits of the SHA-256 of each subject, sorted, one behind the other.
    """
    return "".join(sorted({_mark(subject) for subject in groups}))


def merged_marks(every: Iterable[str]) -> str:
    """
    Put marks of `subject_marks` together.

    Parameters
    ----------
    every
        Marks of several groups of subjects.

    Returns
    -------
    str
        Marks of all of them.
    """
    return "".join(sorted({mark for marks in every for mark in _marks(marks)}))


def marked_subjects(groups: Iterable[str], marks: str) -> set[str]:
    """
    Tell which subjects were noted.

    Parameters
    ----------
    groups
        Subjects to ask for, repeated or not.
    marks
        As :func:`subject_marks` makes them.

    Returns
    -------
    set of str
        Those of `groups` that are among them.
    """
    noted = _marks(marks)
    return {subject for subject in groups if _mark(subject) in noted}


def _marks(together: str) -> set[str]:
    return {together[start : start + _MARK] for start in range(0, len(together), _MARK)}


def _mark(subject: str) -> str:
    return hashlib.sha256(subject.encode()).hexdigest()[:_MARK]
