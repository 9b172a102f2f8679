"""The command that judges readings of annotated films."""

import importlib
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from deepknee.unseen import Training
from deepknee.weights import WeightsError
from kneel.engine.folds import subject_marks
from kneel.imaging.cohort import CohortFilm
from kneel.imaging.schema import KneeAnnotation

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
