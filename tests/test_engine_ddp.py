"""Two processes train as one does; this file is also the script that they run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from kneel.engine.config import TrainingConfig
from kneel.engine.fit import fit


class Plane:
    """A small regression without dropout, so that one process and two compute the same."""

    def build_model(self):
        return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def train_dataset(self):
        x = torch.randn(28, 3, generator=torch.Generator().manual_seed(1))
        return TensorDataset(x, x.sum(1, keepdim=True))

    def val_dataset(self):
        x = torch.randn(7, 3, generator=torch.Generator().manual_seed(2))
        return TensorDataset(x, x.sum(1, keepdim=True), torch.arange(7))

    def train_sampler(self, dataset, generator):
        return None

    def training_loss(self, model, batch):
        """In two terms, each with a pass of its own."""
        for factor in (1.0, 0.5):
            yield nn.functional.mse_loss(model(factor * batch[0]), factor * batch[1])

    def predict(self, model, batch):
        return {"error": model(batch[0]) - batch[1], "index": batch[2], "half": batch[2].bfloat16()}

    def metrics(self, outputs):
        if outputs["index"].tolist() != list(range(7)) or outputs["half"].tolist() != list(range(7)):
            raise ValueError(f"not the validation set in its order: {outputs['index']}")
        return {"loss": float((outputs["error"] ** 2).mean())}

    def describe(self):
        return {"task": "plane"}


def train(folder: Path) -> None:
    torch.set_num_threads(1)
    config = TrainingConfig(epochs=3, batch_size=4, learning_rate=0.01, monitor="loss", mode="min", clip_norm=1.0)
    fit(Plane(), config, folder, name="run", cpu=True)
    fit(Plane(), config, folder, name="run", resume=True, cpu=True)


def test_two_processes_train_as_one(tmp_path):
    train(tmp_path / "one")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__]
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [*command, str(tmp_path / "two")], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    one, two = ((tmp_path / which / "run" / "metrics.csv").read_text().splitlines() for which in ("one", "two"))
    assert one[0] == two[0]
    for row, other in zip(one[1:], two[1:], strict=True):
        assert [float(v) for v in row.split(",")] == pytest.approx([float(v) for v in other.split(",")], abs=1e-4)
    assert json.loads((tmp_path / "two" / "run" / "last.json").read_text())["epoch"] == 3


if __name__ == "__main__":
    train(Path(sys.argv[1]))
