"""OAI and MOST downloads, readings and lists -> graded ROIs; phantoms laid out like both."""

import csv
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from deepknee.boxes import read_lists
from deepknee.downloads import DownloadError, open_most, open_oai
from deepknee.experiment import GradingExperiment
from deepknee.grading_film import Joint, RoiSize
from deepknee.grading_plan import plan_all, plan_listed
from deepknee.grading_set import prepare_grading_set
from deepknee.readings import COLUMNS, ReadingsError, read_readings
from deepknee.train import GradingTask, train_grader
from kneel.engine.config import load_config
from kneel.imaging.dicom import read_radiograph
from kneel.imaging.oai import ContentsError
from kneel.imaging.preparing import Problem
from kneel.imaging.radiograph import normalize_percentiles
from kneel.phantom.most import (
    BOXES,
    OAI_READINGS,
    graded_oai_films,
    write_boxes,
    write_most_phantom,
    write_most_readings,
    write_oai_readings,
)
from kneel.phantom.oai import write_contents, write_oai_phantom

ROOT = Path(__file__).resolve().parents[1]
DOOR = ROOT / "scripts" / "data_stuff" / "create_grading_dataset.py"
SPACING = 0.4
EXPERIMENT = f"""
base: {ROOT}/kl_experiments/siamese_seed_21.yaml
ensemble: null
model: {{width: 4, dropout: 0}}
sampling: {{samples: null}}
training: {{epochs: 2, batch_size: 4, num_workers: 0, precision: "off", threads: 1}}
"""


@pytest.fixture(scope="module")
def most(tmp_path_factory):
    """Three subjects, four films: the second has two visits."""
    return write_most_phantom(tmp_path_factory.mktemp("most"), 3, seed=5, spacing_mm=SPACING)


@pytest.fixture(scope="module")
def oai(tmp_path_factory):
    """Two subjects; root, films, readings and boxes."""
    folder = tmp_path_factory.mktemp("oai")
    phantom = write_oai_phantom(folder, 2, seed=4, spacing_mm=SPACING)
    films = graded_oai_films(phantom)
    write_oai_readings(folder / OAI_READINGS, films)
    write_boxes(folder / BOXES, films)
    return phantom.root, films, folder / OAI_READINGS, folder / BOXES


@dataclass
class Copy:
    """A MOST download of one's own to spoil."""

    root: Path
    films: list
    readings: Path
    boxes: Path

    def prepare(self, out, *, listed=True, poor=None, **options):
        readings = read_readings([self.readings], COLUMNS["most"])
        download = open_most([self.root])
        plan = (
            plan_listed(download, read_lists([self.boxes], poor), readings) if listed else plan_all(download, readings)
        )
        done = prepare_grading_set(out, plan, **options)
        assert len(done.rows) + len(done.missing) == done.asked
        return done

    def line(self, index):
        return self.boxes.read_text().splitlines()[index]

    def change_line(self, index, text):
        lines = self.boxes.read_text().splitlines()
        lines[index] = text
        self.boxes.write_text("\n".join(lines) + "\n")

    def edit(self, index, change):
        path = self.root / self.films[index].name
        dataset = pydicom.dcmread(path)
        change(dataset)
        dataset.save_as(path)


@pytest.fixture
def copy(most, tmp_path):
    shutil.copytree(most.root, tmp_path / "MOST")
    for path in (most.readings, most.boxes):
        shutil.copy(path, tmp_path)
    return Copy(tmp_path / "MOST", list(most.films), tmp_path / most.readings.name, tmp_path / most.boxes.name)


def door(*arguments):
    command = [sys.executable, str(DOOR), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def reasons(done):
    """(subject, side, first words of the reason) of every missing knee."""
    return Counter((p.subject_id, p.side, p.problem.split(":")[0]) for p in done.missing)


def missing(subject, what, sides="LR"):
    return Counter({(subject, side, what): 1 for side in sides})


class Finder:
    """Networks that know the truth, or what they are told."""

    id = "truth"

    def __init__(self, films, root, change=None):
        self.films = {str(root / film.name): film for film in films}
        self.change = change or (lambda joints: joints)

    def __call__(self, radiograph):
        film = self.films[radiograph.source]
        points = np.linspace(-20, 20, 32).reshape(16, 2)  # mean (-.645, .645)
        joints = [
            Joint(side, tuple(center), (SPACING,) * 2, points + center, 0.9) for side, center in film.centers.items()
        ]
        return self.change(joints)


def test_rois_are_the_authors_crops(most, tmp_path):
    """Their script's own arithmetic at 0.4 mm, where nothing is resampled: equal to the pixel."""
    copy = Copy(most.root, list(most.films), most.readings, most.boxes)
    done = copy.prepare(tmp_path)
    assert (len(done.rows), done.asked, done.problems) == (8, 8, ())
    rows = {(row.film_name, row.side): row for row in done.rows}
    for index, film in enumerate(most.films):
        radiograph = read_radiograph(most.root / film.name)
        grey = np.rint(255 * normalize_percentiles(radiograph.pixels)).astype(np.uint8)
        padded = np.pad(grey, 300)
        numbers = list(map(int, copy.line(index).split()[1:]))
        for side, (x1, y1, x2, y2) in (("L", numbers[:4]), ("R", numbers[4:])):
            cx, cy = x1 + (x2 - x1) // 2 + 300, y1 + (y2 - y1) // 2 + 300
            theirs = padded[cy - 175 : cy + 175, cx - 175 : cx + 175]
            theirs = theirs[:, ::-1] if side == "L" else theirs
            row = rows[film.name, side]
            np.testing.assert_array_equal(cv2.imread(str(tmp_path / row.file), cv2.IMREAD_UNCHANGED), theirs)
            assert row.kl == film.grades[side]
            assert row.file == f"rois/{row.kl}/{film.subject_id}_V{film.visit}_{side}.png"
            np.testing.assert_allclose((row.center_x, row.center_y), film.centers[side], atol=0.51)
            assert (row.mm_per_px, row.spacing_kind, row.joint_from) == (0.4, "detector", "box")


def test_everything_that_is_missing_is_listed_by_subject_and_side(copy, tmp_path):
    first, second, later, third = copy.films
    (copy.root / first.name).unlink()
    path = copy.root / second.name
    path.write_bytes(path.read_bytes()[:20_000])
    copy.change_line(2, f"{later.name} -1 -1 -1 -1 {' '.join(copy.line(2).split()[5:])}")
    lateral = third.name.replace("PA10", "LLAT")[:-1] + "4"
    more = [f"{lateral} {copy.line(3).split(' ', 1)[1]}", "M7777_XXXX/V0/1/PA10/11 1 1 3 3 5 5 7 7", copy.line(3)]
    copy.boxes.write_text(copy.boxes.read_text() + "\n".join(more) + "\n")
    done = copy.prepare(tmp_path / "out")
    assert done.asked == 14
    assert sorted((row.film_name, row.side) for row in done.rows) == sorted(
        [(later.name, "R"), (third.name, "L"), (third.name, "R")]
    )
    assert reasons(done) == (
        missing(first.subject_id, "film missing")
        + missing(second.subject_id, "film unreadable")
        + missing(later.subject_id, "no box", "L")
        + missing(third.subject_id, "view")
        + missing("M7777", "film missing")
        + missing(third.subject_id, "duplicate")
    )
    assert done.fixable == 6
    with (tmp_path / "out" / "problems.csv").open(encoding="utf-8") as stream:
        assert [Problem(**row) for row in csv.DictReader(stream)] == list(done.problems)


def test_a_film_may_be_on_several_lines(copy, tmp_path):
    """The left box, then the right one, then both once more: both knees as from one line, and two boxes too many."""
    whole = copy.prepare(tmp_path / "whole")
    name, *numbers = copy.line(0).split()
    none = ["-1"] * 4
    copy.change_line(0, " ".join([name, *numbers[:4], *none]))
    lines = [" ".join([name, *none, *numbers[4:]]), " ".join([name, *numbers])]
    copy.boxes.write_text(copy.boxes.read_text() + lines[0] + "\n")
    done = copy.prepare(tmp_path / "out")
    assert done.problems == ()
    assert sorted(row.file for row in done.rows) == sorted(row.file for row in whole.rows)
    for row in whole.rows:
        assert (tmp_path / "out" / row.file).read_bytes() == (tmp_path / "whole" / row.file).read_bytes()
    copy.boxes.write_text(copy.boxes.read_text() + lines[1] + "\n")
    done = copy.prepare(tmp_path / "out")
    assert done.asked == 10
    assert reasons(done) == missing(copy.films[0].subject_id, "duplicate")
    assert "line 6 gives a box that a line before it gave" in done.missing[0].problem


def test_knees_without_a_grade_are_listed_with_what_stood_there(copy, tmp_path):
    copy.readings.write_text("MOSTID,V0XLKL,V0XRKL,V2XRKL,V2XLKL\nM9000,8,1.9,,\nM9001,X,2,9,\n")
    done = copy.prepare(tmp_path / "out")
    assert [(row.subject_id, row.visit, row.side, row.kl) for row in done.rows] == [("M9001", "0", "R", 2)]
    words = {(p.subject_id, p.side, p.problem.rsplit("(visit ")[1][0]): p.problem for p in done.missing}
    assert words["M9000", "L", "0"] == "prosthesis: the reading is 8 (visit 0)"
    assert "1.9, a fraction" in words["M9000", "R", "0"]
    assert "X, a code of missing values" in words["M9001", "L", "0"]
    assert "9, a film that could not be read" in words["M9001", "R", "2"]
    assert "empty" in words["M9001", "L", "2"]
    assert words["M9002", "L", "0"].startswith("no grade: no row for the subject in")
    assert done.fixable == 0


def test_bad_boxes_are_left_out_when_they_are_named(copy, tmp_path):
    poor = tmp_path / "poor.csv"
    poor.write_text("0L\n3R\n")
    done = copy.prepare(tmp_path / "out", poor=poor)
    assert reasons(done) == missing("M9000", "poor box", "L") + missing("M9002", "poor box", "R")


def test_sides_that_the_film_contradicts_are_refused(copy, tmp_path):
    name, *numbers = copy.line(0).split()
    copy.change_line(0, " ".join([name, *numbers[4:], *numbers[:4]]))
    copy.edit(1, lambda dataset: setattr(dataset, "PatientOrientation", ["R", "F"]))
    name, *numbers = copy.line(3).split()
    copy.change_line(3, " ".join([name, "5000", "1", "5300", "301", *numbers[4:]]))
    done = copy.prepare(tmp_path / "out")
    assert reasons(done) == (
        missing("M9000", "wrong side") + missing("M9001", "wrong side") + missing("M9002", "no box", "L")
    )
    words = {problem.subject_id: problem.problem for problem in done.missing}
    assert "seen from behind (PatientOrientation)" in words["M9001"]
    assert "is not on the film" in words["M9002"]


def test_a_film_under_two_names_is_taken_once(copy, tmp_path):
    """By its pixels: the copy's header differs. The same subject and grades: one stays."""
    source, target = copy.films[1], copy.films[2]
    shutil.copy(copy.root / source.name, copy.root / target.name)
    copy.edit(2, lambda dataset: setattr(dataset, "StudyDescription", "another name"))
    left, right = source.grades["L"], source.grades["R"]
    copy.readings.write_text(
        f"MOSTID,V0XLKL,V0XRKL,V2XLKL,V2XRKL\nM9000,1,1,,\nM9001,{left},{right},{left},{right}\nM9002,0,0,,\n"
    )
    done = copy.prepare(tmp_path / "a")
    assert reasons(done) == missing("M9001", "duplicate")
    assert {p.film for p in done.missing} == {target.name}
    # of a knee that the first film was not asked for the second is taken
    copy.readings.write_text(
        f"MOSTID,V0XLKL,V0XRKL,V2XLKL,V2XRKL\nM9000,1,1,,\nM9001,,{right},{left},{right}\nM9002,0,0,,\n"
    )
    done = copy.prepare(tmp_path / "part")
    assert [(row.film_name, row.side) for row in done.rows if row.subject_id == "M9001"] == [
        (source.name, "R"),
        (target.name, "L"),
    ]
    # grades of the two differ: neither can be trusted
    copy.readings.write_text("MOSTID,V0XLKL,V0XRKL,V2XLKL,V2XRKL\nM9000,1,1,,\nM9001,1,2,1,3\nM9002,0,0,,\n")
    done = copy.prepare(tmp_path / "b")
    assert reasons(done) == Counter({("M9001", side, "duplicate"): 2 for side in "LR"})
    assert "with other grades" in done.missing[0].problem
    assert copy.prepare(tmp_path / "b").problems == done.problems  # by the records of the first run
    # of two subjects: neither, as one subject would be on both sides of a split
    shutil.copy(copy.root / copy.films[0].name, copy.root / copy.films[3].name)
    done = copy.prepare(tmp_path / "c")
    assert {row.subject_id for row in done.rows} == set()
    assert "of other subjects" in {p.subject_id: p.problem for p in done.missing}["M9002"]


def test_what_the_header_says_is_noted_or_refused(copy, tmp_path):
    copy.edit(0, lambda dataset: setattr(dataset, "ViewPosition", "PATELLA"))
    copy.edit(1, lambda dataset: setattr(dataset, "ViewPosition", "AP"))
    copy.edit(2, lambda dataset: setattr(dataset, "PatientID", "M1"))
    copy.edit(3, lambda dataset: setattr(dataset, "ImagerPixelSpacing", [0.2, 0.2]))
    done = copy.prepare(tmp_path / "out")
    assert reasons(done) == missing("M9000", "view")
    notes = sorted(problem.problem for problem in done.problems if problem.kind == "note")
    assert notes[0] == "PatientID is 'M1'"
    assert notes[1].startswith("the box of knee L is 60 mm wide, not 120")
    assert notes[3].startswith("the header says that the view is AP")


def test_films_that_do_not_stand_by_their_header_are_noted_with_what_to_do(copy, tmp_path):
    copy.edit(1, lambda dataset: setattr(dataset, "PatientOrientation", ["L", "H"]))
    copy.edit(2, lambda dataset: setattr(dataset, "PatientOrientation", ["F", "R"]))
    done = copy.prepare(tmp_path / "out")
    notes = {problem.film: problem.problem for problem in done.problems}
    for number, lies in ((1, "lies upside down; "), (2, "lies on its side; ")):
        assert lies in notes[copy.films[number].name]
        assert "look at its pictures, and leave it out if" in notes[copy.films[number].name]
    assert (len(notes), done.missing) == (2, ())


def test_views_that_contradict_each_other_are_refused(copy, tmp_path):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "399067008", "SCT", "lateral"
    copy.edit(0, lambda dataset: setattr(dataset, "ViewCodeSequence", Sequence([item])))
    done = copy.prepare(tmp_path / "out")
    assert reasons(done) == missing("M9000", "view")
    assert done.missing[0].problem.startswith("view: the header says both 'PA' and 'lateral', must be PA")


def test_views_are_known_by_their_letters_whatever_joins_them(copy, tmp_path):
    for number, view in enumerate(["PA_FLEXION", "AP_STANDING", "PAFLEX", "LATERAL"]):
        copy.edit(number, lambda dataset, view=view: setattr(dataset, "ViewPosition", view))
    done = copy.prepare(tmp_path / "out")
    assert reasons(done) == missing("M9001", "view") + missing("M9002", "view")
    notes = [problem.problem for problem in done.problems if problem.kind == "note" and "view" in problem.problem]
    assert len(notes) == 1
    assert notes[0].startswith("the header says that the view is AP_STANDING;")


@pytest.mark.parametrize("listed", [True, False])
def test_dark_bone_that_the_header_denies_is_righted(listed, copy, tmp_path):
    """As reading does: else a training would see what no grader is shown."""
    known = {"listed": listed, "locate": None if listed else Finder(copy.films, copy.root)}
    plain = copy.prepare(tmp_path / "plain", **known)

    def darken(dataset):
        kind = np.uint16 if dataset.BitsAllocated == 16 else np.uint8
        pixels = np.frombuffer(dataset.PixelData, kind)
        dataset.PixelData = (pixels.max() - pixels).tobytes()

    copy.edit(0, darken)
    done = copy.prepare(tmp_path / "out", **known)
    (note,) = [p for p in done.problems if "dark bone" in p.problem]
    assert (note.film, note.kind) == (copy.films[0].name, "note")
    for row in plain.rows:
        one, other = (cv2.imread(str(tmp_path / name / row.file), cv2.IMREAD_UNCHANGED) for name in ("plain", "out"))
        np.testing.assert_allclose(one.astype(int), other, atol=1)
    assert len(done.rows) == len(plain.rows)


def test_a_film_without_spacing_is_scaled_by_its_boxes(copy, tmp_path):
    plain = copy.prepare(tmp_path / "plain")
    copy.edit(0, lambda dataset: delattr(dataset, "ImagerPixelSpacing"))
    done = copy.prepare(tmp_path / "out")
    row = next(row for row in done.rows if row.subject_id == "M9000")
    assert (row.spacing_kind, row.spacing_row_mm) == ("box", SPACING)
    same = next(other for other in plain.rows if other.file == row.file)
    assert (tmp_path / "plain" / row.file).read_bytes() == (tmp_path / "out" / row.file).read_bytes()
    assert same.spacing_kind == "detector"
    assert done.problems == ()


def test_boxes_of_different_widths_on_a_film_without_spacing_are_noted(copy, tmp_path):
    """Each box would be 120 mm wide, so the larger one's knee is cut smaller."""
    name, *numbers = copy.line(0).split()
    right = [int(value) for value in numbers[4:]]
    wider = [right[0] - 20, right[1] - 20, right[2] + 20, right[3] + 20]  # 340 pixels, not 300
    copy.change_line(0, " ".join([name, *numbers[:4], *map(str, wider)]))
    copy.edit(0, lambda dataset: delattr(dataset, "ImagerPixelSpacing"))
    done = copy.prepare(tmp_path / "out")
    spacings = {row.side: row.spacing_row_mm for row in done.rows if row.subject_id == "M9000"}
    assert spacings == {"L": SPACING, "R": pytest.approx(SPACING * 300 / 340)}
    (note,) = done.problems
    assert (note.kind, note.film) == ("note", copy.films[0].name)
    assert note.problem.startswith("no spacing, and boxes of 300 and 340 pixels")


def test_networks_find_the_knees_without_a_list(copy, tmp_path):
    """The knee, its landmarks in the picture's pixels, and every subject and visit of films or readings."""
    rows = list(csv.reader(copy.readings.read_text().splitlines()))
    rows += [["M8888"] + ["1"] * (len(rows[0]) - 1)]
    copy.readings.write_text("\n".join(",".join(row) for row in rows) + "\n")
    first = copy.films[0]
    shutil.copytree((copy.root / first.name).parent, (copy.root / first.name).parents[1] / "PA05")
    done = copy.prepare(tmp_path / "out", listed=False, locate=Finder(copy.films, copy.root))
    assert len(done.rows) == 8
    assert reasons(done)["M8888", "L", "film missing"] == 2  # of visits 0 and 2
    assert reasons(done)["M9000", "L", "no grade"] == 1  # an empty cell of visit 2 is asked for as well
    assert any(p.problem.startswith(f"several PA films: took {first.name}, left ") for p in done.problems)
    row = next(row for row in done.rows if row.film_name == first.name and row.side == "L")
    points = np.array(row.points.split(","), float).reshape(16, 2)
    # the truth's points lie .645 px left of the joint and below it on average: mirrored, right of it
    np.testing.assert_allclose(points.mean(0), (174.5 + 0.645, 174.5 + 0.645), atol=0.01)
    assert points[0, 0] > points[-1, 0]  # a left knee is mirrored, and its points with it
    assert (row.joint_from, row.confidence) == ("networks", 0.9)


def test_knees_that_the_networks_doubt_are_listed(copy, tmp_path):
    def doubt(joints):
        left = next(joint for joint in joints if joint.side == "L")
        return [Joint(left.side, left.center, left.spacing_mm, left.points, 0.4, ("side_uncertain", "low_confidence"))]

    copy.readings.write_text("MOSTID,V0XLKL,V0XRKL\nM9000,1,1\nM9001,1,2\nM9002,0,0\n")
    done = copy.prepare(tmp_path / "out", listed=False, locate=Finder(copy.films, copy.root, doubt))
    assert done.rows == ()
    assert set(reasons(done).values()) == {1}
    assert {(side, why) for _, side, why in reasons(done)} == {("L", "wrong side"), ("R", "not found")}
    assert any("visit 2: not asked for, as there are no readings of it" in p.problem for p in done.problems)


def test_a_broken_run_goes_on_where_it_stopped(copy, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = copy.prepare(out)
    assert (first.skipped, len(first.rows)) == (0, 8)
    kept = {row.file: (out / row.file).read_bytes() for row in first.rows}
    assert copy.prepare(out).skipped == 4
    lost, cut = first.rows[0].file, first.rows[2].file
    (out / lost).unlink()
    (out / cut).write_bytes(kept[cut][:-100])
    again = copy.prepare(out)
    assert again.skipped == 2
    assert again.rows == first.rows
    assert {name: (out / name).read_bytes() for name in kept} == kept
    assert copy.prepare(out, size=RoiSize(160, 400)).skipped == 0
    assert copy.prepare(out, size=RoiSize(160, 400)).skipped == 4
    # another grade: the old picture is no part of the set, and named
    subject, side = first.rows[0].subject_id, first.rows[0].side
    rows = list(csv.DictReader(copy.readings.read_text().splitlines()))
    column = f"V0X{side}KL"
    for row in rows:
        if row["MOSTID"] == subject:
            row[column] = str((int(row[column]) + 1) % 5)
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    copy.readings.write_text("\n".join(lines) + "\n")
    other = copy.prepare(out, size=RoiSize(160, 400))
    assert other.skipped == 3
    assert [p.film for p in other.problems if "earlier run" in p.problem] == [lost]

    def broken(*_):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("kneel.imaging.finished.run_tasks", broken)
    with pytest.raises(KeyboardInterrupt):
        copy.prepare(out)
    assert not (out / "knees.csv").exists()
    assert not (out / "problems.csv").exists()


def test_oai_films_are_chosen_by_contents_and_visit(oai, tmp_path):
    root, films, readings, boxes = oai
    other = tmp_path / "OAI"
    shutil.copytree(root, other)
    subject = films[0].subject_id
    later = f"1.C.2/{subject}/20050101/9"
    shutil.copytree(other / Path(films[0].name).parent, other / later)
    rows = [
        (str(Path(film.name).parent), film.subject_id, "20040101", "1", "x", "Bilateral PA Fixed Flexion Knee")
        for film in films
    ]
    rows += [(later, subject, "20050101", "1", "x", "Bilateral PA Fixed Flexion Knee")]
    rows[1] = (*rows[1][:5], "PA Right Hand")
    write_contents(other, rows)
    download = open_oai([other])
    assert {film.visit for film in download.films.values()} == {"00", "01"}
    plan = plan_all(download, read_readings([readings], COLUMNS["oai"]))
    assert [task.film.name for task in plan.tasks] == [films[0].name]
    assert plan.asked == 4
    assert {(p.subject_id, p.kind, p.problem.split(":")[0]) for p in plan.problems} == {
        (films[1].subject_id, "missing", "view"),
        ("", "note", "visit 01"),
    }
    listed = plan_listed(download, read_lists([boxes]), read_readings([readings], COLUMNS["oai"]))
    assert listed.asked == 4
    assert {p.problem.split(":")[0] for p in listed.problems} == {"view"}


def test_both_downloads_train_a_network(most, oai, tmp_path):
    """The authors' way through the doors: train on MOST, validate on OAI; two epochs of their recipe, tiny."""
    root, films, readings, boxes = oai
    data = tmp_path / "data"
    where = ("--download", most.root, "--readings", most.readings, "--split", most.boxes)
    result = door("--cohort", "most", *where, "--out", data / "train", "--jobs", 2)
    assert result.returncode == 0, result.stderr
    assert "8 of 8 knees of 3 subjects" in result.stdout
    listed = read_lists([boxes])
    plan = plan_listed(open_oai([root]), listed, read_readings([readings], COLUMNS["oai"]))
    assert len(prepare_grading_set(data / "val", plan).rows) == 4
    path = tmp_path / "tiny.yaml"
    path.write_text(EXPERIMENT)
    experiment = load_config(path, GradingExperiment)
    train, val = GradingTask(experiment, data, name="tiny").knees
    assert sorted(Counter(train.subjects).values()) == [2, 2, 4]  # two visits of a subject are one subject
    truth = {(film.subject_id, film.visit, side): kl for film in most.films for side, kl in film.grades.items()}
    for name, grade in zip(train.names, train.grades, strict=True):
        subject, visit, side = Path(name).stem.split("_")
        assert truth[subject, visit[1:], side] == grade
    assert set(val.subjects) == {film.subject_id for film in films}
    result = train_grader(experiment, data, tmp_path / "runs", name="tiny")
    assert len(result.history) == 2
    assert result.path_best.is_file()


def test_our_own_networks_find_the_joints(oai, tmp_path):
    """The released ones, through the door; phantoms are a part of what they were trained on."""
    if not list((ROOT / "pretrained").rglob("*.safetensors")):
        pytest.skip("no weights in pretrained/")
    root, films, readings, _ = oai
    one = tmp_path / "one.csv"  # readings of the first subject alone: one film is read
    one.write_text("".join(readings.read_text().splitlines(keepends=True)[:3]))
    result = door("--cohort", "oai", "--download", root, "--readings", one, "--out", tmp_path, "--device", "cpu")
    assert result.returncode == 0, result.stderr
    assert "2 of 4 knees of 1 subjects" in result.stdout
    assert "not there, no grade: 2" in result.stdout
    with (tmp_path / "knees.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    truth = {(film.subject_id, side): center for film in films for side, center in film.centers.items()}
    for row in rows:
        found = float(row["center_x"]), float(row["center_y"])
        assert np.linalg.norm(truth[row["subject_id"], row["side"]] - found) * SPACING < 6
        assert row["points"].count(",") == 31


def test_what_cannot_be_done_is_one_line(most, oai, tmp_path):
    root, _, readings, boxes = oai
    with pytest.raises(DownloadError, match="no film at SUBJECT_LETTERS/V0/STUDY/PA10/FILM"):
        open_most([root])
    with pytest.raises(ContentsError, match=r"contents\.csv: missing"):
        open_oai([most.root])
    with pytest.raises(ReadingsError, match="knows none of the subjects of the films, whose first is 'M9000'"):
        plan_listed(open_most([most.root]), read_lists([most.boxes]), read_readings([readings], COLUMNS["oai"]))
    options = ("--download", root, "--out", tmp_path / "out", "--split", boxes)
    result = door("--cohort", "oai", "--readings", most.readings, *options)
    assert result.returncode == 2
    assert result.stderr.strip().endswith("no column ID; has MOSTID, V0XLKL, V0XRKL, V2XLKL, V2XRKL")
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_phantom_download_does_not_depend_on_the_processes(most, tmp_path):
    again = write_most_phantom(tmp_path, 1, seed=5, spacing_mm=SPACING, jobs=2)
    assert [film.name for film in again.films] == [film.name for film in most.films[:1]]
    for film in again.films:
        assert (again.root / film.name).read_bytes() == (most.root / film.name).read_bytes()
    write_most_readings(tmp_path / "t.csv", most.films)
    assert (tmp_path / "t.csv").read_bytes() == most.readings.read_bytes()
    with pytest.raises(ValueError, match="n is 0"):
        write_most_phantom(tmp_path, 0, seed=5)
