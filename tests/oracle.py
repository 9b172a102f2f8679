"""Stand-ins for the networks, for tests of everything around them; worker processes import them too."""

from __future__ import annotations

import multiprocessing
import os
import signal
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np

from deepknee.grade import Grade
from deepknee.knee_reading import Reading
from deepknee.patches import PatchGeometry
from deepknee.pipeline import Reader, read_knees
from kneel.imaging.radiograph import Radiograph, RadiographError
from kneel.imaging.schema import CENTER
from kneel.localize import LocatedKnee

GEOMETRY = PatchGeometry(roi_mm=120.0, roi_px=60, crop=50, patch=20, top=15)

# a right knee, mm from the joint centre; lateral at small x
SHAPE_MM = np.array(
    [(-38, 6), (-26, 2), (-14, 3), (-5, -3), (0, 0), (5, -4), (14, 3), (26, 2), (38, 6)]
    + [(-37, -14), (-24, -4), (-12, -5), (0, -16), (12, -5), (24, -4), (37, -14)],
    float,
)


def place_knee(side: str, center: tuple[float, float], spacing_mm: tuple[float, float], **more) -> LocatedKnee:
    """The mean knee at a place of a film."""
    flip = -1 if side == "L" else 1
    landmarks = SHAPE_MM * (flip, 1) / spacing_mm[::-1] + center
    values = {"spread_px": np.full(16, 2.0), "confidence": 0.9, "spacing_mm": spacing_mm, "flags": ()} | more
    return LocatedKnee(side=side, center=tuple(landmarks[CENTER]), landmarks=landmarks, **values)


@dataclass
class FakeLocalizer:
    """Answers with given knees, whatever the film."""

    knees: list = field(default_factory=list)

    def locate(self, radiograph: Radiograph, film: np.ndarray) -> list[LocatedKnee]:
        return list(self.knees)


@dataclass
class FakeGrader:
    """Answers with given probabilities; attention is the brightness of the ROI, so that both can be compared."""

    probabilities: np.ndarray = field(default_factory=lambda: np.array([0.1, 0.1, 0.5, 0.2, 0.1]))
    geometry: PatchGeometry = GEOMETRY

    def frame(self, landmarks, spacing_mm, side):
        return self.geometry.frame_of(landmarks, spacing_mm, side)

    def predict(self, rois: np.ndarray) -> Grade:
        return Grade(np.tile(self.probabilities, (len(rois), 1)), rois.astype(np.float32) / 255)


def film(rows: int = 300, columns: int = 400, **more) -> Radiograph:
    """A film of 0.5 mm whose grey level rises to the right and, slower, downwards."""
    pixels = (np.add.outer(40 * np.linspace(0, 1, rows), 200 * np.linspace(0, 1, columns))).astype(np.uint8)
    return Radiograph(pixels, **({"spacing_mm": (0.5, 0.5), "spacing_kind": "detector"} | more))


class FakeReader(Reader):
    """Reads text files: each line of one is a side of a knee, or something that happens."""

    def __init__(self) -> None:
        super().__init__(FakeLocalizer(), FakeGrader())

    def read(self, source, *, spacing_mm=None, frame=None) -> Reading:
        text = Path(source).read_bytes()
        words = text.decode().split()
        if "crash" in words:
            os.kill(os.getpid(), signal.SIGKILL)
        if (
            "stop" in words and multiprocessing.parent_process() is not None
        ):  # Ctrl-C of the main process, from a worker
            os.kill(os.getppid(), signal.SIGINT)
        if "bug" in words:
            raise ZeroDivisionError("a bug")
        if "interrupt" in words:
            raise KeyboardInterrupt
        if "terminate" in words:
            signal.raise_signal(signal.SIGTERM)
        if "bad" in words:
            raise RadiographError("Rows (0028,0010) is 0")
        spacing = spacing_mm or (0.5, 0.5)
        sides = [word for word in words if word in ("R", "L")]
        x = {"R": 100, "L": 300}
        y = 150 + zlib.crc32(text) % 997 / 50  # other films, other places; the same film, the same
        localizer = FakeLocalizer([place_knee(side, (x[side], y), spacing) for side in sides])
        return read_knees(film(spacing_mm=spacing, source=str(source)), localizer, self.grader)

    def shared(self, most: int) -> Reader:
        """Keeps nothing between two films."""
        return self


def make_reader() -> Reader:
    """Stands in for `deepknee.load_reader`."""
    return FakeReader()


@contextmanager
def shut(folder: Path) -> Iterator[None]:
    """Let nobody open a folder; the tests may run as root, whom no folder is shut for."""
    scandir = os.scandir

    def look(path):
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    with mock.patch.object(os, "scandir", look):
        yield


def snapshots() -> SimpleNamespace:
    """Stands in for `deepknee.weights.Weights`."""
    return SimpleNamespace(id="0123456789abcdef", describe=dict)
