"""The narrow residual network of the whole joint."""

import pytest
import torch
from torch.nn import functional
from torchvision.models.resnet import BasicBlock

from deepknee.resnet18 import ResidualBlock, ResNet18


def test_a_block_is_the_identity_before_training():
    maps = torch.rand(2, 4, 7, 9)
    torch.testing.assert_close(ResidualBlock(4, 4, 1).eval()(maps), maps)


@pytest.mark.parametrize("training", [True, False])
def test_a_block_is_that_of_torchvision(training):
    ours, theirs = ResidualBlock(4, 4, 1).train(training), BasicBlock(4, 4).train(training)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    for block in (ours.body[-1], theirs.bn2):
        torch.nn.init.constant_(block.weight, 0.7)
    maps = torch.randn(3, 4, 8, 10)
    torch.testing.assert_close(ours(maps), theirs(maps))


def test_the_way_around_averages_where_the_body_strides():
    """An odd row is averaged by itself, as the strided convolution reads it too."""
    block = ResidualBlock(2, 2, 2).eval()
    maps = torch.rand(1, 2, 5, 6)
    expected = torch.cat([maps[..., :4, :].unflatten(2, (2, 2)).mean(3), maps[..., 4:, :]], 2).unflatten(3, (3, 2))
    torch.testing.assert_close(block(maps), expected.mean(4))


def test_maps_are_a_32nd_of_the_resized_picture():
    net = ResNet18(width=2, input_px=144).eval()
    picture = torch.randn(2, 1, 127, 212)
    (maps,) = net.features(picture)
    assert maps.shape == (2, 16, 3, 5)  # of 86 x 144
    resized = functional.interpolate(picture, size=(86, 144), mode="bilinear", antialias=True)
    torch.testing.assert_close(net.features(resized)[0], maps)


def test_the_halves_are_told_apart():
    net = ResNet18(width=2).eval()
    with torch.no_grad():
        net.final[1].weight.zero_()
        net.final[1].bias.zero_()
        net.final[1].weight[3, 0] = net.final[1].weight[4, 1] = 1  # lateral and medial half of the first channel
    maps = torch.zeros(1, 16, 3, 6)
    maps[:, 0, :, 4] = 9
    assert net.judge(maps).tolist() == [[0, 0, 0, 0, 3]]
