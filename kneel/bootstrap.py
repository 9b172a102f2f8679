"""Intervals by bootstrap over subjects: both knees of a subject are drawn together, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
EPOCH_RESAMPLES = 500  # where intervals are taken in every epoch: enough to see, not to print
Values = NDArray[np.float64]


class SubjectBootstrap:
    """Resamples of a set of knees, drawn by subject with replacement; each has as many subjects as the set.

    Parameters
    ----------
    subjects : sequence, length N
        Subject of each knee; at least one.
    resamples : int
        Number of resamples, R.
    seed : int
        Decides all of them; sets with the same subjects in the same order get the same resamples.

    Raises
    ------
    ValueError
        No knee.

    Examples
    --------
    >>> bootstrap = SubjectBootstrap(["a", "a", "b"], resamples=1000)
    >>> value, resampled = bootstrap.means([1.0, 1.0, 4.0])
    >>> float(value), [float(end) for end in interval(resampled)]
    (2.0, [1.0, 4.0])
    """

    def __init__(self, subjects: Sequence[Hashable], *, resamples: int = RESAMPLES, seed: int = 0) -> None:
        if not len(subjects):
            raise ValueError("no knee to resample")
        numbers = {subject: number for number, subject in enumerate(dict.fromkeys(subjects))}
        self._subject = np.array([numbers[subject] for subject in subjects])
        self._count = len(numbers)
        self._draws = np.random.default_rng(seed).integers(self._count, size=(resamples, self._count))

    @cached_property
    def _weights(self) -> Values:
        """How often each subject is in each resample, (R, S)."""
        resamples, count = self._draws.shape
        flat = self._draws + count * np.arange(resamples)[:, None]
        return np.bincount(flat.ravel(), minlength=resamples * count).reshape(resamples, count).astype(float)

    def means(self, values: ArrayLike) -> tuple[Values, Values]:
        """Average over the knees, and over those of every resample.

        Parameters
        ----------
        values : array_like, shape (N, ...)
            One or several numbers a knee; NaN is a knee without one.

        Returns
        -------
        mean : ndarray, shape (...)
            NaN where no knee has a number.
        resampled : ndarray, shape (R, ...)
            NaN where no knee of the resample has one.
        """
        numbers = np.asarray(values, float)
        there = np.isfinite(numbers)
        flat = np.where(there, numbers, 0.0).reshape(len(numbers), -1)
        total, count = self._by_subject(flat), self._by_subject(there.reshape(flat.shape).astype(float))
        shape = numbers.shape[1:]
        mean = _ratio(total.sum(0), count.sum(0)).reshape(shape)
        return mean, _ratio(self._weights @ total, self._weights @ count).reshape(-1, *shape)

    def medians(self, values: ArrayLike) -> Values:
        """Take the median of all numbers of the knees of every resample.

        Parameters
        ----------
        values : array_like, shape (N, M)
            M numbers a knee, finite.

        Returns
        -------
        ndarray, shape (R,)
            The middle one, or the mean of the two middle ones.
        """
        numbers = np.asarray(values, float)
        order = np.argsort(numbers, axis=None, kind="stable")
        ranked, subject = numbers.ravel()[order], self._subject[order // numbers.shape[1]]
        medians = np.empty(len(self._weights))
        for number, weights in enumerate(self._weights.astype(np.int32)):
            reached = np.cumsum(weights[subject])  # how many numbers of the resample are this small
            middle = (reached[-1] - 1) // 2, reached[-1] // 2
            medians[number] = ranked[np.searchsorted(reached, middle, side="right")].mean()
        return medians

    @cached_property
    def sizes(self) -> Values:
        """Number of knees of every resample, shape (R,)."""
        return self._weights @ np.bincount(self._subject).astype(float)

    def statistic(self, function: Callable[[NDArray[np.intp]], ArrayLike]) -> Values:
        """Work out any figures on every resample, one by one.

        Parameters
        ----------
        function : callable
            Takes the numbers of the knees of a resample, each as often as it was drawn; answers with one figure or
            an array of them.

        Returns
        -------
        ndarray, shape (R, ...)
            Its answers.
        """
        rows = [np.flatnonzero(self._subject == number) for number in range(self._count)]
        return np.array([function(np.concatenate([rows[number] for number in draw])) for draw in self._draws], float)

    def _by_subject(self, values: Values) -> Values:
        totals = np.zeros((self._count, values.shape[1]))
        np.add.at(totals, self._subject, values)
        return totals


def interval(resampled: ArrayLike, level: float = 0.95) -> tuple[Values, Values]:
    """Cut the percentile interval out of resampled figures.

    Parameters
    ----------
    resampled : array_like, shape (R, ...)
        From `SubjectBootstrap`; NaN is left out.
    level : float
        Share of the resamples inside.

    Returns
    -------
    low, high : ndarray, shape (...)
        NaN where no resample has a number.
    """
    samples = np.asarray(resampled, float)
    some = np.isfinite(samples).any(axis=0)
    ends = np.nanquantile(np.where(some, samples, 0.0), [(1 - level) / 2, (1 + level) / 2], axis=0)
    low, high = np.where(some, ends, np.nan)
    return low, high


def ends(resampled: ArrayLike) -> tuple[float, float]:
    """Cut the 95 % interval out of one resampled figure, shape (R,); see `interval`."""
    low, high = interval(resampled)
    return float(low), float(high)


def mean_intervals(knees: Mapping[str, ArrayLike], bootstrap: SubjectBootstrap) -> dict[str, tuple[float, float]]:
    """Say between which numbers means over knees lie.

    Parameters
    ----------
    knees : mapping of str to array_like, shape (N,)
        By name, a number a knee.
    bootstrap : SubjectBootstrap
        Of these knees.

    Returns
    -------
    dict of str to (float, float)
        95 % interval by the same names.
    """
    _, resampled = bootstrap.means(np.stack([np.asarray(values, float) for values in knees.values()], axis=1))
    return {name: ends(samples) for name, samples in zip(knees, resampled.T, strict=True)}


def _ratio(total: Values, count: Values) -> Values:
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
