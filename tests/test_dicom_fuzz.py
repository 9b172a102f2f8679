"""Damaged films by the hundred: the outcome is a ``Radiograph`` or a ``RadiographError``, nothing else."""

import struct
from collections.abc import Callable

import dicom_files as files
import numpy as np
import pytest
from pydicom import uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from kneel.imaging import Radiograph, RadiographError, normalize_percentiles, read_radiograph

CASES_PER_FILE = 250
KEYWORDS = """
    TransferSyntaxUID SpecificCharacterSet SOPClassUID ImageLaterality Laterality ViewPosition ViewCodeSequence
    AnatomicRegionSequence PatientOrientation PatientID NumberOfFrames Rows Columns SamplesPerPixel PlanarConfiguration
    PhotometricInterpretation BitsAllocated BitsStored HighBit PixelRepresentation PixelSpacing ImagerPixelSpacing
    PixelSpacingCalibrationType EstimatedRadiographicMagnificationFactor PixelPaddingValue PixelPaddingRangeLimit
    RescaleSlope ModalityLUTSequence LUTDescriptor LUTData PresentationLUTShape RedPaletteColorLookupTableDescriptor
    RedPaletteColorLookupTableData ExtendedOffsetTable ExtendedOffsetTableLengths PixelData FloatPixelData
""".split()  # noqa: SIM905 - a list of forty lines says no more
VRS = b"AE AS AT CS DA DS FD FL IS LO OB OD OF OW PN SH SL SQ SS ST TM UI UL UN US UT".split()
NUMBERS = (0, 1, 2, 7, 8, 0x7F, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
TEXTS = (
    b"",
    b" ",
    b"0",
    b"-1",
    b"nan",
    b"inf\\1",
    b"1e400\\2",
    b"0.1\\0.2",
    b"abc",
    b"\xff\xfe\x00",
    b"1\\" * 300,
    b"\\",
)


def with_tables(bits: int = 12) -> bytes:
    """A signed film with a Modality LUT, padding and an overlay in its high bits."""
    pixels = files.film(bits=bits).astype(np.int16)
    lut = Dataset()
    lut.add_new("LUTDescriptor", "SS", [2**bits, 0, 16])
    lut.add_new("LUTData", "OW", np.arange(2**bits, dtype="<u2")[::-1].tobytes())
    lut.ModalityLUTType = "US"
    extra = {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 3, "BitsStored": bits + 1}
    return files.dicom(pixels, ModalityLUTSequence=Sequence([lut]), **extra)


def with_palette() -> bytes:
    """A palette film."""
    tags: dict = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tags[f"{colour}PaletteColorLookupTableData"] = np.arange(0, 65536, 256, dtype="<u2").tobytes()
    return files.dicom(files.film(bits=8), **tags)


COLOUR = np.stack([files.film(bits=8, seed=s) for s in range(3)], axis=-1)
FILES: dict[str, Callable[[], bytes]] = {
    **{name: lambda make=make: make(files.film()) for name, make in files.LOSSLESS.items()},
    "tables": with_tables,
    "palette": with_palette,
    "frames": lambda: files.dicom(np.stack([files.film()] * 3), NumberOfFrames=3),
    "planes": lambda: files.dicom(
        np.ascontiguousarray(np.moveaxis(COLOUR, 2, 0)).reshape(COLOUR.shape), PlanarConfiguration=1
    ),
    "colour JPEG 2000": lambda: files.compress(COLOUR, uid.JPEG2000Lossless, PhotometricInterpretation="RGB"),
    "colour JPEG": lambda: files.jpeg_baseline(COLOUR),
    "JPEG baseline": lambda: files.jpeg_baseline(files.film(bits=8)),
    "JPEG extended": lambda: files.wrap(
        files.make_dataset(files.RAMP), [files.RAMP_JPEG_12_BIT], uid.JPEGExtended12Bit
    ),
    "HTJ2K": lambda: files.wrap(files.make_dataset(files.RAMP), [files.RAMP_HTJ2K], uid.HTJ2KLossless),
    "PNG": lambda: files.image_file(files.film(), "PNG"),
    "colour PNG": lambda: files.image_file(COLOUR, "PNG"),
    "TIFF": lambda: files.image_file(files.film(), "TIFF"),
    "deflated TIFF": lambda: files.image_file(files.film(), "TIFF", compression="tiff_adobe_deflate"),
    "LZW TIFF": lambda: files.image_file(COLOUR, "TIFF", compression="tiff_lzw"),
    "JPEG": lambda: files.image_file(files.film(bits=8), "JPEG"),
}


def replace_element(data: bytes, rng: np.random.Generator) -> bytes:
    """Give one of the tags that matter another VR, length or value; put it in before the pixels if it is not there."""
    tag = tag_for_keyword(str(rng.choice(KEYWORDS)))
    assert tag is not None
    name = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    at = data.find(name)
    vr = VRS[rng.integers(len(VRS))]
    value = TEXTS[rng.integers(len(TEXTS))]
    if rng.random() < 0.5:
        value = struct.pack("<L", NUMBERS[rng.integers(len(NUMBERS))])[: rng.choice([2, 4])] * int(rng.integers(1, 4))
    length = len(value) if rng.random() < 0.8 else NUMBERS[rng.integers(len(NUMBERS))]
    wide = vr in (b"OB", b"OD", b"OF", b"OW", b"SQ", b"UN", b"UT")
    element = name + vr + (struct.pack("<HL", 0, length) if wide else struct.pack("<H", length & 0xFFFF)) + value
    if at < 0:
        at = max(data.find(b"\xe0\x7f\x10\x00"), 0)
        return data[:at] + element + data[at:]
    old = 8 + int.from_bytes(data[at + 6 : at + 8], "little")
    return data[:at] + element + data[at + (old if rng.random() < 0.8 else len(element)) :]


def damage_bytes(data: bytes, rng: np.random.Generator, start: int, stop: int) -> bytes:
    """Flip, overwrite, cut out, repeat or insert some bytes of a stretch of the file."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(start, max(start + 1, min(stop, len(out)))))
        size = int(rng.integers(1, 9))
        kind = rng.integers(6)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            out[at : at + size] = rng.bytes(size)
        elif kind == 2:
            number = NUMBERS[rng.integers(len(NUMBERS))]
            out[at : at + 4] = struct.pack("<L" if rng.random() < 0.5 else ">L", number)
        elif kind == 3:
            del out[at : at + size]
        elif kind == 4:
            out[at:at] = out[at : at + size * 4]
        else:
            out[at:at] = rng.bytes(size)
    return bytes(out)


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Damage a file in one of four ways: cut it short, change an element, damage its header, damage its pixels."""
    kind = rng.random()
    if kind < 0.1:
        return data[: rng.integers(len(data))]
    pixels = data.find(b"\xe0\x7f\x10\x00")
    if pixels < 0:  # a picture, or a deflated or big endian film
        return damage_bytes(data, rng, 0, 200 if kind < 0.5 else len(data))
    if kind < 0.5:
        return replace_element(data, rng)
    if kind < 0.75:
        return damage_bytes(data, rng, 128, pixels)
    return damage_bytes(data, rng, pixels, pixels + 200 if kind < 0.9 else len(data))


def check(data: bytes, frame: int | None = None) -> bool:
    """Read a file that may be anything; what comes back must be usable. Return whether it was read."""
    try:
        radiograph = read_radiograph(data, frame=frame, max_megapixels=1)
    except RadiographError:
        return False
    assert isinstance(radiograph, Radiograph)
    assert radiograph.pixels.dtype in (np.uint8, np.uint16)
    assert radiograph.pixels.ndim == 2
    assert (radiograph.spacing_mm is None) == (radiograph.spacing_kind == "none")
    normal = normalize_percentiles(radiograph.pixels, padding=radiograph.padding)
    assert normal.shape == radiograph.pixels.shape
    assert 0 <= normal.min() <= normal.max() <= 1
    return True


@pytest.mark.parametrize("name", FILES)
def test_damaged_files(name):
    data = FILES[name]()
    assert check(data, frame=1 if name == "frames" else None)
    read = 0
    for seed in range(CASES_PER_FILE):
        rng = np.random.default_rng(seed)
        read += check(mutate(data, rng), frame=[None, 0, 1][seed % 3])
    assert read < CASES_PER_FILE, "the damage is too light to tell anything"


@pytest.mark.parametrize("name", FILES)
def test_truncated_anywhere(name):
    """A film cut short is never read as if it were whole, wherever the cut is."""
    data = FILES[name]()
    frame = 2 if name == "frames" else None
    whole = read_radiograph(data, frame=frame).pixels
    for length in np.unique(np.linspace(0, len(data) - 1, 60).astype(int)):
        try:
            part = read_radiograph(data[:length], frame=frame).pixels
        except RadiographError:
            continue
        # Bytes after the last pixel may go.
        assert np.array_equal(part, whole)
