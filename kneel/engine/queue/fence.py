"""Whether a job still owns its folder: asked by the training before it writes, on any system."""

import os
from pathlib import Path

LOCK_VARIABLE = "KNEEL_LOCK"  # environment of a job: the file in its folder's .lock that makes the folder its own


class LockLost(RuntimeError):
    """Another owner has taken the folder over: this process must write nothing any more."""


def owner_files(locks: Path) -> list[Path]:
    """
    List the files of the owners that a folder has or had, the present one last.

    Parameters
    ----------
    locks
        ``FOLDER/.lock``; may be missing.
    """
    found = [path for path in locks.iterdir() if path.name.isdecimal()] if locks.is_dir() else []
    return sorted(found, key=lambda path: int(path.name))


def still_mine(path: Path) -> bool:
    """
    Say whether the owner of this file in ``FOLDER/.lock`` still owns the folder.

    Parameters
    ----------
    path
        `kneel.engine.queue.locks.Lock.path`; a job finds it in its environment (`LOCK_VARIABLE`).
    """
    files = owner_files(path.parent)
    return bool(files) and files[-1].name == path.name


def check_owned() -> None:
    """
    Make sure that this process may write what its job writes; to be called just before it does.

    Raises
    ------
    LockLost
        When the job has another owner by now, because this one was taken for dead. A process that no queue started may
        always write.
    """
    path = os.environ.get(LOCK_VARIABLE)
    if path and not still_mine(Path(path)):
        raise LockLost(f"{Path(path).parents[1]}: another runner has taken this job over; nothing more is written here")
