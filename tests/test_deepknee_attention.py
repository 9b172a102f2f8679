import cv2
import numpy as np
import pytest
import torch

from deepknee.attention import (
    METHODS,
    blur_rois,
    enlarge,
    fade_edges,
    gradcam,
    hirescam,
    integrated_gradients,
    normalize_maps,
    smooth_maps,
)
from deepknee.cli import ATTENTION
from deepknee.ensemble import Grader
from deepknee.ensemble_attention import ensemble_gradcam, ensemble_hirescam, pixel_shares
from deepknee.intensity import Intensity
from deepknee.member import GraderSettings, Member
from deepknee.model import KneeNet, pool
from deepknee.networks import SiameseSettings
from deepknee.patches import PatchGeometry
from deepknee.views import Compartments

PATCHES = PatchGeometry(roi_mm=50.0, roi_px=140, crop=136, patch=64, top=40)


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
    large = enlarge(torch.from_numpy(small)[None], (128, 96))[0].numpy()
    np.testing.assert_allclose(large, cv2.resize(small, (96, 128), interpolation=cv2.INTER_LINEAR), atol=1e-6)


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


def test_hirescam_of_a_logit_is_gradcam_in_every_pixel(net: KneeNet) -> None:
    """Mean and linear layer: the gradient is the same in all pixels (CAM); only the negative part and 1 / hw differ."""
    features, grades = net.features(*torch.randn(2, 3, 1, 64, 64)), torch.tensor([0, 4, 2])
    found = hirescam(lambda maps: net.classify(*map(pool, maps)).gather(1, grades[:, None])[:, 0], features)
    for ours, theirs in zip(found, gradcam(net, features, grades), strict=True):
        torch.testing.assert_close(ours.relu() * ours[0].numel(), theirs)


def test_hirescam_of_a_probability_by_its_closed_form(net: KneeNet) -> None:
    """d p_g / d A_c = p_g (w_gc - sum_k p_k w_kc) / hw."""
    features, grade = net.features(*torch.randn(2, 1, 1, 64, 64)), 3
    with torch.no_grad():
        chances = net.classify(*map(pool, features)).softmax(1)[0]
        rows = net.final[1].weight
        weights = chances[grade] * (rows[grade] - chances @ rows)
    found = hirescam(lambda maps: net.classify(*map(pool, maps)).softmax(1)[:, grade], features)
    for maps, weight, ours in zip(features, weights.chunk(2), found, strict=True):
        torch.testing.assert_close(ours[0], torch.einsum("c,chw->hw", weight, maps[0].detach()) / ours[0].numel())


def test_hirescam_and_gradcam_part_where_the_head_is_not_a_mean() -> None:
    """A head that sees the left half only: Grad-CAM's one weight a channel also lights up the right half."""
    maps = torch.ones(1, 1, 4, 4)
    (found,) = hirescam(lambda parts: parts[0][..., :2].sum((1, 2, 3)), [maps])
    assert (found[..., :2] == 1).all()
    assert not found[..., 2:].any()


def test_networks_that_disagree_cancel_in_hirescam_only(net: KneeNet) -> None:
    """Two networks, one the other's opposite: Grad-CAM averages what is left of each, HiResCAM adds to nothing."""
    lateral, medial = net.features(*torch.randn(2, 2, 1, 64, 64))
    opposite = KneeNet(width=4).eval()
    opposite.load_state_dict(net.state_dict())
    with torch.no_grad():
        for part in opposite.final[1].parameters():
            part.neg_()
    features, grades, views = [(lateral, medial)] * 2, torch.tensor([1, 2]), [Compartments(PATCHES)] * 2

    def classify(pairs):
        return sum(each.classify(*map(pool, maps)) for each, maps in zip((net, opposite), pairs, strict=True))

    assert ensemble_hirescam(views, features, grades, classify).max() < 1e-6
    found = ensemble_gradcam([net, opposite], views, features, grades)
    alone = [ensemble_gradcam([each], views[:1], features[:1], grades) for each in (net, opposite)]
    assert all(each.max() > 1e-6 for each in alone)
    torch.testing.assert_close(found, sum(alone) / 2)


def test_maps_of_an_ensemble_share_out_a_logit_over_the_roi(net: KneeNet) -> None:
    """What is laid on the ROI sums to what the pooled features add to the logit."""
    with torch.no_grad():
        net.final[1].weight.abs_()  # features are 0 or more, so nothing is cut off
    pictures = torch.randn(2, 1, 1, 64, 64)
    features, grade = net.features(*pictures), torch.tensor([3])
    with torch.no_grad():
        added = net.classify(*map(pool, features))[0, 3] - net.final[1].bias[3]
    (laid,) = ensemble_gradcam([net], [Compartments(PATCHES)], [features], grade)
    assert laid.shape == (140, 140)
    assert laid.sum() == pytest.approx(float(added), rel=1e-5)

    def classify(parts):  # a logit in the place of a probability
        return net.classify(*map(pool, parts[0]))

    (same,) = ensemble_hirescam([Compartments(PATCHES)], [features], grade, classify)
    torch.testing.assert_close(same, laid)


def test_integrated_gradients_of_a_polynomial() -> None:
    """F = x^2 y from (0, 0): along (a x, a y) the shares are 2/3 and 1/3 of F; a rule of two points is exact."""
    x, y = torch.tensor([[3.0], [1.0]]), torch.tensor([[2.0], [-5.0]])
    start = [torch.zeros(2, 1)] * 2
    found = integrated_gradients(lambda parts: (parts[0] ** 2 * parts[1])[:, 0], [x, y], start, steps=2)
    torch.testing.assert_close(found[0], 2 / 3 * x**2 * y)
    torch.testing.assert_close(found[1], 1 / 3 * x**2 * y)


def noise(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return enlarge(torch.randn(3, 5, 5), 64)[:, None], enlarge(torch.randn(3, 5, 5), 64)[:, None]


def test_shares_of_pixels_sum_to_the_change_of_the_probability(net: KneeNet) -> None:
    """Completeness, of an ensemble; the finer the rule, the closer."""
    torch.manual_seed(1)
    nets, grades = [net, KneeNet(width=3).eval()], torch.tensor([0, 4, 2])
    there, start = [noise(0), noise(1)], [noise(10), noise(11)]

    def classify(features):
        logits = [each.classify(*map(pool, maps)) for each, maps in zip(nets, features, strict=True)]
        return (2 * torch.stack(logits)).softmax(2).mean(0)

    def chances(patches):
        with torch.no_grad():
            features = [each.features(*pair) for each, pair in zip(nets, patches, strict=True)]
            return classify(features).gather(1, grades[:, None])[:, 0]

    change = chances(there) - chances(start)
    assert change.abs().min() > 0.02
    rough, fine = (
        sum(part.sum((1, 2)) for own in pixel_shares(nets, there, start, grades, classify, steps) for part in own)
        for steps in (8, 128)
    )
    torch.testing.assert_close(fine, change, atol=2e-3, rtol=0)
    assert (fine - change).abs().max() < (rough - change).abs().max()


def test_what_does_not_differ_from_the_start_has_no_share(net: KneeNet) -> None:
    pair = tuple(torch.randn(2, 2, 1, 64, 64))
    other = (pair[0].clone(), pair[1])
    other[0][..., 40:] += 1

    def classify(features):
        return net.classify(*map(pool, features[0])).softmax(1)

    ((lateral, medial),) = pixel_shares([net], [other], [pair], torch.tensor([0, 1]), classify)
    assert not medial.any()
    assert not lateral[..., :40].any()
    assert lateral[..., 40:].any()


def test_blur_repeats_borders_and_smoothing_does_not() -> None:
    flat = np.full((2, 40, 40), 77, np.uint8)
    np.testing.assert_array_equal(blur_rois(flat, 6.0), flat)
    assert blur_rois(flat[:0], 6.0).shape == (0, 40, 40)
    spot = torch.zeros(1, 61, 61)
    spot[0, 30, 20] = 5
    found = smooth_maps(spot, 3.0)
    y, x = np.mgrid[-30:31, -20:41]
    expected = np.exp(-(x**2 + y**2) / 18)
    np.testing.assert_allclose(found[0], 5 * expected / expected.sum(), atol=1e-4)
    assert smooth_maps(torch.ones(1, 20, 20), 3.0)[0, 0, 0] < 0.5


def medial_grader(method: str, weight: float = 0.3) -> Grader:
    """Networks whose only channel is brightness, read from the medial side alone; the brighter, the more KL 2."""
    net = KneeNet(width=1).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(0.1)
        net.final[1].weight.zero_()
        net.final[1].weight[2, 4:] = weight
    intensity = Intensity(mean=0.4, std=0.2)
    part = Member(net, GraderSettings(model=SiameseSettings(width=1), geometry=PATCHES, intensity=intensity))
    return Grader([part, part], attention=method)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
def test_a_medial_finding_is_seen_medially_by_every_method(method: str) -> None:
    roi = np.full((1, 140, 140), 60, np.uint8)
    roi[:, 60:80, 20:40] = roi[:, 60:80, 100:120] = 250  # a bright spot in either patch
    grade = medial_grader(method).predict(roi)
    assert grade.kl[0] == 2
    assert grade.attention.shape == (1, 140, 140)
    assert grade.attention.dtype == np.float32
    rows, columns = np.nonzero(grade.attention[0] == 1)
    assert (rows >= 42).all()
    assert (rows < 106).all()
    assert (columns >= 74).all()
    assert grade.attention[:, :, :66].max() < 0.01
    assert not grade.attention[:, 106:].any()
    assert not grade.attention[:, :42].any()


def test_pixels_are_told_apart_by_integrated_gradients_alone() -> None:
    roi = np.full((1, 140, 140), 60, np.uint8)
    roi[:, 60:80, 100:120] = 250
    spot = np.zeros((140, 140), bool)
    spot[56:84, 96:124] = True
    inside = [medial_grader(method).predict(roi).attention[0][spot].sum() for method in METHODS]
    total = [medial_grader(method).predict(roi).attention[0].sum() for method in METHODS]
    shares = dict(zip(METHODS, np.divide(inside, total), strict=True))
    assert shares["integrated"] > 0.9
    assert shares["gradcam"] < 0.6
    assert shares["hirescam"] == pytest.approx(shares["gradcam"], abs=1e-5)  # two like networks, one logit that counts


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [0, 2])
def test_an_empty_map_is_a_zero_map_by_every_method(method: str, count: int) -> None:
    rois = np.random.default_rng(0).integers(0, 256, (count, 140, 140), np.uint8)
    found = medial_grader(method, weight=0.0).predict(rois).attention
    np.testing.assert_array_equal(found, np.zeros((count, 140, 140)))


def test_methods_are_those_of_the_command_and_no_others() -> None:
    assert ATTENTION == METHODS
    with pytest.raises(ValueError, match="attention is 'cam': must be one of gradcam, hirescam, integrated"):
        medial_grader("cam")
