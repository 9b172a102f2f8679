"""What tells the two looks of a knee apart."""

import importlib
import shutil
from pathlib import Path

import dicom_files as files
import numpy as np
import pytest
import torch

from kneel.engine.folds import subject_marks
from kneel.engine.snapshot import load_snapshot, update_snapshot
from kneel.look_fit import cross_fitted, fit_looks
from kneel.looks import CLEAR, FEATURES, SHARPER, LookModel, features
from kneel.shape import align
from kneel.stage import Stage

ROOT = Path(__file__).resolve().parents[1]
KNEE = np.random.default_rng(3).uniform(-40, 40, (16, 2))


def looks(count, seed, signal=1.0):
    """Features of knees whose true look differs in two of the numbers only, by `signal` standard deviations."""
    rng = np.random.default_rng(seed)
    right, wrong = rng.normal(size=(2, count, FEATURES))
    right[:, 5] -= signal
    right[:, 20] += signal
    return right, wrong


def test_features_are_widths_residual_and_deviations_in_the_frame_of_the_mean_knee():
    turned = 2 * KNEE @ np.array([[0, 1], [-1, 0]]) + (30, 7)
    turned[3] += (0, 8)
    alignment = align(turned, KNEE)
    given = features(np.full(16, np.e), alignment)
    assert given.shape == (FEATURES,)
    np.testing.assert_allclose(given[:16], 1)
    deviation = given[17:].reshape(16, 2)
    assert np.exp(given[16]) == pytest.approx(np.sqrt((deviation**2).sum(axis=1).mean()))
    # 8 downwards on a knee of twice the size that was turned by 90 degrees: 4 sideways on the mean knee
    assert np.abs(deviation).argmax() == 2 * 3
    assert deviation[3, 0] == pytest.approx(4 * 15 / 16, abs=0.4)


def test_a_perfect_answer_is_finite():
    assert np.isfinite(features(np.zeros(16), align(KNEE, KNEE))).all()


def test_looks_exchanged_exchange_the_answer():
    right, wrong = looks(300, 0)
    model = fit_looks(right, wrong)
    for one, other in zip(right, wrong, strict=True):
        assert model.probability(one, other) == pytest.approx(1 - model.probability(other, one))


def test_the_fit_finds_what_differs_and_its_probabilities_are_honest():
    model = fit_looks(*looks(3000, 1))
    assert set(np.abs(model.weights).argsort()[-2:]) == {5, 20}
    right, wrong = looks(4000, 2)
    chances = np.array([model.probability(*pair) for pair in zip(right, wrong, strict=True)])
    # the best that can be done: the difference is normal with mean 2 and variance 4 along the signal, phi(1) = 0.841
    assert (chances > 0.5).mean() == pytest.approx(0.841, abs=0.02)
    sure = np.maximum(chances, 1 - chances) >= CLEAR
    assert (chances > 0.5)[sure].mean() == pytest.approx(np.maximum(chances, 1 - chances)[sure].mean(), abs=0.03)


def test_cross_fitted_answers_know_nothing_of_noise():
    right, wrong = looks(400, 4, signal=0.0)
    subjects = np.repeat(np.arange(200), 2)
    seen = fit_looks(right, wrong)
    assert np.mean([seen.probability(*pair) > 0.5 for pair in zip(right, wrong, strict=True)]) > 0.6
    assert (cross_fitted(right, wrong, subjects) > 0.5).mean() == pytest.approx(0.5, abs=0.08)


def test_a_feature_that_never_differs_has_no_say():
    right, wrong = looks(200, 5)
    right[:, 7] = wrong[:, 7] = 1.0
    assert fit_looks(right, wrong).weights[7] == 0


@pytest.mark.parametrize("shape", [(0, FEATURES), (5, FEATURES - 1), (FEATURES,)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="must be"):
        fit_looks(np.zeros(shape), np.zeros(shape))


def test_without_a_fit_the_sharper_look_wins_and_is_clear_from_8_percent_on():
    there, less = (features(width * np.ones(16), align(KNEE + 1, KNEE)) for width in (2.0, 2.0 * 1.08))
    assert SHARPER.probability(there, less) == pytest.approx(CLEAR)
    assert SHARPER.probability(there, there) == pytest.approx(0.5)


def test_the_model_survives_its_json():
    model = fit_looks(*looks(100, 6))
    np.testing.assert_array_equal(LookModel.parse(model.dump()).weights, model.weights)
    with pytest.raises(ValueError, match="finite"):
        LookModel.parse({"weights": [1.0, 2.0]})


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("fit_looks")


def test_films_that_were_trained_on_are_left_out(script, tmp_path):
    for name in ("1/1L.png", "1/2R.png", "2/3L.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    table = tmp_path.with_suffix(".csv")
    table.write_text("file\nelsewhere/2R.png\n", encoding="utf-8")
    assert [path.name for path in script.choose(tmp_path, table, None)] == ["1L.png", "3L.png"]
    assert len(script.choose(tmp_path, None, 2)) == 2
    with pytest.raises(FileNotFoundError, match="not left out"):
        script.choose(tmp_path / "none", None, None)


def places(tmp_path, count):
    """A copy of the weights that ship, and names of pictures."""
    weights, images = tmp_path / "weights", tmp_path / "images"
    shutil.copytree(ROOT / "pretrained" / "kneel", weights)
    images.mkdir()
    for number in range(count):
        (images / f"{number}L.png").touch()
    return weights, images


def test_the_script_stores_the_fit_beside_the_weights(script, tmp_path, monkeypatch, capsys):
    """The networks' answers are stand-ins here; their files are the ones that ship."""
    weights, images = places(tmp_path, 120)
    right, wrong = looks(120, 8)

    def look(path, subject, localizer):
        number = int(path.stem[:-1])
        if number == 7:
            raise script.RadiographError("no picture")
        assert subject == str(number)
        return script.Seen(subject, right[number], wrong[number])

    monkeypatch.setattr(script, "look", look)
    words = ["--images", str(images), "--weights", str(weights)]
    before, meta = load_snapshot(weights / "hc" / "best.safetensors")
    assert script.main([*words, "--dry_run"]) == 0
    assert load_snapshot(weights / "hc" / "best.safetensors")[1] == meta
    assert script.main(words) == 0
    assert "7L.png: no picture" in capsys.readouterr().err
    after, stored = load_snapshot(weights / "hc" / "best.safetensors")
    kept = [number for number in range(120) if number != 7]
    # in the order of the files' names
    np.testing.assert_allclose(LookModel.parse(stored["look"]).weights, fit_looks(right[kept], wrong[kept]).weights)
    assert (stored["look"]["knees"], stored["look"]["networks"]) == (119, 1)
    assert {name: tensor.tolist() for name, tensor in after.items()} == {n: t.tolist() for n, t in before.items()}
    assert script.main([*words, "--limit", "50"]) == 2


def test_the_script_says_whether_the_networks_know_the_knees(script, tmp_path, monkeypatch, capsys):
    weights, images = places(tmp_path, 100)
    right, wrong = looks(100, 8)
    pairs = {f"{number}L.png": pair for number, pair in enumerate(zip(right, wrong, strict=True))}
    monkeypatch.setattr(script, "look", lambda path, subject, _: script.Seen(subject, *pairs[path.name]))
    for path in weights.rglob("*.safetensors"):
        update_snapshot(path, {"trained_on": subject_marks(["200"]), "chosen_on": subject_marks(["201"])})
    words = ["--images", str(images), "--weights", str(weights), "--dry_run"]
    assert script.main(words) == 0
    assert "None of these subjects was in the training of a network.\n" in capsys.readouterr().out
    update_snapshot(weights / "hc" / "best.safetensors", {"trained_on": subject_marks(["200", "17"])})
    assert script.main(words) == 0
    said = capsys.readouterr().out
    assert "not unseen knees" in said
    assert "1 of its 100 subjects: 17;" in said


@pytest.mark.parametrize(("number", "of"), [(None, 1), (1, 1), (2, 2)])
def test_a_fit_speaks_of_just_the_networks_that_it_was_fitted_to(number, of, tmp_path):
    """Twice the network that ships, as two folds: what is fitted to both is not used for one, nor the reverse."""
    fitted = LookModel(np.linspace(-1, 1, FEATURES))
    paths = [tmp_path / f"{fold}.safetensors" for fold in range(2)]
    for path in paths:
        shutil.copy(ROOT / "pretrained" / "kneel" / "hc" / "best.safetensors", path)
        update_snapshot(path, {"look": fitted.dump() | ({} if number is None else {"networks": number})})
    for count in (1, 2):
        stage = Stage.from_snapshots(paths[:count], "hc", device=torch.device("cpu"), plain=True)
        expected = fitted if count == of else SHARPER
        np.testing.assert_array_equal(stage.look.weights, expected.weights)


def test_subjects_are_told_by_their_header_where_all_films_have_one_name(script, tmp_path, monkeypatch, capsys):
    """The layout of the OAI: every film is called 001."""
    for number in range(9):
        patient = f"9{number:06}"
        path = tmp_path / "images" / str(number) / "001"
        path.parent.mkdir(parents=True)
        path.write_bytes(files.dicom(files.film(), PatientID=patient))
        assert script.subjects_of([path, tmp_path / "7R.png"]) == {path: "001", tmp_path / "7R.png": "7"}
        assert script.patient_of(path) == patient
    (tmp_path / "images" / "77R.png").write_bytes(b"")
    (tmp_path / "images" / "77L.png").write_bytes(b"")
    assert set(script.subjects_of(script.choose(tmp_path / "images", None, None)).values()) == {
        *(f"9{number:06}" for number in range(9)),
        "77",
    }
    monkeypatch.setattr(script, "look", lambda path, subject, localizer: script.Seen(subject, *looks(1, 0)))
    words = ["--images", str(tmp_path / "images"), "--dry_run"]
    assert script.main(words) == 2
    assert "11 knees seen both ways round: at least 100" in capsys.readouterr().err  # ten subjects
    (tmp_path / "images" / "0" / "001").unlink()
    monkeypatch.setattr(script, "look", None)  # not reached
    assert script.main(words) == 2
    assert "knees of 9 subjects (77, 9000001," in capsys.readouterr().err


def test_one_patient_id_for_all_names_nobody(script, tmp_path):
    paths = [tmp_path / f"{number}{side}.dcm" for number in range(3) for side in "LR"]
    for path in paths:
        path.write_bytes(files.dicom(files.film(), PatientID="ANONYMOUS"))
    assert sorted(script.subjects_of(paths).values()) == ["0", "0", "1", "1", "2", "2"]
    paths[0].write_bytes(files.dicom(files.film(), PatientID="9000001"))
    assert set(script.subjects_of(paths).values()) == {"9000001", "ANONYMOUS"}


def test_a_letter_behind_a_mark_is_the_side_too(script, tmp_path):
    paths = [tmp_path / name for name in ("9000099_L.dcm", "9000099R.dcm", "9000100 L.dcm", "RL.dcm", "ALL.dcm")]
    for path in paths:
        path.write_bytes(files.dicom(files.film()))
    assert list(script.subjects_of(paths).values()) == ["9000099", "9000099", "9000100", "R", "AL"]


def test_damaged_files_are_told_by_name_and_the_preamble_may_be_missing(script, tmp_path):
    whole = files.dicom(files.film(), PatientID="9000001")
    assert whole[128:132] == b"DICM"
    path = tmp_path / "12R.dcm"
    path.write_bytes(whole[132:])
    assert script.patient_of(path) == "9000001"
    rng = np.random.default_rng(0)
    for _ in range(300):
        bad = bytearray(whole[: rng.integers(1, len(whole))])
        for place in rng.integers(0, min(len(bad), 700), 8):
            bad[place] = rng.integers(0, 256)
        path.write_bytes(bad)
        assert isinstance(script.patient_of(path), str | None)
    path.write_bytes(b"nothing")
    assert script.subjects_of([path]) == {path: "12"}
