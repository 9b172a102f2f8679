"""Stochastic weight averaging against averages worked out from the single epochs."""

import json

import pytest
import torch
from fit_tasks import Augmented, Regression, contents, interrupt_at
from torch import nn

from kneel.engine import record
from kneel.engine.config import TrainingConfig
from kneel.engine.fit import fit
from kneel.engine.snapshot import load_snapshot

SWA = {"swa_start": 2, "swa_frequency": 2, "swa_learning_rate": 0.02}


@pytest.fixture(autouse=True)
def _steady_code(monkeypatch):
    monkeypatch.setattr(record, "code_version", lambda: {"commit": "0" * 40})


def run(path, name, task=None, *, resume=False, **changes):
    settings = {"epochs": 6, "batch_size": 4, "learning_rate": 0.01, "monitor": "loss", "mode": "min"} | changes
    return fit(task or Regression(), TrainingConfig(**settings), path, name=name, resume=resume, cpu=True)


class Normed(Regression):
    """With a batch norm, training data that are the same every epoch, and a loss that does not see them as they are."""

    def build_model(self):
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))

    def train_dataset(self):
        return Plain(self.length)

    def training_loss(self, model, batch):
        return nn.functional.mse_loss(model(batch["x"] + 5), batch["y"])

    def predict(self, model, batch):
        if isinstance(batch, dict):  # a training batch
            return {"answer": model(batch["x"])}
        return super().predict(model, batch)


class Plain(Augmented):
    """Without the augmentation."""

    def __getitem__(self, index):
        x = self.x[index]
        return {"x": x, "y": x.sum()[None], "index": index, "drawn": x}


def weights(path):
    return load_snapshot(path)[0]


def test_the_average_is_that_of_the_epochs_that_were_asked_for(tmp_path):
    """With start 2 and frequency 2 the ends of epochs 4 and 6 are averaged; a run of k epochs ends as epoch k did."""
    ends = {k: weights(run(tmp_path, f"{k}", epochs=k, **SWA).path_last) for k in (4, 6)}
    whole = run(tmp_path, "whole", **SWA)
    rows = {int(row["epoch"]): row["loss"] for row in whole.history}
    assert whole.best_epoch == min((4, 5, 6), key=rows.get)  # the average only, whatever came before it
    judged = [run(tmp_path, f"judged {k}", epochs=k, monitor="loss", mode="min", **SWA) for k in (4, 6)]
    averages = [ends[4], {name: (ends[4][name] + ends[6][name]) / 2 for name in ends[4]}]
    for result, average in zip(judged, averages, strict=True):
        net = Regression().build_model().eval()
        net.load_state_dict(average)
        val = Regression().val_dataset()
        with torch.no_grad():
            loss = float((net(val.tensors[0]) - val.tensors[1]).square().mean())
        assert result.history[-1]["loss"] == pytest.approx(loss, rel=1e-5)
        if result.best_epoch == len(result.history):
            for name, value in weights(result.path_best).items():
                torch.testing.assert_close(value, average[name])
    assert [row["learning_rate"] for row in whole.history] == [0.01, 0.01, 0.02, 0.02, 0.02, 0.02]


def test_epochs_without_a_new_average_are_judged_like_the_one_before(tmp_path):
    losses = [row["loss"] for row in run(tmp_path, "a", **SWA).history]
    assert losses[4] == losses[3]  # epoch 5 adds nothing
    assert len({losses[0], losses[1], losses[2], losses[3], losses[5]}) == 5


def test_batch_norms_of_the_average_are_measured_over_the_training_set_as_it_is(tmp_path):
    result = run(tmp_path, "a", Normed(length=20), epochs=1, swa_start=0)
    kept = weights(result.path_best)
    x = Plain(20).x
    features = x @ kept["0.weight"].T + kept["0.bias"]
    torch.testing.assert_close(kept["1.running_mean"], features.mean(0), rtol=1e-5, atol=1e-6)
    batches = kept["1.num_batches_tracked"]
    assert int(batches) == 5
    raw = weights(result.path_last)
    assert not torch.equal(raw["1.running_mean"], kept["1.running_mean"])
    torch.testing.assert_close(raw["0.weight"], kept["0.weight"])  # one epoch is its own average


@pytest.mark.parametrize("step", [8, 20, 27, 33])
def test_a_resumed_average_is_the_unbroken_one(tmp_path, step):
    run(tmp_path, "whole", **SWA)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "parts", Regression(hook=interrupt_at(step)), **SWA)
    run(tmp_path, "parts", resume=True, **SWA)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_repairing_a_finished_run_keeps_the_average(tmp_path):
    run(tmp_path, "a", **SWA)
    before = contents(tmp_path / "a")
    run(tmp_path, "a", resume=True, **SWA)
    assert contents(tmp_path / "a") == before
    assert json.loads((tmp_path / "a" / "best.json").read_text())["training"]["swa_start"] == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"swa_frequency": 3}, "swa_frequency = 3 acts only with swa_start"),
        ({"swa_learning_rate": 0.1}, "swa_learning_rate = 0.1 acts only with swa_start"),
        ({"swa_start": 6}, "swa_start \\+ swa_frequency = 6 \\+ 1: nothing is averaged within epochs = 6"),
    ],
)
def test_settings_that_average_nothing_are_refused(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        run(tmp_path, "a", **changes)


def test_the_best_of_an_averaging_run_is_an_average_even_when_it_is_worse(tmp_path):
    """A rate that spoils the last epochs: the raw weights of the first were better, and are not what was asked for."""
    result = run(tmp_path, "a", epochs=4, swa_start=2, swa_learning_rate=3.0)
    losses = [row["loss"] for row in result.history]
    assert min(losses[:2]) < min(losses[2:])
    assert result.best_epoch in (3, 4)
    kept = load_snapshot(result.path_best)[1]
    assert (kept["epoch"], kept["metrics"]["loss"]) == (result.best_epoch, result.best_metric)
    run(tmp_path, "a", epochs=4, swa_start=2, swa_learning_rate=3.0, resume=True)
    assert load_snapshot(result.path_best)[1]["epoch"] == result.best_epoch
