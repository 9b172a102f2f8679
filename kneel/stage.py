"""The networks of one stage, rebuilt from their snapshots and averaged."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from kneel.engine.faster import LARGE, fold_batch_norms, widen
from kneel.engine.gather import Gather
from kneel.engine.side_by_side import side_by_side
from kneel.engine.snapshot import load_snapshot
from kneel.hourglass import STRIDE
from kneel.imaging.geometry import RoiFrame, Side, Spacing
from kneel.looks import SHARPER, LookModel
from kneel.network import LandmarkNet, build_network, network_weights
from kneel.shape import MeanShape

Picture = NDArray[np.float32]


class Answer(NamedTuple):
    """Where the landmarks of one picture are.

    Attributes
    ----------
    points : ndarray, shape (M, 2)
        (x, y) in pixels of the picture.
    spread : ndarray, shape (M,)
        Root mean square radius of each heat map, pixels of the picture.
    """

    points: NDArray[np.float64]
    spread: NDArray[np.float64]


class Stage:
    """Networks of one stage, averaged, with the ROI that they were trained on.

    Parameters
    ----------
    nets : sequence of LandmarkNet
        One, or the folds of a cross-validation.
    spacing_mm : float
        mm per ROI pixel.
    size : (int, int)
        Width and height of the ROI, pixels.
    device : torch.device
        Where the networks run.
    typical_spread_mm : float
        Mean width of the heat maps over the validation set: how sure these networks are of an ordinary knee.
    shape : MeanShape or None
        Mean knee of the training set (landmark stage).
    look : LookModel
        What tells left from right by the answers to both looks (landmark stage).
    """

    def __init__(
        self,
        nets: Sequence[LandmarkNet],
        *,
        spacing_mm: float,
        size: tuple[int, int],
        device: torch.device,
        typical_spread_mm: float,
        shape: MeanShape | None = None,
        look: LookModel = SHARPER,
    ) -> None:
        self.nets = [net.eval().to(device) for net in nets]
        self.spacing_mm, self.size, self.device = spacing_mm, size, device
        self.typical_spread_mm, self.shape, self.look = typical_spread_mm, shape, look

    @classmethod
    def from_snapshots(cls, paths: Sequence[Path], task: str, *, device: torch.device, plain: bool = False) -> Stage:
        """Rebuild the networks of a stage from their snapshots.

        Parameters
        ----------
        paths : sequence of Path
            At least one; folds of one experiment.
        task : {"lc", "hc"}
            What they must have been trained for.
        device : torch.device
            Where they run.
        plain : bool
            Leave the networks as they were trained; else they are made faster (`kneel.engine.faster`).

        Returns
        -------
        Stage
            Ready to use.

        Raises
        ------
        SnapshotError
            A file cannot be read.
        ValueError
            A snapshot is of another task, or the ROIs differ.
        """
        nets, rois, spreads, looks, shape = [], [], [], [], None
        for path in paths:
            weights, meta = load_snapshot(path)
            if meta["task"] != task:
                raise ValueError(f"{path}: trained for {meta['task']!r}, needed is {task!r}")
            if "spread_mm" not in meta.get("metrics", {}):
                raise ValueError(f"{path}: no metrics.spread_mm: without it nothing tells a knee from noise")
            net = build_network(meta["network"])
            net.load_state_dict(network_weights(weights))
            nets.append(net if plain else faster(net, meta["roi"]["size"], device))
            rois.append((meta["roi"]["spacing_mm"], tuple(meta["roi"]["size"])))
            spreads.append(meta["metrics"]["spread_mm"])
            looks.append(meta.get("look"))
            if shape is None and "shape" in meta:
                shape = MeanShape(np.array(meta["shape"]["points"]), meta["shape"]["residual"])
        if len(set(rois)) != 1:
            raise ValueError(f"{', '.join(map(str, paths))}: networks of one ensemble see different ROIs: {rois}")
        # fitted to the answers of the whole ensemble: a part of it, or another one, is not what it speaks of. Where no
        # number stands it was one network, the first that shipped.
        first, *others = looks
        whole = all(look == first for look in others) and (first or {}).get("networks", 1) == len(nets)
        return cls(
            nets,
            spacing_mm=rois[0][0],
            size=rois[0][1],
            device=device,
            typical_spread_mm=float(np.mean(spreads)),
            shape=shape,
            look=LookModel.parse(first) if first and whole else SHARPER,
        )

    def frame(self, center: NDArray[np.float64], spacing_mm: Spacing, side: Side) -> RoiFrame:
        """Lay the stage's ROI around a point of a film."""
        extent = self.size[0] * self.spacing_mm, self.size[1] * self.spacing_mm
        return RoiFrame.around(center, extent, spacing_mm, side=side, roi_spacing_mm=self.spacing_mm)

    def __call__(self, picture: Picture) -> Answer:
        """Locate the landmarks of one picture (h, w) in [0, 1]."""
        return self.batch([picture])[0]

    @torch.inference_mode()
    def batch(self, pictures: Sequence[Picture]) -> list[Answer]:
        """Locate the landmarks of several pictures (h, w) in [0, 1]; of one size, a GPU sees them together."""
        if len({picture.shape for picture in pictures}) != 1:
            return [self(picture) for picture in pictures]
        batch = torch.from_numpy(np.stack(pictures))[:, None].to(self.device)
        if self.device.type == "cpu":
            calls = [partial(net, picture) for net in self.nets for picture in batch.split(1)]
            points, spread = (torch.cat(parts) for parts in zip(*side_by_side(calls), strict=True))
        else:
            points, spread = (torch.cat(parts) for parts in zip(*[net(batch) for net in self.nets], strict=True))
        means = [part.unflatten(0, (len(self.nets), -1)).mean(0).double().cpu().numpy() for part in (points, spread)]
        return [Answer(*each) for each in zip(*means, strict=True)]

    def shared(self, turn: threading.Lock, most: int) -> Stage:
        """The same stage for several threads at once.

        Parameters
        ----------
        turn : threading.Lock
            Held while networks run.
        most : int
            Pictures of different threads that pass the networks together; see `kneel.engine.gather.Gather`.

        Returns
        -------
        Stage
            On the same networks.
        """
        return _SharedStage(self, turn, most)


class _SharedStage(Stage):
    def __init__(self, stage: Stage, turn: threading.Lock, most: int) -> None:
        vars(self).update(vars(stage))
        self._gather: Gather[Picture, Answer] = Gather(stage.batch, kind=np.shape, most=most, turn=turn)

    def batch(self, pictures: Sequence[Picture]) -> list[Answer]:
        return self._gather(pictures)


def faster(net: LandmarkNet, size: tuple[int, int], device: torch.device) -> LandmarkNet:
    """Make a trained network answer faster, in place; it cannot be trained on.

    Parameters
    ----------
    net : LandmarkNet
        Trained.
    size : (int, int)
        Width and height of the pictures it will see, about.
    device : torch.device
        Where it will run.

    Returns
    -------
    LandmarkNet
        The same.
    """
    folded = fold_batch_norms(net)
    large = (size[0] // STRIDE) * (size[1] // STRIDE) >= LARGE
    return widen(folded) if large and device.type == "cpu" else folded
