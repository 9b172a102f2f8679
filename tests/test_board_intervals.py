"""Intervals and pictures that the two packages give to a board."""

import numpy as np
import pytest
import torch

from deepknee.intensity import Intensity
from deepknee.model import KneeNet
from deepknee.patches import PatchGeometry
from deepknee.sketch import lay_over, sketch_attention
from deepknee.views import Compartments
from kneel.bootstrap import SubjectBootstrap, ends, mean_intervals
from kneel.metrics import error_intervals, error_summary
from kneel.sketch import sketch_points

SUBJECTS = ["a", "a", "b", "c", "c", "d", "e", "f"]


def test_medians_of_resamples_are_those_of_numpy():
    values = np.random.default_rng(1).random((len(SUBJECTS), 3)).round(1)  # with ties
    bootstrap = SubjectBootstrap(SUBJECTS, resamples=200)
    expected = bootstrap.statistic(lambda rows: np.median(values[rows]))
    np.testing.assert_allclose(bootstrap.medians(values), expected, rtol=0, atol=1e-12)


def test_the_interval_of_every_error_is_that_of_its_resampled_summary():
    errors = np.random.default_rng(2).gamma(2.0, 2.0, (len(SUBJECTS), 4))
    bootstrap = SubjectBootstrap(SUBJECTS, resamples=300)
    found = error_intervals(errors, bootstrap)
    names = list(error_summary(errors))
    resampled = bootstrap.statistic(lambda rows: list(error_summary(errors[rows]).values()))
    expected = {name: ends(column) for name, column in zip(names, resampled.T, strict=True)}
    assert found.keys() == expected.keys()
    for name in names:
        assert found[name] == pytest.approx(expected[name], abs=1e-12)


def test_a_mean_that_does_not_vary_has_no_width():
    assert mean_intervals({"x": np.full(8, 3.0)}, SubjectBootstrap(SUBJECTS, resamples=50)) == {"x": (3.0, 3.0)}


def test_points_are_drawn_where_they_are():
    picture = sketch_points(np.zeros((64, 64)), [[10, 40]], [[50, 40]], mm_per_px=0.5, size=256)
    assert picture.shape == (256, 256, 3)
    red, _, blue = np.moveaxis(picture.astype(int), -1, 0)
    orange, blue = red - blue > 100, blue - red > 60  # the way between them is neither
    # 4 pixels of the sketch to each of the picture, centre on centre
    np.testing.assert_allclose(np.argwhere(orange).mean(0), [161.5, 41.5], atol=0.6)
    np.testing.assert_allclose(np.argwhere(blue).mean(0), [161.5, 201.5], atol=0.6)


def test_a_point_far_outside_is_not_seen_and_its_truth_is():
    picture = sketch_points(np.zeros((32, 48)), [[1e9, -1e9]], [[20, 12]], mm_per_px=1.0, size=96)
    red, _, blue = np.moveaxis(picture.astype(int), -1, 0)
    assert not (red - blue > 100).any()
    # 2 pixels of the sketch to each of the picture, centre on centre
    np.testing.assert_allclose(np.argwhere(blue - red > 60).mean(0), [24.5, 40.5], atol=0.6)


def test_heat_lies_over_the_film_only_where_it_is():
    grey, heat = np.full((4, 4), 0.5), np.zeros((4, 4))
    heat[1, 2] = 1.0
    picture = lay_over(grey, heat)
    assert (picture[heat == 0] == 128).all()
    assert picture[1, 2, 0] > 200
    assert picture[1, 2, 0] > picture[1, 2, 2]


def test_attention_is_drawn_for_every_knee_and_leaves_the_network_alone():
    geometry = PatchGeometry()
    view = Compartments(geometry)
    net = KneeNet(width=4, dropout=0.0).eval()
    rois = torch.rand(3, 1, geometry.roi_px, geometry.roi_px)
    with torch.no_grad():
        pictures = sketch_attention(net, view, view.cut(rois), torch.tensor([0, 2, 4]), Intensity(mean=0.5, std=0.2))
    seen = np.argwhere(view.merge(*view.cut(np.ones((geometry.roi_px, geometry.roi_px)))))
    rows, columns = np.ptp(seen, axis=0) + 1
    assert [picture.shape for picture in pictures] == [(round(256 * rows / columns), 256, 3)] * 3
    assert all(parameter.grad is None for parameter in net.parameters())
