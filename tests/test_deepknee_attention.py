import cv2
import numpy as np
import pytest
import torch

from deepknee.attention import enlarge, fade_edges, gradcam, normalize_maps
from deepknee.model import KneeNet, pool


@pytest.fixture
def net() -> KneeNet:
    torch.manual_seed(0)
    return KneeNet(width=4).eval()


def test_gradcam_is_the_closed_form_of_a_linear_head(net: KneeNet) -> None:
    """The logit is linear in the pooled features, so its gradient is the row of the weight matrix."""
    features = net.features(*torch.randn(2, 3, 1, 64, 64))
    grades = torch.tensor([0, 4, 2])
    rows = net.final[1].weight[grades]  # (B, 2 C)
    for maps, weights, found in zip(features, rows.chunk(2, 1), gradcam(net, features, grades), strict=True):
        torch.testing.assert_close(found, (weights[:, :, None, None] * maps).sum(1).relu())


def test_gradcam_by_autograd_through_the_maps(net: KneeNet) -> None:
    """Grad-CAM's own definition: weight = mean over the map of d logit / d pixel, times the number of pixels here."""
    lateral, medial = (maps.detach().requires_grad_() for maps in net.features(*torch.randn(2, 1, 1, 64, 64)))
    net.classify(pool(lateral), pool(medial))[0, 3].backward()
    for maps, found in zip(
        (lateral, medial), gradcam(net, (lateral.detach(), medial.detach()), torch.tensor([3])), strict=True
    ):
        assert maps.grad is not None
        weights = maps.grad.sum((-2, -1), keepdim=True)
        torch.testing.assert_close(found, (weights * maps).sum(1).relu().detach())


def test_gradcam_leaves_no_gradient_behind(net: KneeNet) -> None:
    with torch.no_grad():
        gradcam(net, net.features(*torch.randn(2, 1, 1, 64, 64)), torch.tensor([1]))
    assert all(p.grad is None for p in net.parameters())


def test_enlarge_is_bilinear_of_opencv() -> None:
    small = np.random.default_rng(0).random((10, 10), np.float32)
    large = enlarge(torch.from_numpy(small)[None], 128)[0].numpy()
    np.testing.assert_allclose(large, cv2.resize(small, (128, 128), interpolation=cv2.INTER_LINEAR), atol=1e-6)


def test_faded_window_by_brute_force() -> None:
    size, width = 9, 2
    found = fade_edges(torch.ones(1, size, size, dtype=torch.float64), width)[0].numpy()
    reach = np.array([sum(0 <= x + d < size for d in range(-width, width)) for x in range(size)]) / (2 * width)
    np.testing.assert_allclose(found, np.outer(reach, reach))


def test_normalized_maps_span_zero_to_one_and_empty_ones_stay_empty() -> None:
    maps = torch.stack([torch.arange(4.0).reshape(2, 2) + 3, torch.zeros(2, 2)])
    found = normalize_maps(maps)
    torch.testing.assert_close(found[0], torch.arange(4.0).reshape(2, 2) / 3)
    torch.testing.assert_close(found[1], torch.zeros(2, 2))
