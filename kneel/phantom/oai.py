"""A phantom cohort laid out like the OAI download (see `kneel.imaging.oai`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.random import SeedSequence
from tqdm import tqdm

from kneel.imaging.oai import BILATERAL, CONTENTS, FILM
from kneel.imaging.preparing import run_tasks
from kneel.imaging.schema import KneeAnnotation, write_annotations
from kneel.imaging.writing import write_rows, write_whole
from kneel.phantom.cohort import CohortOptions, draw_spec
from kneel.phantom.dicom_file import dicom_bytes
from kneel.phantom.render import render_film

COLUMNS = ("Folder", "ParticipantID", "StudyDate", "Barcode", "StudyDescription", "SeriesDescription")
_FIRST_SUBJECT = 9_900_000  # the OAI's own numbers go from 9000099 to 9999878
_DATE = 20040101


@dataclass(frozen=True)
class OaiPhantom:
    """Where a phantom download lies.

    Attributes
    ----------
    root : Path
        Folder with ``contents.csv``.
    annotations : Path
        The truth, one row a knee, KNEEL's format.
    knees : tuple of KneeAnnotation
        The same in memory.
    folders : tuple of str
        Column Folder of the bilateral film of every subject.
    """

    root: Path
    annotations: Path
    knees: tuple[KneeAnnotation, ...]
    folders: tuple[str, ...]


def write_oai_phantom(
    directory: str | os.PathLike[str],
    n: int,
    seed: int,
    *,
    spacing_mm: float | None = None,
    jobs: int = 1,
    progress: bool = False,
) -> OaiPhantom:
    """Write ``OAI_00m/`` as the OAI hands it out, and ``bf_landmarks_1_0.3.csv`` beside it.

    Every subject has a bilateral film; ``contents.csv`` also lists a hand film a subject, whose file is not written.

    Parameters
    ----------
    directory : path_like
        Folder to write to; made when missing.
    n : int
        Number of subjects, 1 to 9999.
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
    OaiPhantom
        Paths and truth.

    Raises
    ------
    ValueError
        `n`, `jobs`, `seed` or `spacing_mm` is out of range.
    """
    if not 1 <= n <= 9999 or jobs < 1 or seed < 0:
        raise ValueError(f"n is {n}, jobs {jobs}, seed {seed}: must be 1 to 9999, at least 1, at least 0")
    options = CohortOptions(single_knee_fraction=0, implant_fraction=0, spacing_mm=spacing_mm)
    root = Path(directory) / "OAI_00m"
    root.mkdir(parents=True, exist_ok=True)
    work = partial(_write_film, root, seed, options)
    bar = tqdm(run_tasks(work, range(n), jobs, ordered=True), "phantom films", n, unit="film", disable=not progress)
    films = list(bar)
    rows: list[Sequence[object]] = []
    for folder, _ in films:
        barcode = Path(folder).name
        common = (folder.split("/")[1], folder.split("/")[2])
        rows.append((folder, *common, barcode, "OAI^XR^KNEE", BILATERAL))
        hand = f"{folder[:-1]}9"
        rows.append((hand, *common, Path(hand).name, "OAI^XR^HAND", "PA Right Hand"))
    write_contents(root, rows)
    knees = tuple(knee for _, pair in films for knee in pair)
    annotations = Path(directory) / "bf_landmarks_1_0.3.csv"
    write_annotations(annotations, knees)
    return OaiPhantom(root, annotations, knees, tuple(folder for folder, _ in films))


def write_contents(root: Path, rows: Sequence[Sequence[object]]) -> None:
    """Write a ``contents.csv``.

    Parameters
    ----------
    root : Path
        Folder of the release.
    rows : sequence of sequences
        Values in the order of `COLUMNS`.
    """
    write_rows(root / CONTENTS, [COLUMNS, *rows])


def _write_film(root: Path, seed: int, options: CohortOptions, index: int) -> tuple[str, list[KneeAnnotation]]:
    """Render one subject's film and write it; its randomness depends on the seed and its index alone."""
    rng = np.random.default_rng(SeedSequence(seed, spawn_key=(index,)))
    spec = draw_spec(rng, options)
    subject = str(_FIRST_SUBJECT + index)
    film = render_film(spec, rng)
    center = "0.C.2" if index % 2 else "0.E.1"
    folder = f"{center}/{subject}/{_DATE + index % 28}/{index:07d}0"
    path = root / folder / FILM
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, dicom_bytes(film, subject, str(seed), "detector"))
    spacing = spec.spacing_mm, spec.spacing_mm
    knees = [KneeAnnotation.from_film(subject, knee.side, knee.kl, knee.landmarks, spacing) for knee in film.knees]
    return folder, knees
