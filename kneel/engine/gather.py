"""Calls of several threads, gathered into one: what networks want of films that are read at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Gather(Generic[Item, Answer]):
    """A function of a list that several threads call, one at a time; whoever waits meanwhile goes along with the next.

    No thread and no clock of its own: the first caller runs the function at once, on its own items. While it runs,
    other calls pile up; the first of them to come in takes along the rest. So nobody waits for company, and a busy
    network gets large batches.

    Parameters
    ----------
    function : callable
        From a list of items to a list of as many answers; each answer depends on its own item alone.
    kind : callable
        What items must have in common to be answered together, such as the shape of a picture.
    most : int
        Items at a time; a single call with more is answered by itself. 1 gathers nothing, but calls still come one
        after another.
    turn : threading.Lock, optional
        Shared by all functions that must not run at the same time.
    """

    def __init__(
        self,
        function: Callable[[list[Item]], list[Answer]],
        kind: Callable[[Item], Hashable],
        most: int,
        turn: threading.Lock | None = None,
    ) -> None:
        self._function, self._kind, self._most = function, kind, most
        self._turn = threading.Lock() if turn is None else turn
        self._guard = threading.Lock()
        self._waiting: list[_Call[Item, Answer]] = []

    def __call__(self, items: Sequence[Item]) -> list[Answer]:
        """Answer some items; raises what the function raises of them by themselves."""
        mine = _Call[Item, Answer](list(items), {self._kind(item) for item in items})
        with self._guard:
            self._waiting.append(mine)
        with self._turn:
            if not mine.done:
                self._run(self._company(mine))
        if mine.error is not None:
            raise mine.error
        return mine.answers

    def _company(self, mine: _Call[Item, Answer]) -> list[_Call[Item, Answer]]:
        """Take `mine` and whoever fits along with it off the list of those that wait."""
        with self._guard:
            self._waiting.remove(mine)
            taken, room = [mine], self._most - len(mine.items)
            for other in list(self._waiting):
                if len(mine.kinds) == 1 and other.kinds == mine.kinds and len(other.items) <= room:
                    self._waiting.remove(other)
                    taken.append(other)
                    room -= len(other.items)
        return taken

    def _run(self, calls: list[_Call[Item, Answer]]) -> None:
        try:
            answers = iter(self._function([item for call in calls for item in call.items]))
            for call in calls:
                call.answers = [next(answers) for _ in call.items]
        except BaseException as error:
            if len(calls) > 1 and isinstance(error, Exception):  # one film's fault must not become that of the others
                for call in calls:
                    self._run([call])
                return
            for call in calls:
                call.error = error
        for call in calls:
            call.done = True


class _Call(Generic[Item, Answer]):
    def __init__(self, items: list[Item], kinds: set[Hashable]) -> None:
        self.items, self.kinds = items, kinds
        self.answers: list[Answer] = []
        self.error: BaseException | None = None
        self.done = False
