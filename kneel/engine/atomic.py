"""Files that are there as a whole or not at all."""

import contextlib
import os
from pathlib import Path


def write_atomic(path: Path, data: bytes) -> None:
    """
    Write a file beside its place and rename it there: readers see the old file or the new one, never a part.

    Parameters
    ----------
    path
        The file; its folder must exist.
    data
        Its content.
    """
    beside = path.with_name(f".{path.name}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    # Without this the rename itself can be lost in a power cut. Windows cannot open folders.
    with contextlib.suppress(PermissionError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
