"""The process beside a running job: beats its lock, stops it with all that it started, writes down how it ended.

It shares the job's fate and not the runner's: a runner that is killed leaves no job behind, one that is stopped does
no harm. Started by `kneel.engine.queue.workers`; reads a `Task` from its standard input, and stops the job when that is
closed.
"""

import ctypes
import json
import os
import platform
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from kneel.engine.queue.fence import LOCK_VARIABLE, LockLost
from kneel.engine.queue.locks import BEAT_SECONDS, Lock
from kneel.engine.queue.state import LOG, JobState, State, epochs_over, last_lines, now

_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36  # of Linux' prctl.h
_ON_LINUX = sys.platform.startswith("linux")


@dataclass(frozen=True)
class Task:
    """What a keeper is told, as JSON.

    Attributes
    ----------
    folder, lock, descriptor
        The job's folder, the file of its lock, and the descriptor that holds it.
    command, environment
        What to start, and what to add to the environment.
    title
        First line of the attempt in the log.
    device
        For the state.
    settings, source
        As in `JobState`.
    grace
        Seconds from SIGTERM to SIGKILL when the job is to stop.
    """

    folder: str
    lock: str
    descriptor: int
    command: list[str]
    environment: dict[str, str]
    title: str
    device: str
    settings: dict[str, Any]
    source: str | None
    grace: float


def main() -> int:
    """Keep one job; 0 when it is done."""
    with _signals() as woken:
        line = sys.stdin.readline()
        if not line:
            return 1  # the runner died before it said what to do
        task = Task(**json.loads(line))
        lock = Lock(task.descriptor, Path(task.lock))
        try:
            code = _keep(task, lock, woken)
        except LockLost as error:
            print(error, file=sys.stderr)  # and nothing is written into a folder that is another's
            return 1
        lock.release()
    return int(code != 0)


def _keep(task: Task, lock: Lock, woken: int) -> int:
    """Run the job between the two states that are written down; return its exit status."""
    folder = Path(task.folder)
    before = JobState.read(folder) or JobState("interrupted")
    state = replace(
        JobState("running", before.attempt + 1, platform.node(), task.device, started=now()),
        seconds=before.seconds,
        failures=before.failures,
        settings=task.settings,
        source=task.source,
    )
    state.write(folder)
    began = time.monotonic()
    code, stopped = _run(task, lock, woken)
    seconds = round(before.seconds + time.monotonic() - began, 3)
    what, reason = _ending(folder, code, stopped)
    failures = {"done": 0, "failed": before.failures + 1}.get(what, before.failures)
    ended = replace(state, state=what, reason=reason, failures=failures, exit=code, ended=now(), seconds=seconds)
    lock.beat()
    replace(ended, epochs=epochs_over(folder)).write(folder)
    return code


def _ending(folder: Path, code: int, stopped: bool) -> tuple[State, str | None]:
    """Say what an exit status means, and why."""
    if code == 0:
        return "done", None
    if stopped:
        return "interrupted", "stopped by its runner"
    if code < 0:
        return "failed", f"killed by {signal.Signals(-code).name}"
    return "failed", (last_lines(folder, 1) or [f"exit status {code}"])[0]


def _run(task: Task, lock: Lock, woken: int) -> tuple[int, bool]:
    """Run the job to its end; return its exit status, and whether it was told to stop."""
    with Path(task.folder, LOG).open("ab") as log:
        log.write(f"--- {task.title}\n".encode())
        log.flush()
        job = _start(task, lock, log)
        try:
            stopped = _wait(job, task, lock, woken)
        finally:
            _kill(job)  # what it started must not outlive it
        return job.wait(), stopped


def _start(task: Task, lock: Lock, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start the job in a group of its own; it holds the lock for as long as it lives."""
    environment = {**os.environ, **task.environment, LOCK_VARIABLE: task.lock}
    keeper = os.getpid()
    libc = ctypes.CDLL(None, use_errno=True) if _ON_LINUX else None
    if libc:
        libc.prctl(_SET_CHILD_SUBREAPER, 1)

    def die_with_keeper() -> None:
        if libc:
            libc.prctl(_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != keeper:
                os._exit(1)

    return subprocess.Popen(
        task.command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        pass_fds=(lock.descriptor,),
        process_group=0,
        preexec_fn=die_with_keeper,  # this process has one thread
    )


def _wait(job: subprocess.Popen[bytes], task: Task, lock: Lock, woken: int) -> bool:
    """Beat until the job ends; stop it when asked to, by a signal or the end of the standard input."""
    watched, deadline, next_beat = [woken, sys.stdin.fileno()], None, 0.0
    while job.poll() is None:
        clock = time.monotonic()
        if deadline is not None and clock >= deadline:
            return True
        if clock >= next_beat:
            lock.beat()
            next_beat = clock + BEAT_SECONDS
        until = next_beat if deadline is None else min(deadline, next_beat)
        ready, _, _ = select.select(watched, [], [], max(0.0, until - clock))
        asked = set(os.read(woken, 64)) - {signal.SIGCHLD} if woken in ready else set()
        if sys.stdin.fileno() in ready and not os.read(sys.stdin.fileno(), 1):
            watched = [woken]
            asked.add(signal.SIGTERM)
        if asked and deadline is not None:
            return True  # asked twice: at once
        if asked:
            deadline = time.monotonic() + task.grace
            _signal_group(job, signal.SIGTERM)
            _signal_group(job, signal.SIGCONT)  # one that was stopped would not hear it
    return deadline is not None


def _kill(job: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the job: its group, and on Linux also those that left the group."""
    _signal_group(job, signal.SIGKILL)
    job.wait()
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while _ON_LINUX and children.exists() and (left := children.read_text(encoding="ascii").split()):
        for number in left:  # orphans of the job come to us, level by level
            with suppress(ProcessLookupError):
                os.kill(int(number), signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(int(number), 0)


def _signal_group(job: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # gone; on macOS: only zombies left
        os.killpg(job.pid, number)


@contextmanager
def _signals() -> Iterator[int]:
    """Turn signals into bytes that `select` sees; yields the descriptor to read them from."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(writable)
    try:
        yield readable
    finally:
        signal.set_wakeup_fd(-1)
        os.close(readable)
        os.close(writable)


if __name__ == "__main__":
    sys.exit(main())
