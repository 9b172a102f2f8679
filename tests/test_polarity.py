"""Films with dark bone are found, righted before they are read, and flagged."""

from dataclasses import replace

import numpy as np
import pytest
from oracle import FakeGrader, FakeLocalizer, place_knee

from deepknee.pipeline import read_knees
from kneel.imaging.polarity import has_dark_bone, inverted, knees_are_dark
from kneel.imaging.radiograph import Radiograph


def leg(dtype: type = np.uint8, **more) -> Radiograph:
    """Bright bone around x = 200 between darker soft tissue, black air at the far left."""
    top = np.iinfo(dtype).max
    picture = np.full((300, 400), 0.3)
    picture[:, 140:260] = 0.8
    picture[:, :40] = 0.02
    picture += np.random.default_rng(0).normal(0, 0.01, picture.shape)
    return Radiograph((picture * top).astype(dtype), spacing_mm=(0.5, 0.5), spacing_kind="given", **more)


KNEE = place_knee("R", (200.0, 150.0), (0.5, 0.5))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_negative_reads_as_its_positive_does(dtype):
    film = leg(dtype)
    (plain,) = read_knees(film, FakeLocalizer([KNEE]), FakeGrader()).knees
    (negative,) = read_knees(inverted(film), FakeLocalizer([KNEE]), FakeGrader()).knees
    assert plain.flags == ()
    assert negative.flags == ("dark_bone",)
    np.testing.assert_array_equal(negative.roi, plain.roi)
    np.testing.assert_array_equal(negative.probabilities, plain.probabilities)


def test_the_knees_of_the_righted_film_are_read():
    """The search is repeated on the righted film; where that finds nothing, the first answer stays."""
    moved = replace(KNEE, landmarks=KNEE.landmarks + 1)

    class Twice:
        def __init__(self, *answers):
            self.answers, self.films = list(answers), []

        def locate(self, radiograph, film):
            self.films.append(radiograph.pixels)
            return self.answers.pop(0)

    for second, expected in [([moved], moved), ([], KNEE)]:
        localizer = Twice([KNEE], second)
        (found,) = read_knees(inverted(leg()), localizer, FakeGrader()).knees
        np.testing.assert_array_equal(found.landmarks, expected.landmarks)
        assert found.flags == ("dark_bone",)
        np.testing.assert_array_equal(localizer.films[1], leg().pixels)


@pytest.mark.parametrize("share", [0.7, 0.8, 0.9])
def test_a_white_page_around_a_crop_is_no_dark_bone(share):
    roi = leg().pixels[50:250, 100:300].copy()
    cut = int(100 * (1 - share))
    roi[:, :cut] = roi[:, 200 - cut :] = 255
    assert not has_dark_bone(roi)
    dark = 255 - leg().pixels[50:250, 100:300]
    dark[:, :cut] = dark[:, 200 - cut :] = 255  # as white as the air of a negative
    assert has_dark_bone(dark)


def test_padding_stays_zero():
    padding = np.zeros((300, 400), bool)
    padding[:10] = True
    pixels = leg().pixels.copy()
    pixels[padding] = 0
    film = inverted(Radiograph(pixels, padding=padding))
    assert not film.pixels[:10].any()
    np.testing.assert_array_equal(film.pixels[10:], 255 - pixels[10:])


def test_every_knee_must_be_dark_and_one_must_be_there():
    half = np.hstack([leg().pixels, 255 - leg().pixels])
    other = KNEE.landmarks + (400, 0)
    assert not knees_are_dark(half, [KNEE.landmarks])
    assert knees_are_dark(half, [other])
    assert not knees_are_dark(half, [KNEE.landmarks, other])
    assert not knees_are_dark(half, [])
    assert not knees_are_dark(half, [KNEE.landmarks - (10_000, 0)])  # no pixel of it is on the film
