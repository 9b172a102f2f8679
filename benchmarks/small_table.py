#!/usr/bin/env python
"""The rows of hc_experiments/ at a size for a laptop: annotated crops, not OAI films, a small network, few epochs.

Every row keeps what it is about (loss, blocks, squeeze-and-excitation, mixup, weight decay, cutout, jitter, averaging);
spacing, size, width and epochs are replaced, milestones and the start of averaging move with the epochs. Rows that
start from joint-centre weights are left out. The outcome says how the switches work together in this code, not how the
paper's table comes out: that needs OAI's films. Runs are resumed; writes OUT/table.csv and OUT/table.md.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from kneel.engine.config import load_config
from kneel.experiment import LandmarkExperiment
from kneel.train import train_landmarks

ROWS = Path(__file__).resolve().parents[1] / "hc_experiments"


def main() -> None:
    """Train row after row; the tables grow as they end."""
    given = parse()
    torch.set_num_threads(given.threads)
    rows = [path for path in sorted(given.experiments.glob("*.yaml")) if path.stem != "base"]
    results: list[dict[str, Any]] = []
    for path in rows:
        full = load_config(path, LandmarkExperiment)
        if full.transfer is not None:
            continue
        began = time.process_time()
        experiment = LandmarkExperiment.model_validate_json(json.dumps(reduced(full, given)))
        result = train_landmarks(experiment, given.data_root, given.out, name=path.stem, resume=True)
        last = {name: value for name, value in result.history[-1].items() if name.endswith("mm") or name == "outliers"}
        results.append({"experiment": path.stem, **last, "cpu_minutes": (time.process_time() - began) / 60})
        table = pd.DataFrame(results).sort_values("error_mm").round(3)
        table.to_csv(given.out / "table.csv", index=False)
        lines = [table.columns, ["---"] * len(table.columns), *table.astype(str).to_numpy()]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
        (given.out / "table.md").write_text(text, encoding="utf-8")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", type=Path, required=True, help="folder with the table of crops and the pictures")
    parser.add_argument("--table", default="chen2018_landmarks.csv", help="table of crops (default: %(default)s)")
    parser.add_argument("--images", default="chen2018", help="folder of the pictures (default: %(default)s)")
    parser.add_argument("--experiments", type=Path, default=ROWS, help="folder of rows (default: hc_experiments)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs and the tables")
    parser.add_argument("--epochs", type=int, default=10, help="instead of 100 (default: %(default)s)")
    parser.add_argument("--width", type=int, default=8, help="instead of 24 (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    return parser.parse_args()


def reduced(full: LandmarkExperiment, given: argparse.Namespace) -> dict[str, Any]:
    """Make an experiment small."""
    settings = full.model_dump(mode="json", exclude_unset=True)
    training = settings["training"]
    share = given.epochs / full.training.epochs
    training |= {"epochs": given.epochs, "num_workers": 0}
    training["milestones"] = sorted({max(1, round(each * share)) for each in full.training.milestones})
    if full.training.swa_start is not None:
        training["swa_start"] = round(full.training.swa_start * share)
    data = {"source": "crops", "table": given.table, "images": given.images}
    roi = {"spacing_mm": 0.9, "size": [160, 160], "margin": 0.2}
    model = settings.get("model", {}) | {"width": given.width, "depth": 3}
    return settings | {"data": data, "roi": roi, "model": model, "training": training}


if __name__ == "__main__":
    main()
