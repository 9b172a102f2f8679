"""What all output folders share: whose they are, when a film's file changed, words for films without a reading."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Self

from deepknee.films import MARKER, OWN_FOLDERS
from deepknee.report import FORMAT, NOTICE, to_json
from kneel.engine.atomic import write_atomic
from kneel.engine.provenance import code_version
from kneel.imaging.geometry import Spacing
from kneel.imaging.header import name_tag
from kneel.imaging.radiograph import Radiograph, RadiographError

if TYPE_CHECKING:
    from deepknee.weights import Weights

CRASHED = "reading it crashed the worker process (out of memory, or a broken decoder)"


def no_knee(film: Radiograph) -> str:
    """Say why a film has no reading on which no knee was found: what of its header may be wrong, or how it may lie.

    Examples
    --------
    >>> import numpy as np
    >>> pixels = np.zeros((2, 2), np.uint8)
    >>> no_knee(Radiograph(pixels, spacing_mm=(1.0, 1.0)))
    'no knee found at its spacing of 1 x 1 mm: if that is wrong, give another with --spacing; a film must stand upright'
    >>> no_knee(Radiograph(pixels))
    'no knee found; a film must stand upright'
    """
    said = "no knee found"
    if film.spacing_mm is not None:
        size = " x ".join(f"{length:.4g}" for length in film.spacing_mm)
        said += f" at its spacing of {size} mm: if that is wrong, give another with --spacing"
    if film.on_side is None:
        return f"{said}; a film must stand upright"
    tag = f"{name_tag('PatientOrientation')}, {film.on_side},"
    return f"{said}; by {tag} the film lies on its side: if it does, turn it upright"


class FolderError(ValueError):
    """An output folder that cannot be used; says why and what to do."""


@dataclass(frozen=True)
class Folder:
    """Where readings go, in one form or another, and what makes them.

    Attributes
    ----------
    root : Path
        The folder, made when missing.
    made_by : dict
        ``id`` of the weights, release and kind of attention: films that were read by another are read again;
        ``weights``, ``code`` and ``attention``.
    spacing_mm : (float, float) or None
        (row, column) spacing that the user gave.
    """

    root: Path
    made_by: dict[str, Any]
    spacing_mm: Spacing | None = None

    @classmethod
    def by(cls, weights: Weights, root: Path, spacing_mm: Spacing | None = None, attention: str = "gradcam") -> Self:
        """Return the folder for films that are read with some weights and this code.

        Parameters
        ----------
        weights : Weights
            The networks.
        root : Path
            The folder.
        spacing_mm : (float, float), optional
            (row, column) spacing that the user gave.
        attention : str
            How the maps are worked out.

        Raises
        ------
        FolderError
            `root` is a file, or holds files of somebody else where outputs go.
        """
        if root.exists() and not root.is_dir():
            raise FolderError(f"{root}: is a file; must be a folder for the outputs")
        for name in OWN_FOLDERS if not (root / MARKER).exists() else ():
            if (root / name).is_dir() and any((root / name).iterdir()):
                # among our outputs they would be overlooked from the second run on
                what = f"holds files, and no {MARKER} beside it says that they are outputs"
                raise FolderError(f"{root / name}: {what}; choose another --out")
        code = code_version()
        # the paper's maps have no name of their own, so that folders of earlier releases stay valid
        name = f"{weights.id}-{code['package']}" + ("" if attention == "gradcam" else f"-{attention}")
        made_by = {"id": name, "weights": weights.describe(), "code": code, "attention": attention}
        return cls(root, made_by, spacing_mm)

    @property
    def given(self) -> list[float] | None:
        """The given spacing as JSON has it."""
        return None if self.spacing_mm is None else list(self.spacing_mm)

    def made(self, made_by: str, given: list[float] | None) -> bool:
        """Say whether films that were read by some weights, with a given spacing, are as those that are read now."""
        return made_by == self.made_by["id"] and given == self.given

    def write_marker(self) -> None:
        """Write what reads the films into ``deepknee.json``, by which the folder is known as ours."""
        write_atomic(self.root / MARKER, to_json({"format": FORMAT, "notice": NOTICE, "made_by": self.made_by}))

    def refuse_strange(self, strange: Sequence[str]) -> None:
        """Refuse to mix with films that were read by another, if there are any.

        Parameters
        ----------
        strange : sequence of str
            Files of such films that are not asked for now.

        Raises
        ------
        FolderError
            There are some.
        """
        if strange:
            number = f"{len(strange)} films read with other weights, another release, --attention or --spacing"
            what = f"{self.root}: holds {number}, as {strange[0]}"
            raise FolderError(f"{what}; choose another --out, or name those films too")


def stamp(path: Path) -> tuple[int, int]:
    """Return size in bytes and time of the last change in ns of a file."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def stamp_or_none(path: Path) -> tuple[int, int] | None:
    """Return the `stamp` of a file; None where it cannot be had: reading the film says why, and stops no other."""
    try:
        return stamp(path)
    except OSError:
        return None


def folders_above(files: Iterable[str]) -> set[str]:
    """Return the folders that some files lie in, up to the first, as `str` of a `PurePath` writes them.

    By them a folder that could not be opened once is known to have been opened since.

    Examples
    --------
    >>> sorted(folders_above(["films/a/1.dcm", "films//2.dcm"]))
    ['.', 'films', 'films/a']
    """
    nearest = {PurePath(folder) for folder in {os.path.dirname(file) for file in files}}  # few, also of many files
    return {str(above) for folder in nearest for above in (folder, *folder.parents)}


def reason_of(error: Exception) -> str:
    """Say what is wrong, without the file where the table has it; the type of errors that are not about films.

    Parameters
    ----------
    error : Exception
        What reading a film raised.
    """
    if isinstance(error, RadiographError):
        return error.problem
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}"
