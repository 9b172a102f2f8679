"""Stochastic weight averaging (Izmailov et al., Averaging Weights Leads to Wider Optima, UAI 2018)."""

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from kneel.engine.config import TrainingConfig

_NAME = "average/"  # prefix of the tensors among those that only a resumed training needs


class WeightAverage:
    """
    Average of a module's weights over the ends of epochs.

    Parameters
    ----------
    module
        The module that is trained.
    config
        Training settings with `swa_start`.
    """

    def __init__(self, module: nn.Module, config: TrainingConfig) -> None:
        self._averaged = AveragedModel(module)
        self._config = config

    @property
    def module(self) -> nn.Module | None:
        """The averaged module, or None before the first average."""
        return self._averaged.module if self.count else None

    @property
    def count(self) -> int:
        """How many epochs are in the average."""
        return int(self._averaged.n_averaged)

    def update(self, module: nn.Module, epochs: int) -> bool:
        """
        Take up the weights after an epoch, if it is one of those that are averaged.

        Parameters
        ----------
        module
            The module that is trained.
        epochs
            Epochs that are over.

        Returns
        -------
        bool
            Whether the average changed: its batch norms must be measured anew then.
        """
        past = epochs - (self._config.swa_start or 0)
        if past <= 0 or past % self._config.swa_frequency:
            return False
        self._averaged.update_parameters(module)
        return True

    @torch.no_grad()
    def measure_batch_norms(self, batches: Iterable[Any], run: Callable[[nn.Module, Any], Any]) -> None:
        """
        Estimate mean and variance of every batch norm over the training set; nothing else is in training mode.

        Parameters
        ----------
        batches
            Training batches.
        run
            ``run(module, batch)`` passes a batch through the network.
        """
        module = self._averaged.module
        norms = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        if not norms:
            return
        module.eval()
        with _cumulative(norms):
            for batch in batches:
                run(module, batch)

    def flatten(self) -> dict[str, torch.Tensor]:
        """Return the average as tensors by name, for a snapshot."""
        weights = {f"{_NAME}{name}": tensor for name, tensor in self._averaged.module.state_dict().items()}
        return weights | {f"{_NAME}/count": self._averaged.n_averaged}

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take up what :meth:`flatten` returned."""
        self._averaged.module.load_state_dict(averaged_weights(tensors))
        self._averaged.n_averaged.copy_(tensors[f"{_NAME}/count"])


def averaged_weights(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """
    Pick the averaged weights out of a training state.

    Parameters
    ----------
    tensors
        From :func:`kneel.engine.snapshot.load_training_state`.

    Returns
    -------
    dict
        Weights by their name in the module; empty where nothing has been averaged.
    """
    count = tensors.get(f"{_NAME}/count")
    if count is None or not int(count):
        return {}
    ours = {name.removeprefix(_NAME): tensor for name, tensor in tensors.items() if name.startswith(_NAME)}
    return {name: tensor for name, tensor in ours.items() if name != "/count"}


@contextmanager
def _cumulative(norms: list[Any]) -> Any:
    """Let batch norms forget what they measured and weigh all batches of a pass alike."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch: cumulative average
        norm.train()
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
