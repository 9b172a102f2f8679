"""The figures of shapes that ship are those of KNEEL's table."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from doors import script

from kneel.phantom.shapes import STATISTICS

TABLE = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "kneel" / "bf_landmarks_1_0.3.csv"


@pytest.mark.skipif(not TABLE.is_file(), reason="needs KNEEL's annotation table, which is not ours to ship")
def test_the_figures_that_ship_come_from_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["fit_shape_statistics.py", str(TABLE), "--out", str(out)])
    script("data_stuff/fit_shape_statistics").main()
    made, shipped = (json.loads(path.read_text(encoding="utf-8")) for path in (out, STATISTICS))
    assert {key: made[key] for key in made if key != "grades"} == {k: shipped[k] for k in shipped if k != "grades"}
    assert sum(grade["n"] for grade in made["grades"]) == 748
    for grade, wanted in zip(made["grades"], shipped["grades"], strict=True):
        assert grade["n"] == wanted["n"]
        for name, one in wanted["narrowed"].items():
            assert grade["narrowed"][name]["share"] == one["share"]
            np.testing.assert_allclose(grade["narrowed"][name]["mean"], one["mean"], atol=0.0015)
        np.testing.assert_allclose(grade["sd"], wanted["sd"], atol=0.00015)
        # a mode may come out the other way round
        likeness = np.abs((np.array(grade["modes"]) * wanted["modes"]).sum(1))
        np.testing.assert_allclose(likeness, 1, atol=0.001)
