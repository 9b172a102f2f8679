"""Whether the settings and the data of a stored run and those that are asked for are of one run.

A key that a stored run lacks counts as null: whoever adds a setting makes null its default, and older runs go on.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
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


def digests(root: Path, names: Iterable[str]) -> dict[str, str]:
    """
    Digest files, such as the tables that a run's data are told by.

    Parameters
    ----------
    root
        Folder that their names start from.
    names
        What is not there is left out: whoever needs it will say so.

    Returns
    -------
    dict
        SHA-256 by name.
    """
    there = [name for name in dict.fromkeys(names) if (root / name).is_file()]
    return {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in there}


def other_tables(stored: Mapping[str, str] | None, asked: Mapping[str, str]) -> list[str]:
    """
    Name the tables that are not those that a run was trained with.

    Parameters
    ----------
    stored
        What its snapshot says under ``tables``; None in one from before that was noted, of which nothing is known.
    asked
        As they are now, from `digests`.

    Returns
    -------
    list of str
        A line a table.
    """
    return [
        f"{name}: is not as it was when this was trained (sha256 then {stored[name][:12]}, now {digest[:12]})"
        for name, digest in asked.items()
        if stored and stored.get(name, digest) != digest
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
