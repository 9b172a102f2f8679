"""Grade knees with any number of networks.

Dimensions: N knees, S ROI pixels, P patch pixels.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from torch import Tensor

from deepknee.attention import (
    BLUR_MM,
    METHODS,
    SMOOTH_MM,
    Maps,
    Method,
    blur_rois,
    enlarge,
    ensemble_gradcam,
    ensemble_hirescam,
    fade_edges,
    normalize_maps,
    pixel_shares,
    smooth_maps,
)
from deepknee.conformal import Conformal
from deepknee.intensity import Intensity, adjust_contrast
from deepknee.model import GRADES, GradingNet
from deepknee.networks import ModelSettings, build_net
from deepknee.patches import PatchGeometry
from deepknee.views import Compartments, View, plain_pictures
from kneel.engine.config import Settings
from kneel.engine.snapshot import SnapshotError, load_snapshot
from kneel.imaging.geometry import RoiFrame, Side, Spacing

Mode = Literal["mean", "2018"]
Same = TypeVar("Same")
TASK = "kl"
_BATCH = 32  # knees at a time, so that a folder of ROIs does not fill the memory


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
        Divides the logits before the softmax; 1 leaves them as trained.
    conformal
        What makes sets of grades from the probabilities of the ensemble; None where no threshold was fitted.
    mode
        How the answers of an ensemble are put together; see `Grader`.
    """

    model: ModelSettings
    geometry: PatchGeometry
    intensity: Intensity
    temperature: float = Field(1.0, gt=0)
    conformal: Conformal | None = None
    mode: Mode = "mean"


@dataclass(frozen=True, eq=False)
class Member:
    """One network of an ensemble.

    Attributes
    ----------
    net : GradingNet
        In evaluation mode.
    settings : GraderSettings
        How it is used.
    """

    net: GradingNet
    settings: GraderSettings


@dataclass(frozen=True, eq=False)
class Grade:
    """Grades of N knees.

    Attributes
    ----------
    probabilities : ndarray, shape (N, 5), float64
        Of KL 0 to 4; every row sums to 1.
    attention : ndarray, shape (N, S, S), float32
        Where the likeliest grade comes from, on the grid of the ROI, in [0, 1]; 0 outside what the networks see.
    members : ndarray, shape (M, N, 5), float64, or None
        Probabilities of each network by itself.
    conformal : Conformal or None
        What `sets` and `abstain` come from; None where the snapshots hold no threshold for just this ensemble.
    """

    probabilities: NDArray[np.float64]
    attention: NDArray[np.float32]
    members: NDArray[np.float64] | None = None
    conformal: Conformal | None = None

    @property
    def kl(self) -> NDArray[np.int64]:
        """Likeliest grade of each knee, shape (N,)."""
        return self.probabilities.argmax(1)

    @property
    def sets(self) -> NDArray[np.bool_] | None:
        """Grades in the conformal set of each knee, shape (N, 5); None without a threshold."""
        return None if self.conformal is None else self.conformal.sets(self.probabilities)

    @property
    def abstain(self) -> NDArray[np.bool_] | None:
        """For which knees no single grade should be given, shape (N,); None without a threshold."""
        return None if self.conformal is None or self.sets is None else self.conformal.abstain(self.sets)


class Grader:
    """An ensemble of networks of one kind over one geometry.

    Parameters
    ----------
    members : sequence of Member
        At least one; all of the same kind and with the same geometry.
    mode : {"mean", "2018"}, optional
        ``mean``: the mean of the networks' probabilities. ``2018``: the softmax of the sum of their logits, and
        Grad-CAM faded at the borders of the patches, as the authors' code does; for Siamese networks only. Left out,
        it is what the networks' settings say.
    device : str or torch.device
        Where the networks run.
    attention : {"gradcam", "hirescam", "integrated"}
        How attention is worked out; see `deepknee.attention`.

    Raises
    ------
    ValueError
        No member, members of different kinds, geometry or modes, or a mode or kind of attention that is not known.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        mode: Mode | None = None,
        device: str | torch.device = "cpu",
        attention: Method = "gradcam",
    ) -> None:
        if attention not in METHODS:
            raise ValueError(f"attention is {attention!r}: must be one of {', '.join(METHODS)}")
        if not members:
            raise ValueError("no network to grade with: at least one is needed")
        settings = [member.settings for member in members]
        self.kind = _only("kinds", [how.model.look for how in settings])
        self.geometry: PatchGeometry = _only("geometry", [how.geometry for how in settings])
        self.view: View = settings[0].model.view(self.geometry)
        self.mode: Mode = _only("modes", [how.mode for how in settings]) if mode is None else mode
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode is {self.mode!r}: must be 'mean' or '2018'")
        if self.mode == "2018" and not isinstance(self.view, Compartments):
            raise ValueError(f"mode is '2018': that is of Siamese networks, and these are {self.kind}")
        self.device, self.attention = torch.device(device), attention
        self.members = tuple(Member(member.net.to(self.device).eval(), member.settings) for member in members)

    @classmethod
    def from_snapshots(
        cls,
        paths: Sequence[Path | str],
        *,
        mode: Mode | None = None,
        device: str | torch.device = "cpu",
        attention: Method = "gradcam",
    ) -> Self:
        """Load the networks of an ensemble.

        Parameters
        ----------
        paths : sequence of path_like
            Snapshots of task ``kl``.
        mode, device, attention
            As for the class.

        Raises
        ------
        SnapshotError
            A file cannot be read or is no grading snapshot.
        ValueError
            No file, or files of different kinds, geometry or modes.
        """
        return cls([load_member(path) for path in paths], mode=mode, device=device, attention=attention)

    def frame(self, landmarks: NDArray[np.float64], spacing_mm: Spacing, side: Side) -> RoiFrame:
        """Lay the ROI that the networks were trained on around a knee; see `PatchGeometry.frame_of`."""
        return self.geometry.frame_of(landmarks, spacing_mm, side)

    def predict(self, rois: NDArray[np.uint8]) -> Grade:
        """Grade knees.

        Parameters
        ----------
        rois : ndarray, shape (N, S, S), uint8
            ROIs of `frame`, cut from films after `kneel.imaging.radiograph.normalize_percentiles`, times 255; lateral
            at small x, bright bone.

        Returns
        -------
        Grade
            In the order of the ROIs.

        Raises
        ------
        TypeError
            The ROIs are not uint8.
        ValueError
            They have another shape.
        """
        size = self.geometry.roi_px
        if rois.dtype != np.uint8:
            raise TypeError(f"rois are {rois.dtype}: must be uint8 (0 to 255)")
        if rois.ndim != 3 or rois.shape[1:] != (size, size):
            raise ValueError(f"rois have shape {rois.shape}: must be (N, {size}, {size})")
        parts = [self._predict(rois[start : start + _BATCH]) for start in range(0, len(rois), _BATCH)]
        none = np.zeros((0, GRADES)), np.zeros((0, size, size), np.float32), np.zeros((len(self.members), 0, GRADES))
        probabilities, attention, members = zip(none, *parts, strict=True)
        together = np.concatenate(probabilities), np.concatenate(attention), np.concatenate(members, axis=1)
        return Grade(*together, self.conformal)

    @property
    def conformal(self) -> Conformal | None:
        """Threshold of the sets, where it was fitted for just these networks and for the mean of their answers."""
        first, *others = (member.settings.conformal for member in self.members)
        if first is None or self.mode != "mean" or first.networks != len(self.members):
            return None
        return first if all(other == first for other in others) else None

    @torch.no_grad()
    def _predict(self, rois: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.float64]]:
        features = [member.net.features(*self._pictures(rois, member.settings.intensity)) for member in self.members]
        probabilities, members = self._probabilities(features), self._each(self._logits(features))
        attention = self._attention(rois, features, probabilities.argmax(1))
        return probabilities.cpu().numpy(), attention.cpu().numpy(), members.cpu().numpy()

    def _pictures(self, rois: NDArray[np.uint8], intensity: Intensity, blur_px: float = 0) -> Maps:
        adjusted = np.stack([adjust_contrast(roi, intensity.contrast, self.geometry) for roi in rois])
        shown = blur_rois(adjusted, blur_px) if blur_px else adjusted
        pictures = plain_pictures(self.view, torch.from_numpy(shown[:, None]).to(self.device))
        return tuple(map(intensity.standardize, pictures))

    def _logits(self, features: Sequence[Maps]) -> Tensor:
        """Return the logits of each network, (M, N, 5), float64."""
        parts = zip(self.members, features, strict=True)
        return torch.stack([member.net.judge(*maps).double() for member, maps in parts])

    def _each(self, logits: Tensor) -> Tensor:
        """Return the probabilities of each network, (M, N, 5)."""
        temperatures = [member.settings.temperature for member in self.members]
        return (logits / logits.new_tensor(temperatures)[:, None, None]).softmax(2)

    def _probabilities(self, features: Sequence[Maps]) -> Tensor:
        """Return the probabilities of the ensemble, (N, 5)."""
        logits = self._logits(features)
        return logits.sum(0).softmax(1) if self.mode == "2018" else self._each(logits).mean(0)

    def _attention(self, rois: NDArray[np.uint8], features: Sequence[Maps], grades: Tensor) -> Tensor:
        """Work out the ensemble's map of a grade of each knee: (N, S, S)."""
        nets, merge = [member.net for member in self.members], self.view.merge
        if self.attention == "integrated":
            blur_px, smooth_px = (width / self.geometry.spacing_mm for width in (BLUR_MM, SMOOTH_MM))
            there, blurred = (
                [self._pictures(rois, member.settings.intensity, blur) for member in self.members]
                for blur in (0, blur_px)
            )
            shares = merge(*pixel_shares(nets, there, blurred, grades, self._probabilities))
            seen = merge(*(torch.ones_like(picture[:, 0]) for picture in there[0]))
            return normalize_maps(smooth_maps(shares, smooth_px).relu() * seen)
        if self.attention == "hirescam":
            coarse = ensemble_hirescam(features, grades, self._probabilities)
        else:
            coarse = ensemble_gradcam(nets, features, grades)
        maps = [enlarge(each, self.view.size) for each in coarse]
        if self.mode == "2018" and self.attention == "gradcam":
            # The fading is not symmetric: it acts on the medial map as it lies in the picture.
            lateral, medial = maps
            maps = [fade_edges(lateral), fade_edges(medial.flip(-1)).flip(-1)]
        return normalize_maps(merge(*maps))


def _only(what: str, values: Sequence[Same]) -> Same:
    """Return what all members have in common."""
    first, *others = dict.fromkeys(values)
    if others:
        raise ValueError(f"networks of different {what} cannot be mixed: {first!r} and {others[0]!r}")
    return first


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
    try:
        # By way of JSON, as the settings are strict and JSON has no tuples.
        settings = GraderSettings.model_validate_json(json.dumps(described))
        net = build_net(settings.model)
        net.load_state_dict(weights)
    except (ValidationError, RuntimeError) as error:
        raise SnapshotError(f"{path}: does not describe a grading network: {error}") from error
    return Member(net.eval(), settings)
