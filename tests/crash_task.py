"""A training to be killed: imported once by a fork server, so that every process of the test starts at once."""

import os
import signal
from pathlib import Path

import torch
import torch._dynamo  # the first optimizer loads it: seconds
from fit_tasks import Regression, settings
from wrapped_file import Wrapped

from kneel.engine import provenance, record
from kneel.engine.fit import fit

CHANGES = {"learning_rate": 0.05, "batch_size": 8}
provenance._packages()  # kept for all processes that are forked from here
torch.set_num_threads(1)


class Waiting(Regression):
    """Never comes to its end: waits to be killed before the last epoch."""

    def __init__(self, metrics: Path, epochs: int):
        super().__init__()
        self.metrics_csv, self.epochs = metrics, epochs

    def train_sampler(self, dataset, generator):
        if self.metrics_csv.exists() and len(self.metrics_csv.read_text().splitlines()) >= self.epochs:
            signal.pause()


def stay_with_one_commit():
    """Let this process know one commit only; not done on import, which the test's own process does too."""
    provenance.code_changes = lambda: (b"", [])
    record.code_version = provenance.code_version = lambda: {"commit": "0" * 40}


def train(folder: Path, epochs: int, started=None, waits=False, killed_at=None, events=None):
    """
    Train into a folder, from where it is.

    `started` is a connection that hears when training begins; `killed_at` counts the steps of writing files, of which
    the number of all and the last are put into `events`.
    """
    stay_with_one_commit()
    task = Waiting(folder / "metrics.csv", epochs) if waits else Regression()
    if killed_at is not None:
        count_writing(killed_at, events)
    if started:
        started.send("started")
    config = settings(epochs=epochs, **CHANGES)
    fit(task, config, folder.parent, name=folder.name, resume=True, cpu=True)
    if started:
        started.send("ended")


def count_writing(killed_at: int, events) -> None:
    """Kill this process at that step of writing files: with half a file written, before and after each renaming."""
    count = 0

    def step(kind: int) -> None:
        nonlocal count
        count += 1
        if count == killed_at:
            events.value = kind
            os.kill(os.getpid(), signal.SIGKILL)

    class Slow(Wrapped):
        def write(self, data):
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            step(1)
            self.file.write(data[len(data) // 2 :])

    plain_open, replace = Path.open, os.replace

    def slow_open(path, mode="r", **options):
        file = plain_open(path, mode, **options)
        return Slow(file) if path.suffix == ".tmp" else file

    def slow_replace(source, target):
        step(2)
        replace(source, target)
        step(3)

    Path.open, os.replace = slow_open, slow_replace
