"""The notebooks run from top to bottom: shipped networks on phantoms, and an experiment of the user's on crops."""

import json
from pathlib import Path

import cv2
import nbformat
import pytest
from nbclient import NotebookClient

from kneel.engine.config import load_config
from kneel.phantom.cohort import write_cohort

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXPERIMENT = """\
task: kl
data: {source: phantom}
geometry: {roi_mm: 140, roi_px: 132, crop: 120, patch: 52, top: 34}
augmentation: {jitter_px: 4}
model: {width: 4}
training: {epochs: 1, batch_size: 4, monitor: kappa, mode: max}
"""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    for part, seed in (("train", 1), ("val", 2)):
        write_cohort(folder / part, 8, seed=seed, spacing_mm=0.5, implant_fraction=0, single_knee_fraction=0)
    return folder


@pytest.fixture(scope="module")
def experiment(cohort):
    """An experiment's folder, with a network that has seen the cohort once: good for nothing."""
    from deepknee.experiment import GradingExperiment
    from deepknee.train import train_grader

    file = cohort / "kl.yaml"
    file.write_text(EXPERIMENT)
    train_grader(load_config(file, GradingExperiment), cohort, cohort / "runs", name="mine")
    return cohort / "runs" / "mine"


@pytest.fixture(scope="module")
def graded_folder(cohort):
    """The validation knees as folders 0 to 4 of crops; left knees as on the film."""
    from deepknee.dataset import load_knees
    from deepknee.patches import PatchGeometry
    from deepknee.predictions import source_of

    geometry = PatchGeometry(roi_mm=100, roi_px=132, crop=132, patch=60, top=30)
    knees = load_knees(cohort / "val", source_of(cohort / "val"), geometry, "film")
    for grade in range(5):
        (cohort / "crops" / str(grade)).mkdir(parents=True)
    for roi, grade, subject, name in zip(knees.rois, knees.grades, knees.subjects, knees.names, strict=True):
        crop = roi if name.endswith("R") else roi[:, ::-1]
        cv2.imwrite(str(cohort / "crops" / str(grade) / f"{subject}{name[-1]}.png"), crop)
    return cohort / "crops"


def run(path, monkeypatch, data, weights):
    """Run a notebook as it stands, with the two folders of its first cell; return the outputs."""
    monkeypatch.setenv("DATA", str(data))
    monkeypatch.setenv("WEIGHTS", str(weights))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    return json.dumps(outputs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the notebook machinery, not of ours
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_shipped_networks_on_phantoms(path, cohort, monkeypatch):
    assert "16 knees of 8 subjects" in run(path, monkeypatch, cohort / "val", "")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_folder_of_an_experiment_on_graded_crops(path, experiment, graded_folder, monkeypatch):
    said = run(path, monkeypatch, graded_folder, experiment)
    assert "16 knees of 8 subjects" in said
    assert "mine" in said


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_one_cell_is_to_be_edited_and_nothing_was_run(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [number for number, cell in enumerate(cells) if "os.environ" in cell.source] == [0]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
