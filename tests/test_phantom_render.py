import cv2
import numpy as np
import pytest

from kneel.phantom.anatomy import draw_knee
from kneel.phantom.attenuation import Absorption, add_knee
from kneel.phantom.detector import Exposure, expose
from kneel.phantom.film import add_implant
from kneel.phantom.pose import Pose, fill, window_of
from kneel.phantom.render import FilmSpec, render_film
from kneel.phantom.soft_tissue import Leg, leg_paths

SPACING = 0.2


def flat_leg_with_bones(knee, pose, shape=(700, 700)):
    """Bones in a flat slab of muscle: brightness is theirs alone."""
    attenuation = np.full(shape, 3.0, np.float32)
    add_knee(attenuation, knee, pose, Absorption.at(42), None)
    return attenuation


@pytest.mark.parametrize("side", ["R", "L"])
@pytest.mark.parametrize("seed", range(3))
def test_brightness_edge_lies_at_the_plateau_landmarks(side, seed):
    spacing = 0.1
    knee = draw_knee(1, np.random.default_rng(seed))
    pose = Pose((600.3, 600.7), 1 / spacing, 0.04, side == "L")
    attenuation = flat_leg_with_bones(knee, pose, (1200, 1200))
    for index, inwards in ((1, 1), (7, 1), (10, -1), (14, -1)):
        x, y = pose.to_film(knee.points[index])
        rows = np.arange(-20, 21)
        profile = np.array(
            [cv2.getRectSubPix(attenuation, (1, 1), (float(x), float(y + r)))[0, 0] for r in inwards * rows]
        )
        # from the joint space into the bone: half way between the space and the first bright rim
        half = (profile[:10].mean() + profile[20:31].max()) / 2
        crossing = rows[np.argmax(profile > half)]
        assert abs(crossing * spacing) <= 0.3, f"landmark {index}"


def test_left_knee_is_the_mirror_image():
    knee = draw_knee(2, np.random.default_rng(8))
    width = 600
    right = flat_leg_with_bones(knee, Pose((250.0, 300.0), 5.0, 0.0, False), (600, width))
    left = flat_leg_with_bones(knee, Pose((width - 1 - 250.0, 300.0), 5.0, 0.0, True), (600, width))
    # fills are drawn to 1/16 pixel, thin lines to a pixel: the same but for their rasterisation
    assert np.mean(np.abs(right - left[:, ::-1]) > 0.1) < 0.01
    assert np.abs(right - left[:, ::-1]).mean() < 0.01


def test_film_truth_has_lateral_outside():
    film = render_film(FilmSpec(500, 900, 0.45, (("R", 1), ("L", 2))), np.random.default_rng(0))
    right, left = film.knees
    assert right.center[0] < left.center[0]
    assert right.landmarks[0, 0] < right.landmarks[8, 0]
    assert left.landmarks[0, 0] > left.landmarks[8, 0]
    np.testing.assert_array_equal(right.center, right.landmarks[4])


def test_landmarks_measure_the_anatomy_in_mm():
    film = render_film(FilmSpec(500, 500, 0.45, (("L", 3),)), np.random.default_rng(1))
    knee = film.knees[0]
    scale = knee.pose.scale * film.spec.spacing_mm
    assert scale == pytest.approx(1, abs=0.08)
    on_film = np.hypot(*(knee.landmarks[0] - knee.landmarks[8])) * film.spec.spacing_mm / scale
    assert on_film == pytest.approx(np.hypot(*(knee.anatomy.points[0] - knee.anatomy.points[8])))


def test_monochrome1_is_the_complement_of_monochrome2():
    films = [
        render_film(FilmSpec(300, 300, 0.6, (("R", 0),), 11, photometric), np.random.default_rng(4)).pixels
        for photometric in ("MONOCHROME1", "MONOCHROME2")
    ]
    np.testing.assert_array_equal(films[0].astype(int) + films[1], (1 << 11) - 1)


def test_bone_is_brighter_than_soft_tissue_than_air():
    film = render_film(FilmSpec(700, 700, 0.3, (("R", 0),)), np.random.default_rng(2), noise=False)
    knee = film.knees[0]
    values = film.pixels.astype(float)

    def at(mm):
        x, y = knee.pose.to_film(np.array(mm)).round().astype(int)
        return values[y - 2 : y + 3, x - 2 : x + 3].mean()

    femur, space, side = at([20.0, -15.0]), at((knee.anatomy.points[14] + knee.anatomy.points[7]) / 2), at([44.0, 4.0])
    assert femur > space > side > values[350, 5]


def test_intensity_follows_beer_and_lambert():
    exposure = Exposure(0.0, 0.05, 0.0, 0.0, 0.0, 5.0, 0.0, 1.0, 0.0, False)
    attenuation = np.full((64, 64), 2.0, np.float32)
    np.testing.assert_allclose(expose(attenuation, 0.2, exposure, None), np.exp(-2), rtol=1e-5)


def test_quantum_noise_has_poisson_scaling():
    exposure = Exposure(0.0, 0.05, 0.02, 0.0, 0.0, 5.0, 0.0, 1.0, 0.0, False)
    attenuation = np.zeros((256, 512), np.float32) + 1
    attenuation[:, 256:] = 3
    noisy = expose(attenuation, 0.2, exposure, np.random.default_rng(0))
    thin, thick = noisy[:, :240].std(), noisy[:, 272:].std()
    # the variance of counts grows in proportion to their mean
    assert thin**2 / thick**2 == pytest.approx(np.exp(2), rel=0.05)


def test_shell_of_a_cylinder_matches_its_chords():
    """A shaft is a tube: the ray's path in its cortex is the difference of two chords."""
    from kneel.phantom.attenuation import _rounded

    x = np.linspace(0, 15, 400).astype(np.float32)  # distance from the outer edge, radius 15
    outer = 30 * _rounded(x / 15)
    np.testing.assert_allclose(outer, 2 * np.sqrt(np.maximum(15**2 - (15 - x) ** 2, 0)), atol=1e-3)


def test_absorption_meets_the_table_and_falls_with_energy():
    assert Absorption.at(50).compact == pytest.approx(0.0814)
    low, high = Absorption.at(41), Absorption.at(55)
    assert low.compact > high.compact
    assert low.fat < low.muscle < low.compact


def test_leg_depth_in_its_middle():
    leg = Leg(size=1.0, fat=10.0, flatness=0.9, shift=0.0)
    muscle, fat = leg_paths(leg, Pose((400.0, 400.0), 5.0, 0.0, False), (800, 800))
    assert (muscle + fat)[50].max() == pytest.approx(2 * 0.9 * 58, abs=1)  # 58: half width at the joint
    middle = fat[50, 50]
    assert middle == pytest.approx(2 * 0.9 * 10, abs=0.5)


def test_windows_of_points_off_the_film_are_empty():
    rows, columns = window_of(np.array([[-50.0, -60.0], [-40.0, -45.0]]), (100, 100))
    assert rows.start == rows.stop == 0
    assert columns.start == columns.stop == 0


def test_fill_has_the_area_of_its_outline():
    square = np.array([[10.25, 10.25], [60.25, 10.25], [60.25, 40.25], [10.25, 40.25]])
    window = (slice(0, 60), slice(0, 80))
    assert (fill(square, window) > 0).sum() == pytest.approx(50 * 30, rel=0.06)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"knees": (("L", 1), ("R", 1))}, "sides"),
        ({"bits_stored": 17}, "bits_stored is 17"),
        ({"rows": 10}, "too small"),
    ],
)
def test_impossible_films_are_refused(change, match):
    arguments = {"rows": 300, "columns": 300, "spacing_mm": 0.5, "knees": (("R", 1),)} | change
    with pytest.raises(ValueError, match=match):
        FilmSpec(**arguments)


def test_prosthesis_begins_at_the_joint_surface():
    knee = draw_knee(3, np.random.default_rng(3))
    pose = Pose((350.0, 350.0), 5.0, 0.0, False)
    metal = np.zeros((700, 700), np.float32)
    add_implant(metal, knee, pose, "prosthesis", np.random.default_rng(0))
    for landmark, inwards in ((1, 1), (7, 1), (10, -1), (14, -1)):
        for depth, expected in ((1.0, True), (-1.0, False)):
            x, y = pose.to_film(knee.points[landmark] + [0, inwards * depth]).round().astype(int)
            assert (metal[y, x] > 3) == expected


@pytest.mark.parametrize("implant", ["prosthesis", "plate"])
def test_metal_changes_the_picture_and_not_the_truth(implant):
    films = [
        render_film(FilmSpec(400, 400, 0.5, (("R", 3),), implant=kind), np.random.default_rng(3))
        for kind in (implant, "none")
    ]
    np.testing.assert_array_equal(films[0].knees[0].landmarks, films[1].knees[0].landmarks)
    assert (films[0].pixels != films[1].pixels).any()
