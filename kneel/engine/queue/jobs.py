"""Jobs: what is to be run, where, and after what."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class PlanError(ValueError):
    """Jobs that cannot be run together; says which and why."""


@dataclass(frozen=True)
class Job:
    """One training: a fold of an experiment.

    Attributes
    ----------
    name, fold
        Name of the run (that of the experiment, and of the seed where there are several), and the fold.
    folder
        Where its snapshots, ``metrics.csv``, log (``train.log``), state (``job.json``) and lock go; one job a folder.
    command
        Program and arguments; started again it goes on where it stopped, exits with 0 when all is done and with
        `kneel.engine.queue.state.HOPELESS` when trying again would not help.
    epochs, monitor
        Epochs in all, and the column of ``metrics.csv`` to show.
    after
        `key` of the job that must be done before, or None; one that is not among the jobs is not waited for.
    settings
        What a stored run of this name must have in common with it; compared with the keys of the same name in
        ``last.json`` (see `kneel.engine.same.differences`).
    tables
        Digests of what its data are told by; compared with those that ``last.json`` has under ``tables``, if any.
    products
        Files in the folder without which it is not done.
    workload
        Length of an epoch in any unit that the jobs share; only where none was measured yet.
    """

    name: str
    fold: int
    folder: Path
    command: tuple[str, ...]
    epochs: int = 1
    monitor: str = ""
    after: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    tables: Mapping[str, str] = field(default_factory=dict, hash=False)
    products: tuple[str, ...] = ()
    workload: float = 1.0

    @property
    def key(self) -> str:
        """Name it by run and fold; unique among the jobs."""
        return f"{self.name}/fold_{self.fold}"

    def __str__(self) -> str:
        return f"{self.name}, fold {self.fold}"


def check(jobs: Sequence[Job]) -> None:
    """
    Make sure that the jobs can all be run.

    Parameters
    ----------
    jobs
        All jobs.

    Raises
    ------
    PlanError
        When two have one folder or name, or some wait for each other.
    """
    by_key: dict[str, Job] = {}
    for job in jobs:
        other = by_key.setdefault(job.key, job)
        if other is not job:
            raise PlanError(f"two experiments of the name {job.name}: their runs would go to the same folder")
    for job in jobs:
        chain, current = [job.key], job
        while current.after in by_key:
            current = by_key[current.after]
            if current.key in chain:
                raise PlanError(f"{' -> '.join([*chain, current.key])}: each waits for the other's weights (transfer)")
            chain.append(current.key)


def chain_lengths(jobs: Iterable[Job], seconds: Mapping[str, float]) -> dict[str, float]:
    """
    Work out how long it takes from the start of each job to the end of all that wait for it.

    Started in the order of these, longest first, the jobs keep all workers busy to the end.

    Parameters
    ----------
    jobs
        Jobs that passed `check`.
    seconds
        How long each takes by itself, by `Job.key`.

    Returns
    -------
    dict
        Seconds by `Job.key`.
    """
    followers: dict[str, list[Job]] = {}
    for job in jobs:
        followers.setdefault(job.after or "", []).append(job)
    lengths: dict[str, float] = {}

    def length(job: Job) -> float:
        if job.key not in lengths:
            lengths[job.key] = seconds[job.key] + max(map(length, followers.get(job.key, ())), default=0.0)
        return lengths[job.key]

    return {job.key: length(job) for job in jobs}
