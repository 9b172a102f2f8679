"""A cohort on disk: DICOM films, annotations in KNEEL's format and a table of the films."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.random import Generator, SeedSequence
from scipy.stats import norm
from tqdm import tqdm

from kneel.imaging.geometry import Side
from kneel.imaging.preparing import run_tasks
from kneel.imaging.schema import KneeAnnotation, write_annotations
from kneel.imaging.writing import write_rows, write_whole
from kneel.phantom.dicom_file import dicom_bytes
from kneel.phantom.film import Implant
from kneel.phantom.render import FilmSpec, render_film

FILM_COLUMNS = (
    "subject_id",
    "file",
    "rows",
    "columns",
    "spacing_row_mm",
    "spacing_column_mm",
    "photometric",
    "knees",
    "implant",
    "seed",
)
SUBJECTS_PER_SEED = 10_000
_BILATERAL_MM = ((350.0, 430.0), (350.0, 430.0), (300.0, 400.0), (240.0, 430.0))
_SINGLE_MM = ((300.0, 240.0), (240.0, 180.0), (350.0, 200.0), (430.0, 180.0))
_BILATERAL_SPACING = (0.139, 0.143, 0.15, 0.168, 0.171, 0.175, 0.2)
_SINGLE_SPACING = (0.1, 0.125, 0.139, 0.15, 0.168, 0.175, 0.2)
_PAIR_CORRELATION = 0.75  # of the latent severity of a subject's two knees


@dataclass(frozen=True)
class Cohort:
    """Where a cohort lies.

    Attributes
    ----------
    films : Path
        Folder of ``{subject_id}.dcm``.
    annotations : Path
        One row a knee, KNEEL's format.
    table : Path
        One row a film.
    subjects : tuple of str
        In the order of the tables.
    """

    films: Path
    annotations: Path
    table: Path
    subjects: tuple[str, ...]


@dataclass(frozen=True)
class CohortOptions:
    """What a cohort is made of.

    Attributes
    ----------
    single_knee_fraction : float
        Share of films that show one knee.
    implant_fraction : float
        Share of films with metal in one knee.
    spacing_mm : float or None
        Pixel size of every film; None draws .1 to .2 mm. Coarser films are smaller and quicker.
    """

    single_knee_fraction: float = 0.15
    implant_fraction: float = 0.03
    spacing_mm: float | None = None

    def __post_init__(self) -> None:
        """Refuse shares and sizes that cannot be."""
        for name in ("single_knee_fraction", "implant_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: must be 0 to 1")
        if self.spacing_mm is not None and not 0.05 <= self.spacing_mm <= 0.5:
            raise ValueError(f"spacing_mm is {self.spacing_mm}: must be 0.05 to 0.5")


def write_cohort(
    directory: str | os.PathLike[str],
    n: int,
    seed: int,
    *,
    jobs: int = 1,
    single_knee_fraction: float = 0.15,
    implant_fraction: float = 0.03,
    spacing_mm: float | None = None,
    first_subject: int | None = None,
    progress: bool = False,
) -> Cohort:
    """Write a cohort of phantom films: one film a subject, grades uniform over 0 to 4 in every knee.

    Writes ``films/{subject_id}.dcm``, ``annotations.csv`` and ``films.csv``. The bytes depend on the arguments,
    but not on `jobs`.

    Parameters
    ----------
    directory : path_like
        Folder to write to; made when missing.
    n : int
        Number of films.
    seed : int
        Seed of the cohort.
    jobs : int
        Processes.
    single_knee_fraction : float
        Share of films that show one knee.
    implant_fraction : float
        Share of films with metal in one knee.
    spacing_mm : float, optional
        Pixel size of every film; drawn from .1 to .2 mm when not given. Coarser films are smaller and quicker.
    first_subject : int, optional
        Number of the first subject; others follow. By default cohorts of unlike seeds (modulo 99) share no subject.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Cohort
        Paths and subjects.

    Raises
    ------
    ValueError
        An argument is out of range; the message says which and what would be valid.
    FileExistsError
        The folder already holds films of other subjects, which no table would describe.
    """
    tasks = _tasks(n, seed, jobs, first_subject)
    options = CohortOptions(single_knee_fraction, implant_fraction, spacing_mm)
    root = Path(directory)
    claim_folders(root, {subject for subject, _ in tasks})
    work = partial(_write_film, root, seed, options)
    annotations: list[KneeAnnotation] = []
    rows = []
    for knees, row in tqdm(
        run_tasks(work, tasks, jobs, ordered=True), total=n, desc="phantom films", unit="film", disable=not progress
    ):
        annotations += knees
        rows.append(row)
    cohort = Cohort(
        root / "films", root / "annotations.csv", root / "films.csv", tuple(subject for subject, _ in tasks)
    )
    write_annotations(cohort.annotations, annotations)
    write_rows(cohort.table, [FILM_COLUMNS, *([row[name] for name in FILM_COLUMNS] for row in rows)])
    return cohort


def _tasks(n: int, seed: int, jobs: int, first_subject: int | None) -> list[tuple[str, int]]:
    """Number the subjects: (id, index)."""
    if n < 1 or jobs < 1 or seed < 0:
        raise ValueError(f"n is {n}, jobs {jobs}, seed {seed}: n and jobs must be at least 1, seed at least 0")
    if first_subject is None:
        if n > SUBJECTS_PER_SEED:
            raise ValueError(f"n is {n}: more than {SUBJECTS_PER_SEED} films need first_subject")
        first_subject = 9_000_000 + SUBJECTS_PER_SEED * (seed % 99)
    return [(str(first_subject + index), index) for index in range(n)]


def claim_folders(root: Path, subjects: set[str]) -> None:
    """Make the folders; refuse films that the tables of this cohort would not know, drop tables of another writing.

    Should the writing be broken off, films without tables are no cohort; with old tables they would be a false one.

    Parameters
    ----------
    root : Path
        Folder of the cohort.
    subjects : set of str
        Subjects that will be written.

    Raises
    ------
    FileExistsError
        The folder holds films of others.
    """
    films = root / "films"
    films.mkdir(parents=True, exist_ok=True)
    strangers = sorted(path.name for path in films.glob("*.dcm") if path.stem not in subjects)
    if strangers:
        raise FileExistsError(
            f"{films} holds {len(strangers)} films of another cohort ({strangers[0]}): choose an empty folder"
        )
    for table in ("annotations.csv", "films.csv"):
        (root / table).unlink(missing_ok=True)


def draw_spec(rng: Generator, options: CohortOptions) -> FilmSpec:
    """Draw what a film of a cohort shows.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    options : CohortOptions
        Shares and pixel size.

    Returns
    -------
    FilmSpec
        One or two knees; grades uniform, correlated within the pair.
    """
    latent = rng.multivariate_normal([0, 0], [[1, _PAIR_CORRELATION], [_PAIR_CORRELATION, 1]])
    grades = np.minimum((5 * norm.cdf(latent)).astype(int), 4).tolist()
    sides: tuple[Side, Side] = ("R", "L")
    knees = tuple(zip(sides, grades, strict=True))
    single = rng.random() < options.single_knee_fraction
    if single:
        knees = (knees[rng.integers(2)],)
    height, width = rng.choice(_SINGLE_MM if single else _BILATERAL_MM)
    drawn_spacing = float(rng.choice(_SINGLE_SPACING if single else _BILATERAL_SPACING))
    spacing = options.spacing_mm or drawn_spacing
    kinds: tuple[Implant, Implant] = ("prosthesis", "plate")
    implant = kinds[rng.integers(2)] if rng.random() < options.implant_fraction else "none"
    return FilmSpec(
        round(height / spacing),
        round(width / spacing),
        spacing,
        knees,
        bits_stored=int(rng.integers(10, 15)),
        photometric="MONOCHROME1" if rng.random() < 0.3 else "MONOCHROME2",
        implant=implant,
    )


def _write_film(
    root: Path, seed: int, options: CohortOptions, task: tuple[str, int]
) -> tuple[list[KneeAnnotation], dict[str, object]]:
    """Render one subject's film and write it; its randomness depends on the seed and its index alone."""
    subject, index = task
    # the child that SeedSequence(seed).spawn(...) would give at this index
    rng = np.random.default_rng(SeedSequence(seed, spawn_key=(index,)))
    spec = draw_spec(rng, options)
    calibration = str(rng.choice(["detector", "magnification", "calibrated"], p=[0.75, 0.1, 0.15]))
    film = render_film(spec, rng)
    path = root / "films" / f"{subject}.dcm"
    write_whole(path, dicom_bytes(film, subject, str(seed), calibration))
    spacing = spec.spacing_mm, spec.spacing_mm
    knees = [KneeAnnotation.from_film(subject, knee.side, knee.kl, knee.landmarks, spacing) for knee in film.knees]
    values = (
        subject,
        f"films/{path.name}",
        spec.rows,
        spec.columns,
        *spacing,
        spec.photometric,
        "".join(knee.side for knee in film.knees),
        spec.implant,
        seed,
    )
    return knees, dict(zip(FILM_COLUMNS, values, strict=True))
