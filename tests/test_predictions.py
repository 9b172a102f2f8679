"""The table of predictions: what goes in comes out, and what cannot be is refused by line."""

import numpy as np
import pandas as pd
import pytest

from kneel.predictions import PredictionError, Predictions, read_predictions, write_predictions


def predictions(landmarks=16, count=4, scale=0.3):
    rng = np.random.default_rng(3)
    knees = pd.DataFrame(
        {
            "fold": [str(number % 2) for number in range(count)],
            "subject_id": [f"00{number // 2}" for number in range(count)],
            "side": ["LR"[number % 2] for number in range(count)],
            "kl": [number % 5 for number in range(count)],
            "mm_per_px": scale,
        }
    )
    truth = rng.uniform(50, 400, (count, landmarks, 2))
    return Predictions("wing", knees, truth + rng.normal(0, 2, truth.shape), truth)


@pytest.mark.parametrize("landmarks", [1, 16])
def test_the_table_returns_what_was_written(tmp_path, landmarks):
    written = predictions(landmarks)
    write_predictions(tmp_path / "oof.csv", written)
    read = read_predictions(tmp_path / "oof.csv")
    assert read.experiment == "wing"
    pd.testing.assert_frame_equal(read.knees, written.knees, check_dtype=False)
    assert read.knees.subject_id[0] == "000"  # not a number
    np.testing.assert_allclose(read.points, written.points, atol=1e-5)
    np.testing.assert_allclose(read.truth, written.truth, atol=1e-5)
    header = (tmp_path / "oof.csv").read_text().splitlines()[0].split(",")
    assert len(header) == 6 + 64
    assert header[6:10] == ["x0", "y0", "x1", "y1"]
    assert header[-2:] == ["tx15", "ty15"]
    assert list(tmp_path.iterdir()) == [tmp_path / "oof.csv"]


def test_errors_are_in_millimetres_of_each_knee():
    knees = predictions(count=2)
    knees.knees["mm_per_px"] = [0.5, 2.0]
    moved = Predictions("wing", knees.knees, knees.truth + [3.0, 4.0], knees.truth)
    np.testing.assert_allclose(moved.errors_mm, [[2.5] * 16, [10.0] * 16])


def test_a_doubled_knee_is_not_written(tmp_path):
    twice = predictions()
    twice.knees.loc[1, "side"] = "L"
    with pytest.raises(PredictionError, match="1 knees are predicted more than once: 000 L"):
        write_predictions(tmp_path / "oof.csv", twice)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("side", "left", "line 3: side is 'left', must be one of L, R"),
        ("kl", "5", "line 3: kl is '5', must be one of 0, 1, 2, 3, 4"),
        ("mm_per_px", "", "line 3: mm_per_px is '', must be a finite number"),
        ("mm_per_px", "-1", "line 3: mm_per_px is '-1', must be positive"),
        ("x7", "", "line 3: x7 is '', must be a finite number"),
        ("ty15", "inf", "line 3: ty15 is 'inf', must be a finite number"),
        ("experiment", "other", "holds the experiments other, wing; must be one a file"),
        ("side", "L", "1 knees are there more than once: 000 L"),
        ("subject_id", "", "line 3: subject_id is '', must not be empty"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, column, value, words):
    path = tmp_path / "oof.csv"
    write_predictions(path, predictions())
    table = pd.read_csv(path, dtype=str)
    table.loc[1, column] = value
    table.to_csv(path, index=False)
    with pytest.raises(PredictionError, match=r"oof\.csv") as error:
        read_predictions(path)
    assert words in str(error.value)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "oof.csv"
    for text, words in (("", "no table"), ("a,b\n1,2\n", "no column experiment, fold"), ('a\n"', "no table")):
        path.write_text(text)
        with pytest.raises(PredictionError, match=words):
            read_predictions(path)
    write_predictions(path, predictions())
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(PredictionError, match="holds no knee"):
        read_predictions(path)
