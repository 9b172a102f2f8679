"""Whether the settings of a stored run and those that are asked for are of one run.

A key that a stored run lacks counts as null: whoever adds a setting makes null its default, and older runs go on.
"""

from collections.abc import Mapping
from typing import Any

# The last two may change rounding, and noise on a GPU. That a run lacks augment_on altogether is for Record.restore.
SPEED = ("threads", "num_workers", "augment_on", "compile")


def differences(stored: Mapping[str, Any], asked: Mapping[str, Any], done: int) -> list[str]:
    """
    Name the settings that stop a run from being gone on with.

    Parameters
    ----------
    stored, asked
        What a snapshot says of itself; ``training`` holds `kneel.engine.config.TrainingConfig` as JSON.
    done
        Epochs that the stored run is at. With the ``step`` schedule, which does not look ahead, more epochs go on with
        the same run; a cosine would bend. What is about speed alone (`SPEED`) never matters.

    Returns
    -------
    list of str
        A line a setting, with both values.
    """
    old, new = flat(stored), flat(asked)
    free = {f"training.{name}" for name in SPEED}
    if new.get("training.schedule") == "step" and new.get("training.epochs", 0) >= done:
        free.add("training.epochs")
    return [
        f"{key}: stored {old.get(key)!r}, asked {new.get(key)!r}"
        for key in {**old, **new}
        if old.get(key) != new.get(key) and key not in free
    ]


def flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """
    Name every leaf of nested mappings by its path: ``{"a": {"b": 1}}`` is ``{"a.b": 1}``.

    Parameters
    ----------
    tree
        JSON.
    above
        What stands in front of every name.
    """
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return leaves
