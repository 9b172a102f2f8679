import hashlib
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import spearmanr

from kneel.imaging.schema import TIBIA
from kneel.measure import joint_space_widths
from kneel.phantom.anatomy import Habitus, draw_knee
from kneel.phantom.condition import Condition
from kneel.phantom.curves import through_x
from kneel.phantom.shapes import SHAPE_SIZE, draw_landmarks, grade_shapes

# Means over the 748 knees of KNEEL's annotations (mm at the detector), KL 0 to 4.
MEDIAL_JSW_MM = (4.57, 4.59, 4.49, 3.28, 2.35)
LATERAL_JSW_MM = (5.45, 5.68, 5.45, 5.06, 4.35)
TIBIAL_WIDTH_MM = (76.4, 78.9, 77.4, 79.6, 83.2)
SPEARMAN = -0.74


@pytest.fixture(scope="module")
def knees():
    rng = np.random.default_rng(20)
    return [np.array([draw_landmarks(kl, rng)[0] for _ in range(500)]) for kl in range(5)]


@pytest.mark.parametrize("kl", range(5))
def test_grade_has_the_geometry_of_the_annotations(knees, kl):
    widths = np.array([joint_space_widths(points) for points in knees[kl]])
    assert widths[:, 0].mean() == pytest.approx(MEDIAL_JSW_MM[kl], abs=0.4)
    assert widths[:, 1].mean() == pytest.approx(LATERAL_JSW_MM[kl], abs=0.4)
    assert np.hypot(*(knees[kl][:, 8] - knees[kl][:, 0]).T).mean() == pytest.approx(TIBIAL_WIDTH_MM[kl], abs=1.5)


def test_narrowing_follows_the_grade_as_in_people(knees):
    widths = [min(joint_space_widths(points)) for grade in knees for points in grade]
    grades = np.repeat(np.arange(5), 500)
    assert spearmanr(widths, grades).statistic == pytest.approx(SPEARMAN, abs=0.1)


def test_modes_are_orthonormal():
    for grade in grade_shapes():
        np.testing.assert_allclose(grade.modes @ grade.modes.T, np.eye(len(grade.sd)), atol=2e-3)


def test_shared_latent_makes_knees_of_unlike_grades_alike():
    rng = np.random.default_rng(5)
    latents = rng.standard_normal((200, 32))
    widths = np.array([[np.ptp(draw_landmarks(kl, rng, latent=z)[0][:9, 0]) for kl in (1, 3)] for z in latents])
    assert 0.35 < np.corrcoef(widths.T)[0, 1] < 0.85


def test_grade_out_of_range_is_refused():
    with pytest.raises(ValueError, match="kl is 5: must be 0 to 4"):
        draw_landmarks(5, np.random.default_rng(0))


@pytest.mark.parametrize("kl", range(5))
def test_every_landmark_is_a_vertex_of_its_contour(kl):
    rng = np.random.default_rng(kl)
    for _ in range(20):
        knee = draw_knee(kl, rng)
        bones = {bone.name: bone.contour for bone in knee.bones}
        for index, point in enumerate(knee.points):
            contour = bones["tibia" if index < 9 else "femur"]
            assert np.hypot(*(contour - point).T).min() < 1e-9


def test_contours_do_not_cross_in_the_joint():
    rng = np.random.default_rng(11)
    for kl in (0, 1, 2, 3, 4) * 8:
        knee = draw_knee(kl, rng)
        femur, tibia = knee.bones[0].contour, knee.bones[1].contour
        bottom = femur[: np.argmin(np.hypot(*(femur - knee.points[15]).T)) + 1]
        top = tibia[: np.argmin(np.hypot(*(tibia - knee.points[8]).T)) + 1]
        x = np.linspace(max(bottom[0, 0], top[0, 0]), min(bottom[-1, 0], top[-1, 0]), 300)
        gap = np.interp(x, *top.T) - np.interp(x, *bottom.T)
        assert gap.min() > -0.3  # bone on bone may graze between two landmarks


def test_osteophytes_and_sclerosis_grow_with_the_grade_and_overlap():
    rng = np.random.default_rng(3)
    conditions = [[Condition.draw(kl, "medial", rng) for _ in range(200)] for kl in range(5)]
    spurs = np.array([[np.mean(list(vars(c.spurs).values())) for c in grade] for grade in conditions])
    assert (np.diff(spurs.mean(axis=1)) > 0.3).all()
    assert all(upper.min() < lower.max() for lower, upper in pairwise(spurs))
    sclerosis = np.array([[c.sclerosis for c in grade] for grade in conditions])
    assert (np.diff(sclerosis.mean(axis=1)) > 0).all()


def test_knee_is_a_function_of_the_seed():
    def digest(seed):
        rng = np.random.default_rng(seed)
        knee = draw_knee(3, rng, Habitus.draw(rng))
        return hashlib.sha256(b"".join([bone.contour.tobytes() for bone in knee.bones])).hexdigest()

    assert digest(1) == digest(1) != digest(2)


def test_curve_passes_its_knots_without_overshoot():
    knots = np.array([[0.0, 1.0], [1.3, 4.0], [2.0, 4.0], [5.0, -2.0]])
    curve = through_x(knots, corners=(1,))
    for knot in knots:
        assert np.hypot(*(curve - knot).T).min() < 1e-12
    assert curve[:, 1].max() <= 4 + 1e-12
    assert curve[:, 1].min() >= -2 - 1e-12


@pytest.mark.parametrize("kl", range(5))
def test_a_subject_far_from_every_knee_gets_one_all_the_same(kl):
    """Latent numbers four standard deviations out fit no plausible knee; a cohort does not stop for that."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        latent = 4 * np.sign(rng.standard_normal(SHAPE_SIZE))
        points, _ = draw_landmarks(kl, rng, latent=latent)
        assert np.diff(points[TIBIA][:, 0]).min() > 0
