"""The face that all kinds of networks show: settings by kind, views of the ROI, ensembles of one kind."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from deepknee.ensemble import Grader
from deepknee.intensity import Intensity
from deepknee.member import GraderSettings, Member
from deepknee.networks import AntonySettings, JointSettings, ModelSettings, ResNetSettings, SiameseSettings, build_net
from deepknee.patches import PatchGeometry
from deepknee.views import Compartments, Window, plain_pictures
from deepknee.weights import WeightsError, find_weights
from kneel.engine.snapshot import save_snapshot

GEOMETRY = PatchGeometry(roi_mm=70.0, roi_px=140, crop=120, patch=56, top=30)
KINDS = [
    SiameseSettings(width=2),
    JointSettings(kind="resnet18", width=2, input_px=64),
    ResNetSettings(kind="resnet34", input_px=64),
    AntonySettings(kind="antony"),
]
ADAPTER: TypeAdapter = TypeAdapter(ModelSettings)


def member(model, seed=0, **settings) -> Member:
    torch.manual_seed(seed)
    how = GraderSettings(model=model, geometry=GEOMETRY, intensity=Intensity(mean=0.4, std=0.2), **settings)
    return Member(build_net(model).eval(), how)


def rois(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 140, 140), np.uint8)


@pytest.mark.parametrize("model", KINDS, ids=lambda model: model.kind)
def test_settings_are_told_apart_by_their_kind(model):
    assert ADAPTER.validate_json(model.model_dump_json()) == model
    assert ADAPTER.validate_python(model) is model


def test_without_a_kind_it_is_the_siamese_network():
    """As in snapshots and experiments from before there were others."""
    assert ADAPTER.validate_json('{"width": 3, "dropout": 0.0}') == SiameseSettings(width=3, dropout=0.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"kind": "vgg"}', "kind must be one of siamese, resnet18, resnet34, antony"),
        ('{"kind": "resnet34", "width": 3}', "width"),
        ('{"kind": "resnet18", "width": 3}', "multiple of 2"),
        ('{"kind": "antony", "classification": 0.0}', "greater than 0"),
    ],
)
def test_keys_that_are_not_of_the_kind_are_refused(text, words):
    with pytest.raises(ValidationError, match=words):
        ADAPTER.validate_json(text)


@pytest.mark.parametrize("view", [Compartments(GEOMETRY), Window.crop(GEOMETRY), Window.around_joint(GEOMETRY, 2 / 3)])
def test_cut_and_merge_are_inverses(view):
    rng = np.random.default_rng(1)
    count = len(view.cut(rois(1)))
    pictures = [rng.random((3, *view.size)) + 1 for _ in range(count)]
    merged = view.merge(*pictures)
    assert np.count_nonzero(merged) == sum(map(np.size, pictures))
    for found, expected in zip(view.cut(merged), pictures, strict=True):
        np.testing.assert_array_equal(found, expected)
    merged_tensor = view.merge(*map(torch.from_numpy, pictures))
    np.testing.assert_array_equal(merged_tensor.numpy(), merged)


def test_windows_by_hand():
    roi = rois(1)
    np.testing.assert_array_equal(Window.crop(GEOMETRY).cut(roi)[0], roi[:, 10:130, 10:130])
    # 80 of 120 rows, the joint 5 mm = 10 pixels below the middle of the ROI
    low = GEOMETRY.model_copy(update={"joint_mm": (0.0, 5.0)})
    np.testing.assert_array_equal(Window.around_joint(low, 2 / 3).cut(roi)[0], roi[:, 40:120, 10:130])
    # no further than the crop reaches
    lower = GEOMETRY.model_copy(update={"joint_mm": (0.0, 30.0)})
    np.testing.assert_array_equal(Window.around_joint(lower, 2 / 3).cut(roi)[0], roi[:, 50:130, 10:130])


def test_the_band_of_2018_is_200_by_300_around_the_middle():
    view = AntonySettings(kind="antony").view(PatchGeometry())
    assert (view.size, view.top) == ((200, 300), 75)


def test_windows_refuse():
    view = Window.crop(GEOMETRY)
    with pytest.raises(ValueError, match="must end in 140 x 140"):
        view.cut(np.zeros((1, 140, 139)))
    with pytest.raises(ValueError, match="must be one that ends in 120 x 120"):
        view.merge(np.zeros((120, 119)))


@pytest.mark.parametrize("model", KINDS, ids=lambda model: model.kind)
@pytest.mark.parametrize("attention", ["gradcam", "hirescam"])
def test_every_kind_grades_and_attends_on_the_grid_of_the_roi(model, attention):
    """The grades are those of the network itself; attention is nowhere but in what it sees."""
    parts = [member(model, seed) for seed in (0, 1)]
    grade = Grader(parts, attention=attention).predict(rois(2))
    view = model.view(GEOMETRY)
    pictures = [(picture - 0.4) / 0.2 for picture in plain_pictures(view, torch.from_numpy(rois(2)[:, None]))]
    with torch.no_grad():
        expected = sum(part.net(*pictures)[:, :5].softmax(1) for part in parts) / 2
    np.testing.assert_allclose(grade.probabilities, expected, atol=1e-5)
    assert grade.attention.shape == (2, 140, 140)
    seen = view.merge(*(np.ones(view.size, bool) for _ in pictures))
    assert not grade.attention[:, ~seen].any()
    assert grade.attention.max() == pytest.approx(1)


@pytest.mark.parametrize("model", KINDS, ids=lambda model: model.kind)
@pytest.mark.parametrize("attention", ["gradcam", "hirescam", "integrated"])
def test_networks_read_from_snapshots_are_folded_and_answer_the_same(tmp_path, model, attention):
    part, path = member(model), tmp_path / "x.safetensors"
    with torch.no_grad():  # statistics other than those of an untrained network
        part.net.train()(*part.pictures(torch.from_numpy(rois(4))[:, None]))
    part.net.eval()
    save_snapshot(path, part.net.state_dict(), {"task": "kl", **part.settings.model_dump(mode="json")})
    plain = Grader([part], attention=attention).predict(rois(2))
    read = Grader.from_snapshots([path], attention=attention)
    left = [isinstance(layer, nn.BatchNorm2d) for layer in read.members[0].net.modules()]
    assert not any(left) or model.kind == "resnet34"  # torchvision's blocks are no sequences
    found = read.predict(rois(2))
    np.testing.assert_allclose(found.probabilities, plain.probabilities, atol=1e-6)
    np.testing.assert_allclose(found.attention, plain.attention, atol=1e-2)  # of at most 1


@pytest.mark.parametrize("attention", ["gradcam", "hirescam", "integrated"])
def test_kinds_are_mixed_on_the_grid_of_the_roi(attention):
    """The mean of their probabilities; attention is wherever one of them looks."""
    parts = [member(model, seed) for seed, model in enumerate(KINDS)]
    grader = Grader(parts, attention=attention)
    grade = grader.predict(rois(2))
    alone = [Grader([part]).predict(rois(2)).probabilities for part in parts]
    np.testing.assert_allclose(grade.members, alone, atol=1e-6)
    np.testing.assert_allclose(grade.probabilities, np.mean(alone, axis=0), atol=1e-6)
    np.testing.assert_array_equal(grader.seen, np.any([Grader([part]).seen for part in parts], axis=0))
    assert grader.seen.sum() > Grader(parts[:1]).seen.sum()
    assert not grade.attention[:, ~grader.seen].any()
    np.testing.assert_allclose(grade.attention.max((1, 2)), 1)


def test_pixels_seen_by_hand():
    siamese, joint = (Grader([member(model)]).seen for model in KINDS[:2])
    patches, band = np.zeros((140, 140), bool), np.zeros((140, 140), bool)
    patches[40:96, 10:66] = patches[40:96, 74:130] = True
    band[34:106, 10:130] = True  # 0.6 of 120 columns are 72 rows
    np.testing.assert_array_equal(siamese, patches)
    np.testing.assert_array_equal(joint, band)


def test_modes_are_not_mixed():
    siamese, antony = member(KINDS[0]), member(KINDS[-1])
    with pytest.raises(ValueError, match="different modes"):
        Grader([siamese, member(KINDS[0], mode="2018")])
    with pytest.raises(ValueError, match="that is of Siamese networks, and these are siamese, antony"):
        Grader([siamese, antony], mode="2018")


def test_the_mode_is_that_of_the_settings_unless_another_is_asked_for():
    part = member(KINDS[0], mode="2018")
    assert Grader([part]).mode == "2018"
    assert Grader([part], mode="mean").mode == "mean"


def put(folder: Path, name: str, *, ensemble="siamese", fold=0, number=0.0, **settings) -> None:
    meta = {"task": "kl", "name": name, "fold": fold, "experiment": {"ensemble": ensemble, **settings}}
    save_snapshot(folder / f"{name}_{fold}_{number:g}.safetensors", {"w": torch.full((1,), number)}, meta)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    for task in ("lc", "hc"):
        save_snapshot(tmp_path / f"{task}.safetensors", {"w": torch.zeros(1)}, {"task": task, "name": task})
    return tmp_path


def test_trainings_of_one_ensemble_are_read_together(weights):
    for number, name in enumerate(("seed_84", "seed_21", "seed_42")):
        put(weights, name, number=number)
    found = find_weights(weights)
    assert found.describe()["kl"]["experiment"] == "siamese"
    assert [path.stem for path in found.paths("kl")] == ["seed_21_0_1", "seed_42_0_2", "seed_84_0_0"]


def test_an_ensemble_may_have_members_of_several_kinds(weights):
    put(weights, "a", geometry=3, model={"kind": "siamese"}, transfer="c")
    put(weights, "b", geometry=3, model={"kind": "resnet18"}, transfer=None)
    assert len(find_weights(weights).paths("kl")) == 2


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"name": "b", "geometry": 3}, "other settings"),
        ({"name": "a", "fold": 1, "width": 3}, "other settings"),
        ({"name": "b", "ensemble": None}, "two experiments for KL grades"),
        ({"name": "a"}, "are both fold 0 of a of siamese"),
    ],
)
def test_what_is_no_ensemble_is_still_refused(weights, second, words):
    put(weights, "a")
    put(weights, **{"number": 1.0, **second})
    with pytest.raises(WeightsError, match=words):
        find_weights(weights)


def test_an_old_snapshot_without_kind_and_mode_still_loads(tmp_path):
    part = member(KINDS[0])
    meta = json.loads(part.settings.model_dump_json())
    del meta["model"]["kind"], meta["mode"]
    save_snapshot(tmp_path / "old.safetensors", part.net.state_dict(), {"task": "kl", **meta})
    found = Grader.from_snapshots([tmp_path / "old.safetensors"])
    assert found.mode == "mean"
    plain = Grader([part]).predict(rois(1)).probabilities
    np.testing.assert_allclose(found.predict(rois(1)).probabilities, plain, atol=1e-6)
