import math

import numpy as np
import pytest

from deepknee.metrics import grading_metrics


def certain(grades: list[int]) -> np.ndarray:
    return np.eye(5)[grades]


def test_by_hand() -> None:
    truth = np.array([0, 0, 1, 2, 3, 4])
    found = grading_metrics(certain([0, 1, 1, 2, 3, 2]), truth)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert [found[f"recall_{k}"] for k in range(5)] == pytest.approx([0.5, 1, 1, 1, 0])
    assert found["balanced_accuracy"] == pytest.approx(3.5 / 5)
    assert found["mae"] == pytest.approx((1 + 2) / 6)
    assert found["auc_oa"] == 1.0


def test_kappa_by_its_definition() -> None:
    """1 - (observed / expected squared distance), the expected one over all pairs of truth and prediction."""
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 5, 40), rng.integers(0, 5, 40)
    observed = ((truth - predicted) ** 2).mean()
    expected = ((truth[:, None] - predicted[None]) ** 2).mean()
    assert grading_metrics(certain(list(predicted)), truth)["kappa"] == pytest.approx(1 - observed / expected)


def test_auc_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(1)
    chances, truth = rng.dirichlet(np.ones(5), 30), rng.integers(0, 5, 30)
    score = chances[:, 2:].sum(1)
    pairs = [(a > b) + 0.5 * (a == b) for a in score[truth >= 2] for b in score[truth < 2]]
    assert grading_metrics(chances, truth)["auc_oa"] == pytest.approx(np.mean(pairs))


def test_cross_entropy_of_chance_is_log_five() -> None:
    found = grading_metrics(np.full((3, 5), 0.2, np.float32), np.array([0, 2, 4]))
    assert found["cross_entropy"] == pytest.approx(math.log(5), abs=1e-6)


def test_grades_that_do_not_occur() -> None:
    found = grading_metrics(certain([0, 1, 1]), np.array([0, 1, 0]))
    assert math.isnan(found["recall_2"])
    assert math.isnan(found["auc_oa"])
    assert found["balanced_accuracy"] == pytest.approx((0.5 + 1) / 2)
    assert math.isfinite(found["kappa"])


def test_kappa_of_one_grade_throughout_is_zero() -> None:
    assert grading_metrics(certain([3, 3]), np.array([3, 3]))["kappa"] == 0.0
    assert grading_metrics(certain([3, 3]), np.array([2, 2]))["kappa"] == 0.0


def test_certain_and_wrong_is_finite() -> None:
    assert math.isfinite(grading_metrics(certain([0]), np.array([4]))["cross_entropy"])


@pytest.mark.parametrize(
    ("chances", "truth", "words"),
    [
        (np.zeros((0, 5)), [], "must be \\(N, 5\\)"),
        (np.full((2, 4), 0.25), [0, 1], "must be \\(N, 5\\)"),
        (np.full((1, 5), 0.2), [5], "grades hold \\[5\\]"),
        (np.full((1, 5), 0.3), [0], "sum to 1"),
        (np.full((1, 5), math.nan), [0], "sum to 1"),
    ],
)
def test_refusals(chances: np.ndarray, truth: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        grading_metrics(chances, np.array(truth, int))
