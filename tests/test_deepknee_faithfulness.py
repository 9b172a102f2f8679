import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from doors import script
from oracle import SHAPE_MM

from deepknee.faithfulness import (
    area_under,
    joint_band,
    perturbation_curves,
    random_map,
    share_inside,
)
from deepknee.unseen import Training
from kneel.engine.folds import subject_marks
from kneel.phantom.cohort import write_cohort

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "evaluate_attention.py"

SIZE = 40


def predict(rois: np.ndarray) -> np.ndarray:
    """A grader whose probability of KL 3 is the mean brightness of a square of 10 x 10 pixels."""
    bright = rois[:, 10:20, 10:20].mean((1, 2)) / 255
    chances = np.zeros((len(rois), 5))
    chances[:, 3], chances[:, 0] = bright, 1 - bright
    return chances


@pytest.fixture
def knee() -> dict:
    """A white square on grey, whose blurred picture is black; everything is seen."""
    roi = np.full((SIZE, SIZE), 90, np.uint8)
    roi[10:20, 10:20] = 255
    seen = np.ones((SIZE, SIZE), bool)
    return {"predict": predict, "roi": roi, "blurred": np.zeros_like(roi), "grade": 3, "seen": seen, "steps": 16}


def heat_of_square() -> np.ndarray:
    heat = np.zeros((SIZE, SIZE))
    heat[10:20, 10:20] = np.arange(1, 101).reshape(10, 10)
    return heat


def test_curves_of_a_perfect_and_of_the_worst_map(knee: dict) -> None:
    """The square is a sixteenth of the ROI: the first of 16 steps takes all of it, or the last."""
    curves = perturbation_curves(**knee, heat=heat_of_square(), rng=np.random.default_rng(0))
    np.testing.assert_allclose(curves[0], [1] + 16 * [0])
    np.testing.assert_allclose(curves[1], [0] + 16 * [1])
    np.testing.assert_allclose([area_under(curve) for curve in curves], [1 / 32, 31 / 32])
    curves = perturbation_curves(**knee, heat=-heat_of_square(), rng=np.random.default_rng(0))
    assert area_under(curves[0]) > 0.95
    np.testing.assert_allclose(area_under(curves[1]), 1 - area_under(curves[0]))


def test_curves_by_taking_pixels_one_by_one(knee: dict) -> None:
    """Brute force over an order without ties, with some pixels out of play."""
    rng = np.random.default_rng(1)
    knee["roi"] = rng.integers(0, 256, (SIZE, SIZE), np.uint8)
    knee["blurred"] = rng.integers(0, 256, (SIZE, SIZE), np.uint8)
    knee["seen"][:, 15:] = False
    heat = rng.random((SIZE, SIZE))
    pixels = sorted(np.argwhere(knee["seen"]).tolist(), key=lambda pixel: -heat[tuple(pixel)])
    gone, back = knee["roi"].copy(), knee["roi"].copy()
    back[knee["seen"]] = knee["blurred"][knee["seen"]]
    expected = [(predict(gone[None])[0, 3], predict(back[None])[0, 3])]
    for number, (y, x) in enumerate(pixels, 1):
        gone[y, x], back[y, x] = knee["blurred"][y, x], knee["roi"][y, x]
        if number % 150 == 0:
            expected.append((predict(gone[None])[0, 3], predict(back[None])[0, 3]))
    curves = perturbation_curves(**{**knee, "steps": 4}, heat=heat, rng=rng)
    np.testing.assert_allclose(np.transpose(curves), expected)


def test_ends_meet_whatever_the_map(knee: dict) -> None:
    knee["seen"][:5] = False
    deletion, insertion = perturbation_curves(**knee, heat=heat_of_square(), rng=np.random.default_rng(0))
    assert deletion[0] == insertion[-1] == predict(knee["roi"][None])[0, 3]
    assert deletion[-1] == insertion[0]


def test_a_map_of_zeros_takes_pixels_at_random(knee: dict) -> None:
    """Not from the top: the curve is the straight line, but for chance."""
    deletion, insertion = perturbation_curves(**knee, heat=np.zeros((SIZE, SIZE)), rng=np.random.default_rng(0))
    line = np.linspace(0, 1, 17)
    assert np.abs(deletion - (1 - line)).max() < 0.15
    assert np.abs(insertion - line).max() < 0.15
    other = perturbation_curves(**knee, heat=np.zeros((SIZE, SIZE)), rng=np.random.default_rng(1))[0]
    assert (other != deletion).any()


def test_curves_refuse_what_does_not_fit(knee: dict) -> None:
    with pytest.raises(ValueError, match=r"shapes are \[\(3, 3\), \(40, 40\)\], 1600 pixels seen"):
        perturbation_curves(**knee, heat=np.zeros((3, 3)), rng=np.random.default_rng(0))
    knee["seen"][:] = False
    with pytest.raises(ValueError, match="0 pixels seen"):
        perturbation_curves(**knee, heat=heat_of_square(), rng=np.random.default_rng(0))


def test_area_of_a_line_and_of_many() -> None:
    np.testing.assert_allclose(area_under([[0, 0.5, 1], [1, 1, 1], [1, 0, 0]]), [0.5, 1, 0.25])


def test_random_maps_are_coarse_seeded_and_in_range() -> None:
    rng = np.random.default_rng(0)
    first, second = random_map(60, 10, rng), random_map(60, 10, rng)
    assert first.shape == (60, 60)
    assert first.min() >= 0
    assert first.max() <= 1
    assert (first != second).any()
    np.testing.assert_array_equal(first, random_map(60, 10, np.random.default_rng(0)))
    assert np.abs(np.diff(first, axis=1)).max() < 1 / 10 + 1e-6  # bilinear between values 10 pixels apart


def straight_knee() -> np.ndarray:
    """A joint space from y = 30 to y = 36, x = 10 to 50: the tibia is 40 wide."""
    tibia = [(x, 36.0) for x in np.linspace(10, 50, 9)]
    return np.array(tibia + [(x, 30.0) for x in np.linspace(10, 50, 7)])


@pytest.mark.parametrize(("margin", "expected"), [(0.0, 41 * 7), (0.05, None)])
def test_band_of_a_straight_joint(margin: float, expected: int | None) -> None:
    band = joint_band(straight_knee(), 60, margin)
    y, x = np.mgrid[:60, :60]
    away = np.hypot(np.maximum(0, np.maximum(10 - x, x - 50)), np.maximum(0, np.maximum(30 - y, y - 36)))
    np.testing.assert_array_equal(band, away <= 40 * margin)
    assert expected is None or band.sum() == expected


def test_band_holds_a_knee_in_both_directions_and_where_bones_overlap() -> None:
    knee = SHAPE_MM + 60
    band, turned = joint_band(knee, 120), joint_band(knee * (-1, 1) + (119, 0), 120)
    np.testing.assert_array_equal(turned, band[:, ::-1])
    assert band[59, 40]  # between condyle and plateau
    assert band[64, 40]  # 2 mm below the plateau
    assert not band[75, 40]
    assert not band[40, 40]
    overlapping = straight_knee()
    overlapping[13:, 1] = 40.0  # the medial femur below the tibial line
    assert joint_band(overlapping, 60, 0.0)[38, 45]


def test_share_of_attention_inside() -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0], heat[3, 3] = 3, 1
    region = np.zeros((4, 4), bool)
    region[:2] = True
    assert share_inside(heat, region) == 0.75
    assert np.isnan(share_inside(np.zeros((4, 4)), region))


def run(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_evaluation_of_shipped_networks_on_phantoms(tmp_path: Path) -> None:
    write_cohort(tmp_path / "cohort", 2, seed=3, spacing_mm=0.5, implant_fraction=0, single_knee_fraction=0)
    done = run("--cohort", tmp_path / "cohort", "--steps", 4, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "4 knees of 2 subjects (0 left out)" in done.stdout
    knees, summary = (pd.read_csv(tmp_path / "out" / f"{name}.csv") for name in ("knees", "attention"))
    assert len(knees) == 4 * 5
    maps = knees.groupby("map")
    for line in summary.itertuples():
        own, random = (maps.get_group(name)[line.figure].to_numpy() for name in (line.map, "random"))
        assert line.mean == pytest.approx(own.mean())
        assert line.less_random_mean == pytest.approx((own - random).mean())
        assert line.low <= line.mean <= line.high
    assert (maps.get_group("joint space").inside == 1).all()
    random = maps.get_group("random")
    assert (abs(random.inside - random.band_area) < 0.15).all()
    for name in ("curves", "maps"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "out" / "attention.md").read_text() in done.stdout


@pytest.mark.parametrize(
    ("trained_on", "words"),
    [
        (["1", "x"], r"\*\*These are not unseen knees\*\*.*1 of its 2 subjects: 1;"),
        (["3"], r"None of these subjects was in the training of a network\."),
        (None, r"cannot be checked: 1 of 1 snapshots do not note theirs, as there\."),
    ],
)
def test_the_report_says_whether_the_networks_know_the_knees(
    trained_on: list[str] | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = script("evaluate_attention")
    training = Training("there", None if trained_on is None else subject_marks(trained_on))
    reader = SimpleNamespace(grader=SimpleNamespace(members=[SimpleNamespace(training=training)]))
    values = dict.fromkeys([*evaluate.FIGURES, "band_area", "probability"], 0.5) | {"empty": False}
    measured = [
        SimpleNamespace(rows=[{"subject_id": s, "kl": 2, "map": name} | values for name in evaluate.MAPS]) for s in "12"
    ]
    monkeypatch.setattr(evaluate, "load_reader", lambda *_: reader)
    monkeypatch.setattr(evaluate, "cohort_knees", lambda _: [])
    monkeypatch.setattr(evaluate, "measure_all", lambda *_: (measured, []))
    for name in ("draw_curves", "draw_maps"):
        monkeypatch.setattr(evaluate, name, lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["evaluate_attention.py", "--cohort", "c", "--out", str(tmp_path)])
    assert evaluate.main() == 0
    assert re.search(words, (tmp_path / "attention.md").read_text())


@pytest.mark.slow
def test_the_evaluation_says_what_is_missing(tmp_path: Path) -> None:
    done = run("--graded", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert f"evaluate_attention: {tmp_path}: no folder 0, 1, 2, 3, 4" in done.stderr
    assert not (tmp_path / "out").exists()
