"""Out-of-fold prediction: every knee once, never by a network that may know it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from kneel.assess_knees import read_roi
from kneel.dataset import LandmarkSample
from kneel.engine.folds import LeakageError
from kneel.engine.snapshot import load_snapshot, save_snapshot, update_snapshot
from kneel.experiment import LandmarkExperiment
from kneel.imaging.schema import read_annotations, write_annotations
from kneel.network import Located
from kneel.oof import locate, on_test_set, out_of_fold
from kneel.phantom.cohort import write_cohort
from kneel.predictions import PredictionError, read_predictions
from kneel.sources import KneelSource
from kneel.train import train_landmarks

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "oof_inference.py"
FOLDS = 2
SETTINGS = {
    "task": "hc",
    "data": {"source": "phantom", "train": "all", "val": None},
    "roi": {"spacing_mm": 4.0, "size": [32, 32], "margin": 0.2},
    "model": {"width": 4, "depth": 2, "dropout": 0.0},
    "folds": FOLDS,
    "training": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3, "monitor": "error_mm", "mode": "min"},
}


def experiment(**changes):
    return LandmarkExperiment.model_validate_json(json.dumps({**SETTINGS, **changes}))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A cross-validation of two folds over six phantom subjects, and one of a training and a validation set."""
    root = tmp_path_factory.mktemp("oof")
    write_cohort(root / "all", 6, seed=1, spacing_mm=0.5, implant_fraction=0, single_knee_fraction=0.5)
    write_cohort(root / "val", 2, seed=2, spacing_mm=0.5, implant_fraction=0, single_knee_fraction=0)
    metrics = []
    for fold in range(FOLDS):
        result = train_landmarks(experiment(), root, root / "w", name="hc", fold=fold)
        metrics.append(result.best_metric)
    return root, metrics


def copied(runs, tmp_path):
    shutil.copytree(runs[0] / "w", tmp_path / "w")
    return tmp_path / "w", tmp_path / "w/hc/fold_1/best.safetensors"


class BrightestPixel(nn.Module):
    """A perfect network for pictures of one bright pixel."""

    def forward(self, pictures):
        peak = pictures.flatten(1).argmax(1)
        width = pictures.shape[-1]
        points = torch.stack([peak % width, peak // width], dim=-1).float()[:, None]
        return Located(points, torch.zeros(len(points), 1))


def test_points_come_back_in_pixels_of_the_sample_s_picture():
    samples = []
    for x, y in ((30, 12), (33, 40), (50, 25)):
        picture = np.zeros((61, 90), np.uint8)  # cut on both sides, and black added above and below
        picture[y, x] = 255
        samples.append(LandmarkSample(picture, np.array([[x - 2.25, y + 1.5]]), "s", "R", 0))
    points = locate(BrightestPixel(), samples, (64, 72))
    np.testing.assert_allclose(points[:, 0], [(30, 12), (33, 40), (50, 25)], atol=1e-5)


def test_every_knee_is_predicted_once_by_the_fold_that_held_it_out(runs, tmp_path):
    root, metrics = runs
    found = out_of_fold(experiment(), root, root / "w", name="hc", pictures=tmp_path / "rois")
    annotated = {(knee.subject_id, knee.side): knee for knee in read_annotations(root / "all/annotations.csv")}
    names = list(zip(found.knees.subject_id, found.knees.side, strict=True))
    assert sorted(names) == sorted(annotated)
    assert list(found.knees.kl) == [annotated[name].kl for name in names]
    # the figures of each fold are those that its training told of its best epoch
    for fold, metric in enumerate(metrics):
        assert found.errors_mm[(found.knees.fold == str(fold)).to_numpy()].mean() == pytest.approx(metric, rel=1e-4)
    # the true points, centred on the joint, are those of the annotations
    shapes = np.array([annotated[name].points * 0.3 for name in names])
    np.testing.assert_allclose(found.truth * 4.0 - found.truth[:, 4:5] * 4.0, shapes - shapes[:, 4:5], atol=0.01)
    knee = found.knees.iloc[0]
    assert read_roi(tmp_path / "rois" / f"{knee.subject_id}_{knee.kl}_{knee.side}.png", 4.0).shape == (42, 42)


def test_an_experiment_with_a_validation_set_is_predicted_on_it(runs):
    root, _ = runs
    own = experiment(data={"source": "phantom", "train": "all", "val": "val"})
    train_landmarks(own, root, root / "w", name="own")
    found = out_of_fold(own, root, root / "w", name="own")
    knees = read_annotations(root / "val/annotations.csv")
    assert sorted(zip(found.knees.subject_id, found.knees.side, strict=True)) == sorted(
        (knee.subject_id, knee.side) for knee in knees
    )
    assert set(found.knees.fold) == {"0"}


def test_a_knee_in_several_pictures_is_refused_before_anything_is_computed(runs, monkeypatch):
    root, _ = runs
    part = {"data": {"source": "phantom", "train": "all", "val": "val"}}
    several = experiment(data={"source": "several", "parts": [part, part]})
    train_landmarks(several, root, root / "w", name="several")
    monkeypatch.setattr("kneel.oof.locate", None)
    with pytest.raises(PredictionError, match="4 knees would be predicted more than once"):
        out_of_fold(several, root, root / "w", name="several")


def test_a_network_that_may_know_the_knees_is_refused(runs, tmp_path):
    root, _ = runs
    workdir, path = copied(runs, tmp_path)
    shutil.copy(workdir / "hc/fold_0/best.safetensors", path)
    with pytest.raises(LeakageError, match=r"fold_1.*another split of subjects.*the knees of fold 1"):
        out_of_fold(experiment(), root, workdir, name="hc")
    weights, meta = load_snapshot(path)
    save_snapshot(path, weights, {key: value for key, value in meta.items() if key != "split"})
    with pytest.raises(LeakageError, match="does not say whom it was trained on"):
        out_of_fold(experiment(), root, workdir, name="hc")
    other_seed = SETTINGS["training"] | {"seed": 5}
    with pytest.raises(LeakageError, match="fold_0"):
        out_of_fold(experiment(training=other_seed), root, root / "w", name="hc")


def test_a_fold_with_epochs_to_go_is_refused_by_the_command(runs, tmp_path):
    root, _ = runs
    workdir, path = copied(runs, tmp_path)
    last = path.with_name("last.safetensors")
    update_snapshot(last, {"training": load_snapshot(last)[1]["training"] | {"epochs": 5}})
    file = tmp_path / "hc.yaml"
    file.write_text(json.dumps(SETTINGS))
    words = ["--experiment", file, "--data_root", root, "--workdir", workdir]
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "fold_1 is at epoch 1 of 5: finish it first" in done.stderr
    assert done.stderr.count("\n") == 1


def test_another_roi_is_refused(runs):
    root, _ = runs
    with pytest.raises(PredictionError, match=r"the experiment says hc with roi .*5\.0"):
        out_of_fold(experiment(roi=SETTINGS["roi"] | {"spacing_mm": 5.0}), root, root / "w", name="hc")


def test_missing_folds_are_named_by_the_command(runs, tmp_path):
    root, _ = runs
    workdir, path = copied(runs, tmp_path)
    path.unlink()
    file = tmp_path / "hc.yaml"
    file.write_text(json.dumps(SETTINGS))
    words = ["--experiment", file, "--data_root", root, "--workdir"]
    missing = subprocess.run([sys.executable, SCRIPT, *words, workdir], capture_output=True, text=True, check=False)
    assert missing.returncode == 2
    assert missing.stderr.count("\n") == 1
    assert "no best.safetensors of fold 1 of 2" in missing.stderr
    done = subprocess.run([sys.executable, SCRIPT, *words, root / "w"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert read_predictions(root / "w/hc/oof.csv").points.shape[1:] == (16, 2)


def test_a_test_set_is_predicted_by_the_mean_of_all_folds(runs, tmp_path):
    root, _ = runs
    knees = read_annotations(root / "val/annotations.csv")
    for knee in knees:
        picture = np.random.default_rng(0).integers(0, 256, (466, 466)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f"{knee.subject_id}_{knee.kl}_{knee.side}.png"), picture)
    write_annotations(tmp_path / "test.csv", knees)
    test = KneelSource(source="kneel_csv", annotations=str(tmp_path / "test.csv"), images=str(tmp_path))
    found = on_test_set(experiment(), root, root / "w", name="hc", test=test)
    assert set(found.knees.fold) == {"mean"}
    # the middle of 466 pixels of 0.3 mm is that of 35 pixels of 4 mm
    expected = (np.array([knee.points for knee in knees]) - 232.5) * 0.3 / 4 + 17
    np.testing.assert_allclose(found.truth, expected)
    # all have the same picture, so all get the same answer
    assert np.ptp(found.points, axis=0).max() < 1e-3
    write_annotations(tmp_path / "test.csv", [*knees, *read_annotations(root / "all/annotations.csv")[:1]])
    known = read_annotations(root / "all/annotations.csv")[0]
    cv2.imwrite(str(tmp_path / f"{known.subject_id}_{known.kl}_{known.side}.png"), np.zeros((466, 466), np.uint8))
    with pytest.raises(LeakageError, match=known.subject_id):
        on_test_set(experiment(), root, root / "w", name="hc", test=test)
