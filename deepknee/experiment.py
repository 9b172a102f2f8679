"""What the YAML file of a grading experiment may say."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from deepknee.augment import Augmentation
from deepknee.intensity import Contrast
from deepknee.networks import ModelSettings, SiameseSettings
from deepknee.patches import PatchGeometry
from deepknee.sources import Source
from kneel.engine.config import Settings, TrainingConfig


class Sampling(Settings):
    """Which knees make an epoch.

    Attributes
    ----------
    balanced
        Draw with replacement, rare grades more often; otherwise every knee once, in random order.
    power
        How much more often, where it is balanced: a knee's chance is the number of knees of its grade to the power of
        minus this. 1 draws every grade as often.
    samples
        Number of draws of an epoch, where it is balanced; None draws as often as there are knees.
    """

    balanced: bool = True
    power: float = Field(1.0, gt=0, le=1)
    samples: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _no_idle_options(self) -> Self:
        for name, idle in (("samples", None), ("power", 1.0)):
            if getattr(self, name) != idle and not self.balanced:
                raise ValueError(f"{name} = {getattr(self, name)} acts only with balanced = true")
        return self


class LabelTable(Settings):
    """Labels from elsewhere; see `deepknee.label_table`.

    Attributes
    ----------
    table
        CSV in the folder of the training knees.
    share
        Weight of its probabilities; the (soft) true grade has the rest.
    """

    table: str = Field("labels.csv", min_length=1)
    share: float = Field(0.5, gt=0, le=1)


class GradingExperiment(Settings):
    """A grading experiment: what its YAML file may say.

    Attributes
    ----------
    task
        Always ``kl``.
    ensemble
        Name under which trainings with the same data and geometry are read as one ensemble, such as three seeds or
        networks of several kinds, each in a file of its own; None reads the folds of this file only. A file whose
        base names one must say it too, or null.
    data
        Where the knees come from.
    folds
        Number of folds, where the data have no validation set.
    contrast
        What happens to grey levels; see `deepknee.intensity.Intensity`.
    label_spread
        Standard deviation in grades of soft labels (`deepknee.labels.soft_labels`); 0 trains on the grade alone.
    labels
        Probabilities from elsewhere that are mixed with these; None: the grades alone.
    mixup_alpha
        Parameter of the Beta distribution of mixup (Zhang et al. 2018; `kneel.engine.mixup`); None mixes nothing.
    transfer
        Experiment of the same split and network whose best weights, of the same fold, training starts from.
    geometry, model, augmentation, sampling, training
        Each with its own attributes.
    """

    own_keys: ClassVar[tuple[str, ...]] = ("ensemble",)  # or a trial would be read with the networks of its base

    task: Literal["kl"]
    ensemble: str | None = Field(None, min_length=1)
    data: Source
    folds: int = Field(5, ge=2)
    contrast: Contrast = "film"
    label_spread: float = Field(0.0, ge=0)
    labels: LabelTable | None = None
    mixup_alpha: float | None = Field(None, gt=0)
    transfer: str | None = None
    geometry: PatchGeometry = PatchGeometry()
    model: ModelSettings = SiameseSettings()
    augmentation: Augmentation = Augmentation()
    sampling: Sampling = Sampling()
    training: TrainingConfig

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.model.view(self.geometry)
        if self.augmentation.jitter_px > self.geometry.margin:
            jitter, margin = self.augmentation.jitter_px, self.geometry.margin
            raise ValueError(f"augmentation.jitter_px = {jitter}: the rim around geometry.crop is {margin} pixels")
        return self
