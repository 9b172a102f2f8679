"""The walk from film to points with perfect networks: what remains is the geometry's own error."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from kneel.find import find_joint_centers, find_landmarks
from kneel.imaging.radiograph import Radiograph, normalize_percentiles
from kneel.imaging.schema import CENTER
from kneel.localize import KneeLocalizer
from kneel.looks import SHARPER
from kneel.nominal_scale import NOMINAL_HEIGHTS_MM, search_scale
from kneel.shape import MeanShape
from kneel.stage import Answer, Stage

# a plausible right knee, mm from the joint centre
KNEE_MM = np.array(
    [(-38, 8), (-27, 8), (-15, 6), (-6, -2), (0, 0), (6, -3), (14, 6), (26, 8), (38, 7)]
    + [(-37, 1), (-26, 2), (-14, -2), (-1, -10), (12, -2), (25, 4), (37, 1)],
    float,
)
SPOT_MM = 1.5


def knee_points(center, side, spacing):
    """Landmarks in film pixels of a knee at `center` (x, y) px."""
    mm = KNEE_MM * ((-1, 1) if side == "L" else (1, 1))
    return np.asarray(center) + mm / (spacing[1], spacing[0])


def spots(shape, points, spacing):
    """A film with a bright spot at each of the given points."""
    film = np.zeros(shape, np.float32)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    for px, py in points:
        distance = ((x - px) * spacing[1]) ** 2 + ((y - py) * spacing[0]) ** 2
        film += np.exp(-distance / (2 * SPOT_MM**2)).astype(np.float32)
    return film


class OneByOne(Stage):
    """Stand-ins answer one picture at a time."""

    look = SHARPER

    def batch(self, pictures):
        return [Answer(*self(picture)) for picture in pictures]


class SpotStage(OneByOne):
    """Answers with the centre of mass of the picture: a perfect network for a film with one spot."""

    def __init__(self, landmarks, spacing_mm, size):
        self.landmarks, self.spacing_mm, self.size = landmarks, spacing_mm, size
        self.shape = MeanShape(KNEE_MM - KNEE_MM[CENTER], 2.0)

    def __call__(self, picture):
        y, x = np.mgrid[: picture.shape[0], : picture.shape[1]]
        center = np.array([(x * picture).sum(), (y * picture).sum()]) / picture.sum()
        return np.tile(center, (self.landmarks, 1)), np.zeros(self.landmarks)


@pytest.mark.parametrize("part", ["left half", "right half", "whole"])
@pytest.mark.parametrize("side", ["L", "R"])
@pytest.mark.parametrize("spacing", [(0.5, 0.5), (0.4, 0.55)])
def test_a_perfect_centre_network_loses_nothing(part, side, spacing):
    shape, spot = (240, 401), {"left half": (61.3, 180.7), "right half": (352.6, 40.2), "whole": (205.5, 111.1)}[part]
    film = spots(shape, [spot], spacing)
    (center,) = find_joint_centers(film, spacing, [(part, side)], SpotStage(1, 1.0, (256, 256)))
    np.testing.assert_allclose(center.center, spot, atol=0.05)


@pytest.mark.parametrize("side", ["L", "R"])
def test_a_perfect_landmark_network_loses_nothing_off_centre(side):
    spacing, stage = (0.4, 0.4), SpotStage(16, 0.6, (224, 224))
    for point in knee_points((150.3, 140.8), side, spacing):
        film = spots((300, 320), [point], spacing)
        # the ROI is laid 30 pixels (12 mm) off; the second pass looks around the answer of the first
        landmarks, _ = find_landmarks(film, (180.0, 120.0), side, spacing, stage)
        np.testing.assert_allclose(landmarks, np.tile(point, (16, 1)), atol=0.05)


class OracleStage(OneByOne):
    """Finds the nearest true knee through the frame that it was asked for; unsure where there is none in its window."""

    def __init__(self, knees):
        self.knees, self.spacing_mm, self.size, self.typical_spread_mm = knees, 0.6, (224, 224), 2.0
        self.shape = MeanShape(KNEE_MM - KNEE_MM[CENTER], 2.0)
        self.asked = []

    def frame(self, center, spacing_mm, side):
        self.asked.append((super().frame(center, spacing_mm, side), side))
        return self.asked[-1][0]

    def __call__(self, picture):
        frame, side = self.asked.pop(0)
        seen = {s: frame.to_roi(points) for s, points in self.knees.items()}
        inside = {s: p for s, p in seen.items() if (p[CENTER] > 0).all() and (p[CENTER] < self.size).all()}
        if side not in inside:
            return np.full((16, 2), 100.0), np.full(16, 80.0)
        return inside[side], np.ones(16)


def film_with(knees, shape, spacing, **header):
    pixels = np.zeros(shape, np.uint16)
    for points in knees.values():
        x, y = np.rint(points[CENTER]).astype(int)
        pixels[y - 30 : y + 30, x - 30 : x + 30] = 4000
    return radiograph(pixels, spacing, **header)


def radiograph(pixels, spacing, *, laterality=None, columns_reversed=False):
    return Radiograph(
        pixels=pixels,
        spacing_mm=spacing,
        spacing_kind="detector" if spacing else "none",
        laterality=laterality,
        columns_reversed=columns_reversed,
        source="test",
    )


class BrightestStage(OneByOne):
    """Joint centre = centre of mass of the light; less sure the further it is spread."""

    def __init__(self):
        self.spacing_mm, self.size, self.typical_spread_mm = 1.0, (256, 256), 5.0

    def __call__(self, picture):
        weight = np.clip(picture - 0.5, 0, None)
        if weight.sum() == 0:
            return np.array([[picture.shape[1] / 2, picture.shape[0] / 2]]), np.array([80.0])
        y, x = np.mgrid[: picture.shape[0], : picture.shape[1]]
        cx, cy = (x * weight).sum() / weight.sum(), (y * weight).sum() / weight.sum()
        spread = np.sqrt((((x - cx) ** 2 + (y - cy) ** 2) * weight).sum() / weight.sum())
        return np.array([[cx, cy]]), np.array([spread / 10])


def locate(knees, shape, spacing, **header):
    film = film_with(knees, shape, spacing, **header)
    hc = OracleStage(knees)
    return KneeLocalizer(BrightestStage(), hc).locate(film)


def test_two_knees_right_first_by_their_place_on_the_film():
    spacing = (0.5, 0.5)
    knees = {"R": knee_points((160, 300), "R", spacing), "L": knee_points((600, 330), "L", spacing)}
    right, left = locate(knees, (600, 760), spacing, laterality="B")
    assert (right.side, left.side) == ("R", "L")
    np.testing.assert_allclose(right.landmarks, knees["R"], atol=1e-6)
    np.testing.assert_allclose(left.landmarks, knees["L"], atol=1e-6)
    assert right.flags == ()
    assert right.confidence > 0.9


def test_two_knees_of_a_reversed_film_change_sides_but_not_looks():
    """Seen from behind, the patient's left knee is at the left of the film and looks like a right knee."""
    spacing = (0.5, 0.5)
    looks = {"R": knee_points((160, 300), "R", spacing), "L": knee_points((600, 330), "L", spacing)}
    right, left = locate(looks, (600, 760), spacing, laterality="B", columns_reversed=True)
    assert (right.side, left.side) == ("R", "L")
    np.testing.assert_allclose(left.landmarks, looks["R"], atol=1e-6)
    np.testing.assert_allclose(right.landmarks, looks["L"], atol=1e-6)
    assert right.flags == left.flags == ("reversed_columns",)


def test_one_knee_of_a_reversed_film_keeps_its_named_side():
    spacing = (0.5, 0.5)
    looks = {"R": knee_points((210, 300), "R", spacing)}
    (knee,) = locate(looks, (600, 430), spacing, laterality="L", columns_reversed=True)
    assert knee.side == "L"
    np.testing.assert_allclose(knee.landmarks, looks["R"], atol=1e-6)


@pytest.mark.parametrize("side", ["L", "R"])
@pytest.mark.parametrize("named", [True, False])
def test_one_knee_takes_its_side_from_the_header_else_from_the_picture(side, named):
    spacing = (0.5, 0.5)
    knees = {side: knee_points((210, 300), side, spacing)}
    (knee,) = locate(knees, (600, 430), spacing, laterality=side if named else None)
    assert knee.side == side
    assert ("side_from_image" in knee.flags) == (not named)
    np.testing.assert_allclose(knee.landmarks, knees[side], atol=1e-6)


@pytest.mark.parametrize("side", ["L", "R"])
@pytest.mark.parametrize("x", [160, 600])
def test_the_header_names_the_side_wherever_the_one_knee_stands(side, x):
    """A left knee at the left of a wide film is a left knee, if the header says so."""
    spacing = (0.5, 0.5)
    knees = {side: knee_points((x, 300), side, spacing)}
    (knee,) = locate(knees, (600, 760), spacing, laterality=side)
    assert knee.side == side
    assert "side_from_position" not in knee.flags


def test_two_knees_on_a_film_that_names_one_side_are_both_kept_and_flagged():
    spacing = (0.5, 0.5)
    knees = {"R": knee_points((160, 300), "R", spacing), "L": knee_points((600, 330), "L", spacing)}
    found = locate(knees, (600, 760), spacing, laterality="R")
    assert [knee.side for knee in found] == ["R", "L"]
    assert all("more_knees_than_named" in knee.flags for knee in found)


def test_place_and_look_that_disagree_are_said_to():
    """An unnamed left-looking knee at the left of a wide film: the place would make it a right one."""
    spacing = (0.5, 0.5)
    film = film_with({"L": knee_points((160, 300), "L", spacing)}, (600, 760), spacing)
    both = {look: knee_points((160, 300), look, spacing) for look in ("L", "R")}
    localizer = KneeLocalizer(BrightestStage(), OracleStage(both))  # finds a knee whichever way it looks
    (knee,) = localizer.locate(film)
    assert knee.side == "R"
    assert "side_from_position" in knee.flags
    both_ways = localizer._one_knee(normalize_percentiles(film.pixels), spacing)
    assert [knee.flags for knee in both_ways] == [("side_uncertain",)]


def test_a_film_without_a_knee_gives_none():
    noise = np.random.default_rng(0).integers(0, 4000, (500, 400)).astype(np.uint16)
    hc = OracleStage({})
    assert KneeLocalizer(BrightestStage(), hc).locate(radiograph(noise, (0.5, 0.5))) == []


def test_without_spacing_the_knee_sets_the_scale():
    true = (0.45, 0.45)
    knees = {"R": knee_points((200, 230), "R", true)}
    film = film_with(knees, (460, 400), None, laterality="R")
    hc = OracleStage(knees)
    (knee,) = KneeLocalizer(BrightestStage(), hc).locate(film)
    assert "nominal_scale" in knee.flags
    np.testing.assert_allclose(knee.spacing_mm, true, rtol=1e-6)
    np.testing.assert_allclose(knee.landmarks, knees["R"], atol=1e-6)


def test_an_implausible_size_is_flagged():
    wrong = (1.0, 1.0)  # a header that says twice the truth
    knees = {"R": knee_points((200, 230), "R", (0.5, 0.5))}
    (knee,) = locate(knees, (460, 400), wrong, laterality="R")
    assert "implausible_size" in knee.flags


@pytest.mark.parametrize(("header", "count"), [({"laterality": "B"}, 2), ({"laterality": "R"}, 1), ({}, 2)])
def test_of_a_pair_the_knee_that_was_missed_is_looked_for_opposite(header, count):
    """The left knee casts no light for the joint-centre network; the landmark network sees it all the same.

    The film is 380 mm wide; where it is said to show one knee it is not searched so.
    """
    spacing = (0.5, 0.5)
    knees = {"R": knee_points((160, 300), "R", spacing), "L": knee_points((580, 310), "L", spacing)}
    film = film_with({"R": knees["R"]}, (700, 760), spacing, **header)
    found = KneeLocalizer(BrightestStage(), OracleStage(knees)).locate(film)
    assert len(found) == count
    if count == 2:
        np.testing.assert_allclose(found[1].landmarks, knees["L"], atol=1e-6)


def test_without_spacing_a_wide_film_is_searched_for_two_knees():
    """A strip along the joints, 62 mm high: no scale but its own shows both."""
    true = (0.39, 0.39)
    knees = {"R": knee_points((150, 80), "R", true), "L": knee_points((490, 84), "L", true)}
    found = locate(knees, (160, 640), None)
    assert [knee.side for knee in found] == ["R", "L"]
    for knee in found:
        np.testing.assert_allclose(knee.spacing_mm, true, rtol=0.05)  # near enough is not corrected
        np.testing.assert_allclose(knee.landmarks, knees[knee.side], atol=1e-6)


def test_a_sure_answer_ends_the_search_for_the_scale(monkeypatch):
    true = (0.22, 0.22)
    knees = {"R": knee_points((200, 230), "R", true)}
    film = film_with(knees, (560, 400), None, laterality="R")  # too high for a crop
    localizer = KneeLocalizer(BrightestStage(), OracleStage(knees))
    tried = []
    inner = localizer._at_spacing
    monkeypatch.setattr(localizer, "_at_spacing", lambda *args: tried.append(args[2][0]) or inner(*args))
    (knee,) = localizer.locate(film)
    assert knee.confidence >= 0.8
    assert len(tried) < len(NOMINAL_HEIGHTS_MM)
    assert tried[-1] == pytest.approx(true[0])


class NeverAsked(BrightestStage):
    def __call__(self, picture):
        raise AssertionError("the joint-centre network was asked")


@pytest.mark.parametrize(("header", "flags"), [({"laterality": "L"}, ()), ({}, ("side_from_image", "side_uncertain"))])
def test_a_crop_is_read_from_its_middle_without_the_centre_network(header, flags):
    """A crop 82 mm high, the joint 12 pixels off the middle; the scale is corrected by the size of the knee."""
    true = (0.37, 0.37)
    knees = {"L": knee_points((120, 108), "L", true)}
    both = {**knees, "R": knees["L"] + (0, 1000)} if header else {**knees, "R": knee_points((120, 108), "R", true)}
    hc = OracleStage(both)
    (knee,) = KneeLocalizer(NeverAsked(), hc).locate(film_with(knees, (224, 224), None, **header))
    assert knee.flags == ("nominal_scale", *flags)
    np.testing.assert_allclose(knee.spacing_mm, true, rtol=0.05)
    np.testing.assert_allclose(knee.landmarks, both[knee.side], atol=1e-6)


@pytest.mark.parametrize(
    ("true_mm", "center"),
    [
        (100 / 224, (140, 106)),  # of the usual size, 13 mm off the middle
        (0.37, (112, 112)),  # in the middle, but larger
        (0.37, (150, 112)),  # both at once
    ],
)
def test_place_and_size_on_a_crop_are_mended_by_one_look(true_mm, center):
    knees = {"R": knee_points(center, "R", (true_mm, true_mm))}
    hc = OracleStage(knees)
    asked = []
    inner = hc.batch
    hc.batch = lambda pictures: asked.append(len(pictures)) or inner(pictures)
    (knee,) = KneeLocalizer(NeverAsked(), hc).locate(film_with(knees, (224, 224), None, laterality="R"))
    assert asked == [1, 1, 1]  # the last one at the mirror image: is it the side that the film says?
    np.testing.assert_allclose(knee.spacing_mm, (true_mm, true_mm), rtol=0.05)
    np.testing.assert_allclose(knee.landmarks, knees["R"], atol=1e-6)


def test_a_squarish_film_that_is_no_crop_is_searched():
    """430 mm high, the joint far from the middle: the landmark network sees nothing there."""
    true = (0.43, 0.43)
    knees = {"R": knee_points((300, 800), "R", true)}
    (knee,) = locate(knees, (1000, 1000), None, laterality="R")
    np.testing.assert_allclose(knee.landmarks, knees["R"], atol=1e-6)


def test_a_side_from_the_file_name_is_said_to_be():
    spacing = (0.5, 0.5)
    film = film_with({"L": knee_points((200, 230), "L", spacing)}, (460, 400), spacing, laterality="L")
    localizer = KneeLocalizer(BrightestStage(), OracleStage({"L": knee_points((200, 230), "L", spacing)}))
    (knee,) = localizer.locate(replace(film, side_from_name=True))
    assert (knee.side, knee.flags) == ("L", ("side_from_name",))


@pytest.mark.parametrize("named", ["L", "R"])
def test_a_name_that_the_look_clearly_contradicts_wins_but_is_doubted(named):
    """The oracle sees a left knee sharply, and a right one there with heat maps a tenth wider."""

    class Sharper(OracleStage):
        def __call__(self, picture):
            side = self.asked[0][1]
            points, spread = super().__call__(picture)
            return points, spread * (1.0 if side == "L" else 1.1)

    spacing = (0.5, 0.5)
    both = {look: knee_points((200, 230), look, spacing) for look in ("L", "R")}
    film = film_with({"L": both["L"]}, (460, 400), spacing, laterality=named)
    localizer = KneeLocalizer(BrightestStage(), Sharper(both))
    (knee,) = localizer.locate(replace(film, side_from_name=True))
    assert knee.side == named
    assert ("side_uncertain" in knee.flags) == (named == "R")
    (knee,) = localizer.locate(film)  # so is a header
    assert (knee.side, knee.flags) == (named, ("side_uncertain",) if named == "R" else ())


@pytest.mark.parametrize(
    ("header", "x", "width", "missing"),
    [
        ({"laterality": "B"}, 160, 460, True),
        ({}, 160, 640, True),  # 320 mm wide, the knee 80 mm beside the middle
        ({}, 260, 640, False),  # 30 mm: a film of one knee
        ({}, 160, 460, False),
        ({"laterality": "R"}, 160, 640, False),
    ],
)
def test_one_knee_where_two_are_expected_is_flagged(header, x, width, missing):
    spacing = (0.5, 0.5)
    knees = {"R": knee_points((x, 230), "R", spacing)}
    (knee,) = locate(knees, (460, width), spacing, **header)
    assert ("fewer_knees_than_expected" in knee.flags) == missing


def test_without_spacing_the_second_knee_is_looked_for_at_the_scale_of_the_first():
    """A film of 350 x 427 mm that names no spacing: one knee is found by its light, the other one opposite."""
    true = (0.5, 0.5)
    knees = {"R": knee_points((227, 350), "R", true), "L": knee_points((640, 355), "L", true)}
    found = KneeLocalizer(BrightestStage(), OracleStage(knees)).locate(film_with({"R": knees["R"]}, (700, 854), None))
    assert [knee.side for knee in found] == ["R", "L"]
    assert all(knee.flags[:2] == ("nominal_scale", "side_from_position") for knee in found)


def test_no_knee_is_lost_by_mending_the_scale():
    def knee(size):
        return SimpleNamespace(size=size, confidence=0.9)

    pair, answers = [knee(1.2), knee(1.2)], [[knee(1.0)]]

    def read(spacing_mm):
        return answers.pop() if spacing_mm != (NOMINAL_HEIGHTS_MM[0] / 500,) * 2 else pair

    knees = search_scale((500, 500), read, lambda knee: knee.size)
    assert knees is pair
    assert answers == []


def test_a_banner_is_not_blown_up_to_the_height_of_a_film():
    """20 x 1500 pixels at a nominal 430 mm would be 32 m wide."""
    seen = []

    class Small(BrightestStage):
        def __call__(self, picture):
            seen.append(picture.size)
            return super().__call__(picture)

    noise = np.random.default_rng(0).integers(0, 4000, (20, 1500)).astype(np.uint16)
    assert KneeLocalizer(Small(), OracleStage({})).locate(radiograph(noise, None)) == []
    assert sum(seen) < 4e6
