import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from dicom_files import deny_polarity

from kneel.film_task import DrawnKnee, FilmTask, Problem
from kneel.imaging.dicom import read_radiograph
from kneel.imaging.geometry import mirror_points, resize_points
from kneel.imaging.oai import ContentsError, choose_film, detector_spacing, read_contents
from kneel.imaging.radiograph import normalize_percentiles
from kneel.imaging.schema import CENTER, ROI_SIZE, AnnotationError, KneeAnnotation, read_annotations, write_annotations
from kneel.phantom.oai import COLUMNS, write_contents, write_oai_phantom
from kneel.prepare import TABLE, prepare_films
from kneel.samples import load_samples
from kneel.sources import KneelSource

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
DOOR = ROOT / "scripts" / "data_stuff" / "create_train_dataset_from_oai.py"
SPACING = 0.4
HC = KneelSource(source="kneel_csv", annotations=TABLE, images="hc_rois")
LC = KneelSource(source="kneel_csv", annotations=TABLE, images="lc_films")


@pytest.fixture(scope="module")
def download(tmp_path_factory):
    return write_oai_phantom(tmp_path_factory.mktemp("oai"), 3, seed=4, spacing_mm=SPACING)


@pytest.fixture
def copy(download, tmp_path):
    """A download of one's own to spoil: its root, its subjects in order and their folders."""
    root = tmp_path / "OAI_00m"
    shutil.copytree(download.root, root)
    return root, [knee.subject_id for knee in download.knees[::2]], download.folders


def tasks_of(download):
    pairs = [download.knees[index : index + 2] for index in range(0, len(download.knees), 2)]
    return [
        FilmTask(pair[0].subject_id, download.root / folder / "001", tuple(pair), "detector")
        for pair, folder in zip(pairs, download.folders, strict=True)
    ]


def door(root, annotations, out, *more):
    """The script, as a user calls it."""
    command = [sys.executable, str(DOOR), "--annotations", str(annotations), "--out", str(out), *more, "--oai"]
    roots = root if isinstance(root, list) else [root]
    return subprocess.run([*command, *map(str, roots)], capture_output=True, text=True, cwd=ROOT)


def problems_in(out):
    with (out / "problems.csv").open(encoding="utf-8") as stream:
        return [Problem(**row) for row in csv.DictReader(stream)]


def squares(truth):
    """A film, black but for a square on each knee's centre and lateral tibial edge."""
    pixels = np.zeros((800, 1075), np.uint16)
    for points, value in truth:
        for index in (0, CENTER):
            x, y = np.rint(points[index]).astype(int)
            pixels[y - 6 : y + 7, x - 6 : x + 7] = value
    return pixels


def centroid(picture, near, radius=14):
    """Centre of mass of the bright square near a point: another road to where a point went."""
    left, top = np.rint(near).astype(int) - radius
    patch = picture[top : top + 2 * radius + 1, left : left + 2 * radius + 1].astype(float)
    rows, columns = np.indices(patch.shape)
    return np.array([(columns * patch).sum(), (rows * patch).sum()]) / patch.sum() + (left, top)


@pytest.mark.parametrize("kind", ["detector", "calibrated"])
def test_pictures_show_every_point_where_the_table_says(download, tmp_path, kind):
    """Squares on the film's truth; their centres of mass in the pictures that training loads, in a quarter pixel."""
    dataset = pydicom.dcmread(download.root / download.folders[0] / "001")
    spacing = (SPACING, SPACING)
    truth = {knee.side: knee.film_points(spacing) for knee in download.knees[:2]}
    pixels = squares([(np.rint(truth["R"]), 900), (np.rint(truth["L"]), 1000)])
    dataset.PixelData, (dataset.Rows, dataset.Columns) = pixels.tobytes(), pixels.shape
    dataset.PhotometricInterpretation, dataset.PresentationLUTShape = "MONOCHROME2", "IDENTITY"
    if kind == "calibrated":  # reading would take 0.35: the table is in the detector's millimetres
        dataset.PixelSpacing = [0.35, 0.35]
        dataset.EstimatedRadiographicMagnificationFactor = "1.14"
    path = tmp_path / "001"
    dataset.save_as(path)
    knees = tuple(KneeAnnotation.from_film("7", side, 1, np.rint(truth[side]), spacing) for side in "RL")
    done = prepare_films(tmp_path / "out", [FilmTask("7", path, knees, "detector")])
    assert [row.spacing_kind for row in done.knees] == ["detector"] * 2
    for sample in load_samples(tmp_path / "out", HC, "train", "hc", spacing_mm=0.3, margin=0):
        assert sample.points[0, 0] < sample.points[8, 0] - 100  # lateral at small x, left knees too
        for index in (0, CENTER):
            np.testing.assert_allclose(centroid(sample.picture, sample.points[index]), sample.points[index], atol=0.25)
        others = sample.picture[:, ROI_SIZE // 2 + 40 :]
        assert others.max() == 0  # nothing on the medial side: the square of point 0 was mirrored with the point
    for sample in load_samples(tmp_path / "out", LC, "train", "lc", spacing_mm=1.0, margin=0):
        np.testing.assert_allclose(centroid(sample.picture, sample.points[0], 6), sample.points[0], atol=0.25)


def test_a_download_becomes_a_data_set(download, tmp_path):
    result = door(download.root, download.annotations, tmp_path / "out", "--jobs", "2")
    assert result.returncode == 0, result.stderr
    assert "6 of 6 knees of 3 subjects" in result.stdout
    assert problems_in(tmp_path / "out") == []
    with (tmp_path / "out" / "knees.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["subject_id"], row["side"]) for row in rows] == [(k.subject_id, k.side) for k in download.knees]
    for row, knee in zip(rows, download.knees, strict=True):
        assert row["roi"] == f"hc_rois/{knee.subject_id}_{knee.kl}_{knee.side}.png"
        assert (float(row["spacing_row_mm"]), row["spacing_kind"]) == (SPACING, "detector")
        film = Path(row["film"])
        assert film.name == "001"
        assert int(row["film_bytes"]) == film.stat().st_size
        picture = cv2.imread(str(tmp_path / "out" / row["roi"]), cv2.IMREAD_UNCHANGED)
        assert (picture.shape, picture.dtype) == ((ROI_SIZE, ROI_SIZE), np.uint8)
        # the film's own grey levels, interpolated by hand at the centre
        radiograph = read_radiograph(film)
        grey = normalize_percentiles(radiograph.pixels, padding=radiograph.padding) * 255
        on_film = knee.film_points((SPACING,) * 2)[CENTER].tolist()
        expected = cv2.getRectSubPix(cv2.GaussianBlur(grey, (0, 0), 6), (1, 1), on_film)
        blurred = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 8)
        got = cv2.getRectSubPix(blurred, (1, 1), knee.points[CENTER].tolist())
        assert abs(expected.item() - got.item()) < 3
    for sample, knee in zip(
        load_samples(tmp_path / "out", HC, "train", "hc", spacing_mm=0.3, margin=0), download.knees, strict=True
    ):
        np.testing.assert_allclose(sample.points, knee.points, atol=1e-3)


def test_what_is_missing_is_listed_by_subject(copy, download, tmp_path):
    root, subjects, folders = copy
    (root / folders[0] / "001").unlink()
    (root / folders[1] / "001").write_bytes((root / folders[1] / "001").read_bytes()[:20_000])
    stranger = KneeAnnotation("8000000", "R", 1, download.knees[0].points, (10, 10))
    table = tmp_path / "table.csv"
    write_annotations(table, [*download.knees, stranger])
    result = door(root, table, tmp_path / "out")
    assert result.returncode == 1
    assert "2 of 7 knees of 1 subjects" in result.stdout
    found = {problem.subject_id: problem for problem in problems_in(tmp_path / "out")}
    assert set(found) == {subjects[0], subjects[1], "8000000"}
    assert all(problem.kind == "missing" for problem in found.values())
    assert "001: missing" in found[subjects[0]].problem
    assert "truncated" in found[subjects[1]].problem
    assert found["8000000"].problem == "no row in contents.csv"
    for subject in found:
        assert subject in result.stderr
    # what is listed as there can be trained on as it is
    assert len(load_samples(tmp_path / "out", HC, "train", "hc", spacing_mm=0.3, margin=0)) == 2
    assert len(load_samples(tmp_path / "out", LC, "train", "lc", spacing_mm=1.0, margin=0)) == 2


def test_only_bilateral_fixed_flexion_films_are_taken_in_whatever_case(copy):
    root, subjects, folders = copy
    names = ["BILATERAL PA  fixed flexion knee", "PA Fixed Flexion Right Knee", "AP Pelvis"]
    rows = [(f, s, "20040101", "1", "x", name) for f, s, name in zip(folders, subjects, names, strict=True)]
    write_contents(root, rows)
    films = read_contents(root)
    choices = [choose_film([film for film in films if film.subject_id == subject]) for subject in subjects]
    assert choices[0].film == films[0]
    assert choices[1].film is None
    assert "only 'PA Fixed Flexion Right Knee'" in choices[1].remark
    assert "only 'AP Pelvis'" in choices[2].remark


def test_of_two_films_the_earliest_is_taken_and_said(copy, download, tmp_path):
    root, subjects, folders = copy
    later, first = f"0.C.2/{subjects[0]}/20050101/7", f"0.C.2/{subjects[0]}/20030101/8"
    for folder in (later, first):
        shutil.copytree(root / folders[0], root / folder)
    gone = f"0.A.2/{subjects[0]}/20030101/9"  # of the same day and before it, but its file is not there
    name = "Bilateral PA Fixed Flexion Knee"
    write_contents(root, [(f, subjects[0], f.split("/")[2], "1", "x", name) for f in (later, first, folders[0], gone)])
    table = tmp_path / "table.csv"
    write_annotations(table, download.knees[:2])
    result = door(root, table, tmp_path / "out")
    assert result.returncode == 0  # a decision, not a loss
    (problem,) = problems_in(tmp_path / "out")
    assert problem.kind == "note"
    assert f"took {first}" in problem.problem
    assert all(folder in problem.problem for folder in (later, folders[0], gone))
    assert first in (tmp_path / "out" / "knees.csv").read_text()


def test_a_later_visit_never_stands_in_for_a_missing_baseline(copy):
    """The points belong to the first film: on the second they would lie on a knee that is years older."""
    root, subjects, folders = copy
    name = "Bilateral PA Fixed Flexion Knee"
    gone = f"0.C.2/{subjects[0]}/20030101/9"
    rows = [(folder, subjects[0], folder.split("/")[2], "1", "x", name) for folder in (folders[0], gone)]
    write_contents(root, rows)
    choice = choose_film(read_contents(root))
    assert choice.film is None
    assert choice.remark.startswith(str(root / gone / "001"))
    assert "missing" in choice.remark


def test_without_a_film_of_the_baseline_the_subject_is_missing(copy, download, tmp_path):
    """At the baseline one subject was filmed a knee at a time, another not at all; the third has both visits."""
    root, subjects, folders = copy
    name, later = "Bilateral PA Fixed Flexion Knee", [f"1.C.2/{subject}/20050101/7" for subject in subjects]
    for old, folder in zip(folders, later, strict=True):
        shutil.copytree(root / old, root / folder)
    rows = [(folder, subject, "20050101", "1", "x", name) for folder, subject in zip(later, subjects, strict=True)]
    rows.append((f"0.C.2/{subjects[0]}/20040101/8", subjects[0], "20040101", "1", "x", "PA Fixed Flexion Right Knee"))
    rows.append((folders[2], subjects[2], "20040101", "1", "x", name))
    write_contents(root, rows)
    result = door(root, download.annotations, tmp_path / "out")
    assert result.returncode == 1
    first, second = problems_in(tmp_path / "out")  # nothing about the third: its later film is none to choose from
    assert [(first.subject_id, first.kind), (second.subject_id, second.kind)] == [(s, "missing") for s in subjects[:2]]
    assert first.problem.endswith("only 'PA Fixed Flexion Right Knee'")
    assert "no row of the baseline" in second.problem
    assert "only of 1.C.2" in second.problem
    knees = (tmp_path / "out" / "knees.csv").read_text()
    assert folders[2] in knees
    assert "1.C.2" not in knees


def test_dates_are_compared_as_dates(copy):
    """As text, 2004-02-01 would come before 20040101."""
    root, subjects, folders = copy
    name, later = "Bilateral PA Fixed Flexion Knee", f"0.C.2/{subjects[0]}/20040201/1"
    shutil.copytree(root / folders[0], root / later)
    for day, words in (("2004-02-01", f"took {folders[0]}"), ("2/1/2004", "must be a date such as 20050512")):
        rows = [(later, subjects[0], day, "1", "x", name), (folders[0], subjects[0], "20040101", "1", "x", name)]
        write_contents(root, rows)
        assert words in choose_film(read_contents(root)).remark
    write_contents(root, rows[:1])
    assert choose_film(read_contents(root)).film is not None  # one film needs no date


def test_tables_of_an_earlier_run_do_not_outlive_its_pictures(copy, download, tmp_path, monkeypatch):
    """Other points, and the run is broken off: no table may vouch for pictures of either."""
    root, _, _ = copy
    table = tmp_path / "table.csv"
    write_annotations(table, download.knees)
    assert door(root, table, tmp_path / "out").returncode == 0
    tables = [tmp_path / "out" / name for name in ("bf_landmarks_1_0.3.csv", "knees.csv", "problems.csv")]
    assert all(path.is_file() for path in tables)

    def broken(work, tasks, jobs):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("kneel.imaging.finished.run_tasks", broken)
    task = FilmTask("s", root / "none", tuple(download.knees[:1]))
    with pytest.raises(KeyboardInterrupt):
        prepare_films(tmp_path / "out", [task], [])
    assert not any(path.exists() for path in tables)


def test_releases_in_several_folders_complete_each_other(copy, download, tmp_path):
    root, _, folders = copy
    other = tmp_path / "second"
    shutil.copytree(root, other)
    shutil.rmtree(root / folders[0])
    shutil.rmtree(other / folders[1])
    result = door([root, other], download.annotations, tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert "6 of 6" in result.stdout
    assert problems_in(tmp_path / "out") == []  # one Folder in two releases is one film


def test_points_off_the_film_are_listed_knee_by_knee(download, tmp_path):
    """A film of one knee under the name of a bilateral one: the right half was cut off."""
    task = tasks_of(download)[0]
    dataset = pydicom.dcmread(task.path)
    half = np.ascontiguousarray(dataset.pixel_array[:, : dataset.Columns // 2])
    dataset.PixelData, dataset.Columns, dataset.ImageLaterality = half.tobytes(), half.shape[1], "R"
    dataset.save_as(tmp_path / "001")
    done = prepare_films(tmp_path / "out", [FilmTask(task.subject_id, tmp_path / "001", task.knees, "detector")])
    assert [knee.side for knee in done.knees] == ["R"]
    (missing,) = done.missing
    assert (missing.side, missing.subject_id) == ("L", task.subject_id)
    assert "lie outside the film" in missing.problem
    assert any("shows the R knee only" in problem.problem for problem in done.problems)
    assert not list((tmp_path / "out" / "hc_rois").glob("*_L.png"))
    again = prepare_films(tmp_path / "out", [FilmTask(task.subject_id, tmp_path / "001", task.knees, "detector")])
    assert again.problems == done.problems  # also by a run that finds the subject finished
    assert again.skipped == 1


def test_a_film_that_lies_upside_down_by_its_header_is_noted_with_what_to_do(download, tmp_path):
    task = tasks_of(download)[0]
    dataset = pydicom.dcmread(task.path)
    dataset.PatientOrientation = ["L", "H"]
    dataset.save_as(tmp_path / "001")
    done = prepare_films(tmp_path / "out", [FilmTask(task.subject_id, tmp_path / "001", task.knees, "detector")])
    (problem,) = done.problems
    assert (problem.kind, problem.film, len(done.knees)) == ("note", str(tmp_path / "001"), 2)
    assert problem.problem.startswith("PatientOrientation says that the film lies upside down; it was taken as it is")
    assert "look at its pictures, and leave it out if" in problem.problem


def test_dark_bone_that_the_header_denies_is_righted_and_noted(download, tmp_path):
    task = tasks_of(download)[0]
    shutil.copy(task.path, tmp_path / "001")
    deny_polarity(tmp_path / "001")
    plain = prepare_films(tmp_path / "plain", [task])
    wrong = prepare_films(tmp_path / "wrong", [FilmTask(task.subject_id, tmp_path / "001", task.knees, "detector")])
    assert plain.problems == ()
    (problem,) = wrong.problems
    assert (problem.kind, problem.problem[:24], len(wrong.knees)) == ("note", "its knees have dark bone", 2)
    pictures = sorted(path.relative_to(tmp_path / "plain") for path in (tmp_path / "plain").rglob("*.png"))
    assert len(pictures) == 3
    for name in pictures:
        mine, other = (cv2.imread(str(tmp_path / root / name), cv2.IMREAD_GRAYSCALE) for root in ("wrong", "plain"))
        np.testing.assert_allclose(mine.astype(int), other.astype(int), atol=2)


def test_a_film_without_spacing_is_listed(download, tmp_path):
    task = tasks_of(download)[0]
    dataset = pydicom.dcmread(task.path)
    del dataset.ImagerPixelSpacing
    dataset.save_as(tmp_path / "001")
    for spacing, words in (("detector", "no ImagerPixelSpacing"), ("header", "no spacing")):
        done = prepare_films(tmp_path / "out", [FilmTask(task.subject_id, tmp_path / "001", task.knees, spacing)])
        assert done.knees == ()
        assert (done.missing[0].side, done.asked) == ("LR", 2)
        assert words in done.missing[0].problem


def test_a_spacing_for_films_that_do_not_say_it_serves_only_those(download, tmp_path):
    task = tasks_of(download)[0]
    dataset = pydicom.dcmread(task.path)
    del dataset.ImagerPixelSpacing
    dataset.save_as(tmp_path / "001")
    rows = {}
    for name, path, given in (("silent", tmp_path / "001", SPACING), ("said", task.path, 3 * SPACING)):
        asked = FilmTask(task.subject_id, path, task.knees, "header", (given, given))
        rows[name] = prepare_films(tmp_path / name, [asked]).knees
    assert [row.spacing_kind for row in rows["silent"]] == ["given"] * 2
    assert [row.spacing_kind for row in rows["said"]] == ["detector"] * 2
    for row in rows["silent"]:
        assert (tmp_path / "silent" / row.roi).read_bytes() == (tmp_path / "said" / row.roi).read_bytes()


def test_a_broken_run_goes_on_where_it_stopped(download, tmp_path):
    out, tasks = tmp_path / "out", tasks_of(download)
    first = prepare_films(out, tasks)
    assert (first.skipped, len(first.knees), first.problems) == (0, 6, ())
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*/*.png")}
    bytes_before = {path: path.read_bytes() for path in kept}
    lost, cut, low = out / first.knees[0].roi, out / first.knees[2].roi, out / first.knees[4].lc
    lost.unlink()
    cut.write_bytes(bytes_before[cut][:-1000])
    cv2.imwrite(str(low), np.zeros((5, 5), np.uint8))
    (out / "hc_rois" / "half.png.part").write_bytes(b"x")  # never counts
    again = prepare_films(out, tasks)
    assert (again.skipped, again.knees) == (0, first.knees)  # each subject had lost something
    assert {path: path.read_bytes() for path in kept} == bytes_before
    lost.unlink()
    once = prepare_films(out, tasks)
    assert once.skipped == 2
    assert lost.read_bytes() == bytes_before[lost]


def test_another_grade_or_film_is_cut_anew_and_the_old_picture_named(download, tmp_path):
    out, (task, *_) = tmp_path / "out", tasks_of(download)
    prepare_films(out, [task])
    knee = task.knees[0]
    other = KneeAnnotation(knee.subject_id, knee.side, (knee.kl + 1) % 5, knee.points, knee.origin)
    done = prepare_films(out, [FilmTask(task.subject_id, task.path, (other,), "detector")])
    assert done.skipped == 0
    assert [row.kl for row in done.knees] == [other.kl]
    assert {problem.film for problem in done.problems} == {
        f"hc_rois/{k.subject_id}_{k.kl}_{k.side}.png" for k in task.knees
    }
    record = out / "records" / f"{task.subject_id}.json"
    record.write_text(json.dumps({"of": "another writing"}))
    assert prepare_films(out, [FilmTask(task.subject_id, task.path, (other,), "detector")]).skipped == 0


def test_a_knee_that_runs_the_wrong_way_is_refused(download, tmp_path):
    task = tasks_of(download)[0]
    points = task.knees[0].film_points((SPACING, SPACING))
    done = prepare_films(tmp_path, [FilmTask("1", task.path, (DrawnKnee("L", 0, points),))])
    assert done.knees == ()
    assert "x must fall: wrong side" in done.missing[0].problem


def test_a_film_of_one_knee_gets_room_for_the_other(download, tmp_path):
    """Low-cost pictures are halved: half of the picture must be the whole film."""
    pixels = np.zeros((400, 301), np.uint8)
    pixels[:, 150:] = 60
    cv2.imwrite(str(tmp_path / "film.png"), pixels)
    x = np.concatenate([np.linspace(250, 90, 9), np.linspace(240, 80, 7)])
    points = np.stack([x, np.r_[np.full(9, 210.0), np.full(7, 190.0)]], axis=1)
    for side, drawn in (("L", points), ("R", mirror_points(points, 301))):
        out = tmp_path / side
        task = FilmTask("1", tmp_path / "film.png", (DrawnKnee(side, 2, drawn),), (0.5, 0.5), bilateral=False)
        assert prepare_films(out, [task]).problems == ()
        (sample,) = load_samples(out, LC, "train", "lc", spacing_mm=1.0, margin=0)
        expected = resize_points(mirror_points(drawn, 301) if side == "L" else drawn, 0.5)[CENTER]
        np.testing.assert_allclose(sample.points[0], expected, atol=0.51 if side == "L" else 0.01)
        (roi,) = load_samples(out, HC, "train", "hc", spacing_mm=0.3, margin=0)
        assert roi.points[0, 0] < roi.points[8, 0]
        np.testing.assert_allclose(roi.points[CENTER], (232 if side == "L" else 233, 233), atol=0.51)


def test_subjects_must_name_files_and_be_one(download, tmp_path):
    task = tasks_of(download)[0]
    with pytest.raises(AnnotationError, match=r"subject is '\.\./x'"):
        prepare_films(tmp_path, [FilmTask("../x", task.path, task.knees)])
    with pytest.raises(AnnotationError, match="has two films"):
        prepare_films(tmp_path, [task, task])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "contents.csv: missing"),
        ("Folder,ParticipantID\n", "no column StudyDate, SeriesDescription"),
        (",".join(COLUMNS) + "\n/etc,1,2,3,4,5\n", "line 2: Folder is '/etc'"),
        (",".join(COLUMNS) + "\n../../x,1,2,3,4,5\n", "must be a folder below"),
    ],
)
def test_a_contents_table_that_cannot_be_used_is_one_line(download, tmp_path, text, words):
    if text is not None:
        (tmp_path / "contents.csv").write_text(text)
    with pytest.raises(ContentsError, match=words):
        read_contents(tmp_path)
    if text is None:
        result = door(tmp_path, download.annotations, tmp_path / "out")
        assert result.returncode == 2
        assert len(result.stderr.splitlines()) == 1
        assert not (tmp_path / "out").exists()


def test_a_knee_that_stands_there_twice_is_refused(download, tmp_path):
    write_annotations(tmp_path / "table.csv", [download.knees[0]] * 2)
    result = door(download.root, tmp_path / "table.csv", tmp_path / "out")
    assert result.returncode == 2
    assert "stands there twice" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_disk_that_cannot_be_written_is_one_line(download, tmp_path):
    (tmp_path / "out").write_text("a file, where a folder should be")
    result = door(download.root, download.annotations, tmp_path / "out")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "goes on where it stopped" in result.stderr


def test_a_phantom_download_does_not_depend_on_the_processes(download, tmp_path):
    script = ROOT / "scripts" / "data_stuff" / "make_phantom_oai.py"
    command = [
        sys.executable,
        str(script),
        "--out",
        str(tmp_path),
        "--n",
        "2",
        "--seed",
        "4",
        "--spacing",
        str(SPACING),
    ]
    result = subprocess.run([*command, "--jobs", "2"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    films = read_contents(tmp_path / "OAI_00m")
    assert [film.bilateral for film in films] == [True, False] * 2
    for film, folder in zip(films[::2], download.folders, strict=False):
        assert film.path.read_bytes() == (download.root / folder / "001").read_bytes()
    assert [choose_film([film]).film for film in films] == [films[0], None, films[2], None]
    assert subprocess.run([*command, "--jobs", "0"], capture_output=True).returncode == 2


def test_an_archive_that_was_not_unpacked_is_hinted_at(copy):
    root, subjects, folders = copy
    shutil.rmtree(root / folders[0])
    (root / f"{folders[0]}.tar.gz").write_bytes(b"")
    choice = choose_film([film for film in read_contents(root) if film.subject_id == subjects[0]])
    assert "unpack it" in choice.remark


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"ImagerPixelSpacing": [0.17, 0.17], "PixelSpacing": [0.15, 0.15]}, (0.17, 0.17)),
        ({"PixelSpacing": [0.15, 0.15]}, (0.15, 0.15)),
        ({"ImagerPixelSpacing": [0.17, 0.27]}, None),
        ({}, None),
    ],
)
def test_the_detectors_spacing(download, tmp_path, tags, expected):
    dataset = pydicom.dcmread(download.root / download.folders[0] / "001", stop_before_pixels=True)
    del dataset.ImagerPixelSpacing
    for tag, value in tags.items():
        setattr(dataset, tag, value)
    stream = io.BytesIO()
    dataset.save_as(stream)
    (tmp_path / "001").write_bytes(stream.getvalue())
    assert detector_spacing(tmp_path / "001") == expected


@pytest.mark.skipif(not SHARED.is_dir(), reason="the authors' files are not here")
def test_the_authors_table_finds_its_films_by_the_layout_of_the_real_download(tmp_path):
    """Folders of the published DeepKnee splits have the layout that is read here."""
    knees = read_annotations(SHARED / "kneel" / "bf_landmarks_1_0.3.csv")
    paths = [line.split()[0] for line in (SHARED / "deepknee_splits" / "OAI_val.csv").read_text().splitlines()]
    rows = []
    for path in paths:
        folder, name = path.rsplit("/", 1)
        assert name == "001"
        rows.append((folder, folder.split("/")[1], folder.split("/")[2], "1", "x", "Bilateral PA Fixed Flexion Knee"))
    write_contents(tmp_path, rows)
    films = read_contents(tmp_path)
    assert [film.path.relative_to(tmp_path).as_posix() for film in films] == paths
    assert {film.subject_id for film in films} & {knee.subject_id for knee in knees}
