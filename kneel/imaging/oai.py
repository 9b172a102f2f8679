"""The OAI download as it is handed out: ``contents.csv`` and one folder a film, whose picture is called ``001``.

A release such as 00m is a folder that holds ``contents.csv`` with, among others, the columns ``Folder``
(``0.C.2/9000099/20050512/00112106``), ``ParticipantID``, ``StudyDate`` and ``SeriesDescription``. The film is the DICOM
file ``FOLDER/001``, without an extension.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path, PurePosixPath

import pydicom
from pydicom.errors import InvalidDicomError

from kneel.imaging.geometry import Spacing
from kneel.imaging.tags import valid_spacing

CONTENTS = "contents.csv"
FILM = "001"
BILATERAL = "Bilateral PA Fixed Flexion Knee"
CONTENTS_COLUMNS = ("Folder", "ParticipantID", "StudyDate", "SeriesDescription")


class ContentsError(ValueError):
    """A ``contents.csv`` that is missing or lacks a column."""


@dataclass(frozen=True)
class OaiFilm:
    """One row of a ``contents.csv``.

    Attributes
    ----------
    root : Path
        Folder of the release.
    folder : str
        Column Folder, with forward slashes.
    subject_id : str
        Column ParticipantID.
    study_date : str
        Column StudyDate, as it stands.
    description : str
        Column SeriesDescription, with single spaces.
    """

    root: Path
    folder: str
    subject_id: str
    study_date: str
    description: str

    @property
    def path(self) -> Path:
        """Where the DICOM file lies."""
        return self.root / self.folder / FILM

    @property
    def baseline(self) -> bool:
        """Whether it is of the first visit: Folder begins with ``0.``, as in ``0.C.2``."""
        return self.folder.startswith("0.")

    @property
    def day(self) -> date | None:
        """StudyDate as a date, from 20050512 or 2005-05-12; None where it is neither."""
        try:
            return date.fromisoformat(self.study_date)
        except ValueError:
            return None

    @property
    def bilateral(self) -> bool:
        """Whether SeriesDescription is ``Bilateral PA Fixed Flexion Knee``, in whatever case."""
        return self.description.casefold() == BILATERAL.casefold()


def read_contents(root: str | os.PathLike[str]) -> list[OaiFilm]:
    """List what a release says it holds; films are not looked for.

    Parameters
    ----------
    root : path_like
        Folder with ``contents.csv``; columns are found in whatever case.

    Returns
    -------
    list of OaiFilm
        All rows, in the order of the table.

    Raises
    ------
    ContentsError
        The table is missing, is no table, lacks a column, or a Folder leads out of the release; says file, line and
        column.
    """
    table = Path(root) / CONTENTS
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream)
            names = {name.strip().casefold(): name for name in rows.fieldnames or ()}
            missing = [name for name in CONTENTS_COLUMNS if name.casefold() not in names]
            if missing:
                raise ContentsError(f"{table}: no column {', '.join(missing)}; needs {', '.join(CONTENTS_COLUMNS)}")
            keys = [names[name.casefold()] for name in CONTENTS_COLUMNS]
            return [
                _film(Path(root), table, line, [row[key] or "" for key in keys]) for line, row in enumerate(rows, 2)
            ]
    except FileNotFoundError as error:
        raise ContentsError(f"{table}: missing; needed is the folder of a release, which holds {CONTENTS}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ContentsError(f"{table}: not a CSV table ({error})") from error


def _film(root: Path, table: Path, line: int, values: list[str]) -> OaiFilm:
    folder, subject, date, description = (" ".join(value.split()) for value in values)
    inside = PurePosixPath(folder.replace("\\", "/"))
    if not folder or inside.is_absolute() or ".." in inside.parts:
        raise ContentsError(f"{table}, line {line}: Folder is {folder!r}, must be a folder below that of the table")
    return OaiFilm(root, str(inside), subject, date, description)


@dataclass(frozen=True)
class Choice:
    """Which film of a subject is taken.

    Attributes
    ----------
    film : OaiFilm or None
        None when there is none to take.
    remark : str
        Why there is none, or what was decided between several; empty when there was nothing to decide.
    """

    film: OaiFilm | None
    remark: str = ""


def choose_baseline_film(films: Sequence[OaiFilm]) -> Choice:
    """Take the film that KNEEL's annotations of one subject are of: they are all of the baseline visit.

    Parameters
    ----------
    films : sequence of OaiFilm
        Every row about one subject, of all releases and visits.

    Returns
    -------
    Choice
        As from `choose_film`, of the rows of the baseline alone.
    """
    baseline = [film for film in films if film.baseline]
    if films and not baseline:
        others = ", ".join(sorted({film.folder.split("/")[0] for film in films}))
        return Choice(None, f"no row of the baseline, whose Folder begins with 0., in {CONTENTS}; only of {others}")
    return choose_film(baseline)


def choose_film(films: Sequence[OaiFilm]) -> Choice:
    """Take one subject's bilateral PA fixed flexion film of one visit.

    Of several the earliest is taken (StudyDate, then Folder). Where its file is not there, another of the same date may
    stand in, a later one never. One Folder listed by several releases is one film.

    Parameters
    ----------
    films : sequence of OaiFilm
        Every row about one subject and visit, of all releases.

    Returns
    -------
    Choice
        The film, or why there is none.
    """
    if not films:
        return Choice(None, f"no row in {CONTENTS}")
    bilateral = [film for film in films if film.bilateral]
    if not bilateral:
        others = ", ".join(sorted({repr(film.description) for film in films}))
        return Choice(None, f"no film with SeriesDescription {BILATERAL!r}, only {others}")
    undated = next((film for film in bilateral if film.day is None), None)
    if undated is not None and len({film.folder for film in bilateral}) > 1:
        text = f"StudyDate of {undated.folder} is {undated.study_date!r}, must be a date such as 20050512"
        return Choice(None, f"several bilateral films, and no telling which was the first: {text}")
    ordered = sorted(bilateral, key=lambda film: (film.day or date.min, film.folder))
    first = [film for film in ordered if film.day == ordered[0].day]
    taken = next((film for film in first if film.path.is_file()), None)
    if taken is None:
        return Choice(None, f"{first[0].path}: missing{missing_hint(first[0].path)}")
    left = sorted({film.folder for film in bilateral} - {taken.folder})
    remark = (
        f"several bilateral films: took {taken.folder} (of the earliest date), left {', '.join(left)}" if left else ""
    )
    return Choice(taken, remark)


def missing_hint(film: Path) -> str:
    """Say what to do about a film that is not there, where that can be seen.

    Parameters
    ----------
    film : Path
        Where it should lie.

    Returns
    -------
    str
        Empty, or ``"; NAME.tar.gz lies beside its place: unpack it"``.
    """
    archive = film.parent.with_name(film.parent.name + ".tar.gz")
    return f"; {archive.name} lies beside its place: unpack it" if archive.is_file() else ""


def detector_spacing(path: str | os.PathLike[str]) -> Spacing | None:
    """Read the spacing that KNEEL's annotation table was made with: the detector's, whatever calibration follows.

    KNEEL read ImagerPixelSpacing (0018,1164), else PixelSpacing (0028,0030), and divided by no magnification factor
    (`kneel.imaging.tags.read_spacing` may). Its table is right in no other millimetres.

    Parameters
    ----------
    path : path_like
        A DICOM file.

    Returns
    -------
    (float, float) or None
        (row, column) in mm; None when there is neither tag, when the two numbers differ (KNEEL took the first for
        both axes), or the file is no DICOM.
    """
    tags = ("ImagerPixelSpacing", "PixelSpacing")
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(tags))
        for tag in tags:
            found = valid_spacing(tuple(float(value) for value in header.get(tag) or ()))
            if found is not None:
                return found if math.isclose(*found, rel_tol=1e-3) else None
    except (InvalidDicomError, ValueError, TypeError, OSError):
        return None
    return None
