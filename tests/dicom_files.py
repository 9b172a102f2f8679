"""Radiograph files for the tests, made here: nothing is shipped, and every pixel is known."""

import base64
import io
import tempfile
import zlib  # noqa: F401 - before gdcm, see kneel.imaging.jpeg
from collections.abc import Callable
from pathlib import Path

import gdcm
import numpy as np
from PIL import Image
from pydicom import dcmread, encaps, uid
from pydicom.dataset import Dataset, FileMetaDataset

DX = "1.2.840.10008.5.1.4.1.1.1.1"
NATIVE = {
    "implicit little endian": uid.ImplicitVRLittleEndian,
    "explicit little endian": uid.ExplicitVRLittleEndian,
    "explicit big endian": uid.ExplicitVRBigEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
}


def film(rows: int = 40, columns: int = 56, bits: int = 12, seed: int = 0) -> np.ndarray:
    """A smooth picture with noise that uses all bits, shape (rows, columns), uint8 or uint16."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns]
    picture = np.sin(y / 7) + np.cos(x / 9) + rng.normal(0, 0.05, (rows, columns))
    picture = (picture - picture.min()) / np.ptp(picture)
    return np.rint(picture * (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)


def make_dataset(pixels: np.ndarray, **tags: object) -> Dataset:
    """A DX dataset around pixels of shape (H, W), (H, W, 3) or, with NumberOfFrames given, one axis more."""
    shape = pixels.shape[1:] if "NumberOfFrames" in tags else pixels.shape
    bits = 8 * pixels.itemsize
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = DX
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = "1.2.3.4"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3.5", "1.2.3.6"
    ds.Modality, ds.PatientID, ds.ViewPosition = "DX", "P 17", "PA"
    ds.Rows, ds.Columns = shape[:2]
    ds.SamplesPerPixel = 1 if len(shape) == 2 else shape[2]
    ds.PhotometricInterpretation = "MONOCHROME2" if len(shape) == 2 else "RGB"
    if len(shape) == 3:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = ds.BitsStored = bits
    if pixels.dtype == np.uint16:
        ds.BitsStored = max(9, int(pixels.max()).bit_length())
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    ds["PixelData"].VR = "OB" if bits == 8 else "OW"
    for keyword, value in tags.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    if "HighBit" not in tags:
        ds.HighBit = ds.BitsStored - 1
    return ds


def to_bytes(ds: Dataset, syntax: uid.UID | None = None) -> bytes:
    """Write a dataset as a file; a native syntax other than the dataset's own swaps the pixels' bytes if need be."""
    if syntax is not None:
        if syntax == uid.ExplicitVRBigEndian and ds.BitsAllocated > 8:
            ds.PixelData = np.frombuffer(ds.PixelData, f"<u{ds.BitsAllocated // 8}").byteswap().tobytes()
        ds.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def dicom(pixels: np.ndarray, syntax: uid.UID | None = None, **tags: object) -> bytes:
    """A native DICOM file."""
    return to_bytes(make_dataset(pixels, **tags), syntax)


def wrap(ds: Dataset, frames: list[bytes], syntax: uid.UID) -> bytes:
    """A compressed DICOM file around finished codestreams."""
    ds.PixelData = encaps.encapsulate(frames)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = syntax
    return to_bytes(ds)


def compress(pixels: np.ndarray, syntax: uid.UID, *, options: dict | None = None, **tags: object) -> bytes:
    """A DICOM file compressed by pydicom's encoders: RLE, JPEG-LS, JPEG 2000."""
    ds = make_dataset(pixels, **tags)
    plugin = "pyjpegls" if syntax in uid.JPEGLSTransferSyntaxes else "pylibjpeg"  # GDCM aborts on odd sizes
    ds.compress(syntax, generate_instance_uid=False, encoding_plugin=plugin, **(options or {}))
    return to_bytes(ds)


def gdcm_codestream(pixels: np.ndarray, syntax: int, **tags: object) -> bytes:
    """A codestream by GDCM, which knows the older JPEG processes; pixels of shape (H, W)."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/film.dcm"
        Path(path).write_bytes(dicom(pixels, **tags))
        reader = gdcm.ImageReader()
        reader.SetFileName(path)
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
        reader.Read()
        change.SetInput(reader.GetImage())
        if not change.Change():
            raise RuntimeError(f"GDCM cannot encode syntax {syntax}")
        writer = gdcm.ImageWriter()
        writer.SetFileName(path)
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.Write()
        return encaps.get_frame(dcmread(path).PixelData, 0)


def jpeg_lossless(pixels: np.ndarray, bits: int, *, first_order: bool = True, **tags: object) -> bytes:
    """A DICOM file with JPEG process 14: selection value 1 only, or any."""
    kinds = gdcm.TransferSyntax
    number = kinds.JPEGLosslessProcess14_1 if first_order else kinds.JPEGLosslessProcess14
    code = gdcm_codestream(pixels, number, BitsStored=bits)
    syntax = uid.JPEGLosslessSV1 if first_order else uid.JPEGLossless
    return wrap(make_dataset(pixels, **{"BitsStored": bits, **tags}), [code], syntax)


def jpeg_baseline(pixels: np.ndarray, *, quality: int = 95, options: dict | None = None, **tags: object) -> bytes:
    """A DICOM file with 8-bit JPEG, process 1."""
    code = image_file(pixels, "JPEG", quality=quality, **(options or {}))
    if pixels.ndim == 3 and "PhotometricInterpretation" not in tags:
        tags["PhotometricInterpretation"] = "YBR_FULL_422"
    return wrap(make_dataset(pixels, **tags), [code], uid.JPEGBaseline8Bit)


def image_file(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    """A PNG, JPEG or TIFF file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


LOSSLESS: dict[str, Callable[..., bytes]] = {
    **{name: lambda pixels, s=syntax, **tags: dicom(pixels, s, **tags) for name, syntax in NATIVE.items()},
    "RLE": lambda pixels, **tags: compress(pixels, uid.RLELossless, **tags),
    "JPEG-LS": lambda pixels, **tags: compress(pixels, uid.JPEGLSLossless, **tags),
    "JPEG 2000": lambda pixels, **tags: compress(pixels, uid.JPEG2000Lossless, **tags),
    "JPEG lossless": lambda pixels, **tags: jpeg_lossless(
        pixels, tags.pop("BitsStored", 8 * pixels.itemsize), first_order=False, **tags
    ),
    "JPEG lossless SV1": lambda pixels, **tags: jpeg_lossless(
        pixels, tags.pop("BitsStored", 8 * pixels.itemsize), **tags
    ),
}
"""Every syntax that keeps pixels exactly: function of the pixels, shape (H, W), and tags."""

RAMP = np.minimum(100 * np.mgrid[:24, :32][0] + 50 * np.mgrid[:24, :32][1], 4095).astype(np.uint16)
"""The picture of the next two codestreams, whose formats no encoder of the project can write."""
RAMP_JPEG_12_BIT = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAIBAQEBAQIBAQECAgICAgQDAgICAgUEBAMEBgUGBgYFBgYGBwkIBgcJBwYGCAsICQoKCgoKBggLDAsK"
    "DAkKCgr/wQALDAAYACABAREA/8QAFQABAQAAAAAAAAAAAAAAAAAACw3/xAAcEAAABgMAAAAAAAAAAAAAAAAACgsoNkVTYnH/2gAIAQEAAD8AkGZH"
    "BDhh7QMFFzUMgEcEOGHtAwUXNQyARwQ4Ye0DBRc1DIBHBDhh7QMFFzUDfkcEOGHtAwUXNQyARwQ4Ye0DBRc1DIBHBDhh7QMFFzUMgEcEOGHtAwUX"
    "NQN+RwQ4Ye0DBRc1DIBHBDhh7QMFFzUMgEcEOGHtAwUXNQyARwQ4Ye0DBRc1H//Z"
)
RAMP_HTJ2K = base64.b64decode(
    "/0//UQApQAAAAAAgAAAAGAAAAAAAAAAAAAAAIAAAABgAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJCQkJCQ"
    "kJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAALkAAf+TwAAm8/UFB3QAwAASwAATACICh3QAYv0DB3QAwAATQAATAJAhAgJ0"
    "APH4ACI0AMAAFTAABVjGxsagYjGCdgCOO+6448BCAb62AMAAFZAABaRgMBgMBueKenECdwDAgYGBgYGBgfoMYHv2MYHsugDAAC1IAAXQgKIoiqIo"
    "iqIoivn+Cnp6enpwgnsAxkaj0Wg0Go1Go9FoNBr/cYCEB79iEB79iEB79iEB7LMB/9k="
)


def deny_polarity(path: Path) -> None:
    """Let a file say the opposite of what its grey levels mean."""
    data = dcmread(path)
    dark = data.PhotometricInterpretation == "MONOCHROME1"
    data.PhotometricInterpretation = "MONOCHROME2" if dark else "MONOCHROME1"
    data.PresentationLUTShape = "IDENTITY" if dark else "INVERSE"
    data.save_as(path)
