"""Small trainings with a known solution, for the test files of the training loop."""

import math

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from kneel.engine.config import TrainingConfig
from kneel.engine.fit import FitResult, fit

SLOPE = torch.tensor([[2.0], [-1.0], [0.5]])
WRITTEN = ("best.json", "best.safetensors", "last.json", "last.safetensors", "metrics.csv")


class Augmented(Dataset):
    """Points of the plane y = x . SLOPE + 1; the augmentation draws from torch's global generator."""

    def __init__(self, length):
        self.x = torch.randn(length, 3, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        x = self.x[index] + 0.1 * torch.randn(3)
        return {"x": x, "y": x @ SLOPE + 1.0, "index": index, "drawn": x}


class Regression:
    """Learns the plane with augmentation and dropout; judged on 13 points. `hook` is called before every loss."""

    def __init__(self, length=22, dropout=0.1, hook=None):
        self.length, self.dropout, self.hook = length, dropout, hook or (lambda step: None)
        self.step = 0
        self.seen, self.drawn = [], []

    def build_model(self):
        return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(self.dropout), nn.Linear(8, 1))

    def train_dataset(self):
        return Augmented(self.length)

    def val_dataset(self):
        x = torch.randn(13, 3, generator=torch.Generator().manual_seed(2))
        return TensorDataset(x, x @ SLOPE + 1.0)

    def train_sampler(self, dataset, generator):
        return None

    def training_loss(self, model, batch):
        self.step += 1
        self.seen.append(batch["index"].tolist())
        self.drawn.append(batch["drawn"])
        factor = self.hook(self.step)
        return nn.functional.mse_loss(model(batch["x"]), batch["y"]) * (1.0 if factor is None else factor)

    def predict(self, model, batch):
        return {"error": (model(batch[0]) - batch[1]).squeeze(1), "x": batch[0]}

    def metrics(self, outputs):
        assert np.array_equal(outputs["x"], self.val_dataset().tensors[0].numpy())
        error = float(np.mean(outputs["error"] ** 2))
        return {"loss": error, "worst": float(np.abs(outputs["error"]).max()), "auc": math.inf}

    def describe(self):
        return {"task": "regression", "model": {"hidden": 8}, "normalization": {"mean": (0.0,)}}


class Stored(Augmented):
    """Points before their augmentation, which is drawn."""

    def __getitem__(self, index):
        return super().__getitem__(index) | {"x": self.x[index]}


class Normed(Regression):
    """With a batch norm, so that averages are measured; counts the batches that were finished on the device."""

    def __init__(self):
        super().__init__()
        self.finished = 0

    def build_model(self):
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))

    def train_dataset(self):
        def finish(batch):
            self.finished += 1
            return batch | {"x": batch["drawn"]}

        dataset = Augmented(self.length)
        dataset.deferred = lambda: (Stored(self.length), finish)
        return dataset

    def predict(self, model, batch):
        return super().predict(model, (batch["x"], batch["y"]) if isinstance(batch, dict) else batch)


def settings(**changes):
    base = {"epochs": 4, "batch_size": 4, "monitor": "loss", "mode": "min", "learning_rate": 0.02}
    return TrainingConfig(**base | changes)


def run(path, name="run", task=None, *, resume=False, overwrite=False, board=None, **changes) -> FitResult:
    config = settings(**changes)
    return fit(task or Regression(), config, path, name=name, resume=resume, overwrite=overwrite, board=board, cpu=True)


def contents(folder):
    """What must be the same: all but the times, machines and processes in provenance and locks."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file() and file.suffix != ".previous"}


def interrupt_at(step):
    def hook(now):
        if now == step:
            raise KeyboardInterrupt

    return hook
