"""One batch over several processes: layers and sums that see all of it, so that N processes train as one does.

A batch of n samples is dealt in turn: sample i goes to process i % N. In one process all of this changes nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from kneel.engine.precision import at_least_float32


@dataclass(frozen=True)
class Share:
    """
    The part of a batch that this process has.

    Attributes
    ----------
    total
        Samples of the whole batch.
    rank, world
        Number of this process, and how many there are.
    """

    total: int
    rank: int
    world: int

    def __len__(self) -> int:
        """Return the number of samples of this process."""
        return len(range(self.rank, self.total, self.world))

    @property
    def weight(self) -> float:
        """What a mean over these samples counts in the mean over the whole batch."""
        return len(self) / self.total


_share: Share | None = None


@contextmanager
def shared(share: Share) -> Iterator[Share]:
    """
    Say meanwhile what part of which batch the tensors of this process are.

    Parameters
    ----------
    share
        Of the batch that is worked on.
    """
    global _share
    before, _share = _share, share
    try:
        yield share
    finally:
        _share = before


def whole_batch(mine: torch.Tensor) -> torch.Tensor:
    """
    Gather the samples of all processes; the gradient does not follow.

    Parameters
    ----------
    mine
        First dimension: the samples of this process.

    Returns
    -------
    Tensor
        The samples of the whole batch, in its order; `mine` itself in one process.
    """
    if _share is None or _share.world == 1:
        return mine
    if mine.dtype == torch.bool:  # which gloo does not carry
        return whole_batch(mine.byte()).bool()
    most = -(-_share.total // _share.world)
    padded = mine.detach().new_zeros((most, *mine.shape[1:]))
    padded[: len(mine)] = mine.detach()
    parts = [torch.empty_like(padded) for _ in range(_share.world)]
    torch.distributed.all_gather(parts, padded)
    return torch.stack(parts, 1).flatten(0, 1)[: _share.total]


def own_rows(length: int) -> slice:
    """
    Say which rows of a whole batch are those of this process.

    Parameters
    ----------
    length
        Samples of the whole batch.

    Returns
    -------
    slice
        All of them in one process.
    """
    return slice(0, length) if _share is None else slice(_share.rank, length, _share.world)


def batch_mean(mine: torch.Tensor) -> torch.Tensor:
    """
    Average a number of every sample over the whole batch; the gradient does not follow.

    Parameters
    ----------
    mine
        Shape (B,): one number for each sample of this process.

    Returns
    -------
    Tensor
        Scalar, the same in all processes.
    """
    if _share is None or _share.world == 1:
        return mine.detach().float().mean()
    total = mine.detach().float().sum()
    torch.distributed.all_reduce(total)
    return total / _share.total


def share_layers(module: nn.Module, device: torch.device) -> nn.Module:
    """
    Put batch norms and dropouts that act on the whole batch in the place of plain ones; names and weights stay.

    Parameters
    ----------
    module
        Changed in place, before an optimizer is built for it.
    device
        Where it is going to run: on CUDA the batch norms are torch's own, which it has for CUDA only.

    Returns
    -------
    nn.Module
        The module, or what stands in its place.
    """
    if isinstance(module, _BatchNorm):
        return (nn.SyncBatchNorm if device.type == "cuda" else SharedBatchNorm).convert_sync_batchnorm(module)
    if type(module) in _DROPOUTS:
        return SharedDropout(module)
    for name, child in module.named_children():
        setattr(module, name, share_layers(child, device))
    return module


class SharedBatchNorm(_BatchNorm):
    """Batch norm whose statistics in training are those of the samples of all processes; for a CPU."""

    @classmethod
    def convert_sync_batchnorm(cls, plain: _BatchNorm) -> "SharedBatchNorm":
        """Take over the weights and the statistics of a plain batch norm; they are shared, not copied."""
        ours = cls(plain.num_features, plain.eps, plain.momentum, plain.affine, plain.track_running_stats)
        ours.weight, ours.bias = plain.weight, plain.bias
        ours.running_mean, ours.running_var = plain.running_mean, plain.running_var
        ours.num_batches_tracked, ours.training = plain.num_batches_tracked, plain.training
        return ours

    def _check_input_dim(self, x: torch.Tensor) -> None:
        if x.ndim < 2:
            raise ValueError(f"batch norm of {x.ndim} dimension(s): needs (B, C, ...)")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (B, C, ...)."""
        if not self.training:
            return super().forward(x)
        rows, shape = [0, *range(2, x.ndim)], [1, -1] + [1] * (x.ndim - 2)
        values = at_least_float32(x)
        size = values.new_tensor([x.numel() / x.shape[1]])
        sums = _SumOverProcesses.apply(torch.cat([values.sum(rows), size]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = values - mean.view(shape)
        # not by the sum of squares, from which the mean's would cancel in float32
        variance = _SumOverProcesses.apply(centred.square().sum(rows)) / count
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        out = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(x.dtype)

    def _remember(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class SharedDropout(nn.Module):
    """
    Dropout whose mask is drawn for the whole batch, the same in all processes, of which each keeps its own rows.

    Parameters
    ----------
    plain
        A dropout of torch.
    """

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        self.p: float = plain.p  # type: ignore[assignment]
        self._drop, self._spatial = _DROPOUTS[type(plain)]
        self.training = plain.training

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Drop parts of (B, ...)."""
        if not self.training or _share is None:
            return self._drop(x, self.p, self.training)
        if len(x) != len(_share):
            raise ValueError(f"dropout of {len(x)} rows in a batch of {len(_share)}: the first dimension must be it")
        kept = x.shape[1 : x.ndim - self._spatial]
        ones = x.new_ones((_share.total, *kept, *[1] * self._spatial))
        if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
            ones = ones.contiguous(memory_format=torch.channels_last)  # torch draws in the order of memory
        return x * self._drop(ones, self.p, True)[own_rows(_share.total)]

    def extra_repr(self) -> str:
        """Say how much is dropped."""
        return f"p={self.p}"


_DROPOUTS: dict[type[nn.Module], tuple[Any, int]] = {  # the function, and the dimensions that it drops as one
    nn.Dropout: (functional.dropout, 0),
    nn.Dropout1d: (functional.dropout1d, 1),
    nn.Dropout2d: (functional.dropout2d, 2),
    nn.Dropout3d: (functional.dropout3d, 3),
}


class _SumOverProcesses(torch.autograd.Function):
    """All-reduce whose gradient is all-reduced in turn."""

    @staticmethod
    def forward(ctx: Any, mine: torch.Tensor) -> torch.Tensor:
        total = mine.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        total = gradients[0].clone()
        torch.distributed.all_reduce(total)
        return total
