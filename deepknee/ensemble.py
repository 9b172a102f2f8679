"""Grade knees with any number of networks.

Dimensions: N knees, S ROI pixels, A answers: M networks, each upright and with every turn.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Self, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepknee.attention import BLUR_MM, METHODS, SMOOTH_MM, Maps, Method, blur_rois, normalize_maps, smooth_maps
from deepknee.conformal import Conformal
from deepknee.ensemble_attention import ensemble_gradcam, ensemble_hirescam, pixel_shares
from deepknee.grade import Grade
from deepknee.intensity import adjust_contrast
from deepknee.member import Member, Mode, load_member
from deepknee.model import GRADES
from deepknee.patches import PatchGeometry
from deepknee.views import Compartments, View, turned, turned_from
from kneel.engine.config import ConfigError
from kneel.engine.faster import fold_batch_norms
from kneel.imaging.geometry import RoiFrame, Side, Spacing

_log = logging.getLogger(__name__)
Same = TypeVar("Same")
_BATCH = 32  # looks at a time, so that a folder of ROIs does not fill the memory


class Grader:
    """An ensemble of networks, of one kind or of several, over one geometry.

    Parameters
    ----------
    members : sequence of Member
        At least one; all with the same geometry.
    mode : {"mean", "2018"}, optional
        ``mean``: the mean of the networks' probabilities. ``2018``: the softmax of the sum of their logits, and
        Grad-CAM faded at the borders of the patches, as the authors' code does; for Siamese networks only, and
        without turns. Left out, it is what the networks' settings say.
    device : str or torch.device
        Where the networks run.
    attention : {"gradcam", "hirescam", "integrated"}
        How attention is worked out; see `deepknee.attention`.

    Raises
    ------
    ValueError
        No member, members of different geometry, modes or turns, a mode or kind of attention that is not known, or mode
        ``2018`` for networks of another kind.
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
        self.geometry: PatchGeometry = _only("geometry", [how.geometry for how in settings])
        self.views: tuple[View, ...] = tuple(member.view for member in members)
        self.mode: Mode = _only("modes", [how.mode for how in settings]) if mode is None else mode
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode is {self.mode!r}: must be 'mean' or '2018'")
        if self.mode == "2018" and not all(isinstance(view, Compartments) for view in self.views):
            kinds = ", ".join(dict.fromkeys(how.model.kind for how in settings))
            raise ValueError(f"mode is '2018': that is of Siamese networks, and these are {kinds}")
        turns = _only("turns", [how.turns_deg for how in settings])
        self.turns_deg: tuple[float, ...] = turns if self.mode == "mean" else ()
        self.device, self.attention = torch.device(device), attention
        self.members = tuple(replace(member, net=member.net.to(self.device).eval()) for member in members)

    @classmethod
    def from_snapshots(
        cls,
        paths: Sequence[Path | str],
        *,
        mode: Mode | None = None,
        device: str | torch.device = "cpu",
        attention: Method = "gradcam",
    ) -> Self:
        """Load the networks of an ensemble, to grade with and not to train on: their batch norms are folded.

        A warning tells of a calibration that is not of just these.

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
            No file, or files of different geometry or modes.
        """
        grader = cls([load_member(path) for path in paths], mode=mode, device=device, attention=attention)
        for member in grader.members:
            fold_batch_norms(member.net)
        if doubt := grader.calibration_doubt:
            _log.warning("%s: %s", paths[0], doubt)
        return grader

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
        parts = [self._predict(batch) for batch in self._batches(rois)]
        size = self.geometry.roi_px
        none = np.zeros((0, GRADES)), np.zeros((0, size, size), np.float32), np.zeros((self.answers, 0, GRADES))
        probabilities, attention, members = zip(none, *parts, strict=True)
        together = np.concatenate(probabilities), np.concatenate(attention), np.concatenate(members, axis=1)
        return Grade(*together, self.conformal)

    @torch.no_grad()
    def judge(self, rois: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Grade knees without attention, for many of them.

        Parameters
        ----------
        rois : ndarray, shape (N, S, S), uint8
            As for `predict`, with the same errors.

        Returns
        -------
        probabilities : ndarray, shape (N, 5)
            Of the ensemble.
        members : ndarray, shape (A, N, 5)
            Of each network by itself, as in `Grade.members`.
        """
        logits = [self._looks(batch)[1].cpu() for batch in self._batches(rois)]
        every = torch.cat([torch.zeros((self.answers, 0, GRADES), dtype=torch.float64), *logits], dim=1)
        return self._together(every).numpy(), self._each(every).numpy()

    def _batches(self, rois: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """Check ROIs, and cut them into as many as are graded at once."""
        size = self.geometry.roi_px
        if rois.dtype != np.uint8:
            raise TypeError(f"rois are {rois.dtype}: must be uint8 (0 to 255)")
        if rois.ndim != 3 or rois.shape[1:] != (size, size):
            raise ValueError(f"rois have shape {rois.shape}: must be (N, {size}, {size})")
        at_once = max(1, _BATCH // (1 + len(self.turns_deg)))
        return [rois[start : start + at_once] for start in range(0, len(rois), at_once)]

    @property
    def conformal(self) -> Conformal | None:
        """Threshold of the sets, where it was fitted for just these networks and for the mean of their answers."""
        return self.members[0].settings.conformal if self._calibrated and self.mode == "mean" else None

    @property
    def calibration_doubt(self) -> str | None:
        """Why a calibration that the networks hold does not act, in words; None where it acts or there is none."""
        held = sum(member.settings.conformal is not None for member in self.members)
        if not held or self.conformal is not None or self.mode != "mean":
            return None
        return (
            f"calibrated with other networks or turns than now ({held} of {len(self.members)} networks hold a "
            "threshold); they grade without that temperature and without sets of grades. scripts/calibrate_kl.py "
            "calibrates just these"
        )

    @property
    def answers(self) -> int:
        """How many answers are averaged."""
        return len(self.members) * (1 + len(self.turns_deg))

    @property
    def temperatures(self) -> list[float]:
        """What divides the logits of each network; what was fitted for an ensemble acts in just that ensemble."""
        all_settings = [member.settings for member in self.members]
        return [how.temperature if how.conformal is None or self._calibrated else 1.0 for how in all_settings]

    @property
    def _calibrated(self) -> bool:
        """Whether the networks were calibrated together, and no other with them."""
        first, *others = (member.settings.conformal for member in self.members)
        fits = first is not None and first.is_of(self.answers, self.turns_deg)
        return fits and all(other == first for other in others)

    @cached_property
    def seen(self) -> NDArray[np.bool_]:
        """Pixels of a ROI that any of the networks is shown, upright or turned, (S, S)."""
        return np.any([self.upright, *(turned_from(self.upright, degrees) for degrees in self.turns_deg)], axis=0)

    @cached_property
    def upright(self) -> NDArray[np.bool_]:
        """Pixels that any of the networks is shown of the upright ROI, which attention explains, (S, S)."""
        every = np.ones((self.geometry.roi_px, self.geometry.roi_px), bool)
        return np.any([view.merge(*view.cut(every)) for view in self.views], axis=0)

    @torch.no_grad()
    def _predict(self, rois: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.float64]]:
        features, logits = self._looks(rois)
        probabilities, members = self._together(logits), self._each(logits)
        attention = self._attention(rois, features, probabilities.argmax(1))
        return probabilities.cpu().numpy(), attention.cpu().numpy(), members.cpu().numpy()

    def _looks(self, rois: NDArray[np.uint8]) -> tuple[list[Maps], Tensor]:
        """Return the feature maps of the upright knees, and the logits of all answers, (A, N, 5)."""
        every = np.concatenate([rois, *(turned(rois, degrees) for degrees in self.turns_deg)])
        features = self._features(every)
        logits = self._logits(features).unflatten(1, (-1, len(rois))).flatten(0, 1)
        return [tuple(each[: len(rois)] for each in maps) for maps in features], logits

    def _features(self, rois: NDArray[np.uint8]) -> list[Maps]:
        return [member.net.features(*seen) for member, seen in zip(self.members, self._pictures(rois), strict=True)]

    def _pictures(self, rois: NDArray[np.uint8], blur_px: float = 0) -> list[Maps]:
        """Show the ROIs to each network."""
        shown = {}
        for contrast in dict.fromkeys(member.settings.intensity.contrast for member in self.members):
            adjusted = np.stack([adjust_contrast(roi, contrast, self.geometry) for roi in rois])
            adjusted = blur_rois(adjusted, blur_px) if blur_px else adjusted
            shown[contrast] = torch.from_numpy(adjusted[:, None]).to(self.device)
        return [member.pictures(shown[member.settings.intensity.contrast]) for member in self.members]

    def _logits(self, features: Sequence[Maps]) -> Tensor:
        """Return the logits of each network, (M, N, 5), float64."""
        parts = zip(self.members, features, strict=True)
        return torch.stack([member.net.judge(*maps).double() for member, maps in parts])

    def _each(self, logits: Tensor) -> Tensor:
        """Return the probabilities of each answer, of logits of the same shape: (A, N, 5), or (M, N, 5) upright."""
        temperatures = logits.new_tensor(self.temperatures).repeat_interleave(len(logits) // len(self.members))
        return (logits / temperatures[:, None, None]).softmax(2)

    def _probabilities(self, features: Sequence[Maps]) -> Tensor:
        """Return the probabilities of the ensemble, from upright knees alone, (N, 5)."""
        return self._together(self._logits(features))

    def _together(self, logits: Tensor) -> Tensor:
        """Put the logits of all answers together to probabilities, (N, 5)."""
        return logits.sum(0).softmax(1) if self.mode == "2018" else self._each(logits).mean(0)

    def _attention(self, rois: NDArray[np.uint8], features: Sequence[Maps], grades: Tensor) -> Tensor:
        """Work out the ensemble's map of a grade of each knee: (N, S, S)."""
        nets = [member.net for member in self.members]
        if self.attention == "gradcam":
            return normalize_maps(ensemble_gradcam(nets, self.views, features, grades, fade=self.mode == "2018"))
        if self.attention == "hirescam":
            return normalize_maps(ensemble_hirescam(self.views, features, grades, self._probabilities))
        blur_px, smooth_px = (width / self.geometry.spacing_mm for width in (BLUR_MM, SMOOTH_MM))
        there, blurred = self._pictures(rois), self._pictures(rois, blur_px)
        shares = pixel_shares(nets, there, blurred, grades, self._probabilities)
        laid = torch.stack([view.merge(*maps) for view, maps in zip(self.views, shares, strict=True)]).sum(0)
        return normalize_maps(smooth_maps(laid, smooth_px).relu() * torch.from_numpy(self.upright).to(laid))


def _only(what: str, values: Sequence[Same]) -> Same:
    """Return what all members have in common."""
    first, *others = dict.fromkeys(values)
    if others:
        hint = "; calibrate_kl.py --turns gives all the same" if what == "turns" else ""
        raise ConfigError(f"networks of different {what} cannot be mixed: {first!r} and {others[0]!r}{hint}")
    return first
