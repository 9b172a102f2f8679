from pathlib import Path

import numpy as np
import pytest
import torch

from kneel.codec import SoftArgmax
from kneel.hourglass import STRIDE, HourglassNet
from kneel.losses import visible_mean, wing
from kneel.mixup import mixed_loss

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

    def loss(images, order):
        target = points if order is None else points[order]
        return wing(SoftArgmax("corner").decode(authors_net(images)), target).mean()

    mixed = mixed_loss(tensors["x"], loss, lam=float(tensors["lam"]), perm=perm, variant="kneel")
    assert float(mixed) == pytest.approx(float(tensors["loss"]), abs=1e-5)


def test_zhang_mixup_runs_only_the_mixed_batch():
    images, seen = torch.tensor([1.0, 3.0]), []

    def loss(batch, order):
        seen.append(batch.tolist())
        return torch.tensor(10.0 if order is None else 20.0)

    mixed = mixed_loss(images, loss, lam=0.25, perm=torch.tensor([1, 0]), variant="zhang")
    assert seen == [[2.5, 1.5], [2.5, 1.5]]
    assert float(mixed) == 0.25 * 10 + 0.75 * 20


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


def test_parameter_counts_are_the_papers():
    def count(landmarks):
        return sum(p.numel() for p in HourglassNet(landmarks=landmarks, channels=3).parameters())

    assert (count(1), count(16)) == (4_250_977, 4_252_432)
