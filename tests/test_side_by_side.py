"""Calls answered at once, each on its share of the threads."""

import threading

import pytest
import torch

from kneel.engine.cpu import cpu_threads
from kneel.engine.side_by_side import side_by_side


@pytest.mark.parametrize(("threads", "calls", "share"), [(2, 3, 1), (4, 2, 2), (4, 1, 4), (1, 3, 1)])
def test_every_call_has_its_share_of_the_threads(threads, calls, share):
    with cpu_threads(threads):
        seen = side_by_side([lambda number=number: (number, torch.get_num_threads()) for number in range(calls)])
        assert seen == [(number, share) for number in range(calls)]
        assert torch.get_num_threads() == threads


def test_as_many_run_at_once_as_there_are_threads():
    """Each waits for the other: one after another they would wait for ever."""
    both = threading.Barrier(2, timeout=60)
    with cpu_threads(2):
        assert sorted(side_by_side([both.wait] * 4)) == [0, 0, 1, 1]


@pytest.mark.parametrize("threads", [1, 2])
def test_no_gradients_are_kept(threads):
    weight = torch.ones(1, requires_grad=True)
    with cpu_threads(threads):
        assert not any(answer.requires_grad for answer in side_by_side([lambda: weight * 2] * 2))
    assert (weight * 2).requires_grad


@pytest.mark.parametrize("threads", [1, 2])
def test_what_a_call_raises_comes_out_and_the_threads_are_put_back(threads):
    with cpu_threads(threads):
        with pytest.raises(KeyError, match="second"):
            side_by_side([lambda: 1, lambda: {}["second"]])
        assert torch.get_num_threads() == threads
