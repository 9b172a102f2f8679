"""The runner: gives every free slot the longest job that may start, until all are done."""

import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kneel.engine.queue.estimate import Pace, epoch_seconds, seconds_left
from kneel.engine.queue.jobs import Job, chain_lengths, check
from kneel.engine.queue.live import Display, Row
from kneel.engine.queue.locks import Watch
from kneel.engine.queue.state import LOG, JobState, is_done, last_lines, last_metric
from kneel.engine.queue.workers import GRACE_SECONDS, Outcome, Running, Slot, Start, start_job

_POLL_SECONDS = 0.03
_DRAW_SECONDS = 1.0
_ASK_AGAIN_SECONDS = 2.0  # whether a job that another runner has is free by now


@dataclass(frozen=True)
class Options:
    """How to run.

    Attributes
    ----------
    retries
        Times that a job that failed is tried again.
    wait
        Wait for the jobs of other runners, to take over what they leave; otherwise end when nothing else is to be done.
    grace
        Seconds that a job has between being asked to stop and being killed.
    """

    retries: int = 1
    wait: bool = True
    grace: float = GRACE_SECONDS


@dataclass
class Report:
    """What a runner came to, in the order in which it came to it.

    Attributes
    ----------
    done
        Jobs that are done, those before this runner too.
    failed, blocked
        Jobs that failed or were not begun because their source failed, each with why.
    left
        Jobs that are not done: the runner was stopped, or other runners have them.
    stopped_by
        Signal that stopped it, or None.
    """

    done: list[Job] = field(default_factory=list)
    failed: dict[Job, str] = field(default_factory=dict)
    blocked: dict[Job, str] = field(default_factory=dict)
    left: list[Job] = field(default_factory=list)
    stopped_by: int | None = None


@dataclass
class _Entry:
    """What the runner knows of a job that is not done."""

    job: Job
    source: Job | None
    before: JobState | None  # when the runner began
    failures: int = 0  # since then, those of other runners too
    ask_at: float = 0.0
    elsewhere: str = ""


class Runner:
    """
    Runs jobs on this machine.

    Parameters
    ----------
    jobs
        All jobs.
    slots
        Where they may run, one in each at a time.
    display
        Shows what happens.
    options
        How.
    watch
        Takes the locks.
    start
        Starts a job in a slot: here, or by `kneel.engine.queue.ray_jobs` on another machine.

    Raises
    ------
    PlanError
        When they cannot all be run.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        slots: Sequence[Slot],
        display: Display,
        options: Options = Options(),
        watch: Watch | None = None,
        start: Start = start_job,
    ) -> None:
        check(jobs)
        self._jobs, self._slots, self._display, self._options = jobs, list(slots), display, options
        self._watch, self._start_job, self._report = watch or Watch(), start, Report()
        self._running: list[tuple[Running, Pace]] = []
        by_key = {job.key: job for job in jobs}
        self._todo: dict[str, _Entry] = {}

        def settled(job: Job) -> bool:
            # a job whose source is to be run again is not done either
            source = by_key.get(job.after or "")
            return is_done(job, source) and (source is None or settled(source))

        for job in jobs:
            source = by_key.get(job.after or "")
            if settled(job):
                self._report.done.append(job)
            else:
                self._todo[job.key] = _Entry(job, source, JobState.read(job.folder))
        self._measure()

    def run(self) -> Report:
        """
        Run all jobs; SIGTERM, SIGINT and SIGHUP stop them, and a second one kills them.

        Returns
        -------
        Report
            What became of each.
        """
        if self._report.done:
            self._display.event(f"done   {len(self._report.done)} of {len(self._jobs)} job(s), before")
        asked, drawn_at = 0, 0.0
        with _signals() as signals, self._display:
            while self._todo:
                self._collect(stopping=bool(signals))
                while asked < len(signals):
                    asked += 1
                    self._report.stopped_by = signals[0]
                    for attempt, _ in self._running:
                        attempt.stop()
                if not signals:
                    self._fill()
                if not self._running and (signals or self._idle()):
                    break
                if time.monotonic() >= drawn_at + _DRAW_SECONDS:
                    drawn_at = time.monotonic()
                    self._draw()
                time.sleep(_POLL_SECONDS)
            self._draw()
        self._report.left = [entry.job for entry in self._todo.values()]
        return self._report

    def _idle(self) -> bool:
        """Say whether nothing can be done any more: others have what is left, and are not waited for."""
        return not self._options.wait and all(
            entry.elsewhere or (entry.source and entry.source.key in self._todo) for entry in self._todo.values()
        )

    def _collect(self, *, stopping: bool) -> None:
        """Take note of the jobs that have ended."""
        for attempt, pace in list(self._running):
            outcome = attempt.poll()
            if outcome is None:
                continue
            self._running.remove((attempt, pace))
            self._slots.append(attempt.slot)
            self._ended(self._todo[attempt.job.key], outcome, attempt.slot, stopping)

    def _ended(self, entry: _Entry, outcome: Outcome, slot: Slot, stopping: bool) -> None:
        job = entry.job
        where = f"{job}, on {slot}"
        if outcome.state == "done":
            self._display.event(f"done   {where}: {''.join(last_lines(job.folder, 1))}")
            self._done(entry)
        elif outcome.state == "busy":
            self._later(entry, outcome.reason)
        elif outcome.state == "interrupted" or stopping:
            self._display.event(f"stopped  {where}" + (f": {outcome.reason}" if outcome.reason else ""))
        else:
            entry.failures = max(entry.failures + 1, self._failures(entry))
            if outcome.hopeless or entry.failures > self._options.retries:
                self._failed(entry, outcome.reason)
            else:
                self._display.event(f"failed {where}: {outcome.reason}; is tried again")

    def _fill(self) -> None:
        """Start jobs on the free slots, those with the longest way to go first; what failed comes last."""
        for entry in sorted(self._todo.values(), key=lambda one: (one.failures, -self._length[one.job.key])):
            if not self._slots:
                return
            job = entry.job
            if job.key not in self._todo or time.monotonic() < entry.ask_at:
                continue
            if any(attempt.job is job for attempt, _ in self._running):
                continue
            if entry.source is not None and entry.source.key in self._todo:
                continue
            self._start(entry)

    @staticmethod
    def _failures(entry: _Entry) -> int:
        """Count the attempts that failed since the runner began, by this one or another."""
        state = JobState.read(entry.job.folder)
        return (state.failures if state else 0) - (entry.before.failures if entry.before else 0)

    def _start(self, entry: _Entry) -> None:
        job, state = entry.job, JobState.read(entry.job.folder)
        elsewhere = self._failures(entry) - entry.failures
        if state and elsewhere > 0:
            entry.failures += elsewhere
            if state.hopeless or entry.failures > self._options.retries:
                return self._failed(entry, f"{state.reason} (in another runner)")
        slot = self._slots.pop(0)
        started = self._start_job(job, slot, self._watch, source=entry.source, grace=self._options.grace)
        if not isinstance(started, Outcome):
            self._display.event(f"start  {job}, on {slot}  ({_short(job.folder / LOG)})")
            self._running.append((started, Pace(job)))
            entry.elsewhere = ""
            return None
        self._slots.insert(0, slot)
        if started.state == "busy":
            return self._later(entry, started.reason)
        self._display.event(f"done   {job}, by another runner")
        return self._done(entry)

    def _later(self, entry: _Entry, reason: str) -> None:
        if not entry.elsewhere:
            self._display.event(f"wait   {entry.job}: {reason}")
        entry.elsewhere, entry.ask_at = reason, time.monotonic() + _ASK_AGAIN_SECONDS

    def _done(self, entry: _Entry) -> None:
        del self._todo[entry.job.key]
        self._report.done.append(entry.job)
        self._measure()

    def _failed(self, entry: _Entry, reason: str) -> None:
        """Give a job up, and with it those that would start from it: the same fold of others, and no more."""
        del self._todo[entry.job.key]
        self._report.failed[entry.job] = reason
        self._display.event(f"failed {entry.job}: {reason}")
        lost = [entry.job]
        for job in lost:
            for follower in [one for one in self._todo.values() if one.source is job]:
                del self._todo[follower.job.key]
                self._report.blocked[follower.job] = f"not begun, {entry.job} failed"
                lost.append(follower.job)

    def _measure(self) -> None:
        """Learn from what is over how long the rest takes."""
        left = [entry.job for entry in self._todo.values()]
        self._epoch_seconds = epoch_seconds(self._jobs)
        self._ahead = seconds_left(left, self._epoch_seconds)
        self._length = chain_lengths(left, self._ahead)

    def _draw(self) -> None:
        rows: list[Row] = []
        ahead = dict(self._ahead)
        for attempt, pace in self._running:
            pace.look()
            job = attempt.job
            left = pace.seconds_left(self._epoch_seconds.get(job.name))
            rows.append(Row(str(job), str(attempt.slot), pace.epoch, job.epochs, job.monitor, last_metric(job), left))
            ahead[job.key] = left or 0.0
        others = [entry for entry in self._todo.values() if entry.elsewhere]
        rows += [Row.elsewhere(str(entry.job), entry.elsewhere) for entry in others]
        todo = [entry.job for entry in self._todo.values()]
        eta = None
        if self._epoch_seconds and todo:
            workers = len(self._slots) + len(self._running)
            eta = max(sum(ahead[job.key] for job in todo) / workers, *chain_lengths(todo, ahead).values())
        report = self._report
        counts = {
            "done": len(report.done),
            "running": len(self._running),
            "waiting": len(todo) - len(self._running) - len(others),
            "elsewhere": len(others),
            "failed": len(report.failed),
            "not begun": len(report.blocked),
        }
        self._display.draw(rows, counts, eta)


def _short(path: Path) -> Path:
    """Name a path from here, if it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect the signals that ask to stop."""
    caught: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda got, _: caught.append(got)) for number in numbers}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
