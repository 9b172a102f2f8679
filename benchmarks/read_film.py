"""Time the stages of reading one film beside those of the original programs.

    python benchmarks/read_film.py [--runs N]

The film is synthetic: 2048 x 2494 pixels of 12 bits in 16, uncompressed. The original's figures are medians on two CPU
cores; it reads and normalises the film twice, once for KNEEL and once for DeepKnee, which is not counted here.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

from kneel.imaging import normalize_percentiles, read_radiograph

ROWS, COLUMNS = 2494, 2048
ORIGINAL_READ_MS = 79.0  # DICOM reading and percentile normalisation together

Stage = tuple[str, Callable[[], object], float | None]


def write_film(path: Path, photometric: str = "MONOCHROME2") -> None:
    """Write a DX film of smooth shapes and noise, the same every time."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:ROWS, :COLUMNS]
    exposure = 1500 + 900 * np.sin(y / 300) * np.cos(x / 250) + rng.normal(0, 40, (ROWS, COLUMNS))
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = uid.DigitalXRayImageStorageForPresentation
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    ds.Modality, ds.ViewPosition, ds.PatientID = "DX", "PA", "benchmark"
    ds.Rows, ds.Columns = ROWS, COLUMNS
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, photometric
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.ImagerPixelSpacing = [0.143, 0.143]
    ds.PixelData = exposure.clip(0, 4095).astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    ds.save_as(path, enforce_file_format=True)


def make_stages(folder: Path) -> list[Stage]:
    """Return (name, function, the original's median in ms) of each stage, in the order of the walk."""
    path = folder / "film.dcm"
    write_film(path)
    inverted = folder / "monochrome1.dcm"
    write_film(inverted, "MONOCHROME1")
    pixels = read_radiograph(path).pixels
    return [
        ("read", lambda: read_radiograph(path), None),
        ("normalise", lambda: normalize_percentiles(pixels), None),
        ("read + normalise", lambda: normalize_percentiles(read_radiograph(path).pixels), ORIGINAL_READ_MS),
        ("the same, MONOCHROME1", lambda: normalize_percentiles(read_radiograph(inverted).pixels), ORIGINAL_READ_MS),
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
    print(f"{'stage':<24}{'median [min..max] ms':>30}{'original ms':>14}{'ratio':>8}")
    for name, function, original in stages:
        times = time_ms(function, runs)
        median = statistics.median(times)
        measured = f"{median:.1f} [{min(times):.1f}..{max(times):.1f}]"
        beside = "" if original is None else f"{original:>14.0f}{original / median:>7.1f}x"
        print(f"{name:<24}{measured:>30}{beside}")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30, help="timed runs of each stage (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print_table(make_stages(Path(folder)), options.runs)


if __name__ == "__main__":
    main()
