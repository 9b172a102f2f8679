"""Weights that other programs saved with torch: read without running what is in them, and checked key by key."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class ConversionError(ValueError):
    """A file of other authors that cannot be converted; names the file and the key."""


def load_plain(path: Path, needed: str) -> Any:
    """
    Read a file of tensors.

    Parameters
    ----------
    path
        What ``torch.save`` wrote.
    needed
        What it must hold, for the error.

    Returns
    -------
    object
        Its content, on the CPU.

    Raises
    ------
    ConversionError
        When it cannot be read without running code.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd pickles, just before they are refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConversionError(f"{path}: cannot be read: {error.strerror}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ConversionError(
            f"{path}: no file of plain tensors ({first_line(error)}); needed is {needed}, "
            "and a pickled session is not opened, because opening it would run its code"
        ) from error


def load_array(path: Path) -> np.ndarray:
    """
    Read a ``.npy`` file, never unpickling what is in it.

    Parameters
    ----------
    path
        What ``numpy.save`` wrote.

    Raises
    ------
    ConversionError
        When it cannot be read, or is no plain array.
    """
    try:
        return np.load(path, allow_pickle=False)
    except OSError as error:
        raise ConversionError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise ConversionError(f"{path}: no plain .npy file: {first_line(error)}") from error


def state_dict_in(content: Any, where: str) -> dict[str, Tensor]:
    """
    Return a state dict, without the ``module.`` that training on several GPUs puts before every name.

    Parameters
    ----------
    content
        What a file holds.
    where
        File and key, for the error.

    Raises
    ------
    ConversionError
        When it is not a mapping of names to tensors, or is empty.
    """
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise ConversionError(f"{where}: must be a state dict, names with tensors")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def check_state(
    state: Mapping[str, Tensor], needed: Mapping[str, Tensor], path: Path, advice: str, key: str | None = None
) -> None:
    """
    Make sure that weights fit a network.

    Parameters
    ----------
    state
        The weights.
    needed
        State dict of the network.
    path, key
        Where the weights come from: the file, and the key in it, if they stand under one.
    advice
        What to look at if they do not fit.

    Raises
    ------
    ConversionError
        When a key is missing, unknown, of another shape or not finite.
    """
    where, stem = (f"{path}: ", f"{path}: ") if key is None else (f"{path}: {key}: ", f"{path}: {key}.")
    for name, tensor in needed.items():
        if name not in state:
            raise ConversionError(f"{where}no key {name!r}; {advice}")
        if state[name].shape != tensor.shape:
            shapes = f"shape {tuple(state[name].shape)}, needed {tuple(tensor.shape)}"
            raise ConversionError(f"{stem}{name}: {shapes}; {advice}")
        if not torch.isfinite(state[name]).all():
            raise ConversionError(f"{stem}{name}: holds values that are not finite")
    unknown = [name for name in state if name not in needed]
    if unknown:
        raise ConversionError(f"{where}unknown key {unknown[0]!r}; {advice}")


def first_line(error: Exception) -> str:
    """Return the first line of a message, shortened."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
