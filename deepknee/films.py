"""Which files a reading is asked of: files and folders become a sorted list of films."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

# Kinds of file that lie beside films and are none. Anything else that cannot be read is reported as a failure: a film
# that is missing from a table unnoticed is worse than a table with a line too many.
SIDE_SUFFIXES = frozenset({".csv", ".tsv", ".txt", ".log", ".md", ".json", ".xml", ".html", ".htm", ".css", ".xlsx"})
SIDE_NAMES = frozenset({"dicomdir", "thumbs.db", "desktop.ini"})

MARKER = "deepknee.json"  # lies in every output folder
SHARDS = "shards"  # the folder of what is read over a cluster
OWN_FOLDERS = ("knees", "records", SHARDS)
_OWN_FILES = frozenset({MARKER, "results.csv", "failures.csv", "report.html", "results.parquet"})

# Hexadecimal digits in the keys of films. Two films of one name get the same ten once in 200 times where a hundred
# thousand have that name, and most probably where two million have; the same sixteen hardly ever.
DIGITS, DIGITS_OF_MANY = 10, 16


class PathsError(ValueError):
    """Paths that cannot be what the user meant; says which and why."""


@dataclass(frozen=True)
class Film:
    """A file to be read.

    Attributes
    ----------
    file : str
        As the user named it: the PATH as given, and the way below it.
    path : Path
        Absolute path; links are not resolved.
    key : str
        Name of its outputs: safe on every file system, the same for the same file, different for different ones.
    """

    file: str
    path: Path
    key: str


def find_films(
    paths: Iterable[str | os.PathLike[str]], out: Path, digits: int = DIGITS
) -> tuple[list[Film], list[tuple[Film, str]]]:
    """List the films at some paths.

    Folders are walked, also through links; hidden files and folders and output folders of ``deepknee read`` are left
    out. A file that is named twice is taken once.

    Parameters
    ----------
    paths : iterable of path_like
        Files and folders.
    out : Path
        Output folder of this reading.
    digits : int
        As for `make_film`.

    Returns
    -------
    films : list of Film
        Sorted within each folder, in the order of `paths`.
    others : list of (Film, str)
        Files in folders that are no films, with the reason: side files, and what is no file at all.

    Raises
    ------
    PathsError
        A path does not exist, lies in our own outputs, nothing was found, or two files have the same key.
    """
    films: dict[Path, Film] = {}
    others: dict[Path, tuple[Film, str]] = {}
    named = [os.fspath(path) for path in paths]
    for given in named:
        _check(given, out)
        for file in _walk(given) if os.path.isdir(given) else [given]:
            film = make_film(file, out, digits)
            reason = "" if file == given else _no_film(file)
            if reason:
                others.setdefault(film.path, (film, reason))
            else:
                films.setdefault(film.path, film)
    if not films:
        raise PathsError(f"no films at {', '.join(named)}: no files there but hidden and side files")
    keys: dict[str, Film] = {}
    for film in films.values():
        if (twin := keys.setdefault(film.key, film)) is not film:
            raise PathsError(
                f"{twin.file} and {film.file}: have the same code {film.key} by chance; choose another --out"
            )
    return list(films.values()), [other for path, other in others.items() if path not in films]


def make_film(file: str, out: Path, digits: int = DIGITS) -> Film:
    """Name a file and its outputs.

    Parameters
    ----------
    file : str
        Path of the file.
    out : Path
        Output folder. The key depends on the way from it to the file, so that films and outputs can be moved together.
    digits : int
        How long the code of that way is.

    Returns
    -------
    Film
        Its key is the plain letters of the name, at most 48, and the code in hexadecimal digits.
    """
    path = Path(os.path.abspath(file))
    try:
        way = os.path.relpath(path, os.path.abspath(out))
    except ValueError:  # another drive of a Windows machine
        way = str(path)
    digest = hashlib.sha256(Path(way).as_posix().encode("utf-8", "surrogateescape")).hexdigest()[:digits]
    plain = unicodedata.normalize("NFKD", path.name).encode("ascii", "ignore").decode()
    plain = re.sub(r"(\.dcm|\.dicom|\.png|\.jpe?g|\.tiff?)$", "", plain, flags=re.IGNORECASE)
    plain = re.sub(r"[^A-Za-z0-9]+", "_", plain)[:48].strip("_")
    return Film(file, path, f"{plain or 'film'}-{digest}")


def _check(given: str, out: Path) -> None:
    if not os.path.lexists(given):
        raise PathsError(f"{given}: there is no such file or folder")
    path = Path(os.path.abspath(given))
    for folder in OWN_FOLDERS:
        own = Path(os.path.abspath(out), folder)
        if own == path or own in path.parents:
            raise PathsError(f"{given}: lies where outputs go ({own}); choose another --out")


def _walk(root: str) -> Iterator[str]:
    """Yield the files below a folder, sorted; what cannot be listed is yielded itself, and fails when it is read."""
    refused: list[str] = []
    seen: set[str] = set()  # folders by their real place: links can make loops
    for folder, folders, names in os.walk(
        root, onerror=lambda error: refused.append(str(error.filename)), followlinks=True
    ):
        real = os.path.realpath(folder)
        ours = os.path.lexists(os.path.join(folder, MARKER))
        if real in seen or (ours and folder != root):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not (ours and name in OWN_FOLDERS))
        for name in sorted(names):
            if not name.startswith(".") and not (ours and name in _OWN_FILES):
                yield os.path.join(folder, name)
    yield from refused


def _no_film(file: str) -> str:
    """Say why a file in a folder is no film, or nothing."""
    name = os.path.basename(file).lower()
    suffix = os.path.splitext(name)[1]
    if name in SIDE_NAMES or suffix in SIDE_SUFFIXES:
        return f"not a film: {suffix if suffix in SIDE_SUFFIXES else name} files lie beside films"
    # a link to nowhere and a folder that cannot be opened may be missing films: they are tried, and fail
    if os.path.exists(file) and not os.path.isfile(file) and not os.path.isdir(file):
        return "not a film: a device, pipe or socket"
    return ""
