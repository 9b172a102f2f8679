from pathlib import Path

import numpy as np
import pytest
import torch

from kneel.blocks import BottleneckBlock, MultiScaleBlock, SqueezeExcitation
from kneel.codec import SoftArgmax
from kneel.engine.mixup import mixed_passes
from kneel.hourglass import STRIDE, HourglassNet
from kneel.losses import LossSettings, RobustLoss, build_criterion, elastic, visible_mean, wing

PARITY = Path(__file__).resolve().parents[1].parent / "shared" / "parity"
needs_parity = pytest.mark.skipif(not PARITY.exists(), reason="tensors of the original networks are not here")


def original(name):
    return {key: torch.from_numpy(np.asarray(value)) for key, value in np.load(PARITY / name).items()}


@pytest.fixture(scope="module")
def authors_net():
    net = HourglassNet(landmarks=16, channels=3, align_corners=True).eval()
    net.load_state_dict(torch.load(PARITY / "kneel_hc_fold_0.pth", weights_only=True)["model"])
    return net


@needs_parity
@torch.no_grad()
def test_the_authors_weights_give_the_authors_heat_maps(authors_net):
    tensors = original("kneel_hc_fold_0.npz")
    heatmaps = authors_net(tensors["x"])
    torch.testing.assert_close(heatmaps, tensors["heatmap"], rtol=1e-5, atol=1e-4)
    codec = SoftArgmax("corner")
    torch.testing.assert_close(codec.decode(heatmaps), tensors["y"], rtol=0, atol=1e-5)
    torch.testing.assert_close(
        codec.decode(authors_net(tensors["x_nonsquare"])), tensors["y_nonsquare"], rtol=0, atol=1e-5
    )


@needs_parity
@pytest.mark.parametrize("case", "abcde")
def test_corner_soft_argmax_is_the_authors(case):
    tensors = original("kneel_losses.npz")
    codec = SoftArgmax("corner", beta=float(tensors[f"sagm_{case}_beta"]))
    torch.testing.assert_close(
        codec.decode(tensors[f"sagm_{case}_in"]), tensors[f"sagm_{case}_out"], rtol=1e-5, atol=1e-5
    )


@needs_parity
@pytest.mark.parametrize("scale", ["unit", "px"])
@pytest.mark.parametrize(("width", "curvature"), [(15, 3), (5, 0.5)])
def test_wing_is_the_authors(scale, width, curvature):
    tensors = original("kneel_losses.npz")
    prediction = tensors[f"{scale}_pred"].requires_grad_()
    loss = wing(prediction, tensors[f"{scale}_gt"], width=width, curvature=curvature).mean()
    loss.backward()
    name = f"{scale}_wing_{width}_{curvature}"
    torch.testing.assert_close(loss.detach(), tensors[name], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(prediction.grad, tensors[f"{name}_grad"], rtol=1e-5, atol=1e-6)


@needs_parity
@torch.no_grad()
def test_kneel_mixup_is_the_authors(authors_net):
    tensors = original("kneel_mixup.npz")
    points, perm = tensors["y"].float(), tensors["perm"]

    mixed = sum(
        weight
        * wing(SoftArgmax("corner").decode(authors_net(images)), points if order is None else points[order]).mean()
        for images, targets in mixed_passes(tensors["x"], lam=float(tensors["lam"]), perm=perm, variant="kneel")
        for weight, order in targets
    )
    assert float(mixed) == pytest.approx(float(tensors["loss"]), abs=1e-5)


def test_zhang_mixup_passes_only_the_mixed_batch_once():
    images, perm = torch.tensor([1.0, 3.0]), torch.tensor([1, 0])
    ((mixed, targets),) = mixed_passes(images, lam=0.25, perm=perm, variant="zhang")
    assert mixed.tolist() == [2.5, 1.5]
    assert targets == ((0.25, None), (0.75, perm))


@pytest.mark.parametrize("grid", ["center", "corner"])
def test_encode_and_to_pixels_are_inverses(grid):
    codec, size = SoftArgmax(grid), (70, 50)
    points = torch.rand(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 90 - 10
    torch.testing.assert_close(codec.to_pixels(codec.encode(points, size), size), points, rtol=0, atol=1e-12)


def test_a_sharp_map_decodes_to_the_centre_of_its_cell():
    heatmaps = torch.full((1, 1, 6, 9), -1e4)
    heatmaps[0, 0, 4, 7] = 0
    size = (9 * STRIDE, 6 * STRIDE)
    codec = SoftArgmax()
    # cell 7 covers pixels 28..31, whose centre is 29.5; cell 4 covers 16..19
    torch.testing.assert_close(codec.to_pixels(codec.decode(heatmaps), size), torch.tensor([[[29.5, 17.5]]]))
    assert float(codec.spread(heatmaps, size)) == pytest.approx(0, abs=0.011)


def test_a_flat_map_decodes_to_the_middle_with_the_spread_of_a_box():
    size = (64, 48)
    heatmaps = torch.zeros(1, 1, 12, 16)
    codec = SoftArgmax()
    torch.testing.assert_close(codec.to_pixels(codec.decode(heatmaps), size), torch.tensor([[[31.5, 23.5]]]))
    expected = (64**2 / 12 * (1 - 1 / 16**2) + 48**2 / 12 * (1 - 1 / 12**2)) ** 0.5  # discrete uniform
    assert float(codec.spread(heatmaps, size)) == pytest.approx(expected, rel=1e-5)


ROBUST = {"kind": "robust", "scale_init": 0.01}  # the authors' scale, in the unit of their points


@needs_parity
@pytest.mark.parametrize("scale", ["unit", "px"])
@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"kind": "l1"}, "l1"),
        ({"kind": "l2"}, "l2"),
        ({"kind": "elastic"}, "elastic_0.5"),
        ({"kind": "elastic", "l2_share": 0.3}, "elastic_0.3"),
        (ROBUST, "robust"),
        ({"kind": "wing"}, "wing_15_3"),
    ],
)
def test_the_losses_are_the_authors(scale, settings, name):
    tensors = original("kneel_losses.npz")
    prediction = tensors[f"{scale}_pred"].requires_grad_()
    loss = build_criterion(LossSettings(**settings), 16)(prediction, tensors[f"{scale}_gt"]).mean()
    loss.backward()
    torch.testing.assert_close(loss.detach(), tensors[f"{scale}_{name}"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(prediction.grad, tensors[f"{scale}_{name}_grad"], rtol=1e-5, atol=1e-5)


def test_elastic_by_hand():
    assert float(elastic(torch.tensor([3.0]), torch.tensor([1.0]), l2_share=0.25)) == 0.75 * 2 + 0.25 * 4


@pytest.mark.parametrize("alpha", [0.05, 0.5, 1.0, 1.7, 1.98])
def test_the_robust_loss_is_a_density_for_every_shape(alpha):
    """exp(-loss) integrates to 1 over all errors, whatever its shape and scale."""
    loss = RobustLoss(1, alpha_init=alpha, scale_init=0.5)
    # errors on a grid that is even in sinh: heavy tails reach far
    t = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    errors = 0.5 * torch.sinh(t)
    with torch.no_grad():
        density = (-loss(errors[:, None, None].expand(-1, 1, 2), torch.zeros(()))).exp()[:, 0, 0]
    missing = 0.03 if alpha < 0.1 else 2e-3  # beyond the grid
    assert float(torch.trapezoid(density.double(), errors)) == pytest.approx(1, abs=missing)


def test_the_robust_loss_tends_to_a_gaussian_and_to_a_cauchy():
    error = torch.linspace(0, 4, 9)[:, None, None].expand(-1, 1, 2)
    with torch.no_grad():
        gaussian = RobustLoss(1, alpha_init=1.998, scale_init=2.0)(error, torch.zeros(()))
        cauchy = RobustLoss(1, alpha_init=0.002, scale_init=2.0)(error, torch.zeros(()))
    torch.testing.assert_close(gaussian, -torch.distributions.Normal(0, 2.0).log_prob(error), rtol=0, atol=0.015)
    scaled = torch.distributions.Cauchy(0, 2**0.5 * 2.0)
    torch.testing.assert_close(
        cauchy - cauchy[0], scaled.log_prob(error[0]) - scaled.log_prob(error), rtol=0, atol=0.01
    )


def test_the_robust_loss_learns_the_distribution_of_its_errors():
    torch.manual_seed(0)
    loss = RobustLoss(1, alpha_init=1.9, scale_init=1.0)
    errors = 3 * torch.randn(4000, 1, 2)
    optimizer = torch.optim.Adam(loss.parameters(), 0.05)
    for _ in range(400):
        optimizer.zero_grad()
        loss(errors, torch.zeros(())).mean().backward()
        optimizer.step()
    entropy = np.log(3) + 0.5 * np.log(2 * np.pi * np.e)  # no density does better on Gaussian errors
    assert float(loss(errors, torch.zeros(())).mean().detach()) == pytest.approx(entropy, abs=0.02)


def test_a_parameter_of_another_loss_is_refused():
    with pytest.raises(ValueError, match=r"width = 10\.0 acts only with kind wing, not l1"):
        LossSettings(kind="l1", width=10.0)


def test_wing_by_hand_is_continuous_and_has_its_slopes():
    target = torch.zeros(1)
    near, far = wing(torch.tensor([15 - 1e-4]), target), wing(torch.tensor([15 + 1e-4]), target)
    assert float(far - near) == pytest.approx(0, abs=2e-3)
    assert float(wing(torch.tensor([3.0]), target)) == pytest.approx(15 * np.log(2), rel=1e-6)
    assert float(wing(torch.tensor([115.0]), target) - wing(torch.tensor([15.0]), target)) == pytest.approx(
        100, rel=1e-5
    )


def test_points_outside_the_picture_do_not_count():
    loss = torch.tensor([[[1.0, 3.0], [100.0, 100.0]]])
    assert float(visible_mean(loss, torch.tensor([[True, False]]))) == 2
    assert float(visible_mean(loss, torch.tensor([[False, False]]))) == 0


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (117, 90)])
def test_any_image_size_gives_maps_of_a_quarter(size):
    net = HourglassNet(landmarks=3, width=4, depth=4).eval()
    with torch.no_grad():
        assert net(torch.zeros(1, 1, *size)).shape == (1, 3, -(-size[0] // 2) // 2, -(-size[1] // 2) // 2)


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"landmarks": 1}, 4_250_977),
        ({"landmarks": 16}, 4_252_432),
        ({"landmarks": 16, "block": "regular"}, 6_958_480),
        ({"landmarks": 16, "se_ratio": 16}, 4_323_091),
    ],
)
def test_parameter_counts_are_the_papers(settings, count):
    assert sum(p.numel() for p in HourglassNet(channels=3, **settings).parameters()) == count


def test_squeeze_and_excitation_by_hand():
    """Two channels with means 1 and 2, one unit between: weights sigmoid(3 relu(1 + 2 - 1)) and sigmoid(0)."""
    block = SqueezeExcitation(2, 2)
    with torch.no_grad():
        _, squeeze, _, excite = block.scorer
        squeeze.weight.copy_(torch.tensor([1.0, 1.0]).view(1, 2, 1, 1))
        squeeze.bias.fill_(-1)
        excite.weight.copy_(torch.tensor([3.0, 0.0]).view(2, 1, 1, 1))
        excite.bias.zero_()
        out = block(torch.stack([torch.ones(2, 2), torch.full((2, 2), 2.0)])[None])
    torch.testing.assert_close(out[0, :, 0, 0], torch.tensor([1 / (1 + np.exp(-6)), 2 * 0.5], dtype=torch.float32))


@pytest.mark.parametrize("block", [MultiScaleBlock, BottleneckBlock])
def test_a_block_whose_branch_is_silent_is_its_skip_connection(block):
    layer = block(8, 8, 4).eval()
    for parameter in layer.parameters():
        parameter.data.zero_()
    x = torch.randn(2, 8, 5, 6)
    torch.testing.assert_close(layer(x), x)
    assert block(8, 12)(x).shape == (2, 12, 5, 6)


def test_heat_maps_are_not_rounded_under_autocast():
    """In bfloat16 they would take a few hundred values."""
    torch.manual_seed(0)
    net, picture = HourglassNet(landmarks=2, width=4, depth=2).train(), torch.rand(1, 1, 128, 128)
    with torch.autocast("cpu", torch.bfloat16):
        heatmaps = net(picture)
    assert heatmaps.dtype == torch.float32
    assert len(heatmaps.unique()) > 0.9 * heatmaps.numel()
    heatmaps.sum().backward()
    assert net.double()(picture.double()).dtype == torch.float64
