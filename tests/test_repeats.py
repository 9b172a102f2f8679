"""Films that are there more than once: by their landmarks, whatever their names."""

import numpy as np
import pytest

from deepknee.repeats import FLAG, TOLERANCE_PX, mark_repeated, outline, repeated


def films(shapes):
    return {str(number): outline(shape.ravel()) for number, shape in enumerate(shapes)}


@pytest.mark.parametrize("seed", range(20))
def test_against_every_pair(seed):
    """Films in clusters of all widths around the tolerance, in any order; some differ in one late coordinate only."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 300, (12, 16, 2))
    shapes = places[rng.integers(0, 12, 60)] + rng.uniform(-0.08, 0.08, (60, 1, 2)) * rng.integers(0, 2, (60, 1, 1))
    shapes[::7, 15, 1] += 0.5
    shapes[::3, :, 0] = 100 + 0.01 * np.arange(16)
    ours = films(shapes)
    expected = {
        one for one in ours for other in ours if one != other and np.abs(ours[one] - ours[other]).max() <= TOLERANCE_PX
    }
    assert 0 < len(expected) < 60
    assert repeated(ours) == expected


def test_rounding_never_parts_two_readings_of_one_film():
    shapes = np.random.default_rng(0).uniform(0, 2000, (500, 16, 2))
    again = shapes + np.random.default_rng(1).uniform(-0.001, 0.001, shapes.shape)
    assert len(repeated(films([*shapes, *again]))) == 1000
    assert repeated(films(shapes)) == repeated({}) == set()


def test_many_copies_of_one_film_take_no_time_of_their_own():
    assert len(repeated(films(np.ones((20_000, 16, 2))))) == 20_000


def test_all_knees_of_repeated_films_are_marked_after_their_own_flags():
    points = np.random.default_rng(1).uniform(0, 2000, (16, 2))
    shift = {"one": 0.0, "two": 5.0, "copy of one": 0.0}
    records = [
        {"file": file, "landmarks": (points + by + (side == "L")).tolist(), "flags": ["dark_bone"] * (side == "L")}
        for file, by in shift.items()
        for side in "RL"
    ]
    assert mark_repeated(records) == 2
    flags = [record["flags"] for record in records]
    assert flags == [[FLAG], ["dark_bone", FLAG], [], ["dark_bone"], [FLAG], ["dark_bone", FLAG]]
