"""From the pixel element to the array of stored values: checks first, then the decoder of the transfer syntax."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from numpy.typing import NDArray
from pydicom import encaps, uid
from pydicom.pixels import get_decoder

from kneel.imaging.header import SMALLER, Header, library_errors, name_tag, tag_error
from kneel.imaging.jpeg import Codestream, decode_by_gdcm, read_codestream
from kneel.imaging.parse import PixelElement
from kneel.imaging.radiograph import RadiographError

_PLUGINS = {
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGExtended12Bit: "pillow",
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.JPEG2000Lossless: "pylibjpeg",
    uid.JPEG2000: "pylibjpeg",
    uid.HTJ2KLossless: "pylibjpeg",
    uid.HTJ2KLosslessRPCL: "pylibjpeg",
    uid.HTJ2K: "pylibjpeg",
    uid.RLELossless: "pylibjpeg",
}
"""One decoder a syntax. pydicom would try the next one after a failure: a damaged film must fail, not be read by
whichever decoder minds least."""
_NATIVE = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)
_KEEPS_PRECISION = (*uid.JPEG2000TransferSyntaxes, *uid.JPEGLSTransferSyntaxes)
_PHOTOMETRIC = {
    1: ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"),
    3: ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT"),
}


@dataclass(frozen=True)
class PixelFormat:
    """The Image Pixel module (PS3.3 C.7.6.3), checked. Attributes are named after its tags."""

    rows: int
    columns: int
    samples: int
    photometric: str
    planar: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    frames: int

    @property
    def frame_bytes(self) -> int:
        """Bytes of one uncompressed frame."""
        size = self.rows * self.columns * self.samples * self.bits_allocated // 8
        # Two pixels share their colour: four samples are stored for six (C.7.6.3.1.2).
        return size * 2 // 3 if self.photometric == "YBR_FULL_422" else size


@dataclass(frozen=True)
class StoredPixels:
    """Stored values of one frame.

    Attributes
    ----------
    values : ndarray of int or uint with 8, 16 or 32 bits, shape (H, W) or (H, W, 3)
        As decoded: bits above `bits_stored` may be anything. May be read-only, a view of the file.
    photometric : str
        Photometric interpretation of `values`, which decoding may have changed.
    bits_stored : int
        How many of the lower bits carry the pixel.
    signed : bool
        Two's complement or not.
    """

    values: NDArray
    photometric: str
    bits_stored: int
    signed: bool


def read_format(header: Header, *, max_megapixels: float) -> PixelFormat:
    """Read and check the description of the pixels.

    Raises
    ------
    RadiographError
        If a tag is absent or its value is impossible, or the image is larger than `max_megapixels`.
    """

    def checked(keyword: str, valid: tuple[int, ...] | range, default: int | None = None) -> int:
        value = header.integer(keyword, default=default)
        if value not in valid:
            shown = f"{valid.start}..{valid.stop - 1}" if isinstance(valid, range) else " or ".join(map(str, valid))
            raise tag_error(keyword, value, shown)
        return value

    rows, columns = checked("Rows", range(1, 65536)), checked("Columns", range(1, 65536))
    if rows * columns > max_megapixels * 1e6:
        raise RadiographError(
            f"{name_tag('Rows')} x {name_tag('Columns')} is {rows} x {columns}; "
            f"valid: at most {max_megapixels:g} megapixels: {SMALLER}"
        )
    samples = checked("SamplesPerPixel", (1, 3))
    photometric = (header.text("PhotometricInterpretation") or "").upper()
    if photometric not in _PHOTOMETRIC[samples]:
        raise tag_error("PhotometricInterpretation", photometric, " or ".join(_PHOTOMETRIC[samples]))
    allocated = checked("BitsAllocated", (8, 16, 32) if samples == 1 else (8, 16))
    stored = checked("BitsStored", range(1, allocated + 1))
    # Left-justified pixels, which older writers made and many claimed to make, keep their lower bits: either way the
    # grey levels differ by a factor only.
    stored = 1 + checked("HighBit", range(stored - 1, allocated), default=stored - 1)
    return PixelFormat(
        rows=rows,
        columns=columns,
        samples=samples,
        photometric=photometric,
        planar=checked("PlanarConfiguration", (0, 1), default=0) if samples == 3 else 0,
        bits_allocated=allocated,
        bits_stored=stored,
        signed=bool(checked("PixelRepresentation", (0, 1) if samples == 1 else (0,))),
        frames=max(1, header.integer("NumberOfFrames", default=1)),
    )


def choose_frame(frame: int | None, frames: int) -> int:
    """Return the index of the frame to read.

    Raises
    ------
    RadiographError
        If there are several and none was chosen, or the chosen one is not there.
    """
    if frame is None and frames > 1:
        choice = f"one film a file: save the frame by itself, or read it in Python with frame=0..{frames - 1}"
        raise RadiographError(f"the image has {frames} frames; valid: {choice}")
    if frame is not None and not 0 <= frame < frames:
        raise RadiographError(f"frame={frame} is not there; valid: 0..{frames - 1}")
    return frame or 0


def decode_frame(header: Header, pixels: PixelElement, form: PixelFormat, frame: int) -> StoredPixels:
    """Decode one frame.

    Parameters
    ----------
    header : Header
        For the extended offset table.
    pixels : PixelElement
        The pixel bytes.
    form : PixelFormat
        What they should hold.
    frame : int
        Index of the frame, from 0.

    Returns
    -------
    StoredPixels
        Planar configuration 0 if in colour.

    Raises
    ------
    RadiographError
        If the syntax is not supported, the bytes are too few, too many or damaged, or a compressed image is not of
        the size that the header says.
    """
    if pixels.syntax in _NATIVE:
        _check_length(len(pixels.data), form)
        return _run_decoder(pixels.data, pixels, form, frame)
    if pixels.syntax not in _PLUGINS:
        supported = ", ".join(s.name for s in (*_NATIVE, *_PLUGINS))
        raise tag_error("TransferSyntaxUID", f"{pixels.syntax} ({pixels.syntax.name})", supported)
    code = _find_frame(header, pixels, form, frame)
    if pixels.syntax == uid.RLELossless:
        return _run_decoder(code, pixels, form, 0)
    stream, code = read_codestream(code)
    _check_codestream(stream, form, pixels.syntax)
    lossless = pixels.syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1)
    if lossless or (pixels.syntax == uid.JPEGExtended12Bit and stream.precision > 8):
        with library_errors(f"decoding {pixels.syntax.name}"):
            values = decode_by_gdcm(code, stream, lossless=lossless, rgb=form.photometric == "RGB")
        return StoredPixels(values, form.photometric, form.bits_stored, form.signed)
    decoded = _run_decoder(code, pixels, form, 0)
    if pixels.syntax in _KEEPS_PRECISION:
        # The codestream says what the pixels are; the decoder has extended their sign accordingly.
        return StoredPixels(decoded.values, decoded.photometric, stream.precision, form.signed)
    if stream.adobe and form.samples == 3 and _PLUGINS[pixels.syntax] == "pillow":
        # Pillow undoes the colour transform that Adobe's marker declares.
        return StoredPixels(decoded.values, "RGB", form.bits_stored, form.signed)
    return decoded


def _run_decoder(data: bytes | memoryview, pixels: PixelElement, form: PixelFormat, frame: int) -> StoredPixels:
    """Call pydicom's decoder with checked options only, so that nothing else in the file has a say."""
    native = pixels.syntax in _NATIVE
    options: dict = {
        "rows": form.rows,
        "columns": form.columns,
        "samples_per_pixel": form.samples,
        "photometric_interpretation": form.photometric,
        "planar_configuration": form.planar,
        "bits_allocated": form.bits_allocated,
        "bits_stored": form.bits_stored,
        "pixel_representation": int(form.signed),
        "number_of_frames": form.frames if native else 1,
        "pixel_keyword": "PixelData",
        "pixel_vr": pixels.vr,
        "correct_unused_bits": False,
    }
    if native:
        options["view_only"] = True
    with library_errors(f"decoding {pixels.syntax.name}"):
        source = data if native else encaps.encapsulate([bytes(data)])
        values, properties = get_decoder(pixels.syntax).as_array(
            source, index=frame, raw=True, decoding_plugin=_PLUGINS.get(pixels.syntax, ""), **options
        )
        if not values.flags.aligned or not values.dtype.isnative:
            values = values.astype(values.dtype.newbyteorder("="))
    return StoredPixels(values, str(properties["photometric_interpretation"]), form.bits_stored, form.signed)


def _find_frame(header: Header, pixels: PixelElement, form: PixelFormat, frame: int) -> bytes:
    """Return the bytes of one compressed frame."""
    data = bytes(pixels.data)
    ended = _walk_fragments(data) or pixels.ended
    if not ended and pixels.syntax == uid.RLELossless:  # all others have an end marker of their own
        raise RadiographError(f"truncated: {name_tag('PixelData')} has no sequence delimiter at its end")
    offsets = _extended_offsets(header)
    with library_errors("finding the compressed frame"):
        code = encaps.get_frame(data, frame, number_of_frames=form.frames, extended_offsets=offsets)
    if not code:
        raise RadiographError(f"truncated: {name_tag('PixelData')} has nothing in the fragment of frame {frame}")
    return code


def _check_length(length: int, form: PixelFormat) -> None:
    """Refuse uncompressed pixels that do not fit the format; less than a row or column too much is padding."""
    expected = form.frame_bytes * form.frames
    slack = min(form.rows, form.columns) * form.samples * form.bits_allocated // 8
    if expected <= length < expected + max(slack, 2):
        return
    problem = "truncated: " if length < expected else ""
    raise RadiographError(
        f"{problem}{name_tag('PixelData')} is {length} bytes long; valid: {expected} bytes, for {form.frames} frame(s) "
        f"of {form.rows} x {form.columns} x {form.samples} values of {form.bits_allocated} bits"
    )


def _walk_fragments(data: bytes) -> bool:
    """Refuse fragments that the file does not hold whole; return whether the sequence delimiter is there."""
    offset = 0
    while offset + 8 <= len(data):
        group, element, length = struct.unpack_from("<HHL", data, offset)
        if (group, element) == (0xFFFE, 0xE0DD):
            return True
        if (group, element) != (0xFFFE, 0xE000):
            raise RadiographError(
                f"{name_tag('PixelData')} has the tag ({group:04X},{element:04X}) among its fragments; "
                "valid: items (FFFE,E000) and a sequence delimiter (FFFE,E0DD)"
            )
        offset += 8 + length
    if offset != len(data):
        raise RadiographError(f"truncated: the last fragment of {name_tag('PixelData')} is not all there")
    return False


def _extended_offsets(header: Header) -> tuple[bytes, bytes] | None:
    """Return the extended offset table, if the file has one that can be used."""
    offsets, lengths = header.find("ExtendedOffsetTable"), header.find("ExtendedOffsetTableLengths")
    if not isinstance(offsets, bytes) or not isinstance(lengths, bytes) or len(offsets) != len(lengths):
        return None
    return offsets, lengths


def _check_codestream(stream: Codestream, form: PixelFormat, syntax: uid.UID) -> None:
    """Refuse a compressed image that is not the one that the header describes."""
    size = (stream.rows, stream.columns, stream.samples)
    if size != (form.rows, form.columns, form.samples):
        raise RadiographError(
            f"the compressed image is {size[0]} x {size[1]} x {size[2]}; "
            f"valid: {form.rows} x {form.columns} x {form.samples}, "
            f"as {name_tag('Rows')}, {name_tag('Columns')} and {name_tag('SamplesPerPixel')} say"
        )
    valid = {uid.JPEGBaseline8Bit: (8,), uid.JPEGExtended12Bit: (8, 12)}.get(syntax, range(1, form.bits_allocated + 1))
    if stream.precision not in valid:
        raise RadiographError(
            f"the compressed image has {stream.precision} bits a sample; valid: {valid[0]}..{valid[-1]} for "
            f"{syntax.name} with {name_tag('BitsAllocated')} = {form.bits_allocated}"
        )
