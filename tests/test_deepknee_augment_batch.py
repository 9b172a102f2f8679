"""Changed pictures of knees, one knee at a time and in batches, against torchvision, scipy and numpy."""

import math

import cv2
import numpy as np
import pytest
import torch
from drawn import batch_of
from operations import Called
from scipy.ndimage import map_coordinates
from torch.utils.data import default_collate
from torchvision.transforms import v2

from deepknee.augment import Augmentation, Draws, TrainingPictures
from deepknee.dataset import GradedKnees, TrainingDataset
from deepknee.patches import PatchGeometry
from deepknee.views import Compartments, Window, plain_pictures
from kneel.engine.config import TrainingConfig
from kneel.engine.loading import deferred

GEOMETRY = PatchGeometry(roi_mm=60.0, roi_px=60, crop=50, patch=24, top=12)
VIEWS = [Compartments(GEOMETRY), Window.around_joint(GEOMETRY, 0.6), Window.crop(GEOMETRY)]
STILL = {"brightness": (1.0, 1.0), "contrast": (1.0, 1.0), "rotation_deg": 0.0, "gamma": (1.0, 1.0), "jitter_px": 0}
CHANGES = {
    "jpeg": (30, 90),
    "blur_px": 1.5,
    "brightness": (0.6, 1.6),
    "contrast": (0.6, 1.6),
    "rotation_deg": 25.0,
    "scale": (0.7, 1.3),
    "gamma": (0.5, 1.5),
    "jitter_px": 5,
}
EACH = [{name: value} for name, value in CHANGES.items()] + [{"blur_px": 0.4}, {"blur_px": 4.0}]
WITHOUT = [{other: value for other, value in CHANGES.items() if other != name} for name in CHANGES]
KNEES = 12


def augmentation(changes):
    return Augmentation(**{**STILL, **changes})


def dataset(view, changes, knees=KNEES):
    rois = np.random.default_rng(3).integers(0, 256, (knees, 60, 60), np.uint8)
    rois[:, 20:] = rois[:, 20:, :1] // 2  # noise above, an even texture below
    names = tuple(map(str, range(knees)))
    graded = GradedKnees(rois, np.arange(knees) % 5, names, names)
    labels = torch.arange(5.0 * knees).view(knees, 5)
    return TrainingDataset(graded, TrainingPictures(view, augmentation(changes)), labels)


def by_torchvision(view, changes, roi):
    """Change one ROI (1, S, S) with torchvision's transforms, draws and all."""
    a = augmentation(changes)
    right, down = torch.randint(-a.jitter_px, a.jitter_px + 1, (2,)).tolist()
    if a.jpeg is not None and torch.rand(1) < 0.5:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(torch.randint(a.jpeg[0], a.jpeg[1] + 1, ()))]
        code = cv2.imencode(".jpg", roi[0].numpy(), quality)[1]
        roi = torch.from_numpy(cv2.imdecode(code, cv2.IMREAD_GRAYSCALE))[None]
    steps = [v2.ToDtype(torch.float32, scale=True)]
    if a.blur_px:
        width = 2 * math.ceil(3 * a.blur_px) + 1
        steps.append(v2.RandomApply([v2.GaussianBlur(width, (1e-3, a.blur_px))]))
    steps.append(v2.ColorJitter(a.brightness, a.contrast))
    linear = v2.InterpolationMode.BILINEAR
    if a.scale == (1.0, 1.0):
        steps.append(v2.RandomRotation(a.rotation_deg, linear))
    else:
        steps.append(v2.RandomAffine(a.rotation_deg, scale=a.scale, interpolation=linear))
    changed = v2.functional.adjust_gamma(v2.Compose(steps)(roi), float(torch.empty(()).uniform_(*a.gamma)))
    return view.cut(torch.roll(changed, (-down, -right), (-2, -1)))  # what comes round lies in the rim


def reference(view, changes, seed):
    plain = dataset(view, changes)
    rois, items, after = torch.from_numpy(plain.knees.rois), [], []
    for index in range(len(plain)):
        torch.manual_seed(100 * seed + index)
        items.append(by_torchvision(view, changes, rois[index][None]))
        after.append(torch.rand(()))
    return [torch.stack(pictures) for pictures in zip(*items, strict=True)], torch.stack(after)


@pytest.mark.parametrize("view", VIEWS, ids=["patches", "joint", "crop"])
@pytest.mark.parametrize("changes", [{}, *EACH, *WITHOUT, CHANGES], ids=lambda changes: "-".join(changes))
def test_batches_and_single_knees_are_those_of_torchvision_with_its_draws(view, changes):
    """
    To 1e-3 of the grey range: places are rounded in another order, to 1e-5 pixels, and so are greys, to 1e-7.

    A power of .5 makes 3e-4 of 1e-7 at black; on the mean it is a hundredth of that.
    """
    plain = dataset(view, changes)
    stored, finish = plain.deferred()
    for seed in range(3):
        (*expected, _, _), after = batch_of(plain, seed)
        batch, after_batch = batch_of(stored, seed)
        assert batch[0].dtype == torch.uint8
        *made, labels, grades = finish(batch)
        theirs, after_theirs = reference(view, changes, seed)
        torch.testing.assert_close(after, after_theirs, rtol=0, atol=0)  # all drew the same
        torch.testing.assert_close(after_batch, after_theirs, rtol=0, atol=0)
        assert torch.equal(labels, plain.labels)
        assert grades.tolist() == plain.knees.grades.tolist()
        for one, many, their in zip(expected, made, theirs, strict=True):
            assert one.shape == many.shape == their.shape == (KNEES, 1, *view.size)
            for found in (one, many):
                torch.testing.assert_close(found, their, rtol=0, atol=1e-3)
                assert (found - their).abs().mean() < 1e-5
    changed = not torch.equal(
        torch.cat(made), torch.cat(plain_pictures(view, torch.from_numpy(plain.knees.rois)[:, None]))
    )
    assert changed == bool(changes)


def drawn(count, **given):
    """Draws of a batch that change nothing but what is given."""
    still = Draws(0, 0, 0.0, True, 1.0, 1.0, 0.0, 1.0, 1.0)._asdict()
    return default_collate(
        [Draws(**(still | {name: values[i] for name, values in given.items()})) for i in range(count)]
    )


def test_given_draws_make_what_numpy_and_scipy_make_of_them():
    """Every knee its own: blur apart, every change at once."""
    roi = np.random.default_rng(1).integers(0, 256, (60, 60), np.uint8)
    rois = torch.from_numpy(np.stack([roi] * 3))[:, None]
    given = {
        "right": [3, 0, -5],
        "down": [-2, 4, 5],
        "brighten_first": [True, False, True],
        "brightness": [1.4, 1.3, 0.7],
        "contrast": [0.6, 1.5, 1.2],
        "turn_deg": [10.0, -24.0, 90.0],
        "scale": [1.2, 0.7, 1.0],
        "gamma": [0.5, 1.5, 1.0],
    }
    (made,) = TrainingPictures(VIEWS[2], augmentation(CHANGES)).make(rois, drawn(3, **given))
    y, x = np.mgrid[:50, :50] + 5 - 29.5
    for i, found in enumerate(made[:, 0].numpy()):
        value = {name: values[i] for name, values in given.items()}
        greys = roi / 255
        for kind in ("brightness", "contrast") if value["brighten_first"] else ("contrast", "brightness"):
            around = greys.mean() if kind == "contrast" else 0
            greys = np.clip(value[kind] * (greys - around) + around, 0, 1)
        turn = np.deg2rad(value["turn_deg"])
        at_x, at_y = x + value["right"], y + value["down"]
        from_x = (np.cos(turn) * at_x + np.sin(turn) * at_y) / value["scale"] + 29.5
        from_y = (np.cos(turn) * at_y - np.sin(turn) * at_x) / value["scale"] + 29.5
        picture, white = (
            map_coordinates(each, [from_y, from_x], order=1, mode="grid-constant")
            for each in (greys, np.ones_like(greys))
        )
        np.testing.assert_allclose(found, (picture * white) ** value["gamma"], atol=1e-3)
    # what lay above the middle lies to the right of it after a quarter turn clockwise
    (still,) = TrainingPictures(VIEWS[2], augmentation({"scale": (1.0, 1.1)})).make(rois[:1], drawn(1, turn_deg=[90.0]))
    np.testing.assert_allclose(still[0, 0], np.rot90(roi, -1)[5:55, 5:55] / 255, atol=1e-4)


@pytest.mark.parametrize("view", VIEWS[:2], ids=["patches", "joint"])
def test_a_knee_is_changed_by_its_own_draws_whoever_is_in_the_batch(view):
    """So that several processes share a batch as they share its knees."""
    stored, finish = dataset(view, CHANGES).deferred()
    (rois, draws, *rest), _ = batch_of(stored, 0)
    whole = finish([rois, draws, *rest])
    for rows in (slice(0, None, 2), slice(1, None, 2), slice(7, 8)):
        part = finish([rois[rows], Draws(*(each[rows] for each in draws)), *(each[rows] for each in rest)])
        for found, expected in zip(part, whole, strict=True):
            torch.testing.assert_close(found, expected[rows], rtol=0, atol=1e-6)


@pytest.mark.parametrize("view", VIEWS[:2], ids=["patches", "joint"])
def test_one_roi_many_times_in_a_batch_is_changed_in_as_many_ways(view):
    same = dataset(view, CHANGES)
    same.knees.rois[:] = same.knees.rois[0]
    stored, finish = same.deferred()
    batch, _ = batch_of(stored, 0)
    assert {name for name, each in batch[1]._asdict().items() if len(each.unique()) == 1} == set()
    for pictures in finish(batch)[:-2]:
        assert len(pictures.flatten(1).unique(dim=0)) == KNEES


def test_the_batch_it_is_given_is_not_changed():
    stored, finish = dataset(VIEWS[0], CHANGES).deferred()
    batch, _ = batch_of(stored, 0)
    before = default_collate([batch])
    finish(batch)
    torch.testing.assert_close(default_collate([batch]), before, rtol=0, atol=0)


def test_grading_pictures_can_be_left_to_the_device():
    plain = dataset(VIEWS[0], CHANGES)
    for where, on_cpu, on_cuda in (("auto", False, True), ("loader", False, False), ("device", True, True)):
        config = TrainingConfig(monitor="m", mode="min", augment_on=where)
        for device, expected in (("cpu", on_cpu), ("cuda", on_cuda)):
            source, finish = deferred(config, plain, torch.device(device))
            assert (finish is not None) == (source is not plain) == expected


def test_nothing_is_made_by_what_a_gpu_may_round_to_ten_bits():
    stored, finish = dataset(VIEWS[0], CHANGES).deferred()
    batch, _ = batch_of(stored, 0)
    with Called() as called:
        finish(batch)
    assert "grid_sampler_2d" in called.names
    assert not called.on_ten_bits()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_makes_the_same_pictures():
    for changes in ({}, CHANGES):
        stored, finish = dataset(VIEWS[0], changes).deferred()
        (rois, draws, *rest), _ = batch_of(stored, 1)
        there = finish([rois.cuda(), Draws(*(each.cuda() for each in draws)), *rest])
        for found, expected in zip(there, finish([rois, draws, *rest]), strict=True):
            torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-3)
