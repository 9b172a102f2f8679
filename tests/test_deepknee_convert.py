"""Weights of DeepKnee's authors: the same function after conversion, and a word for every file that does not fit."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from doors import script

from deepknee.convert import ConversionError, read_mean_std, read_network
from deepknee.ensemble import Grader
from deepknee.member import load_member
from deepknee.model import KneeNet
from deepknee.weights import WeightsError, find_weights
from kneel.engine.snapshot import load_snapshot, save_snapshot

ROOT = Path(__file__).resolve().parents[1]
PARITY = ROOT.parent / "shared" / "parity"


def command(monkeypatch, *arguments) -> int:
    """The command, in this process."""
    monkeypatch.setattr(sys, "argv", ["convert_deepknee.py", *map(str, arguments)])
    return script("convert_deepknee").main()


def theirs(path: Path, width: int = 3, seed: int = 0, change=None) -> tuple[Path, KneeNet]:
    torch.manual_seed(seed)
    net = KneeNet(width=width).eval()
    state = {f"module.{name}": value for name, value in net.state_dict().items()}
    if change is not None:
        change(state)
    torch.save(state, path)
    return path, net


@pytest.fixture
def mean_std(tmp_path: Path) -> Path:
    np.save(tmp_path / "mean_std.npy", np.array([[0.5], [0.2]]))
    return tmp_path / "mean_std.npy"


def with_finders(folder: Path) -> Path:
    """The other stages of a reader beside the grading networks."""
    for task in ("lc", "hc"):
        save_snapshot(folder / f"{task}.safetensors", {"w": torch.zeros(1)}, {"task": task, "name": task})
    return folder


def test_the_command_makes_the_authors_ensemble(tmp_path, monkeypatch):
    """Logits, patches, probabilities and heat maps of the original, with nothing but the snapshots."""
    if not PARITY.is_dir():
        pytest.skip("the authors' outputs are not beside this checkout")
    files = [PARITY / f"deepknee_seed_{seed}.pth" for seed in range(3)]
    out, mean_std = tmp_path / "out", PARITY / "deepknee_mean_std.npy"
    assert command(monkeypatch, "--weights", *files, "--mean-std", mean_std, "--out", out) == 0
    paths = find_weights(with_finders(out)).paths("kl")
    assert [path.stem for path in paths] == [file.stem for file in files]
    nets = np.load(PARITY / "deepknee_nets.npz")
    for number, path in enumerate(paths):
        with torch.no_grad():
            logits = load_member(path).net(torch.from_numpy(nets["l"]), torch.from_numpy(nets["m"]))
        np.testing.assert_allclose(logits.numpy(), nets[f"logits_{number}"], atol=1e-5)
    grader, expected = Grader.from_snapshots(paths), np.load(PARITY / "deepknee_predict.npz")
    assert grader.mode == "2018"
    for side, roi in (("right", expected["img350"]), ("left", expected["img350"][:, ::-1])):
        patches = grader.members[0].pictures(torch.from_numpy(np.ascontiguousarray(roi)[None, None]))
        for found, name in zip(patches, "lm", strict=True):
            np.testing.assert_allclose(found, expected[f"{side}_{name}"], atol=1e-4)
        grade = grader.predict(roi[None])
        np.testing.assert_allclose(grade.probabilities[0], expected[f"{side}_probs"], atol=1e-4)
        np.testing.assert_allclose(grade.attention[0, 25:325, 25:325], expected[f"{side}_heatmap"], atol=1e-4)


def test_any_number_of_networks_of_any_width(tmp_path, mean_std, monkeypatch):
    made = [theirs(tmp_path / f"net_{width}.pth", width, seed=width) for width in (2, 3, 4, 5)]
    out = tmp_path / "out"
    files = [path for path, _ in made]
    assert command(monkeypatch, "--weights", *files, "--mean-std", mean_std, "--out", out, "--ensemble", "x") == 0
    found = find_weights(with_finders(out))
    assert found.describe()["kl"]["experiment"] == "x"
    grader = Grader.from_snapshots(found.paths("kl"))
    assert [member.settings.model.width for member in grader.members] == [2, 3, 4, 5]
    roi = np.random.default_rng(0).integers(0, 256, (1, 350, 350), np.uint8)
    crop = torch.from_numpy((roi[:, 25:325, 25:325] / 255 - 0.5) / 0.2).float()
    lateral, medial = crop[:, None, 100:228, :128], crop[:, None, 100:228, 172:].flip(-1)
    with torch.no_grad():
        logits = sum(net(lateral, medial).double() for _, net in made)
    np.testing.assert_allclose(grader.predict(roi).probabilities, logits.softmax(1), atol=1e-5)
    _, meta = load_snapshot(out / "net_4.safetensors")
    assert meta["converted_from"]["file"] == "net_4.pth"


def test_two_ensembles_are_not_one(tmp_path, mean_std, monkeypatch):
    for name in ("a", "b"):
        path, _ = theirs(tmp_path / f"{name}.pth", seed=ord(name))
        where = ("--mean-std", mean_std, "--out", tmp_path / "out", "--ensemble", name)
        assert command(monkeypatch, "--weights", path, *where) == 0
    with pytest.raises(WeightsError, match=r"two experiments for KL grades \(kl\): a .* and b "):
        find_weights(with_finders(tmp_path / "out"))


def test_the_command_refuses_in_one_line_before_it_writes(tmp_path, mean_std, monkeypatch, capsys):
    good, _ = theirs(tmp_path / "net.pth")
    (tmp_path / "other").mkdir()
    same, _ = theirs(tmp_path / "other" / "net.pth", seed=1)
    for files, words in (((good, same), "two files would become"), ((good, tmp_path / "no.pth"), "cannot be read")):
        assert command(monkeypatch, "--weights", *files, "--mean-std", mean_std, "--out", tmp_path / "out") == 2
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("module.branch.block1.0.0.weight"), r"net\.pth: no key 'branch\.block1\.0\.0\.weight'"),
        (lambda s: s.pop("module.branch.block2.0.1.bias"), r"no key 'branch\.block2\.0\.1\.bias'; .*of width 3"),
        (lambda s: s.update(extra=torch.zeros(1)), "unknown key 'extra'"),
        (lambda s: s.update({"module.final.1.weight": torch.zeros(4, 24)}), r"final\.1\.weight: 4 rows, needed 5"),
        (lambda s: s.update({"module.final.1.weight": torch.zeros(5)}), r"shape \(5,\), needed 2 axes"),
        (lambda s: s.update({"module.final.1.weight": torch.zeros(5, 9)}), r"shape \(5, 9\), needed \(5, 24\)"),
        (lambda s: s["module.final.1.bias"].fill_(torch.nan), r"final\.1\.bias: holds values that are not finite"),
        (lambda s: s.clear(), "must be a state dict"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_file_and_key(tmp_path, mean_std, change, words):
    path, _ = theirs(tmp_path / "net.pth", change=change)
    with pytest.raises(ConversionError, match=words) as error:
        read_network(path, read_mean_std(mean_std))
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.array([140.0, 54.0]), r"must be on the \[0, 1\] scale"),
        (np.array([0.5, np.nan]), "must be on the"),
        (np.array([0.5, 0.2, 0.1]), "must be two numbers"),
        (np.array([{}], object), r"no plain \.npy file"),
    ],
)
def test_a_normalisation_that_cannot_be_theirs_is_refused(tmp_path, values, words):
    np.save(tmp_path / "mean_std.npy", values)
    with pytest.raises(ConversionError, match=words):
        read_mean_std(tmp_path / "mean_std.npy")
