"""Weights of KNEEL's authors: the same function after conversion, and a word for every file that does not fit."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from deepknee.weights import find_weights
from kneel.codec import SoftArgmax
from kneel.convert import ConversionError, build, describe, read_fold, read_mean_std
from kneel.engine.config import load_config
from kneel.engine.snapshot import load_snapshot, save_snapshot
from kneel.experiment import LandmarkExperiment
from kneel.hourglass import HourglassNet
from kneel.network import build_network
from kneel.phantom.cohort import write_cohort
from kneel.samples import load_samples
from kneel.stage import Stage

ROOT = Path(__file__).resolve().parents[1]
PARITY = ROOT.parent / "shared" / "parity"
needs_parity = pytest.mark.skipif(not PARITY.exists(), reason="tensors of the original networks are not here")
MEAN, STD = 40.0, 60.0  # on the 0..255 scale


def experiment(task="hc", **model):
    return LandmarkExperiment.model_validate(
        {
            "task": task,
            "data": {"source": "kneel_csv", "annotations": "table.csv", "images": "pictures"},
            "roi": {"spacing_mm": 0.3, "size": (90, 90)},
            "model": {"width": 8, "depth": 2} | model,
            "training": {"monitor": "error_mm", "mode": "min"},
        }
    )


def authors_file(folder, *, landmarks=16, change=None, name="kneel_fold_1.pth", prefix="", **model):
    """A file as they write it, of a small network with random weights."""
    torch.manual_seed(0)
    net = HourglassNet(landmarks=landmarks, channels=3, width=8, depth=2, align_corners=True, **model)
    state = {prefix + key: value for key, value in net.state_dict().items()}
    if change is not None:
        change(state)
    torch.save({"model": state, "optimizer": {}, "loss": {}}, folder / name)
    return folder / name, net.eval()


@pytest.fixture
def mean_std(tmp_path):
    np.save(tmp_path / "mean_std.npy", np.array([[MEAN] * 3, [STD] * 3], np.float32))
    return tmp_path / "mean_std.npy"


@pytest.mark.parametrize(
    ("task", "model"), [("hc", {}), ("hc", {"block": "regular"}), ("hc", {"se_ratio": 4}), ("lc", {"block": "regular"})]
)
@pytest.mark.parametrize("size", [(90, 90), (70, 101)])
@torch.no_grad()
def test_a_converted_network_answers_as_theirs_did(tmp_path, mean_std, task, model, size):
    """Their way: grey three times, 0..255 scale, the picture as it is, the share times the width."""
    path, theirs = authors_file(tmp_path, landmarks=1 if task == "lc" else 16, prefix="module.", **model)
    net, _ = build(path, experiment(task, **model), read_mean_std(mean_std))
    picture = torch.rand(1, 1, *size)
    heatmaps = theirs(((255 * picture - MEAN) / STD).expand(-1, 3, -1, -1))
    expected = SoftArgmax("corner").decode(heatmaps) * torch.tensor(size[::-1])
    torch.testing.assert_close(net(picture).points, expected, rtol=0, atol=1e-4)


@needs_parity
@pytest.mark.slow
def test_the_command_makes_a_stage_of_the_authors_fold(tmp_path, mean_std):
    yaml = tmp_path / "kneel_hc.yaml"
    yaml.write_text(f"base: {ROOT}/hc_experiments/multiscale_wing_mixup_no_wd_cutout10.yaml\n")
    fold = PARITY / "kneel_hc_fold_0.pth"
    done = run("--fold", fold, "--experiment", yaml, "--mean-std", mean_std, "--out", tmp_path / "w", "--spread-mm", 2)
    assert done.returncode == 0, done.stderr
    snapshot = tmp_path / "w" / "kneel_hc_fold_0.safetensors"
    weights, meta = load_snapshot(snapshot)
    net = build_network(meta["network"]).eval()
    net.load_state_dict(weights)
    tensors = {name: torch.from_numpy(value) for name, value in np.load(PARITY / "kneel_hc_fold_0.npz").items()}
    with torch.no_grad():
        for x, y in (("x", "y"), ("x_nonsquare", "y_nonsquare")):
            torch.testing.assert_close(net.codec.decode(net.net(tensors[x])), tensors[y], rtol=0, atol=1e-5)
    assert (net.mean, net.std) == (pytest.approx(MEAN / 255), pytest.approx(STD / 255))
    stage = Stage.from_snapshots([snapshot], "hc", device=torch.device("cpu"))
    assert stage.typical_spread_mm == 2
    assert 70 < np.ptp(stage.shape.points[:, 0]) < 90  # the tibia is some 78 mm wide
    assert 1 < stage.shape.residual < 5
    for task in ("lc", "kl"):  # the other stages of a reader
        save_snapshot(tmp_path / "w" / f"{task}.safetensors", {}, {"task": task, "name": task})
    assert find_weights(tmp_path / "w").paths("hc") == [snapshot]
    again = run("--fold", fold, fold, "--experiment", yaml, "--mean-std", mean_std, "--out", tmp_path, "--spread-mm", 2)
    assert again.returncode == 2
    assert "two files of fold 0" in again.stderr


@pytest.mark.slow
def test_the_command_measures_the_heat_maps_on_the_pictures_of_the_experiment(tmp_path, mean_std):
    write_cohort(tmp_path / "train", 2, seed=1, spacing_mm=0.5, implant_fraction=0, single_knee_fraction=0)
    yaml = tmp_path / "small.yaml"
    yaml.write_text(
        "task: hc\ndata: {source: phantom}\nroi: {spacing_mm: 2.0, size: [70, 70]}\nmodel: {width: 8, depth: 2}\n"
        "training: {monitor: error_mm, mode: min}\n"
    )
    fold, theirs = authors_file(tmp_path)
    arguments = ("--experiment", yaml, "--mean-std", mean_std, "--out", tmp_path, "--data_root", tmp_path)
    done = run("--fold", fold, *arguments)
    assert done.returncode == 0, done.stderr
    _, meta = load_snapshot(tmp_path / "small_fold_1.safetensors")
    assert meta["spread_from"] == "measured on 4 pictures of the experiment"
    experiment = load_config(yaml, LandmarkExperiment)
    samples = load_samples(tmp_path, experiment.data, "train", "hc", spacing_mm=2.0, margin=0.0)
    pictures = np.stack([sample.picture.astype(np.float32) for sample in samples])
    with torch.no_grad():
        heatmaps = theirs(torch.from_numpy((pictures - MEAN) / STD)[:, None].expand(-1, 3, -1, -1))
    expected = float(SoftArgmax("corner").spread(heatmaps, (70, 70)).mean()) * 2.0
    assert meta["metrics"] == {"spread_mm": pytest.approx(expected, rel=1e-4)}


def run(*arguments):
    command = [sys.executable, ROOT / "scripts" / "convert_kneel.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("task", ["lc", "hc"])
def test_what_is_described_makes_a_stage_and_claims_no_error(tmp_path, mean_std, task):
    path, _ = authors_file(tmp_path, landmarks=1 if task == "lc" else 16)
    net, network = build(path, experiment(task), read_mean_std(mean_std))
    meta = describe(path, experiment(task), network, name="x", spread_mm=3.0, spread_from="stated", shape=None)
    assert (meta["fold"], meta["metrics"], "split" in meta) == (1, {"spread_mm": 3.0}, False)
    assert meta["experiment"]["model"]["channels"] == 3
    save_snapshot(tmp_path / "x.safetensors", net.state_dict(), meta)
    stage = Stage.from_snapshots([tmp_path / "x.safetensors"], task, device=torch.device("cpu"))
    assert stage.size == (90, 90)
    unnamed, _ = authors_file(tmp_path, landmarks=1 if task == "lc" else 16, name="weights.pth")
    with pytest.raises(ConversionError, match=r"weights\.pth: the name must say the fold"):
        describe(unnamed, experiment(task), network, name="x", spread_mm=3.0, spread_from="stated", shape=None)


def drop(name):
    return lambda state: state.pop(name)


@pytest.mark.parametrize(
    ("change", "model", "words"),
    [
        (
            drop("hourglass.lower1.scale1.0.weight"),
            {},
            r"kneel_fold_1\.pth: model: no key 'hourglass\.lower1\.scale1\.0",
        ),
        (lambda s: s.update(extra=torch.zeros(1)), {}, r"kneel_fold_1\.pth: model: unknown key 'extra'"),
        (None, {"width": 12}, r"model\.layer1\.0\.weight: shape \(8, 3, 7, 7\), needed \(12, 3, 7, 7\)"),
        (None, {"se_ratio": 4}, r"no key 'layer1\.3\.se_block\.scorer\.1\.weight'.*se_ratio 4"),
        (None, {"block": "regular"}, r"no key 'layer1\.3\.bottleneck"),
        (
            lambda s: s["layer1.0.bias"].fill_(torch.nan),
            {},
            r"model\.layer1\.0\.bias: holds values that are not finite",
        ),
    ],
)
def test_a_fold_that_does_not_fit_is_refused_by_file_and_key(tmp_path, change, model, words):
    path, _ = authors_file(tmp_path, change=change)
    with pytest.raises(ConversionError, match=words):
        build(path, experiment(**model), (0.2, 0.2))


class Session:
    """Stands for what a pickled session may hold: opening it would run something."""

    def __reduce__(self):
        return print, ("code of the file was run",)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda p: p.write_bytes(b"not a network"), "no file of plain tensors"),
        (lambda p: p.write_bytes(pickle.dumps({"model": Session()})), "no file of plain tensors"),
        (lambda p: torch.save({"model": Session()}, p), "no file of plain tensors"),
        (lambda p: torch.save({"weights": {}}, p), "no key 'model'; found weights"),
        (lambda p: torch.save(torch.zeros(3), p), "no key 'model'; found Tensor"),
        (lambda p: torch.save({"model": {"a": 1}}, p), "must be a state dict"),
        (lambda p: None, "cannot be read: No such file"),
    ],
    ids=["text", "pickle", "session", "no model", "tensor", "no tensors", "missing"],
)
def test_a_file_that_is_no_fold_is_refused_and_never_run(tmp_path, capsys, write, words):
    path = tmp_path / "fold_0.pth"
    write(path)
    with pytest.raises(ConversionError, match=words) as error:
        read_fold(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert "was run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.array([[0.2] * 3, [0.3] * 3]), r"must be on the 0\.\.255 scale"),
        (np.array([[40.0, 50, 60], [60.0, 60, 60]]), "the channels differ"),
        (np.array([40.0, 60.0]), r"shape \(2,\): must be 2 rows"),
        (np.array([[np.nan] * 3, [60.0] * 3]), "must be 2 rows"),
        (np.array([{"mean": 1}], object), r"no plain \.npy file"),
    ],
)
def test_a_normalisation_that_cannot_be_theirs_is_refused(tmp_path, values, words):
    np.save(tmp_path / "mean_std.npy", values)
    with pytest.raises(ConversionError, match=words):
        read_mean_std(tmp_path / "mean_std.npy")
