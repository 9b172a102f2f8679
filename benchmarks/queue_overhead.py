#!/usr/bin/env python
"""Measure what the queue itself costs: many tiny jobs that compute, on two workers, each job timing its own life.

Prints the share of the time in which the workers had a job that ran, the time between two jobs of a worker (locks,
states, the start of keeper and Python), and what of it was computing: on a busy machine the rest is waiting for a core.
No torch: what Python and torch need to start comes on top in a real training.

Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

from kneel.engine.queue.jobs import Job
from kneel.engine.queue.live import Display
from kneel.engine.queue.runner import Runner
from kneel.engine.queue.workers import slots

# writes when it began and ended, by a clock that all processes of the machine have in common, and its own CPU time
WORK = """
import time
began, cpu = time.monotonic(), time.process_time()
import json, sys
while time.monotonic() < began + float(sys.argv[2]):
    pass
open(sys.argv[1], "w").write(json.dumps([began, time.monotonic(), time.process_time() - cpu]))
"""


class Quiet(Display):
    """Shows nothing."""

    def event(self, words: str) -> None:
        """Say nothing."""


def main() -> int:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=50, metavar="N", help="how many (default: 50)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="jobs at once (default: 2)")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="that each computes (default: 3)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        jobs = []
        for fold in range(given.jobs):
            place = Path(folder, "tiny", f"fold_{fold}")
            jobs.append(Job("tiny", fold, place, (sys.executable, "-c", WORK, str(place / "life"), str(given.seconds))))
        began, cpu = time.monotonic(), time.process_time()
        report = Runner(jobs, slots(["cpu"], given.workers), Quiet()).run()
        wall, cpu = time.monotonic() - began, time.process_time() - cpu
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        lives = [json.loads((job.folder / "life").read_text(encoding="utf-8")) for job in report.done]
        began = time.monotonic()
        again = Runner(jobs, slots(["cpu"], given.workers), Quiet()).run()
        skipped = time.monotonic() - began
    busy = sum(end - start for start, end, _ in lives)
    children = usage.ru_utime + usage.ru_stime - sum(work for _, _, work in lives)
    share = busy / (given.workers * wall)
    idle = (given.workers * wall - busy) / given.jobs
    print(f"{len(report.done)} of {given.jobs} jobs done on {given.workers} workers in {wall:.1f} s")
    print(f"workers busy {share:.1%}; {idle * 1000:.0f} ms a job besides it; median life {median_life(lives):.2f} s")
    ours, theirs = cpu / given.jobs * 1000, children / given.jobs * 1000
    print(f"CPU time a job: runner {ours:.0f} ms, keeper and Python {theirs:.0f} ms")
    print(f"started again: {len(again.done)} jobs skipped in {skipped * 1000:.0f} ms")
    return 0


def median_life(lives: list[list[float]]) -> float:
    """Median length of the jobs, s."""
    return statistics.median(end - start for start, end, _ in lives)


if __name__ == "__main__":
    sys.exit(main())
