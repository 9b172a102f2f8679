"""A folder of whole films with annotated knees: ``films/{subject_id}.dcm`` and ``annotations.csv``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from kneel.imaging.schema import AnnotationError, KneeAnnotation, read_annotations

FILMS = "films"
ANNOTATIONS = "annotations.csv"


@dataclass(frozen=True)
class CohortFilm:
    """One film and what is known of it.

    Attributes
    ----------
    path : Path
        The DICOM file.
    subject_id : str
        Subject.
    knees : tuple of KneeAnnotation
        One or two knees.
    """

    path: Path
    subject_id: str
    knees: tuple[KneeAnnotation, ...]


def read_cohort(directory: str | os.PathLike[str]) -> list[CohortFilm]:
    """List the films of a cohort; the pictures themselves are not read.

    Parameters
    ----------
    directory : path_like
        Folder with ``annotations.csv`` (KNEEL's format, see `kneel.imaging.schema`) and ``films/{subject_id}.dcm``.

    Returns
    -------
    list of CohortFilm
        In the order of the annotations.

    Raises
    ------
    FileNotFoundError
        Films of annotated subjects are missing; names them all.
    AnnotationError
        The table cannot be read, or annotates one knee twice.
    """
    directory = Path(directory)
    knees: dict[str, list[KneeAnnotation]] = {}
    for knee in read_annotations(directory / ANNOTATIONS):
        others = knees.setdefault(knee.subject_id, [])
        if any(other.side == knee.side for other in others):
            raise AnnotationError(f"{directory / ANNOTATIONS}: knee {knee.subject_id} {knee.side} stands there twice")
        others.append(knee)
    if not knees:
        raise AnnotationError(f"{directory / ANNOTATIONS}: holds no knee")
    films = [
        CohortFilm(directory / FILMS / f"{subject}.dcm", subject, tuple(annotated))
        for subject, annotated in knees.items()
    ]
    missing = [film.subject_id for film in films if not film.path.is_file()]
    if missing:
        raise FileNotFoundError(f"{directory / FILMS}: no film of {len(missing)} subjects: {', '.join(missing)}")
    return films
