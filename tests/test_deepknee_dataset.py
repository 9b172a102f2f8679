import hashlib
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from dicom_files import deny_polarity

from deepknee.dataset import PatchDataset, load_knees, load_split
from deepknee.graded_folder import graded_files, read_graded, subject_and_side
from deepknee.patches import PatchGeometry
from deepknee.sources import DatasetError, GradedFolderSource, PhantomSource
from kneel.engine.folds import LeakageError, marked_subjects, subject_marks
from kneel.imaging.crops import read_crops
from kneel.imaging.dicom import read_radiograph
from kneel.imaging.polarity import has_dark_bone
from kneel.imaging.radiograph import RadiographError, normalize_percentiles
from kneel.imaging.schema import CENTER, read_annotations
from kneel.phantom.cohort import write_cohort

CHEN = Path(__file__).resolve().parents[1].parent / "shared" / "data"
GEOMETRY = PatchGeometry(roi_mm=60.0, roi_px=60, crop=60, patch=30, top=15)
FOLDER = GradedFolderSource(source="graded_folder")


def knee_picture(seed: int = 0, size: int = 60) -> np.ndarray:
    """Bright bone in the middle, a bright spot lateral of a RIGHT knee (small x)."""
    picture = np.random.default_rng(seed).integers(0, 30, (size, size))
    picture[:, size // 5 : -size // 5] += 150
    picture[size // 2, size // 4] = 255
    return picture.astype(np.uint8)


def write_graded(root: Path, part: str, first_subject: int, each: int = 2) -> None:
    for grade in range(5):
        (root / part / str(grade)).mkdir(parents=True)
        for number in range(each):
            subject = first_subject + grade * each + number
            for side in "LR":
                picture = knee_picture(subject)
                path = root / part / str(grade) / f"{subject}{side}.png"
                assert cv2.imwrite(str(path), picture if side == "R" else picture[:, ::-1])


def test_left_knees_are_mirrored_and_rows_are_in_order(tmp_path: Path) -> None:
    write_graded(tmp_path, "train", 100)
    knees = load_knees(tmp_path / "train", FOLDER, GEOMETRY, "film")
    assert knees.grades.tolist() == [grade for grade in range(5) for _ in range(4)]
    assert knees.subjects == tuple(str(100 + number // 2) for number in range(20))
    for number, subject in enumerate(knees.subjects):
        np.testing.assert_array_equal(knees.rois[number], knee_picture(int(subject)))
        assert Path(knees.names[number]).name == f"{subject}{'LR'[number % 2]}.png"


@pytest.mark.parametrize("source", ["graded_folder", "phantom"])
def test_names_are_spelled_as_the_folder_was_although_the_pictures_come_from_the_cache(
    source: str, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_graded(tmp_path, "train", 300)
    root, where = (tmp_path, FOLDER) if source == "graded_folder" else (cohort, PhantomSource(source="phantom"))
    monkeypatch.chdir(root)
    first = load_knees(Path("train"), where, GEOMETRY, "film")
    monkeypatch.setattr("deepknee.dataset.read_all", lambda *_: pytest.fail("read again"))
    for folder in (root / "train", Path("train")):
        again = load_knees(folder, where, GEOMETRY, "film")
        assert again.names == tuple(str(folder.parent / name) for name in first.names)
        np.testing.assert_array_equal(again.rois, first.rois)


def test_dark_bone_is_inverted(tmp_path: Path) -> None:
    (tmp_path / "3").mkdir()
    path = tmp_path / "3" / "17R.png"
    cv2.imwrite(str(path), 255 - knee_picture())
    assert has_dark_bone(255 - knee_picture())
    assert not has_dark_bone(knee_picture())
    knee = read_graded(path, GEOMETRY, "film")
    np.testing.assert_array_equal(knee.roi, knee_picture())
    assert (knee.grade, knee.subject) == (3, "17")


def test_dark_bone_on_the_public_crops() -> None:
    """Against the column `inverted` of 529 crops that were marked apart from this rule."""
    if not (CHEN / "chen2018").is_dir():
        pytest.skip("the public crops are not beside this checkout")
    table = pd.read_csv(CHEN / "chen2018_landmarks.csv")
    rows = table[(table.split == "val") | (table.inverted == 1)]
    found = [has_dark_bone(cv2.imread(str(CHEN / "chen2018" / file), cv2.IMREAD_GRAYSCALE)) for file in rows.file]
    assert rows.inverted.sum() == 5
    assert found == (rows.inverted == 1).tolist()


def test_other_sizes_are_resized(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    path = tmp_path / "0" / "5R.png"
    cv2.imwrite(str(path), np.kron(knee_picture(), np.ones((2, 2), np.uint8)))
    np.testing.assert_array_equal(read_graded(path, GEOMETRY, "film").roi, knee_picture())


def test_every_unusable_picture_is_named(tmp_path: Path) -> None:
    write_graded(tmp_path, "train", 1)
    broken, wide = tmp_path / "train" / "1" / "3L.png", tmp_path / "train" / "4" / "9R.png"
    broken.write_bytes(broken.read_bytes()[:200])
    cv2.imwrite(str(wide), np.zeros((60, 50), np.uint8) + knee_picture()[:, :50])
    with pytest.raises(DatasetError, match=r"(?s)2 pictures.*1/3L\.png.*4/9R\.png: 50 x 60 pixels"):
        load_knees(tmp_path / "train", FOLDER, GEOMETRY, "film")


def test_layout_is_checked(tmp_path: Path) -> None:
    write_graded(tmp_path, "train", 1)
    (tmp_path / "train" / "2" / ".DS_Store").touch()
    (tmp_path / "train" / "2" / "Thumbs.db").touch()
    (tmp_path / "train" / "__MACOSX").mkdir()
    (tmp_path / "train" / "readme.txt").touch()
    assert len(graded_files(tmp_path / "train")) == 20
    (tmp_path / "train" / "2" / "knee.png").touch()
    with pytest.raises(DatasetError, match=r"2/knee\.png: must be named"):
        graded_files(tmp_path / "train")
    with pytest.raises(DatasetError, match="no folder 0, 1, 2, 3, 4"):
        graded_files(tmp_path / "test")


def test_a_folder_beside_those_of_the_grades_is_not_passed_over(tmp_path: Path) -> None:
    write_graded(tmp_path, "train", 1)
    (tmp_path / "train" / "5").mkdir()
    with pytest.raises(DatasetError, match=r"train/5: no KL grade; only the folders 0 to 4 may be there"):
        graded_files(tmp_path / "train")


def test_rois_with_a_table_are_no_graded_folder(tmp_path: Path) -> None:
    """Read as one, their left knees would be mirrored twice, and a subject's visits would be different subjects."""
    for grade in range(5):
        (tmp_path / "rois" / str(grade)).mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "rois" / "2" / "9000099_V00_L.png"), knee_picture())
    with pytest.raises(DatasetError, match=r"9000099_V00_L\.png: is named as .* name the folder of knees\.csv"):
        load_knees(tmp_path / "rois", FOLDER, GEOMETRY, "film")


@pytest.mark.parametrize("name", ["9000099L", "9000099_L", "9000099 - L"])
def test_what_stands_before_the_side_is_not_of_the_subject(name: str) -> None:
    """Else a network would be said to know nobody of its own training set, were its files named in another way."""
    subject, side = subject_and_side(Path("3") / f"{name}.png")
    assert marked_subjects([subject], subject_marks(["9000099"]))
    assert (subject, side) == ("9000099", "L")


@pytest.mark.parametrize("again", ["4/1L", "4/1_L", "0/1-L"])
def test_a_knee_that_is_there_twice_is_refused(tmp_path: Path, again: str) -> None:
    write_graded(tmp_path, "train", 1)
    cv2.imwrite(str(tmp_path / "train" / f"{again}.png"), knee_picture())
    with pytest.raises(DatasetError, match=r"2 pictures cannot be used") as refused:
        graded_files(tmp_path / "train")
    assert all(f"{name}.png: this knee is there more than once" in str(refused.value) for name in ("0/1L", again))


def test_both_knees_of_a_subject_may_have_two_grades(tmp_path: Path) -> None:
    write_graded(tmp_path, "train", 1)
    for name in ("4/100R", "3/100_L"):
        cv2.imwrite(str(tmp_path / "train" / f"{name}.png"), knee_picture())
    assert len(graded_files(tmp_path / "train")) == 22


def split(root: Path, source: GradedFolderSource | PhantomSource, fold: int = 0):
    return load_split(root, source, GEOMETRY, "film", folds=2, fold=fold, seed=0)


def test_subjects_on_both_sides_are_refused(tmp_path: Path) -> None:
    write_graded(tmp_path, "train", 1)
    write_graded(tmp_path, "val", 10)
    with pytest.raises(LeakageError, match="1 subject"):
        split(tmp_path, FOLDER)


def test_a_picture_on_both_sides_is_refused_whatever_its_names(tmp_path: Path) -> None:
    write_graded(tmp_path, "train", 1)
    write_graded(tmp_path, "val", 100)
    (tmp_path / "val" / "3" / "500R.png").write_bytes((tmp_path / "train" / "2" / "6R.png").read_bytes())
    with pytest.raises(LeakageError, match=r"the same picture .*train/2/6R\.png and .*val/3/500R\.png$"):
        split(tmp_path, FOLDER)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cohort")
    write_cohort(root / "train", 4, 5, single_knee_fraction=0.0, implant_fraction=0.0, spacing_mm=0.4)
    return root


def test_cohort_films_are_cut_around_the_joint_centre(cohort: Path) -> None:
    """Found again by nearest sampling of the film at the places that the annotations say."""
    knees = load_knees(cohort / "train", PhantomSource(source="phantom"), GEOMETRY, "film")
    annotated = read_annotations(cohort / "train" / "annotations.csv")
    assert knees.subjects == tuple(knee.subject_id for knee in annotated)
    assert knees.grades.tolist() == [knee.kl for knee in annotated]
    for knee, roi in zip(annotated, knees.rois, strict=True):
        film = read_radiograph(cohort / "train" / "films" / f"{knee.subject_id}.dcm")
        assert film.spacing_mm is not None
        grey, spacing = cv2.blur(normalize_percentiles(film.pixels), (3, 3)), film.spacing_mm
        x, y = knee.film_points(spacing)[CENTER]
        direction = -1 if knee.side == "L" else 1
        steps = (np.arange(60) - 29.5) * 1.0  # mm from the middle, 1 mm a ROI pixel
        row_mm, column_mm = film.roi_spacing_mm or spacing  # at the detector, though the annotations are not
        columns = np.rint(x + direction * steps / column_mm).astype(int)
        rows = np.rint(y + steps / row_mm).astype(int)
        expected = grey[np.ix_(rows, columns)]
        assert np.corrcoef(expected.ravel(), roi.ravel().astype(float))[0, 1] > 0.97


def test_films_with_a_wrong_photometric_interpretation_are_righted(cohort: Path, tmp_path: Path) -> None:
    """Else a negative would be trained on and evaluated, which graded folders and reading put right."""
    source = PhantomSource(source="phantom")
    expected = load_knees(cohort / "train", source, GEOMETRY, "film")
    shutil.copytree(cohort / "train", tmp_path / "train")
    wrong = sorted((tmp_path / "train" / "films").glob("*.dcm"))[1:]
    for path in wrong:
        deny_polarity(path)
    assert np.mean(read_radiograph(wrong[0]).pixels) != np.mean(
        read_radiograph(cohort / wrong[0].relative_to(tmp_path)).pixels
    )
    righted = load_knees(tmp_path / "train", source, GEOMETRY, "film")
    np.testing.assert_allclose(righted.rois.astype(int), expected.rois.astype(int), atol=2)


def test_folds_of_a_cohort_partition_its_subjects(cohort: Path) -> None:
    source = PhantomSource(source="phantom", val=None)
    held_out = []
    for fold in range(2):
        train, val = split(cohort, source, fold)
        assert not set(train.subjects) & set(val.subjects)
        assert len(train) + len(val) == 8
        held_out += val.names
    assert len(held_out) == len(set(held_out)) == 8


def test_items_are_patches_and_grade(tmp_path: Path) -> None:
    write_graded(tmp_path, "train", 1)
    knees = load_knees(tmp_path / "train", FOLDER, GEOMETRY, "film")
    labels = torch.rand((len(knees), 5))
    lateral, medial, label, grade = PatchDataset(knees, GEOMETRY.split_compartments, labels)[7]
    assert torch.equal(label, labels[7])
    assert lateral.shape == medial.shape == (1, 30, 30)
    assert grade == 1
    np.testing.assert_array_equal(lateral[0].numpy(), knees.rois[7, 15:45, :30])


def test_a_picture_under_two_names_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    for grade in range(5):
        (tmp_path / str(grade)).mkdir()
        cv2.imwrite(str(tmp_path / str(grade) / f"{grade}L.png"), rng.integers(0, 255, (104, 104), np.uint8))
    load_knees(tmp_path, FOLDER, GEOMETRY, "film")
    assert not caplog.text
    shutil.copy(tmp_path / "2" / "2L.png", tmp_path / "3" / "7777L.png")
    assert len(load_knees(tmp_path, FOLDER, GEOMETRY, "film")) == 6
    assert re.search(r"the same picture under two names.*3/7777L\.png and .*2/2L\.png$", caplog.text, re.M)


def test_a_picture_replaced_since_its_landmarks_were_found_is_refused(tmp_path: Path) -> None:
    """The old points would cut another part of the new picture, and nobody would see it."""
    for grade in range(5):
        (tmp_path / str(grade)).mkdir()
    path, table = tmp_path / "3" / "1R.png", tmp_path / "landmarks.csv"
    cv2.imwrite(str(path), np.tile(np.arange(104, dtype=np.uint8), (104, 1)))
    row: dict = {"file": "3/1R.png", "subject_id": 1, "side": "R", "kl": 3, "split": "train", "mm_per_px": 1}
    row |= {"inverted": 0} | {f"{axis}{number}": 20.0 + 4 * number for number in range(16) for axis in "xy"}
    geometry = GEOMETRY.model_copy(update={"follow": "landmarks"})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for replaced in (False, True):
        if replaced:
            cv2.imwrite(str(path), np.tile(np.arange(104, dtype=np.uint8)[::-1], (104, 1)))
        for said in ({}, {"picture_sha256": ""}, {"picture_sha256": digest}):
            pd.DataFrame([row | said]).to_csv(table, index=False)
            if not replaced or not said.get("picture_sha256"):  # tables of before do not say it
                assert len(load_knees(tmp_path, FOLDER, geometry, "film")) == 1
    with pytest.raises(DatasetError, match=r"1R\.png: is not the picture .* run locate_landmarks\.py again"):
        load_knees(tmp_path, FOLDER, geometry, "film")
    with pytest.raises(RadiographError, match=r"1R\.png: is not the picture"):  # as landmark networks read it
        read_crops(table, tmp_path)[0].read()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"side": "L"}, r"landmarks\.csv: says subject 1, L and KL 3 of .*1R\.png"),
        ({"kl": 2}, r"landmarks\.csv: says subject 1, R and KL 2 of .*1R\.png"),
        ({"subject_id": 7}, r"landmarks\.csv: says subject 7, R and KL 3 of .*1R\.png"),
        ({"x5": 2000.0}, r"1R\.png: landmarks lie far outside the picture"),
    ],
)
def test_landmarks_of_another_knee_or_place_are_refused(tmp_path: Path, wrong: dict, words: str) -> None:
    for grade in range(5):
        (tmp_path / str(grade)).mkdir()
    cv2.imwrite(str(tmp_path / "3" / "1R.png"), np.tile(np.arange(104, dtype=np.uint8), (104, 1)))
    row: dict = {"file": "3/1R.png", "subject_id": 1, "side": "R", "kl": 3, "split": "train", "mm_per_px": 1}
    row |= {"inverted": 0} | {f"{axis}{number}": 20.0 + 4 * number for number in range(16) for axis in "xy"}
    geometry = GEOMETRY.model_copy(update={"follow": "landmarks"})
    pd.DataFrame([row]).to_csv(tmp_path / "landmarks.csv", index=False)
    assert len(load_knees(tmp_path, FOLDER, geometry, "film")) == 1
    pd.DataFrame([row | wrong]).to_csv(tmp_path / "landmarks.csv", index=False)
    with pytest.raises(DatasetError, match=words):
        load_knees(tmp_path, FOLDER, geometry, "film")
