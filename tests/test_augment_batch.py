"""The augmentation of whole batches on the device, against that of one picture at a time and against scipy."""

import numpy as np
import pytest
import torch
from drawn import batch_of
from operations import Called
from scipy.ndimage import map_coordinates
from torchvision import tv_tensors
from torchvision.transforms import v2

from kneel.augment import AugmentSettings, TrainingTransform
from kneel.augment_geometry import PixelCentred, follow, warp
from kneel.dataset import AugmentedDataset, LandmarkSample
from kneel.engine.changes import _blur_on_cpu, _blur_on_device
from kneel.engine.config import ConfigError, TrainingConfig
from kneel.engine.loading import deferred

SIZE = (61, 52)  # width and height that the network sees
STORED = [(70, 66), (80, 60), (52, 61), (40, 47), (41, 90), (63, 63)]  # rows and columns of the pictures
GEOMETRY = {"flip": 0.5, "rotation": 15.0, "scale": (0.8, 1.3), "shear": 5.0, "shift": 0.1}
GREYS = {"window": 0.5, "invert": 0.6, "gamma": (0.5, 1.5), "blur": 1.5, "cutout": 0.2}
NOISE = {"noise": 0.05, "salt_pepper": 0.02, "jitter": 1.3}
EACH = [{name: value} for part in (GEOMETRY, GREYS, NOISE) for name, value in part.items()]


def dataset(settings, stored=STORED):
    rng = np.random.default_rng(3)
    samples = [
        LandmarkSample(rng.integers(0, 256, shape, np.uint8), rng.uniform(5, 35, (16, 2)), str(number), "R", 0)
        for number, shape in enumerate(stored)
    ]
    return AugmentedDataset(samples, TrainingTransform(AugmentSettings.model_validate(settings, strict=False), SIZE))


@pytest.mark.parametrize("settings", [{}, *EACH, GEOMETRY, GREYS, GEOMETRY | GREYS | NOISE], ids=lambda s: "-".join(s))
def test_a_batch_on_the_device_is_the_pictures_one_by_one(settings):
    """To 1e-3 of the grey range (a power of .5 makes that of 1e-6 near black), points to 1e-4 pixels."""
    plain = dataset(settings)
    drawn, finish = plain.deferred()
    changed = False
    for seed in range(5):
        expected, after = batch_of(plain, seed)
        batch, after_batch = batch_of(drawn, seed)
        assert batch["picture"].dtype == torch.uint8
        made = finish(batch)
        torch.testing.assert_close(after_batch, after, rtol=0, atol=0)  # both drew the same
        torch.testing.assert_close(made["points"], expected["points"], rtol=0, atol=1e-4)
        torch.testing.assert_close(made["picture"], expected["picture"], rtol=0, atol=1e-3)
        assert (made["picture"] - expected["picture"]).abs().mean() < 1e-5
        assert torch.equal(made["visible"], expected["visible"])
        changed |= not torch.equal(expected["picture"], batch_of(plain, seed + 5)[0]["picture"])
    assert changed or set(settings) <= {"jitter"}


def test_warping_is_linear_interpolation_with_black_around():
    rng = np.random.default_rng(1)
    pictures = rng.random((3, 1, 33, 47))
    matrices = np.concatenate([rng.uniform(0.6, 1.4, (3, 2, 2)) * [[1, 0.2], [-0.3, 1]], [[[4], [-3]]] * 3], 2)
    warped = warp(torch.tensor(pictures), torch.tensor(matrices), (40, 29))
    y, x = np.mgrid[:29, :40]
    for picture, matrix, result in zip(pictures[:, 0], matrices, warped[:, 0].numpy(), strict=True):
        at_x, at_y = (row[0] * x + row[1] * y + row[2] for row in matrix)
        expected = map_coordinates(picture, [at_y, at_x], order=1, mode="grid-constant")
        np.testing.assert_allclose(result, expected, atol=1e-10)
        assert (expected == 0).any()  # some of it lies outside


def test_points_and_pictures_follow_one_matrix():
    affine = PixelCentred(v2.RandomAffine(20, translate=(0.2, 0.2), scale=(0.8, 1.3), shear=(-9, 9)))
    points = tv_tensors.KeyPoints(torch.tensor([[10.0, 7.0], [30.5, 21.25]]), canvas_size=(40, 50))
    for seed in range(5):
        torch.manual_seed(seed)
        expected = affine(points)
        torch.manual_seed(seed)
        moved, matrix = follow(affine, points)
        torch.testing.assert_close(moved.as_subclass(torch.Tensor).float(), expected.as_subclass(torch.Tensor))
        back = matrix @ torch.cat([moved.as_subclass(torch.Tensor), torch.ones(2, 1)], 1).T
        torch.testing.assert_close(back.T.float(), points.as_subclass(torch.Tensor), rtol=0, atol=1e-5)


def test_a_white_picture_on_a_canvas_of_a_larger_one_ends_where_it_ended():
    """Black beside a smaller picture is no part of it; what is cut out of it lies in its middle."""
    whole = dataset(GEOMETRY, [(52, 61), (200, 150)])
    whole.samples[0].picture[:] = 255
    drawn, finish = whole.deferred()
    made = finish(batch_of(drawn, 0)[0])
    torch.testing.assert_close(made["picture"], batch_of(whole, 0)[0]["picture"], rtol=0, atol=1e-4)
    assert 0.5 < made["picture"][0].mean() < 1


@pytest.mark.parametrize("reach", [3, 7, 13])
def test_both_blurs_are_one(reach):
    pictures = torch.rand((4, 1, 40, 33), generator=torch.Generator().manual_seed(1))
    sigmas = torch.tensor([0.0, 0.05, 0.8, 3.0])
    once, other = (blur(pictures, sigmas, reach) for blur in (_blur_on_cpu, _blur_on_device))
    torch.testing.assert_close(once, other, rtol=0, atol=1e-5)
    torch.testing.assert_close(other[0], pictures[0], rtol=0, atol=0)
    assert not torch.equal(once[2], pictures[2])


def test_nothing_is_made_by_what_a_gpu_may_round_to_ten_bits():
    drawn, finish = dataset(GEOMETRY | GREYS).deferred()
    batch, _ = batch_of(drawn, 0)
    assert "warp" in batch["drawn"]
    with Called() as called:
        finish(batch)
    assert "grid_sampler_2d" in called.names
    assert not called.on_ten_bits()


def test_who_augments():
    pictures, plain = dataset({}), torch.utils.data.TensorDataset(torch.zeros(3))
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for where, on_cpu, on_cuda in (("auto", False, True), ("loader", False, False), ("device", True, True)):
        config = TrainingConfig(monitor="m", mode="min", augment_on=where)
        for device, expected in ((cpu, on_cpu), (cuda, on_cuda)):
            source, finish = deferred(config, pictures, device)
            assert (finish is not None) == (source is not pictures) == expected
        if where == "device":
            with pytest.raises(ConfigError, match=r"augment_on = device: .* loader or auto"):
                deferred(config, plain, cpu)
        else:
            assert deferred(config, plain, cuda) == (plain, None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_makes_the_same_pictures():
    drawn, finish = dataset(GEOMETRY | GREYS).deferred()
    batch = batch_of(drawn, 1)[0]
    there = {
        "picture": batch["picture"].cuda(),
        "drawn": {name: {key: value.cuda() for key, value in each.items()} for name, each in batch["drawn"].items()},
    }
    made = finish({**batch, **there})["picture"]
    torch.testing.assert_close(made.cpu(), finish(batch)["picture"], rtol=0, atol=1e-3)
    noisy = dataset(GEOMETRY | NOISE)
    drawn, finish = noisy.deferred()
    batch = batch_of(drawn, 1)[0]
    there["drawn"] = {name: {k: v.cuda() for k, v in each.items()} for name, each in batch["drawn"].items()}
    there["picture"] = batch["picture"].cuda()
    first, second = (finish({**batch, **there})["picture"] for _ in range(2))
    assert torch.equal(first, second)  # each picture's noise has a seed
