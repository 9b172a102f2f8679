"""Training of the grading networks."""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset, WeightedRandomSampler

from deepknee.augment import TrainingPictures
from deepknee.dataset import GradedKnees, PatchDataset, TrainingDataset, load_split
from deepknee.experiment import GradingExperiment
from deepknee.intensity import Intensity
from deepknee.label_table import describe_labels, read_labels, teachers_marks
from deepknee.labels import soft_labels
from deepknee.member import TASK, GraderSettings
from deepknee.metrics import grading_metrics
from deepknee.model import GRADES, GradingNet
from deepknee.networks import build_net
from deepknee.resample import resampled_metrics
from deepknee.sketch import sketch_attention
from deepknee.source_tables import grading_tables
from deepknee.start import transfer_weights
from deepknee.views import View, plain_pictures
from kneel.bootstrap import EPOCH_RESAMPLES, SubjectBootstrap, ends
from kneel.engine.board import Board
from kneel.engine.config import ConfigError
from kneel.engine.fit import FitResult, fit
from kneel.engine.folds import merged_marks, split_digest, subject_marks
from kneel.engine.mixup import mixup_passes
from kneel.engine.parallel import whole_batch
from kneel.engine.precision import at_least_float32
from kneel.engine.reading import grey_statistics
from kneel.engine.transfer import start_of


class GradingTask:
    """The engine's view of a grading experiment (`kneel.engine.task.Task`).

    Parameters
    ----------
    experiment : GradingExperiment
        What to train.
    data_root : Path
        Folder that the experiment's data paths start from.
    name : str
        Name of the experiment.
    fold : int
        Held-out fold, where the data have no validation set of their own; 0 where they have one.
    transfer : Path, optional
        Snapshot of the experiment that this one starts from.
    """

    def __init__(
        self,
        experiment: GradingExperiment,
        data_root: Path,
        *,
        name: str,
        fold: int = 0,
        transfer: Path | None = None,
    ) -> None:
        folds = experiment.folds if experiment.data.val is None else 1
        if not 0 <= fold < folds:
            raise ConfigError(f"fold = {fold}: must be 0 to {folds - 1}")
        self.experiment, self.data_root, self.name, self.fold = experiment, data_root, name, fold
        self.transfer = transfer
        self.view: View = experiment.model.view(experiment.geometry)
        # known once the network is built
        self.started_from: str | None = None
        self._of_source: str = ""  # marks of whom those weights have learnt from

    @cached_property
    def knees(self) -> tuple[GradedKnees, GradedKnees]:
        """Training and validation knees, no subject in both."""
        experiment = self.experiment
        return load_split(
            self.data_root,
            experiment.data,
            experiment.geometry,
            experiment.contrast,
            folds=experiment.folds,
            fold=self.fold,
            seed=experiment.training.seed,
        )

    @cached_property
    def split(self) -> dict[str, str]:
        """Digest of the subjects of each part; see `kneel.engine.folds.split_digest`."""
        return split_digest(*(part.subjects for part in self.knees))

    @cached_property
    def settings(self) -> GraderSettings:
        """What the snapshot needs besides the weights; the intensity is measured on the training knees."""
        experiment = self.experiment
        mean, std = grey_statistics(picture for roi in self.knees[0].rois for picture in self.view.cut(roi))
        intensity = Intensity(contrast=experiment.contrast, mean=mean, std=std)
        return GraderSettings(model=experiment.model, geometry=experiment.geometry, intensity=intensity)

    def build_model(self) -> GradingNet:
        """Build the network, with the weights that it starts from."""
        net = build_net(self.experiment.model)
        self.started_from = self.experiment.model.start(net)
        if self.transfer is not None:
            self.started_from, self._of_source = transfer_weights(net, self.transfer, self.split)
        return net

    def train_dataset(self) -> Dataset[Any]:
        """Build the augmented training set."""
        pictures = TrainingPictures(self.view, self.experiment.augmentation)
        return TrainingDataset(self.knees[0], pictures, self._labels())

    def val_dataset(self) -> Dataset[Any]:
        """Build the validation set."""
        return PatchDataset(self.knees[1], partial(plain_pictures, self.view), self._soft(self.knees[1]))

    def _soft(self, knees: GradedKnees) -> Tensor:
        return soft_labels(torch.from_numpy(knees.grades), self.experiment.label_spread)

    def _labels(self) -> Tensor:
        """Return what the training knees are to be taken for, (N, 5)."""
        train, val = self.knees
        labels, given = self._soft(train), self.experiment.labels
        if given is None or self._table is None:
            return labels
        return labels.lerp(torch.from_numpy(read_labels(self._table, train, self._table.parent, val)), given.share)

    @property
    def _table(self) -> Path | None:
        """Labels from elsewhere, where the experiment has any."""
        given = self.experiment.labels
        return None if given is None else self.data_root / self.experiment.data.train / given.table

    def train_sampler(self, dataset: Dataset[Any], generator: torch.Generator) -> WeightedRandomSampler | None:
        """Draw the epoch's knees, rare grades more often; None leaves the order to the engine."""
        sampling = self.experiment.sampling
        if not sampling.balanced:
            return None
        grades = self.knees[0].grades
        weights = np.bincount(grades)[grades] ** -sampling.power
        return WeightedRandomSampler(weights.tolist(), sampling.samples or len(grades), generator=generator)

    def training_loss(self, model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        """Return the loss of this kind of network, of a batch that is mixed up if asked."""
        *pictures, labels, grades = batch
        alpha = self.experiment.mixup_alpha
        if alpha is None:
            return self._loss(self._outputs(model, pictures), labels, grades)
        # both patches of a knee lie in one image, so that they are mixed with those of the same other knee
        (mixed,) = mixup_passes(torch.cat(pictures, dim=1), alpha=alpha, variant="zhang")
        outputs = self._outputs(model, mixed.images.split(1, dim=1))
        total = outputs.new_zeros(())
        for weight, order in mixed.targets:
            truth = (labels, grades) if order is None else (whole_batch(labels)[order], whole_batch(grades)[order])
            total = total + weight * self._loss(outputs, *truth)
        return total

    def predict(self, model: nn.Module, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        """Grade a batch; of each knee also what training minimises."""
        *pictures, labels, grades = batch
        outputs = self._outputs(model, pictures)
        each = zip(outputs.split(1), labels.split(1), grades.split(1), strict=True)
        losses = [self._loss(*knee) for knee in each]
        return {"probabilities": outputs[:, :GRADES].softmax(1), "grades": grades, "loss": torch.stack(losses)}

    def metrics(self, outputs: Mapping[str, NDArray]) -> dict[str, float]:
        """Judge the validation set."""
        metrics = grading_metrics(outputs["probabilities"], outputs["grades"])
        return {**metrics, "val_loss": float(outputs["loss"].mean())}

    def intervals(self, outputs: Mapping[str, NDArray]) -> dict[str, tuple[float, float]]:
        """Say between which numbers the metrics lie: 95 % bootstrap over subjects."""
        bootstrap = self._val_bootstrap
        chances = np.asarray(outputs["probabilities"], np.float64)
        resampled = resampled_metrics(chances / chances.sum(1, keepdims=True), outputs["grades"], bootstrap)
        resampled["val_loss"] = bootstrap.means(outputs["loss"])[1]
        return {name: ends(resampled[name]) for name in self.metrics(outputs)}

    @cached_property
    def _val_bootstrap(self) -> SubjectBootstrap:
        return SubjectBootstrap(self.knees[1].subjects, resamples=EPOCH_RESAMPLES)

    def pictures(self, model: nn.Module, batch: Sequence[Tensor]) -> list[NDArray[np.uint8]]:
        """Draw Grad-CAM of the likeliest grade on what the network sees of the knees of a batch."""
        *pictures, _, grades = batch
        return sketch_attention(cast(GradingNet, model), self.view, pictures, grades, self.settings.intensity)

    def describe(self) -> dict[str, Any]:
        """Say what rebuilds and uses the network, and what it was trained on."""
        taught_by = [] if self._table is None else teachers_marks(self._table)
        parts = zip(("train", "val"), self.knees, strict=True)
        return {
            "task": TASK,
            "name": self.name,
            "experiment": self.experiment.model_dump(mode="json", exclude={"training"}),
            "fold": self.fold,
            "split": self.split,
            "tables": grading_tables(self.experiment, self.data_root),
            "trained_on": merged_marks([subject_marks(self.knees[0].subjects), self._of_source, *taught_by]),
            "chosen_on": subject_marks(self.knees[1].subjects),
            **self.settings.model_dump(mode="json", exclude={"turns_deg"}),  # comes with calibration
            "knees": {part: np.bincount(knees.grades, minlength=GRADES).tolist() for part, knees in parts},
            **({"started_from": self.started_from} if self.started_from else {}),
            **({"labels": describe_labels(self._table)} if self._table else {}),
        }

    def _loss(self, outputs: Tensor, labels: Tensor, grades: Tensor) -> Tensor:
        """Return what training minimises, the mean over knees."""
        return self.experiment.model.loss(outputs, grades, labels.to(outputs.dtype))

    def _outputs(self, model: nn.Module, pictures: Sequence[Tensor]) -> Tensor:
        """Return the logits of knees, and behind them what else the kind's loss needs."""
        return at_least_float32(model(*map(self.settings.intensity.standardize, pictures)))


def train_grader(
    experiment: GradingExperiment,
    data_root: Path,
    workdir: Path,
    *,
    name: str,
    fold: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    board: Board | None = None,
) -> FitResult:
    """Train one fold of a grading experiment into ``workdir/name/fold_{fold}``.

    Parameters
    ----------
    experiment : GradingExperiment
        What to train.
    data_root, workdir : Path
        Where the data are, and where all runs go.
    name : str
        Name of the experiment.
    fold : int
        Held-out fold; 0 where the data have a validation set of their own.
    resume, overwrite, board
        As in `kneel.engine.fit.fit`.

    Returns
    -------
    FitResult
        Best epoch and snapshots.

    Raises
    ------
    DatasetError, LeakageError
        The data cannot be used.
    FileNotFoundError, RunUnfinished
        The experiment that this one starts from was not trained yet, or not to its end.
    """
    transfer = start_of(name, experiment.transfer, workdir, fold)
    task = GradingTask(experiment, data_root, name=name, fold=fold, transfer=transfer)
    return fit(
        task,
        experiment.training,
        workdir / name,
        name=f"fold_{fold}",
        resume=resume,
        overwrite=overwrite,
        board=board,
    )
