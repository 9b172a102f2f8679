"""Snapshots: weights and all that rebuilds their model, in one safetensors file; no pickle.

``NAME.safetensors`` is the authority: its header carries the metadata as JSON, a checksum of the tensors and one of the
whole file (counted with zeros in its own place; snapshots made before it was added have the first one alone).
``NAME.json`` beside it is a copy to read, with the sha256 of the file that it describes.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from kneel.engine.atomic import write_atomic

_KEY = "snapshot"  # one header key only: safetensors writes several in no fixed order
_FORMAT = 1
_MARK, _ZEROS = rb"\"file_sha256\": \"", b"0" * 64  # in the header: our JSON is a string in that of safetensors
_STATE = "training/"  # prefix of the tensors that only a resumed training needs; no module has a / in its name


class SnapshotError(ValueError):
    """A snapshot that cannot be written or read, with its file and why."""


def save_snapshot(
    path: Path,
    state_dict: Mapping[str, torch.Tensor],
    meta: Mapping[str, Any],
    *,
    training_state: tuple[Mapping[str, torch.Tensor], Mapping[str, Any]] | None = None,
    previous: Path | None = None,
) -> None:
    """
    Write ``NAME.safetensors`` and its readable copy ``NAME.json``; the same input gives the same bytes.

    Parameters
    ----------
    path
        File that ends in ``.safetensors``.
    state_dict
        Weights by name, on any device.
    meta
        What rebuilds the model and says where it comes from; must be JSON (no NaN).
    training_state
        Tensors and JSON that only a resumed training needs: :func:`load_snapshot` leaves them out,
        :func:`load_training_state` returns them.
    previous
        Where a snapshot that is there goes; see :func:`kneel.engine.atomic.write_atomic`.

    Raises
    ------
    DiskFull
        When there is no room; what was there is as it was.
    SnapshotError
        When the name does not end in ``.safetensors``, `meta` is no JSON, or a weight's name holds a ``/``.
    """
    if path.suffix != ".safetensors":
        raise SnapshotError(f"{path}: the name of a snapshot ends in .safetensors")
    slashed = [name for name in state_dict if "/" in name]
    if slashed:
        raise SnapshotError(f"{path}: weight {slashed[0]!r}: names with / are kept for the training state")
    extra_tensors, extra = training_state or ({}, None)
    tensors = {name: _plain(tensor) for name, tensor in state_dict.items()}
    tensors |= {_STATE + name: _plain(tensor) for name, tensor in extra_tensors.items()}
    checksum = hashlib.sha256(_split(safetensors.torch.save(tensors))[1]).hexdigest()
    sums = {"sha256": checksum, "file_sha256": _ZEROS.decode()}
    try:
        header = json.dumps({"format": _FORMAT, **sums, "meta": meta, "training": extra}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SnapshotError(f"{path}: the metadata is not JSON: {error}") from error
    data = safetensors.torch.save(tensors, metadata={_KEY: header})
    data = data.replace(_MARK + _ZEROS, _MARK + hashlib.sha256(data).hexdigest().encode(), 1)
    write_atomic(path, data, previous=previous)
    _write_json(path, data, meta)


def write_readable(path: Path) -> None:
    """
    Write ``NAME.json`` of a snapshot anew.

    Parameters
    ----------
    path
        File that :func:`save_snapshot` wrote; it is only read.

    Raises
    ------
    SnapshotError
        As :func:`load_snapshot`.
    """
    _, content = _read(path)
    _write_json(path, path.read_bytes(), content["meta"])


def _write_json(path: Path, data: bytes, meta: Mapping[str, Any]) -> None:
    readable = {"file": path.name, "sha256": hashlib.sha256(data).hexdigest(), **meta}
    write_atomic(path.with_suffix(".json"), (json.dumps(readable, indent=2) + "\n").encode())


def load_snapshot(path: Path | str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """
    Read the weights and the metadata of a snapshot.

    Parameters
    ----------
    path
        File that :func:`save_snapshot` wrote.

    Returns
    -------
    state_dict
        Weights by name, on the CPU, with their own types.
    meta
        The metadata that was saved with them.

    Raises
    ------
    SnapshotError
        When the file is missing, cut, damaged or not a snapshot; names the file.
    """
    tensors, content = _read(Path(path))
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(_STATE)}, content["meta"]


def load_metadata(path: Path | str) -> tuple[dict[str, Any], str]:
    """
    Read what describes a snapshot, and leave its tensors alone but for their checksum.

    Parameters
    ----------
    path
        File that :func:`save_snapshot` wrote.

    Returns
    -------
    meta
        The metadata that was saved with the weights.
    sha256
        Of the file.

    Raises
    ------
    SnapshotError
        As :func:`load_snapshot`.
    """
    data = _bytes(Path(path))
    return _content(Path(path), data)["meta"], hashlib.sha256(data).hexdigest()


def load_training_state(path: Path | str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """
    Read what was saved as `training_state`.

    Parameters
    ----------
    path
        File that :func:`save_snapshot` wrote.

    Returns
    -------
    tensors, settings
        As they were given.

    Raises
    ------
    SnapshotError
        As :func:`load_snapshot`; also when the snapshot was saved without a training state.
    """
    tensors, content = _read(Path(path))
    if content["training"] is None:
        raise SnapshotError(f"{path}: holds weights only; training is resumed from last.safetensors")
    state = {name.removeprefix(_STATE): tensor for name, tensor in tensors.items() if name.startswith(_STATE)}
    return state, content["training"]


def update_snapshot(path: Path, changes: Mapping[str, Any]) -> None:
    """
    Write some metadata of a snapshot anew; weights and training state stay as they are, byte for byte.

    Parameters
    ----------
    path
        File that :func:`save_snapshot` wrote; replaced as a whole.
    changes
        Top-level keys of the metadata and their new values.

    Raises
    ------
    SnapshotError
        As :func:`load_snapshot` and :func:`save_snapshot`; the file is then as it was.
    """
    tensors, content = _read(path)
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(_STATE)}
    state = {name.removeprefix(_STATE): tensor for name, tensor in tensors.items() if name.startswith(_STATE)}
    training = None if content["training"] is None else (state, content["training"])
    save_snapshot(path, weights, {**content["meta"], **changes}, training_state=training)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    # A copy, because safetensors refuses tensors that share memory, as tied weights do.
    return tensor.detach().to("cpu", copy=True).contiguous()


def _split(data: bytes) -> tuple[bytes, bytes]:
    """Cut the bytes of a safetensors file into its JSON header and its tensors."""
    end = 8 + int.from_bytes(data[:8], "little")
    return data[8:end], data[end:]


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    data = _bytes(path)
    try:
        tensors = safetensors.torch.load(data)
    except SafetensorError as error:
        raise SnapshotError(f"{path}: cut, damaged or no safetensors file: {error}") from error
    return tensors, _content(path, data)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be read: {error.strerror}") from error


def _content(path: Path, data: bytes) -> dict[str, Any]:
    """Parse and check the header of a snapshot, and its tensors against it."""
    header, body = _split(data)
    try:
        entries = json.loads(header)
    except ValueError as error:
        raise SnapshotError(f"{path}: cut, damaged or no safetensors file") from error
    try:
        content = json.loads(entries["__metadata__"][_KEY])
        version, checksum = content["format"], content["sha256"]
    except (KeyError, TypeError, ValueError) as error:
        raise SnapshotError(f"{path}: safetensors, but without the metadata of a snapshot") from error
    if version != _FORMAT:
        raise SnapshotError(f"{path}: snapshot format {version}; this code reads {_FORMAT}")
    whole = str(content.get("file_sha256", "")).encode()
    if whole and hashlib.sha256(data.replace(_MARK + whole, _MARK + _ZEROS, 1)).hexdigest().encode() == whole:
        return content
    if hashlib.sha256(body).hexdigest() != checksum:
        raise SnapshotError(f"{path}: damaged: the weights do not match their checksum")
    if whole:
        raise SnapshotError(f"{path}: damaged: the metadata do not match the checksum of the file")
    return content
