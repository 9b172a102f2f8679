"""Files that are there as a whole or not at all."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFull(OSError):
    """A file did not fit on its disk, or into its user's quota; says which, how much it needs and what there is."""


def write_atomic(path: Path, data: bytes, *, previous: Path | None = None) -> None:
    """
    Write a file beside its place and rename it there: readers see the old file or the new one, never a part.

    Parameters
    ----------
    path
        The file; its folder must exist.
    data
        Its content.
    previous
        Where the old file goes, on the same disk; None lets it go. Killed between the two renamings, this leaves
        `previous` alone.

    Raises
    ------
    DiskFull
        When there is no room; the old file is as it was, and nothing is left beside it.
    """
    with opened_atomic(path, needed=len(data), previous=previous) as file:
        file.write(data)


@contextlib.contextmanager
def opened_atomic(path: Path, *, needed: int | None = None, previous: Path | None = None) -> Iterator[BinaryIO]:
    """
    Open a file beside its place for writing, piece by piece, and rename it there at the end, as `write_atomic` does.

    Parameters
    ----------
    path
        The file; its folder must exist.
    needed
        Its size in bytes, where it is known.
    previous
        As for `write_atomic`.

    Yields
    ------
    BinaryIO
        The file, empty. What is raised meanwhile leaves the old one as it was.

    Raises
    ------
    DiskFull
        As `write_atomic`.
    """
    beside = path_beside(path)
    try:
        with explain_full(path, needed), beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def path_beside(path: Path) -> Path:
    """Name the file that `opened_atomic` writes before it renames it; a killed process may leave it."""
    return path.with_name(f".{path.name}.tmp")


def sync_folder(folder: Path) -> None:
    """Have the system write a folder to its disk: without this a renaming can be lost in a power cut."""
    with contextlib.suppress(PermissionError):  # Windows cannot open folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def explain_full(path: Path, needed: int | None) -> Iterator[None]:
    """
    Say what is needed where, when the disk is full.

    Parameters
    ----------
    path
        The file that is written meanwhile.
    needed
        Its size in bytes; None where it is not known.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL or isinstance(error, DiskFull):
            raise
        # what there is now: a half-written file is still there and is taken away next
        half = path_beside(path)
        free = shutil.disk_usage(path.parent).free + (half.stat().st_size if half.exists() else 0)
        wanted = "" if needed is None else f"{_size(needed)} needed, "
        words = f"{error.strerror}: {wanted}{_size(free)} free in {path.parent}"
        kept = "; the file there is as it was" if path.exists() else ""
        raise DiskFull(error.errno, f"{words}{kept}; make room and resume", str(path)) from error


def _size(number: float) -> str:
    units = ["bytes", "kB", "MB", "GB"]
    while number >= 1000 and len(units) > 1:
        number /= 1000
        units.pop(0)
    return f"{number:.4g} {units[0]}"
