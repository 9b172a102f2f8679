"""Small made-up knees graded, changed, calibrated and evaluated: from pictures to reports."""

import hashlib
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from doors import script
from graded_tables import made_up

from deepknee.calibration import cross_fit
from deepknee.ensemble import Grader
from deepknee.graded_folder import graded_files, read_graded, subject_and_side
from deepknee.intensity import Intensity
from deepknee.member import GraderSettings, load_member
from deepknee.metrics import grading_metrics
from deepknee.networks import SiameseSettings, build_net
from deepknee.patches import PatchGeometry
from deepknee.predictions import (
    GradePredictions,
    grade_folder,
    read_predictions,
    source_of,
    write_predictions,
)
from deepknee.resample import resampled_metrics
from deepknee.robustness import CHANGES, _row, robustness_table, write_changed
from deepknee.sources import DatasetError
from kneel.bootstrap import SubjectBootstrap
from kneel.engine.folds import subject_marks
from kneel.engine.pixel_cache import cache_folder
from kneel.engine.snapshot import load_snapshot, save_snapshot
from kneel.imaging.radiograph import RadiographError

SIZE = 140
GEOMETRY = PatchGeometry(roi_mm=50.0, roi_px=SIZE, crop=136, patch=64, top=40)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Knees of noise with a bright middle, two a subject; two of them with dark bone."""
    folder, rng = tmp_path_factory.mktemp("val"), np.random.default_rng(0)
    for number in range(10):
        for side in "LR":
            picture = rng.integers(0, 120, (SIZE, SIZE), np.uint8)
            picture[:, 30:110] += 100
            picture = cv2.GaussianBlur(picture, (0, 0), 3)
            path = folder / str(number % 5) / f"{9000 + number}{side}.png"
            path.parent.mkdir(exist_ok=True)
            cv2.imwrite(str(path), 255 - picture if number == 3 else picture)
    return folder


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Two networks of one experiment, as two folds."""
    for fold in (0, 1):
        torch.manual_seed(fold)
        model = SiameseSettings(width=2)
        how = GraderSettings(model=model, geometry=GEOMETRY, intensity=Intensity(mean=0.4, std=0.05))
        folder = tmp_path / "weights" / f"fold_{fold}"
        folder.mkdir(parents=True)
        meta = {"task": "kl", "name": "tiny", "fold": fold, **how.model_dump(mode="json")}
        save_snapshot(folder / "best.safetensors", build_net(model).state_dict(), meta)
    return tmp_path / "weights"


def grader_of(weights: Path) -> Grader:
    return Grader.from_snapshots(sorted(weights.rglob("*.safetensors")))


def test_changes_are_written_as_the_names_say(data: Path, tmp_path: Path) -> None:
    changes = {change.name: change for change in CHANGES}
    for name, change in changes.items():
        write_changed(change, data, tmp_path / name)
        assert len(list((tmp_path / name).glob("[0-4]/*.png"))) == 20
    before = cv2.imread(str(data / "0" / "9000L.png"), cv2.IMREAD_GRAYSCALE)

    def after(name: str, letter: str = "L") -> np.ndarray:
        return cv2.imread(str(tmp_path / name / "0" / f"9000{letter}.png"), cv2.IMREAD_GRAYSCALE)

    np.testing.assert_array_equal(after("mirrored, the side letter too", "R"), before[:, ::-1])
    np.testing.assert_array_equal(after("inverted"), 255 - before)
    np.testing.assert_array_equal(after("8 pixels to the right")[:, 8:], before[:, :-8])
    np.testing.assert_array_equal(after("8 pixels to the left")[:, :-8], before[:, 8:])
    np.testing.assert_array_equal(after("8 pixels down")[8:], before[:-8])
    np.testing.assert_array_equal(after("8 pixels up")[:-8], before[8:])
    np.testing.assert_array_equal(after("a fifth darker"), np.rint(0.8 * before))
    assert after("half the resolution").shape == (SIZE // 2, SIZE // 2)


def test_pictures_of_16_bits_are_refused_and_not_wrapped_round(tmp_path: Path) -> None:
    for grade in range(5):
        (tmp_path / "val" / str(grade)).mkdir(parents=True)
    deep = np.arange(SIZE * SIZE, dtype=np.uint16).reshape(SIZE, SIZE)
    cv2.imwrite(str(tmp_path / "val" / "2" / "9000L.png"), deep)
    with pytest.raises(DatasetError, match=r"9000L\.png: 140 x 140 pixels of uint16, must be square and of 8 bits"):
        write_changed(CHANGES[0], tmp_path / "val", tmp_path / "out")


def test_points_move_with_the_picture() -> None:
    """A bright dot is where the matrix sends it, to half a pixel."""
    picture = np.zeros((SIZE, SIZE), np.uint8)
    x, y = 60, 84
    picture[y - 2 : y + 3, x - 2 : x + 3] = 255
    for change in CHANGES:
        moved = change.of(picture).astype(float)
        if change.name == "inverted":
            moved = 255 - moved
        moved[moved < 60] = 0
        rows, columns = np.indices(moved.shape)
        found = [(moved * grid).sum() / moved.sum() for grid in (columns, rows)]
        expected = change.matrix(picture.shape) @ [x, y, 1]
        np.testing.assert_allclose(found, expected, atol=0.3, err_msg=change.name)


def test_landmarks_are_written_where_the_picture_went(data: Path, tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"file": ["0/9000L.png"], "subject_id": ["9000"], "side": ["L"], "kl": [0], "inverted": [0]}
        | {f"{axis}{number}": [number + 10.5] for number in range(16) for axis in "xy"}
    )
    graded = tmp_path / "graded"
    for path in data.glob("[0-4]/*.png"):
        (graded / path.parent.name).mkdir(parents=True, exist_ok=True)
        (graded / path.parent.name / path.name).write_bytes(path.read_bytes())
    table.to_csv(graded / "landmarks.csv", index=False)
    write_changed(CHANGES[0], graded, tmp_path / "mirrored")
    moved = pd.read_csv(tmp_path / "mirrored" / "landmarks.csv", dtype={"subject_id": str}).iloc[0]
    assert (moved.file, moved.side, moved.subject_id) == ("0/9000R.png", "R", "9000")
    assert (moved.x3, moved.y3) == (SIZE - 1 - 13.5, 13.5)


def test_mirroring_and_inversion_change_nothing(data: Path, weights: Path) -> None:
    grader = grader_of(weights)
    plain = grade_folder(grader, data, model="tiny")
    table = robustness_table(grader, data, plain, resamples=20).set_index("condition")
    assert len(table) == 1 + len(CHANGES)
    for name in ("as they are", "inverted", "mirrored, the side letter too"):
        assert table.largest_change[name] < 1e-6, name
        assert table.changed[name] == table.loss[name] == 0
    assert (table.largest_change.drop(["as they are", "inverted", "mirrored, the side letter too"]) > 1e-6).all()
    for path in data.glob("3/*.png"):  # dark bone is righted before the networks
        roi = read_graded(path, GEOMETRY, "film").roi
        assert roi[:, 40:100].mean() > roi[:, :8].mean()


def test_graders_that_follow_landmarks_go_through_all_changes(data: Path, tmp_path: Path) -> None:
    """With a table as locate_landmarks.py writes it, which knows the very bytes of each picture."""
    shutil.copytree(data, tmp_path / "val")
    rows = []
    for path in graded_files(tmp_path / "val"):
        subject, side = subject_and_side(path)
        points = np.stack([np.linspace(30, 110, 16), np.full(16, SIZE / 2)], 1)
        rows.append(
            {"file": f"{path.parent.name}/{path.name}", "subject_id": subject, "side": side, "kl": path.parent.name}
            | {"split": "val", "mm_per_px": 1, "inverted": 0}
            | {"picture_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            | {f"{axis}{number}": points[number, "xy".index(axis)] for number in range(16) for axis in "xy"}
        )
    pd.DataFrame(rows).to_csv(tmp_path / "val" / "landmarks.csv", index=False)
    torch.manual_seed(0)
    model, geometry = SiameseSettings(width=2), GEOMETRY.model_copy(update={"follow": "landmarks"})
    how = GraderSettings(model=model, geometry=geometry, intensity=Intensity(mean=0.4, std=0.05))
    (tmp_path / "w").mkdir()
    save_snapshot(
        tmp_path / "w" / "best.safetensors",
        build_net(model).state_dict(),
        {"task": "kl", "name": "tiny", "fold": 0, **how.model_dump(mode="json")},
    )
    words = ["--data", str(tmp_path / "val"), "--weights", str(tmp_path / "w"), "--out", str(tmp_path / "out")]
    assert script("evaluate_kl").main([*words, "--robustness", "--resamples", "5"]) == 0
    table = pd.read_csv(tmp_path / "out" / "robustness.csv").set_index("condition")
    assert len(table) == 1 + len(CHANGES)
    assert table.largest_change["inverted"] < 1e-6


def test_what_is_refused_leaves_an_older_report_whole(
    data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate, out = script("evaluate_kl"), tmp_path / "out"
    words = ["--data", str(data), "--weights", str(weights), "--resamples", "5", "--out", str(out)]
    assert evaluate.main([*words, "--against", str(weights / "fold_0" / "best.safetensors")]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def refuse(*_: object, **__: object) -> None:
        raise RadiographError("a picture that cannot be changed")

    monkeypatch.setattr(evaluate, "robustness_table", refuse)
    assert evaluate.main([*words, "--robustness"]) == 2
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert evaluate.main(words) == 0
    assert not {"predictions_against.csv", "comparison.csv"} & {path.name for path in out.iterdir()}


def test_loss_is_what_the_changed_pictures_cost() -> None:
    """A changed set that is graded worse has a positive loss, whose interval is that of a loop over the resamples."""
    plain = made_up(25)
    truth = np.eye(5)[plain.grades]
    good = GradePredictions("m", plain.knees, 0.9 * truth + 0.02)
    bad = GradePredictions("m", plain.knees, 0.9 * np.roll(truth, 1, axis=1) + 0.02)
    bootstrap = SubjectBootstrap(good.subjects, resamples=50)
    before = resampled_metrics(good.probabilities, good.grades, bootstrap)["kappa"]
    row = _row("worse", bad, good, before, bootstrap)
    lost = 1 - grading_metrics(bad.probabilities, bad.grades)["kappa"]
    assert row["loss"] == pytest.approx(lost)
    assert row["low"] <= lost <= row["high"]
    assert (row["changed"], row["accuracy"]) == (1, 0)
    assert row["low"] > 0


def test_changed_pictures_stay_out_of_the_cache(data: Path, weights: Path) -> None:
    grader, folder = grader_of(weights), cache_folder()
    assert folder is not None
    plain = grade_folder(grader, data, model="tiny")
    kept = sorted(folder.iterdir())
    assert kept
    robustness_table(grader, data, plain, resamples=20)
    assert sorted(folder.iterdir()) == kept


def test_grading_is_that_of_the_grader_knee_by_knee(data: Path, weights: Path) -> None:
    grader = grader_of(weights)
    found = grade_folder(grader, data, model="tiny")
    assert found.knees.iloc[1].tolist() == ["0/9000R.png", "9000", "R", 0]
    assert found.members is not None
    np.testing.assert_allclose(found.members.mean(0), found.probabilities)
    for row in (0, 7, 19):
        roi = read_graded(data / found.knees.knee[row], GEOMETRY, "film").roi
        np.testing.assert_allclose(grader.predict(roi[None]).probabilities[0], found.probabilities[row], atol=1e-6)
    with pytest.raises(FileNotFoundError, match="neither folders 0 to 4"):
        source_of(weights)


def test_mode_2018_is_tempered_as_the_one_model_that_it_is(data: Path, weights: Path) -> None:
    """Its probabilities are the softmax of summed logits, which at a temperature T are those to the power of 1 / T."""
    grader = Grader.from_snapshots(sorted(weights.rglob("*.safetensors")), mode="2018")
    found = grade_folder(grader, data, model="tiny")
    assert found.members is None
    for row in (0, 7):
        roi = read_graded(data / found.knees.knee[row], GEOMETRY, "film").roi
        np.testing.assert_allclose(grader.predict(roi[None]).probabilities[0], found.probabilities[row], atol=1e-6)
    crossed = cross_fit(found.networks, found.grades, found.subjects, splits=1)
    powers = [found.probabilities ** (1 / temperature) for temperature in crossed.temperatures[0]]
    tempered = [power / power.sum(1, keepdims=True) for power in powers]
    close = [np.isclose(crossed.probabilities[0], each, atol=1e-6).all(1) for each in tempered]
    assert (close[0] | close[1]).all()


def test_calibration_is_stored_and_read_again(
    data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = sorted(weights.rglob("*.safetensors"))
    before = [load_snapshot(path)[0] for path in paths]
    calibrate, command = script("calibrate_kl"), ["--data", str(data), "--weights", str(weights)]
    assert calibrate.main([*command, "--dry_run"]) == 0
    assert load_member(paths[0]).settings.conformal is None
    assert calibrate.main(command) == 0
    assert "temperature" in capsys.readouterr().out
    stored = [path.read_bytes() for path in paths]
    settings = [load_member(path).settings for path in paths]
    assert settings[0].temperature == settings[1].temperature != 1
    assert settings[0].conformal == settings[1].conformal
    assert settings[0].conformal is not None
    assert settings[0].conformal.networks == 2
    assert len(settings[0].conformal.fit) == 16
    for path, weights_before in zip(paths, before, strict=True):
        for name, tensor in load_snapshot(path)[0].items():
            assert torch.equal(tensor, weights_before[name])
        assert json.loads(path.with_suffix(".json").read_text())["temperature"] == settings[0].temperature
    assert calibrate.main(command) == 0
    assert [path.read_bytes() for path in paths] == stored  # once more gives the same

    for turns in (["60"], ["0"], ["nan"], ["6", "6"]):
        with pytest.raises(SystemExit):
            calibrate.main([*command, "--turns", *turns])
    assert calibrate.main([*command, "--turns", "-6", "6"]) == 0
    for words in (command, [*command, "--turns"]):  # kept unless other angles, or none, are asked for
        turned = [load_member(path).settings for path in paths]
        assert [how.turns_deg for how in turned] == [(-6, 6)] * 2
        assert turned[0].conformal is not None
        assert (turned[0].conformal.networks, turned[0].conformal.turns_deg) == (6, (-6, 6))
        assert calibrate.main(words) == 0
    assert [path.read_bytes() for path in paths] == stored

    out = tmp_path / "out"
    evaluated = script("evaluate_kl")
    assert evaluated.main(["--data", str(data), "--weights", str(weights), "--out", str(out), "--resamples", "20"]) == 0
    found = read_predictions(out / "predictions.csv")
    assert found.sets is not None
    covered = found.sets[np.arange(20), found.grades].mean()
    assert covered >= 0.9  # on the very knees that it was fitted on
    assert "## Sets of the snapshots" in (out / "report.md").read_text()
    for path in paths:
        assert hashlib.sha256(path.read_bytes()).hexdigest()[:12] in (out / "report.md").read_text()
    assert "calibrated with other networks" not in (out / "report.md").read_text()
    part = ["--data", str(data), "--weights", str(paths[0]), "--out", str(tmp_path / "part"), "--resamples", "20"]
    assert evaluated.main(part) == 0
    text = (tmp_path / "part" / "report.md").read_text()
    assert f"- knees: `{data}`" in text
    assert "calibrated with other networks or turns than now (1 of 1 networks hold a threshold)" in text
    alone = Grader.from_snapshots(paths[:1]).predict(np.zeros((1, SIZE, SIZE), np.uint8))
    assert alone.sets is None


def test_calibrating_a_network_that_says_nothing_is_warned_of(
    data: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in weights.rglob("*.safetensors"):
        tensors, meta = load_snapshot(path)
        save_snapshot(path, {**tensors, "final.1.weight": torch.zeros_like(tensors["final.1.weight"])}, meta)
    assert script("calibrate_kl").main(["--data", str(data), "--weights", str(weights), "--dry_run"]) == 0
    said = capsys.readouterr().err
    assert "calibrate_kl: warning: every knee gets the same probabilities" in said
    assert "are these the right networks and knees?" in said


def test_the_whole_evaluation(data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main, out = script("evaluate_kl").main, tmp_path / "out"
    one = str(weights / "fold_0" / "best.safetensors")
    words = ["--data", str(data), "--weights", str(weights), "--against", one, "--robustness", "--resamples", "20"]
    assert main([*words, "--out", str(out)]) == 0
    assert "kappa" in capsys.readouterr().out
    names = {path.name for path in out.iterdir()}
    assert names >= {"report.md", "predictions.csv", "figures.csv", "comparison.csv", "robustness.csv"}
    for name in ("confusion", "roc", "precision_recall", "reliability"):
        assert cv2.imread(str(out / f"{name}.png")).shape[0] > 300
    text = (out / "report.md").read_text()
    for part in ("Research use only", "## The two models compared", "## Robustness", "tiny (against)", "| inverted |"):
        assert part in text
    assert "nan" not in text
    again = tmp_path / "again"
    assert main(["--predictions", str(out / "predictions.csv"), "--out", str(out), "--resamples", "20"]) == 0
    assert not {"comparison.csv", "robustness.csv"} & {path.name for path in out.iterdir()}, "of the report before"
    assert main([*words, "--out", str(out)]) == 0
    words = ["--predictions", str(out / "predictions.csv"), "--against", str(out / "predictions_against.csv")]
    assert main([*words, "--out", str(again), "--resamples", "20"]) == 0
    first, second = (pd.read_csv(folder / "comparison.csv") for folder in (out, again))
    pd.testing.assert_frame_equal(first, second, atol=1e-4)


def test_predictions_to_compare_with_are_never_replaced(
    data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder holds the predictions of another model; those of other knees are refused before any are written."""
    main, out = script("evaluate_kl").main, tmp_path / "out"
    one, more = str(weights / "fold_0" / "best.safetensors"), ["--out", str(out), "--resamples", "20"]
    assert main(["--data", str(data), "--weights", one, *more]) == 0
    stored = (out / "predictions.csv").read_bytes()
    words = ["--data", str(data), "--weights", str(weights), "--against"]
    assert main([*words, str(out / "predictions.csv"), *more]) == 2
    assert "predictions.csv: the new predictions would replace it; give another --out" in capsys.readouterr().err
    strangers = tmp_path / "strangers.csv"
    write_predictions(strangers, made_up())
    assert main([*words, str(strangers), *more]) == 2
    assert "graded different knees" in capsys.readouterr().err
    leaking = tmp_path / "leaking.safetensors"
    weights_of, meta = load_snapshot(one)
    subjects = pd.read_csv(out / "predictions.csv", dtype=str).subject_id
    save_snapshot(leaking, weights_of, {**meta, "trained_on": subject_marks(subjects)})
    assert main([*words, str(leaking), *more]) == 2
    assert "were trained on" in capsys.readouterr().err
    assert (out / "predictions.csv").read_bytes() == stored
    assert not (out / "comparison.csv").exists()
    assert main([*words, str(out / "predictions.csv"), "--out", str(tmp_path / "both"), "--resamples", "20"]) == 0
    compared = pd.read_csv(tmp_path / "both" / "comparison.csv")
    assert (compared.difference.dropna() != 0).any()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--predictions", "x.csv", "--robustness"], "give --data"),
        (["--predictions", "x.csv", "--against", "folder"], "needs --data"),
        (["--predictions", "x.csv", "--coverage", "90"], "between 0 and 1"),
        (["--predictions", "x.csv", "--out", __file__], "is a file; must be a folder"),
    ],
)
def test_options_that_do_not_fit(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script("evaluate_kl").main(["--out", "nowhere", *words])
    assert message in capsys.readouterr().err


def test_what_is_missing_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script("evaluate_kl").main(["--predictions", str(tmp_path / "x.csv"), "--out", str(tmp_path / "out")]) == 2
    assert "x.csv" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
