"""Predictions of the knees that a network was not trained on: out of fold, and of test sets.

A snapshot says by a digest which subjects it was trained on; one that does not fit the experiment's split is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from tqdm import tqdm

from kneel.assess_knees import save_roi
from kneel.augment import validation_transform
from kneel.dataset import LandmarkDataset, LandmarkSample
from kneel.engine.folds import LeakageError, check_leakage
from kneel.engine.snapshot import load_snapshot
from kneel.engine.transfer import finished_best
from kneel.experiment import LandmarkExperiment
from kneel.network import LandmarkNet, build_network, network_weights
from kneel.predictions import PredictionError, Predictions, doubled
from kneel.samples import load_samples
from kneel.sources import KneelSource
from kneel.train import LandmarkTask

MEAN_OF_FOLDS = "mean"
_BATCH = 8


def fold_snapshots(experiment: LandmarkExperiment, workdir: Path, name: str) -> list[Path]:
    """Find the best snapshot of every fold, once all are trained to their end.

    Parameters
    ----------
    experiment : LandmarkExperiment
        The experiment; with a validation set of its own it has one fold.
    workdir : Path
        Where all runs are.
    name : str
        Name of the experiment.

    Returns
    -------
    list of Path
        ``workdir/name/fold_K/best.safetensors``, by fold.

    Raises
    ------
    FileNotFoundError
        Folds are missing; names them.
    RunUnfinished, SnapshotError
        A fold has epochs left to train, or its last snapshots are damaged.
    """
    folds = 1 if experiment.data.val is not None else experiment.folds
    runs = [workdir / name / f"fold_{fold}" for fold in range(folds)]
    missing = [str(fold) for fold, run in enumerate(runs) if not (run / "best.safetensors").is_file()]
    if missing:
        raise FileNotFoundError(f"{workdir / name}: no best.safetensors of fold {', '.join(missing)} of {folds}")
    return [finished_best(run) for run in runs]


def out_of_fold(
    experiment: LandmarkExperiment, data_root: Path, workdir: Path, *, name: str, pictures: Path | None = None
) -> Predictions:
    """Predict every held-out knee with the network that did not see its subject.

    Parameters
    ----------
    experiment : LandmarkExperiment
        As it was trained.
    data_root, workdir : Path
        Where the data and the runs are.
    name : str
        Name of the experiment.
    pictures : Path or None
        Folder for the ROIs as PNG, ``{subject_id}_{kl}_{side}.png``.

    Returns
    -------
    Predictions
        Of every knee once: of all folds, or of the validation set.

    Raises
    ------
    FileNotFoundError
        A fold or data are missing.
    RunUnfinished
        A fold has epochs left to train.
    LeakageError
        A snapshot was trained on another split, or does not say on which.
    PredictionError
        A knee is held out twice or never, or a snapshot is of another task or ROI.
    """
    parts, everybody = [], pd.DataFrame()
    for task, net in _networks(experiment, data_root, fold_snapshots(experiment, workdir, name), name):
        train, held = task.samples
        everybody = _knees(held if experiment.data.val is not None else [*train, *held], "", 0.0)
        _check_doubled(everybody)  # before anything is computed
        points = locate(net, held, experiment.roi.size)
        parts.append(gather(name, held, str(task.fold), experiment.roi.spacing_mm, points))
        save_pictures(held, pictures, experiment.roi.spacing_mm)
    predictions = Predictions.joined(parts)
    _check_once(predictions.knees, everybody)
    return predictions


def on_test_set(
    experiment: LandmarkExperiment,
    data_root: Path,
    workdir: Path,
    *,
    name: str,
    test: KneelSource,
    pictures: Path | None = None,
) -> Predictions:
    """Predict a separate test set with all folds of an experiment, their answers averaged.

    Parameters
    ----------
    experiment, data_root, workdir, name, pictures
        As in `out_of_fold`; the data are needed to see that no subject of the test set is among them.
    test : KneelSource
        Table and pictures of the test set, below `data_root` or with whole paths.

    Returns
    -------
    Predictions
        Of every knee of the test set; fold is ``mean``.

    Raises
    ------
    FileNotFoundError, RunUnfinished, LeakageError, PredictionError
        As in `out_of_fold`; a subject of the test set in the experiment's data is a leak.
    """
    roi = experiment.roi
    samples = load_samples(data_root, test, "train", experiment.task, spacing_mm=roi.spacing_mm, margin=roi.margin)
    answers = []
    _check_doubled(_knees(samples, MEAN_OF_FOLDS, roi.spacing_mm))
    for task, net in _networks(experiment, data_root, fold_snapshots(experiment, workdir, name), name):
        used = [sample.subject_id for part in task.samples for sample in part]
        check_leakage(used, [sample.subject_id for sample in samples])
        answers.append(locate(net, samples, roi.size))
    predictions = gather(name, samples, MEAN_OF_FOLDS, roi.spacing_mm, np.mean(answers, axis=0))
    save_pictures(samples, pictures, roi.spacing_mm)
    return predictions


def _networks(
    experiment: LandmarkExperiment, data_root: Path, paths: Sequence[Path], name: str
) -> Iterator[tuple[LandmarkTask, LandmarkNet]]:
    """Rebuild the network of each fold after a check that it was trained as the experiment says."""
    for fold, path in enumerate(tqdm(paths, "folds", unit="fold", disable=None)):
        task = LandmarkTask(experiment, data_root, name=name, fold=fold)
        weights, meta = load_snapshot(path)
        roi = experiment.roi.model_dump(mode="json")
        if meta.get("task") != experiment.task or meta.get("roi") != roi:
            found = f"{meta.get('task')} with roi {meta.get('roi')}"
            raise PredictionError(f"{path}: trained for {found}; the experiment says {experiment.task} with roi {roi}")
        if meta.get("split") != task.split:
            reason = (
                "trained on another split of subjects" if "split" in meta else "does not say whom it was trained on"
            )
            raise LeakageError(
                f"{path}: {reason}, so it may know the knees of fold {fold}; needs a snapshot of this experiment, "
                "trained on these data with this seed and number of folds"
            )
        net = build_network(meta["network"])
        net.load_state_dict(network_weights(weights))
        yield task, net.eval()


@torch.inference_mode()
def locate(net: LandmarkNet, samples: Sequence[LandmarkSample], size: tuple[int, int]) -> NDArray[np.float64]:
    """Locate the landmarks of samples, seen as in validation.

    Parameters
    ----------
    net : LandmarkNet
        In evaluation mode.
    samples : sequence of LandmarkSample
        N of them.
    size : (int, int)
        Width and height of what the network sees: the middle of each picture.

    Returns
    -------
    ndarray, shape (N, M, 2)
        (x, y) in pixels of the samples' own pictures.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = net.to(device)
    found = []
    loader = DataLoader(LandmarkDataset(samples, validation_transform(size)), batch_size=_BATCH)
    for batch in tqdm(loader, "knees", unit="batch", leave=False, disable=None):
        points = net(batch["picture"].to(device)).points.float().cpu() - batch["points"]
        found.append(points.double().numpy())
    # cutting the middle out moves the true points as it moves the found ones: the offsets from them stay
    return np.concatenate(found) + np.stack([sample.points for sample in samples])


def save_pictures(samples: Sequence[LandmarkSample], folder: Path | None, spacing_mm: float) -> None:
    """Write the pictures of knees as ``{subject_id}_{kl}_{side}.png``; without a folder, nothing.

    Parameters
    ----------
    samples : sequence of LandmarkSample
        The knees.
    folder : Path or None
        Made if it is not there.
    spacing_mm : float
        mm per pixel.
    """
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for sample in samples:
        save_roi(folder / f"{sample.subject_id}_{sample.kl}_{sample.side}.png", sample.picture, spacing_mm)


def gather(
    name: str, samples: Sequence[LandmarkSample], fold: str, spacing_mm: float, points: NDArray[np.float64]
) -> Predictions:
    """Put predicted points beside the knees that they are of.

    Parameters
    ----------
    name : str
        Name of the experiment.
    samples : sequence of LandmarkSample
        N knees.
    fold : str
        Which fold held them out.
    spacing_mm : float
        mm per pixel.
    points : ndarray, shape (N, M, 2)
        As `locate` gives them.

    Returns
    -------
    Predictions
        With the samples' own points as truth.
    """
    truth = np.stack([sample.points for sample in samples])
    return Predictions(name, _knees(samples, fold, spacing_mm), points, truth)


def _knees(samples: Sequence[LandmarkSample], fold: str, spacing_mm: float) -> pd.DataFrame:
    rows = [(fold, sample.subject_id, sample.side, sample.kl, spacing_mm) for sample in samples]
    return pd.DataFrame(rows, columns=["fold", "subject_id", "side", "kl", "mm_per_px"])


def _check_doubled(knees: pd.DataFrame) -> None:
    """Refuse a knee that is there in several pictures, such as a crop and a collage of it."""
    twice = doubled(knees)
    if twice:
        raise PredictionError(f"{len(twice)} knees would be predicted more than once: {', '.join(twice[:10])}")


def _check_once(knees: pd.DataFrame, everybody: pd.DataFrame) -> None:
    """See that every knee was predicted once."""
    _check_doubled(knees)
    keys = (set(zip(table.subject_id, table.side, strict=True)) for table in (everybody, knees))
    never = sorted(" ".join(knee) for knee in set.difference(*keys))
    if never:
        raise PredictionError(f"{len(never)} knees are in no held-out fold: {', '.join(never[:10])}")
