"""A stand-in for the networks on the nodes of a cluster, which tests can hold up; worker processes import it."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path

from oracle import FakeReader
from queue_tools import until


class HeldReader(FakeReader):
    """Writes down every film that it begins, and waits where it is told to.

    Parameters
    ----------
    notes
        Folder of ``begun``; of ``wait``, films that wait for ``go``; of ``victim``, a node whose first film lasts for
        ever, and for which all others wait until it has written ``held``.
    """

    def __init__(self, notes: Path) -> None:
        super().__init__()
        self.notes = notes

    def read(self, source, *, spacing_mm=None, frame=None):
        import ray

        node = ray.get_runtime_context().get_node_id()
        with (self.notes / "begun").open("a") as file:
            file.write(f"{Path(source).name} {node}\n")
        victim = self.notes / "victim"
        if victim.exists():
            if victim.read_text() == node:
                (self.notes / "held").touch()
                threading.Event().wait()
            until((self.notes / "held").exists, 120)
        waiting = self.notes / "wait"
        if waiting.exists() and Path(source).name in waiting.read_text().split():
            until((self.notes / "go").exists, 120)
        return super().read(source, spacing_mm=spacing_mm, frame=frame)


def held_reader(notes: Path) -> partial[HeldReader]:
    """What makes one, for another process."""
    return partial(HeldReader, notes)


def begun(notes: Path) -> list[list[str]]:
    """Name and node of every film that was begun, in order."""
    path = notes / "begun"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []
