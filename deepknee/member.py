"""One grading network with all that it needs to read: settings, view of a ROI, snapshot."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator
from torch import Tensor

from deepknee.conformal import Conformal
from deepknee.intensity import Intensity
from deepknee.model import GradingNet
from deepknee.networks import ModelSettings, build_net
from deepknee.patches import PatchGeometry
from deepknee.unseen import UNKNOWN, Training
from deepknee.views import View, plain_pictures
from kneel.engine.config import Settings
from kneel.engine.snapshot import SnapshotError, load_snapshot

Mode = Literal["mean", "2018"]
LARGEST_TURN = 45  # degrees
Turn = Annotated[float, Field(ge=-LARGEST_TURN, le=LARGEST_TURN)]
TASK = "kl"


class GraderSettings(Settings):
    """What a snapshot says besides its weights, so that it can grade.

    Attributes
    ----------
    model
        Arguments of the network, and which kind it is.
    geometry
        ROI and patches.
    intensity
        Grey levels.
    temperature
        Divides the logits before the softmax; 1 leaves them as trained. Beside a `conformal` it was fitted for the same
        ensemble, and acts in no other.
    conformal
        What makes sets of grades from the probabilities of the ensemble; None where no threshold was fitted.
    mode
        How the answers of an ensemble are put together; see `Grader`.
    turns_deg
        Angles by which the ROI is also shown turned (`deepknee.views.turned`), degrees, counter-clockwise as seen: the
        probabilities are averaged over these looks too. For mode ``mean`` only.
    """

    model: ModelSettings
    geometry: PatchGeometry
    intensity: Intensity
    temperature: float = Field(1.0, gt=0)
    conformal: Conformal | None = None
    mode: Mode = "mean"
    turns_deg: tuple[Turn, ...] = ()

    @model_validator(mode="after")
    def _mean_of_turns(self) -> Self:
        if self.turns_deg and self.mode != "mean":
            raise ValueError(f"turns_deg = {self.turns_deg} acts only in mode mean, and mode is {self.mode}")
        return self


@dataclass(frozen=True, eq=False)
class Member:
    """One network of an ensemble.

    Attributes
    ----------
    net : GradingNet
        In evaluation mode.
    settings : GraderSettings
        How it is used.
    training : Training
        Whom it was trained on, as far as that is known.
    """

    net: GradingNet
    settings: GraderSettings
    training: Training = UNKNOWN

    @property
    def view(self) -> View:
        """What the network sees of a ROI."""
        return self.settings.model.view(self.settings.geometry)

    def pictures(self, rois: Tensor) -> tuple[Tensor, ...]:
        """Show ROIs, shape (B, 1, S, S) uint8, to the network: what its `GradingNet.features` takes."""
        return tuple(map(self.settings.intensity.standardize, plain_pictures(self.view, rois)))


def load_member(path: Path | str) -> Member:
    """Rebuild one network from its snapshot alone.

    Parameters
    ----------
    path : path_like
        Snapshot that `deepknee.train.train_grader` wrote.

    Raises
    ------
    SnapshotError
        The file cannot be read or is no grading snapshot.
    """
    weights, meta = load_snapshot(path)
    if meta.get("task") != TASK:
        raise SnapshotError(f"{path}: task is {meta.get('task')!r}, must be {TASK!r}")
    described = {key: meta[key] for key in GraderSettings.model_fields if key in meta}
    if described.get("conformal"):
        # thresholds once came without the turns that they were fitted with, which have always been stored beside them
        described["conformal"] = {"turns_deg": described.get("turns_deg", []), **described["conformal"]}
    try:
        # By way of JSON, as the settings are strict and JSON has no tuples.
        settings = GraderSettings.model_validate_json(json.dumps(described))
        net = build_net(settings.model)
        net.load_state_dict(weights)
    except (ValidationError, RuntimeError) as error:
        raise SnapshotError(f"{path}: does not describe a grading network: {error}") from error
    return Member(net.eval(), settings, Training.of_snapshot(str(path), meta))
