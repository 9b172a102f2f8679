"""What a job's folder says of it: state, progress, log, and whether it is the run that is asked for."""

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from kneel.engine.atomic import write_atomic
from kneel.engine.queue.jobs import Job
from kneel.engine.same import differences, flat, other_tables

LOG, STATE, METRICS, READABLE = "train.log", "job.json", "metrics.csv", "last.json"
HOPELESS = 2  # exit status of a job that would fail again: wrong settings, missing data
State = Literal["running", "done", "failed", "interrupted"]


@dataclass(frozen=True)
class JobState:
    """
    The state of a job, as ``job.json`` has it.

    Attributes
    ----------
    state
        ``running`` with nobody holding the lock means that it was interrupted, too roughly to say so.
    attempt
        Times that it was started.
    host, device
        Where, last; a device is the name of a GPU or ``cpu``.
    started, ended
        When, last; UTC.
    seconds
        How long it ran, all attempts together.
    epochs
        Epochs that were over when it ended.
    failures
        Attempts that failed since it was last done; all runners together spend the retries.
    exit
        Exit status of the last attempt; negative: the signal that killed it.
    reason
        What went wrong, in a line.
    settings
        `Job.settings` of the last attempt.
    source
        `ended` of the job whose weights it started from, where that is known.
    """

    state: State
    attempt: int = 0
    host: str = ""
    device: str = ""
    started: str = ""
    ended: str | None = None
    seconds: float = 0.0
    epochs: int = 0
    failures: int = 0
    exit: int | None = None
    reason: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None

    @property
    def hopeless(self) -> bool:
        """Say whether it would fail again."""
        return self.state == "failed" and self.exit == HOPELESS

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read it; None where there is none, or none that can be read (it is written as a whole)."""
        content = _read_json(folder / STATE)
        known = {key: value for key, value in content.items() if key in cls.__dataclass_fields__}
        return cls(**known) if "state" in known else None

    def write(self, folder: Path) -> None:
        """Write it; for the owner of the folder's lock alone."""
        write_atomic(folder / STATE, (json.dumps(asdict(self), indent=2) + "\n").encode())


def now() -> str:
    """Say what time it is, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def is_done(job: Job, source: Job | None = None) -> bool:
    """
    Say whether a job need not be started: it ended well with just these settings, and what it made is there.

    Parameters
    ----------
    job
        The job.
    source
        The one whose weights it starts from, if it is among the jobs: run again since, it makes this one undone.
    """
    state = JobState.read(job.folder)
    if state is None or state.state != "done" or not all((job.folder / name).exists() for name in job.products):
        return False
    asked, stored = ({**flat(tree), "training.threads": None} for tree in (job.settings, state.settings))
    return asked == stored and (source is None or state.source in (None, source_of(source)))


def source_of(job: Job) -> str | None:
    """Tell this run of a job from a later one of the same name: when it ended."""
    state = JobState.read(job.folder)
    return state.ended if state and state.state == "done" else None


def refusals(job: Job) -> list[str]:
    """
    Say in what the run that is stored in a job's folder is another one.

    Parameters
    ----------
    job
        The job; nothing in its folder is changed.

    Returns
    -------
    list of str
        A line a setting, with both values, and a line a table of its data; empty when it may be gone on with.
    """
    stored = _read_json(job.folder / READABLE)
    if not stored:
        return []
    asked = {key: stored.get(key) for key in job.settings}
    changed = other_tables(stored.get("tables"), job.tables)
    return differences(asked, job.settings, int(stored.get("epoch", 0))) + changed


def epochs_over(folder: Path) -> int:
    """Count the epochs that are over in a job's folder."""
    try:
        return int(float(_last_row(folder)["epoch"]))
    except (KeyError, ValueError, TypeError):
        return 0


def last_metric(job: Job) -> float | None:
    """Read the last value of a job's metric; None where there is none yet."""
    try:
        return float(_last_row(job.folder)[job.monitor])
    except (KeyError, ValueError, TypeError):
        return None


def _last_row(folder: Path) -> dict[str, str]:
    try:
        with (folder / METRICS).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))[-1]
    except (OSError, IndexError):
        return {}


def last_lines(folder: Path, number: int = 10) -> list[str]:
    """
    Read the end of a job's log.

    Parameters
    ----------
    folder
        The job's folder.
    number
        Lines at most; empty ones are left out.
    """
    try:
        with (folder / LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 20_000))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-number:]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
