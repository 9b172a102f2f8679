"""What a report was made of, so that it can be told later: day, code, data, files with their SHA-256."""

import hashlib
from collections.abc import Sequence
from datetime import date
from pathlib import Path, PurePath

from kneel.engine.provenance import code_version

_DIGITS = 12  # of a SHA-256: enough to tell files apart


def day_and_code() -> str:
    """Say today's date and which code runs."""
    version = code_version()
    commit = f", commit {version['commit'][:_DIGITS]}" if version["commit"] else ""
    changed = " with changes" if version["dirty"] else ""
    return f"{date.today().isoformat()}, deepknee {version['package'] or 'not installed'}{commit}{changed}"


def named_files(paths: Sequence[Path]) -> str:
    """Name files by the end of their paths and the first digits of their SHA-256.

    Parameters
    ----------
    paths : sequence of Path
        Files, which are read.
    """
    words = []
    for path in paths:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:_DIGITS]
        words.append(f"`{PurePath(*path.parts[-3:]).as_posix()}` (SHA-256 {digest})")
    return ", ".join(words)
