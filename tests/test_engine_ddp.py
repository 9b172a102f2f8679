"""Several processes train as one does; this file is also the script that they run."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from kneel.engine.config import TrainingConfig
from kneel.engine.fit import fit
from kneel.engine.parallel import Share, batch_mean, own_rows, share_layers, shared, whole_batch

ROOT = Path(__file__).resolve().parents[1]


class Noisy(Dataset):
    """Points with noise drawn anew each time; every third has no truth to compare with."""

    x = torch.randn(27, 3, generator=torch.Generator().manual_seed(1))  # batches of 4: the last has 3

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        x = self.x[index] + 0.1 * torch.randn(3)
        return x, x.sum(0, keepdim=True), index % 3 > 0


class Plane:
    """A regression with all that sees more than one sample: batch norm, dropout, a mean over some, partners."""

    def build_model(self):
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 1))

    def train_dataset(self):
        return Noisy()

    def val_dataset(self):
        x = torch.randn(7, 3, generator=torch.Generator().manual_seed(2))
        return TensorDataset(x, x.sum(1, keepdim=True), torch.arange(7))

    def train_sampler(self, dataset, generator):
        return None

    def training_loss(self, model, batch):
        """In two terms, each with a pass of its own; the second mixes each sample with another of the whole batch."""
        x, y, seen = batch
        usual = batch_mean(seen.double())
        yield ((model(x) - y).square()[:, 0] * seen).mean() / usual
        everyone = whole_batch(x)
        partner = everyone[torch.randperm(len(everyone))[own_rows(len(everyone))]]
        mixed = 0.5 * (x + partner)
        yield nn.functional.mse_loss(model(mixed), mixed.sum(1, keepdim=True))

    def predict(self, model, batch):
        x, y, *rest = batch
        index = rest[0].bfloat16() if rest and rest[0].dtype != torch.bool else x[:, 0]
        return {"error": model(x) - y, "index": index}

    def metrics(self, outputs):
        if outputs["index"].tolist() != list(range(7)):
            raise ValueError(f"not the validation set in its order: {outputs['index']}")
        return {"loss": float((outputs["error"] ** 2).mean())}

    def describe(self):
        return {"task": "plane"}


def train(folder: Path, name: str, epochs: int = 3, **changes) -> None:
    """Train; where it is compiled, by the backend that runs the traced graph as it is."""
    torch.set_num_threads(1)
    config = {"batch_size": 4, "learning_rate": 0.01, "clip_norm": 1.0, "swa_start": 1, "precision": "float64"}
    config = TrainingConfig(epochs=epochs, monitor="loss", mode="min", **config | changes)
    with mock.patch("torch.compile", partial(torch.compile, backend="eager")):
        fit(Plane(), config, folder, name=name, resume=True, cpu=True)


def layers(rank: int, world: int) -> dict[str, torch.Tensor]:
    """What one process has after a pass through every layer that sees more than one sample."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Dropout2d(0.4), nn.Flatten(), nn.BatchNorm1d(144), nn.Dropout(0.4)
    ).double()
    net[1].weight.data.uniform_()
    net[4].momentum = None
    x = torch.randn(5, 2, 8, 8, dtype=torch.float64)
    goal = torch.randn(5, 144, dtype=torch.float64)
    if world > 1:
        net = share_layers(net, torch.device("cpu"))
    share = Share(5, rank, world)
    mine = x[own(share)].requires_grad_()
    torch.manual_seed(1)
    with shared(share):
        out = net(mine)
        (share.weight * (out - goal[own(share)]).square().mean()).backward()
        whole = {"out": whole_batch(out), "slope": whole_batch(mine.grad), "even": whole_batch(own_bool(share))}
    gradients = {f"gradient {name}": value.grad for name, value in net.named_parameters()}
    for value in gradients.values():
        if world > 1:
            torch.distributed.all_reduce(value)
    return {**whole, **gradients, **{f"buffer {name}": value for name, value in net.named_buffers()}}


def own(share: Share) -> slice:
    return slice(share.rank, share.total, share.world)


def own_bool(share: Share) -> torch.Tensor:
    return torch.arange(share.total)[own(share)] % 2 == 0


def torchrun(processes: int, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    words = [*command, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, env=variables, timeout=600)


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_train_as_one(tmp_path, processes):
    train(tmp_path, "one")
    train(tmp_path, "resumed", epochs=2)
    done = torchrun(processes, __file__, tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {name: table(tmp_path / name / "metrics.csv") for name in ("one", "two", "resumed", "compiled")}
    assert len(rows["one"]) == 3
    for name in ("two", "resumed", "compiled"):
        np.testing.assert_allclose(rows[name], rows["one"], rtol=0, atol=1e-9)
        assert json.loads((tmp_path / name / "last.json").read_text())["epoch"] == 3
    assert done.stdout.count("epoch 2/3") == 2  # of the two trainings begun here: one process speaks
    alone = layers(0, 1)
    for rank in range(processes):
        together = torch.load(tmp_path / f"layers_{rank}.pt", weights_only=True)
        assert together.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(together[name], value, rtol=1e-9, atol=1e-9)


def table(path: Path) -> list[list[float]]:
    return [[float(value) for value in row.split(",")] for row in path.read_text().splitlines()[1:]]


def main(folder: Path) -> None:
    """End by a training, and so by a barrier: gloo's threads abort Python where it ends while they let go of a sum."""
    train(folder, "two")
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.save(layers(rank, world), folder / f"layers_{rank}.pt")
    train(folder, "two")  # finished: nothing happens
    train(folder, "resumed")  # begun by one process
    train(folder, "compiled", compile=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
