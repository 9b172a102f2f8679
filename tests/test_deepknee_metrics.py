import math

import numpy as np
import pytest

from deepknee.metrics import calibration_bins, calibration_error, evaluation_metrics, grading_metrics


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


def test_evaluation_by_hand() -> None:
    found = evaluation_metrics(certain([0, 1, 1, 2, 3, 2]), np.array([0, 0, 1, 2, 3, 4]))
    assert found["mse"] == pytest.approx((1 + 4) / 6)
    assert [found[f"f1_{k}"] for k in range(5)] == pytest.approx([2 / 3, 2 / 3, 2 / 3, 1, 0])
    assert found["ap_oa"] == 1.0
    assert found["ece"] == pytest.approx(2 / 6)  # always certain, wrong twice
    few = evaluation_metrics(certain([0, 1, 1]), np.array([0, 1, 0]))
    assert all(math.isnan(few[name]) for name in ("f1_2", "f1_3", "f1_4", "ap_oa"))


def test_average_precision_is_the_mean_precision_at_each_diseased_knee() -> None:
    rng = np.random.default_rng(2)
    chances, truth = rng.dirichlet(np.ones(5), 50), rng.integers(0, 5, 50)
    ranked = truth[np.argsort(-chances[:, 2:].sum(1))] >= 2
    precision = [ranked[: place + 1].mean() for place in np.flatnonzero(ranked)]
    assert evaluation_metrics(chances, truth)["ap_oa"] == pytest.approx(np.mean(precision))


def test_calibration_error_by_a_loop_over_the_bins() -> None:
    rng = np.random.default_rng(3)
    chances, truth = rng.dirichlet(np.full(5, 0.4), 400), rng.integers(0, 5, 400)
    confidence, right = chances.max(1), chances.argmax(1) == truth
    expected = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert calibration_error(chances, truth) == pytest.approx(expected)
    assert evaluation_metrics(chances, truth)["ece"] == pytest.approx(expected)


def test_bins_are_closed_on_the_right() -> None:
    chances = np.array([[0.6, 0.4, 0, 0, 0], [0.61, 0.39, 0, 0, 0], [1, 0, 0, 0, 0], [0.2, 0.2, 0.2, 0.2, 0.2]])
    count, confidence, right = calibration_bins(chances, np.array([0, 1, 0, 0]), bins=5)
    assert count.tolist() == [1, 0, 1, 1, 1]
    assert confidence == pytest.approx([0.2, 0, 0.6, 0.61, 1])
    assert right.tolist() == [1, 0, 1, 0, 1]


def test_calibration_error_of_a_calibrated_grader_is_small_and_of_an_overconfident_one_is_the_gap() -> None:
    rng = np.random.default_rng(4)
    chances = rng.dirichlet(np.ones(5), 20000)
    truth = (rng.random((len(chances), 1)) > chances.cumsum(1)).sum(1)
    assert calibration_error(chances, truth) < 0.01
    same = np.tile([0.9, 0.1, 0, 0, 0], (10, 1))
    assert calibration_error(same, np.array([0] * 5 + [1] * 5)) == pytest.approx(0.4)


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
