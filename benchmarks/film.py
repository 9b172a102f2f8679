"""The film that the benchmarks of reading read: a phantom of both knees, the same every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kneel.imaging.geometry import Side
from kneel.phantom.dicom_file import dicom_bytes
from kneel.phantom.render import FilmSpec, render_film

ROWS, COLUMNS, SPACING_MM = 2048, 2494, 0.17  # the film that the original was measured with


def write_film(
    path: Path,
    *,
    rows: int = ROWS,
    knees: tuple[tuple[Side, int], ...] = (("R", 2), ("L", 3)),
) -> None:
    """Write a DICOM film of 12 bits in 16, uncompressed.

    Parameters
    ----------
    path : Path
        Where to.
    rows : int
        Height; the width and the spacing follow, so that the film shows the same square millimetres whatever its
        pixels.
    knees : tuple of (side, KL grade)
        Two of them, or one on a film of half the width.
    """
    columns, spacing_mm = round(rows * COLUMNS / ROWS * len(knees) / 2), SPACING_MM * ROWS / rows
    spec = FilmSpec(rows, columns, spacing_mm, knees, bits_stored=12)
    film = render_film(spec, np.random.default_rng(0))
    path.write_bytes(dicom_bytes(film, "9000000", "benchmark", "detector"))
