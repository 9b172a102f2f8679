"""Every experiment file can be read, and the commands plan what they should."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pydantic import BaseModel, ConfigDict

from deepknee.ensemble import Grader
from deepknee.experiment import GradingExperiment
from deepknee.train import train_grader
from deepknee.weights import find_weights
from kneel.engine.config import ConfigError, load_config
from kneel.engine.queue.jobs import PlanError, check
from kneel.engine.queue.state import JobState
from kneel.experiment import LandmarkExperiment
from kneel.phantom.cohort import write_cohort
from kneel.stage import Stage
from kneel.train import train_landmarks

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
    if path.parent.name not in ("demo_experiments", "release_experiments"):
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
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert f"{bad}: " in result.stderr
    assert "epochs" in result.stderr


PAPER = sorted(path for path in FILES if path.parent.name in ("hc_experiments", "lc_experiments"))
SMALL = {
    "hc": {"roi": {"spacing_mm": 4.0, "size": [32, 32], "margin": 0.2}},
    "lc": {"roi": {"spacing_mm": 4.0, "size": [64, 64]}},
}


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantoms")
    for part, seed in (("train", 1), ("val", 2)):
        write_cohort(root / part, 4, seed=seed, spacing_mm=0.5, implant_fraction=0, single_knee_fraction=0.5)
    return root


def small(path):
    """The experiment on phantoms, two epochs, a tiny network; what it is about acts in the second epoch."""
    full = load_config(path, LandmarkExperiment).model_dump(mode="json", exclude_unset=True)
    training = full["training"] | {"epochs": 2, "batch_size": 4, "num_workers": 0, "milestones": [1]}
    if "swa_start" in training:
        training["swa_start"] = 1
    model = full["model"] | {"width": 8, "depth": 2}
    return full | SMALL[full["task"]] | {"data": {"source": "phantom"}, "model": model, "training": training}


@pytest.mark.slow
def test_every_experiment_of_the_paper_trains_two_epochs(phantoms, tmp_path):
    """In the order of their transfers; the networks are rebuilt from what they leave."""
    names = {path.stem for path in PAPER}
    rows = [path for path in PAPER if path.stem != "base"]
    assert len(rows) >= 24
    files = {}
    for path in sorted(rows, key=lambda row: load_config(row, LandmarkExperiment).transfer is not None):
        experiment = LandmarkExperiment.model_validate_json(json.dumps(small(path)))
        assert experiment.transfer is None or experiment.transfer in names
        if experiment.transfer is not None:  # the body of the network must fit
            assert experiment.model == LandmarkExperiment.model_validate_json(json.dumps(small(files["lc"]))).model
        result = train_landmarks(experiment, phantoms, tmp_path, name=path.stem)
        assert len(result.history) == 2
        stage = Stage.from_snapshots([result.path_best], experiment.task, device=torch.device("cpu"))
        points, _ = stage(np.zeros(experiment.roi.size[::-1], np.float32))
        assert points.shape == (1 if experiment.task == "lc" else 16, 2)
        files[experiment.task] = path


GRADING = sorted(path for path in FILES if path.parent.name == "kl_experiments" and path.stem != "base")
SMALL_KINDS = {
    "siamese": {"width": 2},
    "resnet18": {"width": 2, "input_px": 32},
    "resnet34": {"input_px": 32},
    "antony": {},
}


@pytest.mark.slow
def test_every_grading_experiment_trains_two_epochs(tmp_path, monkeypatch):
    """On crops of nothing, with tiny networks and pictures; the networks are rebuilt from what they leave.

    In the order of their transfers.
    """
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))  # whoever has ImageNet's weights
    crops = np.random.default_rng(0).integers(0, 256, (2, 5, 2, 64, 64), np.uint8)
    for part, grades in zip(("train", "val"), crops, strict=True):
        for grade, pictures in enumerate(grades):
            (tmp_path / part / str(grade)).mkdir(parents=True)
            for number, picture in enumerate(pictures):
                cv2.imwrite(str(tmp_path / part / str(grade) / f"{part}{grade}{number}R.png"), picture)
    names = sorted(path.relative_to(tmp_path / "train").as_posix() for path in tmp_path.glob("train/?/*.png"))
    votes = [f"readers,{name},{name[2:-5]},R,{name[0]},0.2,0.2,0.2,0.2,0.2" for name in names]
    (tmp_path / "train" / "labels.csv").write_text(
        "\n".join(["model,knee,subject_id,side,true_kl,p0,p1,p2,p3,p4", *votes])
    )
    experiments = [(path, load_config(path, GradingExperiment)) for path in GRADING]
    for path, full in sorted(
        experiments, key=lambda named: named[1].transfer is not None
    ):  # what others start from first
        settings = full.model_dump(mode="json", exclude_unset=True)
        settings |= {"data": {"source": "graded_folder"}, "sampling": full.sampling.model_dump() | {"samples": None}}
        settings["geometry"] = {"roi_mm": 60, "roi_px": 104, "crop": 100, "patch": 50, "top": 25}
        settings["augmentation"] = settings["augmentation"] | {"jitter_px": 2}
        settings["model"] = settings.get("model", {}) | SMALL_KINDS[full.model.kind]
        tiny = {"epochs": 2, "batch_size": 5, "num_workers": 0, "warmup_epochs": min(full.training.warmup_epochs, 1)}
        tiny["milestones"] = [1] if full.training.milestones else []
        settings["training"] = settings["training"] | tiny
        experiment = GradingExperiment.model_validate_json(json.dumps(settings))
        result = train_grader(experiment, tmp_path, tmp_path / "runs", name=path.stem)
        assert len(result.history) == 2
        grade = Grader.from_snapshots([result.path_best]).predict(np.zeros((1, 104, 104), np.uint8))
        assert grade.probabilities.sum() == pytest.approx(1)
    seeds = [tmp_path / "runs" / f"siamese_seed_{seed}" for seed in (21, 42, 84)]
    assert len(find_weights(seeds, tasks=["kl"]).paths("kl")) == 3


@pytest.mark.parametrize("path", [path for path in PAPER if path.stem != "base"], ids=lambda path: path.stem)
def test_no_two_rows_are_the_same_experiment(path):
    own = load_config(path, LandmarkExperiment)
    others = [
        load_config(other, LandmarkExperiment) for other in PAPER if other not in (path, path.parent / "base.yaml")
    ]
    assert own not in others


def test_what_would_fail_again_is_tried_once_told_once_and_stands_in_the_log(tmp_path):
    """A file without its data: two folds try, and the reason they share is told once."""
    experiments = tmp_path / "experiments of mine"  # a folder with spaces
    experiments.mkdir()
    (experiments / "lost.yaml").write_text(f"base: {ROOT}/lc_experiments/base.yaml\n")
    environment = {"EXPERIMENTS": experiments, "DATA_ROOT": tmp_path, "WORKDIR": tmp_path / "the runs", "FOLDS": "0 1"}
    environment["VISDOM_SERVER"] = "none"
    command = [ROOT / "run_experiments.sh", "--retries", "3", "--per_gpu", "2"]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    assert result.returncode == 1, result.stderr
    last = (tmp_path / "the runs" / "lost" / "fold_0" / "train.log").read_text().splitlines()[-1]
    assert last.startswith("train: ")
    assert f"failed: lost, fold 0 1: {last}" in result.stderr
    assert result.stdout.count("start  lost") == 2


def test_the_runner_plans_folds_and_seeds(tmp_path, monkeypatch):
    """A follower waits for the same fold and seed; graders of all seeds are one ensemble; names are unique."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import experiments_runner
    from train import read_experiment, with_seed

    words = ["--data_root", str(tmp_path), "--workdir", str(tmp_path), "--experiments"]
    folders = [str(ROOT / "lc_experiments"), str(ROOT / "hc_experiments")]
    jobs = experiments_runner.plan(
        experiments_runner.parse([*words, *folders, "--seeds", "1", "2", "--folds", "0", "3"])
    )
    assert len(jobs) == 26 * 2 * 2
    follower = next(job for job in jobs if job.key == "multiscale_wing_mixup_no_wd_cutout10_from_lc_seed_2/fold_3")
    source = next(job for job in jobs if job.key == follower.after)
    assert source.key == "lc_multiscale_wing_mixup_no_wd_cutout10_seed_2/fold_3"
    assert source.settings["training"]["seed"] == 2
    assert source.command[-2:] == ("--seed", "2")
    name, grader = with_seed("resnet34", read_experiment(ROOT / "kl_experiments" / "resnet34.yaml"), 5)
    assert (name, grader.ensemble, grader.training.seed) == ("resnet34_seed_5", "resnet34", 5)
    (tmp_path / "resnet34.yaml").write_text(f"base: {ROOT}/kl_experiments/resnet34.yaml\n")
    twice = experiments_runner.plan(
        experiments_runner.parse([*words, str(ROOT / "kl_experiments" / "resnet34.yaml"), str(tmp_path)])
    )
    with pytest.raises(PlanError, match="two experiments of the name resnet34"):
        check(twice)


def test_the_runner_takes_its_options_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import experiments_runner

    monkeypatch.chdir(tmp_path)
    for name, value in {
        "DATA_ROOT": "d",
        "EXPERIMENTS": "a b:c",
        "GPUS": "3,5",
        "PER_GPU": "2",
        "FOLDS": "0 4",
    }.items():
        monkeypatch.setenv(name, value)
    read = experiments_runner.parse([])
    assert (read.experiments, read.gpus, read.per_gpu) == ([Path("a b"), Path("c")], ["3", "5"], 2)
    assert (read.data_root, read.workdir, read.folds, read.seeds) == (Path("d"), Path("workdir"), [0, 4], [])
    assert experiments_runner.parse(["--gpus", "cpu", "--folds", "1"]).gpus == ["cpu"]  # flags win
    (tmp_path / "a:b").mkdir()
    assert experiments_runner.named_experiments("a:b") == [Path("a:b")]
    monkeypatch.setenv("EXPERIMENTS", "")
    (tmp_path / "hc_experiments_todo").mkdir()
    assert experiments_runner.parse([]).experiments == [Path("hc_experiments_todo")]
    monkeypatch.setenv("FOLDS", "all")
    with pytest.raises(SystemExit) as stopped:
        experiments_runner.parse([])
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    ("asked", "count", "visible", "outcome"),
    [
        ([], 0, None, ["cpu"]),
        ([], 2, None, ["0", "1"]),
        ([], 1, "3,4", ["3"]),  # torch sees one of them: the other does not exist
        (["cpu"], 2, None, ["cpu"]),
        (["1"], 2, None, ["1"]),
        (["4", "3"], 2, "3,4", ["4", "3"]),
        (["GPU-8a21"], 2, None, ["GPU-8a21"]),
        (["1", "2", "7"], 2, None, "--gpus 1 2 7: not 2, 7, there are 0, 1; or cpu alone"),
        (["0"], 2, "3, 4", "--gpus 0: not 0, there are 3, 4 (CUDA_VISIBLE_DEVICES=3, 4); or cpu alone"),
        (["0"], 0, None, "--gpus 0: not 0, torch finds no GPU here; or cpu alone"),
        (["0"], 0, "", "--gpus 0: not 0, torch finds no GPU here (CUDA_VISIBLE_DEVICES=); or cpu alone"),
        (["GPU-8a21"], 0, None, "--gpus GPU-8a21: not GPU-8a21, torch finds no GPU here; or cpu alone"),
        (["0", "cpu"], 1, None, "--gpus 0 cpu: not cpu, there are 0; or cpu alone"),
        (["cuda:0"], 1, None, "--gpus cuda:0: not cuda:0, there are 0; or cpu alone"),
        (["-1"], 1, None, "--gpus -1: not -1, there are 0; or cpu alone"),
    ],
)
def test_gpus_that_are_not_there_are_named_before_any_job_starts(monkeypatch, asked, count, visible, outcome):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import experiments_runner

    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if isinstance(outcome, str):
        with pytest.raises(ConfigError) as refused:
            experiments_runner.chosen_devices(asked)
        assert str(refused.value) == outcome
    else:
        assert experiments_runner.chosen_devices(asked) == outcome


def test_the_runner_starts_nothing_on_a_gpu_that_is_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import experiments_runner

    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    words = ["--data_root", str(tmp_path), "--workdir", str(tmp_path / "w"), "--gpus", "0", "5"]
    monkeypatch.setattr("sys.argv", ["experiments_runner.py", *words])
    assert experiments_runner.main() == 2
    assert "not 5, there are 0" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ray_gpus", "1"], "act only with --ray"),
        (["--ray", "auto", "--ray_gpus", "1.5"], "a whole number"),
        (["--ray", "auto", "--ray_cores", "0"], "must be above 0"),
        (["--ray", "auto", "--per_gpu", "2"], "--ray_gpus 0.5"),
        (["--workdir", __file__], "is a file; must be a folder"),
    ],
)
def test_options_that_cannot_be_are_refused(monkeypatch, capsys, words, message):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.delenv("RAY", raising=False)
    import experiments_runner

    with pytest.raises(SystemExit):
        experiments_runner.parse(["--data_root", ".", *words])
    assert message in capsys.readouterr().err


def test_gpus_are_separated_by_spaces_or_commas(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import experiments_runner

    assert experiments_runner.parse(["--data_root", ".", "--gpus", "0,1", "3"]).gpus == ["0", "1", "3"]


@pytest.mark.slow
def test_the_runner_orders_transfer_trains_and_resumes(tmp_path):
    """A landmark network that starts from a joint-centre network, on a handful of phantoms, twice."""
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
    state = JobState.read(tmp_path / "w" / "a_hc" / "fold_0")
    assert (state.state, state.attempt, state.epochs) == ("done", 1, 1)
    second = run("experiments_runner.py", *arguments)  # nothing is started again
    assert second.returncode == 0, second.stderr
    assert "start" not in second.stdout
    table = tmp_path / "train" / "annotations.csv"
    before = table.read_bytes()
    table.write_bytes(before + b"\n")  # as a correction would change it
    corrected = run("experiments_runner.py", *arguments)
    table.write_bytes(before)
    assert (corrected.returncode, "done" in corrected.stdout) == (2, False)
    assert corrected.stderr.count("train/annotations.csv: is not as it was when this was trained") == 2
    longer = (experiments / "b_lc.yaml").read_text().replace("epochs: 1", "epochs: 2")
    (experiments / "b_lc.yaml").write_text(longer.replace("width: 4", "width: 8"))
    refused = run("experiments_runner.py", *arguments)
    assert refused.returncode == 2
    assert "b_lc, fold 0" in refused.stderr
    assert "experiment.model.width: stored 4, asked 8" in refused.stderr
    assert "epochs" not in refused.stderr  # more of them go on
    assert "start" not in refused.stdout
    (experiments / "b_lc.yaml").write_text(longer)
    (tmp_path / "w" / "b_lc" / "fold_0" / "last.safetensors").write_bytes(b"damaged")
    damaged = run("experiments_runner.py", *arguments)
    assert damaged.returncode == 1
    assert "failed: b_lc, fold 0" in damaged.stderr
    assert "last.safetensors" in damaged.stderr
    assert "failed: a_hc, fold 0: not begun, b_lc, fold 0 failed" in damaged.stderr
    rows = (tmp_path / "w" / "a_hc" / "fold_0" / "metrics.csv").read_text().splitlines()
    assert len(rows) == 2  # header and the one epoch
