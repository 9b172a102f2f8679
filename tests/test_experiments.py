"""Every experiment file can be read, and the commands plan what they should."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from deepknee.train import GradingExperiment
from kneel.engine.config import load_config
from kneel.experiment import LandmarkExperiment

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(ROOT.glob("*_experiments/*.yaml"))


class TaskName(BaseModel):
    model_config = ConfigDict(extra="ignore")
    task: str


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_experiment_is_valid(path):
    task = load_config(path, TaskName).task
    experiment = load_config(path, GradingExperiment if task == "kl" else LandmarkExperiment)
    assert experiment.task == task
    if path.parent.name != "demo_experiments":
        assert path.parent.name == f"{task}_experiments"


def test_names_are_unique_because_runs_go_by_them():
    names = [path.stem for path in FILES if path.stem != "base"]
    assert len(set(names)) == len(names)


def run(script, *arguments):
    command = [sys.executable, ROOT / "scripts" / script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_train_refuses_in_one_line(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("task: hc\nepochs: 3\n")
    result = run("train.py", "--experiment", bad, "--data_root", tmp_path, "--workdir", tmp_path)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert f"{bad}: " in result.stderr
    assert "epochs" in result.stderr


@pytest.mark.slow
def test_the_runner_orders_transfer_trains_and_resumes(tmp_path):
    """A landmark network that starts from a joint-centre network, on a handful of phantoms, twice."""
    from kneel.phantom.cohort import write_cohort

    for part, seed in (("train", 1), ("val", 2)):
        write_cohort(tmp_path / part, 3, seed=seed, spacing_mm=0.5, implant_fraction=0, single_knee_fraction=0)
    small = "model: {width: 4, depth: 2}\ntraining: {epochs: 1, batch_size: 4, monitor: error_mm, mode: min}\n"
    experiments = tmp_path / "experiments"
    experiments.mkdir()
    common = "data: {source: phantom}\n" + small
    (experiments / "a_hc.yaml").write_text(
        "task: hc\ntransfer: b_lc\nroi: {spacing_mm: 2.0, size: [64, 64]}\n" + common
    )
    (experiments / "b_lc.yaml").write_text("task: lc\nroi: {spacing_mm: 4.0, size: [64, 96]}\n" + common)
    arguments = ("--experiments", experiments, "--data_root", tmp_path, "--workdir", tmp_path / "w")
    first = run("experiments_runner.py", *arguments)
    assert first.returncode == 0, first.stderr
    assert first.stdout.index("start  b_lc") < first.stdout.index("start  a_hc")
    (tmp_path / "w" / "b_lc" / "fold_0" / "last.safetensors").write_bytes(b"damaged")
    second = run("experiments_runner.py", *arguments)
    assert second.returncode == 1
    assert "failed" in second.stderr
    assert "b_lc" in second.stderr
    rows = (tmp_path / "w" / "a_hc" / "fold_0" / "metrics.csv").read_text().splitlines()
    assert len(rows) == 2  # header and the one epoch: the second start found it complete
