"""Decoded pictures on disk: made once, mapped into memory by every training that asks for the same.

An entry is two files, ``KEY.pixels`` (all pixels, one after the other) and ``KEY.json`` (shapes, notes, checksums),
written beside and renamed, the JSON last: what has no JSON is not there. KEY is the hash of all that the pictures
depend on. Entries can be deleted at any time; a training that has mapped one keeps it until it ends. Beyond
`LARGEST` those go whose last use is the longest ago, but none that was used within a day.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

VARIABLE = "KNEEL_CACHE"  # a folder, or "off"
LARGEST = 30 * 10**9  # bytes of all entries together
_FOLDER = "pixels-v1"  # in the one that the user names, where files of anybody may lie
_SPARED = 24 * 3600.0  # seconds after the last use: sets that take turns would else push each other out
_READERS = (  # what reads and resamples films: another version may give other pixels
    "numpy", "pillow", "pydicom", "pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle", "pyjpegls", "python-gdcm"
)  # fmt: skip
_FILE = re.compile(r"(?P<half>\.)?(?P<key>[0-9a-f]{32})\.(json|pixels)(?(half)\.[a-z0-9_]{8})")  # half: by `_beside`
_EDGE = 64 << 10  # bytes at either end of a file that its stamp reads
_log = logging.getLogger(__name__)

Notes = list[dict[str, Any]]


@dataclass(frozen=True)
class Pictures:
    """
    Pictures and what is noted of each.

    Attributes
    ----------
    pixels
        8-bit arrays of any shapes; views of a mapped file where they come from the cache. Changing one changes neither
        the file nor what other processes see.
    notes
        JSON of each picture.
    """

    pixels: Sequence[NDArray[np.uint8]]
    notes: Notes

    def stacked(self) -> NDArray[np.uint8]:
        """Return pictures of one shape as one array (N, ...), without a copy where they lie one after the other."""
        first, base = self.pixels[0], self.pixels[0].base
        if isinstance(base, np.ndarray) and base.ndim == 1 and base.size == len(self.pixels) * first.size:
            return base.reshape(len(self.pixels), *first.shape)
        return np.stack(self.pixels)


def cache_folder() -> Path | None:
    """
    Say where entries lie: in a folder of their own in ``$KNEEL_CACHE``, or in ``kneel`` in the user's cache folder.

    Returns
    -------
    Path or None
        None where ``KNEEL_CACHE=off``.
    """
    asked = os.environ.get(VARIABLE)
    if asked:
        return None if asked == "off" else Path(asked) / _FOLDER
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kneel" / _FOLDER


def cached(
    make: Callable[[], tuple[Sequence[NDArray[np.uint8]], Notes]], depends_on: Any, code: Sequence[Path], title: str
) -> Pictures:
    """
    Return pictures from the cache, or make them and keep them there.

    Several processes may ask at once: one makes them, the others wait. A damaged entry is made anew. Where the folder
    cannot be written, the pictures are made and stay in memory.

    Parameters
    ----------
    make
        Decodes the pictures; returns them with a note (JSON) of each. What it raises is raised.
    depends_on
        Settings and sources, see :func:`fingerprint`.
    code
        Source files (or folders of them) that decide what `make` returns: other code, other pictures. So do other
        versions of the packages that read films.
    title
        What the log calls them.
    """
    folder = cache_folder()
    if folder is None:
        return Pictures(*make())
    key = _digest([fingerprint(depends_on), [_code_digest(path) for path in code], _versions()])[:32]
    entry = folder / f"{key}.json"
    with _alone(entry.with_suffix(".lock")):
        # before it is read, which takes a while: where files cannot be locked, only this keeps it from being deleted
        with contextlib.suppress(OSError):  # there is none; a folder that somebody else filled
            os.utime(entry)
        found = _read(entry)
        if found is not None:
            _log.info("%s: %d pictures from %s", title, len(found.notes), folder)
            return found
        pictures = Pictures(*make())
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write(entry, pictures)
        except OSError as error:
            _log.warning("%s: not kept in %s (%s); %s names another folder, or off", title, folder, error, VARIABLE)
            return pictures
        with contextlib.suppress(OSError):  # somebody else makes room at the same time
            _make_room(folder)
        _log.info("%s: decoded into %s (%.0f MB)", title, folder, _size(entry) / 1e6)
        return _read(entry) or pictures


def fingerprint(value: Any) -> Any:
    """
    Describe settings and sources, so that what differs has another description.

    Parameters
    ----------
    value
        Plain values, settings, dataclasses, arrays and paths, in lists, tuples and mappings. A path of a file stands
        for its content: name, size, time of its last change and its first and last 64 KiB.

    Returns
    -------
    JSON
        The description.

    Raises
    ------
    TypeError
        For anything else.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return _stamp(value)
    if isinstance(value, np.ndarray):
        return [value.dtype.str, list(value.shape), hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()]
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value):
        return {field.name: fingerprint(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): fingerprint(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [fingerprint(each) for each in value]
    raise TypeError(f"a cache cannot depend on a {type(value).__name__}")


def _stamp(path: Path) -> list[Any]:
    place = str(path.absolute())
    if not path.is_file():
        return [place]
    status = path.stat()
    with path.open("rb") as file:
        edges = hashlib.sha256(file.read(_EDGE))
        file.seek(max(0, status.st_size - _EDGE))
        edges.update(file.read(_EDGE))
    return [place, status.st_size, status.st_mtime_ns, edges.hexdigest()]


def _code_digest(path: Path) -> str:
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return _digest([[file.name, hashlib.sha256(file.read_bytes()).hexdigest()] for file in files])


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = dict.fromkeys(_READERS)
    for name in _READERS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found | {"opencv": cv2.__version__}  # which is packaged under several names


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _read(entry: Path) -> Pictures | None:
    """Map an entry; None where there is none, or a damaged one."""
    pixels = entry.with_suffix(".pixels")
    if not entry.exists():
        return None
    try:
        stored = json.loads(entry.read_text(encoding="utf-8"))
        content = stored["content"]
        if stored["sha256"] != _digest(content):
            raise ValueError("the notes do not match their checksum")
        if pixels.stat().st_size != content["bytes"]:
            raise ValueError(f"{pixels.stat().st_size} bytes of {content['bytes']}")
        # copy on write: torch wants memory that it may write, and nobody else may see it
        flat = np.memmap(pixels, np.uint8, "c") if content["bytes"] else np.zeros(0, np.uint8)
        if hashlib.sha256(flat.data).hexdigest() != content["sha256"]:
            raise ValueError("the pixels do not match their checksum")
    except (ValueError, KeyError, TypeError, OSError) as error:
        _log.warning("%s: damaged (%s); made anew", entry, error)
        return None
    flat = flat.view(np.ndarray)
    ends = np.cumsum([int(np.prod(shape)) for shape in content["shapes"]], dtype=np.int64)
    starts = [0, *ends[:-1]]
    pictures = [
        flat[start:end].reshape(shape) for start, end, shape in zip(starts, ends, content["shapes"], strict=True)
    ]
    return Pictures(pictures, content["notes"])


def _write(entry: Path, pictures: Pictures) -> None:
    digest, size = hashlib.sha256(), 0
    with _beside(entry.with_suffix(".pixels")) as file:
        for picture in pictures.pixels:
            data = np.ascontiguousarray(picture, np.uint8)
            file.write(data.data)
            digest.update(data.data)
            size += data.nbytes
    content = {
        "bytes": size,
        "sha256": digest.hexdigest(),
        "shapes": [list(picture.shape) for picture in pictures.pixels],
        "notes": pictures.notes,
    }
    with _beside(entry) as file:
        file.write(json.dumps({"sha256": _digest(content), "content": content}).encode())


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Any]:
    """Write a file under a name of its own and rename it: several processes may do so at once."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _alone(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """
    Let one process in after the other; where files cannot be locked all at once, which costs time, nothing else.

    Without waiting it says whether another one is in.
    """
    with contextlib.ExitStack() as stack:
        free = True
        try:
            import fcntl

            path.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context(path.open("w")), fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            free = False
        except (OSError, ImportError):  # a folder that cannot be written; network drives; Windows
            pass
        yield free


def _make_room(folder: Path) -> None:
    """Delete what was not used for longest, but for what was within a day, until the rest is small enough."""
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if (match := _FILE.fullmatch(path.name)) is not None:
            files.setdefault(match["key"], []).append(path)
    sizes = {key: sum(path.stat().st_size for path in paths) for key, paths in files.items()}
    # reading renews the notes alone, so the newest file tells; sorted, the notes are gone before their pixels
    used = {key: max(path.stat().st_mtime for path in paths) for key, paths in files.items()}
    total = sum(sizes.values())
    for key in sorted(used, key=used.__getitem__):
        if total <= LARGEST or used[key] > time.time() - _SPARED:
            break
        with _alone(folder / f"{key}.lock", wait=False) as free:
            if free:
                for path in files[key]:
                    path.unlink(missing_ok=True)
                total -= sizes[key]
                _log.info("%s: deleted (%.0f MB), unused for longest", folder / f"{key}.json", sizes[key] / 1e6)


def _size(entry: Path) -> int:
    return entry.stat().st_size + entry.with_suffix(".pixels").stat().st_size
