"""Whether networks belong together: folds of one experiment, or members of one ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepknee.weights import Snapshot


def why_not_one(snapshots: Sequence[Snapshot], words: str) -> str | None:
    """Say why networks of one task are not one experiment or ensemble.

    Parameters
    ----------
    snapshots : sequence of Snapshot
        At least one.
    words : str
        The task, for people.

    Returns
    -------
    str or None
        What does not fit, with both files; None where all belong together.
    """
    first = snapshots[0]
    for other in snapshots[1:]:
        if other.experiment != first.experiment:
            return (
                f"two experiments for {words}: {first.experiment} ({first.path}) and {other.experiment} ({other.path})"
            )
        if (twin := _odd(other, snapshots)) is not None:
            return f"{twin.path} and {other.path} are both of {first.experiment}, but were trained with other settings"
        twin = next((twin for twin in snapshots if twin is not other and _part(twin) == _part(other)), None)
        if twin is not None:
            whose = f"{other.member} of {other.experiment}" if other.member else other.experiment
            return f"{twin.path} and {other.path} are both fold {other.fold} of {whose}"
    return None


def _odd(snapshot: Snapshot, others: Sequence[Snapshot]) -> Snapshot | None:
    """Find another that it cannot be read with: folds of a training differ in nothing, members in no knee or ROI."""
    for other in others:
        if snapshot.member != other.member and all(isinstance(each.settings, dict) for each in (snapshot, other)):
            same = all(snapshot.settings.get(key) == other.settings.get(key) for key in ("data", "folds", "geometry"))
        else:
            same = snapshot.settings == other.settings
        if not same:
            return other
    return None


def _part(snapshot: Snapshot) -> tuple[str | None, int | None]:
    """Which part of an ensemble it is: no two networks of one may be the same."""
    return snapshot.member, snapshot.fold
