"""A table of ROIs as training data; joints are bright squares whose centres of mass are measured."""

import csv
import re
from dataclasses import fields

import cv2
import numpy as np
import pytest

from deepknee.dataset import load_split
from deepknee.patches import PatchGeometry
from deepknee.roi_row import RoiRow
from deepknee.rois import graded_rois, read_graded_roi
from deepknee.sources import DatasetError, GradedRoisSource

NAMES = [field.name for field in fields(RoiRow)]
MM = 0.4


def square(size=350, at=None):
    """A picture, black but for a square of 11 pixels on a point, by default the middle; even sizes get 12."""
    picture = np.zeros((size, size), np.uint8)
    x, y = at or ((size - 1) / 2,) * 2
    left, top = (int(np.ceil(v - 5.5)) for v in (x, y))
    picture[top : top + 12 - size % 2, left : left + 12 - size % 2] = 200
    return picture


def centroid(picture):
    rows, columns = np.indices(picture.shape)
    return np.array([(columns * picture).sum(), (rows * picture).sum()]) / picture.sum()


def write(folder, rows, pictures=()):
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures:
        cv2.imwrite(str(folder / name), picture)
    with (folder / "knees.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, NAMES, restval="")
        table.writeheader()
        table.writerows(rows)
    return folder


def row(file="a.png", subject="1", kl=2, **more):
    return {"file": file, "subject_id": subject, "kl": kl, "mm_per_px": MM, **more}


def read_one(folder, geometry, contrast="film"):
    (knee,) = graded_rois(folder)
    return read_graded_roi(knee, geometry, contrast)


def test_a_picture_of_the_geometrys_size_is_taken_as_it_is(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (350, 350)).astype(np.uint8)
    knee = read_one(write(tmp_path, [row()], [("a.png", picture)]), PatchGeometry())
    np.testing.assert_array_equal(knee.roi, picture)
    assert (knee.grade, knee.subject, knee.name) == (2, "1", str(tmp_path / "a.png"))


def test_dark_pictures_are_not_righted(tmp_path):
    """The film's header told the polarity: a bright soft part at the border is no reason to invert."""
    picture = np.full((350, 350), 40, np.uint8)
    picture[:, :40] = picture[:, -40:] = 200
    knee = read_one(write(tmp_path, [row()], [("a.png", picture)]), PatchGeometry())
    np.testing.assert_array_equal(knee.roi, picture)


@pytest.mark.parametrize("joint_mm", [(0.0, 0.0), (6.0, -8.0)])
def test_another_geometry_finds_the_joint_where_it_asks_for_it(tmp_path, joint_mm):
    geometry = PatchGeometry(roi_mm=100, roi_px=200, joint_mm=joint_mm, crop=180, patch=80, top=40)
    folder = write(tmp_path, [row(side="L")], [("a.png", square())])
    # 100 mm on 200 pixels: half a millimetre each; medial is at large x, as pictures of left knees are mirrored
    expected = 99.5 + np.array(joint_mm) / 0.5
    np.testing.assert_allclose(centroid(read_one(folder, geometry).roi), expected, atol=0.02)


def test_landmarks_are_followed_where_there_are_any(tmp_path):
    """Tibial edges 79 mm apart are at the scale of 1; half as far apart, everything is twice as large."""
    geometry = PatchGeometry(follow="landmarks", roi_mm=60, roi_px=120, crop=110, patch=50, top=30)
    for half_width, factor in ((79.0, 1.0), (39.5, 2.0)):
        points = np.full((16, 2), 174.5)
        points[[0, 9], 0], points[[8, 15], 0] = 174.5 - half_width / 2 / MM, 174.5 + half_width / 2 / MM
        text = ",".join(map(str, points.ravel()))
        folder = write(tmp_path / str(half_width), [row(points=text)], [("a.png", square())])
        roi = read_one(folder, geometry).roi
        np.testing.assert_allclose(centroid(roi), (59.5, 59.5), atol=0.02)
        expected = 12 * MM / 0.5 * factor
        assert np.sqrt(roi.sum() / 200) == pytest.approx(expected, rel=0.03)
    with pytest.raises(DatasetError, match=r"has no landmarks, as it was cut by a list of boxes"):
        read_one(write(tmp_path / "box", [row()], [("a.png", square())]), geometry)


def test_a_picture_that_stands_there_twice_is_refused(tmp_path):
    folder = write(tmp_path, [row(), row(subject="2", kl=3)], [("a.png", square())])
    with pytest.raises(DatasetError, match=r"knees\.csv: a\.png stands there twice"):
        graded_rois(folder)


def test_a_picture_that_shows_too_little_is_refused(tmp_path):
    folder = write(tmp_path, [row()], [("a.png", square(300))])
    with pytest.raises(DatasetError, match=r"shows 120\.0 mm around the joint, the experiment's geometry needs 140\.0"):
        read_one(folder, PatchGeometry())


def test_visits_of_a_subject_stay_in_one_fold(tmp_path):
    rows = [row(f"{s}_{v}.png", f"M{s}", (s + v) % 2, visit=v) for s in range(6) for v in range(2)]
    write(tmp_path / "all", rows, [(line["file"], square() + number) for number, line in enumerate(rows)])
    source = GradedRoisSource(source="graded_rois", train="all", val=None)
    train, val = load_split(tmp_path, source, PatchGeometry(), "film", folds=3, fold=0, seed=0)
    assert (len(train), len(val)) == (8, 4)
    assert not set(train.subjects) & set(val.subjects)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (row(kl=5), "knees.csv, line 2: kl is '5', must be 0 to 4"),
        (row(mm_per_px=0), "line 2: mm_per_px is '0', must be a positive number"),
        (row(mm_per_px="x"), "line 2: mm_per_px is 'x', points '': must be numbers"),
        (row(points="1,2,3"), "points is '1,2,3', must be empty or x,y of 16 landmarks"),
        (row(subject=""), "file is 'a.png' and subject_id '', neither may be empty"),
    ],
)
def test_a_row_that_cannot_be_says_where(tmp_path, line, words):
    with pytest.raises(DatasetError, match=re.escape(words)):
        graded_rois(write(tmp_path, [line]))


def test_a_table_that_is_none_says_how_to_get_one(tmp_path):
    with pytest.raises(DatasetError, match=r"create_grading_dataset\.py writes it"):
        graded_rois(tmp_path)
    (tmp_path / "knees.csv").write_text("file,kl\na.png,2\n")
    with pytest.raises(DatasetError, match="no column subject_id, mm_per_px, points; its columns are file, subject_id"):
        graded_rois(tmp_path)
