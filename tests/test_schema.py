from pathlib import Path

import numpy as np
import pytest

from kneel.imaging.schema import (
    CENTER,
    FEMUR,
    LANDMARKS,
    ROI_SIZE,
    TIBIA,
    AnnotationError,
    KneeAnnotation,
    read_annotations,
    write_annotations,
)

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
HEADER = "subject_id,side,kl,tibia,femur,bbox,center\n"
TIBIA_TEXT = ",".join(["10,20"] * 9)
FEMUR_TEXT = ",".join(["30,40"] * 7)


def row(side="R", kl="2", tibia=TIBIA_TEXT, bbox="100,100,566,566", subject="900"):
    return f'{subject},{side},{kl},"{tibia}","{FEMUR_TEXT}","{bbox}","333,333"\n'


def test_the_schema_is_sixteen_points_tibia_first():
    assert len(LANDMARKS) == 16
    assert all(name.startswith("tibia") for name in LANDMARKS[TIBIA])
    assert all(name.startswith("femur") for name in LANDMARKS[FEMUR])


def test_left_points_of_the_original_file_move_back_one_pixel(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(HEADER + row("R") + row("L"))
    right, left = read_annotations(path)
    assert right.points[0].tolist() == [10, 20]
    assert left.points[0].tolist() == [9, 20]


@pytest.mark.parametrize("side", ["L", "R"])
@pytest.mark.parametrize("spacing", [(0.1, 0.1), (0.2, 0.14)])
def test_film_points_return_through_the_table(tmp_path, side, spacing):
    rng = np.random.default_rng(3)
    film = rng.uniform(-150, 150, (16, 2)) + (700, 900)
    knee = KneeAnnotation.from_film("900", side, 3, film, spacing)
    write_annotations(tmp_path / "a.csv", [knee])
    (back,) = read_annotations(tmp_path / "a.csv")
    assert (back.subject_id, back.side, back.kl, back.origin) == ("900", side, 3, knee.origin)
    np.testing.assert_allclose(back.film_points(spacing), film, atol=2e-3 / min(spacing))


def test_the_roi_is_centred_on_the_joint():
    film = np.zeros((16, 2)) + (700, 900)
    for side in ("L", "R"):
        knee = KneeAnnotation.from_film("900", side, 0, film, (0.15, 0.15))
        assert abs(knee.points[CENTER] - (ROI_SIZE - 1) / 2).max() <= 1


def test_frame_and_points_agree_by_hand():
    # at 0.3 mm the film's pixels ARE the table's: ROI pixel (10, 20) of a right knee is origin + (10, 20)
    knee = KneeAnnotation("900", "R", 0, np.tile([10.0, 20.0], (16, 1)), (236, 174))
    np.testing.assert_allclose(knee.film_points((0.3, 0.3))[0], [246, 194])
    left = KneeAnnotation("900", "L", 0, np.tile([10.0, 20.0], (16, 1)), (236, 174))
    np.testing.assert_allclose(left.film_points((0.3, 0.3))[0], [236 + 465 - 10, 194])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("subject_id,side\n1,R\n", "no column kl"),
        (HEADER + row(side="X"), "line 2: side is 'X'"),
        (HEADER + row(kl="5"), "kl is '5'"),
        (HEADER + row(subject=""), "line 2: subject_id is empty"),
        (HEADER.replace(",", ";") + row(), "columns are separated by ';', must be by commas"),
        (HEADER + row(tibia="1,2"), "tibia holds 2 numbers"),
        (HEADER + row(tibia="a,b"), "tibia is 'a,b'"),
        (HEADER + row(tibia=TIBIA_TEXT[:-2] + "nan"), "18 finite"),
        (HEADER.strip() + ",convention\n" + row().strip() + ",corner\n", "convention is 'corner'"),
    ],
)
def test_bad_tables_are_refused_by_place_and_value(tmp_path, text, words):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(AnnotationError, match=words):
        read_annotations(path)


def test_the_mark_that_spreadsheets_put_in_front_is_passed_over(tmp_path):
    (tmp_path / "table.csv").write_text(HEADER + row(), encoding="utf-8-sig")
    assert len(read_annotations(tmp_path / "table.csv")) == 1


def test_the_published_annotations_are_read_whole():
    path = SHARED / "data" / "kneel" / "bf_landmarks_1_0.3.csv"
    if not path.exists():
        pytest.skip("KNEEL's annotations are not here")
    knees = read_annotations(path)
    assert len(knees) == 748
    assert sum(knee.side == "L" for knee in knees) == 374
    # unmirrored, the joint centre is pixel 233 or 234 of its ROI on both sides, so mirrored it is 465 less that
    for side, expected in (("R", {233, 234}), ("L", {465 - 233, 465 - 234})):
        assert {knee.points[CENTER, 0] for knee in knees if knee.side == side} == expected
