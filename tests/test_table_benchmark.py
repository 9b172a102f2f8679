"""The arithmetic of benchmarks/table_on_one_gpu.py, by hand."""

import argparse
from pathlib import Path

import pytest

from kneel.engine.config import load_config
from kneel.experiment import LandmarkExperiment

ROOT = Path(__file__).resolve().parents[1]


def test_hours_are_pictures_over_rates(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import table_on_one_gpu as table

    rows = {
        name: load_config(ROOT / "hc_experiments" / f"{name}.yaml", LandmarkExperiment)
        for name in ("multiscale_wing", "multiscale_l1", "multiscale_wing_mixup", "multiscale_wing_swa")
    }
    costs = {name: table.cost(row) for name, row in rows.items()}
    assert costs["multiscale_wing"] == costs["multiscale_l1"] == costs["multiscale_wing_swa"]
    assert costs["multiscale_wing"] != costs["multiscale_wing_mixup"]
    given = argparse.Namespace(knees=1000, folds=5, size="recipe")
    # 100 epochs of 800 pictures in each of five folds, and 200 to judge
    assert table.pictures(rows["multiscale_wing"], given) == (400_000, 100_000)
    swa = rows["multiscale_wing_swa"].training
    averages = (swa.epochs - swa.swa_start) // swa.swa_frequency
    assert table.pictures(rows["multiscale_wing_swa"], given) == (400_000, 100_000 + 5 * 800 * averages)
    rates = table.together([table.Rates(50, 200, 500, 3), table.Rates(60, 100, 400, 4)])
    assert rates == table.Rates(trained=100, judged=200, loaded=800, memory=4)
    pair = {name: rows[name] for name in ("multiscale_wing", "multiscale_l1")}
    words = table.forecast(pair, [list(pair)], [rates], given)
    assert float(words.split(" h ")[0]) == pytest.approx(2 * (4000 + 500) / 3600, abs=0.05)
    assert "does not fit" in table.forecast(pair, [list(pair)], [None], given)


def test_every_row_can_be_made_small(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import table_on_one_gpu as table

    given = argparse.Namespace(size="small", compile=True, workers=0)
    for path in (ROOT / "hc_experiments").glob("*.yaml"):
        row = load_config(path, LandmarkExperiment)
        small = LandmarkExperiment.model_validate_json(table.resized(row, given))
        assert small.roi.size == (64, 64)
        assert small.training.compile
        assert small.loss == row.loss
