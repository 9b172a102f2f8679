"""Knees that a grading network was trained on must not judge it, nor calibrate it."""

import hashlib
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from doors import script

from deepknee.ensemble import Grader
from deepknee.experiment import GradingExperiment
from deepknee.predictions import read_predictions
from deepknee.train import GradingTask, train_grader
from deepknee.unseen import Training, check_unseen, held_out, tell_fitted
from kneel.engine.config import load_config
from kneel.engine.folds import LeakageError, grouped_folds, marked_subjects, split_digest, subject_marks
from kneel.engine.snapshot import load_snapshot, save_snapshot, update_snapshot

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENT = """
task: kl
data: {{source: graded_rois, train: train, val: {val}}}
folds: 3
geometry: {{roi_mm: 60, roi_px: 104, crop: 100, patch: 50, top: 25}}
model: {{width: 2, dropout: 0}}
augmentation: {{jitter_px: 2}}
training: {{epochs: 1, batch_size: 10, learning_rate: 1e-2, monitor: kappa, mode: max, threads: 1}}
"""
SUBJECTS = [f"s{number:02}" for number in range(24)]


def write_rois(folder: Path, subjects: list[str], seed: int = 0) -> Path:
    """Noise under two knees a subject, of all grades."""
    rng, rows = np.random.default_rng(seed), []
    folder.mkdir(parents=True)
    for number, subject in enumerate(subjects):
        for side in "LR":
            name = f"{subject}{side}.png"
            cv2.imwrite(str(folder / name), rng.integers(0, 255, (104, 104)).astype(np.uint8))
            rows.append({"file": name, "subject_id": subject, "kl": number % 5, "mm_per_px": 60 / 104, "points": ""})
    pd.DataFrame(rows).to_csv(folder / "knees.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data sets, and a training of each kind: with a validation set of its own, and in three folds."""
    root = tmp_path_factory.mktemp("unseen")
    parts = {"train": SUBJECTS[:12], "val": SUBJECTS[12:18], "test": SUBJECTS[18:], "mixed": SUBJECTS[10:14]}
    parts |= {"some": SUBJECTS[12:17], "merged": SUBJECTS[16:]}
    for number, (name, subjects) in enumerate(parts.items()):
        write_rois(root / name, subjects, number)
    for name, val, folds in (("whole", "val", 1), ("folds", "null", 3)):
        path = root / f"{name}.yaml"
        path.write_text(EXPERIMENT.format(val=val))
        for fold in range(folds):
            train_grader(load_config(path, GradingExperiment), root, root / "runs", name=name, fold=fold)
    return root


def without_marks(weights: Path, out: Path) -> Path:
    """The same networks as snapshots from before subjects were noted."""
    for path in weights.rglob("best.safetensors"):
        tensors, meta = load_snapshot(path)
        del meta["trained_on"], meta["chosen_on"]
        (out / path.parent.name).mkdir(parents=True)
        save_snapshot(out / path.parent.name / "best.safetensors", tensors, meta)
    return out


def run(name: str, data: Path, weights: Path, *words: str) -> int:
    return script(name).main(["--data", str(data), "--weights", str(weights), *words])


def test_marks_are_told_by_hand() -> None:
    marks = subject_marks(["b", "a", "b"])
    assert marks == "".join(sorted(hashlib.sha256(name).hexdigest()[:12] for name in (b"a", b"b")))
    assert marked_subjects(["c", "b", "b", "d"], marks) == {"b"}
    assert marked_subjects(["a"], subject_marks([])) == set()


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("command", ["evaluate_kl", "calibrate_kl"])
def test_training_knees_are_refused_and_named(
    command: str, old: bool, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = without_marks(root / "runs" / "whole", tmp_path / "old") if old else root / "runs" / "whole"
    before = [path.read_bytes() for path in sorted(weights.rglob("*.safetensors"))]
    words = ["--out", str(tmp_path / "out")] if command == "evaluate_kl" else []
    assert run(command, root / "train", weights, *words) == 2
    said = capsys.readouterr().err
    assert "1 of 1 networks" in said
    assert "trained on 12 of its 12 subjects: s00, s01, s02," in said
    assert not (tmp_path / "out").exists()
    assert [path.read_bytes() for path in sorted(weights.rglob("*.safetensors"))] == before


@pytest.mark.parametrize("old", [False, True])
def test_folds_of_one_training_are_refused_on_its_knees(
    old: bool, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = without_marks(root / "runs" / "folds", tmp_path / "old") if old else root / "runs" / "folds"
    assert run("evaluate_kl", root / "train", weights, "--out", str(tmp_path / "out")) == 2
    said = capsys.readouterr().err
    assert "3 of 3 networks" in said
    assert "12 of its 12 subjects" in said
    assert "evaluate_kl.py --out_of_fold takes for each knee the network that held it out" in said


@pytest.mark.parametrize("old", [False, True])
def test_out_of_fold_each_knee_is_graded_by_the_network_that_held_it_out(old: bool, root: Path, tmp_path: Path) -> None:
    weights = without_marks(root / "runs" / "folds", tmp_path / "old") if old else root / "runs" / "folds"
    out = tmp_path / "out"
    assert run("evaluate_kl", root / "train", weights, "--out_of_fold", "--out", str(out), "--resamples", "20") == 0
    found = read_predictions(out / "predictions.csv")
    assert found.knees.knee.tolist() == [f"{subject}{side}.png" for subject in SUBJECTS[:12] for side in "LR"]
    assert found.members is None
    seen = set()
    for fold in range(3):
        task = GradingTask(load_config(root / "folds.yaml", GradingExperiment), root, name="folds", fold=fold)
        held = task.knees[1]
        grade = Grader.from_snapshots([root / "runs" / "folds" / f"fold_{fold}" / "best.safetensors"]).predict(
            held.rois
        )
        for name, chances in zip(held.names, grade.probabilities, strict=True):
            row = found.knees.index[found.knees.knee == Path(name).name][0]
            np.testing.assert_allclose(found.probabilities[row], chances, atol=1e-6)
            seen.add(row)
    assert len(seen) == 24
    words = (
        "Each knee was graded by the one network that was not trained on its subject. The knees that a network held out"
    )
    assert words in (out / "report.md").read_text()


def test_out_of_fold_the_answers_told_apart_are_of_the_network_that_held_the_knee_out(
    root: Path, tmp_path: Path
) -> None:
    shutil.copytree(root / "runs" / "folds", tmp_path / "folds")
    for path in (tmp_path / "folds").rglob("*.safetensors"):
        update_snapshot(path, {"turns_deg": [-6.0, 6.0]})
    words = ["--out_of_fold", "--out", str(tmp_path / "out"), "--resamples", "20"]
    assert run("evaluate_kl", root / "train", tmp_path / "folds", *words) == 0
    found = read_predictions(tmp_path / "out" / "predictions.csv")
    assert found.members is not None
    assert found.members.shape == (3, 24, 5)  # upright, and turned either way
    for fold in range(3):
        task = GradingTask(load_config(root / "folds.yaml", GradingExperiment), root, name="folds", fold=fold)
        held, alone = task.knees[1], tmp_path / "folds" / f"fold_{fold}" / "best.safetensors"
        rows = [found.knees.index[found.knees.knee == Path(name).name][0] for name in held.names]
        answers = Grader.from_snapshots([alone]).judge(held.rois)[1]
        np.testing.assert_allclose(found.members[:, rows], answers, atol=1e-6)


def test_out_of_fold_needs_one_network_a_knee(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--out_of_fold", "--out", str(tmp_path / "out")]
    assert run("evaluate_kl", root / "test", root / "runs" / "folds", *words) == 2
    assert "6 of its 6 subjects were held out by several of the 3 networks" in capsys.readouterr().err
    assert run("evaluate_kl", root / "train", root / "runs" / "folds" / "fold_1", *words) == 2
    assert "8 of its 12 subjects were held out by none of the 1 networks" in capsys.readouterr().err
    old = without_marks(root / "runs" / "folds", tmp_path / "old")
    assert run("evaluate_kl", root / "test", old, *words) == 2
    assert "does not note whom it was trained on" in capsys.readouterr().err
    assert run("evaluate_kl", root / "test", root / "runs" / "whole", *words) == 2  # no fold of these knees
    said = capsys.readouterr().err
    assert "whole/fold_0/best.safetensors: was trained on none of the subjects of" in said
    both = [str(root / "runs" / name / "fold_0" / "best.safetensors") for name in ("whole", "folds")]
    words = ["--data", str(root / "train"), "--weights", *both, "--out", str(tmp_path / "out")]
    assert script("evaluate_kl").main([*words, "--out_of_fold"]) == 2
    assert "held out by none of the 2 networks" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_some_training_subjects_among_others_are_named(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate_kl", root / "mixed", root / "runs" / "whole", "--out", str(tmp_path / "out")) == 2
    assert "2 of its 4 subjects: s10, s11;" in capsys.readouterr().err


def test_unseen_knees_are_graded_and_the_report_says_so(root: Path, tmp_path: Path) -> None:
    weights, old = root / "runs" / "whole", without_marks(root / "runs" / "whole", tmp_path / "old")
    said = {}
    asked = [("val", weights), ("test", weights), ("some", weights), ("merged", weights), ("val", old), ("test", old)]
    for part, networks in asked:
        out = tmp_path / f"{part}_{networks.name}"
        assert run("evaluate_kl", root / part, networks, "--out", str(out), "--resamples", "20") == 0
        said[out.name] = (out / "report.md").read_text()
    for name in ("val_whole", "val_old", "some_whole"):
        assert "None of these subjects was in the training of a network. Their knees chose the epoch" in said[name]
    assert "None of these subjects was in the training of a network.\n" in said["test_whole"]
    assert "of a network. Knees of 2 of these 8 subjects chose the epoch of a network.\n" in said["merged_whole"]
    assert "cannot be checked: 1 of 1 snapshots do not note theirs" in said["test_old"]
    out, table = tmp_path / "table", tmp_path / "val_whole" / "predictions.csv"
    assert script("evaluate_kl").main(["--predictions", str(table), "--out", str(out), "--resamples", "20"]) == 0
    assert "was not checked: the grades come from a table" in (out / "report.md").read_text()


def test_knees_that_chose_the_epoch_may_calibrate(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(root / "runs" / "whole", tmp_path / "whole")
    assert run("calibrate_kl", root / "val", tmp_path / "whole") == 0
    assert "None of these subjects" in capsys.readouterr().out


def test_reports_say_whether_the_calibration_was_fitted_on_their_knees(root: Path, tmp_path: Path) -> None:
    def said(part: str) -> str:
        out = tmp_path / f"of_{part}"
        assert run("evaluate_kl", root / part, tmp_path / "whole", "--out", str(out), "--resamples", "20") == 0
        return (out / "report.md").read_text()

    shutil.copytree(root / "runs" / "whole", tmp_path / "whole")
    assert "fitted on their knees" not in said("val")
    assert run("calibrate_kl", root / "val", tmp_path / "whole") == 0
    assert "Temperature and sets of the networks were fitted on their knees.\n" in said("val")
    assert "were fitted on knees of 2 of these 8 subjects.\n" in said("merged")
    assert "in the training of a network.\n" in said("test")
    for path in (tmp_path / "whole").rglob("*.safetensors"):
        update_snapshot(path, {"calibrated_on": None})  # as those that were calibrated before it was noted
    assert "sets were fitted on their knees is not noted in 1 of 1 snapshots.\n" in said("test")


def test_old_folds_are_cut_again_as_they_were() -> None:
    """What one fold held out is known to have been seen by the other."""
    subjects, grades = [f"s{number // 2}" for number in range(40)], [number // 2 % 5 for number in range(40)]
    trainings = []
    for fold, (train, val) in enumerate(grouped_folds(subjects, grades, 4, 7)):
        meta = {
            "experiment": {"data": {"val": None}, "folds": 4},
            "fold": fold,
            "training": {"seed": 7},
            "split": split_digest([subjects[i] for i in train], [subjects[i] for i in val]),
        }
        trainings.append(Training.of_snapshot(f"fold_{fold}", json.loads(json.dumps(meta))))
        assert trainings[-1].seen(subjects, grades) == {subjects[i] for i in train}
        assert trainings[-1].seen([subjects[i] for i in val], [grades[i] for i in val]) == set()
        assert trainings[-1].seen(subjects[:30], grades[:30]) is None  # other knees than the folds were cut from
    with pytest.raises(
        LeakageError, match=r"4 of 4 networks, as fold_0, were trained on 20 of its 20 subjects: s0, s1"
    ):
        check_unseen(trainings, subjects, grades, "there")


def test_a_snapshot_that_says_nothing_is_told() -> None:
    words = check_unseen([Training("a"), Training("b", subject_marks(["x"]))], ["y"], [0], "there")
    assert words.endswith("cannot be checked: 1 of 2 snapshots do not note theirs, as a.")


def test_who_chose_the_epoch_is_told_as_far_as_it_is_known() -> None:
    def said(training: Training, *subjects: str) -> str:
        return check_unseen([training], subjects, [0] * len(subjects), "there").partition("of a network. ")[2]

    split = split_digest(["t"], ["a", "b"])
    noted = Training("a", subject_marks(["t"]), subject_marks(["a", "b"]), split)
    assert said(noted, "a") == said(noted, "a", "b", "b") == "Their knees chose the epoch of the networks."
    assert said(noted, "b", "c") == "Knees of 1 of these 2 subjects chose the epoch of a network."
    assert check_unseen([noted], ["c"], [0], "there").endswith("in the training of a network.")
    before = Training("a", subject_marks(["t"]), split=split)
    assert said(before, "a", "b") == "Their knees chose the epoch of the networks."
    dumb = "Whether their knees chose the epoch is not noted in {} of {} snapshots."
    for subjects in (("a",), ("a", "b", "c"), ("c",)):
        assert said(before, *subjects) == dumb.format(1, 1)
    for subjects in (["a"], ["b", "c"]):  # of the one they did, of the other it is not known
        found = check_unseen([noted, before], subjects, [0] * len(subjects), "there").partition("of a network. ")[2]
        assert (
            found == f"Knees of 1 of these {len(subjects)} subjects chose the epoch of a network. {dumb.format(1, 2)}"
        )


def test_whose_knees_the_calibration_was_fitted_on_is_told_as_far_as_it_is_known() -> None:
    noted, silent = Training("a", calibrated_on=subject_marks(["a", "b"])), Training("b")
    assert tell_fitted([noted], ["a", "b", "b"]) == "Temperature and sets of the networks were fitted on their knees."
    assert "fitted on knees of 1 of these 2 subjects" in tell_fitted([noted, silent], ["b", "c"])
    assert tell_fitted([noted], ["c"]) == ""
    assert tell_fitted([noted, silent], ["c"]).endswith("is not noted in 1 of 2 snapshots.")


def test_out_of_fold_says_of_whose_knees_chose_the_epoch_what_is_known() -> None:
    def said(*trainings: Training) -> str:
        return held_out(trainings, ["a", "b"], [0, 0], "there")[1].partition("its subject.")[2].strip()

    a, b, other = map(subject_marks, ("a", "b", "c"))
    assert said(Training("1", a, b), Training("2", b, a)) == "The knees that a network held out chose its epoch."
    assert said(Training("1", a, other), Training("2", b, other)) == ""
    assert said(Training("1", a, b), Training("2", b, other)).startswith("Knees of 1 of the 2 subjects chose")
    both = said(Training("1", a, b), Training("2", b))
    assert both.startswith("Knees of 1 of the 2 subjects chose the epoch of that network. Whether their knees")
    assert both.endswith("is not noted in 1 of 2 snapshots.")
    assert said(Training("1", a, other), Training("2", b)).startswith("Whether their knees chose the epoch is not")
    with pytest.raises(LeakageError, match="2: was trained on none of the subjects of there"):
        said(Training("1", a + b), Training("2", other, other))
