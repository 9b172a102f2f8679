"""Run one job, from any process on any machine that sees its folder."""

import contextlib
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol

from kneel.engine.queue.fence import still_mine
from kneel.engine.queue.jobs import Job
from kneel.engine.queue.keeper import Task
from kneel.engine.queue.locks import Busy, Lock, Watch
from kneel.engine.queue.state import JobState, is_done, now, source_of

GRACE_SECONDS = 20.0
_CODE = str(Path(__file__).resolve().parents[3])  # the keeper and the job run the code that this process runs
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")


@dataclass(frozen=True)
class Slot:
    """A place for one job at a time.

    Attributes
    ----------
    device
        GPU as ``CUDA_VISIBLE_DEVICES`` names it, ``cpu`` for none, or None: what the environment says already.
    threads
        CPU threads, its share of the machine; None leaves them to the job.
    """

    device: str | None = None
    threads: int | None = None

    def environment(self) -> dict[str, str]:
        """Return what a job here finds in its environment; threads that the user has set there stay."""
        added = {"PYTHONUNBUFFERED": "1"}
        if self.device is not None:
            added["CUDA_VISIBLE_DEVICES"] = "" if self.device == "cpu" else self.device
        if self.threads is not None:
            added |= {name: str(self.threads) for name in _THREADS if name not in os.environ}
        return added

    def __str__(self) -> str:
        return self.device or os.environ.get("CUDA_VISIBLE_DEVICES") or "cpu"


def slots(devices: Sequence[str], per_device: int) -> list[Slot]:
    """
    Make places for jobs.

    Parameters
    ----------
    devices
        GPUs, or ``cpu``.
    per_device
        Jobs at once on each. All jobs of the machine share its CPU threads; a single one may have them all.

    Returns
    -------
    list of Slot
        One place on each device comes before the second on any.
    """
    number = len(devices) * per_device
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, cores // number) if number > 1 else None
    return [Slot(device, threads) for _ in range(per_device) for device in devices]


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a job ended.

    Attributes
    ----------
    state
        ``busy``: another runner has it; nothing was done.
    reason
        Why it is not done.
    hopeless
        Trying again would not help.
    """

    state: Literal["done", "failed", "interrupted", "busy"]
    reason: str = ""
    hopeless: bool = False


class Running(Protocol):
    """A job that runs, here or elsewhere."""

    job: Job
    slot: Slot

    def poll(self) -> Outcome | None:
        """Return how it ended, or None while it runs."""

    def stop(self) -> None:
        """Ask it to stop; asked twice, it is killed."""


class Start(Protocol):
    """Starts a job in a slot, as `start_job`."""

    def __call__(
        self, job: Job, slot: Slot, watch: Watch, *, source: Job | None = None, grace: float = GRACE_SECONDS
    ) -> Running | Outcome:
        """Return the running job, or why it was not started."""


class Attempt:
    """A job that runs, its lock held by its keeper.

    Parameters
    ----------
    job, slot, lock
        What, where, and the lock of its folder, which goes over to the keeper.
    source
        The job whose weights it starts from, or None.
    grace
        Seconds that it has between being asked to stop and being killed.
    """

    def __init__(self, job: Job, slot: Slot, lock: Lock, source: Job | None, grace: float) -> None:
        self.job, self.slot = job, slot
        self._lock_path, self._attempt = lock.path, _attempts(job) + 1
        task = Task(
            folder=str(job.folder),
            lock=str(lock.path),
            descriptor=lock.descriptor,
            command=list(job.command),
            environment=slot.environment(),
            title=f"{now()}  {job}, on {slot} of {platform.node()}: {shlex.join(job.command)}".replace("\n", " "),
            device=str(slot),
            settings=dict(job.settings),
            source=None if source is None else source_of(source),
            grace=grace,
        )
        self._keeper = subprocess.Popen(
            [sys.executable, "-m", "kneel.engine.queue.keeper"],
            stdin=subprocess.PIPE,
            pass_fds=(lock.descriptor,),
            start_new_session=True,  # Ctrl-C on the terminal is the runner's to hear
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (_CODE, os.environ.get("PYTHONPATH"))))},
            text=True,
        )
        lock.hand_over()
        assert self._keeper.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # killed at once; the outcome says so
            self._keeper.stdin.write(json.dumps(asdict(task)) + "\n")
            self._keeper.stdin.flush()  # and left open: when it closes, with this process or before, the job stops

    def poll(self) -> Outcome | None:
        """Return how it ended, or None while it runs."""
        return None if self._keeper.poll() is None else self._outcome()

    def wait(self) -> Outcome:
        """Return how it ended, when it has."""
        self._keeper.wait()
        return self._outcome()

    def stop(self) -> None:
        """Ask it to stop; asked twice, it is killed."""
        assert self._keeper.stdin is not None
        if self._keeper.stdin.closed:
            self._keeper.terminate()
        self._keeper.stdin.close()

    def _outcome(self) -> Outcome:
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        state = JobState.read(self.job.folder)
        if self._keeper.returncode == 0:
            return Outcome("done")
        if state and state.attempt == self._attempt and state.state != "running":
            return Outcome(state.state, state.reason or "", state.hopeless)
        if not still_mine(self._lock_path):
            return Outcome("busy", "taken over by another runner, to which this one seemed dead")
        return Outcome("failed", f"its keeper ended with status {self._keeper.returncode}")


def _attempts(job: Job) -> int:
    state = JobState.read(job.folder)
    return state.attempt if state else 0


def start_job(
    job: Job, slot: Slot, watch: Watch, *, source: Job | None = None, grace: float = GRACE_SECONDS
) -> Attempt | Outcome:
    """
    Start a job unless it is done, or somebody else has it.

    Parameters
    ----------
    job, slot
        What, and where.
    watch
        This runner's; the same one every time, so that it notices owners that died.
    source
        The job whose weights it starts from, where that is one of the jobs.
    grace
        Seconds that it has between being asked to stop and being killed.

    Returns
    -------
    Attempt or Outcome
        The running job, or why it was not started.
    """
    lock = watch.acquire(job.folder)
    if isinstance(lock, Busy):
        return Outcome("busy", str(lock))
    if is_done(job, source):
        lock.release()
        return Outcome("done")
    return Attempt(job, slot, lock, source, grace)


def run_job(job: Job, slot: Slot, watch: Watch, *, source: Job | None = None, grace: float = GRACE_SECONDS) -> Outcome:
    """
    Run a job to its end, as `start_job`; an exception in the meantime, such as KeyboardInterrupt, stops it first.

    Parameters
    ----------
    job, slot, watch, source, grace
        As for `start_job`.

    Returns
    -------
    Outcome
        How it ended.
    """
    attempt = start_job(job, slot, watch, source=source, grace=grace)
    if isinstance(attempt, Outcome):
        return attempt
    try:
        return attempt.wait()
    except BaseException:
        attempt.stop()
        attempt.wait()
        raise
