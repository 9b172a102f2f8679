"""Gradings trained on pictures that are changed on the device, a batch at a time."""

from pathlib import Path

import numpy as np
import pytest
import torch

from deepknee.augment import TrainingPictures
from deepknee.dataset import GradedKnees
from deepknee.experiment import GradingExperiment
from deepknee.train import GradingTask
from kneel.engine.config import load_config
from kneel.engine.fit import FitResult, fit
from kneel.engine.snapshot import load_snapshot

# In float64, where rounding grows least; mixed up, and some knees several times in an epoch.
EXPERIMENT = """
task: kl
data: {source: graded_folder}
geometry: {roi_mm: 60, roi_px: 104, crop: 100, patch: 50, top: 25}
model: MODEL
augmentation: {jitter_px: 2, rotation_deg: 3, scale: [0.9, 1.1], blur_px: 1.0, jpeg: [50, 90]}
mixup_alpha: 0.4
training:
  {augment_on: WHERE, epochs: EPOCHS, batch_size: 10, precision: float64, monitor: kappa, mode: max, threads: 1}
"""
MODELS = {
    "patches": "{width: 4, dropout: 0.2}",
    "joint": "{kind: resnet18, width: 2, input_px: 48, dropout: 0.2}",
}
TRAIN = 35


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.Tensor, ...]]:
    """The pictures that are made, by call."""
    made, make = [], TrainingPictures.make
    monkeypatch.setattr(TrainingPictures, "make", lambda *given: made.append(make(*given)) or made[-1])
    return made


def knees(count: int, first: int) -> GradedKnees:
    rng = np.random.default_rng(first)
    names = tuple(str(first + number) for number in range(count))
    return GradedKnees(rng.integers(0, 256, (count, 104, 104), np.uint8), np.arange(count) % 5, names, names)


def train(tmp_path: Path, name: str, where: str, epochs: int, model: str = MODELS["patches"]) -> FitResult:
    text = EXPERIMENT.replace("MODEL", model).replace("WHERE", where).replace("EPOCHS", str(epochs))
    (tmp_path / "small.yaml").write_text(text)
    task = GradingTask(load_config(tmp_path / "small.yaml", GradingExperiment), tmp_path, name=name)
    task.knees = knees(TRAIN, 0), knees(10, 100)
    return fit(task, task.experiment.training, tmp_path, name=name, resume=True, cpu=True)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_it_trains_as_on_pictures_of_the_loader_and_is_resumed_exactly(tmp_path: Path, model: str, made: list) -> None:
    rows = {}
    for where, sizes in (("loader", {1}), ("device", {10, 5})):
        made.clear()
        rows[where] = train(tmp_path, where, where, 3, model).history
        assert {len(pictures[0]) for pictures in made} == sizes
    for one, other in zip(*rows.values(), strict=True):
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=1e-3)
        assert other["cross_entropy"] == pytest.approx(one["cross_entropy"], rel=1e-2)
    for epochs in (1, 3):
        broken = train(tmp_path, "broken", "device", epochs, model)
    assert broken.history == rows["device"]
    weights = [load_snapshot(tmp_path / name / "last.safetensors")[0] for name in ("device", "broken")]
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def test_no_picture_comes_twice(tmp_path: Path, made: list) -> None:
    """Not in a batch, where a knee may be drawn more than once, nor in another epoch."""
    train(tmp_path, "device", "device", 3)
    for patches in (torch.cat(batches) for batches in zip(*made, strict=True)):
        assert len(patches.flatten(1).unique(dim=0)) == len(patches) == 3 * TRAIN
