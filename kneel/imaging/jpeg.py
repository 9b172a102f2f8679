"""What a JPEG, JPEG-LS or JPEG 2000 codestream says about itself, read before any decoder sees it.

Decoders trust their input: one that is handed a larger image than the header promised fills the memory or writes past
a buffer, and one that is handed 20 x 10 pixels for 10 x 20 gives a scrambled film without a word.
"""

from __future__ import annotations

import struct
import zlib  # noqa: F401 - before gdcm, which makes a zlib of its own global: loaded second, ours would be bound to it and crash
from dataclasses import dataclass

import gdcm  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from kneel.imaging.radiograph import RadiographError

_END = b"\xff\xd9"  # EOI of JPEG and JPEG-LS, EOC of JPEG 2000
_TAIL = 64
"""Bytes at the end among which the end marker is looked for: writers pad frames with a few zeros."""
_START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_JPEG2000_START = b"\xff\x4f\xff\x51"  # SOC, SIZ
_LOSSLESS_PROCESS = 0xC3
_START_OF_SCAN = 0xDA
_TABLES = (0xC4, 0xDB, 0xDD)  # Huffman tables, quantisation tables, restart interval
_MAX_TILES = 16384
"""Decoders keep some kilobytes of tables for every tile. Encoders write one tile, or tiles of 128 pixels and more."""


@dataclass(frozen=True)
class Codestream:
    """Size of a compressed image, from its own header.

    Attributes
    ----------
    rows, columns, samples, precision : int
        Height, width, samples per pixel, bits per sample.
    process : int
        The second byte of JPEG's start-of-frame marker, which tells the process; 0 for JPEG 2000.
    adobe : bool
        Whether it has Adobe's marker, which declares a colour transform.
    """

    rows: int
    columns: int
    samples: int
    precision: int
    process: int = 0
    adobe: bool = False


def read_codestream(code: bytes) -> tuple[Codestream, bytes]:
    """Read the size that a compressed image gives itself.

    Returns
    -------
    Codestream, bytes
        The size, and the codestream itself without the JP2 file that some writers leave around it.

    Raises
    ------
    RadiographError
        If it is none of the three formats, its header is damaged, or its end is missing.
    """
    try:
        if code[4:8] == b"jP  ":
            code = code[max(code.find(_JPEG2000_START), 0) :]
        stream = _read_jpeg(code) if code.startswith(b"\xff\xd8") else _read_jpeg2000(code)
    except (struct.error, IndexError) as error:
        raise RadiographError("truncated: the compressed image ends inside its header") from error
    if _END not in code[-_TAIL:]:
        raise RadiographError("truncated: the compressed image has no end marker (FFD9)")
    return stream, code


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
            return Codestream(rows, columns, samples, precision, marker, adobe)
        if marker in (0xD9, _START_OF_SCAN) or length < 2:
            raise RadiographError("the compressed image is damaged: no JPEG frame header before its data")
        adobe = adobe or (marker == 0xEE and code[offset + 4 : offset + 9] == b"Adobe")
        offset += 2 + length


def _read_jpeg2000(code: bytes) -> Codestream:
    """Read the SIZ segment, which must come first (ITU-T T.800 A.5.1)."""
    if not code.startswith(_JPEG2000_START):
        raise RadiographError("the compressed image is none of JPEG, JPEG-LS and JPEG 2000")
    right, bottom, left, top, tile_w, tile_h = struct.unpack_from(">6L", code, 8)
    (samples,) = struct.unpack_from(">H", code, 40)
    precision = {(code[42 + 3 * i] & 0x7F) + 1 for i in range(min(samples, 4))}
    steps = {code[43 + 3 * i : 45 + 3 * i] for i in range(min(samples, 4))}
    if len(precision) != 1 or steps != {b"\x01\x01"}:
        raise RadiographError("the compressed image has components of several sizes or depths; valid: all alike")
    if not tile_w or not tile_h or (right // tile_w + 1) * (bottom // tile_h + 1) > _MAX_TILES:
        raise RadiographError(
            f"the compressed image has tiles of {tile_h} x {tile_w}; valid: at most {_MAX_TILES} tiles"
        )
    return Codestream(bottom - top, right - left, samples, precision.pop())


def decode_by_gdcm(code: bytes, stream: Codestream, *, lossless: bool, rgb: bool) -> NDArray[np.uint8 | np.uint16]:
    """Decode JPEG lossless (process 14) or 12-bit JPEG extended (process 4) by GDCM.

    pydicom has a door to GDCM, but it refuses 12 bits, and hands on application segments, at which GDCM may end the
    process: only what the pixels need goes in here.

    Parameters
    ----------
    code : bytes
        The codestream.
    stream : Codestream
        What it says about itself.
    lossless : bool
        Which of the two it is.
    rgb : bool
        What three samples are: RGB, or YCbCr.

    Returns
    -------
    ndarray of uint8 or uint16, shape (rows, columns) or (rows, columns, samples)
        Bits as stored: a sign is not extended.

    Raises
    ------
    RadiographError
        If the codestream is of another process, or damaged.
    """
    if (stream.process == _LOSSLESS_PROCESS) != lossless or stream.process not in (0xC0, 0xC1, _LOSSLESS_PROCESS):
        raise RadiographError(
            f"the compressed image is of JPEG process FF{stream.process:02X}, not of its transfer syntax"
        )
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((stream.columns, stream.rows, 1))
    image.SetDataElement(_gdcm_element(_keep_pixels(code)))
    colour = gdcm.PhotometricInterpretation.RGB if rgb else gdcm.PhotometricInterpretation.YBR_FULL
    kind = gdcm.PhotometricInterpretation.MONOCHROME2 if stream.samples == 1 else colour
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    process = gdcm.TransferSyntax.JPEGLosslessProcess14 if lossless else gdcm.TransferSyntax.JPEGExtendedProcess2_4
    image.SetTransferSyntax(gdcm.TransferSyntax(process))
    size = 1 if stream.precision <= 8 else 2
    image.SetPixelFormat(gdcm.PixelFormat(stream.samples, 8 * size, stream.precision, stream.precision - 1, 0))
    buffer = image.GetBuffer().encode("utf-8", "surrogateescape")
    shape = (stream.rows, stream.columns) if stream.samples == 1 else (stream.rows, stream.columns, stream.samples)
    return np.frombuffer(buffer, f"<u{size}").reshape(shape)


def _gdcm_element(code: bytes) -> gdcm.DataElement:
    """Return a codestream as GDCM's pixel data element."""
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(code)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    return element


def _keep_pixels(code: bytes) -> bytes:
    """Return a codestream without application segments and comments."""
    kept = [code[:2]]
    offset = 2
    while True:
        fill, marker, length = struct.unpack_from(">BBH", code, offset)
        if fill != 0xFF or length < 2:
            raise RadiographError(f"the compressed image is damaged: no JPEG marker at byte {offset}")
        if marker == 0xFF:
            offset += 1
        elif marker == _START_OF_SCAN:
            return b"".join((*kept, code[offset:]))
        else:
            if marker in _TABLES or marker in _START_OF_FRAME:
                kept.append(code[offset : offset + 2 + length])
            offset += 2 + length
