"""A phantom cohort laid out like the MOST download, and what grading needs of either cohort: readings and boxes.

The layout is that of `deepknee.downloads`, the tables are those of `deepknee.readings` and `deepknee.boxes`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.random import SeedSequence
from tqdm import tqdm

from kneel.imaging.geometry import Side
from kneel.imaging.oai import FILM, detector_spacing
from kneel.imaging.preparing import run_tasks
from kneel.imaging.schema import CENTER, KneeAnnotation
from kneel.imaging.writing import write_rows, write_whole
from kneel.phantom.cohort import CohortOptions, draw_spec
from kneel.phantom.dicom_file import dicom_bytes
from kneel.phantom.oai import OaiPhantom
from kneel.phantom.render import render_film

BOX_MM = 120.0
OAI_READINGS, MOST_READINGS, BOXES = "kxr_sq_bu00.csv", "mostv01235xray.csv", "boxes.csv"
_VIEWS = (("0", "PA10", "1"), ("2", "PA05", "3"))  # visit, view, last digit of the film; every other subject has both


@dataclass(frozen=True)
class GradedFilm:
    """A film of the download and the truth about its knees.

    Attributes
    ----------
    name : str
        Path below the download's folder.
    subject_id, visit : str
        Whose and when.
    spacing_mm : float
        Pixel size.
    grades : dict of side to int
        KL grades.
    centers : dict of side to ndarray, shape (2,)
        Joint centres, (x, y) in film pixels.
    """

    name: str
    subject_id: str
    visit: str
    spacing_mm: float
    grades: dict[Side, int]
    centers: dict[Side, np.ndarray]


@dataclass(frozen=True)
class MostPhantom:
    """Where a phantom download lies: the folder of subjects, readings, list of boxes; and its PA films."""

    root: Path
    readings: Path
    boxes: Path
    films: tuple[GradedFilm, ...]


def write_most_phantom(
    directory: str | os.PathLike[str],
    n: int,
    seed: int,
    *,
    spacing_mm: float | None = None,
    jobs: int = 1,
    progress: bool = False,
) -> MostPhantom:
    """Write ``MOST/`` as the study hands it out, and readings and boxes beside it.

    Every subject has a PA film of visit 0, every other one also of visit 2; all have a lateral view, whose file is
    empty.

    Parameters
    ----------
    directory : path_like
        Folder to write to; made when missing.
    n : int
        Number of subjects, 1 to 999.
    seed : int
        Seed; the films do not depend on `jobs`.
    spacing_mm : float, optional
        Pixel size of all films; drawn from .139 to .2 mm when not given.
    jobs : int
        Processes.
    progress : bool
        Show a progress bar.

    Returns
    -------
    MostPhantom
        Paths and truth.

    Raises
    ------
    ValueError
        `n`, `jobs`, `seed` or `spacing_mm` is out of range.
    """
    if not 1 <= n <= 999 or jobs < 1 or seed < 0:
        raise ValueError(f"n is {n}, jobs {jobs}, seed {seed}: must be 1 to 999, at least 1, at least 0")
    options = CohortOptions(single_knee_fraction=0, implant_fraction=0, spacing_mm=spacing_mm)
    root = Path(directory) / "MOST"
    root.mkdir(parents=True, exist_ok=True)
    tasks = [(subject, time) for subject in range(n) for time in range(1 + subject % 2)]
    work = partial(_write_film, root, seed, options)
    bar = tqdm(
        run_tasks(work, tasks, jobs, ordered=True), "phantom films", len(tasks), unit="film", disable=not progress
    )
    films = tuple(bar)
    readings, boxes = Path(directory) / MOST_READINGS, Path(directory) / BOXES
    write_most_readings(readings, films)
    write_boxes(boxes, films)
    return MostPhantom(root, readings, boxes, films)


def graded_oai_films(phantom: OaiPhantom) -> tuple[GradedFilm, ...]:
    """Say of the films of an OAI phantom what grading needs.

    Parameters
    ----------
    phantom : OaiPhantom
        As `kneel.phantom.oai.write_oai_phantom` returned it.
    """
    films = []
    for index, folder in enumerate(phantom.folders):
        spacing = detector_spacing(phantom.root / folder / FILM)
        if spacing is None:
            raise ValueError(f"{phantom.root / folder / FILM}: has no spacing, as phantoms do")
        knees = phantom.knees[2 * index : 2 * index + 2]
        films.append(_graded(f"{folder}/{FILM}", "00", spacing[0], knees))
    return tuple(films)


def write_oai_readings(path: Path, films: Iterable[GradedFilm]) -> None:
    """Write a table like ``kxr_sq_bu00``: a row a knee.

    Parameters
    ----------
    path : Path
        The table.
    films : iterable of GradedFilm
        Truth.
    """
    sides: Mapping[Side, int] = {"R": 1, "L": 2}
    rows = [(film.subject_id, sides[side], 15, kl) for film in films for side, kl in film.grades.items()]
    write_rows(path, [("ID", "SIDE", "READPRJ", "V00XRKL"), *rows])


def write_most_readings(path: Path, films: Iterable[GradedFilm]) -> None:
    """Write a table like ``mostv01235xray``: a row a subject, columns by visit and side, empty where there is no film.

    Parameters
    ----------
    path : Path
        The table.
    films : iterable of GradedFilm
        Truth.
    """
    subjects: dict[str, dict[str, int]] = {}
    for film in films:
        row = subjects.setdefault(film.subject_id, {})
        row.update({f"V{film.visit}X{side}KL": kl for side, kl in film.grades.items()})
    names = sorted({name for row in subjects.values() for name in row})
    rows = [(subject, *(row.get(name, "") for name in names)) for subject, row in subjects.items()]
    write_rows(path, [("MOSTID", *names), *rows])


def write_boxes(path: Path, films: Iterable[GradedFilm]) -> None:
    """Write a list of films like DeepKnee's authors': path, box of the left knee, box of the right knee.

    Parameters
    ----------
    path : Path
        The list.
    films : iterable of GradedFilm
        Truth.
    """
    lines = []
    for film in films:
        size = round(BOX_MM / film.spacing_mm)
        corners = [np.rint(film.centers[side] + 0.5 - size / 2).astype(int) for side in ("L", "R")]
        numbers = [value for corner in corners for value in (*corner, *(corner + size))]
        lines.append(" ".join(map(str, [film.name, *numbers])) + "\n")
    write_whole(path, "".join(lines).encode())


def _write_film(root: Path, seed: int, options: CohortOptions, task: tuple[int, int]) -> GradedFilm:
    """Render one film and write it; its randomness depends on the seed, subject and visit alone."""
    index, time = task
    rng = np.random.default_rng(SeedSequence(seed, spawn_key=task))
    spec = draw_spec(rng, options)
    film = render_film(spec, rng)
    visit, view, last = _VIEWS[time]
    subject, study = f"M{9000 + index}", f"{int(visit) + 1}{9000 + index}"
    name = f"{subject}_PHTM/V{visit}/{study}/{view}/{study}{last}"
    path = root / name
    lateral = path.parents[1] / "LLAT" / f"{study}4"
    for folder in (path.parent, lateral.parent):
        folder.mkdir(parents=True, exist_ok=True)
    lateral.touch()
    write_whole(path, dicom_bytes(film, subject, f"{seed} {visit}", "detector"))
    spacing = spec.spacing_mm, spec.spacing_mm
    knees = [KneeAnnotation.from_film(subject, knee.side, knee.kl, knee.landmarks, spacing) for knee in film.knees]
    return _graded(name, visit, spec.spacing_mm, knees)


def _graded(name: str, visit: str, spacing_mm: float, knees: Sequence[KneeAnnotation]) -> GradedFilm:
    centers = {knee.side: knee.film_points((spacing_mm, spacing_mm))[CENTER] for knee in knees}
    return GradedFilm(name, knees[0].subject_id, visit, spacing_mm, {knee.side: knee.kl for knee in knees}, centers)
