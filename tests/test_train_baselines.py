"""Baselines against data whose best answer is known."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_landmark_train import NOWHERE, experiment

from kneel.baselines import (
    RIDGE_SIDE,
    CoordinateResNet,
    LinearBaseline,
    ResNetTask,
    fit_linear,
    predict_resnet,
    small_pictures,
)
from kneel.dataset import LandmarkSample
from kneel.engine.config import ConfigError
from kneel.engine.fit import fit
from kneel.phantom.cohort import write_cohort
from kneel.stage import Stage
from kneel.train import LandmarkTask

ROOT = Path(__file__).resolve().parents[1]


def ramps(count, seed):
    """64 x 64 pictures of a slope; both points lie where its steepness says."""
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        steep = rng.uniform(0.2, 1.0)
        picture = np.tile(np.rint(255 * steep * (np.arange(64) + 0.5) / 64), (64, 1)).astype(np.uint8)
        points = np.array([[60 * steep, 20.0], [5.0, 60 - 50 * steep]])
        samples.append(LandmarkSample(picture, points, f"{seed}-{number}", "R", 0))
    return samples


def task_with(train, val, kind=LandmarkTask, **changes):
    task = kind(experiment(**changes), NOWHERE, name="ramps")
    task.__dict__["samples"] = (train, val)
    return task


def test_the_mean_shape_is_the_mean_of_the_training_points():
    train = ramps(7, 1)
    model = fit_linear(task_with(train, ramps(3, 2)), "mean")
    expected = sum(sample.points for sample in train) / 7
    answer = model(small_pictures(ramps(3, 2), (64, 64))[0])
    np.testing.assert_allclose(answer, np.tile(expected, (3, 1, 1)), rtol=1e-6)


def test_ridge_finds_a_linear_law_on_pictures_that_it_has_not_seen():
    """Points are affine in the grey values, so hardly any error is left: rounded grey levels are worth 0.1 px."""
    val = ramps(20, 4)
    model = fit_linear(task_with(ramps(40, 3), val), "ridge")
    pictures, truth = small_pictures(val, (64, 64))
    np.testing.assert_allclose(model(pictures), truth, atol=0.1)


def test_ridge_is_its_normal_equations():
    """The penalty that leave-one-out chooses is in the list, and its closed form gives the same weights."""
    rng = np.random.default_rng(5)
    pictures = rng.uniform(size=(30, 2, 2))
    points = (pictures.reshape(30, 4) @ rng.normal(size=(4, 6)) + rng.normal(0, 0.5, (30, 6))).reshape(30, 3, 2)
    model = LinearBaseline.ridge(pictures, points)
    x, y = pictures.reshape(30, 4), points.reshape(30, 6)
    x, y = x - x.mean(0), y - y.mean(0)
    closed = [np.linalg.solve(x.T @ x + penalty * np.eye(4), x.T @ y) for penalty in np.logspace(-2, 5, 15)]
    assert min(np.abs(weights - model.weights).max() for weights in closed) < 1e-9
    np.testing.assert_allclose(model(pictures).mean(0), points.mean(0))


@pytest.mark.parametrize("baseline", ["mean", "ridge"])
def test_nothing_of_the_validation_set_is_used(baseline):
    train = ramps(12, 6)
    one, other = (fit_linear(task_with(train, val), baseline) for val in (ramps(3, 7), ramps(5, 8)))
    np.testing.assert_array_equal(one.weights, other.weights)
    np.testing.assert_array_equal(one.offset, other.offset)


def test_a_saved_model_says_the_same(tmp_path):
    model = fit_linear(task_with(ramps(12, 6), ramps(3, 7)), "ridge")
    model.save(tmp_path / "model.npz")
    pictures = np.random.default_rng(0).uniform(size=(2, RIDGE_SIDE, RIDGE_SIDE))
    np.testing.assert_array_equal(LinearBaseline.load(tmp_path / "model.npz")(pictures), model(pictures))


def test_small_pictures_are_block_means_of_a_smooth_picture():
    pictures, points = small_pictures(ramps(1, 9), (64, 64))
    blocks = ramps(1, 9)[0].picture.reshape(32, 2, 32, 2).mean((1, 3)) / 255
    np.testing.assert_allclose(pictures[0][:, 1:-1], blocks[:, 1:-1], atol=2 / 255)
    np.testing.assert_allclose(points[0], ramps(1, 9)[0].points, rtol=1e-6)


@pytest.mark.parametrize("share", [0.5, 0.3])
def test_a_resnet_that_looks_at_nothing_says_its_offset_in_pixel_centres(share):
    """A share u of W pixels is u W - 1/2, in half precision as well (0.3 is 0.30078 in bfloat16)."""
    net = CoordinateResNet(mean=0.5, std=0.2, shape=[[share - 0.1, share - 0.1]] * 2).eval()
    torch.nn.init.zeros_(net.head.weight)
    torch.nn.init.ones_(net.head.bias)  # a tenth of the picture
    with torch.autocast("cpu", torch.bfloat16):
        located = net(torch.rand(1, 1, 64, 96))
    expected = torch.tensor([[[96 * share - 0.5, 64 * share - 0.5]] * 2])
    torch.testing.assert_close(located.points, expected, rtol=0, atol=1e-5)
    assert located.spread.shape == (1, 2)


def one_point(count, seed):
    samples = ramps(count, seed)
    return [LandmarkSample(each.picture, each.points[:1], each.subject_id, each.side, each.kl) for each in samples]


def test_a_resnet_learns_a_batch_by_heart():
    torch.manual_seed(0)
    task = task_with(one_point(8, 1), one_point(1, 2), kind=ResNetTask)
    net = task.build_model()
    batch = torch.utils.data.default_collate(list(task.train_dataset()))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = sum(task.training_loss(net, batch))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-3:]) < 0.5 * losses[0]


def test_a_resnet_predicts_from_its_snapshot_what_was_judged(tmp_path):
    training = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "monitor": "error_mm", "mode": "min"}
    task = task_with(one_point(16, 1), one_point(9, 2), kind=ResNetTask, training=training)
    result = fit(task, task.experiment.training, tmp_path, name="fold_0", cpu=True)
    points = predict_resnet(result.path_best, task.val_dataset(), 4)
    truth = np.array([sample.points for sample in task.samples[1]])
    error = np.linalg.norm(points - truth, axis=-1).mean() * task.experiment.roi.spacing_mm
    assert error == pytest.approx(result.best_metric, rel=1e-3)
    assert "spread_mm" not in result.history[0]
    with pytest.raises(ValueError, match="lc by resnet18"):
        Stage.from_snapshots([result.path_best], "lc", device=torch.device("cpu"))


def test_what_only_heat_maps_have_is_refused():
    with pytest.raises(ConfigError, match=r"loss\.spread = 0\.1"):
        task_with([], [], kind=ResNetTask, loss={"spread": 0.1})
    training = {"epochs": 1, "monitor": "spread_mm", "mode": "min"}
    with pytest.raises(ConfigError, match=r"training\.monitor = spread_mm"):
        task_with([], [], kind=ResNetTask, training=training)


def run(root, *arguments):
    command = [sys.executable, ROOT / "scripts" / "train_baselines.py", "--data_root", root, "--workdir", root / "w"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


def test_out_of_fold_predictions_cover_every_knee_once(tmp_path):
    """The mean of each fold is the mean of the truth of the other fold, as the table itself says."""
    write_cohort(tmp_path / "train", 3, seed=1, spacing_mm=0.5, implant_fraction=0, single_knee_fraction=0)
    file = tmp_path / "tiny.yaml"
    file.write_text(
        "task: hc\nfolds: 2\ndata: {source: phantom, val: null}\nroi: {spacing_mm: 2.0, size: [70, 70]}\n"
        "training: {epochs: 1, batch_size: 4, monitor: error_mm, mode: min}\n"
    )
    result = run(tmp_path, "--experiment", file, "--baseline", "mean")
    assert result.returncode == 0, result.stderr
    knees = pd.read_csv(tmp_path / "w" / "tiny_mean" / "predictions.csv")
    assert knees.columns[:8].tolist() == ["experiment", "fold", "subject_id", "side", "kl", "mm_per_px", "x0", "y0"]
    assert knees.columns[-2:].tolist() == ["tx15", "ty15"]
    assert len(knees) == 6
    assert not knees.duplicated(["subject_id", "side"]).any()
    found = [f"{axis}{number}" for number in range(16) for axis in "xy"]
    true = [f"t{name}" for name in found]
    for fold, other in ((0, 1), (1, 0)):
        expected = knees.loc[knees.fold == other, true].to_numpy().mean(0)
        np.testing.assert_allclose(
            knees.loc[knees.fold == fold, found], np.tile(expected, ((knees.fold == fold).sum(), 1))
        )
    errors = np.linalg.norm((knees[found].to_numpy() - knees[true].to_numpy()).reshape(6, 16, 2), axis=-1) * 2.0
    metrics = pd.read_csv(tmp_path / "w" / "tiny_mean" / "metrics.csv").set_index("fold")
    assert metrics.index.tolist() == ["0", "1", "all"]
    assert metrics.error_mm["all"] == pytest.approx(errors.mean())
    assert metrics.low_95["all"] < errors.mean() < metrics.high_95["all"]
    again = run(tmp_path, "--experiment", file, "--baseline", "mean")
    assert again.returncode == 2
    assert again.stderr.splitlines()[-1].startswith("train_baselines: ")
