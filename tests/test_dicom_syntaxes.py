"""Every transfer syntax, each faced with the same pixels."""

import io

import cv2
import dicom_files as files
import gdcm
import numpy as np
import pytest
from pydicom import dcmread, encaps, uid

from kneel.imaging import RadiographError, read_radiograph


def signed(pixels, bits):
    """The same grey levels about zero."""
    return (pixels.astype(np.int32) - 2 ** (bits - 1)).astype(np.int8 if bits == 8 else np.int16)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("name", files.LOSSLESS)
def test_lossless_syntaxes_are_exact(name, bits):
    pixels = files.film(bits=bits)
    read = read_radiograph(files.LOSSLESS[name](pixels, BitsStored=bits)).pixels
    assert read.dtype == pixels.dtype
    assert np.array_equal(read, pixels)


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("name", files.LOSSLESS)
def test_signed_pixels_are_shifted_to_unsigned(name, bits):
    pixels = files.film(bits=bits)
    read = read_radiograph(files.LOSSLESS[name](signed(pixels, bits), BitsStored=bits)).pixels
    assert np.array_equal(read, pixels)


@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize("name", files.LOSSLESS)
def test_odd_sizes(name, bits):
    if bits == 8 and "JPEG lossless" in name:
        pytest.skip("GDCM cannot encode an odd number of bytes")
    pixels = files.film(rows=37, columns=51, bits=bits)
    assert np.array_equal(read_radiograph(files.LOSSLESS[name](pixels)).pixels, pixels)


@pytest.mark.parametrize("name", files.LOSSLESS)
def test_dataset_as_pydicom_reads_it(name):
    pixels = files.film()
    dataset = dcmread(io.BytesIO(files.LOSSLESS[name](pixels)))
    before = dataset.PixelData
    assert np.array_equal(read_radiograph(dataset).pixels, pixels)
    assert dataset.PixelData == before


@pytest.mark.parametrize(
    ("syntax", "options", "tolerance"),
    [
        (uid.JPEGLSNearLossless, {"jls_error": 3}, 3),
        (uid.JPEG2000, {"j2k_psnr": [80]}, 8),
    ],
)
def test_lossy_syntaxes_are_close(syntax, options, tolerance):
    pixels = files.film()
    read = read_radiograph(files.compress(pixels, syntax, options=options)).pixels
    error = np.abs(read.astype(int) - pixels)
    assert 0 < error.max() <= tolerance


def test_jpeg_baseline_is_close():
    pixels = files.film(bits=8)
    read = read_radiograph(files.jpeg_baseline(pixels)).pixels
    assert read.dtype == np.uint8
    assert np.abs(read.astype(int) - pixels).max() <= 8


def test_jpeg_extended_has_twelve_bits():
    code = files.wrap(files.make_dataset(files.RAMP), [files.RAMP_JPEG_12_BIT], uid.JPEGExtended12Bit)
    assert np.abs(read_radiograph(code).pixels.astype(int) - files.RAMP).max() <= 1


def test_jpeg_extended_with_eight_bits():
    pixels = files.film(bits=8)
    code = files.wrap(files.make_dataset(pixels), [files.image_file(pixels, "JPEG", quality=95)], uid.JPEGExtended12Bit)
    assert np.abs(read_radiograph(code).pixels.astype(int) - pixels).max() <= 8


@pytest.mark.parametrize("syntax", [uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K])
def test_high_throughput_jpeg_2000(syntax):
    code = files.wrap(files.make_dataset(files.RAMP), [files.RAMP_HTJ2K], syntax)
    assert np.array_equal(read_radiograph(code).pixels, files.RAMP)


def test_jpeg_2000_inside_a_jp2_file():
    pixels = files.film(bits=8)
    code = files.image_file(pixels, "JPEG2000", irreversible=False)
    assert code[4:8] == b"jP  "
    assert np.array_equal(read_radiograph(files.wrap(files.make_dataset(pixels), [code], uid.JPEG2000)).pixels, pixels)


def test_application_segments_do_not_reach_gdcm():
    """GDCM ends the process at a JFIF version that it does not know."""
    pixels = files.film()
    code = files.gdcm_codestream(pixels, gdcm.TransferSyntax.JPEGLosslessProcess14_1)
    code = code[:2] + b"\xff\xe0\x00\x10JFIF\x00\x2d\x7d\x4e\x1e\x01\x00\x01\x00\x00" + code[2:]
    dataset = files.make_dataset(pixels)
    assert np.array_equal(read_radiograph(files.wrap(dataset, [code], uid.JPEGLosslessSV1)).pixels, pixels)


def test_frame_in_several_fragments():
    pixels = files.film()
    dataset = dcmread(io.BytesIO(files.LOSSLESS["JPEG-LS"](pixels)))
    frame = encaps.get_frame(dataset.PixelData, 0)
    dataset.PixelData = encaps.encapsulate([frame], fragments_per_frame=3)
    assert np.array_equal(read_radiograph(files.to_bytes(dataset)).pixels, pixels)


@pytest.mark.parametrize("with_offsets", [True, False])
@pytest.mark.parametrize("extended", [True, False])
def test_frames_of_a_compressed_file(with_offsets, extended):
    frames = np.stack([files.film(seed=s) for s in range(3)])
    dataset = files.make_dataset(frames, NumberOfFrames=3)
    dataset.compress(uid.JPEGLSLossless, generate_instance_uid=False, encoding_plugin="pyjpegls")
    codes = [encaps.get_frame(dataset.PixelData, i, number_of_frames=3) for i in range(3)]
    if extended:
        tables = encaps.encapsulate_extended(codes)
        dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = tables
    else:
        dataset.PixelData = encaps.encapsulate(codes, has_bot=with_offsets)
    for i in range(3):
        assert np.array_equal(read_radiograph(files.to_bytes(dataset), frame=i).pixels, frames[i])


COLOURS = np.stack([files.film(bits=8, seed=s) for s in range(3)], axis=-1)
LUMA = cv2.cvtColor(COLOURS, cv2.COLOR_RGB2GRAY)


@pytest.mark.parametrize("name", ["native", "planes", "RLE", "JPEG-LS", "JPEG 2000", "JPEG lossless"])
def test_colour_becomes_luma(name):
    data = {
        "native": lambda: files.dicom(COLOURS),
        "planes": lambda: files.dicom(np.moveaxis(COLOURS, 2, 0).copy().reshape(COLOURS.shape), PlanarConfiguration=1),
        "RLE": lambda: files.compress(COLOURS, uid.RLELossless),
        "JPEG-LS": lambda: files.compress(COLOURS, uid.JPEGLSLossless),
        "JPEG 2000": lambda: files.compress(COLOURS, uid.JPEG2000Lossless, PhotometricInterpretation="RGB"),
        "JPEG lossless": lambda: files.wrap(
            files.make_dataset(COLOURS),
            [files.gdcm_codestream(COLOURS, gdcm.TransferSyntax.JPEGLosslessProcess14_1)],
            uid.JPEGLosslessSV1,
        ),
    }[name]()
    assert np.array_equal(read_radiograph(data).pixels, LUMA)


def test_luma_of_ycbr_is_its_first_channel():
    data = files.dicom(COLOURS, PhotometricInterpretation="YBR_FULL")
    assert np.array_equal(read_radiograph(data).pixels, COLOURS[..., 0])


def test_subsampled_colour_keeps_all_luma():
    luma = files.film(bits=8)
    pairs = luma.reshape(-1, 2)
    packed = np.column_stack([pairs, np.full((len(pairs), 2), 128, np.uint8)])  # Y1 Y2 Cb Cr
    dataset = files.make_dataset(COLOURS, PhotometricInterpretation="YBR_FULL_422", PixelData=packed.tobytes())
    assert np.array_equal(read_radiograph(files.to_bytes(dataset)).pixels, luma)


@pytest.mark.parametrize("options", [{}, {"keep_rgb": True}, {"subsampling": 0}], ids=["YCbCr", "Adobe RGB", "4:4:4"])
def test_colour_jpeg(options):
    smooth = np.stack([files.film(bits=8), 255 - files.film(bits=8), files.film(bits=8) // 2], axis=-1)
    data = files.jpeg_baseline(smooth, quality=98, options=options)
    expected = cv2.cvtColor(smooth, cv2.COLOR_RGB2GRAY).astype(int)
    assert np.abs(read_radiograph(data).pixels - expected).mean() < 3


def test_sixteen_bit_colour():
    pixels = np.stack([files.film(seed=s) for s in range(3)], axis=-1)
    assert np.array_equal(read_radiograph(files.dicom(pixels)).pixels, cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))


def test_compressed_image_of_another_size_is_refused():
    """As many pixels, but turned: decoders give a scrambled film without a word."""
    pixels = files.film(rows=40, columns=60)
    data = files.LOSSLESS["JPEG 2000"](pixels)
    turned = dcmread(io.BytesIO(data))
    turned.Rows, turned.Columns = 60, 40
    with pytest.raises(RadiographError, match=r"40 x 60 x 1; valid: 60 x 40 x 1, as \(0028,0010\) Rows"):
        read_radiograph(files.to_bytes(turned))


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEGLosslessSV1, uid.JPEG2000])
def test_empty_fragment_is_refused(syntax):
    dataset = files.make_dataset(files.film(), PixelData=b"\xfe\xff\x00\xe0\0\0\0\0" * 2)
    dataset.file_meta.TransferSyntaxUID = syntax
    with pytest.raises(RadiographError, match="nothing in the fragment of frame 0"):
        read_radiograph(dataset)


def test_codestream_without_end_is_refused():
    pixels = files.film(bits=8)
    code = files.image_file(pixels, "JPEG")
    with pytest.raises(RadiographError, match="no end marker"):
        read_radiograph(files.wrap(files.make_dataset(pixels), [code[: len(code) // 2]], uid.JPEGBaseline8Bit))


@pytest.mark.parametrize(
    ("syntax", "name"), [("1.2.840.10008.1.2.4.100", "MPEG2"), ("1.2.840.10008.1.2.4.53", "Spectral Selection")]
)
def test_unsupported_syntax_is_named(syntax, name):
    data = files.wrap(files.make_dataset(files.film()), [b"\0" * 20], uid.UID(syntax))
    with pytest.raises(RadiographError, match=rf"\(0002,0010\) Transfer Syntax UID is '{syntax}.*{name}.*valid: .*RLE"):
        read_radiograph(data)
