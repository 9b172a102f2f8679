import csv
import json
import math

import numpy as np
import pytest
import torch
from fit_tasks import SLOPE, WRITTEN, Augmented, Normed, Regression, contents, run, settings
from torch import nn
from torch.utils.data import TensorDataset, WeightedRandomSampler

from kneel.engine.config import TrainingConfig
from kneel.engine.loading import train_batches, val_batches
from kneel.engine.optim import learning_rate
from kneel.engine.same import SPEED
from kneel.engine.snapshot import load_snapshot, load_training_state
from kneel.engine.trainer import TrainingDiverged

pytestmark = pytest.mark.usefixtures("steady_code")

FILES = (*WRITTEN, "experiment.yaml")


class Blobs(Regression):
    """Two classes, 2 to 30; the sampler balances them."""

    def build_model(self):
        return nn.Sequential(nn.Linear(2, 2))

    def train_dataset(self):
        self.labels = torch.tensor([1] * 2 + [0] * 30)
        noise = torch.randn(32, 2, generator=torch.Generator().manual_seed(3))
        return TensorDataset(noise + 6.0 * self.labels[:, None], self.labels)

    def val_dataset(self):
        return TensorDataset(torch.tensor([[0.0, 0.0], [6.0, 6.0], [-1.0, 1.0]]), torch.tensor([0, 1, 0]))

    def train_sampler(self, dataset, generator):
        share = torch.bincount(self.labels).double().reciprocal()[self.labels]
        return WeightedRandomSampler(share, len(dataset), generator=generator)

    def training_loss(self, model, batch):
        self.seen.append(batch[1].tolist())
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def predict(self, model, batch):
        return {"right": model(batch[0]).argmax(1) == batch[1]}

    def metrics(self, outputs):
        return {"accuracy": float(outputs["right"].mean())}


def flat(batches):
    return [number for batch in batches for number in batch]


def test_it_learns_the_known_solution(tmp_path):
    task = Regression(length=64, dropout=0.0)
    task.build_model = lambda: nn.Sequential(nn.Linear(3, 1))
    result = run(tmp_path, task=task, optimizer="sgd", epochs=40, learning_rate=0.2, milestones=(30,), batch_size=8)
    state, meta = load_snapshot(result.path_best)
    assert torch.allclose(state["0.weight"], SLOPE.T, atol=1e-3)
    assert torch.allclose(state["0.bias"], torch.ones(1), atol=1e-3)
    assert result.best_metric == min(row["loss"] for row in result.history) < 1e-5
    assert result.history[result.best_epoch - 1]["loss"] == result.best_metric
    assert (meta["task"], meta["epoch"], meta["metrics"]["loss"]) == (
        "regression",
        result.best_epoch,
        result.best_metric,
    )
    assert meta["training"]["milestones"] == [30]
    assert meta["metrics"]["auc"] is None


class InTerms(Regression):
    """The same loss in two halves of the batch, whose gradients must have been taken one after the other."""

    def build_model(self):
        self.net = super().build_model()
        return self.net

    def training_loss(self, model, batch):
        gradients = []
        for half in (slice(0, 2), slice(2, 4)):
            gradients.append(self.net[0].weight.grad)
            yield nn.functional.mse_loss(model(batch["x"][half]), batch["y"][half]) / 2
        assert gradients[0] is None
        assert gradients[1].abs().sum() > 0


def test_a_loss_in_terms_is_their_sum(tmp_path):
    whole = run(tmp_path, "whole", Regression(length=20, dropout=0.0), clip_norm=0.5)
    terms = run(tmp_path, "terms", InTerms(length=20, dropout=0.0), clip_norm=0.5)
    for row, other in zip(whole.history, terms.history, strict=True):
        assert other == pytest.approx(row, rel=1e-4, nan_ok=True)


def test_balanced_sampling_draws_anew_each_epoch(tmp_path):
    task = Blobs()
    result = run(tmp_path, task=task, epochs=12, batch_size=32, learning_rate=0.5, monitor="accuracy", mode="max")
    assert result.history[-1]["accuracy"] == 1.0
    assert all(8 <= sum(labels) <= 24 for labels in task.seen)
    assert len({tuple(labels) for labels in task.seen}) == 12


def test_the_folder_holds_what_is_promised(tmp_path):
    result = run(tmp_path, epochs=2)
    assert sorted(contents(tmp_path / "run")) == sorted(FILES)
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert list(rows[0]) == ["epoch", "learning_rate", "train_loss", "loss", "worst", "auc"]
    assert float(rows[1]["train_loss"]) == result.history[1]["train_loss"]
    assert math.isnan(float(rows[0]["auc"]))
    assert json.loads((tmp_path / "run" / "last.json").read_text())["epoch"] == 2


def test_same_seed_same_bytes_and_every_epoch_draws_anew(tmp_path):
    one, two = Regression(), Regression()
    run(tmp_path, "a", one)
    run(tmp_path, "b", two)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    steps = len(one.seen) // 4
    orders = [flat(one.seen[epoch * steps : (epoch + 1) * steps]) for epoch in range(4)]
    assert all(sorted(order) == list(range(22)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    everything = torch.cat(one.drawn)
    assert len(torch.unique(everything, dim=0)) == len(everything)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 on; it is the loader's way
def test_loader_processes_change_nothing(tmp_path):
    tasks = [Regression(length=9) for _ in range(3)]
    for workers, task in enumerate(tasks):
        run(tmp_path, str(workers), task, epochs=1, num_workers=workers)
        run(tmp_path, str(workers), task, epochs=2, num_workers=0, resume=True)
        assert torch.equal(torch.cat(task.drawn), torch.cat(tasks[0].drawn))
        assert contents(tmp_path / str(workers)) == contents(tmp_path / "0")
    clean = Augmented(9).x[flat(tasks[0].seen)]
    noise = torch.cat(tasks[0].drawn) - clean
    assert len(torch.unique(noise.mul(1e4).round(), dim=0)) == len(noise) == 16


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b"])
def test_the_name_stays_in_the_folder(tmp_path, name):
    with pytest.raises(ValueError, match="plain name of a folder"):
        run(tmp_path, name)


def test_divergence_names_the_place_and_keeps_the_good_epochs(tmp_path):
    task = Regression(hook=lambda step: math.nan if step == 9 else None)
    with pytest.raises(TrainingDiverged, match="the training loss is nan in epoch 2, step 3"):
        run(tmp_path, task=task)
    assert load_snapshot(tmp_path / "run" / "best.safetensors")[1]["epoch"] == 1
    with pytest.raises(TrainingDiverged, match="the monitored metric auc is inf in epoch 1"):
        run(tmp_path, "other", monitor="auc")
    assert list(contents(tmp_path / "other")) == ["experiment.yaml"]


def test_what_a_task_gets_wrong_is_said(tmp_path):
    with pytest.raises(ValueError, match="monitor = kappa: the task's metrics are loss, worst, auc"):
        run(tmp_path, "a", monitor="kappa")
    with pytest.raises(ValueError, match="the training set is empty"):
        run(tmp_path, "b", Regression(length=0))
    with pytest.raises(ValueError, match=r"training set of 1 sample\(s\)"):
        run(tmp_path, "c", Regression(length=1))
    task = Regression()
    task.predict = lambda model, batch: {"error": model(batch[0]).mean()}
    with pytest.raises(ValueError, match="the first dimension must be the batch, 4"):
        run(tmp_path, "d", task)
    task = Regression()
    task.metrics = lambda outputs: {"loss": 1.0, "epoch": 2.0}
    with pytest.raises(ValueError, match="the name epoch is the engine's own"):
        run(tmp_path, "e", task)
    task.describe = lambda: {"code": 1}
    with pytest.raises(ValueError, match="the key\\(s\\) code are the engine's own"):
        run(tmp_path, "f", task)
    task.describe = lambda: {"mean": np.float32(1)}
    with pytest.raises(ValueError, match="describe: must be JSON: Object of type float32"):
        run(tmp_path, "g", task)


def final(path, name, **changes):
    """All weights of a run: what training would go on from, and what is judged."""
    result = run(path, name, monitor="worst", mode="max", **changes)
    snapshots = load_snapshot(result.path_last)[0], load_training_state(result.path_last)[0]
    return torch.cat([v.flatten().float() for tensors in snapshots for v in tensors.values()])


SWITCHES = {
    "epochs": ({}, {"epochs": 3}),
    "batch_size": ({}, {"batch_size": 8}),
    "optimizer": ({"weight_decay": 0.1}, {"weight_decay": 0.1, "optimizer": "adamw"}),
    "learning_rate": ({}, {"learning_rate": 0.03}),
    "weight_decay": ({}, {"weight_decay": 0.1}),
    "momentum": ({"optimizer": "sgd"}, {"optimizer": "sgd", "momentum": 0.5}),
    "schedule": ({}, {"schedule": "cosine"}),
    "milestones": ({}, {"milestones": (1,)}),
    "gamma": ({"milestones": (1,)}, {"milestones": (1,), "gamma": 0.5}),
    "warmup_epochs": ({}, {"warmup_epochs": 1}),
    "swa_start": ({"epochs": 3}, {"epochs": 3, "swa_start": 1}),
    "swa_frequency": ({"epochs": 3, "swa_start": 1}, {"epochs": 3, "swa_start": 1, "swa_frequency": 2}),
    "swa_learning_rate": ({"swa_start": 1}, {"swa_start": 1, "swa_learning_rate": 0.1}),
    "precision": ({}, {"precision": "bf16"}),
    "clip_norm": ({"optimizer": "sgd"}, {"optimizer": "sgd", "clip_norm": 0.01}),
    "seed": ({}, {"seed": 1}),
}


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("switch", SWITCHES)
def test_every_switch_changes_the_training(tmp_path, switch):
    without, with_it = ({"epochs": 2} | changes for changes in SWITCHES[switch])
    one, other = final(tmp_path, "a", **without), final(tmp_path, "b", **with_it)
    assert one.shape != other.shape or not torch.equal(one, other)
    assert torch.isfinite(other).all()


def test_no_switch_is_untested():
    assert {*SWITCHES, "monitor", "mode", *SPEED} == set(TrainingConfig.model_fields)


def test_augmenting_a_batch_or_its_samples_is_the_same_training(tmp_path):
    """Byte by byte, averages and a change in mid-run included."""
    weights = {}
    for first, then in (("loader", "loader"), ("device", "device"), ("device", "auto")):
        task, name = Normed(), f"{first}-{then}"
        run(tmp_path, name, task, epochs=2, swa_start=1, augment_on=first)
        run(tmp_path, name, task, epochs=4, swa_start=1, augment_on=then, resume=True)
        weights[name] = [load_snapshot(tmp_path / name / f"{kind}.safetensors")[0] for kind in ("best", "last")]
        torch.testing.assert_close(weights[name], weights["loader-loader"], rtol=0, atol=0)
        # epochs of 6 batches; from the second on, each once more for the average
        assert task.finished == {"loader-loader": 0, "device-device": 6 * (4 + 3), "device-auto": 6 * (2 + 1)}[name]


def test_compiled_training_is_stored_resumed_and_averaged_under_the_same_names(tmp_path, monkeypatch):
    """With the backend "eager", which runs the traced graph as it is: no other rounding, no C++ compiler."""
    calls, compile_ = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: calls.append(model) or compile_(model, backend="eager"))
    for name, switches in (("plain", (False, False)), ("compiled", (True, True)), ("mixed", (True, False))):
        run(tmp_path, name, epochs=2, swa_start=1, compile=switches[0])
        run(tmp_path, name, epochs=4, swa_start=1, compile=switches[1], resume=True)
    assert len(calls) == 3
    expected = {kind: load_snapshot(tmp_path / "plain" / f"{kind}.safetensors")[0] for kind in ("best", "last")}
    for name in ("compiled", "mixed"):
        for kind, weights in expected.items():
            torch.testing.assert_close(load_snapshot(tmp_path / name / f"{kind}.safetensors")[0], weights)
        assert (tmp_path / name / "metrics.csv").read_text().count("\n") == 5


def test_monitor_and_mode_choose_the_best_epoch(tmp_path):
    task = Regression()
    rows = iter([(3.0, 1.0), (1.0, 2.0), (1.0, 3.0), (2.0, 0.0)] * 3)
    task.metrics = lambda outputs: dict(zip(("a", "b"), next(rows), strict=True))
    found = [
        run(tmp_path, f"{monitor}{mode}", task, monitor=monitor, mode=mode).best_epoch
        for monitor, mode in (("a", "min"), ("a", "max"), ("b", "min"))
    ]
    assert found == [2, 1, 4]


def test_threads_hold_for_the_training_only(tmp_path):
    before, seen = torch.get_num_threads(), set()
    task = Regression(hook=lambda step: seen.add(torch.get_num_threads()))
    run(tmp_path, task=task, epochs=1, threads=before + 1)
    assert seen == {before + 1}
    assert torch.get_num_threads() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 works with CUDA")
def test_fp16_is_refused_without_cuda(tmp_path):
    with pytest.raises(ValueError, match="precision = fp16: needs a CUDA device; on a CPU use bf16, off or auto"):
        run(tmp_path, precision="fp16")


def test_bf16_runs_the_model_in_bf16_also_to_predict(tmp_path):
    kinds = {True: set(), False: set()}
    task = Regression()
    plain = task.build_model

    def build():
        model = plain()
        model[0].register_forward_hook(lambda module, _, output: kinds[module.training].add(output.dtype))
        return model

    task.build_model = build
    run(tmp_path, task=task, epochs=1, precision="bf16")
    assert kinds == {True: {torch.bfloat16}, False: {torch.bfloat16}}


@pytest.mark.parametrize(("has", "used"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_precision_is_bf16_only_where_the_cpu_has_it(tmp_path, monkeypatch, has, used):
    seen = set()
    monkeypatch.setattr("kneel.engine.trainer.cpu_has_bf16", lambda: has)
    task = Regression()
    plain = task.build_model

    def build():
        model = plain()
        model[0].register_forward_hook(lambda module, _, output: seen.add(output.dtype))
        return model

    task.build_model = build
    run(tmp_path, task=task, epochs=1, precision="auto")
    assert seen == {used}


def test_learning_rate_against_torch_schedulers():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    steps = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5], gamma=0.3)
    config = settings(epochs=7, learning_rate=0.1, milestones=(2, 5), gamma=0.3)
    for epoch in range(7):
        assert learning_rate(config, epoch * 3 + 2, 3) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        steps.step()
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=12)
    config = settings(epochs=6, learning_rate=0.1, schedule="cosine", warmup_epochs=2)
    assert [learning_rate(config, step, 3) for step in range(6)] == pytest.approx([0.1 * i / 6 for i in range(1, 7)])
    for step in range(6, 18):
        assert learning_rate(config, step, 3) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        cosine.step()


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("length", range(1, 20))
def test_batches_over_ranks(length, world):
    val = [flat(val_batches(length, 6, rank, world)) for rank in range(world)]
    dealt = [number for together in zip(*val, strict=True) for number in together]
    assert dealt[:length] == list(range(length))
    if length < max(2, world):
        with pytest.raises(ValueError, match="makes no batch"):
            train_batches(length, 6, world)
        return
    batches = train_batches(length, 6, world)
    places = flat(batches)
    assert places == list(range(len(places)))
    assert length - len(places) < max(2, world)
    assert [len(batch) for batch in batches[:-1]] == [6] * (len(batches) - 1)
    assert all(len(batch[rank::world]) >= 1 for batch in batches for rank in range(world))


def test_every_process_needs_a_sample_of_a_batch():
    with pytest.raises(ValueError, match="batch_size = 2: must be at least the number of processes, 3"):
        train_batches(10, 2, 3)
    assert train_batches(3, 1, 1) == [range(1), range(1, 2), range(2, 3)]
