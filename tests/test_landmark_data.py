import shutil

import cv2
import numpy as np
import pydicom
import pytest
import torch
from dicom_files import deny_polarity

from kneel.augment import AugmentSettings, TrainingTransform, validation_transform
from kneel.dataset import LandmarkDataset
from kneel.imaging.cohort import read_cohort
from kneel.imaging.dicom import read_radiograph
from kneel.imaging.geometry import mirror_points
from kneel.imaging.radiograph import RadiographError, normalize_percentiles
from kneel.imaging.schema import CENTER, ROI_SIZE, AnnotationError, KneeAnnotation, write_annotations
from kneel.phantom.cohort import write_cohort
from kneel.samples import center_sample, load_samples
from kneel.sources import CropSource, KneelSource, Part, PhantomSource, SeveralSources

SOURCE = PhantomSource(source="phantom", train=".")


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
    samples = load_samples(cohort, SOURCE, "train", "hc", spacing_mm=0.4, margin=0.0)
    knees = [(film, knee) for film in read_cohort(cohort) for knee in film.knees]
    assert len(samples) == len(knees)
    for sample, (film, knee) in zip(samples, knees, strict=True):
        radiograph = read_radiograph(film.path)
        grey = np.rint(normalize_percentiles(radiograph.pixels, padding=radiograph.padding) * 255)
        on_film = grey_at(grey, knee.film_points(radiograph.spacing_mm))
        np.testing.assert_allclose(grey_at(sample.picture, sample.points), on_film, atol=4)
        assert sample.picture.shape == (350, 350)
        assert sample.points[0, 0] < sample.points[8, 0]  # lateral at small x on both sides


@pytest.mark.parametrize("stage", ["hc", "lc"])
def test_films_with_a_wrong_photometric_interpretation_are_righted(cohort, tmp_path, stage):
    """Else negatives would be learnt from, and measured on, in silence."""
    expected = load_samples(cohort, SOURCE, "train", stage, spacing_mm=1.0, margin=0.0)
    shutil.copytree(cohort, tmp_path / "wrong")
    for path in (tmp_path / "wrong" / "films").glob("*.dcm"):
        deny_polarity(path)
    righted = load_samples(tmp_path / "wrong", SOURCE, "train", stage, spacing_mm=1.0, margin=0.0)
    assert len(righted) == len(expected)
    for mine, other in zip(righted, expected, strict=True):
        np.testing.assert_allclose(mine.picture.astype(int), other.picture.astype(int), atol=2)
        np.testing.assert_array_equal(mine.points, other.points)


def test_lc_samples_hold_one_centre_inside_and_one_knee(cohort):
    for sample in load_samples(cohort, SOURCE, "train", "lc", spacing_mm=2.0, margin=0.0):
        height, width = sample.picture.shape
        x, y = sample.points[0]
        assert sample.points.shape == (1, 2)
        assert 0 < x < width
        assert 0 < y < height


def test_halves_do_not_show_the_other_knee():
    film = np.zeros((100, 200), np.uint8)
    film[40:60, 40:60], film[40:60, 140:160] = 100, 200  # right knee at the left of the film
    samples = {}
    for side, center in (("R", (49.5, 49.5)), ("L", (149.5, 49.5))):
        points = np.tile(center, (16, 1))
        knee = KneeAnnotation.from_film("1", side, 0, points, (1.0, 1.0))
        samples[side] = center_sample(film, knee, points, side, (1.0, 1.0), spacing_mm=1.0, halves=True)
    assert samples["R"].picture.max() == 100
    np.testing.assert_allclose(samples["R"].points, [[49.5, 49.5]], atol=1e-6)
    np.testing.assert_allclose(samples["L"].points, [[199 - 149.5, 49.5]], atol=1e-6)  # mirrored in its half
    assert samples["L"].picture[50, 50] == 200


def test_training_on_a_film_seen_from_behind_mirrors_by_the_look(cohort, tmp_path):
    """The same film turned over, pixels and header: the network must be shown the same picture."""
    film = next(film for film in read_cohort(cohort) if len(film.knees) == 1)
    radiograph = read_radiograph(film.path)
    dataset = pydicom.dcmread(film.path)
    dataset.PixelData = np.ascontiguousarray(dataset.pixel_array[:, ::-1]).tobytes()
    dataset.PatientOrientation = ["R", "F"]
    (tmp_path / "films").mkdir()
    dataset.save_as(tmp_path / "films" / film.path.name)
    points = mirror_points(film.knees[0].film_points(radiograph.spacing_mm), radiograph.pixels.shape[1])
    knee = film.knees[0]
    turned = KneeAnnotation.from_film(knee.subject_id, knee.side, knee.kl, points, radiograph.spacing_mm)
    write_annotations(tmp_path / "annotations.csv", [turned])
    for stage in ("hc", "lc"):
        as_taken = load_samples(cohort, SOURCE, "train", stage, spacing_mm=0.8, margin=0.0)
        (before,) = [s for s in as_taken if s.subject_id == film.subject_id]
        (after,) = load_samples(tmp_path, SOURCE, "train", stage, spacing_mm=0.8, margin=0.0)
        np.testing.assert_allclose(after.points, before.points, atol=0.01)
        assert np.abs(after.picture.astype(int) - before.picture).mean() < 1


def test_kneel_pictures_keep_their_points(tmp_path):
    rng = np.random.default_rng(0)
    points = rng.uniform(100, 360, (16, 2))
    knee = KneeAnnotation("900", "L", 2, points, (500, 300))
    write_annotations(tmp_path / "a.csv", [knee])
    (tmp_path / "rois").mkdir()
    roi = rng.integers(0, 255, (ROI_SIZE, ROI_SIZE)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "rois" / "900_2_L.png"), roi)
    source = KneelSource(source="kneel_csv", annotations="a.csv", images="rois")
    (sample,) = load_samples(tmp_path, source, "train", "hc", spacing_mm=0.3, margin=0.0)
    np.testing.assert_array_equal(sample.picture, roi)
    np.testing.assert_allclose(sample.points, points, atol=1e-3)
    (half,) = load_samples(tmp_path, source, "train", "hc", spacing_mm=0.6, margin=0.0)
    np.testing.assert_allclose(half.points, (points + 0.5) / 2 - 0.5, atol=1e-3)


@pytest.mark.parametrize("annotated", ["RL", "R", "L"])
def test_kneel_lc_pictures_are_halved_also_when_one_knee_is_annotated(tmp_path, annotated):
    film_points = {"R": np.tile((60.0, 90.0), (16, 1)), "L": np.tile((250.0, 100.0), (16, 1))}
    knees = [KneeAnnotation.from_film("900", side, 1, film_points[side], (1.0, 1.0)) for side in annotated]
    write_annotations(tmp_path / "a.csv", knees)
    (tmp_path / "lc").mkdir()
    cv2.imwrite(str(tmp_path / "lc" / "900.png"), np.zeros((200, 300), np.uint8))
    source = KneelSource(source="kneel_csv", annotations="a.csv", images="lc")
    samples = load_samples(tmp_path, source, "train", "lc", spacing_mm=1.0, margin=0.0)
    expected = {"R": [[60, 90]], "L": [[299 - 250, 100]]}
    for side, sample in zip(annotated, samples, strict=True):
        assert sample.picture.shape == (200, 150)
        np.testing.assert_allclose(sample.points, expected[side], atol=1e-3)


def test_a_picture_of_another_scale_is_refused(tmp_path):
    knee = KneeAnnotation.from_film("900", "R", 1, np.tile((160.0, 190.0), (16, 1)), (1.0, 1.0))
    write_annotations(tmp_path / "a.csv", [knee])
    cv2.imwrite(str(tmp_path / "900.png"), np.zeros((66, 100), np.uint8))  # 3 mm instead of 1 mm
    source = KneelSource(source="kneel_csv", annotations="a.csv", images=".")
    with pytest.raises(
        RadiographError, match=r"900, knee R: the joint centre lies outside, at \(160, 190\) of 100 x 66"
    ):
        load_samples(tmp_path, source, "train", "lc", spacing_mm=1.0, margin=0.0)


def test_a_table_without_a_knee_is_refused(tmp_path):
    write_annotations(tmp_path / "a.csv", [])
    with pytest.raises(AnnotationError, match="holds no knee"):
        load_samples(
            tmp_path,
            KneelSource(source="kneel_csv", annotations="a.csv", images="."),
            "train",
            "lc",
            spacing_mm=1,
            margin=0,
        )


def test_all_bad_pictures_are_named_at_once(tmp_path):
    knees = [KneeAnnotation(str(n), "R", 0, np.full((16, 2), 200.0), (0, 0)) for n in range(4)]
    write_annotations(tmp_path / "a.csv", knees)
    (tmp_path / "1_0_R.png").write_bytes(b"no picture")
    cv2.imwrite(str(tmp_path / "2_0_R.png"), np.zeros((10, 10), np.uint8))
    cv2.imwrite(str(tmp_path / "3_0_R.png"), np.full((466, 466), 4095, np.uint16))
    source = KneelSource(source="kneel_csv", annotations="a.csv", images=".")
    words = r"(?s)4 of 4.*0_0_R.png: missing.*not a picture.*10 x 10, must be 466.*3_0_R.png: .* uint16, must be of 8"
    with pytest.raises(RadiographError, match=words):
        load_samples(tmp_path, source, "train", "hc", spacing_mm=0.3, margin=0.0)


def test_a_crop_of_16_bits_is_refused(crops):
    """OpenCV would show the upper half of its bits: 16 grey levels of a detector's 4,096."""
    root, _ = crops
    path = next((root / "pictures").glob("*.png"))
    cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.uint16) * 16)
    source = CropSource(source="crops", table="table.csv", images="pictures")
    with pytest.raises(RadiographError, match=f"{path.name}: its grey levels are uint16"):
        load_samples(root, source, "train", "hc", spacing_mm=0.5, margin=0.0)


def test_items_say_which_points_are_inside(cohort):
    samples = load_samples(cohort, SOURCE, "train", "hc", spacing_mm=0.8, margin=0.0)
    item = LandmarkDataset(samples, validation_transform((60, 60)))[0]
    assert item["picture"].shape == (1, 60, 60)
    points, visible = item["points"], item["visible"]
    expected = ((points >= -0.5) & (points <= 59.5)).all(-1)
    assert torch.equal(visible, expected)
    assert not visible.all()  # a 48 mm window cuts the margins off
    assert visible[CENTER]
    whole = LandmarkDataset(samples, TrainingTransform(AugmentSettings(), (175, 175)))[0]
    assert whole["visible"].all()


@pytest.fixture
def crops(cohort, tmp_path):
    """100 mm crops of the cohort's knees at .5 mm, the first one stored with dark bone, and their table."""
    (tmp_path / "pictures").mkdir()
    rows = ["file,subject_id,side,kl,split,mm_per_px,inverted," + ",".join(f"x{i},y{i}" for i in range(16))]
    whole = load_samples(cohort, SOURCE, "train", "hc", spacing_mm=0.5, margin=0.0)
    for number, sample in enumerate(whole):
        picture, points = sample.picture[40:240, 40:240], sample.points - 40
        if sample.side == "L":  # as on the film
            picture, points = picture[:, ::-1], mirror_points(points, 200)
        name, dark = f"{sample.subject_id}{sample.side}.png", int(number == 0)
        cv2.imwrite(str(tmp_path / "pictures" / name), 255 - picture if dark else picture)
        numbers = ",".join(f"{value:.4f}" for value in points.ravel())
        split = "val" if number == len(whole) - 1 else "train"
        rows.append(f"{name},{sample.subject_id},{sample.side},{sample.kl},{split},0.5,{dark},{numbers}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    return tmp_path, whole


def test_crops_give_the_same_knees_as_the_films_they_were_cut_from(crops):
    root, whole = crops
    source = CropSource(source="crops", table="table.csv", images="pictures")
    samples = [
        s for split in ("train", "val") for s in load_samples(root, source, split, "hc", spacing_mm=0.5, margin=0.0)
    ]
    assert [s.side for s in samples] == [s.side for s in whole]
    for sample, film in zip(samples, whole, strict=True):
        # not at one place to the pixel: films are centred on whole pixels of .3 mm
        np.testing.assert_allclose(np.diff(sample.points, axis=0), np.diff(film.points, axis=0), atol=1e-3)
        # the percentiles of the crop stretch its grey levels as they do when such a crop is read
        low, high = np.percentile(film.picture[40:240, 40:240], [5, 99])
        expected = np.clip((grey_at(film.picture, film.points) - low) / (high - low) * 255, 0, 255)
        np.testing.assert_allclose(grey_at(sample.picture, sample.points), expected, atol=10)


def test_a_crop_is_a_small_film_to_the_joint_centre_network(crops):
    root, _ = crops
    source = CropSource(source="crops", table="table.csv", images="pictures")
    for sample in load_samples(root, source, "train", "lc", spacing_mm=2.0, margin=0.0):
        assert sample.picture.shape == (50, 50)
        assert np.abs(sample.points - 24.5).max() < 10


def test_several_sources_come_together_and_only_training_repeats(crops, cohort, monkeypatch):
    root, whole = crops
    (root / "films").symlink_to(cohort / "films")
    (root / "annotations.csv").write_bytes((cohort / "annotations.csv").read_bytes())
    both = SeveralSources(
        source="several",
        parts=(
            Part(data=PhantomSource(source="phantom", train=".", val=None)),
            Part(data=CropSource(source="crops", table="table.csv", images="pictures"), repeat=3),
        ),
    )
    train = load_samples(root, both, "train", "hc", spacing_mm=0.8, margin=0.0)
    val = load_samples(root, both, "val", "hc", spacing_mm=0.8, margin=0.0)
    assert len(train) == len(whole) + 3 * (len(whole) - 1)
    assert len(val) == 1
    with pytest.raises(ValueError, match="none has a validation set"):
        SeveralSources(source="several", parts=(Part(data=PhantomSource(source="phantom", val=None)),))


def test_a_bad_table_of_crops_is_named_with_line_and_value(crops):
    root, _ = crops
    text = (root / "table.csv").read_text()
    source = CropSource(source="crops", table="table.csv", images="pictures")
    for old, new, words in (("0.5,1,", "0,1,", "line 2: mm_per_px"), ("inverted,", "dark,", "no column inverted")):
        (root / "table.csv").write_text(text.replace(old, new, 1))
        with pytest.raises(AnnotationError, match=words):
            load_samples(root, source, "train", "hc", spacing_mm=0.5, margin=0.0)
    who = f"{crops[1][0].subject_id},"
    for other, words in (
        (text + "\n" + text.splitlines()[1], "stands there twice, which row is right"),
        (text.replace(who, ",", 1), "line 2: subject_id is empty"),
        (text.replace(",", ";"), "columns are separated by ';', must be by commas"),
    ):
        (root / "table.csv").write_text(other)
        with pytest.raises(AnnotationError, match=words):
            load_samples(root, source, "train", "hc", spacing_mm=0.5, margin=0.0)
    (root / "table.csv").write_text(text)
    (root / "pictures" / f"{crops[1][0].subject_id}{crops[1][0].side}.png").unlink()
    with pytest.raises(RadiographError, match="missing"):
        load_samples(root, source, "train", "hc", spacing_mm=0.5, margin=0.0)
