"""Settings of a landmark experiment: what its YAML file may say."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kneel.augment import AugmentSettings
from kneel.engine.config import Settings, TrainingConfig
from kneel.engine.mixup import Variant
from kneel.losses import LossSettings
from kneel.metrics import METRICS
from kneel.network import HourglassSettings
from kneel.sources import KneelSource, Source


class RoiSettings(Settings):
    """What the network sees.

    Attributes
    ----------
    spacing_mm : float
        mm per pixel.
    size : (int, int)
        Width and height in pixels.
    margin : float
        HC from films: how much further than 140 mm the stored ROI reaches, for shifts and rotations, as a share.
    """

    spacing_mm: float = Field(gt=0)
    size: tuple[Annotated[int, Field(ge=32)], Annotated[int, Field(ge=32)]]
    margin: float = Field(0.0, ge=0)


class MixupSettings(Settings):
    """Mixup; see `kneel.engine.mixup`.

    Attributes
    ----------
    alpha : float
        Parameter of the Beta distribution.
    variant : {"kneel", "zhang"}
        The authors' form or Zhang et al.'s.
    """

    alpha: float = Field(0.75, gt=0)
    variant: Variant = "kneel"


class LandmarkExperiment(Settings):
    """A landmark experiment file.

    Attributes
    ----------
    task : {"lc", "hc"}
        Joint centre on half films (1 point), or the 16 points on ROIs.
    data : Source
        Where the knees come from.
    roi : RoiSettings
        What the network sees.
    model : HourglassSettings
        Architecture.
    augment : AugmentSettings
        What is varied.
    loss : LossSettings
        What is minimised.
    mixup : MixupSettings or None
        Mixup, or none.
    transfer : str or None
        Name of the experiment in the same work folder whose best weights of the same fold the network starts from
        (all but the last layer).
    folds : int
        Folds of the cross-validation, when the data have no validation set of their own.
    training : TrainingConfig
        Optimizer, schedule, epochs, seed.
    """

    task: Literal["lc", "hc"]
    data: Source
    roi: RoiSettings
    model: HourglassSettings = HourglassSettings()
    augment: AugmentSettings = AugmentSettings()
    loss: LossSettings = LossSettings()
    mixup: MixupSettings | None = None
    transfer: str | None = None
    folds: int = Field(5, ge=2)
    training: TrainingConfig

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Refuse what cannot be, and what would do nothing."""
        monitor, mode = self.training.monitor, self.training.mode
        if METRICS.get(monitor) != mode:
            valid = ", ".join(f"{name} ({best})" for name, best in METRICS.items())
            raise ValueError(f"training.monitor = {monitor} with mode {mode}: must be one of {valid}")
        if self.augment.flip and self.task == "hc":
            raise ValueError(f"augment.flip = {self.augment.flip}: 16 landmarks have a lateral end; lc only")
        if self.roi.margin and (self.task == "lc" or isinstance(self.data, KneelSource)):
            raise ValueError(f"roi.margin = {self.roi.margin}: acts only where hc ROIs are cut from films or crops")
        return self
