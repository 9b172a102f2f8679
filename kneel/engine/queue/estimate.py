"""How long jobs take: measured on what the work folder holds already, guessed for the rest."""

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence

from kneel.engine.queue.jobs import Job
from kneel.engine.queue.state import JobState, epochs_over


class Pace:
    """
    How fast a running job is, from when its epochs are seen to end.

    Parameters
    ----------
    job
        The job, at its start.
    """

    def __init__(self, job: Job) -> None:
        self._job, self.epoch = job, epochs_over(job.folder)
        self._changed = self._since = time.monotonic()
        self._began_with: int | None = None

    def look(self) -> None:
        """Read how far the job is."""
        epoch = epochs_over(self._job.folder)
        if epoch != self.epoch:
            self._changed = time.monotonic()
            if self._began_with is None:  # what went before is mostly the start of Python and torch
                self._began_with, self._since = epoch, self._changed
            self.epoch = epoch

    def seconds_left(self, expected: float | None) -> float | None:
        """
        Estimate when it ends.

        Parameters
        ----------
        expected
            Seconds an epoch, until this job has shown how long one takes; None if nobody knows.
        """
        if self._began_with is not None and self.epoch > self._began_with:
            expected = (self._changed - self._since) / (self.epoch - self._began_with)
        if expected is None:
            return None
        return max(0.0, (self._job.epochs - self.epoch) * expected - (time.monotonic() - self._changed))


def epoch_seconds(jobs: Sequence[Job]) -> dict[str, float]:
    """
    Estimate the length of an epoch of each run.

    Parameters
    ----------
    jobs
        All jobs. Folds of one run take equally long; a run of which nothing was measured is judged by its workload.

    Returns
    -------
    dict
        Seconds by `Job.name`; empty when nothing was measured at all.
    """
    measured: dict[str, list[float]] = {}
    for job in jobs:
        state = JobState.read(job.folder)
        if state and state.epochs and state.seconds:
            measured.setdefault(job.name, []).append(state.seconds / state.epochs)
    if not measured:
        return {}
    rates = {name: statistics.median(values) for name, values in measured.items()}
    unit = statistics.median(rates[job.name] / job.workload for job in jobs if job.name in rates)
    return {job.name: rates.get(job.name, unit * job.workload) for job in jobs}


def seconds_left(jobs: Iterable[Job], per_epoch: Mapping[str, float]) -> dict[str, float]:
    """
    Estimate how long jobs take from where they are.

    Parameters
    ----------
    jobs
        Jobs.
    per_epoch
        From `epoch_seconds`; where it has nothing, the workload is taken for seconds, which is right for an order.

    Returns
    -------
    dict
        Seconds by `Job.key`.
    """
    return {
        job.key: max(0, job.epochs - epochs_over(job.folder)) * per_epoch.get(job.name, job.workload) for job in jobs
    }
