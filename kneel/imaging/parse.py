"""From bytes to a DICOM header and the whereabouts of its pixels, with bounded time and memory.

pydicom reads the elements; this module decides how far it may go. Pixels are not read by it: they stay in the bytes of
the file and are found again by offset, so that an uncompressed film is never copied.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from typing import BinaryIO, cast

from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag

from kneel.imaging.header import SMALLER, Header, library_errors, name_tag, tag_error
from kneel.imaging.radiograph import RadiographError

_PIXEL_TAGS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
_UNDEFINED_LENGTH = 0xFFFFFFFF
_MAX_READS = 100_000
"""Reads that one header may take. An element takes two or three, an honest film a few hundred; without a limit some
megabytes of empty sequence items cost minutes and gigabytes."""


@dataclass(frozen=True)
class PixelElement:
    """The pixel element of a file: its bytes, not copied, and how they are to be read.

    Attributes
    ----------
    data : memoryview
        The value, writable if nobody else holds these bytes. Of a native film exactly as long as its length field
        says; of an encapsulated one up to the end of the file.
    syntax : UID
        Transfer syntax.
    vr : str
        ``OB`` or ``OW``; the two differ for 8-bit pixels in big endian files.
    ended : bool
        Whether the end of encapsulated pixels has been seen: pydicom has, in a dataset, and leaves the delimiter out.
    """

    data: memoryview
    syntax: uid.UID
    vr: str
    ended: bool = False


def parse_dicom(content: memoryview, *, max_bytes: int) -> tuple[Header, PixelElement]:
    """Read a DICOM file up to its pixels.

    Parameters
    ----------
    content : memoryview of bytes
        The whole file, with or without the 128-byte preamble and the file meta group.
    max_bytes : int
        Most bytes that a deflated file may inflate to.

    Returns
    -------
    Header, PixelElement

    Raises
    ------
    RadiographError
        If the file is damaged, or has no image in it.
    """
    start = 132 if content[128:132] == b"DICM" else 0
    stream = _CountedStream(content)
    stream.seek(start)
    with library_errors("reading the file meta group"):
        meta = read_dataset(cast(BinaryIO, stream), False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
        syntax = uid.UID(Header(meta).text("TransferSyntaxUID") or _guess_syntax(bytes(content[stream.tell() :][:6])))
    if not syntax.is_transfer_syntax or syntax.is_private:
        raise tag_error("TransferSyntaxUID", str(syntax), "a transfer syntax of the DICOM standard")
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        content = memoryview(_inflate(content[stream.tell() :], max_bytes))
        stream = _CountedStream(content)
    found: list[tuple[int, str | None, int, int]] = []

    def at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag in _PIXEL_TAGS:
            found.append((tag, vr, length, stream.tell()))
        return tag in _PIXEL_TAGS

    try:
        with library_errors("reading the header"):
            file = cast(BinaryIO, stream)
            dataset = read_dataset(file, syntax.is_implicit_VR, syntax.is_little_endian, stop_when=at_pixels)
    except RadiographError:
        if stream.reads > _MAX_READS:  # pydicom may have put this in its own words
            raise _too_many_reads() from None
        raise
    header = Header(dataset)
    if not found or found[-1][0] != 0x7FE00010:
        raise _no_pixels(header, Header(meta), _PIXEL_TAGS[found[-1][0]] if found else None)
    _, vr, length, offset = found[-1]
    return header, PixelElement(_cut(content, offset, length, syntax), syntax, vr or "OW")


def dataset_pixels(dataset: Dataset) -> tuple[Header, PixelElement]:
    """Return the header and the pixels of a dataset that the caller has read or made.

    Raises
    ------
    RadiographError
        If it has no pixels, or pixels that are not bytes.
    """
    header = Header(dataset)
    meta = Header(getattr(dataset, "file_meta", None) or Dataset())
    if "PixelData" not in dataset:
        raise _no_pixels(header, meta, next((k for k in _PIXEL_TAGS.values() if k in dataset), None))
    with library_errors(f"reading {name_tag('PixelData')}"):
        element = dataset["PixelData"]
        value = element.value.read() if hasattr(element.value, "read") else element.value
        implicit, little = dataset.original_encoding
        data = memoryview(value or b"").toreadonly()
    syntax = uid.UID(meta.text("TransferSyntaxUID") or _native_syntax(implicit or False, little is not False))
    return header, PixelElement(data, syntax, str(element.VR), ended=True)


class _CountedStream:
    """The file that pydicom sees: a view of bytes, not a copy, that may be read only so many times."""

    def __init__(self, content: memoryview) -> None:
        self.reads = 0
        self._content = content
        self._at = 0

    def read(self, size: int) -> bytes:
        self.reads += 1
        if self.reads > _MAX_READS:
            raise _too_many_reads()
        chunk = bytes(self._content[self._at : self._at + size])
        self._at += len(chunk)
        return chunk

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: len(self._content)}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        return self._at


def _too_many_reads() -> RadiographError:
    """Return the error for a header that would take too long."""
    return RadiographError(f"the header has too many elements or sequence items (more than {_MAX_READS // 3})")


def _native_syntax(implicit: bool, little: bool) -> str:
    """Return the UID of the uncompressed syntax with this encoding."""
    if implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian


def _guess_syntax(head: bytes) -> str:
    """Guess the encoding of a dataset without file meta group from its first tag and, perhaps, VR."""
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    # The first group is small (0002 to 0028): which byte holds it tells the byte order.
    return _native_syntax(not explicit, not (explicit and head[:1] == b"\0"))


def _inflate(deflated: memoryview, max_bytes: int) -> bytes:
    """Inflate a dataset, refusing to fill the memory."""
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    with library_errors("inflating the deflated dataset"):
        content = engine.decompress(deflated, max_bytes)
    if engine.unconsumed_tail:
        raise RadiographError(f"the deflated dataset inflates to more than {max_bytes} bytes: {SMALLER}")
    if not engine.eof:
        raise RadiographError("truncated: the deflated dataset stops before its end")
    return content


def _cut(content: memoryview, offset: int, length: int, syntax: uid.UID) -> memoryview:
    """Return the pixel bytes that begin at an offset, refusing lengths that are not there."""
    there = content[offset:]
    if (length == _UNDEFINED_LENGTH) != syntax.is_encapsulated:
        form = "undefined" if length == _UNDEFINED_LENGTH else f"{length} bytes"
        raise RadiographError(
            f"{name_tag('PixelData')} has the length {form}, which does not go with the transfer syntax {syntax.name}; "
            "valid: undefined for compressed pixels, a number of bytes for uncompressed ones"
        )
    if length == _UNDEFINED_LENGTH:
        return there
    if length > len(there):
        raise RadiographError(
            f"truncated: {name_tag('PixelData')} should be {length} bytes long, the file ends after {len(there)}"
        )
    return there[:length]


def _no_pixels(header: Header, meta: Header, other: str | None) -> RadiographError:
    """Return the error for a DICOM object that is no image, saying what it is instead."""
    class_uid = uid.UID(header.text("SOPClassUID") or meta.text("MediaStorageSOPClassUID") or "")
    kind = f"a DICOM object of class '{class_uid.name}'" if class_uid else "the DICOM object"
    if other is not None:
        return RadiographError(f"{kind} has {name_tag(other)}; valid: {name_tag('PixelData')} with integers")
    return RadiographError(f"{kind} has no {name_tag('PixelData')}: it holds no image, or was cut off before it")
