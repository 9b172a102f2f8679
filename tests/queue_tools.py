"""Fake trainings of the queue's tests: children that know no torch, and how to wait for what they do."""

import sys
import time
from pathlib import Path

from kneel.engine.queue.jobs import Job

# epochs, seconds an epoch, how it ends; goes on after the last epoch that metrics.csv has
TRAINING = """
import os, pathlib, sys, time
folder, epochs, seconds, end = pathlib.Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
folder.mkdir(parents=True, exist_ok=True)
table = folder / "metrics.csv"
rows = table.read_text().splitlines() if table.exists() else ["epoch,error"]
with (folder / "starts").open("a") as file:
    file.write(f"{len(rows) - 1} {os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')}\\n")
for epoch in range(len(rows), epochs + 1):
    time.sleep(seconds)
    rows.append(f"{epoch},{1 / epoch}")
    (folder / "beside").write_text("\\n".join(rows) + "\\n")
    os.replace(folder / "beside", table)
print("the last words")
exec(end)
"""


def fake(workdir, name="a", fold=0, *, epochs=2, seconds=0.0, end="", **more):
    """A job of so many epochs that ends with some code of its own."""
    folder = Path(workdir) / name / f"fold_{fold}"
    command = (sys.executable, "-S", "-c", TRAINING, str(folder), str(epochs), str(seconds), end)
    return Job(name, fold, folder, command, epochs=epochs, monitor="error", **more)


def until(condition, seconds=20.0):
    """Wait for a condition; its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)
    return value


def starts(job):
    """Epochs that were over at each start of a fake training, and its process id."""
    path = job.folder / "starts"
    return [[int(word) for word in line.split()[:2]] for line in path.read_text().splitlines()] if path.exists() else []


def alive(pid):
    """Whether a process runs; a zombie does not."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
