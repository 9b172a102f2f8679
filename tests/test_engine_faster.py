"""Faster networks answer as the plain ones; batch norms are tested on real ones in test_stage."""

import pytest
import torch
from torch import nn

from kneel.engine import faster

needs_nnpack = pytest.mark.skipif(not torch.backends.nnpack.is_available(), reason="this torch or CPU has no NNPACK")


@pytest.fixture
def net():
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(1, 32, 3, padding=1),
        nn.Conv2d(32, 96, 3, padding=1),
        nn.Conv2d(96, 100, 3, padding=1, bias=False),
    )
    return nn.Sequential(*layers, nn.Conv2d(100, 96, 1)).to(memory_format=torch.channels_last).eval()


@pytest.fixture(params=[(24, 28), (96, 64)], ids=["AVX-512", "AVX2"])
def pays(request, monkeypatch):
    """The outputs and the side of a map from which Winograd's algorithm pays on a kind of CPU."""
    wide, side = request.param
    monkeypatch.setattr(faster, "_WIDE", wide)
    monkeypatch.setattr(faster, "_CELLS", side * side)
    return request.param


@needs_nnpack
@pytest.mark.parametrize("shape", [(1, 1, 70, 61), (3, 1, 66, 65), (2, 1, 20, 20), (1, 1, 301, 7)], ids=str)
@torch.no_grad()
def test_wide_convolutions_answer_the_same(net, shape, pays):
    x = torch.randn(shape)
    expected = net.double()(x.double())
    wide = faster.widen(net.float())
    first = "_Wide" if pays[0] <= 32 else "Conv2d"
    assert [type(layer).__name__ for layer in wide] == [first, "_Wide", "_Wide", "Conv2d"]
    torch.testing.assert_close(wide(x).double(), expected, rtol=0, atol=2e-4 * float(expected.abs().max()))


@needs_nnpack
@torch.no_grad()
def test_nnpack_is_asked_where_it_pays_and_only_there(net, monkeypatch, pays):
    asked = []
    real = torch._nnpack_spatial_convolution
    monkeypatch.setattr(torch, "_nnpack_spatial_convolution", lambda *a: asked.append(a[0].shape) or real(*a))
    wide, side = pays
    faster.widen(net)(torch.rand(2, 1, side, side))
    assert asked == [(1, each, side, side) for each in (1, 32, 96) if each > 1 or wide <= 32 for _ in range(2)]
    asked.clear()
    net(torch.rand(2, 1, side - 1, side))
    assert not asked


@pytest.mark.parametrize(
    "change",
    [{"stride": 2}, {"padding": 0}, {"groups": 2}, {"dilation": 2}, {"out_channels": 64}, {"kernel_size": 5}],
    ids=str,
)
def test_other_convolutions_stay(change, monkeypatch):
    monkeypatch.setattr(faster, "_WIDE", 96)
    layer = nn.Conv2d(**{"in_channels": 96, "out_channels": 96, "kernel_size": 3, "padding": 1} | change)
    assert faster.widen(nn.Sequential(layer))[0] is layer


def test_without_nnpack_a_network_stays_as_it_is(net, monkeypatch):
    monkeypatch.setattr(torch.backends.nnpack, "is_available", lambda: False)
    assert all(isinstance(layer, nn.Conv2d) for layer in faster.widen(net))


@needs_nnpack
def test_a_narrow_network_keeps_its_layout():
    net = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1)).to(memory_format=torch.channels_last)
    before = net[0].weight.stride()
    assert faster.widen(net)[0].weight.stride() == before
