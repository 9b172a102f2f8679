"""Millimetres, side, view and identity."""

import dicom_files as files
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr import codes

from kneel.imaging import read_radiograph
from kneel.imaging.tags import is_frontal, is_pa


def read(**tags):
    return read_radiograph(files.make_dataset(files.film(), **tags))


def coded(value, scheme, meaning="meaning"):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def region(*sides):
    item = coded("72696002", "SCT", "Knee")
    item.AnatomicRegionModifierSequence = Sequence([coded(*side) for side in sides])
    return Sequence([item])


PIXEL, OTHER = [0.2, 0.3], [0.14, 0.15]


@pytest.mark.parametrize(
    ("tags", "spacing", "kind"),
    [
        # the table of read_spacing, row by row
        ({"PixelSpacing": PIXEL, "PixelSpacingCalibrationType": "FIDUCIAL"}, (0.2, 0.3), "calibrated"),
        (
            {"PixelSpacing": PIXEL, "PixelSpacingCalibrationType": "GEOMETRY", "ImagerPixelSpacing": PIXEL},
            (0.2, 0.3),
            "calibrated",
        ),
        ({"PixelSpacing": PIXEL, "ImagerPixelSpacing": OTHER}, (0.2, 0.3), "calibrated"),
        ({"PixelSpacing": PIXEL, "NominalScannedPixelSpacing": OTHER}, (0.2, 0.3), "calibrated"),
        ({"PixelSpacing": [0.2, 0.3], "ImagerPixelSpacing": [0.2, 0.31]}, (0.2, 0.3), "calibrated"),
        ({"PixelSpacing": PIXEL, "ImagerPixelSpacing": PIXEL}, (0.2, 0.3), "detector"),
        ({"PixelSpacing": [0.20001, 0.3], "ImagerPixelSpacing": PIXEL}, (0.2, 0.3), "detector"),
        ({"PixelSpacing": PIXEL}, (0.2, 0.3), "detector"),
        ({"ImagerPixelSpacing": OTHER}, (0.14, 0.15), "detector"),
        ({"NominalScannedPixelSpacing": OTHER}, (0.14, 0.15), "detector"),
        ({"ImagerPixelSpacing": OTHER, "PixelSpacingCalibrationType": "FIDUCIAL"}, (0.14, 0.15), "detector"),
        ({}, None, "none"),
        ({"PixelSpacingCalibrationType": "FIDUCIAL"}, None, "none"),
    ],
)
def test_spacing(tags, spacing, kind):
    film = read(**tags)
    assert film.spacing_mm == spacing
    assert film.spacing_kind == kind


@pytest.mark.parametrize(
    ("tags", "spacing", "kind", "ignored"),
    [
        ({"ImagerPixelSpacing": [0.22, 0.33]}, (0.2, 0.3), "demagnified", False),
        ({"ImagerPixelSpacing": [0.22, 0.33], "PixelSpacing": [0.22, 0.33]}, (0.2, 0.3), "demagnified", False),
        ({"PixelSpacing": [0.22, 0.33]}, (0.22, 0.33), "detector", True),  # may have been divided already
        ({"PixelSpacing": [0.2, 0.3], "ImagerPixelSpacing": [0.22, 0.33]}, (0.2, 0.3), "calibrated", False),
    ],
)
def test_magnification_divides_the_detector_spacing(tags, spacing, kind, ignored):
    film = read(EstimatedRadiographicMagnificationFactor=1.1, **tags)
    assert film.spacing_mm == pytest.approx(spacing)
    assert (film.spacing_kind, film.magnification_ignored) == (kind, ignored)
    assert film.roi_spacing_mm == film.detector_mm == (0.22, 0.33)


def test_a_calibrated_spacing_alone_says_nothing_of_the_detector():
    film = read(PixelSpacing=PIXEL, PixelSpacingCalibrationType="FIDUCIAL")
    assert (film.detector_mm, film.roi_spacing_mm) == (None, (0.2, 0.3))


@pytest.mark.parametrize(
    ("factor", "ignored"),
    [("0", True), ("-1.1", True), ("0.9", True), ("110", True), (["1.1", "1.1"], True), ("", False), ("1", False)],
)
def test_impossible_magnification_is_passed_over_and_told(factor, ignored):
    film = read(ImagerPixelSpacing=OTHER, EstimatedRadiographicMagnificationFactor=factor)
    assert (film.spacing_mm, film.spacing_kind) == ((0.14, 0.15), "detector")
    assert film.magnification_ignored == ignored


def test_magnification_that_is_no_number_is_told():
    data = files.dicom(files.film(), ImagerPixelSpacing=OTHER, EstimatedRadiographicMagnificationFactor="1.123456")
    assert data.count(b"1.123456") == 1
    film = read_radiograph(data.replace(b"1.123456", b"about 1 "))
    assert (film.spacing_mm, film.magnification_ignored) == ((0.14, 0.15), True)


def test_no_magnification_is_missed_where_the_millimetres_are_given():
    data = files.dicom(files.film(), ImagerPixelSpacing=OTHER, EstimatedRadiographicMagnificationFactor="110")
    assert not read_radiograph(data, spacing_mm=0.2).magnification_ignored


def raw_spacing(text, keyword="PixelSpacing"):
    """A file with any text as spacing: pydicom would not write it."""
    data = files.dicom(files.film(), **{keyword: [9.123456, 8.123456]})
    good = b"9.123456\\8.123456 "
    assert data.count(good) == 1
    return data.replace(good, text.ljust(len(good)))


@pytest.mark.parametrize(
    "text",
    [
        b"0\\0",
        b"-0.1\\-0.1",
        b"0.14\\0",
        b"nan\\nan",
        b"inf\\inf",
        b"abc\\def",
        b"0.14",
        b"1\\1\\1",
        b"143\\143",
        b"\xff",
    ],
)
@pytest.mark.parametrize("keyword", ["PixelSpacing", "ImagerPixelSpacing"])
def test_garbage_spacing_is_absent(text, keyword):
    film = read_radiograph(raw_spacing(text, keyword))
    assert film.spacing_mm is None
    assert film.spacing_kind == "none"


def test_good_raw_spacing_is_read():
    assert read_radiograph(raw_spacing(b"0.14\\0.15")).spacing_mm == (0.14, 0.15)


@pytest.mark.parametrize(("given", "spacing"), [(0.2, (0.2, 0.2)), ((0.2, 0.3), (0.2, 0.3)), ([1, 2], (1.0, 2.0))])
def test_given_spacing_wins(given, spacing):
    data = files.dicom(files.film(), PixelSpacing=PIXEL, PixelSpacingCalibrationType="FIDUCIAL")
    film = read_radiograph(data, spacing_mm=given)
    assert film.spacing_mm == spacing
    assert film.spacing_kind == "given"


@pytest.mark.parametrize("given", [0, -1, float("nan"), float("inf"), 200, (0.1,), (0.1, 0.1, 0.1), (0.1, 0)])
def test_impossible_given_spacing_is_refused(given):
    with pytest.raises(ValueError, match="spacing_mm is"):
        read_radiograph(files.dicom(files.film()), spacing_mm=given)


@pytest.mark.parametrize(
    ("tags", "side"),
    [
        ({"ImageLaterality": "L"}, "L"),
        ({"ImageLaterality": "R", "Laterality": "L"}, "R"),  # the image's own tag comes first
        ({"ImageLaterality": "B"}, "B"),
        ({"ImageLaterality": "U", "Laterality": "L"}, "L"),
        ({"Laterality": "R"}, "R"),
        ({"Laterality": ""}, None),
        ({"ImageLaterality": "LEFT"}, None),
        ({}, None),
        ({"AnatomicRegionSequence": region(("7771000", "SCT"))}, "L"),
        ({"AnatomicRegionSequence": region(("G-A100", "SRT"))}, "R"),
        ({"AnatomicRegionSequence": region(("G-A102", "SNM3"))}, "B"),
        ({"AnatomicRegionSequence": region(("7771000", "SCT"), ("24028007", "SCT"))}, None),  # ambiguous
        ({"AnatomicRegionSequence": region(("7771000", "OTHER"))}, None),
        ({"Laterality": "L", "AnatomicRegionSequence": region(("G-A100", "SRT"))}, "L"),
    ],
)
def test_laterality(tags, side):
    film = read(**tags)
    assert film.laterality == side
    assert film.side_contradicted == (tags == {"ImageLaterality": "R", "Laterality": "L"})


@pytest.mark.parametrize(
    ("tags", "view"),
    [
        ({"ViewPosition": "AP"}, "AP"),
        ({"ViewPosition": "LL"}, "LL"),
        ({"ViewPosition": "", "ViewCodeSequence": Sequence([coded(codes.SCT.AnteroPosterior.value, "SCT")])}, "AP"),
        ({"ViewPosition": "", "ViewCodeSequence": Sequence([coded(codes.SCT.PosteroAnterior.value, "SCT")])}, "PA"),
        ({"ViewPosition": "", "ViewCodeSequence": Sequence([coded("272479007", "SCT")])}, "PA"),
        ({"ViewPosition": "", "ViewCodeSequence": Sequence([coded("R-10206", "SRT")])}, "AP"),
        ({"ViewPosition": "", "ViewCodeSequence": Sequence([coded("399067008", "SCT", "lateral")])}, "lateral"),
        ({"ViewPosition": ""}, None),
    ],
)
def test_view(tags, view):
    film = read(**tags)
    assert (film.view, film.other_view) == (view, None)


@pytest.mark.parametrize(
    ("position", "code", "other"),
    [
        ("AP", coded("399067008", "SCT", "lateral"), "lateral"),
        ("LATERAL", coded("R-10206", "SRT", "x"), "AP"),
        ("AP", coded("272479007", "SCT"), None),  # AP or PA: both are frontal
        ("LL", coded("399173006", "SCT", "left lateral"), None),
        ("PA", coded("", "SCT", ""), None),
    ],
)
def test_views_that_contradict_each_other(position, code, other):
    film = read(ViewPosition=position, ViewCodeSequence=Sequence([code]))
    assert (film.view, film.other_view) == (position, other)


@pytest.mark.parametrize(
    ("orientation", "columns", "rows", "on_side"),
    [
        (["L", "F"], False, False, None),
        (["R", "F"], True, False, None),
        (["RA", "F"], True, False, None),
        (["A", "F"], False, False, None),
        ("", False, False, None),
        ("R", True, False, None),
        (["L", "H"], False, True, None),
        (["R", "H"], True, True, None),
        (["L", "HP"], False, True, None),
        (["H", "L"], False, False, "H\\L"),
        (["F", "R"], False, False, "F\\R"),
        ("F", False, False, "F"),
    ],
)
def test_orientation(orientation, columns, rows, on_side):
    film = read(PatientOrientation=orientation)
    assert (film.columns_reversed, film.rows_reversed, film.on_side) == (columns, rows, on_side)


@pytest.mark.parametrize(
    "view", ["PA", "PA_FLEXION", "KNEE_PA", "PA10", "pa flexion", "AP_STANDING", "ANTERO-POSTERIOR"]
)
def test_frontal_views(view):
    assert is_frontal(view)
    assert is_pa(view) == ("PA" in view.upper())


@pytest.mark.parametrize("view", ["PATELLA", "LATERAL", "SKYLINE", "APEX", "SPA", ""])
def test_other_views(view):
    assert not is_frontal(view)
    assert not is_pa(view)


def test_identity():
    film = read()
    assert (film.sop_class_uid, film.sop_instance_uid) == (files.DX, "1.2.3.4")
    assert (film.study_instance_uid, film.series_instance_uid) == ("1.2.3.5", "1.2.3.6")
    assert (film.modality, film.patient_id) == ("DX", "P 17")


def test_empty_identity_is_none():
    film = read(PatientID="", StudyInstanceUID=None, Modality=None)
    assert (film.patient_id, film.study_instance_uid, film.modality) == (None, None, None)


def test_strange_character_set_is_no_obstacle():
    data = files.dicom(files.film(), SpecificCharacterSet="ISO_IR 100", PatientID="17")
    assert read_radiograph(data.replace(b"ISO_IR 100", b"ISO_IR 999")).patient_id == "17"


def test_pixels_are_as_stored_whatever_the_side():
    pixels = files.film()
    for tags in ({"ImageLaterality": "L"}, {"PatientOrientation": ["R", "F"]}, {"PatientOrientation": ["R", "H"]}):
        assert np.array_equal(read(**tags).pixels, pixels)
