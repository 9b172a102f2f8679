import cv2
import numpy as np
import pytest
import torch

from kneel.augment import AugmentSettings, training_transform, validation_transform
from kneel.dataset import KneelSource, LandmarkDataset, PhantomSource, half_film_samples, load_samples
from kneel.imaging.cohort import read_cohort
from kneel.imaging.dicom import read_radiograph
from kneel.imaging.radiograph import RadiographError, normalize_percentiles
from kneel.imaging.schema import CENTER, ROI_SIZE, KneeAnnotation, write_annotations
from kneel.phantom.cohort import write_cohort

SOURCE = PhantomSource(source="phantom")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, 6, seed=5, spacing_mm=0.4, single_knee_fraction=0.4, implant_fraction=0)
    return folder


def grey_at(picture, points):
    """Grey values, smoothed so that one more interpolation of a noisy picture hardly shows."""
    smooth = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 2)
    return cv2.remap(smooth, points[:, None].astype(np.float32), None, cv2.INTER_LINEAR).ravel()


def test_hc_samples_are_the_films_own_pixels(cohort):
    """An ROI at the film's own spacing shows the film's grey value at every landmark."""
    samples = load_samples(cohort, SOURCE, "hc", spacing_mm=0.4, margin=0.0)
    knees = [(film, knee) for film in read_cohort(cohort) for knee in film.knees]
    assert len(samples) == len(knees)
    for sample, (film, knee) in zip(samples, knees, strict=True):
        radiograph = read_radiograph(film.path)
        grey = np.rint(normalize_percentiles(radiograph.pixels, padding=radiograph.padding) * 255)
        on_film = grey_at(grey, knee.film_points(radiograph.spacing_mm))
        np.testing.assert_allclose(grey_at(sample.picture, sample.points), on_film, atol=4)
        assert sample.picture.shape == (350, 350)
        assert sample.points[0, 0] < sample.points[8, 0]  # lateral at small x on both sides


def test_lc_samples_hold_one_centre_inside_and_one_knee(cohort):
    for sample in load_samples(cohort, SOURCE, "lc", spacing_mm=2.0, margin=0.0):
        height, width = sample.picture.shape
        x, y = sample.points[0]
        assert sample.points.shape == (1, 2)
        assert 0 < x < width
        assert 0 < y < height


def test_halves_do_not_show_the_other_knee():
    film = np.zeros((100, 200), np.uint8)
    film[40:60, 40:60], film[40:60, 140:160] = 100, 200  # right knee at the left of the film
    spacing = (1.0, 1.0)
    knees = [
        KneeAnnotation.from_film("1", side, 0, np.tile(center, (16, 1)), spacing)
        for side, center in (("R", (49.5, 49.5)), ("L", (149.5, 49.5)))
    ]
    right, left = half_film_samples(film, knees, spacing, spacing_mm=1.0)
    assert right.picture.max() == 100
    np.testing.assert_allclose(right.points, [[49.5, 49.5]], atol=1e-6)
    np.testing.assert_allclose(left.points, [[199 - 149.5, 49.5]], atol=1e-6)  # mirrored in its half
    assert left.picture[50, 50] == 200


def test_kneel_pictures_keep_their_points(tmp_path):
    rng = np.random.default_rng(0)
    points = rng.uniform(100, 360, (16, 2))
    knee = KneeAnnotation("900", "L", 2, points, (500, 300))
    write_annotations(tmp_path / "a.csv", [knee])
    (tmp_path / "rois").mkdir()
    roi = rng.integers(0, 255, (ROI_SIZE, ROI_SIZE)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "rois" / "900_2_L.png"), roi)
    source = KneelSource(source="kneel_csv", annotations="a.csv", images="rois")
    (sample,) = load_samples(tmp_path, source, "hc", spacing_mm=0.3, margin=0.0)
    np.testing.assert_array_equal(sample.picture, roi)
    np.testing.assert_allclose(sample.points, points, atol=1e-3)
    (half,) = load_samples(tmp_path, source, "hc", spacing_mm=0.6, margin=0.0)
    np.testing.assert_allclose(half.points, (points + 0.5) / 2 - 0.5, atol=1e-3)


def test_kneel_lc_pictures_are_halved(tmp_path):
    film_points = {"R": np.tile((60.0, 90.0), (16, 1)), "L": np.tile((250.0, 100.0), (16, 1))}
    knees = [KneeAnnotation.from_film("900", side, 1, points, (1.0, 1.0)) for side, points in film_points.items()]
    write_annotations(tmp_path / "a.csv", knees)
    (tmp_path / "lc").mkdir()
    cv2.imwrite(str(tmp_path / "lc" / "900.png"), np.zeros((200, 300), np.uint8))
    source = KneelSource(source="kneel_csv", annotations="a.csv", images="lc")
    right, left = load_samples(tmp_path, source, "lc", spacing_mm=1.0, margin=0.0)
    np.testing.assert_allclose(right.points, [[60, 90]], atol=1e-3)
    np.testing.assert_allclose(left.points, [[299 - 250, 100]], atol=1e-3)


def test_all_bad_pictures_are_named_at_once(tmp_path):
    knees = [KneeAnnotation(str(n), "R", 0, np.full((16, 2), 200.0), (0, 0)) for n in range(3)]
    write_annotations(tmp_path / "a.csv", knees)
    (tmp_path / "1_0_R.png").write_bytes(b"no picture")
    cv2.imwrite(str(tmp_path / "2_0_R.png"), np.zeros((10, 10), np.uint8))
    source = KneelSource(source="kneel_csv", annotations="a.csv", images=".")
    with pytest.raises(RadiographError, match=r"(?s)3 of 3.*0_0_R.png: missing.*not a picture.*10 x 10, must be 466"):
        load_samples(tmp_path, source, "hc", spacing_mm=0.3, margin=0.0)


def test_items_say_which_points_are_inside(cohort):
    samples = load_samples(cohort, SOURCE, "hc", spacing_mm=0.8, margin=0.0)
    item = LandmarkDataset(samples, validation_transform((60, 60)))[0]
    assert item["picture"].shape == (1, 60, 60)
    points, visible = item["points"], item["visible"]
    expected = ((points >= -0.5) & (points <= 59.5)).all(-1)
    assert torch.equal(visible, expected)
    assert not visible.all()  # a 48 mm window cuts the margins off
    assert visible[CENTER]
    whole = LandmarkDataset(samples, training_transform(AugmentSettings(), (175, 175)))[0]
    assert whole["visible"].all()
