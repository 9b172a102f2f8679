"""One command a folder: two that write the same one would mix their files."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

# what a file system without locks answers; in kneel.engine.queue.locks likewise, which this room may not ask
_NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class FolderBusy(OSError):
    """Another process writes into a folder; says which folder and what to do."""


@contextlib.contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Keep a folder to this process, on this machine, until it ends however it does.

    Processes that it started do not hold the folder: those of one that was killed may still finish what they have in
    hand. Nothing is kept where there are no such locks: on Windows, and on some file systems of networks.

    Parameters
    ----------
    folder : Path
        Where is written to; made when missing, and taken away again if nothing was put into it.

    Raises
    ------
    FolderBusy
        Another process has it.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    place = None if os.name == "nt" else _lock(folder)
    try:
        yield
    finally:
        if made:
            with contextlib.suppress(OSError):  # not empty, as it should be
                folder.rmdir()
        if place is not None:
            os.close(place)


def _lock(folder: Path) -> int:
    """Lock the folder itself, so that no file is left behind; the lock goes with the descriptor."""
    import fcntl  # not there on Windows

    place = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(place)
        what = "another process is writing into it; wait for it, stop it, or name another folder"
        raise FolderBusy(f"{folder}: {what}") from None
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            os.close(place)
            raise
    return place
