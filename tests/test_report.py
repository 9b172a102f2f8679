import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from oracle import FakeGrader, FakeLocalizer, film, place_knee

from deepknee.draw import (
    BARS_PX,
    FEMUR_COLOR,
    PICTURE_PX,
    TIBIA_COLOR,
    attention_picture,
    encode_png,
    landmark_picture,
    view_frame,
)
from deepknee.html import FLAG_WORDS, flag_words, render
from deepknee.pipeline import read_knees
from deepknee.report import RESULT_COLUMNS, knee_record, result_cells, result_values, to_csv, to_json

SPACING = (0.4, 0.5)
NASTY = '<script>alert("x")</script>&amp; \u202ename.dcm'


@pytest.fixture(scope="module")
def reading():
    knees = [
        place_knee("R", (120.0, 160.0), SPACING),
        place_knee("L", (280.0, 150.0), SPACING, flags=("low_confidence",)),
    ]
    return read_knees(film(spacing_mm=SPACING, patient_id="P1"), FakeLocalizer(knees), FakeGrader())


def record(reading, index=0, file="film.dcm"):
    return knee_record(file, reading.radiograph, reading.knees[index], {"id": "w"})


def row_of(held):
    return result_cells(result_values(held))


def test_columns_are_those_promised():
    points = ",".join(f"x{number},y{number}" for number in range(16))
    measures = "jsw_medial,jsw_lateral,jlca_deg,tibial_width,femoral_width,length_unit"
    wanted = f"file,side,kl,p0,p1,p2,p3,p4,grade_set,abstain,spacing_mm,spacing_kind,{points},{measures},flags"
    assert ",".join(RESULT_COLUMNS) == wanted


def test_row_holds_the_reading(reading):
    right, left = (dict(zip(RESULT_COLUMNS, row_of(record(reading, i)), strict=True)) for i in (0, 1))
    assert (right["side"], right["kl"], right["p2"], right["flags"]) == ("R", "2", "0.5000", "")
    assert (right["spacing_mm"], right["spacing_kind"]) == ("0.4x0.5", "detector")
    assert (right["x0"], right["y0"]) == ("44.00", "175.00")  # 38 mm / 0.5 left and 6 mm / 0.4 below the centre
    width = np.hypot(*((reading.knees[0].landmarks[8] - reading.knees[0].landmarks[0]) * (0.5, 0.4)))
    assert (right["tibial_width"], right["length_unit"]) == (f"{width:.3f}", "mm")
    assert (left["x0"], left["y0"], left["flags"]) == ("356.00", "165.00", "low_confidence")


def sure_of(reading, index, grade_set, *, abstain):
    knee = replace(reading.knees[index], grade_set=grade_set, coverage=0.9, abstain=abstain)
    return replace(reading, knees=(*reading.knees[:index], knee, *reading.knees[index + 1 :]))


@pytest.mark.parametrize(
    ("grade_set", "abstain", "cells"), [((2,), False, ("2", "no")), ((1, 2, 3), True, ("1;2;3", "yes"))]
)
def test_row_holds_the_set(reading, grade_set, abstain, cells):
    held = record(sure_of(reading, 0, grade_set, abstain=abstain))
    row = dict(zip(RESULT_COLUMNS, row_of(held), strict=True))
    assert (row["grade_set"], row["abstain"]) == cells
    assert (held["grade_set"], held["coverage"], held["abstain"]) == (list(grade_set), 0.9, abstain)


def test_without_a_threshold_there_is_no_set(reading):
    held = record(reading)
    row = dict(zip(RESULT_COLUMNS, row_of(held), strict=True))
    assert (row["grade_set"], row["abstain"]) == ("", "")
    assert (held["grade_set"], held["coverage"], held["abstain"]) == (None, None, None)
    assert b"Grades at" not in page(reading)


def test_no_spacing_is_an_empty_cell(reading):
    knee = replace(reading.knees[0], spacing_mm=None, spacing_kind="none")
    row = dict(zip(RESULT_COLUMNS, row_of(knee_record("f", reading.radiograph, knee, {})), strict=True))
    assert (row["spacing_mm"], row["spacing_kind"]) == ("", "none")


def test_json_round_trip_is_exact(reading):
    knee = reading.knees[1]
    read = json.loads(to_json(record(reading, 1, "f\udcff\n.dcm")))
    assert read["file"] == "f\udcff\n.dcm"
    assert np.array_equal(read["landmarks"], knee.landmarks)
    assert np.array_equal(read["probabilities"], knee.probabilities)
    assert read["roi"] == {
        "center": list(knee.frame.center),
        "film_px_per_roi_px": list(knee.frame.scale),
        "size": [60, 60],
        "mirrored": True,
        "upside_down": False,
    }
    assert (read["film"]["rows"], read["film"]["columns"], read["film"]["patient_id"]) == (300, 400, "P1")
    assert read["notice"] == "Research use only. Not a medical device."


def test_json_refuses_nan():
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"x": float("nan")})


@pytest.mark.parametrize("file", ['a,"b".dcm', "line\nbreak", "ü☃.dcm", " lead", "=1+1"])
def test_csv_keeps_odd_names(file):
    (row,) = list(csv.reader(io.StringIO(to_csv(["file"], [[file]]).decode("utf-8"))))[1:]
    assert row == [file]


def test_csv_of_a_name_that_is_no_text():
    assert to_csv(["file"], [["\udcff.dcm"]]) == b"file\n\\udcff.dcm\n"


@pytest.mark.parametrize("index", [0, 1])
def test_picture_is_as_on_the_film(reading, index):
    """The film brightens to the right, in both knees: neither is mirrored."""
    picture = landmark_picture(reading.radiograph, reading.knees[index])
    assert picture.shape == (PICTURE_PX, PICTURE_PX, 3)
    assert picture[300, 40].mean() < picture[300, 300].mean()


@pytest.mark.parametrize("index", [0, 1])
def test_landmarks_are_drawn_where_they_are(reading, index):
    knee = reading.knees[index]
    picture = landmark_picture(reading.radiograph, knee)
    for bone, color in ((range(9), TIBIA_COLOR), (range(9, 16), FEMUR_COLOR)):
        for number in bone:
            # by hand: the view shows 120 mm around the joint centre
            offset_mm = (knee.landmarks[number] - knee.landmarks[4]) * SPACING[::-1]
            x, y = np.rint((PICTURE_PX - 1) / 2 + offset_mm * PICTURE_PX / 120).astype(int)
            assert picture[y, x].tolist() == list(color)


@pytest.mark.parametrize("index", [0, 1])
def test_attention_lies_where_it_is_on_the_film(reading, index):
    knee = reading.knees[index]
    spot = np.zeros_like(knee.attention)
    spot[20, 10] = 1
    marked, plain = (
        attention_picture(reading.radiograph, replace(knee, attention=map_))[:PICTURE_PX].astype(int)
        for map_ in (spot, np.zeros_like(spot))
    )
    hottest = np.unravel_index(np.abs(marked - plain).sum(2).argmax(), plain.shape[:2])
    wanted = view_frame(knee).to_roi(knee.frame.to_image([[10, 20]]))[0][::-1]
    np.testing.assert_allclose(hottest, wanted, atol=PICTURE_PX / 60)
    # lateral of the centre in the ROI is image right in the left knee
    assert (hottest[1] > PICTURE_PX / 2) == (knee.side == "L")


def test_no_attention_leaves_the_film_as_it_is(reading):
    knee = replace(reading.knees[0], attention=np.zeros((60, 60), np.float32))
    heat, plain = attention_picture(reading.radiograph, knee), landmark_picture(reading.radiograph, knee)
    assert np.array_equal(heat[60:160], plain[60:160])


def test_bars_have_the_length_of_the_probabilities(reading):
    picture = attention_picture(reading.radiograph, reading.knees[0])
    assert picture.shape == (PICTURE_PX + BARS_PX, PICTURE_PX, 3)
    below = picture[PICTURE_PX:].astype(int)
    full = PICTURE_PX - 128
    for grade, chance in enumerate(reading.knees[0].probabilities):
        row = below[20 + 27 * grade, 64 : PICTURE_PX - 64]
        assert (row[:, 0] < 120).sum() == pytest.approx(full * chance, abs=2)


def test_points_far_outside_are_drawn_nowhere(reading):
    def away(step):
        far = reading.knees[0].landmarks + [step, -step]
        return landmark_picture(reading.radiograph, replace(reading.knees[0], landmarks=far))

    assert np.array_equal(away(1e4), away(1e7))
    assert not np.array_equal(away(0), away(1e7))


def test_png_keeps_every_pixel(reading):
    picture = landmark_picture(reading.radiograph, reading.knees[0])
    decoded = cv2.imdecode(np.frombuffer(encode_png(picture), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(decoded[..., ::-1], picture)


class Page(HTMLParser):
    """Elements and text of a page."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.elements, self.words = [], []
        self.feed(data.decode("utf-8"))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attributes for found, attributes in self.elements if found == tag]


def page(reading, **more):
    knees = [(f"k{index}", record(reading, index, NASTY)) for index in (0, 1)]
    lists = {"failures": [(NASTY, "<b>bad</b>")], "skipped": [("notes.txt", "not a film")]} | more
    parts = render(
        knees, made_by={"id": "w"}, picture=lambda name, kind: b"jpeg", link=lambda n, k: f"{n}_{k}", **lists
    )
    return b"".join(parts)


def test_page_loads_nothing_and_runs_nothing(reading):
    found = Page(page(reading))
    tags = {tag for tag, _ in found.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed"}
    assert [image["src"] for image in found.all("img")] == ["data:image/jpeg;base64,anBlZw=="] * 4
    assert {link["href"] for link in found.all("a")} == {"#failures"} | {
        f"k{index}_{kind}" for index in (0, 1) for kind in ("landmarks", "attention")
    }
    (policy,) = (meta["content"] for meta in found.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
    assert not re.search(rb"https?://|url\(|@import", page(reading))


def test_page_shows_names_as_text(reading):
    found = Page(page(reading))
    assert found.words.count(NASTY) == 3  # two cards and the failure
    assert "<b>bad</b>" in found.words


def test_page_has_a_card_a_knee(reading):
    found = Page(page(reading))
    cards = [card["class"] for card in found.all("article")]
    assert cards == ["card k2", "card k2 remarked"]
    text = " ".join("".join(found.words).split())
    assert "Research use only. Not a medical device." in text
    assert "Pixel spacing 0.4 × 0.5 mm, at detector" in text
    assert FLAG_WORDS["low_confidence"] in text
    assert "films read1knees2films not read1other files1knees with remarks1" in text


def test_card_says_what_became_of_the_magnification(reading):
    divided = replace(reading.knees[0], spacing_kind="demagnified")
    ignored = replace(reading.knees[1], flags=("magnification_ignored",))
    found = Page(page(replace(reading, knees=(divided, ignored))))
    text = " ".join("".join(found.words).split())
    assert "Pixel spacing 0.4 × 0.5 mm, at detector, divided by the header's magnification factor" in text
    assert FLAG_WORDS["magnification_ignored"] in text
    row = dict(zip(RESULT_COLUMNS, row_of(record(replace(reading, knees=(divided,)))), strict=True))
    assert row["spacing_kind"] == "demagnified"


def test_card_shows_the_set_and_that_no_grade_is_given(reading):
    found = Page(page(sure_of(sure_of(reading, 0, (1, 2, 3), abstain=True), 1, (2, 3), abstain=False)))
    text = " ".join("".join(found.words).split())
    assert "Grades at 90 % KL 1 to 3" in text
    assert "Grades at 90 % KL 2 or 3" in text
    assert text.count("No single grade: it may be KL 1 to 3, of which KL 2 is the likeliest.") == 1
    assert "knees with remarks2" in text
    assert [card["class"] for card in found.all("article")] == ["card k2 remarked"] * 2


def test_page_without_knees_and_failures(reading):
    parts = render([], [], [], {}, lambda *_: b"", lambda *_: "")
    found = Page(b"".join(parts))
    assert not found.all("article")
    assert not found.all("section")
    assert not found.all("form")


def test_unknown_flags_are_shown_all_the_same():
    assert flag_words("some_new_flag") == "some new flag"
