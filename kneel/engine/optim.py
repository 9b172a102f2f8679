"""Optimizers and learning rates; the rate is a function of the step, so that there is no scheduler to save."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from kneel.engine.config import TrainingConfig


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """
    Build the optimizer of the experiment over the trainable parameters.

    Parameters
    ----------
    model
        Module whose parameters with ``requires_grad`` are trained.
    config
        The experiment's training settings.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, config.learning_rate, config.momentum, weight_decay=config.weight_decay)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, config.learning_rate, weight_decay=config.weight_decay)


def learning_rate(config: TrainingConfig, step: int, steps_per_epoch: int) -> float:
    """
    Learning rate of one optimizer step.

    Parameters
    ----------
    config
        The experiment's training settings.
    step
        Number of the step since the start of training, from 0.
    steps_per_epoch
        Steps in an epoch.

    Examples
    --------
    >>> config = TrainingConfig(epochs=4, learning_rate=1.0, milestones=(2,), monitor="loss", mode="min")
    >>> [learning_rate(config, step, steps_per_epoch=10) for step in (0, 19, 20)]
    [1.0, 1.0, 0.1]
    """
    if config.swa_learning_rate is not None and step // steps_per_epoch >= (config.swa_start or 0):
        return config.swa_learning_rate
    warmup = config.warmup_epochs * steps_per_epoch
    rate = config.learning_rate * min(1.0, (step + 1) / max(1, warmup))
    if config.schedule == "cosine" and step >= warmup:
        progress = (step - warmup) / (config.epochs * steps_per_epoch - warmup)
        rate *= 0.5 * (1.0 + math.cos(math.pi * progress))
    passed = sum(step // steps_per_epoch >= milestone for milestone in config.milestones)
    return rate * config.gamma**passed


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """
    Take an optimizer's state apart into tensors and what JSON can hold.

    Parameters
    ----------
    optimizer
        Any torch optimizer whose settings are numbers, words and lists of them.

    Returns
    -------
    tensors
        By name, ``optimizer/PARAMETER/QUANTITY``.
    settings
        Everything else.
    """
    state = optimizer.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for parameter, quantities in state["state"].items():
        plain[str(parameter)] = {name: v for name, v in quantities.items() if not isinstance(v, torch.Tensor)}
        tensors |= {f"optimizer/{parameter}/{n}": v for n, v in quantities.items() if isinstance(v, torch.Tensor)}
    return tensors, {"state": plain, "param_groups": state["param_groups"]}


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Any]
) -> None:
    """
    Give an optimizer the state that :func:`flatten_optimizer` took apart.

    Parameters
    ----------
    optimizer
        Optimizer over the same parameters; it is changed.
    tensors, settings
        What :func:`flatten_optimizer` returned, `settings` by way of JSON or not; other tensors are left alone.
    """
    state = {int(parameter): dict(plain) for parameter, plain in settings["state"].items()}
    for key, tensor in tensors.items():
        kind, _, rest = key.partition("/")
        if kind != "optimizer":
            continue
        parameter, _, name = rest.partition("/")
        state[int(parameter)][name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": settings["param_groups"]})
