import math

import pytest
import torch

from deepknee.labels import soft_labels


def test_no_spread_is_one_hot():
    assert soft_labels(torch.tensor([0, 3]), 0).tolist() == [[1, 0, 0, 0, 0], [0, 0, 0, 1, 0]]


def test_by_hand():
    """Spread 0.5: a neighbour has exp(-2) of the true grade's weight, the next but one exp(-8)."""
    near, far = math.exp(-2), math.exp(-8)
    total = 1 + 2 * near + 2 * far
    expected = [far / total, near / total, 1 / total, near / total, far / total]
    assert soft_labels(torch.tensor([2]), 0.5)[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("spread", [0.01, 0.4, 3.0])
def test_rows_sum_to_one_and_fall_away_from_the_true_grade(spread):
    grades = torch.arange(5)
    labels = soft_labels(grades, spread)
    assert torch.allclose(labels.sum(1), torch.ones(5))
    assert (labels.argmax(1) == grades).all()
    assert (labels[0].diff() <= 0).all()
    assert torch.allclose(labels, labels.flip(0, 1))
