"""The door for films: one function from whatever the user has to a ``Radiograph``.

bytes -> kind of file -> header, checked -> stored values -> grey levels -> what the tags say. Each step is in a module
of its own: ``parse`` and ``header``, ``decode`` and ``jpeg``, ``values``, ``tags``, and ``raster`` for PNG, JPEG, TIFF.
"""

from __future__ import annotations

import os
import re
import stat
import threading
import warnings
from pathlib import Path
from typing import BinaryIO, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from kneel.imaging.decode import choose_frame, decode_frame, read_format
from kneel.imaging.geometry import Side
from kneel.imaging.header import Header, library_errors
from kneel.imaging.parse import PixelElement, dataset_pixels, parse_dicom
from kneel.imaging.radiograph import Radiograph, RadiographError
from kneel.imaging.raster import read_raster
from kneel.imaging.tags import (
    Spacing,
    contradicts_side,
    ignores_magnification,
    read_detector_spacing,
    read_laterality,
    read_orientation,
    read_spacing,
    read_view,
    valid_spacing,
)
from kneel.imaging.values import grey_levels

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Dataset

_MAX_FILE_BYTES = 2**31
_HEAD = 264
"""Bytes from which the kind of a file is told."""
_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
_FIRST_TAGS = (b"\x02\x00\x00\x00", b"\x02\x00\x01\x00", b"\x02\x00\x02\x00", b"\x08\x00", b"\x00\x08\x00")
"""How a DICOM dataset without preamble begins: group 2 or 8, in either byte order."""


class _Quiet:
    """Silences warnings while at least one thread is inside.

    `warnings.catch_warnings` puts back what it found, so of two threads that overlap the later one would put back the
    silence of the earlier, for good.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._before.__exit__(None, None, None)


_QUIET = _Quiet()


def read_radiograph(
    source: Source,
    *,
    spacing_mm: float | Spacing | None = None,
    frame: int | None = None,
    max_megapixels: float = 100,
) -> Radiograph:
    """Read one film.

    Parameters
    ----------
    source : path, bytes, binary file, or pydicom Dataset
        A DICOM file with or without preamble and extension, or a PNG, JPEG or TIFF of 8 or 16 bits; what it is, is
        told from its bytes. A binary file is read from where it stands to its end, and left open. A dataset is not
        changed.
    spacing_mm : float or (float, float), optional
        Millimetres between pixels, one number or (row, column), which overrides what the file says.
    frame : int, optional
        Which frame of a multi-frame image, or page of a TIFF, from 0. Without it such files are refused.
    max_megapixels : float
        Largest image that is decoded.

    Returns
    -------
    Radiograph
        Its pixels may share memory with `source`, and are read-only.

    Raises
    ------
    RadiographError
        If the film cannot be read; the text names file, tag, value, and what would be valid.
    ValueError, TypeError
        If another argument is impossible.

    Notes
    -----
    Warnings, of which pydicom has many about sloppy files, are silenced in the whole process while a film is read.
    Several threads may read at once.
    """
    given = _check_spacing(spacing_mm)
    if frame is not None and (isinstance(frame, bool) or not isinstance(frame, int)):
        raise TypeError(f"frame is {frame!r}; an integer or None is valid")
    name = _name_of(source)
    try:
        with _QUIET:
            return _read(source, name, given, frame, max_megapixels)
    except RadiographError as error:
        error.source = name
        raise


def _read(source: Source, name: str, given: Spacing | None, frame: int | None, max_megapixels: float) -> Radiograph:
    """Read a film, naming no file in errors."""
    if isinstance(source, Dataset):
        header, pixels = dataset_pixels(source)
        return _from_dicom(header, pixels, name, given, frame, max_megapixels)
    content = _load(source)
    kind = _sniff(bytes(content[:_HEAD]))
    if kind == "DICOM":
        # Three samples of 16 bits, and a little for the header.
        header, pixels = parse_dicom(content, max_bytes=int(max_megapixels * 6e6) + 2**24)
        return _from_dicom(header, pixels, name, given, frame, max_megapixels)
    grey = read_raster(bytes(content), kind, frame=frame, max_megapixels=max_megapixels)
    _check_contrast(grey, None)
    side = side_in_name(name)
    return Radiograph(
        pixels=_freeze(grey),
        spacing_mm=given,
        spacing_kind="given" if given else "none",
        laterality=side,
        side_from_name=side is not None,
        source=name,
    )


def side_in_name(name: str) -> Side | None:
    """Read the side from the file name of a picture: digits, then L or R, as in the public set of Chen 2018.

    Parameters
    ----------
    name : str
        Path or name of the file.

    Returns
    -------
    {"L", "R"} or None
        None for every other name, ``{subject}_{kl}_{side}.png`` among them: those pictures are mirrored already.

    Examples
    --------
    >>> side_in_name("val/3/9001695L.png"), side_in_name("9001695_3_L.png"), side_in_name("kneeR.png")
    ('L', None, None)
    """
    found = re.fullmatch(r"[0-9]+([LR])", Path(name).stem)
    return cast(Side, found.group(1)) if found else None


def _from_dicom(
    header: Header, pixels: PixelElement, name: str, given: Spacing | None, frame: int | None, max_megapixels: float
) -> Radiograph:
    """Put a radiograph together from a header and its pixels."""
    form = read_format(header, max_megapixels=max_megapixels)
    stored = decode_frame(header, pixels, form, choose_frame(frame, form.frames))
    grey, padding = grey_levels(stored, header, little_endian=pixels.syntax.is_little_endian)
    _check_contrast(grey, padding)
    spacing, spacing_kind = read_spacing(header)
    view, other_view = read_view(header)
    columns_reversed, rows_reversed, on_side = read_orientation(header)
    return Radiograph(
        pixels=_freeze(grey),
        spacing_mm=given or spacing,
        spacing_kind="given" if given else spacing_kind,
        detector_mm=None if given else read_detector_spacing(header),
        magnification_ignored=given is None and ignores_magnification(header),
        laterality=read_laterality(header),
        view=view,
        other_view=other_view,
        side_contradicted=contradicts_side(header),
        modality=header.text("Modality"),
        sop_class_uid=header.text("SOPClassUID"),
        sop_instance_uid=header.text("SOPInstanceUID"),
        study_instance_uid=header.text("StudyInstanceUID"),
        series_instance_uid=header.text("SeriesInstanceUID"),
        patient_id=header.text("PatientID"),
        columns_reversed=columns_reversed,
        rows_reversed=rows_reversed,
        on_side=on_side,
        padding=None if padding is None else _freeze(padding),
        source=name,
    )


def _check_spacing(spacing_mm: float | Spacing | None) -> Spacing | None:
    """Return the caller's spacing as (row, column)."""
    if spacing_mm is None:
        return None
    lengths = np.atleast_1d(np.asarray(spacing_mm, float)).ravel().tolist()
    spacing = valid_spacing(tuple(lengths * 2 if np.ndim(spacing_mm) == 0 else lengths))
    if spacing is None:
        raise ValueError(f"spacing_mm is {spacing_mm!r}; one or two lengths from 0.005 to 10 mm are valid")
    return spacing


def _name_of(source: Source) -> str:
    """Return what to call a source in errors and reports."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if isinstance(source, Dataset):
        return str(getattr(source, "filename", None) or "<dataset>")
    if isinstance(source, bytes | bytearray | memoryview):
        return "<bytes>"
    return str(getattr(source, "name", "<file>"))


def _load(source: str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO) -> memoryview:
    """Return the bytes of a source, writable if they are in nobody else's hands.

    Files that are no image are not read to their end.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return memoryview(bytes(source))
    if not isinstance(source, str | os.PathLike):
        if not hasattr(source, "read"):
            raise TypeError(
                f"source is {type(source).__name__}; a path, bytes, binary file or pydicom Dataset is valid"
            )
        with library_errors("reading the file"):
            content = source.read(_MAX_FILE_BYTES + 1)
        if not isinstance(content, bytes):
            raise RadiographError(f"the file gives {type(content).__name__}; valid: a file opened in binary mode")
        if len(content) > _MAX_FILE_BYTES:
            raise RadiographError(f"the file is longer than {_MAX_FILE_BYTES} bytes")
        return memoryview(content)
    return _load_path(Path(source))


def _load_path(path: Path) -> memoryview:
    """Return the bytes of a file on disk."""
    with library_errors("opening the file"):
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would never end, a folder cannot be read
        if stat.S_ISDIR(status.st_mode) and not os.access(path, os.R_OK | os.X_OK):
            raise RadiographError("this is a folder that cannot be opened: what is in it was not seen; valid: a file")
        raise RadiographError("this is a folder or device; valid: a file")
    with library_errors("reading the file"), path.open("rb", buffering=0) as file:
        _sniff(file.read(_HEAD))
        file.seek(0)
        if status.st_size > _MAX_FILE_BYTES:
            raise RadiographError(f"the file has {status.st_size} bytes; valid: at most {_MAX_FILE_BYTES}")
        # An array, because numpy asks for huge pages: thousands of page faults less than in a bytes object.
        content = np.empty(status.st_size, np.uint8).data
        size = 0
        while size < len(content) and (count := file.readinto(content[size:])):
            size += count
    return content[:size]


def _sniff(head: bytes) -> str:
    """Tell the kind of a file from its first bytes.

    Raises
    ------
    RadiographError
        If it is no kind that is read.
    """
    if not head:
        raise RadiographError("the file is empty")
    if head[128:132] == b"DICM":  # first: the preamble of a DICOM file may be the head of a TIFF
        return "DICOM"
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    if head.startswith(_FIRST_TAGS):
        return "DICOM"
    raise RadiographError(f"not an image (it begins with {head[:8]!r}); valid: DICOM, PNG, JPEG, TIFF")


def _check_contrast(grey: NDArray, padding: NDArray[np.bool_] | None) -> None:
    """Refuse an image with nothing on it."""
    exposed = None if padding is None else (~padding).view(np.uint8)
    if exposed is not None and not exposed.any():
        raise RadiographError("all pixels are padding: nothing was exposed")
    low, high, _, _ = cv2.minMaxLoc(grey, exposed)
    if low == high:
        raise RadiographError(f"all pixels are {int(low)}; valid: at least two grey levels")


def _freeze(array: NDArray) -> NDArray:
    """Return a read-only view."""
    view = array.view()
    view.flags.writeable = False
    return view
