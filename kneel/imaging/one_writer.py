"""One command a folder: two that write the same one would mix their files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


class FolderBusy(OSError):
    """Another process writes into a folder; says which folder and what to do."""


@contextlib.contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Keep a folder to this process and those that it starts, on this machine, until they end however they do.

    Nothing is kept where there are no such locks: on Windows, and on some file systems of networks.

    Parameters
    ----------
    folder : Path
        Where is written to; made when missing.

    Raises
    ------
    FolderBusy
        Another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if os.name == "nt":
        yield
        return
    import fcntl  # not there on Windows

    place = os.open(folder, os.O_RDONLY)  # the folder itself: nothing is left behind
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderBusy(
                f"{folder}: another process is writing into it; wait for it, stop it, or name another folder"
            ) from None
        except OSError:  # a file system without locks: as before there were any
            pass
        yield
    finally:
        os.close(place)
