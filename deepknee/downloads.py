"""Films of the two cohorts as they are handed out, with subject, visit and view of each.

=====  =====================================================================================================
OAI    ``contents.csv`` and films at ``FOLDER/001`` (`kneel.imaging.oai`); the visit is the first number of
       FOLDER (``0.C.2/...`` is visit 00), a PA film is a "Bilateral PA Fixed Flexion Knee"
MOST   ``M2320_HNSH/V0/14608/PA15/146082``: subject and letters, visit, study, view, film (a file, or a folder
       of one file); PA films have the beam's angle in their name, all else (lateral, full limb) is no PA film.
       Read off the authors' list of 10,100 films
=====  =====================================================================================================
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kneel.imaging.oai import CONTENTS, FILM, ContentsError, OaiFilm, choose_film, missing_hint, read_contents

PA_VIEWS = ("PA10", "PA05", "PA15")  # in the order of how often the authors took them
_MOST_LEVELS = "SUBJECT_LETTERS/V0/STUDY/PA10/FILM"


class DownloadError(ValueError):
    """A folder that is no download of a cohort."""


@dataclass(frozen=True)
class DownloadedFilm:
    """A film of a download; whether its file is there is another question.

    Attributes
    ----------
    path : Path
        The file.
    name : str
        Path below the download's folder, as the authors' lists write it.
    subject_id, visit : str
        Whose, and when, as the readings write them.
    view : str
        What the download calls the view.
    pa : bool
        Whether that is a bilateral PA film.
    """

    path: Path
    name: str
    subject_id: str
    visit: str
    view: str
    pa: bool

    @property
    def fault(self) -> str:
        """Why the file cannot be read; empty when it is there."""
        if self.path.is_dir():
            return f"film missing: a folder of {len(list(self.path.iterdir()))} files, must be or hold one file"
        return "" if self.path.is_file() else f"film missing: no file{missing_hint(self.path)}"


@dataclass(frozen=True)
class Choice:
    """Which film shows a subject at a visit, or why none does; `remark` also says what was decided."""

    subject_id: str
    visit: str
    film: DownloadedFilm | None
    remark: str


@dataclass(frozen=True)
class Download:
    """All films of a cohort.

    Attributes
    ----------
    films : dict of str to DownloadedFilm
        By name.
    choices : tuple of Choice
        One a subject and visit.
    where : str
        Where its films are listed, for messages.
    """

    films: dict[str, DownloadedFilm]
    choices: tuple[Choice, ...]
    where: str


def open_oai(roots: Sequence[Path]) -> Download:
    """List an OAI download.

    Parameters
    ----------
    roots : sequence of Path
        Release folders, each with a ``contents.csv``.

    Returns
    -------
    Download
        Of several bilateral PA films of a visit the earliest is chosen (`kneel.imaging.oai.choose_film`).

    Raises
    ------
    ContentsError
        A table cannot be used.
    """
    rows = [film for root in roots for film in read_contents(root)]
    rows.sort(key=lambda row: not row.path.is_file())  # one folder listed by two releases: the one that has the file
    films: dict[str, DownloadedFilm] = {}
    visits: dict[tuple[str, str], list[OaiFilm]] = defaultdict(list)
    for row in rows:
        film = _from_oai(row)
        films.setdefault(film.name, film)
        visits[film.subject_id, film.visit].append(row)
    choices = []
    for (subject, visit), several in sorted(visits.items()):
        choice = choose_film(several)
        chosen = None if choice.film is None else films[f"{choice.film.folder}/{FILM}"]
        gone = next((row for row in several if row.bilateral), None) if chosen is None else None
        prefix = "" if chosen else "film missing: " if gone else "view: "
        choices.append(Choice(subject, visit, chosen, f"{prefix}{choice.remark}" if choice.remark else ""))
    return Download(films, tuple(choices), CONTENTS)


def _from_oai(row: OaiFilm) -> DownloadedFilm:
    release = re.match(r"(\d+)\.", row.folder)
    if release is None:
        raise ContentsError(f"{row.root / CONTENTS}: Folder is {row.folder!r}, must begin with a release such as 0.C.2")
    visit = f"{int(release[1]):02d}"
    return DownloadedFilm(row.path, f"{row.folder}/{FILM}", row.subject_id, visit, row.description, row.bilateral)


def open_most(roots: Sequence[Path]) -> Download:
    """List a MOST download.

    Parameters
    ----------
    roots : sequence of Path
        Folders of the subjects' folders.

    Returns
    -------
    Download
        Of several PA films of a visit one at 10 degrees is chosen, else at 5, else at 15; one whose file is not there
        only where there is no other.

    Raises
    ------
    DownloadError
        No film lies where one should.
    """
    paths = [(root, path) for root in roots for path in sorted(root.glob("*/V[0-9]*/*/*/*"))]
    found = [film for root, path in paths if (film := _from_most(root, path)) is not None]
    films: dict[str, DownloadedFilm] = {}
    for film in sorted(found, key=_has_fault):  # one film in two folders: the one that has the file
        films.setdefault(film.name, film)
    if not films:
        raise DownloadError(f"{', '.join(map(str, roots))}: no film at {_MOST_LEVELS} in it")
    visits: dict[tuple[str, str], list[DownloadedFilm]] = defaultdict(list)
    for film in films.values():
        visits[film.subject_id, film.visit].append(film)
    choices = tuple(_choose(*key, several) for key, several in sorted(visits.items()))
    return Download(films, choices, ", ".join(map(str, roots)))


def _from_most(root: Path, path: Path) -> DownloadedFilm | None:
    name = path.relative_to(root)
    subject, visit, _, view, film = name.parts
    number = re.fullmatch(r"V(\d+)", visit)
    if number is None or film.startswith(".") or film.endswith(".part"):
        return None
    if path.is_dir():
        inside = sorted(path.iterdir())
        path = inside[0] if len(inside) == 1 else path
    pa = re.fullmatch(r"PA\d*", view.upper()) is not None
    return DownloadedFilm(path, name.as_posix(), subject.split("_")[0], number[1], view, pa)


def _choose(subject: str, visit: str, several: Iterable[DownloadedFilm]) -> Choice:
    films = list(several)
    ordered = sorted(
        (film for film in films if film.pa), key=lambda film: (_has_fault(film), _rank(film.view), film.name)
    )
    if not ordered:
        others = ", ".join(sorted({film.view for film in films}))
        return Choice(subject, visit, None, f"view: no PA film, only {others}")
    left = ", ".join(film.name for film in ordered[1:])
    return Choice(subject, visit, ordered[0], f"several PA films: took {ordered[0].name}, left {left}" if left else "")


def _has_fault(film: DownloadedFilm) -> bool:
    return bool(film.fault)


def _rank(view: str) -> int:
    return PA_VIEWS.index(view.upper()) if view.upper() in PA_VIEWS else len(PA_VIEWS)


OPEN: dict[str, Callable[[Sequence[Path]], Download]] = {"oai": open_oai, "most": open_most}
