"""Weights that KNEEL's authors trained, as snapshots of ours.

Their file of a fold is ``{'model': state dict, 'optimizer': ..., 'loss': ...}``; beside the folds lies
``mean_std.npy``, mean and standard deviation of each colour channel on the 0..255 scale. Nothing is unpickled but
tensors.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from kneel.engine.foreign import ConversionError, check_state, load_array, load_plain, state_dict_in
from kneel.engine.provenance import code_version
from kneel.experiment import LandmarkExperiment
from kneel.network import LandmarkNet, build_network, network_arguments
from kneel.shape import MeanShape
from kneel.train import LANDMARKS

ALIKE = 1e-3  # channels of a grey picture differ by less, on the 0..255 scale


def read_fold(path: Path) -> dict[str, Tensor]:
    """Read the network of one fold.

    Parameters
    ----------
    path : Path
        ``.pth`` file of the authors.

    Returns
    -------
    dict of str to Tensor
        Their state dict, without the ``module.`` that training on several GPUs puts before every name.

    Raises
    ------
    ConversionError
        The file cannot be read without running code, or holds no network.
    """
    content = load_plain(path, "{'model': state dict}")
    if not isinstance(content, dict) or "model" not in content:
        found = ", ".join(map(str, list(content)[:4])) if isinstance(content, dict) else type(content).__name__
        raise ConversionError(f"{path}: no key 'model'; found {found}")
    return state_dict_in(content["model"], f"{path}: key 'model'")


def read_mean_std(path: Path) -> tuple[float, float]:
    """Read their normalisation.

    Parameters
    ----------
    path : Path
        ``.npy`` of two rows, means and standard deviations, one column a channel, on the 0..255 scale.

    Returns
    -------
    mean, std : float
        On the [0, 1] scale.

    Raises
    ------
    ConversionError
        It is no such file, or its channels differ, as those of a grey picture cannot.
    """
    values = load_array(path)
    if values.ndim != 2 or values.shape[0] != 2 or values.dtype.kind != "f" or not np.isfinite(values).all():
        raise ConversionError(
            f"{path}: holds {values.dtype} of shape {values.shape}: must be 2 rows, mean and std, a column a channel"
        )
    if np.ptp(values, axis=1).max() > ALIKE:
        raise ConversionError(f"{path}: the channels differ, {values.tolist()}: a grey picture has three like ones")
    mean, std = values.mean(axis=1, dtype=float)
    if not (1 < mean < 255 and 1 < std < 255):
        raise ConversionError(f"{path}: mean {mean:.4g}, std {std:.4g}: must be on the 0..255 scale")
    return float(mean / 255), float(std / 255)


def build(path: Path, experiment: LandmarkExperiment, mean_std: tuple[float, float]) -> tuple[LandmarkNet, dict]:
    """Rebuild a network of the authors.

    Parameters
    ----------
    path : Path
        ``.pth`` of one fold.
    experiment : LandmarkExperiment
        What it was trained with: task and architecture. Three channels, aligned corners and the corner grid of the
        soft-argmax are theirs in any case.
    mean_std : (float, float)
        On the [0, 1] scale.

    Returns
    -------
    net : LandmarkNet
        In evaluation mode.
    arguments : dict
        What `kneel.network.build_network` makes it from.

    Raises
    ------
    ConversionError
        A key is missing, unknown or of another shape.
    """
    theirs = {"channels": 3, "align_corners": True, "grid": "corner"}
    settings = experiment.model.model_copy(update=theirs)
    arguments = network_arguments(LANDMARKS[experiment.task], *mean_std, settings)
    net = build_network(arguments)
    state, needed = read_fold(path), net.net.state_dict()
    advice = f"is {experiment.task}, {settings.block}, width {settings.width}, se_ratio {settings.se_ratio} its model?"
    check_state(state, needed, path, advice, key="model")
    net.net.load_state_dict(state)
    return net.eval(), arguments


def describe(
    path: Path,
    experiment: LandmarkExperiment,
    arguments: dict[str, Any],
    *,
    name: str,
    spread_mm: float,
    spread_from: str,
    shape: MeanShape | None,
) -> dict[str, Any]:
    """Describe a converted network as training describes its own, as far as it can be known.

    Parameters
    ----------
    path : Path
        ``.pth``; the number behind ``fold_`` in its name is its fold.
    experiment : LandmarkExperiment
        What it was trained with.
    arguments : dict
        From `build`.
    name : str
        Name of the experiment.
    spread_mm : float
        Mean width of the heat maps on ordinary knees, mm.
    spread_from : str
        Where that figure comes from.
    shape : MeanShape or None
        Mean knee (landmark stage).

    Returns
    -------
    dict
        Metadata for `kneel.engine.snapshot.save_snapshot`. Without errors of the network, and without the split of
        the subjects: neither is in the authors' file.

    Raises
    ------
    ConversionError
        The name of the file says no fold.
    """
    fold = re.search(r"fold_(\d+)", path.name)
    if fold is None:
        raise ConversionError(f"{path}: the name must say the fold, as kneel_hc_fold_0.pth does")
    settings = experiment.model_dump(mode="json", exclude={"training"})
    described = {
        "task": experiment.task,
        "name": name,
        "experiment": settings | {"model": arguments["settings"]},
        "fold": int(fold[1]),
        "network": arguments,
        "roi": experiment.roi.model_dump(mode="json"),
        "metrics": {"spread_mm": spread_mm},
        "spread_from": spread_from,
        "converted_from": {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
        "code": code_version(),
    }
    if shape is not None:
        described["shape"] = {"points": shape.points.round(4).tolist(), "residual": round(shape.residual, 4)}
    return described
