"""Films that are there more than once: by their landmarks, whatever their names."""

import numpy as np

from deepknee.repeats import FLAG, fingerprint, mark_repeated, repeated

POINTS = np.random.default_rng(1).uniform(0, 2000, (16, 2))


def test_a_hundredth_of_a_pixel_makes_another_film():
    same, other = POINTS + 0.0004, POINTS.copy()
    other[15, 1] += 0.02
    assert fingerprint(POINTS.ravel()) == fingerprint(np.round(same.ravel(), 2))
    assert fingerprint(POINTS.ravel()) != fingerprint(other.ravel())
    assert fingerprint(POINTS.ravel()) != fingerprint(POINTS[::-1].ravel())


def test_every_film_of_a_picture_is_named_and_no_other():
    assert repeated({"a": 1, "b": 2, "c": 1, "d": 3, "e": 1}) == {"a", "c", "e"}
    assert repeated({}) == set()


def test_all_knees_of_repeated_films_are_marked_after_their_own_flags():
    shift = {"one": 0.0, "two": 5.0, "copy of one": 0.0}
    records = [
        {"file": file, "landmarks": (POINTS + by + (side == "L")).tolist(), "flags": ["dark_bone"] * (side == "L")}
        for file, by in shift.items()
        for side in "RL"
    ]
    assert mark_repeated(records) == 2
    flags = [record["flags"] for record in records]
    assert flags == [[FLAG], ["dark_bone", FLAG], [], ["dark_bone"], [FLAG], ["dark_bone", FLAG]]
