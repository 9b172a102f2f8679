#!/usr/bin/env python
"""Make one table over all runs of a work folder: mean ± SD of every metric over folds and seeds.

Writes to --out (default: WORKDIR/summary):
  summary.md           start here: a table a task, the best experiment by its own metric first; what was left out
  summary.csv          the same, a row for each experiment and metric, with minimum and maximum
  runs.csv             every run by itself
  TASK.tex             LaTeX (booktabs), a table a task
  TASK_METRIC.png      a picture a metric: a dot a run, mean and SD
Each run counts with its best epoch. Runs NAME_seed_S that differ in nothing but their seed are one experiment NAME.
Runs that are not complete are left out, and listed. The metrics are those of the validation part, which also chose the
epoch: for figures of unseen knees see oof_inference.py (landmarks), and evaluate_kl.py (grades).

Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from kneel.engine.atomic import write_atomic
from kneel.engine.summary import Run, best_first, draw_metric, group, read_runs, summarize
from kneel.engine.tables import latex, markdown

NOTICE = "Research use only. Not a medical device."
WORDS = """Mean ± standard deviation over the runs (folds × seeds) of the validation metrics at each run's best epoch.
Folds share training data, and the epoch was chosen by the same knees: the SD is no standard error, and the means are a
little too good."""


def main(words: Sequence[str] | None = None) -> int:
    """Summarise; 0 when done, 2 when there is no complete run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir", type=Path, metavar="WORKDIR", help="where all runs are")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the tables go (default: WORKDIR/summary)")
    given = parser.parse_args(words)
    runs, left_out = read_runs(given.workdir)
    if not runs:
        print(f"summarize_experiments: {given.workdir}: no complete run NAME/fold_K in it", file=sys.stderr)
        for folder, why in left_out.items():
            print(f"  {folder}: {why}", file=sys.stderr)
        return 2
    out = given.out or given.workdir / "summary"
    out.mkdir(parents=True, exist_ok=True)
    write_summary(out, runs, {str(folder.relative_to(given.workdir)): why for folder, why in left_out.items()})
    print(f"{len(runs)} run(s), {len(left_out)} left out. Open {out / 'summary.md'}")
    return 0


def write_summary(out: Path, runs: list[Run], left_out: dict[str, str]) -> None:
    """Write all files."""
    groups = group(runs)
    summary = summarize(groups)
    write_csv(out / "summary.csv", summary)
    write_csv(out / "runs.csv", run_table(groups))
    text = ["# Experiments", f"*{NOTICE}*", WORDS]
    for task in sorted(set(summary.task)):
        names = best_first(groups, task)
        table = wide(summary[summary.task == task], names)
        write_atomic(out / f"{task}.tex", f"% {NOTICE} Needs the package booktabs.\n{latex(table)}".encode())
        text += [f"## {task}", markdown(table)]
        for metric in table.columns[4:]:
            picture = io.BytesIO()
            draw_metric(groups, names, metric).savefig(picture, format="png", dpi=130)
            write_atomic(out / f"{task}_{metric}.png", picture.getvalue())
            text.append(f"![{metric}]({task}_{metric}.png)")
    if left_out:
        text += ["## Left out", "\n".join(f"- {folder}: {why}" for folder, why in left_out.items())]
    write_atomic(out / "summary.md", ("\n\n".join(text) + "\n").encode())


def wide(summary: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """One row an experiment and one column a metric."""
    rows = []
    for name in names:
        part = summary[summary.experiment == name]
        first = part.iloc[0]
        counts = {"experiment": name, "runs": first.runs, "folds": first.folds, "seeds": first.seeds}
        cells = {
            row.metric: f"{row.mean:.3f}" + ("" if pd.isna(row.sd) else f" ± {row.sd:.3f}") for row in rows_of(part)
        }
        rows.append({**counts, **cells})
    return pd.DataFrame(rows).fillna("")


def rows_of(table: pd.DataFrame) -> list:
    """Rows as objects; ``mean`` would otherwise be the method of the table."""
    return list(table.itertuples(index=False, name="Row"))


def run_table(groups: dict[str, list[Run]]) -> pd.DataFrame:
    """One row a run."""
    rows = []
    for name, runs in groups.items():
        for run in runs:
            known = {"task": run.task, "experiment": name, "run": run.name, "fold": run.fold, "seed": run.seed}
            rows.append({**known, "best_epoch": run.epoch, **run.metrics})
    return pd.DataFrame(rows)


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table."""
    write_atomic(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode())


if __name__ == "__main__":
    sys.exit(main())
