"""Jobs of the queue on the nodes of a Ray cluster, which all see the same WORKDIR, data, checkout and Python."""

from __future__ import annotations

import signal
import time
from collections import Counter
from typing import Any

from kneel.engine.queue.jobs import Job
from kneel.engine.queue.locks import Busy, Watch
from kneel.engine.queue.state import is_done
from kneel.engine.queue.workers import GRACE_SECONDS, Outcome, Slot, start_job
from kneel.engine.ray_cluster import Share, load_ray

_DEATHS = 10  # of nodes and worker processes under one job; one more counts as a failure
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
    ) -> RayAttempt | Outcome:
        """
        Send a job to the cluster, unless another runner has it: that would keep a place of the cluster waiting.

        Parameters
        ----------
        job
            What.
        slot
            For the table only: Ray decides where.
        watch
            This runner's, which notices owners that died. The lock itself is taken by the node.
        source, grace
            As for `start_job`.
        """
        lock = watch.acquire(job.folder)
        if isinstance(lock, Busy):
            return Outcome("busy", str(lock))
        lock.release()
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

    Parameters
    ----------
    job, source, grace
        As for `kneel.engine.queue.workers.start_job`.
    share
        What Ray has given it; GPUs by ``CUDA_VISIBLE_DEVICES``.
    """
    # Ray cancels as Ctrl-C would. That is only noted, and looked at below: an exception between taking the lock and
    # starting the job would leave the lock to this process, which lives on. Set here, as SIGINT may be handed down as
    # ignored: shells do that to a cluster that is started in the background
    asked: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: asked.append(number))
    slot = Slot(None if share.gpus else "cpu", max(1, int(share.cores)))
    started = start_job(job, slot, Watch(), source=source, grace=grace)
    if isinstance(started, Outcome):
        return started
    while (outcome := started.poll()) is None:
        if asked:
            started.stop()
            return started.wait()
        time.sleep(_LOOK_SECONDS)
    return outcome
