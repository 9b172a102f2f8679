"""Time one bilateral film beside a re-enactment of the original programs, in one run on the same cores.

    python benchmarks/original.py [--runs N] [--threads N] [--only faithful|fast]

The original code is not here. Its work is re-enacted from what is known of it: the film is read and clipped at
percentiles twice, five joint-centre networks see each half of it, padded with zeros to 450 x 450 pixels, five landmark
networks see a ROI of 450 x 450 pixels of each knee twice, three grading networks see each knee and are asked for
Grad-CAM; all of the published sizes, one network and one picture at a time, as trained, eager. Its drawing is left
out, which makes it faster than it was. Weights are random: they cost what trained ones cost, and so say nothing of the
answers. Beside it, taking turns run by run:

faithful    our reader with networks of the same number and sizes
fast        our reader with the weights that ship: one network a stage, four graders

Film: the phantom of benchmarks/film.py, 2048 x 2494 pixels; from the file to the data of the report, no files.
"""

from __future__ import annotations

import argparse
import copy
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import torch
from film import SPACING_MM, write_film

from deepknee.attention import gradcam
from deepknee.ensemble import Grader
from deepknee.intensity import Intensity
from deepknee.member import GraderSettings, Member
from deepknee.networks import SiameseSettings, build_net
from deepknee.patches import PatchGeometry
from deepknee.pipeline import Reader, load_reader
from kneel.imaging.geometry import RoiFrame
from kneel.imaging.schema import CENTER
from kneel.localize import KneeLocalizer
from kneel.network import HourglassSettings, LandmarkNet
from kneel.phantom.shapes import draw_landmarks
from kneel.plain import HALVES
from kneel.shape import MeanShape
from kneel.stage import Stage, faster
from kneel.windows import search_window

FOLDS, GRADERS, SQUARE = 5, 3, 450
AUTHORS = HourglassSettings(channels=3, align_corners=True, grid="corner")
ROI_MM, HC_MM, LC_MM = 140.0, 0.3, 1.0


@dataclass(frozen=True)
class Original:
    """Networks of the published numbers and sizes, weights random."""

    lc: list[LandmarkNet]
    hc: list[LandmarkNet]
    graders: list[Member]

    @classmethod
    def random(cls) -> Original:
        """Draw the weights, the same every time."""
        torch.manual_seed(0)
        lc, hc = (
            [LandmarkNet(landmarks=points, mean=0.3, std=0.3, settings=AUTHORS).eval() for _ in range(FOLDS)]
            for points in (1, 16)
        )
        how = GraderSettings(
            model=SiameseSettings(), geometry=PatchGeometry(), intensity=Intensity(mean=0.5, std=0.25), mode="2018"
        )
        return cls(lc, hc, [Member(build_net(how.model).eval(), how) for _ in range(GRADERS)])

    def read(self, path: Path) -> None:
        """Do the work of both original programs on one film."""
        film = read_and_clip(path)
        centers = {side: self._center(film, part, side) for part, side in HALVES}
        for side in centers:
            for _ in range(2):
                size = SQUARE * HC_MM
                roi = RoiFrame.around(centers[side], size, (SPACING_MM,) * 2, side=side, roi_spacing_mm=HC_MM)
                centers[side] = roi.to_image(self._answers(self.hc, roi.crop(film))[CENTER])
        film = read_and_clip(path)  # by the second program
        for side, center in centers.items():
            self._grade(film, center, side)

    def _center(self, film: np.ndarray, part, side) -> np.ndarray:
        window = search_window(film, part, (SPACING_MM,) * 2, side=side, window_spacing_mm=LC_MM)
        height, width = window.picture.shape
        padded = np.zeros((SQUARE, SQUARE), np.float32)
        padded[:height, :width] = window.picture
        return window.frame.to_image(self._answers(self.lc, padded)[0])

    @torch.no_grad()
    def _answers(self, nets: list[LandmarkNet], picture: np.ndarray) -> np.ndarray:
        seen = torch.from_numpy(picture)[None, None]
        return np.mean([net(seen).points[0].double().numpy() for net in nets], axis=0)

    def _grade(self, film: np.ndarray, center: np.ndarray, side) -> None:
        geometry = PatchGeometry()
        roi = geometry.frame(center, (SPACING_MM,) * 2, side).crop(film)
        patches = [
            torch.from_numpy(np.ascontiguousarray(part))[None, None] for part in geometry.split_compartments(roi)
        ]
        with torch.no_grad():
            features = [member.net.features(*patches) for member in self.graders]
            logits = sum(member.net.judge(*maps) for member, maps in zip(self.graders, features, strict=True))
        for member, maps in zip(self.graders, features, strict=True):
            gradcam(member.net, maps, logits.argmax(1))

    def faithful(self) -> Reader:
        """Return our reader with copies of these networks; random heat maps are believed whatever they are."""
        rng = np.random.default_rng(0)
        shape = MeanShape(MeanShape.of([draw_landmarks(2, rng)[0]]).points, 1e6)
        stages = [
            Stage(
                [faster(copy.deepcopy(net), (SQUARE, SQUARE), torch.device("cpu")) for net in nets],
                spacing_mm=spacing,
                size=(SQUARE, SQUARE),
                device=torch.device("cpu"),
                typical_spread_mm=1e6,
                shape=shape,
            )
            for nets, spacing in ((self.lc, LC_MM), (self.hc, HC_MM))
        ]
        return Reader(KneeLocalizer(*stages), Grader(copy.deepcopy(self.graders)))


def read_and_clip(path: Path) -> np.ndarray:
    """Read the pixels and clip them at the 5th and 99th percentile, found by sorting."""
    pixels = pydicom.dcmread(io.BytesIO(path.read_bytes())).pixel_array.astype(np.float64)
    low, high = np.percentile(pixels, [5, 99])
    return np.clip((pixels - low) / (high - low), 0, 1).astype(np.float32)


def time_in_turns(functions: dict[str, Callable[[], object]], runs: int) -> dict[str, list[float]]:
    """Return the seconds of each function in each round, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(runs + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if number:
                times[name].append(time.perf_counter() - start)
    return times


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="timed rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: as torch has it)")
    parser.add_argument("--only", choices=("faithful", "fast"), help="leave the other one out")
    given = parser.parse_args()
    torch.set_num_threads(given.threads or torch.get_num_threads())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.dcm"
        write_film(path)
        original = Original.random()
        functions: dict[str, Callable[[], object]] = {"original, re-enacted": lambda: original.read(path)}
        if given.only != "fast":
            faithful = original.faithful()
            assert len(faithful.read(path).knees) == 2
            functions["faithful"] = lambda: faithful.read(path)
        if given.only != "faithful":
            fast = load_reader(device="cpu")
            assert len(fast.read(path).knees) == 2
            functions["fast"] = lambda: fast.read(path)
        times = time_in_turns(functions, given.runs)
    reference = times["original, re-enacted"]
    print(f"{torch.get_num_threads()} threads; {given.runs} rounds; ratios are of the same round")
    for name, seconds in times.items():
        ratios = sorted(a / b for a, b in zip(reference, seconds, strict=True))
        span = f"{1e3 * statistics.median(seconds):8.0f} ms [{1e3 * min(seconds):.0f}..{1e3 * max(seconds):.0f}]"
        print(f"{name:<22}{span:<32}{statistics.median(ratios):6.1f} x [{ratios[0]:.1f}..{ratios[-1]:.1f}]")


if __name__ == "__main__":
    main()
