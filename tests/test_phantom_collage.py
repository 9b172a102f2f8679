"""Collages of crops on phantom films: the landmarks stay on the same anatomy, sides stay sides."""

import csv

import cv2
import numpy as np
import pytest
from doors import script

from kneel.imaging.cohort import read_cohort
from kneel.imaging.crops import read_crops
from kneel.imaging.dicom import read_radiograph
from kneel.imaging.geometry import mirror_points
from kneel.phantom.anatomy import draw_knee
from kneel.phantom.collage import paste_knee, render_collage, write_collages


def make_crops(folder, sides=("L", "R", "L")):
    """Pictures that are flat but for a bright disc at every landmark, and their table."""
    columns = ["file", "subject_id", "side", "kl", "split", "mm_per_px", "inverted"]
    rows = []
    for number, side in enumerate(sides):
        points = 112 + draw_knee(2, np.random.default_rng(number)).points / 0.45
        points = mirror_points(points, 224) if side == "L" else points
        picture = np.full((224, 224), 100, np.uint8)
        for x, y in points:
            cv2.circle(picture, (round(x * 16), round(y * 16)), 3 * 16, 255, -1, shift=4)
        name = f"{number}{side}.png"
        cv2.imwrite(str(folder / name), picture)
        rows.append([name, f"s{number}", side, 2, "train", 0.45, 0, *points.ravel()])
    with (folder / "crops.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow([*columns, *(f"{axis}{number}" for number in range(16) for axis in "xy")])
        table.writerows(rows)
    return read_crops(folder / "crops.csv", folder)


def test_paste_knee_puts_the_crop_where_the_similarity_says():
    """A shift by whole pixels is known without any fit."""
    rng = np.random.default_rng(0)
    crop = rng.random((60, 60), dtype=np.float32)
    points = rng.uniform(15, 45, (16, 2))
    film = np.full((100, 120), 0.5, np.float32)
    pasted, landmarks = paste_knee(film, points + (40, 20), crop, points, feather_px=5)
    np.testing.assert_allclose(landmarks, points + (40, 20), atol=1e-9)
    np.testing.assert_allclose(pasted[26:74, 46:94], crop[6:54, 6:54], atol=1e-5)
    assert np.ptp(pasted[:15]) == 0  # far away only the grey level may move


@pytest.mark.parametrize("pair", [True, False])
def test_landmarks_of_a_collage_lie_on_the_discs(tmp_path, pair):
    for seed, crop in enumerate(make_crops(tmp_path)):
        film = render_collage(crop, np.random.default_rng(seed), pair=pair)
        assert tuple(knee.side for knee in film.knees) == (("R", "L") if pair else (crop.side,))
        height, width = film.pixels.shape
        for knee in film.knees:
            x, y = np.rint(knee.landmarks).astype(int).T
            inside = (x > 2) & (x < width - 3) & (y > 2) & (y < height - 3)
            around = [film.pixels[b - 8 : b + 9, a - 8 : a + 9] for a, b in zip(x[inside], y[inside], strict=True)]
            at = film.pixels[y[inside], x[inside]].astype(float)
            # the disc at the landmark is as bright as anything near it, and its surroundings are darker
            assert np.median(at / [patch.max() for patch in around]) > 0.95
            assert np.median([patch.min() / value for patch, value in zip(around, at, strict=True)]) < 0.75
            lateral, medial = knee.landmarks[0, 0], knee.landmarks[8, 0]
            assert (lateral < medial) == (knee.side == "R")


def test_a_cohort_of_collages_is_read_like_any_other(tmp_path):
    (tmp_path / "crops").mkdir()
    crops = make_crops(tmp_path / "crops")
    subjects = write_collages(tmp_path / "films", crops, seed=4, pairs=0.5)
    films = read_cohort(tmp_path / "films")
    assert subjects == [film.subject_id for film in films] == ["s0", "s1", "s2"]
    for film in films:
        radiograph = read_radiograph(film.path)
        assert radiograph.spacing_mm == (0.3, 0.3)
        assert radiograph.laterality == ("B" if len(film.knees) == 2 else film.knees[0].side)
    again = write_collages(tmp_path / "again", crops, seed=4, pairs=0.5, jobs=2)
    assert again == subjects
    for film in films:
        assert film.path.read_bytes() == (tmp_path / "again" / "films" / film.path.name).read_bytes()


def test_the_command_takes_the_crops_of_one_split(tmp_path, monkeypatch, capsys):
    make_crops(tmp_path)
    table, out = tmp_path / "crops.csv", tmp_path / "out"
    table.write_text(table.read_text().replace("2L.png,s2,L,2,train", "2L.png,s2,L,2,val"))
    words = ["--table", str(table), "--images", str(tmp_path), "--out", str(out), "--seed", "4", "--pairs", "0"]
    door = script("data_stuff/make_collage_cohort")
    monkeypatch.setattr("sys.argv", ["make_collage_cohort.py", *words])
    assert door.main() == 0
    assert capsys.readouterr().out == f"2 films in {out / 'films'}\n"
    knees = [(film.subject_id, knee.side, knee.kl) for film in read_cohort(out) for knee in film.knees]
    assert knees == [("s0", "L", 2), ("s1", "R", 2)]
    monkeypatch.setattr("sys.argv", ["make_collage_cohort.py", *words, "--split", "test"])
    assert door.main() == 2
    assert capsys.readouterr().err.startswith("make_collage_cohort: 0 crops")


def test_impossible_cohorts_are_refused(tmp_path):
    with pytest.raises(ValueError, match="0 crops"):
        write_collages(tmp_path, [], seed=0)


def test_a_crop_larger_than_the_film_fills_it():
    crop = np.random.default_rng(0).random((900, 900), dtype=np.float32)
    points = np.random.default_rng(1).uniform(400, 500, (16, 2))
    pasted, _ = paste_knee(np.zeros((300, 300), np.float32), points - 300, crop, points, feather_px=10)
    np.testing.assert_allclose(pasted, crop[300:600, 300:600], atol=1e-5)
