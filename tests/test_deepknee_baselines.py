"""The two networks that the Siamese one is compared with."""

import logging
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from torchvision.models import resnet34

from deepknee import resnet
from deepknee.antony import AntonyNet, joint_loss
from deepknee.networks import AntonySettings, ResNetSettings
from deepknee.resnet import ResNet34
from kneel.engine.config import ConfigError

ROOT = Path(__file__).resolve().parents[1]


def test_antonys_layers():
    """Map sizes and parameters counted by hand from the table of the network."""
    net = AntonyNet().eval()
    (maps,) = net.features(torch.zeros(1, 1, 200, 300))
    assert maps.shape == (1, 96, 23, 35)
    assert net(torch.zeros(2, 1, 200, 300)).shape == (2, 6)
    convolutions = [(1, 32, 11), (32, 64, 3), (64, 64, 3), (64, 96, 3), (96, 96, 3)]
    expected = sum(i * o * k * k + o + 2 * o for i, o, k in convolutions)
    expected += 17952 * 512 + 512 + (512 + 1) * 6
    assert sum(each.numel() for each in net.parameters()) == expected


def test_antonys_logits_are_the_first_five_outputs():
    torch.manual_seed(0)
    net = AntonyNet().eval()
    picture = torch.randn(2, 1, 200, 300)
    with torch.no_grad():
        torch.testing.assert_close(net.judge(*net.features(picture)), net(picture)[:, :5])


def test_the_loss_compares_every_knee_with_its_own_grade():
    outputs = torch.zeros(3, 6)
    outputs[:, 5] = torch.tensor([0.0, 2.0, 4.0])
    grades = torch.tensor([0, 2, 3])
    expected = 0.5 * np.log(5) + 0.5 * (0 + 0 + 1) / 3
    assert float(joint_loss(outputs, grades)) == pytest.approx(expected)
    labels = functional.one_hot(grades, 5).float()
    one_head = AntonySettings(kind="antony", classification=1.0).loss(outputs, grades, labels)
    assert float(one_head) == pytest.approx(np.log(5))


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_the_loss_of_2018_compared_with_the_whole_batch():
    """(B, 1) against (B,): a head that is right about every knee still pays, and the mean grade is its optimum."""
    grades = torch.tensor([0, 4])
    right, mean = torch.tensor([[0.0], [4.0]]), torch.tensor([[2.0], [2.0]])

    def theirs(regressed):
        return float(functional.mse_loss(regressed, grades.float()))

    def ours(regressed):
        return float(joint_loss(torch.cat([torch.zeros(2, 5), regressed], 1), grades, 0.0))

    assert (theirs(right), theirs(mean)) == (8, 4)
    assert (ours(right), ours(mean)) == (0, 4)


def test_resnet_is_torchvisions():
    """Its weights under its names give its own feature maps, of the grey picture three times."""
    torch.manual_seed(0)
    theirs, ours = resnet34(weights=None).eval(), ResNet34(input_px=64).eval()
    state = {name: value for name, value in theirs.state_dict().items() if not name.startswith("fc.")}
    ours.body.load_state_dict(state)
    theirs.fc = torch.nn.Identity()
    picture = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        (maps,) = ours.features(picture)
        torch.testing.assert_close(maps.mean((-2, -1)), theirs(picture.expand(-1, 3, -1, -1)))
        assert ours(picture).shape == (2, 5)
        assert ours(torch.randn(1, 1, 90, 90)).shape == (1, 5)


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return resnet.cached_weights()


def test_imagenet_weights_in_the_cache_are_taken_and_others_are_not_fetched(no_cache, caplog):
    caplog.set_level(logging.INFO)
    net = ResNet34(input_px=64)
    before = net.body.conv1.weight.clone()
    settings = ResNetSettings(kind="resnet34")
    assert settings.start(net) == "random"
    assert "starts from random weights" in caplog.text
    torch.testing.assert_close(net.body.conv1.weight, before)
    state = resnet34(weights=None).state_dict()
    no_cache.parent.mkdir(parents=True)
    # an old file, without the counters of batch norms
    torch.save({key: value for key, value in state.items() if "num_batches" not in key}, no_cache)
    assert settings.start(net).startswith(f"{no_cache.name}, sha256 ")
    torch.testing.assert_close(net.body.conv1.weight, state["conv1.weight"])
    torch.testing.assert_close(net.body.layer4[2].bn2.running_var, state["layer4.2.bn2.running_var"])


def test_a_file_that_is_named_must_be_there_and_fit(no_cache, tmp_path):
    net = ResNet34(input_px=64)
    with pytest.raises(ConfigError, match=r"model\.weights: .*no\.pth: cannot be read"):
        ResNetSettings(kind="resnet34", weights=str(tmp_path / "no.pth")).start(net)
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "odd.pth")
    with pytest.raises(ConfigError, match=r"odd\.pth: conv1\.weight: shape \(1,\), needed \(64, 3, 7, 7\)"):
        ResNetSettings(kind="resnet34", weights=str(tmp_path / "odd.pth")).start(net)


@pytest.mark.parametrize("name", ["own", "resnet", "antony"])
def test_doors_are_bash_and_name_files_that_are_there(name):
    door = ROOT / "scripts" / f"run_experiments_{name}.sh"
    assert subprocess.run(["bash", "-n", door], check=False).returncode == 0
    words = door.read_text().split('EXPERIMENTS="')[1].split('"')[0].split(":")
    assert words
    assert all(Path(word.replace("$here", str(ROOT))).is_file() for word in words)
