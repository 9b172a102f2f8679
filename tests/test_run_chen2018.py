"""The one command from the public set to the table of grades: what it asks of the scripts that it calls.

They stand aside here and write down what they are called with; each has its own tests.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from deepknee.experiment import GradingExperiment
from kneel.engine.config import load_config

ROOT = Path(__file__).resolve().parents[1]
STAND_IN = """#!/usr/bin/env python3
import json, os, sys
with open({calls!r}, "a") as file:
    print(json.dumps([sys.argv[1:], os.environ.get("EXPERIMENTS")]), file=file)
"""


@pytest.fixture
def settings():
    return {}


@pytest.fixture
def calls(tmp_path, settings):
    """Run the command over an empty set with a test part; what it called, and the experiments it asked for."""
    assert run(tmp_path, settings).returncode == 0
    return called(tmp_path)


def called(tmp_path):
    return [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]


def run(tmp_path, settings, stand_in=STAND_IN):
    here, data = tmp_path / "a copy", tmp_path / "the data"
    interpreter = here / ".venv" / "bin" / "python"
    interpreter.parent.mkdir(parents=True)
    interpreter.write_text(stand_in.format(calls=str(tmp_path / "calls")))
    interpreter.chmod(0o755)
    for name in ("scripts", "kl_experiments", "run_experiments.sh"):
        (here / name).symlink_to(ROOT / name)
    for part in ("train", "val", "test"):
        (data / part).mkdir(parents=True)
    places = {"DATA_ROOT": str(data), "WORKDIR": str(tmp_path / "runs"), "VISDOM_SERVER": "none"}
    environment = {**os.environ, **places, **settings}
    return subprocess.run([here / "scripts" / "run_chen2018.sh"], env=environment, capture_output=True, text=True)


def test_every_step_is_called_with_what_the_one_before_made(calls, tmp_path):
    steps = [Path(words[0]).name for words, _ in calls]
    locate = "locate_landmarks.py"
    after = ["calibrate_kl.py", locate, "evaluate_kl.py", locate, "evaluate_kl.py"]
    assert steps == [locate, locate, "experiments_runner.py", *after]
    assert [words[2] for words, _ in calls if words[0].endswith(locate)] == [
        str(tmp_path / "the data" / part) for part in ("train", "val", "val", "test")
    ]


def test_networks_are_trained_after_what_they_start_from_and_then_read_together(calls, tmp_path):
    (experiments,) = {there for words, there in calls if words[0].endswith("experiments_runner.py")}
    shipped = {f"chen2018_{path.stem}" for path in (ROOT / "pretrained" / "deepknee").glob("*.safetensors")}
    trained: list[str] = []
    for path in map(Path, experiments.split(":")):
        experiment = load_config(path, GradingExperiment)
        assert experiment.transfer in (None, *trained)
        trained.append(path.stem)
    for words, _ in calls:
        if words[0].endswith(("calibrate_kl.py", "evaluate_kl.py")):
            members = [Path(word) for word in words if word.startswith(str(tmp_path / "runs" / "chen2018"))]
            assert {member.name for member in members} == shipped
            assert words[words.index("--data") + 1] in map(str, (tmp_path / "the data").iterdir())
    assert shipped <= set(trained)


@pytest.mark.parametrize("settings", [{"MEMBERS": "chen2018_fine_seed_42 chen2018_joint_seed_84"}])
def test_the_networks_to_train_and_average_can_be_chosen(calls, tmp_path):
    (experiments,) = {there for words, there in calls if words[0].endswith("experiments_runner.py")}
    assert [Path(path).stem for path in experiments.split(":")] == ["chen2018_fine_seed_42", "chen2018_joint_seed_84"]
    judged = [words for words, _ in calls if words[0].endswith(("calibrate_kl.py", "evaluate_kl.py"))]
    for words in judged:
        runs = words[words.index("--weights") + 1 :][:3]
        assert runs[:2] == [str(tmp_path / "runs" / f"chen2018_{name}") for name in ("fine_seed_42", "joint_seed_84")]
        assert runs[2].startswith("--")
    assert len(judged) == 3


@pytest.mark.parametrize("settings", [{"MEMBERS": "chen2018_robust_seed_42", "STARTS": "base antony"}])
def test_what_they_go_on_from_is_trained_first_and_not_averaged(calls):
    (experiments,) = {there for words, there in calls if words[0].endswith("experiments_runner.py")}
    assert [Path(path).stem for path in experiments.split(":")] == ["base", "antony", "chen2018_robust_seed_42"]
    assert not any(word.endswith(("base", "antony")) for words, _ in calls for word in words)


def test_a_name_that_is_no_experiment_is_refused_before_anything_is_done(tmp_path):
    done = run(tmp_path, {"MEMBERS": "chen2018_joint_seed_24"})
    assert done.returncode == 2
    assert "no kl_experiments/chen2018_joint_seed_24.yaml; MEMBERS and STARTS" in done.stderr
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize(("status", "told"), [(1, True), (2, False)])
def test_the_table_of_problems_is_named_where_there_is_one(tmp_path, status, told):
    done = run(tmp_path, {}, STAND_IN + f"sys.exit({status})\n")
    assert done.returncode == status
    assert len(called(tmp_path)) == 1
    assert ("landmarks_problems.csv says which knees" in done.stderr) == told
