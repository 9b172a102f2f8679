"""Calls of several threads are answered together, each with its own answer."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from kneel.engine.gather import Gather

LIMIT_S = 30


class Slow:
    """Doubles numbers; the first call waits until the others stand in the queue."""

    def __init__(self, others: int) -> None:
        self.calls: list[list[int]] = []
        self.go = threading.Event()
        self.running = threading.Event()
        self.others = others

    def __call__(self, items):
        self.calls.append(items)
        self.running.set()
        assert self.go.wait(LIMIT_S)
        if 13 in items:
            raise ValueError("13 is no number")
        return [2 * item for item in items]


def ask(slow, most, questions):
    """The first question alone, then the rest while it is being answered."""
    gather = Gather(slow, kind=lambda number: number % 2, most=most)
    with ThreadPoolExecutor(len(questions)) as pool:
        futures = [pool.submit(gather, questions[0])]
        assert slow.running.wait(LIMIT_S)
        futures += [pool.submit(gather, question) for question in questions[1:]]
        while len(gather._waiting) < len(questions) - 1:
            threading.Event().wait(0.001)
        slow.go.set()
        return [future.exception(LIMIT_S) or future.result() for future in futures]


def test_whoever_waits_goes_along_and_gets_his_own():
    slow = Slow(3)
    assert ask(slow, 8, [[2], [4, 6], [8], [10]]) == [[4], [8, 12], [16], [20]]
    assert slow.calls[0] == [2]
    assert len(slow.calls) == 2
    assert sorted(slow.calls[1]) == [4, 6, 8, 10]


def test_no_more_than_allowed_and_only_of_one_kind():
    slow = Slow(4)
    assert ask(slow, 2, [[2], [4], [1], [6], [8]]) == [[4], [8], [2], [12], [16]]
    assert max(map(len, slow.calls)) == 2
    assert all(len({number % 2 for number in call}) == 1 for call in slow.calls)
    assert len(slow.calls) == 4  # 2; two of 4, 6, 8; the third; 1


def test_one_gathers_nothing_and_mixed_calls_stand_alone():
    slow = Slow(2)
    assert ask(slow, 1, [[2], [4], [6]]) == [[4], [8], [12]]
    assert len(slow.calls) == 3
    slow = Slow(2)
    assert ask(slow, 8, [[2], [4, 5], [6]]) == [[4], [8, 10], [12]]
    assert [4, 5] in slow.calls


def test_the_fault_of_one_is_not_that_of_the_others():
    slow = Slow(2)
    first, good, bad = ask(slow, 8, [[3], [5], [13]])
    assert (first, good) == ([6], [10])
    assert isinstance(bad, ValueError)


def test_nothing_is_asked_of_nothing():
    assert Gather(lambda items: items, kind=lambda _: None, most=4)([]) == []


def test_functions_with_one_turn_never_run_at_once():
    turn, inside = threading.Lock(), []

    def run(items):
        inside.append(1)
        assert len(inside) == 1
        inside.pop()
        return items

    gathers = [Gather(run, kind=lambda _: None, most=4, turn=turn) for _ in range(2)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda n: gathers[n % 2]([n]), range(200))) == [[n] for n in range(200)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_what_is_raised_reaches_the_caller(error):
    def broken(items):
        raise error

    with pytest.raises(error):
        Gather(broken, kind=lambda _: None, most=1)([1])
