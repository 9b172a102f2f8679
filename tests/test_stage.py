import copy

import numpy as np
import pytest
import torch
from torch import nn

from kneel.engine.cpu import cpu_threads
from kneel.engine.faster import fold_batch_norms
from kneel.network import HourglassSettings, LandmarkNet
from kneel.stage import Stage


@pytest.fixture(params=[None, 4], ids=["plain", "squeeze and excitation"])
def net(request):
    """Random weights, and batch norms that have seen something."""
    torch.manual_seed(0)
    settings = HourglassSettings(width=8, depth=2, se_ratio=request.param)
    net = LandmarkNet(landmarks=3, mean=0.4, std=0.3, settings=settings).train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.rand(4, 1, 64, 64))
    return net.eval()


def stage(*nets):
    return Stage(nets, spacing_mm=1.0, size=(64, 64), device=torch.device("cpu"), typical_spread_mm=1.0)


def pictures(*shapes):
    rng = np.random.default_rng(1)
    return [rng.uniform(size=shape).astype(np.float32) for shape in shapes]


def test_folded_batch_norms_leave_the_answer(net):
    folded = fold_batch_norms(copy.deepcopy(net))
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in net.modules())
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    x = torch.from_numpy(np.stack(pictures((70, 50), (70, 50))))[:, None]
    with torch.no_grad():
        for before, after in zip(net(x), folded(x), strict=True):
            torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shapes", [((64, 64),) * 3, ((64, 48), (40, 72)), ()], ids=str)
def test_a_batch_is_answered_as_picture_by_picture(net, shapes):
    both = stage(net, fold_batch_norms(copy.deepcopy(net)))
    shown = pictures(*shapes)
    answers = both.batch(shown)
    assert len(answers) == len(shown)
    for picture, answer in zip(shown, answers, strict=True):
        alone = both(picture)
        assert answer.points.shape == (3, 2)
        np.testing.assert_allclose(answer.points, alone.points, atol=1e-4)
        np.testing.assert_allclose(answer.spread, alone.spread, atol=1e-4)


def test_networks_and_pictures_side_by_side_are_told_apart(net):
    """On two threads, as on any real machine: each answer is that of its own network and picture."""
    other = copy.deepcopy(net)
    with torch.no_grad():
        for value in other.parameters():
            value.mul_(1.1)
    shown = pictures((64, 64), (64, 64), (64, 64))
    expected = [stage(net, other)(picture) for picture in shown]
    with cpu_threads(2):
        answers = stage(net, other).batch(shown)
    for answer, alone in zip(answers, expected, strict=True):
        np.testing.assert_allclose(answer.points, alone.points, atol=1e-4)
        np.testing.assert_allclose(answer.spread, alone.spread, atol=1e-4)
    assert not np.allclose(expected[0].points, expected[1].points, atol=1e-3)


def test_several_networks_are_averaged(net):
    other = copy.deepcopy(net)
    with torch.no_grad():
        for value in other.parameters():
            value.mul_(1.1)
    (picture,) = pictures((64, 64))
    one, two, both = (stage(*nets)(picture) for nets in ([net], [other], [net, other]))
    assert not np.allclose(one.points, two.points, atol=1e-3)
    np.testing.assert_allclose(both.points, (one.points + two.points) / 2, atol=1e-5)
