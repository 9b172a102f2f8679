import csv
import hashlib
import importlib
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes

from kneel.imaging import normalize_percentiles, read_radiograph
from kneel.imaging.schema import CENTER, read_annotations
from kneel.phantom import write_cohort
from kneel.phantom.cohort import FILM_COLUMNS, CohortOptions, draw_spec
from kneel.phantom.dicom_file import dicom_bytes
from kneel.phantom.render import FilmSpec, render_film

ARGUMENTS = {"spacing_mm": 0.4, "single_knee_fraction": 0.4, "implant_fraction": 0.3}


def digests(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort"), 8, 7, **ARGUMENTS)


@pytest.fixture(scope="module")
def table(cohort):
    with cohort.table.open(newline="") as stream:
        return {row["subject_id"]: row for row in csv.DictReader(stream)}


def test_same_seed_same_bytes_with_any_number_of_jobs(cohort, tmp_path):
    write_cohort(tmp_path / "again", 8, 7, jobs=2, **ARGUMENTS)
    assert digests(tmp_path / "again") == digests(cohort.table.parent)
    write_cohort(tmp_path / "other", 2, 8, **ARGUMENTS)
    assert not set(digests(tmp_path / "other").values()) & set(digests(cohort.table.parent).values())


def test_a_longer_cohort_begins_with_the_shorter_one(cohort, tmp_path):
    shorter = write_cohort(tmp_path, 2, 7, **ARGUMENTS)
    films = digests(shorter.films)
    assert films.items() <= digests(cohort.films).items()


def test_tables_and_films_agree(cohort, table):
    assert tuple(next(iter(table.values()))) == FILM_COLUMNS
    assert {path.stem for path in cohort.films.iterdir()} == set(table) == set(cohort.subjects)
    sides = {}
    for knee in read_annotations(cohort.annotations):
        sides[knee.subject_id] = sides.get(knee.subject_id, "") + knee.side
    assert sides == {subject: row["knees"] for subject, row in table.items()}


def test_reader_gets_back_spacing_polarity_and_laterality(cohort, table):
    for subject, row in table.items():
        film = read_radiograph(cohort.films / f"{subject}.dcm")
        assert film.pixels.shape == (int(row["rows"]), int(row["columns"]))
        assert film.spacing_mm == pytest.approx(
            (float(row["spacing_row_mm"]), float(row["spacing_column_mm"])), rel=1e-5
        )
        assert film.laterality == {"RL": "B", "R": "R", "L": "L"}[row["knees"]]
        assert film.view == "PA"
        assert film.patient_id == subject


def test_landmarks_of_the_table_lie_on_the_film_and_bone_is_bright(cohort, table):
    films = {}
    for knee in read_annotations(cohort.annotations):
        row = table[knee.subject_id]
        if row["implant"] != "none":
            continue
        film = films.setdefault(knee.subject_id, read_radiograph(cohort.films / f"{knee.subject_id}.dcm"))
        values = normalize_percentiles(film.pixels)
        points = knee.film_points(film.spacing_mm)
        assert (points > 0).all()
        assert (points < values.shape[::-1]).all()
        if knee.kl > 2:
            continue
        step = np.array([0, 4 / film.spacing_mm[0]])
        outer = int(points[14, 0] + points[7, 0]) // 2
        space = values[int((points[14, 1] + points[7, 1]) / 2), outer]
        bone = values[tuple((points[7] + step).astype(int)[::-1])]
        assert bone > space
        assert (points[0, 0] < points[8, 0]) == (knee.side == "R")


def test_annotation_returns_the_rendered_landmarks(cohort, table):
    """Through the table and back: within its rounding of a thousandth of .3 mm."""
    from numpy.random import SeedSequence, default_rng

    subject = cohort.subjects[1]
    rng = default_rng(SeedSequence(7, spawn_key=(1,)))
    spec = draw_spec(rng, CohortOptions(0.4, 0.3, 0.4))
    rng.choice(3, p=[0.75, 0.1, 0.15])
    truth = render_film(spec, rng).knees
    read = [knee for knee in read_annotations(cohort.annotations) if knee.subject_id == subject]
    for knee, expected in zip(read, truth, strict=True):
        np.testing.assert_allclose(knee.film_points((0.4, 0.4)), expected.landmarks, atol=2e-3)
        np.testing.assert_allclose(knee.film_points((0.4, 0.4))[CENTER], expected.center, atol=2e-3)


@pytest.mark.parametrize("calibration", ["detector", "magnification", "calibrated"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_every_way_of_storing_reads_as_the_same_film(calibration, photometric):
    spec = FilmSpec(240, 300, 0.8, (("R", 2),), 10, photometric)
    film = render_film(spec, np.random.default_rng(6))
    read = read_radiograph(dicom_bytes(film, "1", "s", calibration))
    assert read.spacing_mm == pytest.approx((0.8, 0.8), rel=1e-5)
    assert read.spacing_kind == ("demagnified" if calibration == "magnification" else calibration)
    bright = film.pixels if photometric == "MONOCHROME2" else 1023 - film.pixels
    np.testing.assert_allclose(normalize_percentiles(read.pixels), normalize_percentiles(bright), atol=2e-3)


def test_dicom_carries_what_dx_requires(cohort):
    data = pydicom.dcmread(cohort.films / f"{cohort.subjects[0]}.dcm")
    assert data.SOPClassUID == "1.2.840.10008.5.1.4.1.1.1.1"  # ....1.1.1.1.1 would be For Processing
    assert data.PresentationIntentType == "FOR PRESENTATION"
    assert data.PatientOrientation == ["L", "F"]
    assert data.ViewCodeSequence[0].CodeValue == codes.cid4010.PosteroAnterior.value
    assert data.StudyDate == ""
    assert data.PixelData  # and its values fit the stored bits
    assert data.pixel_array.max() < 1 << data.BitsStored


def test_folder_of_another_cohort_is_refused(tmp_path):
    write_cohort(tmp_path, 1, 0, **ARGUMENTS)
    with pytest.raises(FileExistsError, match="1 films of another cohort"):
        write_cohort(tmp_path, 1, 1, **ARGUMENTS)


def test_unknown_calibration_is_refused():
    film = render_film(FilmSpec(128, 128, 1.0, (("R", 2),)), np.random.default_rng(6))
    with pytest.raises(ValueError, match="calibration is 'guess'"):
        dicom_bytes(film, "1", "s", "guess")


def test_grades_are_uniform_and_correlated_within_pairs():
    rng = np.random.default_rng(0)
    specs = [draw_spec(rng, CohortOptions(single_knee_fraction=0)) for _ in range(1500)]
    grades = np.array([[kl for _, kl in spec.knees] for spec in specs])
    assert np.bincount(grades.ravel()) / grades.size == pytest.approx([0.2] * 5, abs=0.03)
    assert 0.6 < np.corrcoef(grades.T)[0, 1] < 0.8


def test_exposure_and_format_do_not_tell_the_grade():
    rng = np.random.default_rng(1)
    specs = [draw_spec(rng, CohortOptions(single_knee_fraction=1)) for _ in range(1500)]
    grades = [spec.knees[0][1] for spec in specs]
    for name in ("rows", "spacing_mm", "bits_stored"):
        assert abs(np.corrcoef(grades, [getattr(spec, name) for spec in specs])[0, 1]) < 0.08
    assert abs(np.corrcoef(grades, [spec.photometric == "MONOCHROME1" for spec in specs])[0, 1]) < 0.08


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"n": 0}, "n is 0"),
        ({"n": 1, "jobs": 0}, "jobs 0"),
        ({"n": 1, "implant_fraction": 1.5}, "implant_fraction is 1.5"),
        ({"n": 1, "spacing_mm": 3.0}, "spacing_mm is 3.0"),
        ({"n": 20000}, "need first_subject"),
    ],
)
def test_impossible_cohorts_are_refused(tmp_path, arguments, match):
    with pytest.raises(ValueError, match=match):
        write_cohort(tmp_path, **({"seed": 0} | arguments))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--n", "0"], "n is 0"), (["--n", "1", "--spacing", "-1"], "spacing"), (["--n", "1"], "films of another cohort")],
)
def test_the_command_says_in_one_line_what_is_impossible(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "scripts" / "data_stuff")
    script = importlib.import_module("make_phantom_cohort")
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "somebody.dcm").touch()
    monkeypatch.setattr(sys, "argv", ["make_phantom_cohort.py", "--out", str(tmp_path), *words])
    assert script.main() == 2
    said = capsys.readouterr().err
    assert said.startswith("make_phantom_cohort: ")
    assert message in said
    assert said.count("\n") == 1
