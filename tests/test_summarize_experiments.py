"""The table over all runs, against values worked out by hand."""

import json
import statistics
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def main(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import summarize_experiments

    return summarize_experiments.main


def write_run(workdir, name, fold, error, *, seed=1, epoch=2, at=3, lr=0.1, task="hc", sdr=None, epochs=3, begun=3):
    """A run of `epochs`, which was asked for `begun` of them when its best epoch was written."""
    folder = workdir / name / f"fold_{fold}"
    folder.mkdir(parents=True)
    training = {"epochs": begun, "seed": seed, "monitor": "error_mm", "mode": "min", "learning_rate": lr}
    metrics = {"learning_rate": lr, "train_loss": 0.5, "error_mm": error, "sdr_1mm": sdr}
    metrics |= {"error_mm_low": error - 1, "error_mm_high": error + 1}
    best = {"task": task, "name": name, "fold": fold, "experiment": {"loss": "wing", "transfer": None}}
    (folder / "best.json").write_text(json.dumps({**best, "training": training, "epoch": epoch, "metrics": metrics}))
    last = {"training": training | {"epochs": epochs}, "epoch": at}
    (folder / "last.json").write_text(json.dumps(last))


def test_mean_and_spread_over_folds_and_seeds(tmp_path, main, capsys):
    errors = {("a_b", 1, 0): 1.0, ("a_b", 1, 1): 2.0, ("a_b", 2, 0): 4.0, ("a_b", 2, 1): 8.0}
    for (name, seed, fold), error in errors.items():
        write_run(tmp_path, f"{name}_seed_{seed}", fold, error, seed=seed, sdr=50 * (fold + 1))
    write_run(tmp_path, "better", 0, 0.5)
    write_run(tmp_path, "centre", 0, 3.0, task="lc")
    write_run(tmp_path, "unfinished", 0, 9.0, at=2)
    (tmp_path / "failed" / "fold_0").mkdir(parents=True)
    (tmp_path / "failed" / "fold_0" / "job.json").write_text('{"state": "failed", "reason": "no such film"}')
    assert main([str(tmp_path)]) == 0
    out = tmp_path / "summary"
    table = pd.read_csv(out / "summary.csv").set_index(["experiment", "metric"])
    row = table.loc[("a_b", "error_mm")]
    assert row["mean"] == 3.75
    assert row["sd"] == pytest.approx(statistics.stdev(errors.values()), rel=1e-5)
    assert (row["runs"], row["folds"], row["seeds"], row["min"], row["max"]) == (4, 2, 2, 1.0, 8.0)
    assert pd.isna(table.loc[("better", "error_mm"), "sd"])
    assert "unfinished" not in table.index
    assert "learning_rate" not in table.index.get_level_values("metric")
    text = (out / "summary.md").read_text()
    assert text.index("| better | 1 | 1 | 1 | 0.500 |") < text.index(
        "| a_b | 4 | 2 | 2 | 3.750 ± 3.096 | 75.000 ± 28.868 |"
    )
    assert "- failed/fold_0: no best.json; failed: no such film" in text
    assert "- unfinished/fold_0: at epoch 2 of 3" in text
    assert r"a\_b & 4 & 2 & 2 & 3.750 $\pm$ 3.096" in (out / "hc.tex").read_text()
    assert {path.name for path in out.glob("*.png")} == {
        f"{task}_{metric}.png" for task in ("hc", "lc") for metric in ("error_mm", "sdr_1mm")
    }
    assert len(pd.read_csv(out / "runs.csv")) == 6
    assert "6 run(s), 2 left out" in capsys.readouterr().out


def test_runs_that_differ_in_more_than_the_seed_are_kept_apart(tmp_path, main):
    write_run(tmp_path, "a_seed_1", 0, 1.0, seed=1)
    write_run(tmp_path, "a_seed_2", 0, 2.0, seed=2, lr=0.5)
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert set(pd.read_csv(tmp_path / "out" / "summary.csv").experiment) == {"a_seed_1", "a_seed_2"}


def test_a_run_that_was_given_more_epochs_is_complete_when_these_are_over(tmp_path, main):
    """Both have the best epoch of when three were asked for; one has its ten, the other stopped again."""
    write_run(tmp_path, "a", 0, 1.0, at=10, epochs=10)
    write_run(tmp_path, "a", 1, 2.0, at=4, epochs=10)
    assert main([str(tmp_path)]) == 0
    assert pd.read_csv(tmp_path / "summary" / "runs.csv").fold.tolist() == [0]
    assert "- a/fold_1: at epoch 4 of 10" in (tmp_path / "summary" / "summary.md").read_text()


def test_seeds_are_of_one_experiment_whenever_their_best_epochs_were_written(tmp_path, main):
    """The first was given more epochs and its best one is older; the second was asked for all of them at once."""
    write_run(tmp_path, "a_seed_1", 0, 1.0, seed=1, at=10, epochs=10)
    write_run(tmp_path, "a_seed_2", 0, 2.0, seed=2, at=10, epochs=10, begun=10)
    assert main([str(tmp_path)]) == 0
    assert set(pd.read_csv(tmp_path / "summary" / "summary.csv").experiment) == {"a"}


def test_a_metric_that_some_runs_lack_is_summed_up_over_the_others(tmp_path, main):
    write_run(tmp_path, "a", 0, 1.0, sdr=None)
    write_run(tmp_path, "a", 1, 1.0, sdr=40)
    assert main([str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "summary" / "summary.csv").set_index("metric")
    assert table.loc["sdr_1mm", "mean"] == 40


def test_an_empty_folder_is_refused(tmp_path, main, capsys):
    (tmp_path / "a" / "fold_0").mkdir(parents=True)
    assert main([str(tmp_path)]) == 2
    assert "no complete run" in capsys.readouterr().err
