"""Jobs of the queue on the nodes of a Ray cluster, which all see the same WORKDIR, data, checkout and Python."""

from __future__ import annotations

import signal
import time
from collections import Counter
from typing import Any

from kneel.engine.queue.jobs import Job
from kneel.engine.queue.locks import STALE_SECONDS, Watch
from kneel.engine.queue.state import is_done
from kneel.engine.queue.workers import GRACE_SECONDS, Attempt, Outcome, Slot, start_job
from kneel.engine.ray_cluster import Share, load_ray

_DEATHS = 10  # of nodes and worker processes under one job; one more counts as a failure
_ASK_AGAIN_SECONDS = 1.0
_LOOK_SECONDS = 0.1
_LAG_SECONDS = 60.0  # of what another machine wrote into a shared folder


class RayStart:
    """
    Starts jobs as Ray tasks; takes the place of `kneel.engine.queue.workers.start_job` in a runner.

    The job itself runs as everywhere, in a process of its own beside a keeper that holds the lock of its folder: when
    its node dies, or Ray's process, it stops at its last snapshot and is started again on another node.

    Parameters
    ----------
    share
        What one job needs.
    """

    def __init__(self, share: Share) -> None:
        ray = load_ray()
        self._share, self._died = share, Counter[str]()
        # Ray's retries are off: the runner decides. Ray's processes are kept for the next job (max_calls=0), also on
        # GPUs: the training is a process of its own, and leaves nothing behind in this one
        self._task = ray.remote(num_cpus=share.cores, num_gpus=share.gpus, max_retries=0, max_calls=0)(run_here)

    def __call__(
        self, job: Job, slot: Slot, watch: Watch, *, source: Job | None = None, grace: float = GRACE_SECONDS
    ) -> RayAttempt:
        """
        Send a job to the cluster.

        Parameters
        ----------
        job
            What.
        slot
            For the table only: Ray decides where.
        watch
            Not used: the node takes the lock.
        source, grace
            As for `start_job`.
        """
        reference = self._task.remote(job, self._share, source, grace)
        return RayAttempt(job, slot, reference, source, self._died)


class RayAttempt:
    """
    A job on its way, or running, somewhere on the cluster.

    Parameters
    ----------
    job, slot
        What, and as what it is shown.
    reference
        Of the Ray task.
    source
        The job that this one starts from.
    died
        How often something died under each job; counted here.
    """

    def __init__(self, job: Job, slot: Slot, reference: Any, source: Job | None, died: Counter[str]) -> None:
        self.job, self.slot = job, slot
        self._reference, self._source, self._died, self._asked = reference, source, died, False
        self._told: float | None = None  # when its node said that it is done

    def poll(self) -> Outcome | None:
        """Return how it ended, or None while it runs."""
        ray = load_ray()
        ready, _ = ray.wait([self._reference], timeout=0)
        if not ready:
            return None
        try:
            return self._seen(ray.get(self._reference))
        except ray.exceptions.TaskCancelledError:
            return Outcome("interrupted", "stopped by its runner")
        except ray.exceptions.RayTaskError as error:
            if self._asked:
                return Outcome("interrupted", "stopped by its runner")
            return Outcome("failed", f"{type(error.cause).__name__}: {error.cause}")
        except ray.exceptions.RayError as error:
            self._died[self.job.key] += 1
            reason = f"its node or Ray process died ({type(error).__name__})"
            return Outcome("failed" if self._died[self.job.key] > _DEATHS else "interrupted", reason)

    def _seen(self, outcome: Outcome) -> Outcome | None:
        """Believe that it is done once this machine sees that too; None while a shared folder may lag behind."""
        if outcome.state != "done" or is_done(self.job, self._source):
            return outcome
        self._told = self._told or time.monotonic()
        if time.monotonic() - self._told < _LAG_SECONDS:
            return None
        reason = f"its node says done, but {self.job.folder} on this machine does not: do both see the same WORKDIR?"
        return Outcome("failed", reason, hopeless=True)

    def stop(self) -> None:
        """Ask it to stop; asked twice, Ray's process is killed, and the keeper stops the job."""
        load_ray().cancel(self._reference, force=self._asked)
        self._asked = True


def run_here(job: Job, share: Share, source: Job | None, grace: float) -> Outcome:
    """
    Run a job to its end; called by Ray on a node.

    A job whose owner seems to be alive is watched until that is sure: only then can a dead node's job be taken over.

    Parameters
    ----------
    job, source, grace
        As for `kneel.engine.queue.workers.start_job`.
    share
        What Ray has given it; GPUs by ``CUDA_VISIBLE_DEVICES``.
    """
    # Ray cancels as Ctrl-C would: in vain where a cluster that was started in the background hands down that SIGINT is
    # ignored, as shells do there
    signal.signal(signal.SIGINT, signal.default_int_handler)
    slot = Slot(None if share.gpus else "cpu", max(1, int(share.cores)))
    watch, end = Watch(), time.monotonic() + 2 * STALE_SECONDS
    while True:
        started = start_job(job, slot, watch, source=source, grace=grace)
        if isinstance(started, Attempt):
            return _wait(started)
        if started.state != "busy" or time.monotonic() > end:
            return started
        time.sleep(_ASK_AGAIN_SECONDS)


def _wait(attempt: Attempt) -> Outcome:
    """Wait by looking again and again: Ray cancels by an exception that no system call is woken by."""
    try:
        while (outcome := attempt.poll()) is None:
            time.sleep(_LOOK_SECONDS)
        return outcome
    except BaseException:
        attempt.stop()
        attempt.wait()
        raise
