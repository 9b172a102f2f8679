#!/usr/bin/env python
"""Images a second of a training step of KNEEL's landmark network, and of its loader, beside the original's.

The network and the batch are those of hc_experiments/: multi-scale blocks, width 24, 16 landmarks, 448 x 448 (the
original: 450 x 450), batch 16, Adam, wing loss. With mixup in the authors' form each step passes the network twice.
bfloat16 changes the arithmetic of the convolutions, nothing else; "off" is float32 throughout. On a CPU without
bfloat16 arithmetic torch emulates it, many times slower: it is left out there.

The original's step is re-enacted (`original_steps.py`): not its code, but its layers, input, losses and order of work,
on the same machine in the same run; ratios of steps are to that. Its own code gave 1.43 images/s on two cores of
another machine, with mixup 0.49, peak 9.3 GB; loader 71 to 96: the loader's ratio is to 71, across machines.

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
from original_steps import kneel_steps
from rates import CLOCK_HELP, CLOCKS, apart, timed, told
from torch.utils.data import DataLoader

from kneel.augment import TrainingTransform
from kneel.dataset import LandmarkDataset, LandmarkSample
from kneel.engine.config import load_config
from kneel.engine.cpu import cpu_has_bf16, cpu_threads, keep_freed_memory, lay_out
from kneel.engine.mixup import Pass, mixup_passes
from kneel.experiment import LandmarkExperiment
from kneel.losses import visible_mean, wing
from kneel.network import LandmarkNet

RECIPE = Path(__file__).resolve().parents[1] / "hc_experiments" / "multiscale_wing_mixup_no_wd_cutout10.yaml"
LOADED = 16  # pictures of a round of the loader
ORIGINAL_LOADER = 71


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3, help="timed steps a setting (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="pictures a step (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument(
        "--mixup", choices=("both", "no", "yes"), default="both", help="which steps (default: %(default)s)"
    )
    parser.add_argument("--no-loader", action="store_true", help="steps only")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help=CLOCK_HELP)
    given = parser.parse_args()
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    print("| | mixup | precision | images/s, median (range) | times the original | peak memory, GB |")
    print("|---|---|---|---|---|---|")
    for mixup in {"both": (False, True), "no": (False,), "yes": (True,)}[given.mixup]:
        words = "yes" if mixup else "no"
        original, peak = apart(original_rates, mixup, given.batch, given.steps, given.threads, given.clock)
        print(f"| step, cpu, original re-enacted | {words} | off | {told(original)} | 1 | {peak:.1f} |", flush=True)
        for device, bf16 in product(devices, (False, True)):
            if bf16 and device == "cpu" and not cpu_has_bf16():
                print(f"| step, cpu | {words} | bf16 | this CPU has no bfloat16 arithmetic | | |")
                continue
            rates, peak = apart(step_rates, device, mixup, bf16, given.batch, given.steps, given.threads, given.clock)
            ratio = statistics.median(rates) / statistics.median(original)
            row = (
                f"| step, {device} | {words} | {'bf16' if bf16 else 'off'} | {told(rates)} | {ratio:.2f} | {peak:.1f} |"
            )
            print(row, flush=True)
    if not given.no_loader:
        rates, peak = apart(loader_rates, given.steps, given.clock)
        ratio = statistics.median(rates) / ORIGINAL_LOADER
        print(f"| loader, one process | | | {told(rates)} | {ratio:.1f} | {peak:.1f} |")


def original_rates(mixup: bool, batch: int, steps: int, threads: int, clock: str) -> list[float]:
    """Time the re-enacted steps of the original."""
    torch.manual_seed(0)
    with cpu_threads(threads):
        return timed(kneel_steps(batch, mixup), steps, "cpu", batch, clock)


def step_rates(device: str, mixup: bool, bf16: bool, batch: int, steps: int, threads: int, clock: str) -> list[float]:
    """Time optimizer steps on random pictures."""
    keep_freed_memory()
    torch.manual_seed(0)
    recipe = load_config(RECIPE, LandmarkExperiment)
    net = LandmarkNet(landmarks=16, mean=0.4, std=0.3, settings=recipe.model).to(device)
    lay_out(net, torch.device(device))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    pictures = torch.rand(batch, 1, *recipe.roi.size[::-1], device=device)
    points = torch.rand(batch, 16, 2, device=device) * recipe.roi.size[0]
    seen = torch.ones(batch, 16, dtype=torch.bool, device=device)

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
        return timed(steps_of(), steps, device, batch, clock)


def loader_rates(rounds: int, clock: str) -> list[float]:
    """Time batches of augmented ROIs of 466 x 466, held in memory as in a training."""
    recipe = load_config(RECIPE, LandmarkExperiment)
    rng = np.random.default_rng(0)
    samples = [
        LandmarkSample(rng.integers(0, 256, (466, 466), np.uint8), rng.uniform(150, 320, (16, 2)), str(n), "R", 0)
        for n in range(LOADED)
    ]
    dataset = LandmarkDataset(samples, TrainingTransform(recipe.augment, recipe.roi.size))

    def batches() -> Iterator[None]:
        while True:
            yield from (None for _ in DataLoader(dataset, batch_size=LOADED))

    with cpu_threads(1):
        return timed(batches(), rounds, "cpu", LOADED, clock)


if __name__ == "__main__":
    main()
