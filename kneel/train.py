"""Training of the landmark networks: the joint centre (``lc``) and the 16 points (``hc``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from kneel.augment import TrainingTransform, validation_transform
from kneel.bootstrap import EPOCH_RESAMPLES, SubjectBootstrap, mean_intervals
from kneel.dataset import AugmentedDataset, LandmarkDataset, LandmarkSample
from kneel.engine.board import Board
from kneel.engine.config import ConfigError
from kneel.engine.fit import FitResult, fit
from kneel.engine.folds import check_leakage, check_pictures, grouped_folds, split_digest, subject_marks
from kneel.engine.mixup import Pass, mixup_passes
from kneel.engine.parallel import batch_mean, whole_batch
from kneel.engine.reading import grey_statistics
from kneel.engine.same import digests
from kneel.engine.snapshot import load_snapshot
from kneel.engine.transfer import start_of, weights_digest, weights_of_split
from kneel.experiment import LandmarkExperiment
from kneel.losses import build_criterion, visible_mean
from kneel.metrics import error_intervals, error_summary, radial_errors
from kneel.network import CRITERION, LandmarkNet, Located, build_network, network_arguments, network_weights
from kneel.samples import Split, load_samples
from kneel.shape import MeanShape
from kneel.sketch import sketch_points
from kneel.sources import tables_of

LANDMARKS = {"lc": 1, "hc": 16}


class LandmarkTask:
    """The engine's view of a landmark experiment (`kneel.engine.task.Task`).

    Parameters
    ----------
    experiment : LandmarkExperiment
        What to train.
    data_root : Path
        Folder that the experiment's data paths start from.
    name : str
        Name of the experiment.
    fold : int
        Held-out fold, where the data have no validation set of their own; 0 where they have one.
    transfer : Path or None
        Snapshot to start from.
    """

    def __init__(
        self,
        experiment: LandmarkExperiment,
        data_root: Path,
        *,
        name: str,
        fold: int = 0,
        transfer: Path | None = None,
    ) -> None:
        folds = 1 if experiment.data.val is not None else experiment.folds
        if not 0 <= fold < folds:
            raise ConfigError(f"fold = {fold}: must be 0 to {folds - 1}")
        self.experiment, self.name, self.fold = experiment, name, fold
        self.data_root, self.transfer = data_root, transfer

    @cached_property
    def samples(self) -> tuple[list[LandmarkSample], list[LandmarkSample]]:
        """Training and validation samples, no subject in both."""
        train = self._load("train")
        if self.experiment.data.val is not None:
            val = self._load("val")
            check_leakage([s.subject_id for s in train], [s.subject_id for s in val])
            _check_pictures(train, val)
            return train, val
        groups, grades = [s.subject_id for s in train], [s.kl for s in train]
        split = grouped_folds(groups, grades, self.experiment.folds, self.experiment.training.seed)[self.fold]
        kept, held = ([train[i] for i in part] for part in split)
        _check_pictures(kept, held)
        return kept, held

    def _load(self, split: Split) -> list[LandmarkSample]:
        roi = self.experiment.roi
        return load_samples(
            self.data_root,
            self.experiment.data,
            split,
            self.experiment.task,
            spacing_mm=roi.spacing_mm,
            margin=roi.margin,
        )

    @cached_property
    def split(self) -> dict[str, str]:
        """Digest of the subjects of each part; see `kneel.engine.folds.split_digest`."""
        return split_digest(*([sample.subject_id for sample in part] for part in self.samples))

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """What rebuilds the network, its normalisation included."""
        mean, std = grey_statistics([sample.picture for sample in self.samples[0]])
        return network_arguments(LANDMARKS[self.experiment.task], mean, std, self.experiment.model)

    @cached_property
    def criterion(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Loss of each coordinate; a module where it has something to learn."""
        return build_criterion(self.experiment.loss, LANDMARKS[self.experiment.task])

    def build_model(self) -> LandmarkNet:
        """Build the network, on transferred weights if there are any; what the loss learns is trained with it."""
        net = build_network(self.arguments)
        if isinstance(self.criterion, nn.Module):
            net.add_module(CRITERION, self.criterion)
        if self.transfer is not None:
            weights, _ = weights_of_split(self.transfer, self.split)
            body = {name: value for name, value in network_weights(weights).items() if ".out_block." not in name}
            own = net.state_dict()
            odd = [name for name in body if name not in own or own[name].shape != body[name].shape]
            if odd:
                raise ConfigError(f"{self.transfer}: {odd[0]} does not fit; model must be as in that experiment")
            net.load_state_dict(body, strict=False)
        return net

    def train_dataset(self) -> Dataset[Any]:
        """Build the augmented training set."""
        return AugmentedDataset(self.samples[0], TrainingTransform(self.experiment.augment, self.experiment.roi.size))

    def val_dataset(self) -> Dataset[Any]:
        """Build the validation set."""
        dataset = LandmarkDataset(self.samples[1], validation_transform(self.experiment.roi.size))
        hidden = [s.subject_id for s, item in zip(self.samples[1], dataset, strict=True) if not item["visible"].all()]
        if hidden:
            subjects = ", ".join(sorted(set(hidden)))
            raise ConfigError(f"roi.size = {self.experiment.roi.size}: leaves landmarks outside, subjects {subjects}")
        return dataset

    def train_sampler(self, dataset: Dataset[Any], generator: torch.Generator) -> None:
        """Leave the order to the engine: every sample once an epoch."""

    def training_loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Iterator[Tensor]:
        """Loss of the points inside the picture, mixed up if asked: one term for each pass through the network."""
        mixup, pictures = self.experiment.mixup, batch["picture"]
        passes: Iterable[Pass] = [Pass(pictures, ((1.0, None),))]
        if mixup is not None:
            passes = mixup_passes(pictures, alpha=mixup.alpha, variant=mixup.variant)
        seen = batch_mean(batch["visible"].sum(1))  # in the whole batch, which mixup permutes and does not change
        for images, targets in passes:
            located = model(images)
            yield torch.stack([weight * self._loss(located, batch, order, seen) for weight, order in targets]).sum()

    def _loss(self, located: Located, batch: dict[str, Tensor], order: Tensor | None, seen: Tensor) -> Tensor:
        points, visible = batch["points"], batch["visible"]
        if order is not None:
            points, visible = whole_batch(points)[order], whole_batch(visible)[order]
        error = visible_mean(self.criterion(located.points, points), visible, seen)
        return error + self.experiment.loss.spread * visible_mean(located.spread[..., None], visible, seen)

    def predict(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Locate the points of a batch; of each knee also what training minimises, of which no point is left out."""
        located = model(batch["picture"])
        loss = self.criterion(located.points, batch["points"]).mean((1, 2))
        loss = loss + self.experiment.loss.spread * located.spread.mean(1)
        return {"points": located.points, "truth": batch["points"], "spread": located.spread, "loss": loss}

    def metrics(self, outputs: Mapping[str, NDArray]) -> dict[str, float]:
        """Summarise the errors over the validation set, in mm."""
        means = {name: float(values.mean()) for name, values in self._by_knee(outputs).items()}
        return {**error_summary(self._errors(outputs)), **means}

    def intervals(self, outputs: Mapping[str, NDArray]) -> dict[str, tuple[float, float]]:
        """Say between which numbers the metrics lie: 95 % bootstrap over subjects."""
        subjects = self._val_bootstrap
        return error_intervals(self._errors(outputs), subjects) | mean_intervals(self._by_knee(outputs), subjects)

    @cached_property
    def _val_bootstrap(self) -> SubjectBootstrap:
        return SubjectBootstrap([sample.subject_id for sample in self.samples[1]], resamples=EPOCH_RESAMPLES)

    def _errors(self, outputs: Mapping[str, NDArray]) -> NDArray[np.float64]:
        return radial_errors(outputs["points"], outputs["truth"], self.experiment.roi.spacing_mm)

    def _by_knee(self, outputs: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Return the metrics that are means over knees, as numbers of each knee."""
        return {"spread_mm": outputs["spread"].mean(1) * self.experiment.roi.spacing_mm, "val_loss": outputs["loss"]}

    def pictures(self, model: nn.Module, batch: dict[str, Tensor]) -> list[NDArray[np.uint8]]:
        """Draw truth and prediction on the pictures of a batch."""
        located = model(batch["picture"])
        parts = (batch["picture"][:, 0], located.points, batch["points"])
        arrays = (part.float().cpu().numpy() for part in parts)
        return [sketch_points(*knee, mm_per_px=self.experiment.roi.spacing_mm) for knee in zip(*arrays, strict=True)]

    def describe(self) -> dict[str, Any]:
        """Say what rebuilds and uses the network: task, experiment, network arguments with normalisation, ROI."""
        described = {
            "task": self.experiment.task,
            "name": self.name,
            "experiment": self.experiment.model_dump(mode="json", exclude={"training"}),
            "fold": self.fold,
            "network": self.arguments,
            "roi": self.experiment.roi.model_dump(mode="json"),
            "split": self.split,
            "tables": digests(self.data_root, tables_of(self.experiment.data)),
            **{
                marks: subject_marks(sample.subject_id for sample in part)
                for marks, part in zip(("trained_on", "chosen_on"), self.samples, strict=True)
            },
            "transfer": None if self.transfer is None else weights_digest(load_snapshot(self.transfer)[0]),
            "subjects": dict(
                zip(("train", "val"), (len({s.subject_id for s in part}) for part in self.samples), strict=True)
            ),
        }
        if self.experiment.task == "hc":
            shape = MeanShape.of(sample.points * self.experiment.roi.spacing_mm for sample in self.samples[0])
            described["shape"] = {"points": shape.points.round(4).tolist(), "residual": round(shape.residual, 4)}
        return described


def _check_pictures(*parts: list[LandmarkSample]) -> None:
    check_pictures(*([(f"subject {s.subject_id}, knee {s.side}", s.picture) for s in part] for part in parts))


def train_landmarks(
    experiment: LandmarkExperiment,
    data_root: Path,
    workdir: Path,
    *,
    name: str,
    fold: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    board: Board | None = None,
) -> FitResult:
    """Train one fold of a landmark experiment into ``workdir/name/fold_{fold}``.

    Parameters
    ----------
    experiment : LandmarkExperiment
        What to train.
    data_root, workdir : Path
        Where the data are, and where all runs go.
    name : str
        Name of the experiment.
    fold : int
        Held-out fold.
    resume, overwrite, board
        As in `kneel.engine.fit.fit`.

    Returns
    -------
    FitResult
        Best epoch and snapshots.

    Raises
    ------
    FileNotFoundError, RunUnfinished
        The experiment that this one starts from was not trained yet, or not to its end.
    """
    transfer = start_of(name, experiment.transfer, workdir, fold)
    task = LandmarkTask(experiment, data_root, name=name, fold=fold, transfer=transfer)
    return fit(
        task,
        experiment.training,
        workdir / name,
        name=f"fold_{fold}",
        resume=resume,
        overwrite=overwrite,
        board=board,
    )
