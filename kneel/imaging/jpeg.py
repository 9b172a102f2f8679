"""What a JPEG, JPEG-LS or JPEG 2000 codestream says about itself, read before any decoder sees it.

Decoders trust their input: one that is handed a larger image than the header promised fills the memory or writes past
a buffer, and one that is handed 20 x 10 pixels for 10 x 20 gives a scrambled film without a word.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import gdcm  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from kneel.imaging.radiograph import RadiographError

_END = b"\xff\xd9"  # EOI of JPEG and JPEG-LS, EOC of JPEG 2000
_TAIL = 64
"""Bytes at the end among which the end marker is looked for: writers pad frames with a few zeros."""
_START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True)
class Codestream:
    """Rows, columns, samples per pixel and bits per sample of a compressed image; whether it has Adobe's marker."""

    rows: int
    columns: int
    samples: int
    precision: int
    adobe: bool = False


def read_codestream(code: bytes) -> Codestream:
    """Read the size that a compressed image gives itself.

    Raises
    ------
    RadiographError
        If it is none of the three formats, its header is damaged, or its end is missing.
    """
    try:
        stream = _read_jpeg(code) if code.startswith(b"\xff\xd8") else _read_jpeg2000(code)
    except (struct.error, IndexError) as error:
        raise RadiographError("truncated: the compressed image ends inside its header") from error
    if _END not in code[-_TAIL:]:
        raise RadiographError("truncated: the compressed image has no end marker (FFD9)")
    return stream


def _read_jpeg(code: bytes) -> Codestream:
    """Walk the marker segments to the frame header (ITU-T T.81 B.2.2, T.87 C.2.2)."""
    offset, adobe = 2, False
    while True:
        fill, marker, length = struct.unpack_from(">BBH", code, offset)
        if fill != 0xFF:
            raise RadiographError(f"the compressed image is damaged: no JPEG marker at byte {offset}")
        if marker == 0xFF:  # fill byte
            offset += 1
            continue
        if marker in _START_OF_FRAME:
            precision, rows, columns, samples = struct.unpack_from(">BHHB", code, offset + 4)
            return Codestream(rows, columns, samples, precision, adobe)
        if marker in (0xD9, 0xDA) or length < 2:
            raise RadiographError("the compressed image is damaged: no JPEG frame header before its data")
        adobe = adobe or (marker == 0xEE and code[offset + 4 : offset + 9] == b"Adobe")
        offset += 2 + length


def _read_jpeg2000(code: bytes) -> Codestream:
    """Read the SIZ segment, which must come first (ITU-T T.800 A.5.1), inside a JP2 file if need be."""
    start = 0
    if code[4:8] == b"jP  ":
        start = code.find(b"\xff\x4f\xff\x51")
    if start < 0 or code[start : start + 4] != b"\xff\x4f\xff\x51":
        raise RadiographError("the compressed image is none of JPEG, JPEG-LS and JPEG 2000")
    right, bottom, left, top, tile_w, tile_h = struct.unpack_from(">6L", code, start + 8)
    (samples,) = struct.unpack_from(">H", code, start + 40)
    precision = {(code[start + 42 + 3 * i] & 0x7F) + 1 for i in range(min(samples, 4))}
    steps = {code[start + 43 + 3 * i : start + 45 + 3 * i] for i in range(min(samples, 4))}
    if len(precision) != 1 or steps != {b"\x01\x01"}:
        raise RadiographError("the compressed image has components of several sizes or depths; valid: all alike")
    if not tile_w or not tile_h or (right // tile_w + 1) * (bottom // tile_h + 1) > _MAX_TILES:
        raise RadiographError(
            f"the compressed image has tiles of {tile_h} x {tile_w}; valid: at most {_MAX_TILES} tiles"
        )
    return Codestream(bottom - top, right - left, samples, precision.pop())


_MAX_TILES = 4096
"""Decoders keep some kilobytes of tables for every tile. Encoders write one tile, or tiles of 128 pixels and more."""


def decode_jpeg12(code: bytes, rows: int, columns: int, samples: int) -> NDArray[np.uint16]:
    """Decode JPEG Extended (process 4, 12 bits) with GDCM, which pydicom's own door to GDCM leaves out.

    Parameters
    ----------
    code : bytes
        The codestream.
    rows, columns, samples : int
        Size of the image.

    Returns
    -------
    ndarray of uint16, shape (rows, columns) or (rows, columns, samples)
    """
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(code)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.MONOCHROME2 if samples == 1 else gdcm.PhotometricInterpretation.YBR_FULL
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    image.SetPixelFormat(gdcm.PixelFormat(samples, 16, 12, 11, 0))
    buffer = image.GetBuffer().encode("utf-8", "surrogateescape")
    shape = (rows, columns) if samples == 1 else (rows, columns, samples)
    return np.frombuffer(buffer, np.dtype("<u2")).reshape(shape)
