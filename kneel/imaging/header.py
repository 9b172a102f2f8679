"""The elements of a DICOM dataset, read with limits, and errors that name them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from kneel.imaging.radiograph import RadiographError

SMALLER = "shrink it, or read it in Python with a larger max_megapixels"
_MAX_VALUE_BYTES = 2**18
"""Longest value that is looked at: a table of 65536 words with room to spare."""


@contextmanager
def library_errors(doing: str) -> Iterator[None]:
    """Turn whatever a library raises on a bad file into a ``RadiographError`` that says what was being done.

    The one broad ``except`` of the package. Parsers and decoders answer a damaged file with any exception at all:
    struct.error, KeyError, RecursionError, MemoryError, and the RLE decoder, written in Rust, with a panic that is
    not even an ``Exception``.
    """
    try:
        yield
    except RadiographError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # Ctrl-C and the like
        text = " ".join(str(error).split())[:300]
        raise RadiographError(f"{doing} failed: {type(error).__name__}: {text}") from error


def name_tag(keyword: str) -> str:
    """Return a keyword as people look it up.

    Examples
    --------
    >>> name_tag("Rows")
    '(0028,0010) Rows'
    """
    number = tag_for_keyword(keyword)
    assert number is not None, keyword
    return f"({number >> 16:04X},{number & 0xFFFF:04X}) {dictionary_description(number)}"


def tag_error(keyword: str, value: object, valid: str) -> RadiographError:
    """Return the error for a tag with a value that cannot be used."""
    text = repr(value)
    text = text if len(text) <= 80 else text[:77] + "..."
    return RadiographError(f"{name_tag(keyword)} is {text}; valid: {valid}")


class Header:
    """The elements of one dataset, read with limits.

    Parameters
    ----------
    dataset : Dataset
        What pydicom has read, or the caller's own dataset. It is not changed.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def get(self, keyword: str) -> Any:
        """Return an element's value; None when absent or empty.

        Raises
        ------
        RadiographError
            If the element is too long to be what it says, or its value cannot be read.
        """
        with library_errors(f"reading {name_tag(keyword)}"):
            if keyword not in self._dataset:
                return None
            raw = self._dataset.get_item(keyword).value
            if isinstance(raw, bytes) and len(raw) > _MAX_VALUE_BYTES:
                raise tag_error(keyword, f"{len(raw)} bytes long", f"at most {_MAX_VALUE_BYTES} bytes")
            value = self._dataset[keyword].value
        return None if value is None or value == "" or value == b"" else value

    def find(self, keyword: str) -> Any:
        """Return an element's value; None when absent, empty or unreadable. For what is good to know but not needed."""
        try:
            return self.get(keyword)
        except RadiographError:
            return None

    def text(self, keyword: str) -> str | None:
        """Return an element as text, several values joined by a backslash; None when absent, empty or unreadable."""
        value = self.find(keyword)
        if value is None:
            return None
        text = "\\".join(map(str, value)) if isinstance(value, MultiValue | list) else str(value)
        return text.strip(" \0") or None

    def numbers(self, keyword: str) -> tuple[float, ...] | None:
        """Return an element's values as floats; None when absent, empty, or not all numbers."""
        value = self.find(keyword)
        values = value if isinstance(value, MultiValue | list) else [value]
        try:
            return tuple(float(v) for v in values)
        except (TypeError, ValueError, OverflowError):
            return None

    def integer(self, keyword: str, *, default: int | None = None) -> int:
        """Return an element as one integer.

        Raises
        ------
        RadiographError
            If it is absent and there is no default, or not one integer.
        """
        value = self.get(keyword)
        if value is None:
            if default is None:
                raise tag_error(keyword, None, "an integer; images must have it")
            return default
        numbers = self.numbers(keyword)
        if numbers is None or len(numbers) != 1 or not numbers[0].is_integer():
            raise tag_error(keyword, value, "one integer")
        return int(numbers[0])

    def items(self, keyword: str) -> list[Header]:
        """Return the items of a sequence; empty when it is absent.

        Raises
        ------
        RadiographError
            If the element is not a sequence.
        """
        value = self.get(keyword)
        if value is None:
            return []
        if not isinstance(value, Sequence):
            raise tag_error(keyword, value, "a sequence of items")
        return [Header(item) for item in value]
