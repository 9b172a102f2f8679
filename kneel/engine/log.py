"""``train.log``: what a training says, kept beside its results also when nobody redirects it there."""

import contextlib
import logging
import os
import platform
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

LOG = "train.log"
_open: list[IO[str]] = []


@contextlib.contextmanager
def logged(folder: Path) -> Iterator[None]:
    """
    Copy what is printed and logged meanwhile to the log of a run; progress bars and other programs' output are not.

    Does nothing where the standard output is that file already, as the queue has it, and on all but the first of
    several processes.

    Parameters
    ----------
    folder
        The run's folder; made when it is not there.
    """
    path = folder / LOG
    if os.environ.get("RANK", "0") != "0" or _is(sys.stdout, path):
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", buffering=1) as file, contextlib.redirect_stdout(_Tee(sys.stdout, file)):
        time = datetime.now(UTC).isoformat(timespec="seconds")
        file.write(f"--- {time}, process {os.getpid()} on {platform.node()}\n")
        handler = logging.StreamHandler(file)
        logging.getLogger().addHandler(handler)
        logging.captureWarnings(True)
        _open.append(file)
        try:
            yield
        finally:
            _open.remove(file)
            logging.captureWarnings(False)
            logging.getLogger().removeHandler(handler)


def note(text: str) -> bool:
    """
    Write something into the log alone.

    Parameters
    ----------
    text
        One or more lines.

    Returns
    -------
    bool
        Whether `logged` has one open.
    """
    for file in _open:
        file.write(f"{text}\n")
    return bool(_open)


class _Tee:
    """A stream whose text goes to a file as well."""

    def __init__(self, stream: IO[str], file: IO[str]) -> None:
        self._stream, self._file = stream, file

    def write(self, text: str) -> int:
        self._file.write(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _is(stream: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except (OSError, ValueError):  # no file, or a stream that is none
        return False
