"""Measures against hand values, brute force, and the table of the real annotations."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from kneel.imaging.schema import ROI_SPACING_MM, read_annotations
from kneel.measure import joint_line_convergence, joint_space_widths, measure_knee, polyline_distance
from kneel.phantom.shapes import draw_landmarks

ANNOTATIONS = Path(__file__).resolve().parents[1].parent / "shared/data/kneel/bf_landmarks_1_0.3.csv"


@pytest.fixture(scope="module")
def knees():
    rng = np.random.default_rng(20)
    return np.array([draw_landmarks(kl, rng)[0] for kl in range(5) for _ in range(4)])


def flat():
    """Horizontal bones: joint space 3.5 medial, 6 lateral."""
    points = np.zeros((16, 2))
    points[:, 0] = [-40, -30, -20, -5, 0, 5, 20, 30, 40, -38, -30, -20, 0, 20, 30, 38]
    points[9:12, 1], points[12, 1], points[13:16, 1] = -6.0, -12.0, -3.5
    return points


def brute_force(a, b):
    """Every pair of densely sampled points of two polylines."""

    def dense(line):
        return np.concatenate([np.linspace(start, end, 400) for start, end in pairwise(line)])

    return np.hypot(*(dense(a)[:, None] - dense(b)[None]).transpose(2, 0, 1)).min()


def test_hand_values():
    measures = measure_knee(flat())
    tilt = np.degrees(np.arctan2(2.5, 60))  # the femoral line falls from 6 to 3.5 over 60
    width = np.hypot(76, 2.5)
    assert [float(value) for value in measures] == pytest.approx([3.5, 6.0, tilt, 80, width])


def test_joint_space_is_that_of_brute_force(knees):
    medial, lateral = joint_space_widths(knees)
    for number, points in enumerate(knees):
        assert medial[number] == pytest.approx(brute_force(points[13:16], points[6:9]), abs=0.02)
        assert lateral[number] == pytest.approx(brute_force(points[9:12], points[0:3]), abs=0.02)


def test_distances_of_all_small_grid_polylines():
    rng = np.random.default_rng(0)
    lines = rng.integers(0, 5, (60, 2, 3, 2)).astype(float)  # some cross, some touch, some have segments of length 0
    distances = polyline_distance(lines[:, 0], lines[:, 1])
    expected = [brute_force(a, b) for a, b in lines]
    np.testing.assert_allclose(distances, expected, atol=0.02)
    assert 0 < (distances == 0).sum() < 60


def test_crossing_bones_have_no_joint_space():
    crossed = [[0, 0], [1, 1], [2, 0]], [[0, 1], [1, 0.5], [2, 1]]
    assert polyline_distance(*crossed) == 0


def test_overlapping_bones_have_no_joint_space(knees):
    """Where the femur's line lies wholly below the tibia's nothing crosses, and the distance is no joint space."""
    for gap, expected in ((0.5, 0.5), (0.0, 0.0), (-0.5, 0.0), (-3.0, 0.0)):
        x = np.linspace(-40, 40, 9)
        points = np.array([(each, 4.0) for each in x] + [(each, 4.0 - gap) for each in (-38, -25, -12, 0, 12, 25, 38)])
        points[[9, 15], 1] -= 20  # the epicondyles
        points[[9, 15], 0] *= 1.5  # beyond the tibia, so that no line crosses
        for turn in np.radians((0, 30, 100)):
            turned = points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
            for both in (turned, turned * (-1, 1)):
                assert joint_space_widths(both) == (pytest.approx(expected), pytest.approx(expected))
    assert (np.array(joint_space_widths(knees)) > 0).all()


def test_convergence_is_positive_where_the_joint_opens_laterally():
    points = flat()
    turn = np.radians(5)
    # y points down: the femur's lateral end (small x) goes up when it turns this way
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points[9:, 1] = -5
    points[9:] = points[9:] @ rotation.T
    assert points[10, 1] < points[14, 1]
    assert joint_line_convergence(points) == pytest.approx(5)


def test_measures_move_and_grow_with_the_knee(knees):
    measures, moved = measure_knee(knees), measure_knee(2 * knees + [7, -3])
    for name, before, after in zip(measures._fields, measures, moved, strict=True):
        np.testing.assert_allclose(after, before * (1 if name == "jlca_deg" else 2), atol=1e-9)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"points have shape \(2, 16\): must be"):
        measure_knee(np.zeros((2, 16)))


@pytest.mark.skipif(not ANNOTATIONS.exists(), reason="KNEEL's annotations are not here")
def test_the_annotated_knees_have_the_published_means():
    knees = read_annotations(ANNOTATIONS)
    grades = np.array([knee.kl for knee in knees])
    measures = measure_knee(np.array([knee.points for knee in knees]) * ROI_SPACING_MM)
    table = {
        "jsw_medial": [4.57, 4.59, 4.49, 3.28, 2.35],
        "jsw_lateral": [5.45, 5.68, 5.45, 5.06, 4.35],
        "jlca_deg": [1.08, 1.40, 1.27, 2.33, 2.97],
        "tibial_width": [76.4, 78.9, 77.4, 79.6, 83.2],
    }
    for name, means in table.items():
        values = getattr(measures, name)
        ours = [values[grades == grade].mean() for grade in range(5)]
        np.testing.assert_allclose(ours, means, atol=0.06 if name == "tibial_width" else 0.015, err_msg=name)
    least = np.minimum(measures.jsw_medial, measures.jsw_lateral)
    assert spearmanr(least, grades).statistic == pytest.approx(-0.74, abs=0.015)
