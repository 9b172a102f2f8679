"""Baselines for the landmark networks: the mean shape, ridge regression from small pictures, a plain ResNet-18."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset

from kneel.augment import validation_transform
from kneel.codec import SoftArgmax
from kneel.dataset import LandmarkDataset, LandmarkSample
from kneel.engine.config import ConfigError
from kneel.engine.snapshot import load_snapshot, write_atomic
from kneel.experiment import LandmarkExperiment
from kneel.network import CRITERION, Located, network_weights
from kneel.train import LandmarkTask

BaselineName = Literal["mean", "ridge", "resnet18"]
BASELINES: tuple[BaselineName, ...] = get_args(BaselineName)
RIDGE_SIDE = 32  # pixels of the pictures that ridge regression sees: about 4 mm each
RIDGE_PENALTIES = np.logspace(-2, 5, 15)


@dataclass(frozen=True)
class LinearBaseline:
    """Points as an affine function of the small picture; the mean shape is the one that does not look at it.

    Attributes
    ----------
    weights : ndarray, shape (side * side, 2 M)
        From the grey values in [0, 1], row by row, to x0, y0, x1, ... in pixels of the whole picture.
    offset : ndarray, shape (2 M,)
        The points of a black picture, pixels.
    """

    weights: NDArray[np.float64]
    offset: NDArray[np.float64]

    @classmethod
    def mean(cls, points: ArrayLike) -> Self:
        """Average the training points as they lie in the ROI.

        Parameters
        ----------
        points : array_like, shape (N, M, 2)
            (x, y) in pixels; N at least 1.

        Returns
        -------
        LinearBaseline
            Says the same of every picture.
        """
        average = np.asarray(points, float).mean(axis=0).ravel()
        return cls(np.zeros((RIDGE_SIDE**2, average.size)), average)

    @classmethod
    def ridge(cls, pictures: ArrayLike, points: ArrayLike) -> Self:
        """Fit by ridge regression; leave-one-out errors on the training set choose the penalty.

        Parameters
        ----------
        pictures : array_like, shape (N, side, side)
            From `small_pictures`; N at least 3.
        points : array_like, shape (N, M, 2)
            (x, y) in pixels of the whole picture.

        Returns
        -------
        LinearBaseline
            Fitted.
        """
        # Here, not above: settings and snapshots must not wait for scikit-learn.
        from sklearn.linear_model import RidgeCV

        targets = np.asarray(points, float)
        targets = targets.reshape(len(targets), -1)
        fitted = RidgeCV(RIDGE_PENALTIES).fit(np.asarray(pictures, float).reshape(len(targets), -1), targets)
        return cls(fitted.coef_.T, fitted.intercept_)

    def __call__(self, pictures: ArrayLike) -> NDArray[np.float64]:
        """Predict.

        Parameters
        ----------
        pictures : array_like, shape (N, side, side)
            From `small_pictures`.

        Returns
        -------
        ndarray, shape (N, M, 2)
            (x, y) in pixels of the whole picture.
        """
        flat = np.asarray(pictures, float).reshape(-1, len(self.weights))
        return (flat @ self.weights + self.offset).reshape(len(flat), -1, 2)

    def save(self, path: Path) -> None:
        """Write ``weights`` and ``offset`` into a npz file; its folder must exist."""
        buffer = io.BytesIO()
        np.savez(buffer, weights=self.weights, offset=self.offset)
        write_atomic(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["weights"], arrays["offset"])


class CoordinateResNet(nn.Module):
    """ResNet-18 (He et al., Deep Residual Learning for Image Recognition, CVPR 2016) that regresses coordinates.

    Untrained, one grey channel; its last layer moves the points away from the mean shape, in tenths of the picture:
    in whole pictures a step of Adam would throw them by many pixels.

    Parameters
    ----------
    mean, std : float
        Of the training pictures, on the [0, 1] scale.
    shape : sequence, shape (M, 2)
        Mean of the training points as shares (u, v) of the picture.
    """

    def __init__(self, *, mean: float, std: float, shape: Sequence[Sequence[float]]) -> None:
        super().__init__()
        # Here, not above: only training and its baselines need torchvision's models.
        from torchvision.models import resnet18

        self.mean, self.std = mean, std
        self.codec = SoftArgmax("center")  # for its pixel convention
        self.register_buffer("shape", torch.tensor(shape, dtype=torch.float32))
        self.net = resnet18(weights=None)
        self.head = nn.Linear(self.net.fc.in_features, 2 * len(shape))
        self.net.fc = nn.Identity()
        self.net.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.net.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.to(memory_format=torch.channels_last)

    def forward(self, pictures: Tensor) -> Located:
        """Locate the landmarks.

        Parameters
        ----------
        pictures : Tensor, shape (B, 1, H, W)
            Grey pictures in [0, 1].

        Returns
        -------
        Located
            In pixels of the pictures; without heat maps the spread is 0.
        """
        features = self.net((pictures - self.mean) / self.std)
        with torch.autocast(pictures.device.type, enabled=False):  # bfloat16 steps from pixel to pixel
            shares = self.shape + 0.1 * self.head(features.float()).unflatten(1, (-1, 2))
        points = self.codec.to_pixels(shares, (pictures.shape[-1], pictures.shape[-2]))
        return Located(points, torch.zeros_like(points[..., 0]))


class ResNetTask(LandmarkTask):
    """A landmark experiment with `CoordinateResNet` in place of the hourglass; the rest is as in `LandmarkTask`.

    Raises
    ------
    ConfigError
        When the experiment asks for what only heat maps have.
    """

    def __init__(self, experiment: LandmarkExperiment, data_root: Path, *, name: str, fold: int = 0) -> None:
        super().__init__(experiment, data_root, name=name, fold=fold)
        if experiment.loss.spread:
            raise ConfigError(f"loss.spread = {experiment.loss.spread}: acts on heat maps; a ResNet-18 has none")
        if experiment.training.monitor == "spread_mm":
            raise ConfigError("training.monitor = spread_mm: heat maps have a spread; a ResNet-18 has none")

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """What rebuilds the network."""
        described, size = super().arguments, self.experiment.roi.size
        _, points = small_pictures(self.samples[0], size)
        shape = SoftArgmax("center").encode(torch.from_numpy(points.mean(axis=0)), size)
        return {"mean": described["mean"], "std": described["std"], "shape": shape.numpy().round(6).tolist()}

    def build_model(self) -> nn.Module:  # type: ignore[override] # another network, on purpose
        """Build the network; what the loss learns is trained with it."""
        net = CoordinateResNet(**self.arguments)
        if isinstance(self.criterion, nn.Module):
            net.add_module(CRITERION, self.criterion)
        return net

    def _by_knee(self, outputs: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Return the metrics that are means over knees; without heat maps there is no spread."""
        return {"val_loss": super()._by_knee(outputs)["val_loss"]}

    def describe(self) -> dict[str, Any]:
        """Say what rebuilds the network; no stage of the pipeline takes it for an hourglass."""
        return super().describe() | {"task": f"{self.experiment.task} by resnet18"}


def small_pictures(samples: Sequence[LandmarkSample], size: tuple[int, int]) -> tuple[NDArray, NDArray]:
    """Prepare samples for a `LinearBaseline`: unaugmented, as validation sees them, and small.

    Parameters
    ----------
    samples : sequence of LandmarkSample
        N knees.
    size : (int, int)
        Width and height of the ROI, pixels.

    Returns
    -------
    pictures : ndarray, shape (N, side, side)
        In [0, 1], low-passed before they are sampled.
    points : ndarray, shape (N, M, 2)
        (x, y) in pixels of the ROI.
    """
    pictures, points = [], []
    for item in LandmarkDataset(samples, validation_transform(size)):
        small = interpolate(item["picture"][None], (RIDGE_SIDE, RIDGE_SIDE), mode="bilinear", antialias=True)
        pictures.append(small[0, 0].numpy())
        points.append(item["points"].numpy())
    return np.array(pictures, float), np.array(points, float)


def fit_linear(task: LandmarkTask, baseline: Literal["mean", "ridge"]) -> LinearBaseline:
    """Fit on the training samples of a fold, and on nothing else.

    Parameters
    ----------
    task : LandmarkTask
        The fold.
    baseline : {"mean", "ridge"}
        Which one.

    Returns
    -------
    LinearBaseline
        Fitted.
    """
    pictures, points = small_pictures(task.samples[0], task.experiment.roi.size)
    return LinearBaseline.mean(points) if baseline == "mean" else LinearBaseline.ridge(pictures, points)


@torch.inference_mode()
def predict_resnet(path: Path, dataset: Dataset[Any], batch_size: int) -> NDArray[np.float64]:
    """Let a trained `CoordinateResNet` locate the points of a validation set, on the CPU.

    Parameters
    ----------
    path : Path
        Its snapshot.
    dataset : Dataset
        From `ResNetTask.val_dataset`.
    batch_size : int
        Pictures at a time.

    Returns
    -------
    ndarray, shape (N, M, 2)
        (x, y) in pixels of the ROI.
    """
    weights, meta = load_snapshot(path)
    net = CoordinateResNet(**meta["network"]).eval()
    net.load_state_dict(network_weights(weights))
    answers = [net(batch["picture"]).points for batch in DataLoader(dataset, batch_size)]
    return torch.cat(answers).double().numpy()
