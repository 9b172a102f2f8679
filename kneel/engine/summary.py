"""One table over all runs of a work folder: the best epoch of each, mean and spread over folds and seeds."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from kneel.engine.board import quantities
from kneel.engine.same import flat

_PER_SEED = {"training.seed", "training.threads", "experiment.transfer", "experiment.ensemble"}


@dataclass(frozen=True)
class Run:
    """The best epoch of one fold of one experiment with one seed.

    Attributes
    ----------
    experiment
        Name of the experiment, without ``_seed_S`` where that is how its seed is named.
    name
        Name of the run.
    task, fold, seed, epoch
        As its snapshot says.
    monitor, mode
        What chose the epoch.
    metrics
        Value by name; NaN where it has none.
    settings
        All that runs of one experiment have in common, flat.
    """

    experiment: str
    name: str
    task: str
    fold: int
    seed: int
    epoch: int
    monitor: str
    mode: str
    metrics: Mapping[str, float]
    settings: Mapping[str, Any]


def read_runs(workdir: Path) -> tuple[list[Run], dict[Path, str]]:
    """
    Read all runs of a work folder.

    Parameters
    ----------
    workdir
        Holds ``NAME/fold_K``.

    Returns
    -------
    runs
        Those that are complete, by name and fold.
    left_out
        Folders of the others, each with why.
    """
    runs, left_out = [], {}
    for folder in sorted(workdir.glob("*/fold_*"), key=lambda path: (path.parent.name, len(path.name), path.name)):
        try:
            runs.append(_read_run(folder))
        except (OSError, KeyError, TypeError, ValueError) as error:
            left_out[folder] = str(error)
    return runs, left_out


def _read_run(folder: Path) -> Run:
    best, last = (_read(folder / name) for name in ("best.json", "last.json"))
    training = last["training"]  # as asked for last: the best epoch may be older than epochs that were added later
    if last["epoch"] < training["epochs"]:
        raise ValueError(f"at epoch {last['epoch']} of {training['epochs']}")
    name, seed = folder.parent.name, training["seed"]
    common = flat({"experiment": best["experiment"], "training": training})
    shown = {key: best["metrics"][key] for key in quantities(best["metrics"])}  # the ends of intervals are no metrics
    metrics = {key: float("nan") if value is None else float(value) for key, value in shown.items()}
    for ours in ("learning_rate", "train_loss"):
        metrics.pop(ours, None)
    return Run(
        name.removesuffix(f"_seed_{seed}"),
        name,
        best["task"],
        int(folder.name.removeprefix("fold_")),
        seed,
        best["epoch"],
        training["monitor"],
        training["mode"],
        metrics,
        {key: value for key, value in common.items() if key not in _PER_SEED},
    )


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        state = path.with_name("job.json")
        what = json.loads(state.read_text(encoding="utf-8")) if state.exists() else {}
        raise ValueError(f"no {path.name}" + (f"; {what['state']}: {what['reason']}" if what.get("reason") else ""))
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is no snapshot's")
    return content


def group(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """
    Put the runs of one experiment together: its folds, and its seeds if they differ in nothing else.

    Parameters
    ----------
    runs
        From `read_runs`.

    Returns
    -------
    dict
        Runs by experiment; where runs of one name have other settings they go by their full names.
    """
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.experiment, []).append(run)
    groups: dict[str, list[Run]] = {}
    for name, members in found.items():
        alike = all(one.settings == members[0].settings for one in members)
        for run in members:
            groups.setdefault(name if alike else run.name, []).append(run)
    return groups


def summarize(groups: Mapping[str, list[Run]]) -> pd.DataFrame:
    """
    Work out mean and spread of every metric.

    Parameters
    ----------
    groups
        From `group`.

    Returns
    -------
    DataFrame
        One row for each experiment and metric: ``task``, ``experiment``, ``folds``, ``seeds``, ``runs``, ``metric``,
        ``mean``, ``sd`` (n - 1; NaN of a single run), ``min``, ``max``, of the runs that have a value.
    """
    rows = []
    for name, runs in groups.items():
        values = pd.DataFrame([run.metrics for run in runs])
        common = {
            "task": runs[0].task,
            "experiment": name,
            "folds": len({run.fold for run in runs}),
            "seeds": len({run.seed for run in runs}),
            "runs": len(runs),
        }
        for metric in values:
            column = values[metric]
            figures = {"mean": column.mean(), "sd": column.std(), "min": column.min(), "max": column.max()}
            rows.append({**common, "metric": metric, **figures})
    return pd.DataFrame(rows)


def best_first(groups: Mapping[str, list[Run]], task: str) -> list[str]:
    """
    Order the experiments of a task by the mean of the metric that chooses their epochs.

    Parameters
    ----------
    groups
        From `group`.
    task
        Such as ``hc``.
    """

    def key(name: str) -> tuple[str, float]:
        runs = groups[name]
        mean = sum(run.metrics[run.monitor] for run in runs) / len(runs)
        return runs[0].monitor, mean if runs[0].mode == "min" else -mean

    return sorted((name for name, runs in groups.items() if runs[0].task == task), key=key)


def draw_metric(groups: Mapping[str, list[Run]], names: list[str], metric: str) -> Figure:
    """
    Draw one metric of several experiments: a dot a run, mean and standard deviation.

    Parameters
    ----------
    groups
        From `group`.
    names
        Experiments, from above to below.
    metric
        Name of the metric.
    """
    figure = Figure(figsize=(8, 1.2 + 0.28 * len(names)), layout="constrained")
    axis = figure.subplots()
    for place, name in enumerate(names):
        values = pd.Series([run.metrics.get(metric, float("nan")) for run in groups[name]])
        axis.plot(values, [place] * len(values), "o", color="#56B4E9", markersize=4, alpha=0.8)
        spread = values.std() if values.count() > 1 else None
        axis.errorbar(values.mean(), place, xerr=spread, fmt="|", color="black", markersize=10, capsize=3)
    axis.set(yticks=range(len(names)), yticklabels=names, xlabel=metric)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(axis="x", alpha=0.3)
    return figure
