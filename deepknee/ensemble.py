"""Grade knees with any number of networks.

Dimensions: N knees, S ROI pixels, P patch pixels.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from torch import Tensor

from deepknee.attention import (
    BLUR_MM,
    METHODS,
    SMOOTH_MM,
    Method,
    Pair,
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
from deepknee.intensity import Intensity, adjust_contrast, plain_patches
from deepknee.model import GRADES, KneeNet, pool
from deepknee.patches import PatchGeometry
from kneel.engine.config import Settings
from kneel.engine.snapshot import SnapshotError, load_snapshot
from kneel.imaging.geometry import RoiFrame, Side, Spacing

Mode = Literal["mean", "2018"]
TASK = "kl"
_BATCH = 32  # knees at a time, so that a folder of ROIs does not fill the memory


class ModelSettings(Settings):
    """Arguments of `deepknee.model.KneeNet`.

    Attributes
    ----------
    width
        Channels of the first block.
    dropout
        Share of pooled features dropped in training.
    """

    width: int = Field(64, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)


class GraderSettings(Settings):
    """What a snapshot says besides its weights, so that it can grade.

    Attributes
    ----------
    model
        Arguments of the network.
    geometry
        ROI and patches.
    intensity
        Grey levels.
    temperature
        Divides the logits before the softmax; 1 leaves them as trained.
    conformal
        What makes sets of grades from the probabilities of the ensemble; None where no threshold was fitted.
    """

    model: ModelSettings
    geometry: PatchGeometry
    intensity: Intensity
    temperature: float = Field(1.0, gt=0)
    conformal: Conformal | None = None


@dataclass(frozen=True, eq=False)
class Member:
    """One network of an ensemble.

    Attributes
    ----------
    net : KneeNet
        In evaluation mode.
    settings : GraderSettings
        How it is used.
    """

    net: KneeNet
    settings: GraderSettings


@dataclass(frozen=True, eq=False)
class Grade:
    """Grades of N knees.

    Attributes
    ----------
    probabilities : ndarray, shape (N, 5), float64
        Of KL 0 to 4; every row sums to 1.
    attention : ndarray, shape (N, S, S), float32
        Where the likeliest grade comes from, on the grid of the ROI, in [0, 1]; 0 outside the patches.
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
    """An ensemble of networks over one patch geometry.

    Parameters
    ----------
    members : sequence of Member
        At least one; all with the same geometry.
    mode : {"mean", "2018"}
        ``mean``: the mean of the networks' probabilities. ``2018``: the softmax of the sum of their logits, and
        Grad-CAM faded at the borders of the patches, as the authors' code does.
    device : str or torch.device
        Where the networks run.
    attention : {"gradcam", "hirescam", "integrated"}
        How attention is worked out; see `deepknee.attention`.

    Raises
    ------
    ValueError
        No member, members of different geometry, or a mode or kind of attention that is not known.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        mode: Mode = "mean",
        device: str | torch.device = "cpu",
        attention: Method = "gradcam",
    ) -> None:
        if mode not in ("mean", "2018"):
            raise ValueError(f"mode is {mode!r}: must be 'mean' or '2018'")
        if attention not in METHODS:
            raise ValueError(f"attention is {attention!r}: must be one of {', '.join(METHODS)}")
        if not members:
            raise ValueError("no network to grade with: at least one is needed")
        geometries = list(dict.fromkeys(member.settings.geometry for member in members))
        if len(geometries) > 1:
            raise ValueError(f"networks of different geometry cannot be mixed: {geometries[0]!r} and {geometries[1]!r}")
        self.geometry: PatchGeometry = geometries[0]
        self.mode, self.device, self.attention = mode, torch.device(device), attention
        self.members = tuple(Member(member.net.to(self.device).eval(), member.settings) for member in members)

    @classmethod
    def from_snapshots(
        cls,
        paths: Sequence[Path | str],
        *,
        mode: Mode = "mean",
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
            No file, or files of different geometry.
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
        features = [member.net.features(*self._patches(rois, member.settings.intensity)) for member in self.members]
        probabilities, members = self._probabilities(features), self._each(self._logits(features))
        attention = self._attention(rois, features, probabilities.argmax(1))
        return probabilities.cpu().numpy(), attention.cpu().numpy(), members.cpu().numpy()

    def _patches(self, rois: NDArray[np.uint8], intensity: Intensity, blur_px: float = 0) -> Pair:
        adjusted = np.stack([adjust_contrast(roi, intensity.contrast, self.geometry) for roi in rois])
        shown = blur_rois(adjusted, blur_px) if blur_px else adjusted
        lateral, medial = plain_patches(self.geometry, torch.from_numpy(shown[:, None]).to(self.device))
        return intensity.standardize(lateral), intensity.standardize(medial)

    def _logits(self, features: Sequence[Pair]) -> Tensor:
        """Return the logits of each network, (M, N, 5), float64."""
        parts = zip(self.members, features, strict=True)
        return torch.stack([member.net.classify(*map(pool, maps)).double() for member, maps in parts])

    def _each(self, logits: Tensor) -> Tensor:
        """Return the probabilities of each network, (M, N, 5)."""
        temperatures = [member.settings.temperature for member in self.members]
        return (logits / logits.new_tensor(temperatures)[:, None, None]).softmax(2)

    def _probabilities(self, features: Sequence[Pair]) -> Tensor:
        """Return the probabilities of the ensemble, (N, 5)."""
        logits = self._logits(features)
        return logits.sum(0).softmax(1) if self.mode == "2018" else self._each(logits).mean(0)

    def _attention(self, rois: NDArray[np.uint8], features: Sequence[Pair], grades: Tensor) -> Tensor:
        """Work out the ensemble's map of a grade of each knee: (N, S, S)."""
        nets, merge = [member.net for member in self.members], self.geometry.merge_compartments
        if self.attention == "integrated":
            blur_px, smooth_px = (width / self.geometry.spacing_mm for width in (BLUR_MM, SMOOTH_MM))
            there, blurred = (
                [self._patches(rois, member.settings.intensity, blur) for member in self.members]
                for blur in (0, blur_px)
            )
            shares = merge(*pixel_shares(nets, there, blurred, grades, self._probabilities))
            seen = merge(*[torch.ones_like(there[0][0][:, 0])] * 2)
            return normalize_maps(smooth_maps(shares, smooth_px).relu() * seen)
        if self.attention == "hirescam":
            coarse = ensemble_hirescam(features, grades, self._probabilities)
        else:
            coarse = ensemble_gradcam(nets, features, grades)
        lateral, medial = (enlarge(maps, self.geometry.patch) for maps in coarse)
        if self.mode == "2018" and self.attention == "gradcam":
            # The fading is not symmetric: it acts on the medial map as it lies in the picture.
            lateral, medial = fade_edges(lateral), fade_edges(medial.flip(-1)).flip(-1)
        return normalize_maps(merge(lateral, medial))


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
    return Member(net, settings)


def build_net(settings: ModelSettings) -> KneeNet:
    """Build a network, laid out for speed: channels last is 1.3 to 1.6 times as fast on a CPU."""
    return KneeNet(width=settings.width, dropout=settings.dropout).to(memory_format=torch.channels_last)
