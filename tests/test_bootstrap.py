"""The bootstrap over subjects against loops, and at its limits."""

import numpy as np
import pytest

from kneel.bootstrap import SubjectBootstrap, interval

SUBJECTS = ["a", "b", "a", "c", "d", "e", "e", "f"]


def test_means_are_those_of_a_loop_over_the_resamples():
    values = np.random.default_rng(1).normal(size=(8, 3))
    values[2, 1] = values[3, 1] = np.nan
    bootstrap = SubjectBootstrap(SUBJECTS, resamples=50, seed=7)
    mean, resampled = bootstrap.means(values)
    np.testing.assert_allclose(mean, np.nanmean(values, axis=0))
    for column in range(3):
        looped = bootstrap.statistic(lambda rows, column=column: np.nanmean(values[rows, column]))
        np.testing.assert_allclose(resampled[:, column], looped)
    np.testing.assert_array_equal(bootstrap.sizes, bootstrap.statistic(len))


def test_knees_of_a_subject_are_drawn_together():
    bootstrap = SubjectBootstrap(SUBJECTS, resamples=50)

    def check(rows):
        times = np.bincount(rows, minlength=8)
        assert times[0] == times[2]
        assert times[5] == times[6]
        assert sum(times[[0, 1, 3, 4, 5, 7]]) == 6  # as many subjects as there are
        return times[0]

    assert set(bootstrap.statistic(check)) >= {0, 1, 2}


def test_the_seed_decides():
    values = np.arange(8.0)
    first, again, other = (SubjectBootstrap(SUBJECTS, seed=seed).means(values)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_one_subject_or_equal_knees_have_an_interval_of_no_width():
    _, one = SubjectBootstrap(["a", "a"]).means([1.0, 3.0])
    assert interval(one) == (2.0, 2.0)
    _, equal = SubjectBootstrap(SUBJECTS).means(np.full(8, 5.0))
    assert interval(equal) == (5.0, 5.0)


def test_the_interval_of_many_independent_knees_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(size=2000)
    mean, resampled = SubjectBootstrap(range(2000)).means(values)
    low, high = interval(resampled)
    half = 1.96 * values.std() / np.sqrt(2000)
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.1 * half)


def test_what_nobody_has_is_nan_without_a_warning():
    values = np.array([[1.0, np.nan]] * 8)
    mean, resampled = SubjectBootstrap(SUBJECTS, resamples=20).means(values)
    low, high = interval(resampled)
    np.testing.assert_array_equal(mean, [1.0, np.nan])
    np.testing.assert_array_equal((low, high), [[1.0, np.nan]] * 2)


def test_no_knee_is_refused():
    with pytest.raises(ValueError, match="no knee"):
        SubjectBootstrap([])
