"""The command that judges readings of annotated films."""

import importlib
import sys
from pathlib import Path

from deepknee.weights import WeightsError

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
