"""From stored values to bright bone: bits, padding, tables, polarity. Expected values are worked by hand."""

import dicom_files as files
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from kneel.imaging import RadiographError, normalize_percentiles, read_radiograph


def read(values, dtype=np.uint16, **tags):
    """Grey levels of one row of stored values."""
    return read_radiograph(files.dicom(np.array([values], dtype), **tags)).pixels[0].tolist()


def modality_lut(descriptor, data, vr="SS"):
    item = Dataset()
    item.add_new("LUTDescriptor", vr, descriptor)
    item.add_new("LUTData", "OW" if isinstance(data, bytes) else "US", data)
    return Sequence([item])


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted"),
    [
        ("MONOCHROME1", None, True),
        ("MONOCHROME1", "IDENTITY", True),
        ("MONOCHROME1", "INVERSE", True),  # the ordinary pair, PS3.3 C.8.11.3: ONE inversion
        ("MONOCHROME2", None, False),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME2", "INVERSE", True),  # PS3.3 C.11.6
    ],
)
@pytest.mark.parametrize("slope", [None, 1, -1])
def test_polarity(photometric, shape, inverted, slope):
    tags = {"PhotometricInterpretation": photometric, "BitsStored": 12}
    if shape:
        tags["PresentationLUTShape"] = shape
    if slope:
        tags |= {"RescaleSlope": slope, "RescaleIntercept": 100}
    bone_first = inverted != (slope == -1)  # a falling rescale turns the scale round once more
    assert read([0, 100, 4095], **tags) == ([4095, 3995, 0] if bone_first else [0, 100, 4095])


def test_polarity_of_signed_pixels():
    tags = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12}
    assert read([-2048, -1, 0, 2047], np.int16, **tags) == [4095, 2048, 2047, 0]


@pytest.mark.parametrize("slope", ["0", "1e-9", "0.5", "7"])
def test_other_slopes_change_nothing(slope):
    assert read([1, 2, 500], RescaleSlope=slope, RescaleIntercept="-3") == [1, 2, 500]


def test_window_is_not_applied():
    assert read([1, 2, 500], WindowCenter=2, WindowWidth=1) == [1, 2, 500]


def test_overlay_in_high_bits_is_masked():
    assert read([0x0001, 0x8FFF, 0xF010], BitsStored=12) == [1, 0xFFF, 0x10]


def test_dirty_high_bits_of_signed_pixels():
    # -5 in 12 bits is FFB: once sign extended, once not, once under an overlay.
    words = np.array([0xFFFB, 0x0FFB, 0x1FFB, 0x0004], np.uint16).view(np.int16)
    assert read(words, np.int16, BitsStored=12) == [2043, 2043, 2043, 2052]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_left_justified_pixels_differ_by_a_factor(photometric):
    values = np.random.default_rng(0).integers(0, 4096, (30, 40), dtype=np.uint16)
    right = files.dicom(values, BitsStored=12, PhotometricInterpretation=photometric)
    left = files.dicom(values << 4, BitsStored=12, HighBit=15, PhotometricInterpretation=photometric)
    grey = [normalize_percentiles(read_radiograph(data).pixels) for data in (right, left)]
    np.testing.assert_allclose(*grey, atol=1e-6)


def test_one_to_eight_bits_in_sixteen_come_out_as_eight():
    pixels = read_radiograph(files.dicom(np.array([[0, 255]], np.uint16), BitsStored=8)).pixels
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("dtype", [np.uint32, np.int32])
def test_thirty_two_bits_in_a_small_range_are_shifted(dtype):
    assert read([70000, 70001, 135535], dtype, BitsStored=32) == [0, 1, 65535]


def test_thirty_two_bits_in_a_large_range_are_scaled():
    assert read([0, 10, 655350], np.uint32, BitsStored=32) == [0, 1, 65535]
    assert read([-(2**31), 0, 2**31 - 1], np.int32, BitsStored=32) == [0, 32768, 65535]


def test_thirty_two_bits_inverted_and_padded():
    tags = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 32, "PixelPaddingValue": 0}
    film = read_radiograph(files.dicom(np.array([[0, 1000, 2000]], np.uint32), **tags))
    assert film.pixels.tolist() == [[0, 1000, 0]]
    assert film.padding.tolist() == [[True, False, False]]


class TestModalityLut:
    def test_is_applied(self):
        lut = modality_lut([3, 10, 16], [500, 7, 40000], vr="US")
        # below the first mapped value the first entry, above the last the last (PS3.3 C.11.1.1)
        assert read([0, 10, 11, 12, 13, 65535], ModalityLUTSequence=lut) == [500, 500, 7, 40000, 40000, 40000]

    def test_first_value_may_be_negative(self):
        lut = modality_lut([4, -2, 16], [10, 20, 30, 40])
        assert read([-3, -2, -1, 0, 1, 2], np.int16, ModalityLUTSequence=lut) == [10, 10, 20, 30, 40, 40]

    def test_first_value_of_signed_pixels_written_as_unsigned(self):
        lut = modality_lut([4, 65534, 16], [10, 20, 30, 40], vr="US")
        assert read([-2, -1, 0, 1], np.int16, ModalityLUTSequence=lut) == [10, 20, 30, 40]

    def test_eight_bit_entries_packed_in_words(self):
        lut = modality_lut([4, 0, 8], bytes([9, 8, 7, 6]), vr="US")
        assert read([0, 1, 2, 3], ModalityLUTSequence=lut) == [9, 8, 7, 6]

    def test_65536_entries(self):
        data = np.arange(65536, dtype="<u2")[::-1].tobytes()
        assert read([0, 1, 65535], ModalityLUTSequence=modality_lut([0, 0, 16], data)) == [65535, 65534, 0]

    def test_words_of_a_big_endian_file(self):
        lut = modality_lut([2, 0, 16], np.array([1, 700], ">u2").tobytes(), vr="US")
        data = files.dicom(np.array([[0, 1]], np.uint16), files.NATIVE["explicit big endian"], ModalityLUTSequence=lut)
        assert read_radiograph(data).pixels.tolist() == [[1, 700]]

    def test_replaces_the_slope_and_goes_before_the_polarity(self):
        tags = {"RescaleSlope": -1, "PhotometricInterpretation": "MONOCHROME1"}
        assert read([0, 1], ModalityLUTSequence=modality_lut([2, 0, 10], [3, 1000]), **tags) == [1020, 23]

    @pytest.mark.parametrize(
        ("descriptor", "data", "words"),
        [
            ([3, 0, 16], [1, 2], "2 entries.*3 entries"),
            ([3, 0], [1, 2, 3], "three integers"),
            ([3, 0, 17], [1, 2, 3], "8..16 bits"),
            ([3, 0, 16], [], "0 entries"),
        ],
    )
    def test_broken_tables_are_refused(self, descriptor, data, words):
        with pytest.raises(RadiographError, match=rf"\(0028,300\d\) LUT D\w+ is .*{words}"):
            read([0, 1], ModalityLUTSequence=modality_lut(descriptor, data))


class TestPadding:
    def test_single_value(self):
        film = read_radiograph(files.dicom(np.array([[7, 100, 200]], np.uint16), PixelPaddingValue=7))
        assert film.padding.tolist() == [[True, False, False]]
        assert film.pixels.tolist() == [[0, 100, 200]]

    def test_is_black_whatever_the_polarity(self):
        tags = {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 0, "BitsStored": 12}
        assert read([0, 100, 4095], **tags) == [0, 3995, 0]

    @pytest.mark.parametrize(("value", "limit"), [(5, 8), (8, 5)])
    def test_range_in_either_order(self, value, limit):
        data = files.dicom(
            np.array([[4, 5, 6, 8, 9]], np.uint16), PixelPaddingValue=value, PixelPaddingRangeLimit=limit
        )
        assert read_radiograph(data).padding.tolist() == [[False, True, True, True, False]]

    @pytest.mark.parametrize("vr", ["SS", "US"])
    def test_negative_value_in_either_vr(self, vr):
        dataset = files.make_dataset(np.array([[-2000, -1999, 5]], np.int16))
        dataset.add_new("PixelPaddingValue", vr, -2000 if vr == "SS" else 63536)
        assert read_radiograph(files.to_bytes(dataset)).padding.tolist() == [[True, False, False]]

    def test_value_beyond_the_stored_bits_marks_whole_words(self):
        film = read_radiograph(
            files.dicom(np.array([[4095, 65535, 3]], np.uint16), BitsStored=12, PixelPaddingValue=65535)
        )
        assert film.padding.tolist() == [[False, True, False]]
        assert film.pixels.tolist() == [[4095, 0, 3]]

    def test_value_that_no_pixel_has(self):
        assert read_radiograph(files.dicom(files.film(), PixelPaddingValue=60000)).padding is None

    def test_does_not_move_the_percentiles(self):
        pixels = files.film() + 1
        padded = np.pad(pixels, 10)
        plain = normalize_percentiles(read_radiograph(files.dicom(pixels)).pixels)
        film = read_radiograph(files.dicom(padded, PixelPaddingValue=0))
        assert np.array_equal(normalize_percentiles(film.pixels, padding=film.padding)[10:-10, 10:-10], plain)

    def test_nothing_else_is_an_error(self):
        with pytest.raises(RadiographError, match="all pixels are padding"):
            read([3, 3], PixelPaddingValue=3)


class TestPalette:
    @staticmethod
    def tags(entries, first=0, bits=16):
        tags = {"PhotometricInterpretation": "PALETTE COLOR"}
        for i, colour in enumerate(("Red", "Green", "Blue")):
            tags[f"{colour}PaletteColorLookupTableDescriptor"] = [len(entries), first, bits]
            tags[f"{colour}PaletteColorLookupTableData"] = np.array(entries, "<u2")[:, i].tobytes()
        return tags

    def test_becomes_luma(self):
        tags = self.tags([(0, 0, 0), (65535, 0, 0), (0, 65535, 0), (0, 0, 65535), (65535, 65535, 65535)])
        # 0.299, 0.587, 0.114 of 65535
        assert read([0, 1, 2, 3, 4, 9], np.uint8, **tags) == [0, 19595, 38469, 7471, 65535, 65535]

    def test_first_value_mapped(self):
        assert read([9, 10, 11], np.uint8, **self.tags([(5, 5, 5), (600, 600, 600)], first=10)) == [5, 5, 600]

    def test_segmented_palette_is_refused(self):
        tags = self.tags([(0, 0, 0), (1, 1, 1)])
        tags["SegmentedRedPaletteColorLookupTableData"] = tags.pop("RedPaletteColorLookupTableData")
        with pytest.raises(RadiographError, match=r"Segmented Red Palette Color.*valid: a plain table"):
            read([0, 1], np.uint8, **tags)

    def test_absent_palette_is_refused(self):
        with pytest.raises(RadiographError, match=r"\(0028,1101\) Red Palette Color.*is None"):
            read([0, 1], np.uint8, PhotometricInterpretation="PALETTE COLOR")


def test_eight_bit_pixels_in_words_of_big_endian_files():
    """8-bit pixels in OW are swapped in pairs there (PS3.5 8.1.1)."""
    pixels = files.film(bits=8)
    dataset = files.make_dataset(pixels)
    dataset.PixelData = np.frombuffer(dataset.PixelData, "u2").byteswap().tobytes()
    dataset["PixelData"].VR = "OW"
    data = files.to_bytes(dataset, files.NATIVE["explicit big endian"])
    assert np.array_equal(read_radiograph(data).pixels, pixels)
