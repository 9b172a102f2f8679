"""Evaluation against loops and hand values: figures, comparisons, tables."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from graded_tables import made_up

from deepknee.calibration import mean_probabilities
from deepknee.conformal import Conformal
from deepknee.evaluate import WORDS, compare, evaluate, same_knees
from deepknee.metrics import chance_error, evaluation_metrics
from deepknee.predictions import (
    GradePredictions,
    PredictionTableError,
    read_predictions,
    write_predictions,
)
from deepknee.resample import resampled_metrics
from kneel.bootstrap import SubjectBootstrap


@pytest.mark.parametrize(("subjects", "seed"), [(3, 0), (25, 1)])
def test_resampled_figures_are_those_of_a_call_on_every_resample(subjects: int, seed: int) -> None:
    """Few knees and coarse probabilities: resamples lack grades, have ties and only one kind of knee."""
    one = made_up(subjects, seed)
    chances = np.random.default_rng(seed).multinomial(4, [0.2] * 5, len(one.grades)) / 4  # sums of quarters are exact
    score = chances[:, 2:].sum(1)
    assert set(score[one.grades >= 2]) & set(score[one.grades < 2]), "ties between healthy and diseased knees"
    bootstrap = SubjectBootstrap(one.subjects, resamples=30)
    found = resampled_metrics(chances, one.grades, bootstrap)
    assert set(found) == set(WORDS)
    looped = bootstrap.statistic(lambda rows: list(evaluation_metrics(chances[rows], one.grades[rows]).values()))
    for number, name in enumerate(evaluation_metrics(chances, one.grades)):
        np.testing.assert_allclose(found[name], looped[:, number], atol=1e-12, err_msg=name)


def test_kappa_of_resamples_of_one_grade_is_zero_as_elsewhere() -> None:
    one = made_up(4)
    bootstrap = SubjectBootstrap(one.subjects, resamples=5)
    chances, grades = np.tile([0.0, 1, 0, 0, 0], (8, 1)), np.full(8, 1)
    found = resampled_metrics(chances, grades, bootstrap)
    assert found["kappa"].tolist() == [0] * 5
    assert np.isnan(found["auc_oa"]).all()


def test_evaluation_holds_every_figure_with_an_interval_around_it() -> None:
    one = made_up()
    table = evaluate(one, resamples=200, splits=2).table
    grading = table[table.group == "grading"]
    assert grading.figure.tolist() == list(WORDS.values())
    by_hand = (one.probabilities.argmax(1) == one.grades).mean()
    assert grading.value.iloc[0] == by_hand
    inside = grading[grading.figure != "expected calibration error"]
    assert ((inside.low <= inside.value + 1e-9) & (inside.value <= inside.high + 1e-9)).all()
    crossed = table[table.group == "cross-fitted"].set_index("figure").value
    assert sum(crossed[f"sets of {count}"] for count in range(1, 6)) == pytest.approx(1)
    sizes = sum(count * crossed[f"sets of {count}"] for count in range(1, 6))
    assert crossed["grades in a set"] == pytest.approx(sizes)
    assert crossed["abstained"] == pytest.approx(sum(crossed[f"sets of {count}"] for count in (3, 4, 5)))
    assert np.mean([crossed[f"coverage, KL {k}"] for k in range(5)]) == pytest.approx(crossed["coverage"])
    assert "stored sets" not in set(table.group)


def test_stored_sets_are_counted_by_hand() -> None:
    one = made_up(10)
    sets = np.eye(5, dtype=bool)[one.grades]
    sets[:4] = True  # too large
    sets[4] = ~sets[4]  # misses the truth with four grades
    given = replace(one, sets=sets, abstain=sets.sum(1) > 2)
    table = evaluate(given, resamples=50, splits=1).table
    stored = table[table.group == "stored sets"].set_index("figure").value
    right = one.probabilities.argmax(1) == one.grades
    assert stored["coverage"] == pytest.approx(19 / 20)
    assert stored["abstained"] == pytest.approx(5 / 20)
    assert stored["grades in a set"] == pytest.approx((4 * 5 + 4 + 15) / 20)
    assert stored["accuracy where abstained"] == pytest.approx(right[:5].mean())
    assert stored["accuracy where not abstained"] == pytest.approx(right[5:].mean())


def test_chance_error_is_that_of_many_draws_at_its_closed_form() -> None:
    """Knees all of confidence c in one bin: the error is |share right - c|, mean about sqrt(2 c (1 - c) / (pi N))."""
    chances = np.tile([0.7, 0.3, 0, 0, 0], (400, 1))
    assert chance_error(chances).mean() == pytest.approx(np.sqrt(2 * 0.21 / (np.pi * 400)), rel=0.1)


def test_a_model_against_itself_and_against_a_worse_one() -> None:
    good = evaluate(made_up(40), resamples=200, splits=1)
    bad_chances = np.roll(good.predictions.probabilities, 1, axis=0)
    bad = evaluate(
        replace(good.predictions, model="b", probabilities=bad_chances, members=None), resamples=200, splits=1
    )
    same = compare(good, good)
    assert (same[["difference", "low", "high"]].dropna() == 0).all(axis=None)
    assert not same.differ.any()
    kappa = compare(good, bad).set_index("figure").loc["quadratic kappa"]
    assert kappa.difference == pytest.approx(kappa["first"] - kappa.second)
    assert kappa.low > 0
    assert kappa.differ


def test_knees_are_brought_into_one_order_and_others_are_refused() -> None:
    first = made_up()
    order = np.random.default_rng(1).permutation(60)
    members = first.members
    assert members is not None
    shuffled = GradePredictions("b", first.knees.iloc[order], first.probabilities[order], members[:, order])
    again = same_knees(first, shuffled)
    np.testing.assert_array_equal(again.probabilities, first.probabilities)
    np.testing.assert_array_equal(again.members, first.members)
    assert again.knees.knee.tolist() == first.knees.knee.tolist()
    fewer = GradePredictions("b", first.knees.iloc[1:], first.probabilities[1:])
    with pytest.raises(PredictionTableError, match=r"different knees: 1 only in a, as 0L\.png"):
        same_knees(first, fewer)
    other = replace(
        first, model="b", knees=first.knees.assign(true_kl=first.knees.true_kl.where(first.knees.index > 2, 4))
    )
    with pytest.raises(PredictionTableError, match="true_kl of 3 knees differs"):
        same_knees(first, other)
    with pytest.raises(PredictionTableError, match="another order"):
        compare(*(evaluate(each, resamples=5, splits=1) for each in (first, shuffled)))


def test_table_round_trip(tmp_path: Path) -> None:
    one = made_up()
    sets = Conformal(threshold=0.7, networks=2).sets(one.probabilities)
    one = replace(one, sets=sets, abstain=sets.sum(1) > 2)
    write_predictions(tmp_path / "p.csv", one)
    read = read_predictions(tmp_path / "p.csv")
    np.testing.assert_allclose(read.probabilities, one.probabilities, atol=1e-9)
    np.testing.assert_allclose(read.members, one.members, atol=1e-9)  # type: ignore[arg-type]
    np.testing.assert_array_equal(read.sets, one.sets)
    np.testing.assert_array_equal(read.abstain, one.abstain)
    pd.testing.assert_frame_equal(read.knees, one.knees, check_dtype=False)
    bare = replace(one, members=None, sets=None, abstain=None)
    write_predictions(tmp_path / "p.csv", bare)
    read = read_predictions(tmp_path / "p.csv")
    assert (read.members, read.sets, read.abstain) == (None, None, None)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("true_kl", "kl", "no column true_kl"),
        ("m1_p4", "m1_px", "no column m1_p4"),
        ("0L.png,s0,L,0", "0L.png,s0,L,5", "line 2: true_kl is '5', must be one of 0, 1, 2, 3, 4"),
        ("0R.png", "0L.png", r"1 knees are there more than once: 0L\.png"),
        ("\na,0L", "\nb,0L", "holds the models a, b"),
        ("s0,L,0,0.", "s0,L,0,7.", "line 2: p0 is '7.*', must be a number from 0 to 1"),
        ("s0,L,0,", "s0,L,0,0,0", "no table of predictions|must"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, old: str, new: str, words: str) -> None:
    write_predictions(tmp_path / "p.csv", made_up(5))
    text = (tmp_path / "p.csv").read_text()
    assert old in text
    (tmp_path / "p.csv").write_text(text.replace(old, new, 1))
    with pytest.raises(PredictionTableError, match=words):
        read_predictions(tmp_path / "p.csv")


def test_probabilities_of_another_model_than_the_answers_are_refused(tmp_path: Path) -> None:
    """Else the figures of the grading would be of one model and those of calibration, in one report, of another."""
    one = made_up(5)
    assert one.members is not None
    write_predictions(tmp_path / "p.csv", replace(one, probabilities=mean_probabilities(one.members, 3.0)))
    with pytest.raises(PredictionTableError, match=r"line 2: p0 is .* must be the means of m0_p0 to m0_p4"):
        read_predictions(tmp_path / "p.csv")
    write_predictions(tmp_path / "p.csv", replace(one, probabilities=one.probabilities.round(4)))
    assert read_predictions(tmp_path / "p.csv").members is not None
