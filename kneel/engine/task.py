"""What the engine needs to know of a task."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset


class Task(Protocol):
    """
    Something that can be trained; data sets are built first, then the model, then `describe` is asked.

    Draw from the global generators of Python, numpy and torch: the engine seeds them before each step of the way.
    """

    def build_model(self) -> nn.Module:
        """Build the network; parameters of a learnt loss are part of it."""

    def train_dataset(self) -> Dataset[Any]:
        """Build the map-style training set, with its augmentation; called once."""

    def val_dataset(self) -> Dataset[Any]:
        """Build the map-style validation set; called once."""

    def train_sampler(self, dataset: Dataset[Any], generator: torch.Generator) -> Iterable[int] | None:
        """
        Say which samples make this epoch; called every epoch.

        Parameters
        ----------
        dataset
            The training set.
        generator
            The only source of randomness to use here: it is the same on every rank and new every epoch.

        Returns
        -------
        Iterable of int or None
            Such as ``WeightedRandomSampler(weights, len(dataset), generator=generator)``; None is a random order.
        """

    def training_loss(self, model: nn.Module, batch: Any) -> torch.Tensor | Iterable[torch.Tensor]:
        """
        Mean loss of a batch, whole or in terms to be summed.

        Where several processes share a batch, each is asked for its own samples, and the engine weighs its answer by
        their number. A mean over anything but samples must take its size from the whole batch, and what is drawn must
        be drawn for the whole batch: see `kneel.engine.parallel`.

        A generator whose every term passes the network once needs the memory of one pass: each term's gradient is
        taken, and its activations are let go, before the next term is asked for.

        Parameters
        ----------
        model
            Call it as ``model(inputs)``, never a method of it: it may be wrapped for several devices.
        batch
            What ``default_collate`` makes of the samples, on the device.

        Returns
        -------
        Tensor or iterable of Tensor
            Scalars with gradient.
        """

    def predict(self, model: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        """
        All that the metrics need from a validation batch: predictions and truth.

        Where weights are averaged, training batches are passed through it too, once and as they are, so that the batch
        norms of the average can be measured.

        Parameters
        ----------
        model
            In evaluation mode, without gradients; call it as ``model(inputs)``.
        batch
            As for `training_loss`.

        Returns
        -------
        dict of Tensor
            Every first dimension is the batch.
        """

    def metrics(self, outputs: dict[str, np.ndarray]) -> dict[str, float]:
        """
        Judge the whole validation set.

        Parameters
        ----------
        outputs
            What `predict` returned, concatenated in the order of the validation set, every sample once;
            half precision comes as float32.

        Returns
        -------
        dict of float
            By name, the same names every epoch, `TrainingConfig.monitor` among them.
        """

    def describe(self) -> dict[str, Any]:
        """
        Say what a snapshot needs so that the model can be rebuilt from it.

        Returns
        -------
        dict
            JSON: ``task``, the resolved experiment, model arguments, normalisation. It becomes part of the
            snapshot's metadata and must be the same when a training is resumed.
        """


@runtime_checkable
class Deferring(Protocol):
    """A training set that can leave its augmentation to the device, a batch at a time."""

    def deferred(self) -> tuple[Dataset[Any], Callable[[Any], Any]]:
        """
        Divide the way of a sample in two.

        Returns
        -------
        dataset
            The same samples before their augmentation, with all that is drawn for them: as much as this set draws, so
            that both have the same draws.
        finish
            From a batch of them, on the device, to a batch of this set.
        """


@runtime_checkable
class Judged(Protocol):
    """A task that says how sure its metrics are; what they add to an epoch must be little."""

    def intervals(self, outputs: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
        """
        Say between which numbers the metrics lie.

        Parameters
        ----------
        outputs
            As for `Task.metrics`.

        Returns
        -------
        dict of (float, float)
            Low and high end by the name of the metric, for as many of them as there are intervals for; the same names
            every epoch, and the same numbers for the same outputs.
        """


@runtime_checkable
class Pictured(Protocol):
    """A task that can draw what its network predicts."""

    def pictures(self, model: nn.Module, batch: Any) -> Sequence[NDArray[np.uint8]]:
        """
        Draw the predictions of a few validation samples.

        Parameters
        ----------
        model
            In evaluation mode, the network itself: its methods may be called.
        batch
            As for `Task.predict`.

        Returns
        -------
        sequence of ndarray, shape (h, w, 3), uint8
            RGB, one a sample, all of one size.
        """
