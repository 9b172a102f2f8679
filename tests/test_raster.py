import io
import struct

import cv2
import dicom_files as files
import numpy as np
import pytest
from PIL import Image

from kneel.imaging import RadiographError, read_radiograph

COLOUR = np.stack([files.film(bits=8, seed=s) for s in range(3)], axis=-1)
DEEP_COLOUR = np.stack([files.film(bits=16, seed=s) for s in range(3)], axis=-1)


def encoded(pixels, extension):
    """A file by OpenCV, which writes what Pillow cannot; colour is BGR."""
    return cv2.imencode(extension, pixels)[1].tobytes()


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"compression": "packbits"}),
    ],
)
def test_grey_files_are_exact(kind, options, bits):
    pixels = files.film(bits=bits)
    film = read_radiograph(files.image_file(pixels, kind, **options))
    assert film.pixels.dtype == pixels.dtype
    assert np.array_equal(film.pixels, pixels)
    assert not film.pixels.flags.writeable


def test_big_endian_tiff():
    pixels = files.film(bits=16)
    ifd = [(256, 4, 56), (257, 4, 40), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (279, 4, 4480)]
    entries = b"".join(
        struct.pack(">HHL", tag, kind, 1) + (struct.pack(">L", v) if kind == 4 else struct.pack(">HH", v, 0))
        for tag, kind, v in ifd
    )
    data = b"MM\0*" + struct.pack(">L", 4488) + pixels.astype(">u2").tobytes()
    data += struct.pack(">H", len(ifd)) + entries + bytes(4)
    assert np.array_equal(read_radiograph(data).pixels, pixels)


def test_jpeg_is_close():
    pixels = files.film(bits=8)
    read = read_radiograph(files.image_file(pixels, "JPEG", quality=95)).pixels
    assert np.abs(read.astype(int) - pixels).max() <= 8


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_colour_becomes_luma(kind):
    expected = cv2.cvtColor(COLOUR, cv2.COLOR_RGB2GRAY).astype(int)
    read = read_radiograph(files.image_file(COLOUR, kind)).pixels
    assert np.abs(read - expected).max() <= 1


@pytest.mark.parametrize("extension", [".png", ".tiff"])
def test_deep_colour_keeps_sixteen_bits(extension):
    read = read_radiograph(encoded(DEEP_COLOUR[..., ::-1], extension)).pixels
    assert np.array_equal(read, cv2.cvtColor(DEEP_COLOUR, cv2.COLOR_RGB2GRAY))


def test_alpha_is_ignored():
    pixels = files.film(bits=8)
    both = np.stack([pixels, np.zeros_like(pixels)], axis=-1)
    assert np.array_equal(read_radiograph(files.image_file(both, "PNG")).pixels, pixels)


def test_a_palette_is_read_and_one_bit_is_no_film():
    pixels = files.film(bits=8)
    palette, one_bit = io.BytesIO(), io.BytesIO()
    Image.fromarray(pixels).convert("P").save(palette, "PNG")
    Image.fromarray(pixels > 100).save(one_bit, "PNG")
    assert np.array_equal(read_radiograph(palette.getvalue()).pixels, pixels)
    with pytest.raises(RadiographError, match="of kind 1; valid: 8 or 16 bits"):
        read_radiograph(one_bit.getvalue())


@pytest.mark.parametrize("bits", [8, 16])
def test_white_is_zero_is_turned_round(bits):
    pixels = files.film(bits=bits)
    data = bytearray(files.image_file(pixels, "TIFF"))
    at = data.index(struct.pack("<HHL", 262, 3, 1)) + 8
    assert data[at] == 1
    data[at] = 0
    assert np.array_equal(read_radiograph(bytes(data)).pixels, 2**bits - 1 - pixels)


def test_signed_sixteen_bit_tiff_is_shifted():
    pixels = files.film(bits=12)
    data = bytearray(files.image_file(pixels.astype(np.uint16), "TIFF", tiffinfo={339: 2}))
    read = read_radiograph(bytes(data)).pixels
    assert np.array_equal(read, pixels - pixels.min())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_orientation_is_obeyed(kind):
    pixels = np.kron(files.film(bits=8, rows=5, columns=7), np.ones((8, 8), np.uint8))
    exif = Image.Exif()
    exif[274] = 2  # mirrored
    options = {"quality": 98} if kind == "JPEG" else {}
    read = read_radiograph(files.image_file(pixels, kind, exif=exif, **options)).pixels
    assert np.abs(read.astype(int) - pixels[:, ::-1]).max() <= 6


def test_resolution_is_no_spacing():
    data = files.image_file(files.film(bits=8), "PNG", dpi=(300, 300))
    film = read_radiograph(data)
    assert (film.spacing_mm, film.spacing_kind) == (None, "none")
    film = read_radiograph(data, spacing_mm=(0.2, 0.3))
    assert (film.spacing_mm, film.spacing_kind) == ((0.2, 0.3), "given")


class TestPages:
    @staticmethod
    def pages(kind):
        images = [Image.fromarray(files.film(bits=8, seed=s)) for s in range(3)]
        buffer = io.BytesIO()
        images[0].save(buffer, kind, save_all=True, append_images=images[1:])
        return buffer.getvalue()

    @pytest.mark.parametrize("kind", ["TIFF", "PNG"])
    def test_are_refused_unless_one_is_chosen(self, kind):
        data = self.pages(kind)
        with pytest.raises(RadiographError, match="several pages; valid: one film a file: save the page by itself"):
            read_radiograph(data)
        for page in range(3):
            assert np.array_equal(read_radiograph(data, frame=page).pixels, files.film(bits=8, seed=page))

    @pytest.mark.parametrize("page", [-1, 3, 99])
    def test_page_out_of_range(self, page):
        with pytest.raises(RadiographError, match=f"frame={page} is not there"):
            read_radiograph(self.pages("TIFF"), frame=page)

    def test_of_a_single_page(self):
        data = files.image_file(files.film(bits=8), "PNG")
        assert read_radiograph(data, frame=0).pixels.shape == (40, 56)
        with pytest.raises(RadiographError, match="frame=1 is not there; valid: 0"):
            read_radiograph(data, frame=1)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_size_is_checked_before_decoding(kind):
    data = files.image_file(files.film(rows=1000, columns=1100, bits=8), kind)
    with pytest.raises(RadiographError, match=r"1000 x 1100 pixels; valid: at most 1 megapixels: shrink it"):
        read_radiograph(data, max_megapixels=1)


def test_bomb_is_refused_by_its_header():
    data = bytearray(files.image_file(files.film(bits=8), "PNG"))
    data[16:24] = struct.pack(">LL", 60000, 60000)
    with pytest.raises(RadiographError, match="opening the PNG file failed"):
        read_radiograph(bytes(data))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_half_a_file_is_refused(kind):
    data = files.image_file(files.film(bits=8), kind)
    with pytest.raises(RadiographError, match=f"the {kind} file failed"):
        read_radiograph(data[: len(data) // 2])


def test_float_tiff_is_refused():
    data = files.image_file(files.film().astype(np.float32), "TIFF")
    with pytest.raises(RadiographError, match="of kind F; valid: 8 or 16 bits"):
        read_radiograph(data)


def test_constant_picture_is_refused():
    with pytest.raises(RadiographError, match="all pixels are 9"):
        read_radiograph(files.image_file(np.full((5, 5), 9, np.uint8), "PNG"))


@pytest.mark.parametrize(
    ("name", "side"), [("9001695L.png", "L"), ("12R.png", "R"), ("9001695_3_L.png", None), ("kneeL.png", None)]
)
def test_the_side_may_stand_in_the_file_name(tmp_path, name, side):
    """Digits and a letter, as in the public set; ROIs of KNEEL's format are mirrored already and must not be again."""
    cv2.imwrite(str(tmp_path / name), np.arange(80 * 90, dtype=np.uint16).reshape(80, 90))
    film = read_radiograph(tmp_path / name)
    assert (film.laterality, film.side_from_name) == (side, side is not None)
