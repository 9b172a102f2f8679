#!/usr/bin/env python
"""Turn weights that KNEEL's authors trained into snapshots that `deepknee read --weights OUT` uses.

Writes OUT/NAME_fold_K.safetensors (with a readable .json) for every fold; NAME is the name of the experiment file.

Reading needs to know how wide the heat maps of these networks are on ordinary knees, to tell knees from noise. The
authors' files do not say: give --data_root, and the width is measured on the pictures of the experiment (all of them;
their errors are not measured, because nobody knows which knees a fold was trained on), or state it with --spread-mm.
The mean knee of the landmark stage is that of KNEEL's annotations (kneel/phantom/shape_statistics.json).

Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from kneel.augment import validation_transform
from kneel.authors import load_landmark_experiment
from kneel.convert import ConversionError, build, describe, read_mean_std
from kneel.dataset import LandmarkDataset
from kneel.engine.config import ConfigError
from kneel.engine.snapshot import save_snapshot
from kneel.experiment import LandmarkExperiment
from kneel.imaging.radiograph import RadiographError
from kneel.imaging.schema import AnnotationError
from kneel.network import LandmarkNet
from kneel.phantom.shapes import draw_landmarks
from kneel.samples import load_samples
from kneel.shape import MeanShape

KNEES_A_GRADE = 150  # as in KNEEL's table
USER_ERRORS = (ConversionError, ConfigError, AnnotationError, RadiographError, FileNotFoundError)


def main() -> int:
    """Convert; 0 when done, 2 when a file cannot be converted."""
    arguments = parse()
    try:
        convert(arguments)
    except USER_ERRORS as error:
        print(f"convert_kneel: {error}", file=sys.stderr)
        return 2
    return 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fold", type=Path, nargs="+", required=True, metavar="FILE", help=".pth files of the authors")
    parser.add_argument(
        "--experiment", type=Path, required=True, metavar="YAML", help="what they were trained with, in either form"
    )
    parser.add_argument("--mean-std", type=Path, required=True, metavar="NPY", help="the authors' mean_std.npy")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the snapshots go")
    width = parser.add_mutually_exclusive_group(required=True)
    width.add_argument("--data_root", type=Path, metavar="DIR", help="data of the experiment: measure the heat maps")
    width.add_argument("--spread-mm", type=positive, metavar="MM", help="state the width of the heat maps")
    return parser.parse_args()


def positive(text: str) -> float:
    """Read a length above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def convert(arguments: argparse.Namespace) -> None:
    """Check every fold before the first snapshot is written."""
    experiment = load_landmark_experiment(arguments.experiment)
    mean_std = read_mean_std(arguments.mean_std)
    name, shape = arguments.experiment.stem, mean_knee() if experiment.task == "hc" else None
    converted = {}
    for path in arguments.fold:
        net, network = build(path, experiment, mean_std)
        if arguments.data_root is None:
            spread, source = arguments.spread_mm, "stated"
        else:
            spread, count = measure(net, experiment, arguments.data_root)
            source = f"measured on {count} pictures of the experiment"
        meta = describe(path, experiment, network, name=name, spread_mm=spread, spread_from=source, shape=shape)
        target = arguments.out / f"{name}_fold_{meta['fold']}.safetensors"
        if target in converted:
            raise ConversionError(f"{path}: two files of fold {meta['fold']}")
        converted[target] = net.state_dict(), meta
    arguments.out.mkdir(parents=True, exist_ok=True)
    for target, (weights, meta) in converted.items():
        save_snapshot(target, weights, meta)
        print(f"{target}: fold {meta['fold']}, heat maps {meta['metrics']['spread_mm']:.3g} mm ({meta['spread_from']})")


@torch.inference_mode()
def measure(net: LandmarkNet, experiment: LandmarkExperiment, data_root: Path) -> tuple[float, int]:
    """Return the mean width of the heat maps, mm, and over how many pictures."""
    roi = experiment.roi
    samples = load_samples(
        data_root, experiment.data, "train", experiment.task, spacing_mm=roi.spacing_mm, margin=roi.margin
    )
    dataset = LandmarkDataset(samples, validation_transform(roi.size))
    spreads = [net(dataset[i]["picture"][None]).spread for i in tqdm(range(len(dataset)), desc="knees", unit="knee")]
    return float(torch.cat(spreads).mean()) * roi.spacing_mm, len(dataset)


def mean_knee() -> MeanShape:
    """Mean of knees drawn from the statistics of KNEEL's annotations, as many of each grade as there."""
    rng = np.random.default_rng(0)
    return MeanShape.of(draw_landmarks(kl, rng)[0] for kl in range(5) for _ in range(KNEES_A_GRADE))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())
