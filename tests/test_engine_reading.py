"""Reading on several threads keeps order and says what failed; grey levels against numpy."""

import numpy as np
import pytest

from kneel.engine.reading import grey_statistics, read_all


def test_grey_statistics_are_numpys():
    pictures = [np.random.default_rng(i).integers(0, 256, (20, 30 + i)).astype(np.uint8) for i in range(3)]
    pixels = np.concatenate([picture.ravel() for picture in pictures]) / 255
    expected = pytest.approx(pixels.mean(), abs=1e-6), pytest.approx(pixels.std(), abs=1e-6)
    assert grey_statistics(picture for picture in pictures) == expected


def test_what_is_read_comes_in_order_and_what_is_refused_beside_it():
    def read(number):
        if number % 10 == 3:
            raise FileNotFoundError(f"no {number}")
        return [number] * (number % 3)

    results, refusals = read_all(read, range(40), "numbers", FileNotFoundError)
    assert results == [number for number in range(40) if number % 10 != 3 for _ in range(number % 3)]
    assert refusals == ["no 3", "no 13", "no 23", "no 33"]
    assert read_all(read, [], "nothing", FileNotFoundError) == ([], [])


def test_what_is_no_refusal_is_raised():
    with pytest.raises(ZeroDivisionError):
        read_all(lambda number: [1 // number], [2, 1, 0], "numbers", FileNotFoundError)
