"""Where films come from, and which are refused with what words."""

import io
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zlib

import dicom_files as files
import numpy as np
import pytest
from pydicom import dcmwrite, uid
from pydicom.dataset import Dataset

from kneel.imaging import RadiographError, normalize_percentiles, read_radiograph


def refusal(source, **options):
    """The words with which a source is refused."""
    with pytest.raises(RadiographError) as caught:
        read_radiograph(source, **options)
    return str(caught.value)


class TestSources:
    def test_path_with_any_name(self, tmp_path):
        pixels = files.film()
        for name in ("film", "film.dcm", "IM 000017.xyz", "film.png"):
            path = tmp_path / name
            path.write_bytes(files.dicom(pixels))
            for source in (path, str(path)):
                film = read_radiograph(source)
                assert np.array_equal(film.pixels, pixels)
                assert film.source == str(path)

    def test_bytes_and_files(self, tmp_path):
        pixels, data = files.film(), files.dicom(files.film())
        path = tmp_path / "film"
        path.write_bytes(b"before" + data)
        with path.open("rb") as file:
            file.seek(6)
            for source in (data, bytearray(data), memoryview(data), io.BytesIO(data), file):
                assert np.array_equal(read_radiograph(source).pixels, pixels)
            assert not file.closed

    def test_dataset_in_memory(self):
        dataset = files.make_dataset(files.film())
        del dataset.file_meta
        before = dataset.to_json()
        assert np.array_equal(read_radiograph(dataset).pixels, files.film())
        assert dataset.to_json() == before

    @pytest.mark.parametrize("name", files.NATIVE)
    def test_without_preamble(self, name):
        data = files.dicom(files.film(), files.NATIVE[name])
        assert np.array_equal(read_radiograph(data[132:]).pixels, files.film())

    def test_without_preamble_and_length_of_the_meta_group(self):
        stream = io.BytesIO()
        dcmwrite(stream, files.make_dataset(files.film()), enforce_file_format=False)
        assert stream.getvalue().startswith(b"\x02\x00\x02\x00")
        assert np.array_equal(read_radiograph(stream.getvalue()).pixels, files.film())

    @pytest.mark.parametrize("name", ["implicit little endian", "explicit little endian", "explicit big endian"])
    def test_without_file_meta_group(self, name):
        syntax = files.NATIVE[name]
        data = files.dicom(files.film(), syntax)
        first = b"\x00\x08\x00\x16" if syntax == uid.ExplicitVRBigEndian else b"\x08\x00\x16\x00"
        assert np.array_equal(read_radiograph(data[data.index(first) :]).pixels, files.film())

    def test_preamble_that_is_the_head_of_a_tiff(self):
        data = files.dicom(files.film())
        assert np.array_equal(read_radiograph(b"II*\0" + data[4:]).pixels, files.film())

    def test_pixels_are_read_only_and_not_copied(self):
        data = files.dicom(files.film())
        pixels = read_radiograph(data).pixels
        assert not pixels.flags.writeable
        assert np.shares_memory(pixels, np.frombuffer(data, np.uint8))

    @pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
    def test_nothing_that_the_caller_holds_is_changed(self, photometric):
        tags = {"PhotometricInterpretation": photometric, "PixelPaddingValue": 0}
        dataset = files.make_dataset(files.film(), **tags)
        data = files.dicom(files.film(), **tags)
        buffer = bytearray(data)
        for source in (data, buffer, memoryview(buffer), dataset):
            read_radiograph(source)
        assert buffer == data
        assert dataset.PixelData == files.film().tobytes()

    @pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
    @pytest.mark.parametrize("bits", [8, 12])
    def test_path_and_bytes_give_the_same(self, photometric, bits, tmp_path):
        data = files.dicom(files.film(bits=bits), PhotometricInterpretation=photometric, PixelPaddingValue=0)
        (tmp_path / "film").write_bytes(data)
        first, second = read_radiograph(data), read_radiograph(tmp_path / "film")
        assert np.array_equal(first.pixels, second.pixels)
        assert np.array_equal(first.padding, second.padding)

    def test_odd_offsets_in_the_file(self):
        """Pixels that do not begin on a word boundary."""
        data = files.dicom(files.film(), PatientID="ab")
        at = data.index(b"\x10\x00\x20\x00LO\x02\x00ab")
        odd = data[:at] + b"\x10\x00\x20\x00LO\x03\x00abc" + data[at + 10 :]
        assert np.array_equal(read_radiograph(odd).pixels, files.film())

    def test_wrong_type(self):
        with pytest.raises(TypeError, match="source is int"):
            read_radiograph(3)


class TestFrames:
    def test_frame_is_chosen(self):
        frames = np.stack([files.film(seed=s) for s in range(3)])
        for i in range(3):
            assert np.array_equal(read_radiograph(files.dicom(frames, NumberOfFrames=3), frame=i).pixels, frames[i])

    def test_several_frames_are_refused_unless_one_is_chosen(self):
        data = files.dicom(np.stack([files.film()] * 3), NumberOfFrames=3)
        said = refusal(data)
        assert "the image has 3 frames; valid: one film a file" in said
        assert said.endswith("or read it in Python with frame=0..2")

    @pytest.mark.parametrize("frame", [-1, 3, 10**9])
    def test_frame_out_of_range(self, frame):
        data = files.dicom(np.stack([files.film()] * 3), NumberOfFrames=3)
        assert f"frame={frame} is not there; valid: 0..2" in refusal(data, frame=frame)

    def test_single_frame_may_be_named(self):
        assert np.array_equal(read_radiograph(files.dicom(files.film()), frame=0).pixels, files.film())
        assert "frame=1 is not there; valid: 0..0" in refusal(files.dicom(files.film()), frame=1)

    @pytest.mark.parametrize("frame", [True, 1.0, "1"])
    def test_frame_must_be_an_integer(self, frame):
        with pytest.raises(TypeError, match="frame is"):
            read_radiograph(files.dicom(files.film()), frame=frame)


class TestNotAFilm:
    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (b"", "the file is empty"),
            (b"PK\x03\x04 a zip file", "not an image .*PK.*valid: DICOM, PNG, JPEG, TIFF"),
            (b"subject_id,side,kl\n1,L,2\n", "not an image"),
            (b"\0" * 1000, "not an image"),
            (b"\x00" * 128 + b"DICM", "no .7FE0,0010. Pixel Data"),
        ],
    )
    def test_other_files(self, data, words, tmp_path):
        path = tmp_path / "file.dcm"
        path.write_bytes(data)
        with pytest.raises(RadiographError, match=rf"^{path}: .*{words}"):
            read_radiograph(path)

    def test_missing_file(self, tmp_path):
        assert "missing.dcm: opening the file failed: FileNotFoundError" in refusal(tmp_path / "missing.dcm")

    def test_folder(self, tmp_path):
        assert "folder or device" in refusal(tmp_path)

    def test_folder_that_is_shut(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "access", lambda *_: False)  # root may enter all
        assert "folder that cannot be opened" in refusal(tmp_path)

    def test_pipe_does_not_hang(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        assert "folder or device" in refusal(tmp_path / "pipe")

    def test_impossible_path(self):
        assert "opening the file failed" in refusal("a\0b")

    def test_text_file(self):
        assert "binary mode" in refusal(io.StringIO("text"))

    @pytest.mark.parametrize(
        ("class_uid", "name"),
        [
            (uid.BasicTextSRStorage, "Basic Text SR Storage"),
            (uid.EncapsulatedPDFStorage, "Encapsulated PDF Storage"),
            (uid.MediaStorageDirectoryStorage, "Media Storage Directory Storage"),
            (uid.GrayscaleSoftcopyPresentationStateStorage, "Grayscale Softcopy Presentation State Storage"),
        ],
    )
    def test_dicom_objects_without_pixels(self, class_uid, name):
        dataset = files.make_dataset(files.film())
        del dataset.PixelData
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = class_uid
        assert f"class '{name}' has no (7FE0,0010) Pixel Data" in refusal(files.to_bytes(dataset))
        assert f"class '{name}' has no (7FE0,0010) Pixel Data" in refusal(dataset)

    def test_float_pixels(self):
        dataset = files.make_dataset(files.film())
        del dataset.PixelData
        dataset.FloatPixelData = np.zeros((40, 56), np.float32).tobytes()
        words = "has (7FE0,0008) Float Pixel Data; valid: (7FE0,0010) Pixel Data with integers"
        assert words in refusal(files.to_bytes(dataset))
        assert words in refusal(dataset)

    def test_constant_pixels(self):
        assert "all pixels are 7; valid: at least two grey levels" in refusal(
            files.dicom(np.full((4, 4), 7, np.uint16))
        )


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"Rows": 0}, "(0028,0010) Rows is 0; valid: 1..65535"),
        ({"Columns": 0}, "(0028,0011) Columns is 0; valid: 1..65535"),
        ({"Rows": None}, "(0028,0010) Rows is None; valid: an integer"),
        ({"Rows": 41}, "truncated: (7FE0,0010) Pixel Data is 4480 bytes long; valid: 4592 bytes"),
        ({"Rows": 39}, "(7FE0,0010) Pixel Data is 4480 bytes long; valid: 4368 bytes"),
        ({"Columns": 55}, "(7FE0,0010) Pixel Data is 4480 bytes long; valid: 4400 bytes"),
        ({"Rows": 20000, "Columns": 5001}, "is 20000 x 5001; valid: at most 100 megapixels: shrink it"),
        ({"SamplesPerPixel": 4}, "(0028,0002) Samples per Pixel is 4; valid: 1 or 3"),
        ({"SamplesPerPixel": 3}, "(0028,0004) Photometric Interpretation is 'MONOCHROME2'; valid: RGB or YBR_FULL"),
        ({"PhotometricInterpretation": None}, "(0028,0004) Photometric Interpretation is ''; valid: MONOCHROME1 or"),
        ({"PhotometricInterpretation": "HSV"}, "(0028,0004) Photometric Interpretation is 'HSV'"),
        ({"BitsAllocated": 12}, "(0028,0100) Bits Allocated is 12; valid: 8 or 16 or 32"),
        ({"BitsAllocated": 1, "BitsStored": 1}, "(0028,0100) Bits Allocated is 1; valid: 8 or 16 or 32"),
        ({"BitsStored": 17, "HighBit": 16}, "(0028,0101) Bits Stored is 17; valid: 1..16"),
        ({"BitsStored": 12, "HighBit": 3}, "(0028,0102) High Bit is 3; valid: 11..15"),
        ({"PixelRepresentation": 2}, "(0028,0103) Pixel Representation is 2; valid: 0 or 1"),
        ({"PixelRepresentation": None}, "(0028,0103) Pixel Representation is None; valid: an integer"),
        ({"PixelData": b""}, "truncated: (7FE0,0010) Pixel Data is 0 bytes long"),
    ],
)
def test_impossible_descriptions_are_named(tags, words):
    dataset = files.make_dataset(files.film(), **tags)
    assert words in refusal(dataset)
    assert words in refusal(files.to_bytes(dataset))


def test_padding_shorter_than_a_row_is_let_pass():
    data = files.make_dataset(files.film())
    data.PixelData += b"\0" * 78
    assert np.array_equal(read_radiograph(data).pixels, files.film())


def test_megapixels_are_a_parameter():
    data = files.dicom(files.film(rows=1000, columns=1100))
    assert "at most 1 megapixels" in refusal(data, max_megapixels=1)
    assert read_radiograph(data, max_megapixels=1.2).pixels.shape == (1000, 1100)


def test_native_syntax_with_compressed_pixels_and_the_reverse():
    data = files.LOSSLESS["RLE"](files.film())
    assert "does not go with the transfer syntax" in refusal(
        data.replace(uid.RLELossless.encode() + b"\0", uid.ExplicitVRLittleEndian.encode() + b"\0")
    )
    dataset = files.make_dataset(files.film())
    dataset.file_meta.TransferSyntaxUID = uid.RLELossless
    assert "among its fragments" in refusal(dataset)


def test_error_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(RadiographError("Rows is 0")))
    assert str(error) == "Rows is 0"


class TestLimits:
    """What a hostile file may cost."""

    @staticmethod
    def before_pixels(extra):
        data = files.dicom(files.film())
        at = data.index(b"\xe0\x7f\x10\x00OW")
        return data[:at] + extra + data[at:]

    def test_length_beyond_the_file(self):
        extra = struct.pack("<HH2sHL", 0x0029, 0x1001, b"OB", 0, 0xFFFFFFF0)
        tracemalloc.start()
        try:
            assert "no (7FE0,0010) Pixel Data" in refusal(self.before_pixels(extra))
            assert tracemalloc.get_traced_memory()[1] < 2e6
        finally:
            tracemalloc.stop()

    def test_nested_sequences(self):
        level = struct.pack("<HH2sHL", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF) + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
        assert "reading the header failed" in refusal(self.before_pixels(level * 20000))

    def test_endless_items(self):
        items = b"\xfe\xff\x00\xe0\0\0\0\0" * 200_000
        sequence = struct.pack("<HH2sHL", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF) + items
        assert "too many elements or sequence items" in refusal(self.before_pixels(sequence))

    def test_long_sequence_that_would_be_looked_into(self):
        items = b"\xfe\xff\x00\xe0\0\0\0\0" * 200_000
        sequence = struct.pack("<HH2sHL", 0x0028, 0x3000, b"SQ", 0, len(items)) + items
        assert "(0028,3000) Modality LUT Sequence is '1600000 bytes long'" in refusal(self.before_pixels(sequence))

    def test_deflate_bomb(self):
        head = files.dicom(files.film(), uid.DeflatedExplicitVRLittleEndian)
        start = head.index(uid.DeflatedExplicitVRLittleEndian.encode())
        end = start + len(uid.DeflatedExplicitVRLittleEndian)
        engine = zlib.compressobj(9, wbits=-15)
        bomb = engine.compress(bytes(60_000_000)) + engine.flush()
        data = head[: end + end % 2] + bomb
        tracemalloc.start()
        try:
            assert "inflates to more than" in refusal(data, max_megapixels=1)
            assert tracemalloc.get_traced_memory()[1] < 60e6
        finally:
            tracemalloc.stop()

    def test_declared_size_is_checked_before_decoding(self):
        dataset = files.make_dataset(files.film(), Rows=65535, Columns=65535)
        data = files.wrap(dataset, [files.RAMP_HTJ2K], uid.HTJ2KLossless)
        assert "is 65535 x 65535; valid: at most 100 megapixels" in refusal(data)

    def test_compressed_size_is_checked_before_decoding(self):
        code = bytearray(files.RAMP_HTJ2K)
        code[8:16] = code[24:32] = struct.pack(">LL", 65535, 65535)  # size of the image and of its one tile
        data = files.wrap(files.make_dataset(files.RAMP), [bytes(code)], uid.HTJ2KLossless)
        assert "the compressed image is 65535 x 65535 x 1; valid: 24 x 32 x 1" in refusal(data)

    def test_jp2_box_of_no_length(self):
        """A box of length 0 keeps a reader that trusts it for ever."""
        code = b"\x00\x00\x00\x0cjP  \x0d\x0a\x87\x0a" + bytes(100) + files.RAMP_HTJ2K
        data = files.wrap(files.make_dataset(files.RAMP), [code], uid.HTJ2KLossless)
        assert np.array_equal(read_radiograph(data).pixels, files.RAMP)


def test_memory_of_a_film_stays_within_four_times_its_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 4096, (2494, 2048), dtype=np.uint16)
    padded = {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 0}  # all steps there are
    path = tmp_path / "film"
    path.write_bytes(files.dicom(pixels, **padded))
    normalize_percentiles(read_radiograph(path).pixels)  # what is loaded once
    tracemalloc.start()
    try:
        film = read_radiograph(path)
        normalize_percentiles(film.pixels, padding=film.padding)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * pixels.nbytes


def test_reading_leaves_warnings_as_they_were():
    before = list(warnings.filters)
    read_radiograph(files.dicom(files.film()))
    assert warnings.filters == before


def test_import_is_light():
    """No torch, and no pydicom warning on the way."""
    code = "import sys, kneel.imaging; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], check=False).returncode == 0


def test_empty_dataset():
    assert "the DICOM object has no (7FE0,0010) Pixel Data" in refusal(Dataset())
