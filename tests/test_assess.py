"""Evaluation against values worked by hand, loops and limits."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kneel.assess import (
    MEASURES,
    agreement,
    error_figures,
    grade_groups,
    measure_figures,
    measured,
    moments,
    point_groups,
    report_cv,
    report_test,
)
from kneel.assess_figures import curves_of
from kneel.assess_knees import chosen_knees, read_roi, save_roi
from kneel.assess_report import file_name, write_report
from kneel.bootstrap import SubjectBootstrap, interval
from kneel.imaging.radiograph import RadiographError
from kneel.phantom.shapes import draw_landmarks
from kneel.predictions import PredictionError, Predictions, write_predictions

MM_PER_PX = 0.5


def knees_of(kl, landmarks=16):
    """Knees of known shape, two of each subject, predicted perfectly."""
    rng = np.random.default_rng(5)
    table = pd.DataFrame(
        {
            "fold": "0",
            "subject_id": [f"s{number // 2}" for number in range(len(kl))],
            "side": ["LR"[number % 2] for number in range(len(kl))],
            "kl": kl,
            "mm_per_px": MM_PER_PX,
        }
    )
    truth = np.array([draw_landmarks(grade, rng)[0] for grade in kl]) / MM_PER_PX + 200
    truth = np.rint(truth)  # so that errors are exact
    truth = truth[:, :landmarks] if landmarks == 16 else truth[:, 4:5]
    return Predictions("wing", table, truth.copy(), truth)


def off(predictions, knee, point, millimetres):
    predictions.points[knee, point, 0] += millimetres / MM_PER_PX


def hand_made():
    """Tibia 1.0 and femur 1.5 mm on the edges of knee 0; knee 1 an outlier at point 4; 2 and 3 perfect."""
    predictions = knees_of([0, 1, 2, 4])
    off(predictions, 0, 8, 2.0)
    off(predictions, 0, 9, 3.0)
    off(predictions, 1, 4, 10.0)
    return predictions


def figures(predictions, resamples=200):
    return error_figures(predictions, SubjectBootstrap(predictions.knees.subject_id.tolist(), resamples=resamples))


def test_cv_report_by_hand():
    (row,) = report_cv(hand_made()).to_dict("records")
    assert row["number of knees"] == 4
    # bounds are included, and perfect predictions count: tibia 4 of 4, femur 3 of 4 within 1 mm
    assert row["1 mm"] == pytest.approx(87.5)
    assert row["1 mm, SD"] == pytest.approx(np.std([100, 75], ddof=1))
    assert (row["1.5 mm"], row["1.5 mm, SD"]) == (100, 0)
    assert row["outliers"] == 25  # off by 10 mm exactly


def test_test_report_by_hand():
    table = report_test(hand_made()).set_index(["knees", "bone"])
    # three points: tibia of knee 0 is 2/3, femur 3/3, tibia of knee 1 is 10/3
    assert table["1 mm"].to_dict() == {
        ("all", "tibia"): 75,
        ("all", "femur"): 100,
        ("all", "both"): 87.5,
        ("KL < 2", "tibia"): 50,
        ("KL < 2", "femur"): 100,
        ("KL < 2", "both"): 75,
        ("KL >= 2", "tibia"): 100,
        ("KL >= 2", "femur"): 100,
        ("KL >= 2", "both"): 100,
    }
    assert table["outliers"]["KL < 2", "tibia"] == 50
    assert table["outliers"]["KL >= 2", "both"] == 0
    assert table["1 mm, SD"]["all", "both"] == pytest.approx(25 / np.sqrt(2))
    assert table["number of knees"]["KL < 2", "femur"] == 2


def test_errors_by_hand():
    table = figures(hand_made()).set_index(["knees", "points", "figure"]).value
    assert table["all", "16 points", "mean error, mm"] == pytest.approx(15 / 64)
    assert table["all", "tibia", "mean error, mm"] == pytest.approx(12 / 36)
    assert table["all", "femur", "within 2.5 mm, %"] == pytest.approx(100 * 27 / 28)
    assert table["all", "9 femur lateral edge", "within 2.5 mm, %"] == 75
    assert table["KL 1", "16 points", "mean error, mm"] == pytest.approx(10 / 16)
    assert table["KL < 2", "16 points", "knees with a point off by >= 10 mm, %"] == 50
    assert table["all", "4 tibia centre between the spines", "knees with a point off by >= 10 mm, %"] == 25
    assert table["all", "femur", "knees with a point off by >= 10 mm, %"] == 0
    assert ("KL 3", "16 points", "mean error, mm") not in table  # no such knee


def test_just_below_ten_millimetres_is_no_outlier():
    predictions = knees_of([0, 0])
    off(predictions, 0, 3, 9.999)
    assert report_cv(predictions).outliers[0] == 0


def test_a_perfect_prediction():
    predictions = knees_of([0, 1, 2, 3, 4, 4])
    (row,) = report_cv(predictions).to_dict("records")
    assert [row[f"{bound} mm"] for bound in ("1", "1.5", "2", "2.5")] == [100] * 4
    table = figures(predictions)
    right = np.where(table.figure.str.startswith("within"), 100, 0)
    for column in ("value", "low", "high"):
        np.testing.assert_array_equal(table[column], right)
    measures = measure_figures(predictions, SubjectBootstrap(predictions.knees.subject_id.tolist(), resamples=50))
    expected = np.where(measures.figure == "ICC(A,1)", 1.0, 0.0)
    np.testing.assert_allclose(measures.value, expected, atol=1e-6)


def test_intervals_are_those_of_a_loop_over_resampled_subjects():
    predictions = knees_of([0, 1, 2, 4] * 4)
    predictions.points[:] += np.random.default_rng(0).normal(0, 3, predictions.points.shape)
    bootstrap = SubjectBootstrap(predictions.knees.subject_id.tolist(), resamples=300)
    table = error_figures(predictions, bootstrap).set_index(["knees", "points", "figure"])
    errors, severe = predictions.errors_mm, predictions.knees.kl.to_numpy() >= 2
    looped = bootstrap.statistic(lambda rows: errors[rows][severe[rows]].mean())
    row = table.loc["KL >= 2", "16 points", "mean error, mm"]
    np.testing.assert_allclose((row.low, row.high), interval(looped))
    measures = measure_figures(predictions, bootstrap).set_index(["measure", "figure"])
    predicted, annotated = (each.jsw_medial for each in measured(predictions))
    for figure in ("ICC(A,1)", "lower limit of agreement"):
        looped = bootstrap.statistic(lambda rows, figure=figure: by_anova(predicted[rows], annotated[rows])[figure])
        row = measures.loc[MEASURES["jsw_medial"], figure]
        np.testing.assert_allclose(
            (row.value, row.low, row.high), (by_anova(predicted, annotated)[figure], *interval(looped))
        )


def by_anova(x, y):
    """Two-way analysis of variance as in McGraw and Wong, table by table; Bland and Altman's limits."""
    table = np.stack([x, y], axis=1)
    count, readers = table.shape
    grand, rows, columns = table.mean(), table.mean(axis=1), table.mean(axis=0)
    between = readers * ((rows - grand) ** 2).sum() / (count - 1)
    readings = count * ((columns - grand) ** 2).sum() / (readers - 1)
    rest = ((table - rows[:, None] - columns + grand) ** 2).sum() / ((count - 1) * (readers - 1))
    icc = (between - rest) / (between + (readers - 1) * rest + readers / count * (readings - rest))
    return {"ICC(A,1)": icc, "lower limit of agreement": (x - y).mean() - 1.96 * (x - y).std(ddof=1)}


def test_agreement_at_its_limits():
    truth = np.array([1.0, 2.0, 3.0, 4.0])

    def found(predicted, annotated=truth):
        means = moments(predicted, annotated).mean(axis=0)
        return {name: float(value) for name, value in agreement(means, np.float64(len(annotated))).items()}

    shifted = found(truth + 2)
    assert shifted["bias"] == shifted["mean absolute error"] == 2
    assert shifted["lower limit of agreement"] == pytest.approx(2)
    # mean squares 10/3 of the knees, 8 of the readers, 0 of the rest
    assert shifted["ICC(A,1)"] == pytest.approx((10 / 3) / (10 / 3 + 2 / 4 * 8))
    assert np.isnan(found(np.ones(4), np.ones(4))["ICC(A,1)"])
    assert np.isnan(found(np.array([1.0]), np.array([2.0]))["upper limit of agreement"])


def test_groups():
    assert [len(points) for points in point_groups(16).values()] == [16, 9, 7] + [1] * 16
    assert list(point_groups(1)) == ["joint centre"]
    assert {name: list(mask) for name, mask in grade_groups([1, 1, 4]).items()} == {
        "all": [True] * 3,
        "KL < 2": [True, True, False],
        "KL >= 2": [False, False, True],
        "KL 1": [True, True, False],
        "KL 4": [False, False, True],
    }
    tibia, femur, every = curves_of(hand_made().errors_mm).values()
    assert tibia[0] == pytest.approx(2 / 3)
    assert femur[0] == pytest.approx(1)
    assert every.shape == (64,)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 11, 12, 13, 40])
def test_no_knee_is_shown_twice(count):
    errors = np.random.default_rng(count).permutation(count).astype(float)
    kinds = chosen_knees(errors)
    shown = [number for numbers in kinds.values() for number in numbers]
    assert len(shown) == len(set(shown)) == min(count, 12)
    assert errors[kinds["best"][0]] == 0
    if count > 1:
        assert errors[kinds["worst"][0]] == count - 1
    if count == 40:
        assert [errors[number] for number in kinds["median"]] == [18, 19, 20, 21]


def test_pictures_know_their_scale(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (40, 30)).astype(np.uint8)
    save_roi(tmp_path / "a.png", picture, 0.45)
    np.testing.assert_array_equal(read_roi(tmp_path / "a.png", 0.45), picture)
    with pytest.raises(RadiographError, match=r"a.png: the size of its pixels is 0.45 mm, must be 0.3 mm"):
        read_roi(tmp_path / "a.png", 0.3)
    with pytest.raises(RadiographError, match=r"b.png: missing"):
        read_roi(tmp_path / "b.png", 0.3)


@pytest.fixture
def roi_pictures(tmp_path):
    for knee in knees_of([0, 1, 2, 4]).knees.itertuples():
        name = f"{knee.subject_id}_{knee.kl}_{knee.side}.png"
        save_roi(tmp_path / name, np.full((400, 400), 90, np.uint8), MM_PER_PX)
    return tmp_path


def test_the_report_of_two_experiments(roi_pictures, tmp_path):
    second = replace(hand_made(), experiment="se_wing, 50 %")
    out = tmp_path / "out"
    write_report(out, [knees_of([0, 1, 2, 4]), second], images=roi_pictures, resamples=20)
    text = (out / "report.md").read_text()
    assert "Research use only. Not a medical device." in text
    assert "| se_wing, 50 % | 4 | 87.50 ± 17.68 | 100.00 ± 0.00 |" in text
    linked = set(re.findall(r"\]\(([^)]+)\)", text))
    assert {"curves.png", "wing_knees.png", "se_wing_50__measures.png", "se_wing_50__curves.png"} <= linked
    for name in linked | {"curves.pdf", "wing_curves.pdf", "test.csv", "errors.csv", "measures.csv"}:
        assert (out / name).stat().st_size > 0
    assert r"se\_wing, 50 \% & 4 & 87.50 $\pm$ 17.68 & " in (out / "cv.tex").read_text()
    assert r"KL $\geq$ 2" in (out / "test.tex").read_text()
    assert len(pd.read_csv(out / "cv.csv")) == 2
    assert set(pd.read_csv(out / "errors.csv").experiment) == {"wing", "se_wing, 50 %"}


def test_the_report_of_joint_centres(tmp_path):
    centres = knees_of([0, 1, 2, 4], landmarks=1)
    off(centres, 3, 0, 12.0)
    write_report(tmp_path, [centres], resamples=20)
    table = pd.read_csv(tmp_path / "errors.csv").set_index(["knees", "figure"]).value
    assert table["all", "mean error, mm"] == pytest.approx(3)
    assert table["KL 4", "knees with a point off by >= 10 mm, %"] == 100
    assert not (tmp_path / "cv.csv").exists()


def test_a_report_says_where_knees_differ_and_leaves_nothing_of_an_earlier_one(tmp_path):
    first = knees_of([0, 1, 2, 4])
    same, fewer = replace(first, experiment="same"), replace(knees_of([0, 1]), experiment="fewer")
    write_report(tmp_path, [first, same], resamples=20)
    assert "same knees" not in (tmp_path / "report.md").read_text()
    write_report(tmp_path, [first, fewer], resamples=20)
    assert "Not all experiments were judged on the same knees" in (tmp_path / "report.md").read_text()
    assert {"measures.csv", "cv.tex", "curves.pdf"} <= {path.name for path in tmp_path.iterdir()}
    write_report(tmp_path, [replace(knees_of([0, 2], landmarks=1), experiment="centres")], resamples=20)
    left = {path.name for path in tmp_path.iterdir()}
    assert not left & {"measures.csv", "cv.csv", "cv.tex", "test.csv", "test.tex", "curves.png", "curves.pdf"}


def test_what_cannot_be_compared_is_refused(tmp_path):
    whole, centre = knees_of([0, 1]), replace(knees_of([0, 1], landmarks=1), experiment="lc")
    with pytest.raises(PredictionError, match="wing: in more than one table"):
        write_report(tmp_path, [whole, whole])
    with pytest.raises(PredictionError, match="some tables hold 16 points and others the joint centre"):
        write_report(tmp_path, [whole, centre])


def test_a_missing_picture_is_refused_in_one_line_before_there_is_a_report(tmp_path):
    write_predictions(tmp_path / "oof.csv", knees_of([0, 1]))
    script = Path(__file__).resolve().parents[1] / "scripts" / "assess_test_results.py"
    command = [sys.executable, script, tmp_path / "oof.csv", "--out", tmp_path / "out", "--images", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "s0_0_L.png: missing" in done.stderr
    assert not (tmp_path / "out").exists()


def test_names_become_file_names():
    assert file_name("../a b/c") == "_a_b_c"
    assert file_name("mixup_a0.1-wd") == "mixup_a0.1-wd"
