"""Draw docs/phantom_contact_sheet.jpg: phantom knees of every grade, both sides, as the networks see them.

Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from kneel.imaging import normalize_percentiles
from kneel.imaging.geometry import millimetres_per_pixel
from kneel.phantom import FilmSpec, render_film

FILM_MM, SPACING_MM = (300, 400), 0.15
TILE_MM, TILE = 130.0, 400
SHEET = Path(__file__).resolve().parents[2] / "docs" / "phantom_contact_sheet.jpg"


def main() -> None:
    """Render a film per grade and subject, cut out its knees, label and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=SHEET, help="picture to write (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the films (default: %(default)s)")
    given = parser.parse_args()
    rows = [
        np.hstack([*knees_of_grade(kl, [given.seed, kl, 0]), *knees_of_grade(kl, [given.seed, kl, 1])])
        for kl in range(5)
    ]
    if not cv2.imwrite(str(given.out), np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, 85]):
        raise OSError(f"cannot write {given.out}")


def knees_of_grade(kl: int, seed: list[int]) -> list[NDArray[np.uint8]]:
    """Render a bilateral film and cut out its knees.

    Parameters
    ----------
    kl : int
        Kellgren-Lawrence grade of both knees.
    seed : list of int
        Seed of the film.

    Returns
    -------
    list of ndarray, shape (400, 400), uint8
        The right, then the left knee, as they lie on the film, labelled.
    """
    rows, columns = (round(length / SPACING_MM) for length in FILM_MM)
    film = render_film(FilmSpec(rows, columns, SPACING_MM, (("R", kl), ("L", kl))), np.random.default_rng(seed))
    picture = (255 * normalize_percentiles(film.pixels)).astype(np.uint8)
    half = TILE_MM / 2 / millimetres_per_pixel((SPACING_MM, SPACING_MM))
    tiles = []
    for knee in film.knees:
        left, top = np.clip(np.rint(knee.center - half), 0, None).astype(int)
        tile = picture[top : top + int(2 * half[1]), left : left + int(2 * half[0])]
        tile = cv2.resize(tile, (TILE, TILE), interpolation=cv2.INTER_AREA)
        cv2.putText(tile, f"KL {kl}  {knee.side}", (10, 28), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 2, cv2.LINE_AA)
        tiles.append(tile)
    return tiles


if __name__ == "__main__":
    main()
