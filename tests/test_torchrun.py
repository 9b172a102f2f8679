"""`torchrun scripts/train.py`: the real thing, on phantoms, for both packages."""

import csv
from pathlib import Path

import pytest
from test_engine_ddp import ROOT, torchrun

from kneel.phantom.cohort import write_cohort

HC = """
task: hc
data: {source: phantom}
roi: {spacing_mm: 4.0, size: [32, 32], margin: 0.2}
model: {width: 4, depth: 1, dropout: 0.2, se_ratio: 4}
mixup: {alpha: 0.75, variant: kneel}
augment: {rotation: 10, scale: [0.8, 1.3], shift: 0.15, gamma: [0.5, 1.5], noise: 0.03, cutout: 0.1}
loss: {kind: robust, spread: 0.3}
training: {epochs: 2, batch_size: 5, clip_norm: 10.0, precision: float64, monitor: error_mm, mode: min}
"""
KL = """
task: kl
data: {source: phantom}
geometry: {roi_mm: 140, roi_px: 112, crop: 104, patch: 52, top: 26}
model: {width: 2, dropout: 0.2}
augmentation: {jitter_px: 2, rotation_deg: 3}
training:
  {epochs: 2, batch_size: 5, swa_start: 1, precision: float64, augment_on: device, monitor: cross_entropy, mode: min}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training on 14 knees, so that the last batch has 4 samples; validation on 5, which two processes cannot halve."""
    root = tmp_path_factory.mktemp("data")
    for part, films, seed in (("train", 7, 1), ("val", 3, 2)):
        settings = {"implant_fraction": 0, "single_knee_fraction": 0.4 if part == "val" else 0}
        write_cohort(root / part, films, seed=seed, spacing_mm=0.5, **settings)
    return root


def rows(folder: Path) -> list[dict[str, float]]:
    with next(folder.glob("*/fold_0/metrics.csv")).open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def train(processes: int, data: Path, workdir: Path, text: str, *more: str, script: Path | None = None):
    workdir.mkdir(exist_ok=True)
    (workdir / "small.yaml").write_text(text)
    words = ["--experiment", workdir / "small.yaml", "--data_root", data, "--workdir", workdir, *more]
    return torchrun(processes, script or ROOT / "scripts" / "train.py", *words)


@pytest.mark.parametrize("text", [HC, KL], ids=["landmarks", "grading"])
def test_two_processes_judge_as_one_and_finish_what_one_began(data, tmp_path, text):
    for name, processes in (("one", 1), ("two", 2)):
        done = train(processes, data, tmp_path / name, text)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("best epoch") == 1
    assert len(rows(tmp_path / "one")) == 2
    for one, two in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert two == pytest.approx(one, abs=1e-4, nan_ok=True)
    more = text.replace("epochs: 2", "epochs: 3")
    for name, processes in (("one", 2), ("two", 1)):
        done = train(processes, data, tmp_path / name, more, "--resume")
        assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "two")[2] == pytest.approx(rows(tmp_path / "one")[2], abs=1e-4, nan_ok=True)


def test_an_error_in_one_process_stops_all_and_is_told_once(data, tmp_path):
    script = tmp_path / "broken.py"
    script.write_text(f"""
import os, runpy, sys
sys.path.insert(0, {str(ROOT / "scripts")!r})  # as when it is run by itself
import kneel.train
from kneel.imaging.radiograph import RadiographError

def broken(*arguments, **settings):
    raise RadiographError("3.dcm: cut off")

if os.environ["RANK"] == "1":
    kneel.train.load_samples = broken
runpy.run_path({str(ROOT / "scripts" / "train.py")!r}, run_name="__main__")
""")
    done = train(2, data, tmp_path / "w", HC, script=script)
    assert done.returncode != 0
    assert done.stderr.count("3.dcm: cut off") == 1
    assert "process 1 of 2 on" in done.stderr
    assert "Connection" not in done.stdout
    assert not list((tmp_path / "w").glob("*/fold_0/*.safetensors"))


def test_an_error_of_all_is_told_once(data, tmp_path):
    done = train(2, data, tmp_path, HC.replace("batch_size: 5", "batch_size: 1"))
    assert done.returncode != 0
    assert done.stderr.count("batch_size = 1: must be at least the number of processes, 2") == 1
