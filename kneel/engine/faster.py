"""What makes a trained network answer faster with the same answers: fewer operations, fewer multiplications."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

Net = TypeVar("Net", bound=nn.Module)
LARGE = 64 * 64  # cells of the largest maps; in smaller networks direct convolutions, in their own layout, are as fast
# outputs, and cells of a map, from which the transforms of Winograd's algorithm pay: measured on Zen 4 and on Zen 3
_WIDE, _CELLS = (24, 28 * 28) if torch.backends.cpu.get_cpu_capability() == "AVX512" else (96, 64 * 64)


def fold_batch_norms(net: Net) -> Net:
    """Fold every batch norm into the convolution before it, in place: the same answers, one operation less a layer.

    Parameters
    ----------
    net : nn.Module
        Trained. A norm is folded where it follows its convolution in an ``nn.Sequential``; others stay.

    Returns
    -------
    nn.Module
        The same, in evaluation mode; it cannot be trained on.
    """
    for layers in net.eval().modules():
        if isinstance(layers, nn.Sequential):
            for number, (convolution, norm) in enumerate(pairwise(list(layers)), start=1):
                if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    _fold(convolution, norm)
                    layers[number] = nn.Identity()
    return net


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Do as torch's ``fuse_conv_bn_eval``, which copies every layer first: that takes longer than all the rest."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ValueError(f"{norm}: a batch norm without running statistics cannot be folded")
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, mean, variance, norm.eps, norm.weight, norm.bias
    )


def widen(net: Net) -> Net:
    """Let wide 3 x 3 convolutions be computed by Winograd's algorithm, in place, where torch has it (NNPACK on a CPU).

    Five times fewer multiplications, 1.6 (Zen 3) to 2.7 times (Zen 4) as fast on one core, and off by some 1e-4 of what
    the layer answers; NNPACK uses one core (see `kneel.engine.side_by_side`). Pays for networks whose largest maps have
    `LARGE` cells and more. A network without such layers stays as it is; others leave the channels-last layout, which
    NNPACK does not read.

    Parameters
    ----------
    net : nn.Module
        In evaluation mode.

    Returns
    -------
    nn.Module
        The same; it cannot be trained on.
    """
    if not torch.backends.nnpack.is_available():
        return net
    found = [
        (parent, name, layer)
        for parent in net.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, nn.Conv2d) and _is_wide(layer)
    ]
    if found:
        net.to(memory_format=torch.contiguous_format)
    for parent, name, layer in found:
        setattr(parent, name, _Wide(layer))
    return net


def _is_wide(layer: nn.Conv2d) -> bool:
    plain = layer.stride == layer.padding == layer.dilation == (1, 1) and layer.groups == 1
    return plain and layer.kernel_size == (3, 3) and layer.out_channels >= _WIDE and layer.padding_mode == "zeros"


class _Wide(nn.Module):
    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype != torch.float32 or x.shape[-1] * x.shape[-2] < _CELLS:
            return functional.conv2d(x, self.weight, self.bias, padding=1)
        # of several pictures NNPACK is slower than one after another
        parts = [
            torch._nnpack_spatial_convolution(one, self.weight, self.bias, (1, 1)) for one in x.contiguous().split(1)
        ]
        return torch.cat(parts) if len(parts) > 1 else parts[0]
