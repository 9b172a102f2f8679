import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import sys
import warnings

import pytest
import torch
from fit_tasks import Regression, interrupt_at, run
from test_landmark_train import experiment

from kneel.engine import provenance
from kneel.engine.config import load_config
from kneel.engine.log import logged, note
from kneel.experiment import LandmarkExperiment

CPU = torch.device("cpu")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout whose code is running, with one commit."""
    top = tmp_path / "checkout"
    code = top / "kneel" / "engine" / "provenance.py"
    code.parent.mkdir(parents=True)
    code.write_text("first = 1\n")
    git(top, "init", "--quiet")
    git(top, "add", "--all")
    git(top, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "-m", "first")
    monkeypatch.setattr(provenance, "__file__", str(code))
    for name in ("code_version", "code_changes"):
        plain = getattr(provenance, name).__wrapped__  # asked anew each time
        monkeypatch.setattr(provenance, name, plain)
    return top


def git(folder, *words):
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)


def start(folder, epochs=0):
    folder.mkdir(exist_ok=True)
    path = provenance.record_start(folder, {"task": "lc", "training": {"epochs": 3}}, CPU, epochs)
    return path, json.loads(path.read_text())


def test_an_entry_says_where_a_run_comes_from(tmp_path, checkout, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("SECRET_TOKEN", "not to be told")
    path, entry = start(tmp_path / "run")
    assert path.name == "start_001.json"
    assert entry["host"]["name"] == platform.node()
    assert entry["device"] == {"kind": "cpu", "threads": torch.get_num_threads()}
    assert {entry["packages"][name] == importlib.metadata.version(name) for name in ("torch", "numpy")} == {True}
    assert entry["command"] == sys.orig_argv
    assert entry["environment"]["CUDA_VISIBLE_DEVICES"] == ""
    assert entry["experiment"] == {"task": "lc", "training": {"epochs": 3}}
    assert entry["code"]["dirty"] is False
    assert entry["code"]["diff"] is None
    assert len(entry["code"]["commit"]) == 40
    assert "not to be told" not in path.read_text()


def test_every_start_adds_an_entry_and_changes_none(tmp_path, checkout):
    first, _ = start(tmp_path / "run")
    before = first.read_bytes()
    second, entry = start(tmp_path / "run", epochs=2)
    assert (first.name, second.name, entry["epochs"]) == ("start_001.json", "start_002.json", 2)
    assert first.read_bytes() == before


def test_the_difference_from_the_commit_is_kept_and_can_be_applied(tmp_path, checkout):
    code, data = checkout / "kneel" / "engine" / "provenance.py", checkout / "films.csv"
    code.write_text("first = 2\n")
    (checkout / "new.py").write_text("patient = 'A name'\n")
    data.write_text("patient\n")
    _, entry = start(tmp_path / "run")
    assert entry["code"]["dirty"] is True
    assert entry["code"]["untracked_python"] == ["new.py"]
    diff = tmp_path / "run" / "provenance" / entry["code"]["diff"]
    everything = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert b"patient" not in everything  # neither untracked code nor data
    git(checkout, "checkout", "--quiet", ".")
    git(checkout, "apply", str(diff))
    assert code.read_text() == "first = 2\n"
    start(tmp_path / "run")
    assert len(list(diff.parent.glob("*.diff"))) == 1  # the same difference is kept once


def test_a_large_difference_is_cut_and_says_so(tmp_path, checkout):
    (checkout / "kneel" / "engine" / "provenance.py").write_text("x = 1\n" * 1_000_000)
    _, entry = start(tmp_path / "run")
    diff = (tmp_path / "run" / "provenance" / entry["code"]["diff"]).read_bytes()
    assert len(diff) < 2**20 + 100
    assert b"cut here, 7" in diff[-60:]


def test_the_stored_experiment_can_be_trained_again(tmp_path):
    asked = experiment(mixup={"alpha": 0.3, "variant": "zhang"})
    settings = {
        **asked.model_dump(mode="json", exclude={"training"}),
        "training": asked.training.model_dump(mode="json"),
    }
    provenance.record_start(tmp_path, settings, CPU, 0)
    assert load_config(tmp_path / "experiment.yaml", LandmarkExperiment) == asked


def test_a_training_writes_one_entry_for_each_start_that_trains(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, task=Regression(hook=interrupt_at(8)), epochs=3)
    for _ in range(2):  # the second finds it complete
        run(tmp_path, epochs=3, resume=True)
    entries = [json.loads(path.read_text()) for path in sorted((tmp_path / "run" / "provenance").glob("start_*.json"))]
    assert [entry["epochs"] for entry in entries] == [0, 1]


def test_the_log_gets_what_is_printed_logged_warned_and_noted(tmp_path, capsys):
    for text in ("one", "two"):
        with logged(tmp_path / "run"):
            print(text, "printed")
            logging.getLogger("kneel").warning("%s logged", text)
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.warn(f"{text} warned", stacklevel=1)
            assert note(f"{text} noted")
    print("outside")
    assert not note("outside")
    log = (tmp_path / "run" / "train.log").read_text()
    for text in ("one", "two"):
        for how in ("printed", "logged", "warned", "noted"):
            assert log.count(f"{text} {how}\n") == 1
    assert log.count(f"process {os.getpid()} on") == 2
    assert "outside" not in log
    assert "one printed" in capsys.readouterr().out


def test_a_log_that_stdout_goes_to_already_is_not_doubled(tmp_path):
    code = "from kneel.engine.log import logged\nimport sys, pathlib\n"
    code += "with logged(pathlib.Path(sys.argv[1])): print('once')"
    with (tmp_path / "train.log").open("w") as log:
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], stdout=log, check=True)
    assert (tmp_path / "train.log").read_text() == "once\n"
