"""Pictures of a data set: read on several threads, and what their grey levels are."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kneel.engine.processes import progress

Item = TypeVar("Item")
Result = TypeVar("Result")
_THREADS = 8  # at most: each holds a decoded film


def read_all(
    read: Callable[[Item], list[Result]], items: Sequence[Item], title: str, refusal: type[Exception]
) -> tuple[list[Result], list[str]]:
    """
    Read every item on a few threads, with a progress bar: decoders and OpenCV leave Python's lock.

    Parameters
    ----------
    read
        From an item to all that is in it.
    items
        What to read.
    title
        Of the bar.
    refusal
        Raised by `read` for an item that cannot be used. Anything else is raised here too.

    Returns
    -------
    results
        In the order of the items.
    refusals
        What was said of those that cannot be used, in the same order.
    """

    def attempt(item: Item) -> list[Result] | Exception:
        try:
            return read(item)
        except refusal as error:
            return error

    results: list[Result] = []
    refusals: list[str] = []
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads:
        for found in progress(threads.map(attempt, items), title, len(items)):
            if isinstance(found, Exception):
                refusals.append(str(found))
            else:
                results += found
    return results, refusals


def grey_statistics(pictures: Iterable[NDArray[np.uint8]]) -> tuple[float, float]:
    """
    Mean and standard deviation of all pixels, on the [0, 1] scale.

    Parameters
    ----------
    pictures
        Of 8 bits and any sizes; at least one.

    Returns
    -------
    (float, float)
        Rounded to six digits.
    """
    counts = np.zeros(256)
    for picture in pictures:
        counts += np.bincount(picture.ravel(), minlength=256)
    grey = np.arange(256) / 255
    mean = np.average(grey, weights=counts)
    variance = np.average((grey - mean) ** 2, weights=counts)
    return round(float(mean), 6), round(float(np.sqrt(variance)), 6)
