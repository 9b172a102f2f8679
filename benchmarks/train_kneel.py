#!/usr/bin/env python
"""Images a second of a training step of KNEEL's landmark network, and of its loader, beside the original's.

The network and the batch are those of hc_experiments/: multi-scale blocks, width 24, 16 landmarks, 448 x 448 (the
original: 450 x 450), batch 16, Adam, wing loss. With mixup in the authors' form each step passes the network twice. The
original's figures were measured with its own code on two CPU cores: step 1.43 images/s, with mixup 0.49, peak 9.3 GB;
loader 71 to 96. bfloat16 changes the arithmetic of the convolutions, nothing else; "off" is float32 throughout. On a
CPU without bfloat16 arithmetic torch emulates it, many times slower: it is left out there.

Each setting runs in a process of its own, so that its peak memory is its own. Figures are medians, with the range.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import torch
from rates import apart, timed, told
from torch.utils.data import DataLoader

from kneel.augment import training_transform
from kneel.dataset import LandmarkDataset, LandmarkSample
from kneel.engine.config import load_config
from kneel.engine.cpu import cpu_has_bf16, cpu_threads, keep_freed_memory
from kneel.experiment import LandmarkExperiment
from kneel.losses import visible_mean, wing
from kneel.mixup import Pass, mixup_passes
from kneel.network import LandmarkNet

RECIPE = Path(__file__).resolve().parents[1] / "hc_experiments" / "multiscale_wing_mixup_no_wd_cutout10.yaml"
BATCH = 16
ORIGINAL = {False: 1.43, True: 0.49}
ORIGINAL_LOADER = 71


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3, help="timed steps a setting (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    given = parser.parse_args()
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    print("| | mixup | precision | images/s, median (range) | times the original | peak memory, GB |")
    print("|---|---|---|---|---|---|")
    for device, mixup, bf16 in product(devices, (False, True), (False, True)):
        if bf16 and device == "cpu" and not cpu_has_bf16():
            print(f"| step, cpu | {'yes' if mixup else 'no'} | bf16 | this CPU has no bfloat16 arithmetic | | |")
            continue
        rates, peak = apart(step_rates, device, mixup, bf16, given.steps, given.threads)
        words = f"| step, {device} | {'yes' if mixup else 'no'} | {'bf16' if bf16 else 'off'} "
        print(f"{words}| {told(rates)} | {statistics.median(rates) / ORIGINAL[mixup]:.1f} | {peak:.1f} |", flush=True)
    rates, peak = apart(loader_rates, given.steps)
    print(
        f"| loader, one process | | | {told(rates)} | {statistics.median(rates) / ORIGINAL_LOADER:.1f} | {peak:.1f} |"
    )


def step_rates(device: str, mixup: bool, bf16: bool, steps: int, threads: int) -> list[float]:
    """Time optimizer steps on random pictures."""
    keep_freed_memory()
    torch.manual_seed(0)
    recipe = load_config(RECIPE, LandmarkExperiment)
    net = LandmarkNet(landmarks=16, mean=0.4, std=0.3, settings=recipe.model).to(device)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    pictures = torch.rand(BATCH, 1, *recipe.roi.size[::-1], device=device)
    points = torch.rand(BATCH, 16, 2, device=device) * recipe.roi.size[0]
    seen = torch.ones(BATCH, 16, dtype=torch.bool, device=device)

    def steps_of() -> Iterator[None]:
        while True:
            optimizer.zero_grad()
            passes = mixup_passes(pictures, alpha=0.75) if mixup else [Pass(pictures, ((1.0, None),))]
            for images, ((weight, order),) in passes:
                with torch.autocast(device, torch.bfloat16, enabled=bf16):
                    located = net(images)
                target = points if order is None else points[order]
                (weight * visible_mean(wing(located.points, target), seen)).backward()  # as kneel.engine.fit does
            optimizer.step()
            yield

    with cpu_threads(threads):
        return timed(steps_of(), steps, device, BATCH)


def loader_rates(rounds: int) -> list[float]:
    """Time batches of augmented ROIs of 466 x 466, held in memory as in a training."""
    recipe = load_config(RECIPE, LandmarkExperiment)
    rng = np.random.default_rng(0)
    samples = [
        LandmarkSample(rng.integers(0, 256, (466, 466), np.uint8), rng.uniform(150, 320, (16, 2)), str(n), "R", 0)
        for n in range(BATCH)
    ]
    dataset = LandmarkDataset(samples, training_transform(recipe.augment, recipe.roi.size))

    def batches() -> Iterator[None]:
        while True:
            yield from (None for _ in DataLoader(dataset, batch_size=BATCH))

    with cpu_threads(1):
        return timed(batches(), rounds, "cpu", BATCH)


if __name__ == "__main__":
    main()
