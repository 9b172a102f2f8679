import numpy as np
import pytest

from kneel.shape import MeanShape, align

RNG = np.random.default_rng(0)
KNEE = RNG.uniform(-40, 40, (16, 2))


def moved(points, scale=1.0, degrees=0.0, shift=(0.0, 0.0)):
    a = np.deg2rad(degrees)
    return scale * points @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) + shift


def test_similarity_is_undone_whole():
    alignment = align(moved(KNEE, 3.5, 25, (100, -7)), KNEE)
    assert alignment.scale == pytest.approx(3.5)
    assert alignment.residual == pytest.approx(0, abs=1e-9)


def test_residual_is_in_the_unit_of_the_reference():
    noise = RNG.normal(size=(16, 2))
    small, large = align(KNEE + noise, KNEE), align(10 * (KNEE + noise), KNEE)
    assert large.residual == pytest.approx(small.residual)


def test_residual_is_the_least_of_all_rotations_and_scales():
    points = moved(KNEE + RNG.normal(size=(16, 2)), 1.2, 12)
    found = align(points, KNEE)
    centred = points - points.mean(0)
    reference = KNEE - KNEE.mean(0)
    tries = [
        np.sqrt(((centred - moved(reference, scale, degrees)) ** 2).sum(1).mean())
        for scale in np.arange(1.0, 1.4, 0.01)
        for degrees in np.arange(0, 24, 0.5)
    ]
    assert found.residual * found.scale <= min(tries)
    assert found.residual * found.scale == pytest.approx(min(tries), rel=0.01)


def test_a_mirror_image_is_not_a_knee():
    assert align(KNEE * (-1, 1), KNEE).residual > 10


def test_points_in_one_place_have_no_size():
    alignment = align(np.ones((16, 2)), KNEE)
    assert alignment.scale == 0
    assert alignment.residual == pytest.approx(np.sqrt(((KNEE - KNEE.mean(0)) ** 2).sum(1).mean()))


def test_mean_shape_of_one_knee_is_that_knee_about_its_centre():
    shape = MeanShape.of([KNEE])
    np.testing.assert_allclose(shape.points, KNEE - KNEE[4])
    assert shape.residual == pytest.approx(0, abs=1e-9)
