import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from doors import script

from kneel.film_task import DrawnKnee, FilmTask
from kneel.imaging.bonefinder import POINTS, landmarks_on_film, read_pts
from kneel.imaging.geometry import mirror_points
from kneel.imaging.schema import AnnotationError, read_annotations
from kneel.imaging.via import ViaKnee, ViaKnees, knees_of, read_via, via_entry
from kneel.phantom.oai import write_oai_phantom
from kneel.prepare import prepare_films
from kneel.prepare_cli import tell
from kneel.samples import load_samples
from kneel.sources import KneelSource

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts" / "data_stuff"
SPACING = 0.4
SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="module")
def download(tmp_path_factory):
    return write_oai_phantom(tmp_path_factory.mktemp("oai"), 2, seed=8, spacing_mm=SPACING)


def call(script, *arguments):
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def knee(side, kl=2):
    """A right knee's points at round numbers, or its mirror image on a film of 601 pixels."""
    x = np.r_[np.arange(100, 280, 20), np.arange(105, 280, 25)].astype(float)
    points = np.stack([x, np.r_[np.full(9, 210.0), np.full(7, 190.0)] + np.arange(16)], axis=1)
    return ViaKnee(side, kl, mirror_points(points, 601) if side == "L" else points)


def as_csv(entry):
    """VIA's other export of the same."""
    columns = "filename file_size file_attributes region_count region_id region_shape_attributes region_attributes"
    lines = [columns.split()]
    for number, region in enumerate(entry["regions"]):
        shape, attributes = json.dumps(region["shape_attributes"]), json.dumps(region["region_attributes"])
        film = [entry["filename"], entry["size"], json.dumps(entry["file_attributes"]), len(entry["regions"])]
        lines.append([*film, number, shape, attributes])
    lines[1:] = lines[:0:-1]  # their order is that of region_id, not of the rows
    return lines


def write_pts(path, points):
    """BoneFinder's text file of points, shape (N, 2)."""
    lines = "".join(f"{x:.6f} {y:.6f}\n" for x, y in points)
    path.write_text(f"version: 1\nn_points: {len(points)}\n{{\n{lines}}}\n", encoding="ascii")


def write(path, entry, form="json"):
    if form == "csv":
        with path.open("w", newline="") as stream:
            csv.writer(stream).writerows(as_csv(entry))
    else:
        films = {entry["filename"] + str(entry["size"]): entry}
        path.write_text(json.dumps({"_via_settings": {}, "_via_img_metadata": films} if form == "project" else films))
    return path


@pytest.mark.parametrize("form", ["json", "project", "csv"])
def test_what_is_written_is_read(tmp_path, form):
    film = ViaKnees("s1", (knee("R", 4), knee("L", 0)), True, (0.2, 0.3))
    (read,) = read_via(write(tmp_path / "via", via_entry("a/b.png", 12, film), form))
    found = knees_of(read)
    assert (found.subject_id, found.bilateral, found.spacing_mm) == ("s1", True, (0.2, 0.3))
    for got, expected in zip(found.knees, film.knees, strict=True):
        assert (got.side, got.kl) == (expected.side, expected.kl)
        np.testing.assert_array_equal(got.points, expected.points)


def test_polylines_and_the_authors_letters_are_the_same_knee(tmp_path):
    truth = knee("L", 3)
    regions = [
        {
            "shape_attributes": {
                "name": "polyline",
                "all_points_x": part[:, 0].tolist(),
                "all_points_y": part[:, 1].tolist(),
            },
            "region_attributes": {"Bone": bone, "Side": "L"},
        }
        for bone, part in (("F", truth.points[9:]), ("T", truth.points[:9]))
    ]
    attributes = {"KL_left": 3, "knees": "1"}
    entry = {"filename": "folder/9000099.png", "size": 1, "regions": regions, "file_attributes": attributes}
    found = knees_of(read_via(write(tmp_path / "via.json", entry))[0])
    assert (found.subject_id, found.bilateral, found.spacing_mm) == ("9000099", False, None)
    np.testing.assert_array_equal(found.knees[0].points, truth.points)


def spoil(entry, number, part, key, value):
    where = entry["file_attributes"] if number is None else entry["regions"][number][part]
    where.pop(key) if value is None else where.update({key: value})


@pytest.mark.parametrize(
    ("number", "part", "key", "value", "words"),
    [
        (3, "region_attributes", "side", "up", "region 3, region attribute side is 'up': must be one of left"),
        (3, "region_attributes", "bone", None, "region 3, region attribute bone is absent"),
        (3, "region_attributes", "bone", "femur", "right tibia: 8 points, must be 9"),
        (3, "shape_attributes", "name", "rect", "region 3, shape name is 'rect'"),
        (3, "shape_attributes", "cx", "far", "region 3, shape keys cx and cy"),
        (3, "shape_attributes", "cy", None, "region 3, shape keys cx and cy"),
        (3, "shape_attributes", "cx", 200, r"right tibia: point 4 \(x = 180\) is not medial of point 3 \(x = 200\)"),
        (None, "", "kl_right", "5", "kl_right is '5': must be 0 to 4"),
        (None, "", "knees", None, "knees is '': must be 1 or 2"),
        (None, "", "spacing_mm", "fine", "spacing_mm is 'fine'"),
    ],
)
def test_a_wrong_annotation_names_film_region_and_key(tmp_path, number, part, key, value, words):
    entry = via_entry("a.png", 1, ViaKnees("s", (knee("R"),), False, (0.2, 0.2)))
    spoil(entry, number, part, key, value)
    path = write(tmp_path / "via.json", entry)
    with pytest.raises(AnnotationError, match=words) as error:
        knees_of(read_via(path)[0])
    assert str(error.value).startswith(f"{path}: film a.png")


def test_a_left_knee_called_right_is_refused(tmp_path):
    entry = via_entry("a.png", 1, ViaKnees("s", (ViaKnee("R", 1, knee("L").points),), False, None))
    with pytest.raises(AnnotationError, match="on a right knee x must grow"):
        knees_of(read_via(write(tmp_path / "via.json", entry))[0])


@pytest.mark.parametrize("text", ["{", "[1]", "", "a,b\n1,2\n", '{"a": 3}', '{"a": {"regions": []}}', "\x89PNG"])
def test_what_is_no_export_is_refused(tmp_path, text):
    (tmp_path / "via").write_text(text)
    with pytest.raises(AnnotationError, match="via: "):
        read_via(tmp_path / "via")


def bonefinder_points(points, side, width):
    """74 points of which KNEEL takes the given ones: in mm, right knees on the film turned over."""
    out = np.full((74, 2), 5.0)
    out[list(POINTS)] = mirror_points(points, width) if side == "R" else points
    return out * SPACING


def test_bonefinders_points_by_hand(tmp_path):
    """On a film 11 pixels wide at (0.5, 0.25) mm: x = 1 mm is pixel 4; of a turned film pixel 10 - 4."""
    points = np.zeros((74, 2))
    points[47], points[24] = (1.0, 1.0), (2.0, 3.0)
    write_pts(tmp_path / "a.pts", points)
    left, right = (landmarks_on_film(read_pts(tmp_path / "a.pts"), side, (0.5, 0.25), 11) for side in "LR")
    assert (left[0].tolist(), left[15].tolist()) == ([4, 2], [8, 6])
    assert (right[0].tolist(), right[15].tolist()) == ([6, 2], [2, 6])
    assert POINTS[:9] == (47, 49, 51, 53, 55, 57, 59, 61, 63)
    assert POINTS[9:] == (12, 14, 16, 18, 20, 22, 24)
    with pytest.raises(AnnotationError, match="below 60 points"):
        landmarks_on_film(points[:60], "L", (1.0, 1.0), 11)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 2\n", "must be 'version: 1'"),
        ("version: 1\nn_points: 2\n{\n1 2\n}\n", "n_points is 2, but 1 lines"),
        ("version: 1\nn_points: 1\n{\n1 x\n}\n", "point 0 is '1 x'"),
        ("version: 1\nn_points: 1\n{\n1 nan\n}\n", "point 0 is '1 nan'"),
    ],
)
def test_a_broken_pts_file_is_refused(tmp_path, text, words):
    (tmp_path / "a.pts").write_text(text)
    with pytest.raises(AnnotationError, match=words):
        read_pts(tmp_path / "a.pts")


def write_points(download, folder):
    """BoneFinder's files for the phantom's truth, laid out as for the OAI; grades beside."""
    grades = ["subject_id,side,kl"]
    for index, knee in enumerate(download.knees):
        stem = folder / download.folders[index // 2] / "001"
        stem.parent.mkdir(parents=True, exist_ok=True)
        film = download.root / download.folders[index // 2] / "001"
        width = pydicom.dcmread(film, stop_before_pixels=True).Columns
        points = bonefinder_points(knee.film_points((SPACING,) * 2), knee.side, width)
        write_pts(stem.with_name("001_f.pts" if knee.side == "R" else "001.pts"), points)
        grades.append(f"{knee.subject_id},{knee.side},{knee.kl}")
    (folder / "kl.csv").write_text("\n".join(grades) + "\n")


def test_from_bonefinder_over_via_to_the_samples_of_training(download, tmp_path):
    """All the way round: the phantom's truth comes back, to a hundredth of a pixel, in what training loads."""
    write_points(download, tmp_path / "pts")
    to_via = ["--films", download.root, "--pts", tmp_path / "pts", "--out", tmp_path / "via", "--subject-part", 1]
    result = call("bf_landmarks_to_via.py", *to_via, "--kl", tmp_path / "pts" / "kl.csv")
    assert result.returncode == 0, result.stderr
    data = ["--via", tmp_path / "via" / "via.json", "--films", tmp_path / "via", "--out", tmp_path / "data"]
    result = call("create_datasets_from_via.py", *data)
    assert result.returncode == 0, result.stderr
    assert "4 of 4 knees of 2 subjects" in result.stdout
    got = {(k.subject_id, k.side): k for k in read_annotations(tmp_path / "data" / "bf_landmarks_1_0.3.csv")}
    for knee in download.knees:
        again = got[knee.subject_id, knee.side]
        assert again.kl == knee.kl
        np.testing.assert_allclose(again.film_points((0.3, 0.3)), knee.film_points((0.3, 0.3)), atol=0.01)
    for stage, images, spacing in (("hc", "hc_rois", 0.3), ("lc", "lc_films", 1.0)):
        source = KneelSource(source="kneel_csv", annotations="bf_landmarks_1_0.3.csv", images=images)
        assert len(load_samples(tmp_path / "data", source, "train", stage, spacing_mm=spacing, margin=0)) == 4


def test_films_that_cannot_be_used_are_listed_and_the_rest_goes_on(download, tmp_path):
    write_points(download, tmp_path / "pts")
    broken = tmp_path / "pts" / download.folders[0] / "001.pts"
    broken.write_text("nothing")
    (tmp_path / "pts" / "lonely.pts").write_text("")
    to_via = ["--films", download.root, "--pts", tmp_path / "pts", "--out", tmp_path / "via", "--subject-part", 1]
    result = call("bf_landmarks_to_via.py", *to_via)
    assert result.returncode == 1
    assert "1 of 3 films" in result.stdout
    assert f"missing: {broken}" in result.stderr
    assert "there is none" in result.stderr
    # grades were not given: the film is refused by name and key, and so is one that is not there
    via = tmp_path / "via" / "via.json"
    entries = json.loads(via.read_text())
    (entry,) = entries.values()
    graded = {"kl_left": "1", "kl_right": "2"}
    entries["2"] = {**entry, "filename": "gone.png", "file_attributes": {**graded, "subject": "x"}}
    entries["3"] = {**entry, "file_attributes": {**graded, "subject": "y", "spacing_mm": str(SPACING)}}
    entries["4"] = {**entry, "file_attributes": {**graded, "subject": "y", "spacing_mm": str(SPACING)}}
    entries["5"] = {**entry, "filename": "other.png", "file_attributes": {**graded, "subject": "z"}}
    picture = cv2.imread(str(via.parent / entry["filename"]), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(via.parent / "other.png"), cv2.blur(picture, (3, 3)))  # the same picture would be refused
    via.write_text(json.dumps(entries))
    result = call("create_datasets_from_via.py", "--via", via, "--films", via.parent, "--out", tmp_path / "data")
    assert result.returncode == 1
    for words in ("kl_right is ''", "gone.png: no such film", "already has the film", "neither its header nor you say"):
        assert words in result.stderr
    assert "2 of 9 knees of 1 subjects" in result.stdout
    more = call(
        "create_datasets_from_via.py",
        "--via",
        via,
        "--films",
        via.parent,
        "--out",
        tmp_path / "data",
        "--spacing",
        SPACING,
    )
    assert "4 of 9 knees of 2 subjects" in more.stdout
    assert "1 subjects were finished before" in more.stdout


def test_corrections_saved_under_its_name_are_not_replaced(download, tmp_path):
    write_points(download, tmp_path / "pts")
    to_via = ["--films", download.root, "--pts", tmp_path / "pts", "--out", tmp_path, "--subject-part", 1]
    (tmp_path / "via.json").write_text("corrected")
    result = call("bf_landmarks_to_via.py", *to_via)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "via.json: is there, and may hold corrections" in result.stderr
    assert (tmp_path / "via.json").read_text() == "corrected"
    assert not list(tmp_path.glob("*.png"))
    assert call("bf_landmarks_to_via.py", *to_via, "--overwrite").returncode == 0
    assert len(read_via(tmp_path / "via.json")) == 2


def test_whether_the_other_knee_is_on_the_film_is_asked_and_not_guessed(download, tmp_path):
    write_points(download, tmp_path / "pts")
    (tmp_path / "pts" / download.folders[0] / "001.pts").unlink()
    to_via = ["--films", download.root, "--pts", tmp_path / "pts", "--out", tmp_path / "via", "--subject-part", 1]
    assert call("bf_landmarks_to_via.py", *to_via, "--kl", tmp_path / "pts" / "kl.csv").returncode == 0
    second, first = read_via(tmp_path / "via" / "via.json")  # 0.C.2 comes before 0.E.1
    with pytest.raises(AnnotationError, match="knees is '': must be 1 or 2"):
        knees_of(first)
    assert len(knees_of(second).knees) == 2


def test_a_film_seen_from_behind_is_refused_on_both_ways(download, tmp_path):
    """Its knees' sides are what they look like, and the grades are the patient's."""
    root = tmp_path / "OAI"
    shutil.copytree(download.root, root)
    dataset = pydicom.dcmread(root / download.folders[0] / "001")
    dataset.PatientOrientation = ["R", "F"]
    dataset.save_as(root / download.folders[0] / "001")
    write_points(download, tmp_path / "pts")
    to_via = ["--films", root, "--pts", tmp_path / "pts", "--out", tmp_path, "--subject-part", 1]
    result = call("bf_landmarks_to_via.py", *to_via, "--kl", tmp_path / "pts" / "kl.csv")
    assert result.returncode == 1
    assert f"{root / download.folders[0] / '001'}: PatientOrientation says that the film is seen" in result.stderr
    assert [film.attributes["subject"] for film in read_via(tmp_path / "via.json")] == [download.knees[2].subject_id]
    drawn = [DrawnKnee(knee.side, knee.kl, knee.film_points((SPACING,) * 2)) for knee in download.knees[:2]]
    film = FilmTask("s", root / download.folders[0] / "001", tuple(drawn), "detector")
    done = prepare_films(tmp_path / "data", [film])
    assert [problem.side for problem in done.missing] == ["LR"]
    assert "seen from behind" in done.missing[0].problem
    assert done.knees == ()


def test_one_picture_under_two_subjects_is_refused(download, tmp_path):
    """One knee under two names would be trained on and validated on; which name is right cannot be told."""
    one, other = (tmp_path / name for name in ("one", "other"))
    shutil.copy(download.root / download.folders[0] / "001", one)
    dataset = pydicom.dcmread(one)
    dataset.PatientID, dataset.InstanceNumber = "another", "7"  # another file of the same pixels
    dataset.save_as(other)
    assert one.read_bytes() != other.read_bytes()
    drawn = [
        tuple(DrawnKnee(knee.side, knee.kl, knee.film_points((SPACING,) * 2)) for knee in download.knees[at : at + 2])
        for at in (0, 2)
    ]
    third = FilmTask("c", download.root / download.folders[1] / "001", drawn[1], "detector")
    films = [FilmTask(path.name, path, drawn[0], "detector") for path in (one, other)] + [third]
    for _ in "first", "again":
        done = prepare_films(tmp_path / "data", films)
        assert {(problem.subject_id, problem.side) for problem in done.missing} == {
            (name, side) for name in ("one", "other") for side in "LR"
        }
        assert done.missing[0].problem.startswith("duplicate: the same picture as the film of other; ")
        assert (len(done.knees), done.asked) == (2, 6)
        assert {knee.subject_id for knee in read_annotations(tmp_path / "data" / "bf_landmarks_1_0.3.csv")} == {"c"}
        assert not any("left by an earlier run" in problem.problem for problem in done.problems)
    assert done.skipped == 3


def test_films_of_one_patient_under_two_subjects_are_told_once(download, tmp_path, capsys):
    """Without the attribute subject every file is a subject: two films of a person part at the folds."""
    drawn = download.knees[0]
    knees = (DrawnKnee(drawn.side, drawn.kl, drawn.film_points((SPACING,) * 2)),)
    dataset = pydicom.dcmread(download.root / download.folders[0] / "001")
    picture, films = dataset.pixel_array.copy(), []
    for number, patient in enumerate(["P1", "P1", "P2", "s3", ""]):
        picture[0, 0] = number  # no copies
        dataset.PixelData, dataset.PatientID = picture.tobytes(), patient
        dataset.save_as(tmp_path / f"s{number}")
        films.append(FilmTask(f"s{number}", tmp_path / f"s{number}", knees, "detector"))
    done = prepare_films(tmp_path / "data", films)
    assert len(done.knees) == 5
    notes = [(problem.subject_id, problem.problem) for problem in done.problems]
    assert [name for name, _ in notes] == ["", "s2"]
    assert notes[0][1].startswith("PatientID is 'P1' in the films of 2 subjects: s0, s1. Unless an anonymiser")
    assert "VIA the file attribute subject" in notes[0][1]
    assert notes[1][1] == "PatientID is 'P2'"
    tell(done, tmp_path / "data")
    assert capsys.readouterr().err.startswith("note    PatientID is 'P1' in the films of 2 subjects")
    assert prepare_films(tmp_path / "data", films).problems == done.problems  # of records that were there


def test_two_films_of_one_subject_are_both_refused_and_no_picture_is_written(download, tmp_path):
    """Without --subject-part all films of the OAI are subject 001: no points may meet another film's picture."""
    write_points(download, tmp_path / "pts")
    to_via = ["--films", download.root, "--pts", tmp_path / "pts", "--out", tmp_path / "via"]
    result = call("bf_landmarks_to_via.py", *to_via)
    assert result.returncode == 1
    assert result.stderr.count("films are of subject 001") == len(download.folders)
    assert not list((tmp_path / "via").glob("*.png"))
    assert call("bf_landmarks_to_via.py", *to_via, "--spacing", "-0.2").returncode == 2


def test_points_can_be_chosen(download, tmp_path):
    write_points(download, tmp_path / "pts")
    shutil.rmtree(tmp_path / "pts" / download.folders[1])
    table = tmp_path / "points.csv"
    table.write_text("landmark,index\n" + "".join(f"{n},{i}\n" for n, i in enumerate(POINTS)))
    common = ["--films", download.root, "--pts", tmp_path / "pts", "--subject-part", 1]
    for name, more in (("a", []), ("b", ["--points", table])):
        assert call("bf_landmarks_to_via.py", *common, "--out", tmp_path / name, *more).returncode == 0
    assert (tmp_path / "a" / "via.json").read_text() == (tmp_path / "b" / "via.json").read_text()
    table.write_text("landmark,index\n0,1\n")
    result = call("bf_landmarks_to_via.py", *common, "--out", tmp_path / "c", "--points", table)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "must be each of 0 to 15 once" in result.stderr


def test_a_knee_of_two_grades_and_a_landmark_of_two_points_are_refused(tmp_path):
    """Of a table of several visits, such as the OAI's, the last one would be taken."""
    command, table = script("data_stuff/bf_landmarks_to_via"), tmp_path / "t.csv"
    table.write_text("subject_id,side,kl\n9,L,1\n9,R,2\n9,L,1\n")
    assert command.read_grades(table) == {("9", "L"): 1, ("9", "R"): 2}
    table.write_text("subject_id,side,kl\n9,L,1\n9,R,2\n9,L,3\n")
    with pytest.raises(AnnotationError, match="line 4: kl of 9 L is 3, and 1 in a line before"):
        command.read_grades(table)
    table.write_text("landmark,index\n" + "".join(f"{n},{n}\n" for n in [*range(16), 3]).replace("3,3\n", "3,5\n", 1))
    with pytest.raises(AnnotationError, match="line 18: landmark 3 stands there twice"):
        command.read_indices(table)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the authors' table is not here")
def test_the_authors_own_points_pass_the_check_of_their_order(tmp_path):
    """What VIA annotations are refused for never happens in the authors' 748 knees."""
    for number, annotated in enumerate(read_annotations(SHARED / "kneel" / "bf_landmarks_1_0.3.csv")[::40]):
        film = ViaKnees("s", (ViaKnee(annotated.side, annotated.kl, annotated.film_points((0.3, 0.3))),), False, None)
        (read,) = read_via(write(tmp_path / f"{number}.json", via_entry("a.png", 1, film)))
        np.testing.assert_allclose(knees_of(read).knees[0].points, film.knees[0].points, atol=1e-3)
