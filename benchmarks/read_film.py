"""Time the stages of reading one film beside those of the original programs.

    python benchmarks/read_film.py [--runs N] [--weights DIR]

The film is a phantom: 2048 x 2494 pixels of 12 bits in 16, uncompressed, two knees. The original's figures are medians
on two CPU cores; it reads and normalises the film twice, once for KNEEL and once for DeepKnee, which is counted end to
end only. Ratios of the network stages compare whole programs, not equal networks: the line above them says which ran.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from deepknee.pipeline import Reader, load_reader
from deepknee.weights import WeightsError
from kneel.imaging import normalize_percentiles, read_radiograph
from kneel.imaging.geometry import Side
from kneel.localize import find_joint_centers, find_landmarks
from kneel.phantom.dicom_file import dicom_bytes
from kneel.phantom.render import FilmSpec, Photometric, render_film

ROWS, COLUMNS, SPACING_MM = 2048, 2494, 0.17
# medians of the original programs on two CPU cores: LC and HC run 5 networks of width 24, grading 3 of width 64 and
# draws its pictures as well
ORIGINAL_MS = {"read": 79.0, "lc": 1726.0, "hc": 3616.0, "kl": 342.0, "all": 5723.0}

Stage = tuple[str, Callable[[], object], float | None]


def write_film(path: Path, photometric: Photometric = "MONOCHROME2") -> None:
    """Write a phantom of both knees, the same every time."""
    knees: tuple[tuple[Side, int], ...] = (("R", 2), ("L", 3))
    spec = FilmSpec(ROWS, COLUMNS, SPACING_MM, knees, bits_stored=12, photometric=photometric)
    film = render_film(spec, np.random.default_rng(0))
    path.write_bytes(dicom_bytes(film, "9000000", "benchmark", "detector"))


def imaging_stages(folder: Path) -> list[Stage]:
    """Return (name, function, the original's median in ms) of reading and normalising."""
    path = folder / "film.dcm"
    write_film(path)
    inverted = folder / "monochrome1.dcm"
    write_film(inverted, "MONOCHROME1")
    pixels = read_radiograph(path).pixels
    return [
        ("read", lambda: read_radiograph(path), None),
        ("normalise", lambda: normalize_percentiles(pixels), None),
        ("read + normalise", lambda: normalize_percentiles(read_radiograph(path).pixels), ORIGINAL_MS["read"]),
        ("the same, MONOCHROME1", lambda: normalize_percentiles(read_radiograph(inverted).pixels), ORIGINAL_MS["read"]),
    ]


def network_stages(folder: Path, reader: Reader) -> list[Stage]:
    """Return the stages that need trained networks; `folder` holds the film of `imaging_stages`."""
    path = folder / "film.dcm"
    radiograph = read_radiograph(path)
    film = normalize_percentiles(radiograph.pixels)
    spacing, localizer, grader = radiograph.spacing_mm, reader.localizer, reader.grader
    knees = reader.read(path).knees
    if len(knees) != 2 or spacing is None:
        raise SystemExit(f"these weights find {len(knees)} of the film's 2 knees: train better ones first")
    eight_bit = np.rint(film * 255).astype(np.uint8)

    def centers() -> None:
        find_joint_centers(film, spacing, [("left half", "R"), ("right half", "L")], localizer.lc)

    def landmarks() -> None:
        for knee in knees:
            find_landmarks(film, knee.center, knee.side, spacing, localizer.hc)

    def grades() -> None:
        frames = [grader.frame(knee.landmarks, spacing, knee.side) for knee in knees]
        grader.predict(np.stack([frame.crop(eight_bit) for frame in frames]))

    return [
        ("LC, 2 halves", centers, ORIGINAL_MS["lc"]),
        ("HC, 2 passes x 2 knees", landmarks, ORIGINAL_MS["hc"]),
        ("KL + Grad-CAM, 2 knees", grades, ORIGINAL_MS["kl"]),
        ("end to end, no files", lambda: reader.read(path), ORIGINAL_MS["all"]),
    ]


def time_ms(function: Callable[[], object], runs: int) -> list[float]:
    """Return the milliseconds of each of several runs, after one that does not count."""
    function()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - start))
    return times


def print_table(stages: list[Stage], runs: int) -> None:
    """Time all stages and print one line each."""
    for name, function, original in stages:
        times = time_ms(function, runs)
        median = statistics.median(times)
        measured = f"{median:.1f} [{min(times):.1f}..{max(times):.1f}]"
        beside = "" if original is None else f"{original:>14.0f}{original / median:>7.1f}x"
        print(f"{name:<24}{measured:>30}{beside}")


def describe(reader: Reader) -> str:
    """Say how many networks of which size work."""
    stages = {"LC": reader.localizer.lc.nets, "HC": reader.localizer.hc.nets}
    stages["KL"] = [member.net for member in reader.grader.members]
    sizes = {name: sum(weight.numel() for weight in nets[0].parameters()) for name, nets in stages.items()}
    return ", ".join(f"{name} {len(nets)} x {sizes[name] / 1e6:.2f} M weights" for name, nets in stages.items())


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30, help="timed runs of each stage (default: %(default)s)")
    parser.add_argument("--weights", type=Path, help="snapshots (default: as `deepknee read` finds them)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'stage':<24}{'median [min..max] ms':>30}{'original ms':>14}{'ratio':>8}")
        print_table(imaging_stages(Path(folder)), options.runs)
        start = time.perf_counter()
        try:
            reader = load_reader(options.weights)
        except WeightsError as error:
            print(f"network stages left out: {error}")
            return
        print(f"networks: {describe(reader)}; loaded in {time.perf_counter() - start:.1f} s (original 2.5 s)")
        print_table(network_stages(Path(folder), reader), options.runs)


if __name__ == "__main__":
    main()
