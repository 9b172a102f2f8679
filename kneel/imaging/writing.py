"""Files that are there as a whole or not at all; `kneel.engine.atomic` is its like where training writes."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write a file beside its place and rename it there: whatever breaks, no part of it lies under its name.

    Two processes must not write the same file at once.

    Parameters
    ----------
    path : Path
        The file; its folder must exist. What lies there is replaced.
    data : bytes
        What goes into it.

    Raises
    ------
    OSError
        It cannot be written; an older file is then as it was, and nothing is left beside it.
    """
    beside = path.with_name(f".{path.name}.part")  # hidden: who lists films or pictures does not meet it
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # before the renaming, or a power cut could leave an empty file under the name
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def write_rows(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV table as `write_whole` does: UTF-8, lines end in a line feed.

    Parameters
    ----------
    path : Path
        The table.
    rows : iterable of iterables
        Cells of each line, the names of the columns first.
    """
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_whole(path, text.getvalue().encode())


def _sync(folder: Path) -> None:
    """Have the renaming itself written to the disk."""
    with contextlib.suppress(PermissionError):  # Windows cannot open folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
