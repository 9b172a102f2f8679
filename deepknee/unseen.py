"""Whether grading networks were trained on the knees that they are judged or calibrated by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kneel.engine.config import ConfigError
from kneel.engine.folds import LeakageError, grouped_folds, marked_subjects, split_digest

NOT_CHECKED = (
    "Whether the networks were trained on any of these subjects was not checked: the grades come from a table."
)
_UNSEEN = "None of these subjects was in the training of a network."
_CHOSE = "Their knees chose the epoch of the networks."
_SOME_CHOSE = "Knees of {few} of these {all} subjects chose the epoch of a network."
_CHOICE_UNKNOWN = "Whether their knees chose the epoch is not noted in {few} of {all} snapshots."
_FITTED = "Temperature and sets of the networks were fitted on their knees."
_SOME_FITTED = "Temperature and sets of the networks were fitted on knees of {few} of these {all} subjects."
_FIT_UNKNOWN = "Whether temperature and sets were fitted on their knees is not noted in {few} of {all} snapshots."
_UNKNOWN = """Whether the networks were trained on any of these subjects cannot be checked: {few} of {all} snapshots do
not note theirs, as {first}."""
_FOLDS = ". Of folds, evaluate_kl.py --out_of_fold takes for each knee the network that held it out"
_HELD_OUT = "Each knee was graded by the one network that was not trained on its subject."
_NAMED = 10


@dataclass(frozen=True)
class Training:
    """What a snapshot says of the subjects that its network was trained on.

    Attributes
    ----------
    place : str
        The file.
    marks : str or None
        Of those trained on, as `kneel.engine.folds.subject_marks` makes them; None in snapshots from before they were
        kept.
    chosen_on : str or None
        The same of those whose knees chose the epoch.
    calibrated_on : str or None
        The same of those on whose knees temperature and threshold of the sets were fitted.
    split : mapping or None
        Digests of the subjects of both parts, `kneel.engine.folds.split_digest`.
    cut : (int, int, int) or None
        Folds, held-out fold and seed, where the parts were cut from one set.
    """

    place: str
    marks: str | None = None
    chosen_on: str | None = None
    split: Mapping[str, str] | None = None
    cut: tuple[int, int, int] | None = None
    calibrated_on: str | None = None

    @classmethod
    def of_snapshot(cls, place: str, meta: Mapping[str, Any]) -> Training:
        """Read it from the metadata of a snapshot, which may say less than all."""
        experiment, cut = meta.get("experiment") or {}, None
        if (experiment.get("data") or {}).get("val", "") is None:
            match experiment.get("folds"), meta.get("fold"), (meta.get("training") or {}).get("seed"):
                case int() as folds, int() as fold, int() as seed:
                    cut = folds, fold, seed
        trained_on, chosen_on, calibrated_on = (meta.get(key) for key in ("trained_on", "chosen_on", "calibrated_on"))
        return cls(place, trained_on, chosen_on, meta.get("split"), cut, calibrated_on)

    def seen(self, subjects: Sequence[str], grades: Sequence[int]) -> set[str] | None:
        """Tell which subjects of N knees the network was trained on.

        Parameters
        ----------
        subjects, grades : sequence, length N
            Of the knees, in the order of their data set.

        Returns
        -------
        set of str or None
            None where the snapshot does not say enough.
        """
        if self.marks is not None:
            return marked_subjects(subjects, self.marks)
        if self.split is None:
            return None
        whole = split_digest(subjects, subjects)
        if whole["train"] == self.split.get("train"):
            return set(subjects)
        if self._are_val(subjects):
            return set()  # no subject is in both parts
        parts = self._cut_again(subjects, grades)
        return None if parts is None else parts[0]

    def chose(self, subjects: Sequence[str], grades: Sequence[int]) -> set[str] | None:
        """Tell which subjects of N knees chose the epoch of the network.

        Parameters
        ----------
        subjects, grades : sequence, length N
            Of the knees, in the order of their data set.

        Returns
        -------
        set of str or None
            None where the snapshot does not say enough.
        """
        if self.chosen_on is not None:
            return marked_subjects(subjects, self.chosen_on)
        if self._are_val(subjects):
            return set(subjects)
        parts = self._cut_again(subjects, grades)
        return None if parts is None else parts[1]

    def _are_val(self, subjects: Sequence[str]) -> bool:
        return self.split is not None and split_digest((), subjects)["val"] == self.split.get("val")

    def _cut_again(self, subjects: Sequence[str], grades: Sequence[int]) -> tuple[set[str], set[str]] | None:
        """Cut the folds again: where the digests agree, these are the knees that they were cut from."""
        if self.cut is None:
            return None
        folds, fold, seed = self.cut
        try:
            train, val = grouped_folds(subjects, grades, folds, seed)[fold]
        except (ConfigError, IndexError):
            return None  # too few knees: another data set
        seen, held = ({subjects[index] for index in part} for part in (train, val))
        return (seen, held) if split_digest(seen, held) == self.split else None


UNKNOWN = Training("a network without a snapshot")


def check_unseen(trainings: Sequence[Training], subjects: Sequence[str], grades: Sequence[int], where: str) -> str:
    """Refuse knees of subjects that a network of an ensemble was trained on.

    Parameters
    ----------
    trainings : sequence of Training
        Of all networks; at least one.
    subjects, grades : sequence, length N
        Of the knees, in the order of their data set.
    where : str
        The data set.

    Returns
    -------
    str
        What to say in a report: nobody was seen, or it cannot be checked; and whether their knees chose the epoch.

    Raises
    ------
    LeakageError
        Naming the first such subjects, and the networks.
    """
    seen = {training.place: training.seen(subjects, grades) for training in trainings}
    known = {place: found for place, found in seen.items() if found}
    if known:
        everybody = set().union(*known.values())
        folds = any(training.cut is not None for training in trainings)
        raise LeakageError(
            f"{where}: {len(known)} of {len(seen)} networks, as {next(iter(known))}, were trained on "
            f"{len(everybody)} of its {len(set(subjects))} subjects: {_names(everybody)}; needs knees of other "
            f"subjects{_FOLDS if folds else ''}"
        )
    silent = [place for place, found in seen.items() if found is None]
    if silent:
        return " ".join(_UNKNOWN.format(few=len(silent), all=len(seen), first=silent[0]).split())
    return f"{_UNSEEN} {_choice(trainings, subjects, grades)}".strip()


def tell_fitted(trainings: Sequence[Training], subjects: Sequence[str]) -> str:
    """Say whether temperature and sets of networks that use them were fitted on the subjects of knees.

    Parameters
    ----------
    trainings : sequence of Training
        Of all networks of a calibrated ensemble.
    subjects : sequence of str
        Of the knees.

    Returns
    -------
    str
        What to say in a report; nothing where it is known that none of them was.
    """
    marks = (training.calibrated_on for training in trainings)
    fitted = [None if each is None else marked_subjects(subjects, each) for each in marks]
    return _told(fitted, subjects, _FITTED, _SOME_FITTED, _FIT_UNKNOWN)


def tell_unseen(trainings: Sequence[Training], subjects: Sequence[str], grades: Sequence[int], where: str) -> str:
    """Say whether networks were trained on the subjects of knees, and refuse nothing.

    For reports of more than grades; and phantoms are numbered as the subjects of the OAI are.

    Parameters
    ----------
    trainings, subjects, grades, where
        As for `check_unseen`; the networks may be those that find landmarks.

    Returns
    -------
    str
        What to say in a report, in Markdown.
    """
    try:
        return check_unseen(trainings, subjects, grades, where)
    except LeakageError as error:
        return f"**These are not unseen knees**, or subjects bear the same identifiers: {error}."


def _choice(trainings: Sequence[Training], subjects: Sequence[str], grades: Sequence[int]) -> str:
    """Say whose knees chose the epoch of any network; nothing where it is known that none of these did."""
    chose = [training.chose(subjects, grades) for training in trainings]
    return _told(chose, subjects, _CHOSE, _SOME_CHOSE, _CHOICE_UNKNOWN)


def _told(found: Sequence[set[str] | None], subjects: Sequence[str], every: str, some: str, unknown: str) -> str:
    """Say of subjects that snapshots note, None where one notes nothing, whether they are all, some, or not known."""
    noted, silent = set().union(*filter(None, found)), found.count(None)
    words = [unknown.format(few=silent, all=len(found))] if silent else []
    if noted == set(subjects) and not silent:
        return every
    if noted:
        words.insert(0, some.format(few=len(noted), all=len(set(subjects))))
    return " ".join(words)


def held_out(
    trainings: Sequence[Training], subjects: Sequence[str], grades: Sequence[int], where: str
) -> tuple[NDArray[np.int64], str]:
    """Choose for each knee the one network of several folds that was not trained on its subject.

    Parameters
    ----------
    trainings, subjects, grades, where
        As for `check_unseen`.

    Returns
    -------
    which : ndarray, shape (N,)
        Number of the network.
    words : str
        What to say in a report.

    Raises
    ------
    LeakageError
        A snapshot does not say enough, a subject was held out by none or by several networks, or a network is of no
        fold of this set: trained on none of its subjects.
    """
    seen = [training.seen(subjects, grades) for training in trainings]
    silent = [training.place for training, found in zip(trainings, seen, strict=True) if found is None]
    if silent:
        raise LeakageError(
            f"{silent[0]}: does not note whom it was trained on, and {where} is not what it was cut from"
        )
    unseen = np.array([[subject not in (found or ()) for subject in subjects] for found in seen])
    for count, words in ((unseen.sum(0) == 0, "none"), (unseen.sum(0) > 1, "several")):
        if count.any():
            who = {subject for subject, odd in zip(subjects, count, strict=True) if odd}
            raise LeakageError(
                f"{where}: {len(who)} of its {len(set(subjects))} subjects were held out by {words} of the "
                f"{len(seen)} networks, and must be by one: {_names(who)}"
            )
    strange = [training.place for training, found in zip(trainings, seen, strict=True) if not found]
    if strange:  # nobody was held out of what it was trained on
        raise LeakageError(f"{strange[0]}: was trained on none of the subjects of {where}; needs one of its folds")
    which = unseen.argmax(0)
    return which, f"{_HELD_OUT} {_held_choice(trainings, which, subjects, grades)}".strip()


def _held_choice(
    trainings: Sequence[Training], which: NDArray[np.int64], subjects: Sequence[str], grades: Sequence[int]
) -> str:
    """Say whether the knees that a network held out chose its epoch."""
    chose = [training.chose(subjects, grades) for training in trainings]
    words = [_CHOICE_UNKNOWN.format(few=chose.count(None), all=len(chose))] if None in chose else []
    own = {subject for subject, number in zip(subjects, which, strict=True) if subject in (chose[number] or ())}
    if own == set(subjects):
        return "The knees that a network held out chose its epoch."
    if own:
        words.insert(0, f"Knees of {len(own)} of the {len(set(subjects))} subjects chose the epoch of that network.")
    return " ".join(words)


def _names(subjects: Iterable[str]) -> str:
    names = sorted(subjects)
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
