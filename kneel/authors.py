"""Experiment files as KNEEL's authors publish them, read as experiments of ours.

Their files hold the sections ``experiment``, ``transforms``, ``model``, ``training`` and ``loss``, each a list of maps
of one key. In which section a key stands does not matter here. A key that is not named below is an error.

================================= =====================================================================
theirs                            ours
================================= =====================================================================
annotations                       task, if ``lc`` or ``hc``; if a table, data.annotations, and the task is that of
                                  the folder, ``lc_experiments`` or ``hc_experiments``
meta, metadata                    data.annotations
lc_spacing, hc_spacing            roi.spacing_mm, that of the task
crop_x, crop_y                    roi.size
pad_x, pad_y                      augment.shift: a random crop out of the padded picture moves it by up to
                                  (pad - crop) / 2 pixels; the larger of the two as a share of the crop
gamma_min, gamma_max              augment.gamma
cutout                            augment.cutout, the side as a share; ``True`` is their default, 0.1
use_target_jitter, target_jitter  augment.jitter, pixels; 1.3 if no number is given
base_width, hg_depth              model.width, model.depth
multiscale_hg                     model.block
use_se, se_ratio                  model.se_ratio
init_model_from                   transfer: the last part of the path
loss_type                         loss.kind
wing_w, wing_c                    loss.width, loss.curvature: the numbers are taken in pixels. Their code applies
                                  them to shares of the picture, where the logarithm of w = 15 never ends
loss_weight                       loss.l2_share
alpha_robust, c_robust            loss.alpha_init, loss.scale_init (a share of the picture, here times crop_x)
use_mixup, mixup_alpha            mixup.alpha of variant kneel
lr, wd, bs, n_epochs (n_epoch)    training.learning_rate, .weight_decay, .batch_size, .epochs
optim (optimizer)                 training.optimizer
lr_drop, learning_rate_decay      training.milestones, training.gamma
use_swa, swa_lr                   training.swa_learning_rate
swa_start, swa_freq               training.swa_start, .swa_frequency: theirs count optimizer steps, here rounded to
                                  epochs of 598 knees (four fifths of their table)
seed, n_folds, n_threads          training.seed, folds, training.num_workers
================================= =====================================================================

Not honoured: ``fold``, ``dataset_root``, ``workdir``, ``snapshots``, ``logs`` (options of our commands); ``img_pad``
(the table's own 100 pixels, which `kneel.imaging.schema` takes off); ``use_drop`` (their network never read it and
always dropped 0.25); ``alpha_robust_min`` and ``alpha_robust_max`` (0 and 2 here); ``val_bs``, ``multi_gpu``,
``start_val``, ``lr_min`` and the addresses of visdom. What their files leave to the code (rotation, noise, blur ...) is
that of ``hc_experiments/base.yaml`` and ``lc_experiments/base.yaml``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from kneel.engine.config import ConfigError, load_config
from kneel.experiment import LandmarkExperiment

LOG = logging.getLogger(__name__)

SECTIONS = ("experiment", "transforms", "model", "training", "loss")
_MAPPED = """
annotations meta metadata lc_spacing hc_spacing crop_x crop_y pad_x pad_y gamma_min gamma_max cutout use_target_jitter
target_jitter base_width hg_depth multiscale_hg use_se se_ratio init_model_from loss_type wing_w wing_c loss_weight
alpha_robust c_robust use_mixup mixup_alpha lr wd bs n_epochs n_epoch optim optimizer lr_drop learning_rate_decay
use_swa swa_lr swa_start swa_freq seed n_folds n_threads
"""
_UNHONOURED = """
fold dataset_root workdir snapshots logs img_pad use_drop alpha_robust_min alpha_robust_max val_bs multi_gpu start_val
lr_min use_visdom visdom_server visdom_port
"""
MAPPED, UNHONOURED = frozenset(_MAPPED.split()), frozenset(_UNHONOURED.split())
TRAINING_KNEES = 598  # four fifths of the 748 in their table
_TABLE = "bf_landmarks_1_0.3.csv"
_JITTER, _CUTOUT = 1.3, 0.1  # pixels and share where a switch is on and no number is given
_AUGMENT = {"rotation": 15, "scale": [0.8, 1.3], "shear": 5, "noise": 0.05, "salt_pepper": 0.02, "blur": 1.5}


class AuthorsFile(BaseModel):
    """The sections of a file of theirs, as read."""

    model_config = ConfigDict(extra="ignore")

    experiment: Any = None
    transforms: Any = None
    model: Any = None
    training: Any = None
    loss: Any = None


def is_authors_file(path: Path) -> bool:
    """Say whether an experiment file is in the authors' form: at least one of its sections is a list.

    Parameters
    ----------
    path : Path
        A YAML file.

    Raises
    ------
    ConfigError
        It is no YAML file.
    """
    sections = load_config(path, AuthorsFile)
    return any(isinstance(getattr(sections, name), list) for name in SECTIONS)


def load_landmark_experiment(path: Path) -> LandmarkExperiment:
    """Read a landmark experiment, ours or the authors'.

    Parameters
    ----------
    path : Path
        A YAML file.

    Returns
    -------
    LandmarkExperiment
        Validated. Of a file of the authors' one line is logged: the keys that were mapped, and those that were not.

    Raises
    ------
    ConfigError
        One line: the file and the key that cannot be used.
    """
    if not is_authors_file(path):
        return load_config(path, LandmarkExperiment)
    flat = _flatten(load_config(path, _OnlySections), path)
    keys = _Keys(flat, path)
    settings = _translate(keys)
    try:
        experiment = LandmarkExperiment.model_validate_json(json.dumps(settings))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))} = {problem['input']}: {problem['msg']}" for problem in error.errors()
        )
        raise ConfigError(f"{path}: as an experiment of ours: {problems}") from None
    lists = (keys.read, MAPPED - keys.read, UNHONOURED)
    words = [", ".join(name for name in flat if name in names) or "none" for names in lists]
    LOG.warning("%s: the authors' form. Mapped: %s. Without effect here: %s. Not honoured: %s.", path, *words)
    return experiment


class _OnlySections(AuthorsFile):
    model_config = ConfigDict(extra="forbid")


def _flatten(file: AuthorsFile, path: Path) -> dict[str, Any]:
    """Put the keys of all sections into one mapping; refuse unknown and repeated ones."""
    flat: dict[str, Any] = {}
    for section in SECTIONS:
        content = getattr(file, section)
        if content is None:
            continue
        if not isinstance(content, list):
            raise ConfigError(f"{path}: {section}: must be a list of `- key: value`, as the other sections are")
        for item in content:
            if not isinstance(item, dict) or len(item) != 1:
                raise ConfigError(f"{path}: {section}: {item!r}: must be one `key: value`")
            ((name, value),) = item.items()
            if name not in MAPPED | UNHONOURED:
                raise ConfigError(f"{path}: {section}.{name}: unknown key")
            if name in flat:
                raise ConfigError(f"{path}: {section}.{name}: given twice")
            flat[name] = value
    return flat


@dataclass(frozen=True)
class _Keys:
    """Their keys, read by type; `read` are those that were asked for: of a loss that is not chosen, none are."""

    flat: Mapping[str, Any]
    path: Path
    read: set[str] = field(default_factory=set)

    def get(self, *names: str, default: Any) -> Any:
        """Value of the first name that is there."""
        given = [name for name in names if name in self.flat][:1]
        self.read.update(given)
        return self.flat[given[0]] if given else default

    def on(self, name: str) -> bool:
        """A switch: only true and false are taken."""
        value = self.get(name, default=False)
        if not isinstance(value, bool):
            raise ConfigError(f"{self.path}: {name} = {value!r}: must be True or False")
        return value

    def number(self, *names: str, default: float) -> float:
        """A number that is not negative."""
        value = self.get(*names, default=default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise ConfigError(f"{self.path}: {' or '.join(names)} = {value!r}: must be a number from 0")
        return value


def _translate(keys: _Keys) -> dict[str, Any]:
    """Settings of ours, as a YAML file of ours would give them."""
    task, table = _task(keys)
    settings: dict[str, Any] = {
        "task": task,
        "data": {"source": "kneel_csv", "annotations": table, "images": "hc_rois" if task == "hc" else "lc_films"},
        "roi": {
            "spacing_mm": keys.number(f"{task}_spacing", default=0.3 if task == "hc" else 1.0),
            "size": [keys.number("crop_x", default=450), keys.number("crop_y", default=450)],
        },
        "model": _model(keys),
        "augment": _augment(keys, task),
        "loss": _loss(keys),
        "folds": keys.number("n_folds", default=5),
        "training": _training(keys),
    }
    if keys.on("use_mixup"):
        settings["mixup"] = {"alpha": keys.number("mixup_alpha", default=0.75), "variant": "kneel"}
    start = keys.get("init_model_from", default="")
    if start:
        settings["transfer"] = PurePosixPath(str(start)).name
    return settings


def _task(keys: _Keys) -> tuple[str, str]:
    """Task and table; `annotations` names either."""
    named = str(keys.get("annotations", default=""))
    if named in ("lc", "hc"):
        return named, keys.get("meta", "metadata", default=_TABLE)
    folder = keys.path.resolve().parent.name.partition("_")[0]
    if named.endswith(".csv") and folder in ("lc", "hc"):
        return folder, named
    raise ConfigError(
        f"{keys.path}: annotations = {named!r}: must be lc or hc, or a .csv in a file in a folder lc_experiments or "
        "hc_experiments"
    )


def _model(keys: _Keys) -> dict[str, Any]:
    model = {
        "width": keys.number("base_width", default=24),
        "depth": keys.number("hg_depth", default=4),
        "block": "multiscale" if keys.on("multiscale_hg") else "regular",
    }
    return model | ({"se_ratio": keys.number("se_ratio", default=16)} if keys.on("use_se") else {})


def _augment(keys: _Keys, task: str) -> dict[str, Any]:
    augment: dict[str, Any] = _AUGMENT | ({"flip": 0.5} if task == "lc" else {})
    augment["gamma"] = [keys.number("gamma_min", default=0.5), keys.number("gamma_max", default=1.5)]
    rooms = []
    for axis in ("x", "y"):
        pad, crop = keys.number(f"pad_{axis}", default=520), keys.number(f"crop_{axis}", default=450)
        if not pad >= crop > 0:
            raise ConfigError(f"{keys.path}: pad_{axis} = {pad}: must not be below crop_{axis} = {crop}, nor that be 0")
        rooms.append((pad - crop) / (2 * crop))
    augment["shift"] = max(rooms)
    cutout = keys.get("cutout", default=False)
    augment["cutout"] = _CUTOUT * cutout if isinstance(cutout, bool) else keys.number("cutout", default=0)
    if keys.on("use_target_jitter"):
        augment["jitter"] = keys.number("target_jitter", default=_JITTER)
    return augment


def _loss(keys: _Keys) -> dict[str, Any]:
    """Only what acts with the kind: their files carry the parameters of all."""
    kind = keys.get("loss_type", default="wing")
    loss: dict[str, Any] = {"kind": kind}
    if kind == "wing":
        loss |= {"width": keys.number("wing_w", default=15.0), "curvature": keys.number("wing_c", default=3.0)}
    if kind == "elastic":
        loss["l2_share"] = keys.number("loss_weight", default=0.5)
    if kind == "robust":
        loss["alpha_init"] = keys.number("alpha_robust", default=1.0)
        loss["scale_init"] = keys.number("c_robust", default=0.01) * keys.number("crop_x", default=450)
    return loss


def _training(keys: _Keys) -> dict[str, Any]:
    epochs, batch = keys.number("n_epochs", "n_epoch", default=100), keys.number("bs", default=16)
    drops = keys.get("lr_drop", default=[50, 80])
    training: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch,
        "optimizer": str(keys.get("optim", "optimizer", default="adam")).lower(),
        "learning_rate": keys.number("lr", default=1e-3),
        "weight_decay": keys.number("wd", default=0.0),
        "milestones": drops if isinstance(drops, list) else [drops],
        "monitor": "error_mm",
        "mode": "min",
        "seed": keys.number("seed", default=42),
        "num_workers": keys.number("n_threads", default=0),
    }
    if training["milestones"]:
        training["gamma"] = keys.number("learning_rate_decay", default=0.1)
    if keys.on("use_swa"):
        steps = max(1, TRAINING_KNEES // max(1, int(batch)))  # they drop the last, smaller batch
        training["swa_start"] = round(keys.number("swa_start", default=0) / steps)
        training["swa_frequency"] = max(1, round(keys.number("swa_freq", default=1) / steps))
        if "swa_lr" in keys.flat:
            training["swa_learning_rate"] = keys.number("swa_lr", default=0)
    return training
