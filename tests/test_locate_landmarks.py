"""From a graded folder to landmarks to ROIs that follow them, with the networks that ship."""

import csv
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
from doors import script

from deepknee.dataset import load_knees
from deepknee.patches import PatchGeometry, joint_middle
from deepknee.sources import DatasetError, GradedFolderSource
from kneel.imaging.crops import read_crops
from kneel.imaging.geometry import RoiFrame, mirror_points
from kneel.imaging.radiograph import normalize_percentiles
from kneel.metrics import radial_errors
from kneel.phantom.render import FilmSpec, render_film

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "data_stuff" / "locate_landmarks.py"
SPACING_MM = 0.45
FOLLOWING = PatchGeometry(follow="landmarks", roi_mm=98.75, roi_px=200, crop=200, patch=100, top=50)


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """A right knee, its mirror image as a left one with dark bone, and noise; the truth of the first."""
    folder = tmp_path_factory.mktemp("graded") / "val"
    for grade in range(5):
        (folder / str(grade)).mkdir(parents=True)
    film = render_film(FilmSpec(800, 600, 0.3, (("R", 2),)), np.random.default_rng(900))
    (knee,) = film.knees
    frame = RoiFrame.around(knee.center, 224 * SPACING_MM, (0.3, 0.3), side="R", roi_spacing_mm=SPACING_MM)
    picture = frame.crop((normalize_percentiles(film.pixels) * 255).astype(np.uint8))
    cv2.imwrite(str(folder / "2" / "7R.png"), picture)
    cv2.imwrite(str(folder / "2" / "8L.png"), 255 - picture[:, ::-1])
    cv2.imwrite(str(folder / "0" / "9R.png"), np.random.default_rng(0).integers(0, 256, (224, 224), np.uint8))
    return folder, frame.to_roi(knee.landmarks)


def locate(folder):
    return subprocess.run([sys.executable, SCRIPT, "--images", folder], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_from_pictures_to_rois(graded):
    folder, truth = graded
    with pytest.raises(DatasetError, match=r"landmarks\.csv: missing.*locate_landmarks\.py --images"):
        load_knees(folder, GradedFolderSource(source="graded_folder"), FOLLOWING, "film")
    done = locate(folder)
    assert done.returncode == 1, done.stderr
    assert "2 of 3 knees have landmarks" in done.stdout
    problems = pd.read_csv(folder / "landmarks_problems.csv", dtype=str)
    assert problems[["subject_id", "side", "film", "kind"]].values.tolist() == [["9", "R", "0/9R.png", "missing"]]

    right, left = sorted(read_crops(folder / "landmarks.csv", folder), key=lambda crop: crop.side, reverse=True)
    assert (right.subject_id, right.side, right.kl, right.inverted) == ("7", "R", 2, False)
    assert (left.subject_id, left.side, left.kl, left.inverted) == ("8", "L", 2, True)
    assert radial_errors(right.points, truth, SPACING_MM).mean() < 3
    np.testing.assert_allclose(mirror_points(left.points, 224), right.points, atol=0.01)

    with pytest.raises(DatasetError, match=r"9R\.png: not in the table of landmarks"):
        load_knees(folder, GradedFolderSource(source="graded_folder"), FOLLOWING, "film")
    (folder / "0" / "9R.png").unlink()
    knees = load_knees(folder, GradedFolderSource(source="graded_folder"), FOLLOWING, "film")
    np.testing.assert_allclose(knees.rois[0].astype(int), knees.rois[1], atol=2)  # mirrored and righted
    middle = FOLLOWING.frame_of(right.points, (1, 1), "R").to_roi(joint_middle(right.points))
    np.testing.assert_allclose(middle, (99.5, 99.5))

    table = (folder / "landmarks.csv").read_text()
    kept = table.replace(table.splitlines()[1].split(",")[7], "12.345")  # a row that is there is not located again
    (folder / "landmarks.csv").write_text(kept)
    assert locate(folder).returncode == 0
    assert (folder / "landmarks.csv").read_text() == kept
    assert not list(folder.glob("*.part"))

    rows = (folder / "landmarks.csv").read_text().splitlines()
    by_hand = rows[1].rsplit(",", 5)[0].replace("12.345", "12.5") + ",1,,,,"  # no word of whose weights
    (folder / "landmarks.csv").write_text("\n".join([rows[0], by_hand]) + "\n")
    assert locate(folder).returncode == 0
    again = (folder / "landmarks.csv").read_text().splitlines()
    assert by_hand in again
    assert len(again) == 3

    for name in ("7R", "8L"):  # the row by hand says nothing of its picture
        cv2.imwrite(str(folder / "2" / f"{name}.png"), np.eye(224, dtype=np.uint8))
    with pytest.raises(DatasetError, match=r"is not the picture that its points in the table were found on"):
        load_knees(folder, GradedFolderSource(source="graded_folder"), FOLLOWING, "film")


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Four pictures, and the script with networks that answer 1 everywhere; how to run it, what it looked at."""
    module = script("data_stuff/locate_landmarks")
    folder, looked = tmp_path / "graded", []
    for grade in range(5):
        (folder / str(grade)).mkdir(parents=True)
    for name in ("1R", "1L", "2R", "2L"):
        (folder / "3" / f"{name}.png").touch()

    def locate(task):
        looked.append(task.path.stem)
        return row(f"3/{task.path.name}", 1)

    origins = module.origins
    monkeypatch.setattr(module, "locate", locate)
    monkeypatch.setattr(module, "origins", lambda names, weights: dict.fromkeys(names, weights))
    monkeypatch.setattr(module, "find_weights", lambda *_: SimpleNamespace(id="ours", paths=lambda task: ()))
    return SimpleNamespace(
        folder=folder,
        looked=looked,
        script=module,
        origins=origins,
        run=lambda: module.locate_folder(SimpleNamespace(images=folder, weights=None, jobs=1)),
    )


def row(file, value, weights="ours"):
    names = ["file", "subject_id", "side", "kl", "split", "mm_per_px", "inverted"]
    points = {f"{axis}{number}": f"{value}" for number in range(16) for axis in "xy"}
    known = dict(zip(names, [file, file[2:-5], file[-5], "3", "graded", "0.4", "0"], strict=True))
    return known | points | {"confidence": "", "flags": "", "weights": weights, "made_from": weights}


def write(path, rows, cut=""):
    with path.open("w", newline="") as stream:
        table = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        stream.write(cut)


def located(folder):
    with (folder / "landmarks.csv").open(newline="") as stream:
        return {line["file"]: line["x0"] for line in csv.DictReader(stream)}


def test_tables_from_a_spreadsheet_are_read_or_refused_by_name(stand_in):
    table = stand_in.folder / "landmarks.csv"
    write(table, [row("3/1R.png", 7, "")])
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())  # Excel's "CSV UTF-8"
    assert stand_in.run()
    assert located(stand_in.folder)["3/1R.png"] == "7"
    written = table.read_text()
    table.write_text(written.replace(",", ";"))
    with pytest.raises(DatasetError, match=r"landmarks\.csv: no column file; must be a table with commas"):
        stand_in.run()
    write(table, [row("3/1R.png", 7, ""), row("3/1R.png", 8, "")])
    with pytest.raises(DatasetError, match=r"3/1R\.png stands in it more than once"):
        stand_in.run()
    assert pd.read_csv(table).x0.tolist() == [7, 8]  # both are there still


def test_a_broken_run_does_not_undo_a_correction(stand_in):
    """A run with another row of 1R was killed in the middle of a line; then 1R was corrected in the table."""
    table = stand_in.folder / "landmarks.csv"
    write(table, [row("3/1R.png", 7, ""), row("3/1L.png", 3)])
    cut = ",".join(row("3/2R.png", 5, "").values())[:-4]
    write(table.with_name("landmarks.csv.part"), [row("3/1R.png", 6, ""), row("3/1L.png", 4)], cut)
    assert stand_in.run()
    assert located(stand_in.folder) == {"3/1R.png": "7", "3/1L.png": "4", "3/2R.png": "1", "3/2L.png": "1"}
    assert stand_in.looked == ["2L", "2R"]
    assert not list(stand_in.folder.glob("*.part"))


def test_a_broken_run_does_not_bring_back_what_was_deleted(stand_in):
    table = stand_in.folder / "landmarks.csv"
    write(table.with_name("landmarks.csv.part"), [row("3/1R.png", 6, ""), row("3/2R.png", 5)])
    write(table, [row("3/1L.png", 7, "")])
    assert stand_in.run()
    assert located(stand_in.folder) == {"3/1R.png": "1", "3/1L.png": "7", "3/2R.png": "5", "3/2L.png": "1"}


def test_without_a_table_rows_by_hand_of_a_broken_run_stay(stand_in):
    write(stand_in.folder / "landmarks.csv.part", [row("3/1R.png", 6, "")])
    assert stand_in.run()
    assert located(stand_in.folder)["3/1R.png"] == "6"


def test_a_correction_stays_beside_a_broken_run_of_the_same_networks(stand_in):
    table = stand_in.folder / "landmarks.csv"
    write(table.with_name("landmarks.csv.part"), [row("3/1R.png", 6)])
    write(table, [row("3/1R.png", 7, "")])
    assert stand_in.run()
    assert located(stand_in.folder)["3/1R.png"] == "7"


def test_a_correction_while_it_runs_stays(stand_in, monkeypatch):
    table, locate = stand_in.folder / "landmarks.csv", stand_in.script.locate

    def corrected_meanwhile(task):
        write(table, [row("3/1L.png", 9, "")])
        return locate(task)

    monkeypatch.setattr(stand_in.script, "locate", corrected_meanwhile)
    assert stand_in.run()
    assert located(stand_in.folder) == {"3/1R.png": "1", "3/1L.png": "9", "3/2R.png": "1", "3/2L.png": "1"}


def test_rows_by_hand_outlive_the_absence_of_their_pictures(stand_in, monkeypatch):
    """One was written before, one while it ran; a row of networks goes with its picture."""
    table, locate = stand_in.folder / "landmarks.csv", stand_in.script.locate
    gone = [row("3/8R.png", 7, ""), row("3/9R.png", 5)]
    write(table, gone)

    def written_meanwhile(task):
        write(table, [*gone, row("3/7L.png", 9, "")])
        return locate(task)

    monkeypatch.setattr(stand_in.script, "locate", written_meanwhile)
    assert stand_in.run()
    found = located(stand_in.folder)
    assert (found.pop("3/8R.png"), found.pop("3/7L.png")) == ("7", "9")
    assert found == {f"3/{name}.png": "1" for name in ("1R", "1L", "2R", "2L")}


def test_knees_that_the_networks_doubt_are_noted(stand_in, capsys):
    """One found before, one found now, one put right by hand since, and one of a picture that is gone."""
    doubted = row("3/1R.png", 3) | {"flags": "nominal_scale;side_uncertain;low_confidence"}
    righted = row("3/1L.png", 3, "") | {"flags": "side_uncertain"}
    write(stand_in.folder / "landmarks.csv", [doubted, righted, row("3/9R.png", 3) | {"flags": "low_confidence"}])
    stand_in.script.locate = lambda task: (
        row(f"3/{task.path.name}", 1) | {"flags": "implausible_size" if task.path.stem == "2L" else "nominal_scale"}
    )
    assert stand_in.run()  # all are there
    problems = pd.read_csv(stand_in.folder / "landmarks_problems.csv", dtype=str)
    assert problems[["film", "kind"]].values.tolist() == [["3/1R.png", "note"], ["3/2L.png", "note"]]
    assert problems.problem[0].startswith("Left or right is doubtful")
    assert "low confidence" in problems.problem[0]
    assert "too large or too small" in problems.problem[1]
    assert "2 of them are doubted" in capsys.readouterr().out


def test_rows_of_another_picture_or_other_code_are_made_anew(stand_in, monkeypatch, tmp_path):
    script, code = stand_in.script, tmp_path / "find.py"
    code.write_text("one")

    def locate(task):
        stand_in.looked.append(task.path.stem)
        return row(f"3/{task.path.name}", 1) | {"made_from": task.origin}

    monkeypatch.setattr(script, "locate", locate)
    monkeypatch.setattr(script, "origins", stand_in.origins)
    monkeypatch.setattr(script, "CODE", [code])

    def looked_at():
        stand_in.looked.clear()
        assert stand_in.run()
        return stand_in.looked

    table, everyone = stand_in.folder / "landmarks.csv", ["1L", "1R", "2L", "2R"]
    assert looked_at() == everyone
    assert looked_at() == []
    (stand_in.folder / "3" / "2L.png").write_bytes(b"another")
    assert looked_at() == ["2L"]
    code.write_text("another")
    assert looked_at() == everyone
    before = pd.read_csv(table, dtype=str)  # as it was written when nothing was remembered
    before.drop(columns="made_from").to_csv(table, index=False)
    assert looked_at() == everyone
