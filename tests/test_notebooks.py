"""The notebooks run from top to bottom on freshly made networks and phantoms."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from kneel.engine.config import load_config
from kneel.experiment import LandmarkExperiment
from kneel.phantom.cohort import write_cohort
from kneel.train import train_landmarks

ROOT = Path(__file__).resolve().parents[1]
TRAINING = "training: {epochs: 1, batch_size: 4, monitor: MONITOR, mode: MODE}\n"
EXPERIMENTS = {
    "lc": "roi: {spacing_mm: 4.0, size: [64, 96]}\nmodel: {width: 4, depth: 2}\n",
    "hc": "roi: {spacing_mm: 2.0, size: [64, 64]}\nmodel: {width: 4, depth: 2}\n",
    "kl": "geometry: {roi_mm: 140, roi_px: 132, crop: 120, patch: 52, top: 34}\naugmentation: {jitter_px: 4}\n"
    "model: {width: 4}\n",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A cohort and networks that have seen it once: all there, good for nothing."""
    from deepknee.train import GradingExperiment, train_grader

    folder = tmp_path_factory.mktemp("notebook")
    for part, seed in (("train", 1), ("val", 2)):
        write_cohort(folder / part, 5, seed=seed, spacing_mm=0.5, implant_fraction=0, single_knee_fraction=0)
    for task, text in EXPERIMENTS.items():
        monitor, mode = ("kappa", "max") if task == "kl" else ("error_mm", "min")
        training = TRAINING.replace("MONITOR", monitor).replace("MODE", mode)
        file = folder / f"{task}.yaml"
        file.write_text(f"task: {task}\ndata: {{source: phantom}}\n{text}{training}")
        if task == "kl":
            train_grader(load_config(file, GradingExperiment), folder, folder / "runs", name=task)
        else:
            train_landmarks(load_config(file, LandmarkExperiment), folder, folder / "runs", name=task)
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the notebook machinery, not of ours
@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_runs_and_shows(path, trained, monkeypatch):
    monkeypatch.setenv("COHORT", str(trained / "val"))
    monkeypatch.setenv("WEIGHTS", str(trained / "runs"))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
