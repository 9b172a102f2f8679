"""Conformal sets against the rule written out, hand values, limits, and coverage counted on drawn knees."""

import numpy as np
import pytest
from pydantic import ValidationError

from deepknee.conformal import Conformal, fit_threshold, scores


def random_probabilities(count: int, seed: int, sharpness: float = 0.5) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(5, sharpness), count)


def grown(chances: np.ndarray, threshold: float) -> list[int]:
    """Grow one set as the rule says, with lists and words instead of arrays."""
    inside = [int(np.argmax(chances))]
    while sum(chances[k] for k in inside) <= threshold and len(inside) < len(chances):
        neighbours = [k for k in (inside[0] - 1, inside[-1] + 1) if 0 <= k < len(chances)]
        inside = sorted([*inside, max(neighbours, key=lambda k: chances[k])])
    return inside


def test_scores_by_hand() -> None:
    found = scores(np.array([[0.1, 0.6, 0.25, 0.05, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0], [0.2, 0.2, 0.2, 0.2, 0.2]]))
    np.testing.assert_allclose(found[0], [0.85, 0, 0.6, 0.95, 1])
    np.testing.assert_allclose(found[1], [1, 1, 1, 1, 0])
    np.testing.assert_allclose(found[2], [0, 0.2, 0.4, 0.6, 0.8])


def test_of_two_equal_neighbours_the_lower_joins_first() -> None:
    np.testing.assert_allclose(scores(np.array([[0.0, 0.25, 0.5, 0.25, 0.0]]))[0], [1, 0.5, 0, 0.75, 1])


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.62, 0.9, 0.999])
def test_sets_are_those_of_the_rule(threshold: float) -> None:
    chances = random_probabilities(300, seed=1)
    sets = Conformal(threshold=threshold, networks=1).sets(chances)
    assert [np.flatnonzero(row).tolist() for row in sets] == [grown(row, threshold) for row in chances]


def test_sets_are_runs_of_neighbours_that_hold_the_likeliest_and_grow_with_the_threshold() -> None:
    chances = random_probabilities(200, seed=2, sharpness=0.2)
    before = np.zeros(chances.shape, bool)
    for threshold in np.linspace(0, 1, 21):
        sets = Conformal(threshold=threshold, networks=1).sets(chances)
        assert sets[np.arange(200), chances.argmax(1)].all()
        assert (np.abs(np.diff(np.pad(sets.astype(int), ((0, 0), (1, 1))), axis=1)).sum(1) == 2).all()
        assert (sets | before == sets).all()
        before = sets
    assert before.all()  # a threshold of 1 takes every grade


def test_threshold_is_the_ranked_score() -> None:
    """Nine knees whose true grades score 0, .1 ... .8: of 10 places, coverage .8 is the eighth, .9 the ninth."""
    chances = np.array([[1 - 0.1 * k, 0.1 * k, 0, 0, 0] for k in range(1, 5)])
    grades = np.array([1, 1, 1, 1])  # the second grade joins when .9, .8, .7, .6 are gathered
    assert fit_threshold(chances, grades, 0.2) == pytest.approx(0.6)
    assert fit_threshold(chances, grades, 0.4) == pytest.approx(0.7)
    assert fit_threshold(chances, grades, 0.8) == pytest.approx(0.9)
    assert fit_threshold(chances, grades, 0.81) == 1.0  # five places, four knees: only all grades will do


def test_coverage_on_knees_drawn_from_the_probabilities() -> None:
    """Over many draws of 100 knees to fit on, mean coverage of others is at least 90 % and, as scores tie only at 0,
    hardly more than 90 % + 1 / 101.
    """
    rng = np.random.default_rng(3)
    pool = random_probabilities(20000, seed=4, sharpness=1.0)
    truth = (rng.random((len(pool), 1)) > pool.cumsum(1)).sum(1)
    order = rng.permutation(len(pool)).reshape(100, 200)
    covered = []
    for draw in order:
        fit, new = draw[:100], draw[100:]
        sets = Conformal(threshold=fit_threshold(pool[fit], truth[fit]), networks=1).sets(pool[new])
        covered.append(sets[np.arange(100), truth[new]].mean())
    assert 0.9 - 0.01 < np.mean(covered) < 0.91 + 0.01


def test_coverage_holds_for_a_bad_model_too() -> None:
    """Probabilities that have nothing to do with the truth: sets become large, the coverage stays."""
    rng = np.random.default_rng(5)
    pool, truth = random_probabilities(4000, seed=6), rng.integers(0, 5, 4000)
    sets = Conformal(threshold=fit_threshold(pool[:2000], truth[:2000]), networks=1).sets(pool[2000:])
    assert sets[np.arange(2000), truth[2000:]].mean() == pytest.approx(0.9, abs=0.03)
    assert sets.sum(1).mean() > 3


def test_abstains_from_sets_larger_than_the_largest() -> None:
    sets = np.array([[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 1, 0]], bool)
    assert Conformal(threshold=0.5, networks=1).abstain(sets).tolist() == [False, False, True]
    assert Conformal(threshold=0.5, networks=1, largest=3).abstain(sets).tolist() == [False, False, False]


def test_no_knee_and_odd_numbers() -> None:
    assert Conformal(threshold=0.5, networks=1).sets(np.zeros((0, 5))).shape == (0, 5)
    with pytest.raises(ValueError, match="no knee"):
        fit_threshold(np.zeros((0, 5)), np.zeros(0, int))
    with pytest.raises(ValueError, match="coverage is 90"):
        fit_threshold(np.full((1, 5), 0.2), np.array([0]), 90)
    with pytest.raises(ValidationError):
        Conformal(threshold=1.5, networks=1)
