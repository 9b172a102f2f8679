"""The command that judges readings of annotated films."""

import importlib
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from deepknee.unseen import Training
from deepknee.weights import WeightsError
from kneel.engine.folds import subject_marks
from kneel.imaging.cohort import CohortFilm
from kneel.imaging.radiograph import Radiograph
from kneel.imaging.schema import CENTER, KneeAnnotation

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def test_weights_may_lie_in_several_folders(tmp_path, monkeypatch, capsys):
    """As those of the authors do: converted ones in one folder, the rest in another."""
    monkeypatch.syspath_prepend(SCRIPTS)
    script = importlib.import_module("evaluate_cohort")
    asked = []

    def load(weights, device):
        asked.extend(weights)
        raise WeightsError("none here")

    monkeypatch.setattr(script, "load_reader", load)
    words = ["--cohort", "c", "--out", str(tmp_path), "--weights", "a", "--weights", "b"]
    monkeypatch.setattr(sys, "argv", ["evaluate_cohort.py", *words])
    assert script.main() == 2
    assert asked == [Path("a"), Path("b")]
    assert capsys.readouterr().err == "evaluate_cohort: none here\n"


@pytest.mark.parametrize(
    ("trained_on", "words"),
    [
        (["9000001", "x"], r"Grades: \*\*These are not unseen knees\*\*.*1 of its 2 subjects: 9000001;"),
        (["9000003"], r"Grades: None of these subjects was in the training of a network\."),
        (None, r"Grades: .*cannot be checked: 1 of 1 snapshots do not note theirs, as there\."),
    ],
)
def test_the_summary_says_whether_the_graders_know_the_knees(trained_on, words, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(SCRIPTS)
    script = importlib.import_module("evaluate_cohort")
    films = []
    for subject in ("9000001", "9000002"):
        knees = tuple(KneeAnnotation(subject, side, 2, np.zeros((16, 2)), (0, 0)) for side in "LR")
        films.append(CohortFilm(tmp_path / subject, subject, knees))
    training = Training("there", None if trained_on is None else subject_marks(trained_on))
    member = SimpleNamespace(training=training)
    reader = SimpleNamespace(grader=SimpleNamespace(members=[member]))
    monkeypatch.setattr(script, "load_reader", lambda *_: reader)
    monkeypatch.setattr(script, "read_cohort", lambda _: films)
    monkeypatch.setattr(script, "RESAMPLES", 10)
    unread = {"kl": 2, "found": False, "problem": "not read"}
    monkeypatch.setattr(
        script,
        "evaluate_film",
        lambda film, _: [unread | {"subject_id": film.subject_id, "side": side} for side in "LR"],
    )
    monkeypatch.setattr(sys, "argv", ["evaluate_cohort.py", "--cohort", "c", "--out", str(tmp_path / "out")])
    assert script.main() == 0
    assert re.search(words, (tmp_path / "out" / "summary.md").read_text())
    assert re.search(words, capsys.readouterr().out)


def test_figures_are_those_of_a_reading_that_is_off_by_known_millimetres(tmp_path, monkeypatch):
    """Three films: one knee missed, one invented, and one that is there although nobody annotated it."""
    monkeypatch.syspath_prepend(SCRIPTS)
    script = importlib.import_module("evaluate_cohort")
    spacing, middles = (0.5, 0.25), {"R": np.array((150.0, 200.0)), "L": np.array((450.0, 200.0))}
    scale = np.array(spacing[::-1])  # mm of x, of y
    shape = np.random.default_rng(3).uniform(-40, 40, (16, 2))
    shape[CENTER] = 0
    truth = {"both": {"R": 2, "L": 1}, "one": {"R": 3}, "half": {"R": 0}}
    named = {"both": "B", "one": "R", "half": "B"}
    read = {  # grade and how far off, in mm
        "both": {"R": (2, (3, 4))},
        "one": {"R": (1, (0, 1)), "L": (0, (0, 0))},
        "half": {"R": (0, (12, 0)), "L": (0, (0, 0))},
    }

    def knee(side, kl, off):
        points = shape + middles[side] + np.array(off) / scale
        return SimpleNamespace(side=side, kl=kl, landmarks=points, probabilities=np.eye(5)[kl])

    def annotated(subject):
        knees = truth[subject].items()
        return tuple(KneeAnnotation.from_film(subject, s, kl, shape + middles[s], spacing) for s, kl in knees)

    def look(grey, spacing_mm, parts, stage):
        return [SimpleNamespace(center=middles[side] + (2 / spacing[1], 0)) for _, side in parts]

    films = [CohortFilm(tmp_path / subject, subject, annotated(subject)) for subject in truth]
    knees = {subject: [knee(side, *said) for side, said in knees.items()] for subject, knees in read.items()}
    reader = SimpleNamespace(
        read=lambda path: SimpleNamespace(knees=knees[path.name]), localizer=SimpleNamespace(lc=None)
    )
    pixels = np.arange(400 * 600).reshape(400, 600).astype(np.uint16)
    monkeypatch.setattr(
        script, "read_radiograph", lambda path: Radiograph(pixels, spacing, "detector", named[path.name])
    )
    monkeypatch.setattr(script, "find_joint_centers", look)
    monkeypatch.setattr(script, "RESAMPLES", 10)
    table = pd.DataFrame([row for film in films for row in script.evaluate_film(film, reader)])
    table = table.reindex(columns=script.COLUMNS)
    rows = [(row.subject_id, row.side, row.found) for row in table.itertuples()]
    assert rows == [
        ("both", "R", True), ("both", "L", False), ("one", "R", True), ("one", "L", True), ("half", "R", True)
    ]  # fmt: skip
    assert table.e7.tolist() == pytest.approx([5, np.nan, 1, np.nan, 12], nan_ok=True)
    found = script.summarize(table).set_index("figure").value.to_dict()
    assert list(found.values()) == pytest.approx(
        [
            3 / 4,  # found
            2,  # joint centre, of the knee that was missed too
            2 / 4,  # within 10 mm
            (5 + 1 + 12) / 3,
            5,
            1 - 4 / (24 / 3),  # kappa of (2, 2), (3, 1), (0, 0): squares of the pairs, of all pairs of these
            2 / 4,  # grade right
            2 / 3,
            *(3, 4, 1, 0),  # subjects, knees, invented, films that cannot be read
        ]
    )
