#!/usr/bin/env python
"""Images a second of a training step of DeepKnee's Siamese network, and of its loader, beside the original's.

The network and the batch are those of kl_experiments/base.yaml: width 64, pairs of 128 x 128 patches, batch 64, Adam.
bfloat16 changes the arithmetic of the convolutions, nothing else; "off" is float32 throughout. On a CPU without
bfloat16 arithmetic torch emulates it, many times slower: it is left out there.

The original's step is re-enacted (`original_steps.py`): not its code, but its layers, input, loss and order of work,
on the same machine in the same run; ratios of steps are to that. Its own code gave 19 to 25 images/s on two cores of
another machine, the loader 159 to 196: the loader's ratio is to 196, across machines.

Each setting runs in a process of its own, so that its peak memory is its own. Figures are medians, with the range.

With --changes only the changes of training pictures are timed, on one thread and by CPU time: those of one knee at a
time, as the loader makes them, its draws alone, and its draws with the changes of the whole batch after them (what
`training.augment_on: device` is on a CPU). They take turns, so that what else the machine does slows all of them.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from original_steps import deepknee_steps
from rates import CLOCK_HELP, CLOCKS, apart, timed, told
from torch.nn import functional
from torch.utils.data import DataLoader

from deepknee.augment import TrainingPictures
from deepknee.dataset import GradedKnees, TrainingDataset
from deepknee.experiment import GradingExperiment
from deepknee.model import GRADES
from deepknee.networks import build_net
from kneel.engine.config import load_config
from kneel.engine.cpu import cpu_has_bf16, cpu_threads, keep_freed_memory, lay_out

RECIPE = Path(__file__).resolve().parents[1] / "kl_experiments" / "base.yaml"
LOADED = 64  # knees of a round of the loader
ORIGINAL_LOADER = 196


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5, help="timed steps a setting (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="knees a step (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help=CLOCK_HELP)
    parser.add_argument(
        "--changes", nargs="+", type=Path, metavar="YAML", help="time the changes of these recipes alone"
    )
    given = parser.parse_args()
    if given.changes:
        print_changes(given.changes, given.batch, given.steps)
        return
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    print("| | precision | images/s, median (range) | times the original | peak memory, GB |")
    print("|---|---|---|---|---|")
    original, peak = apart(original_rates, given.batch, given.steps, given.threads, given.clock)
    print(f"| step, cpu, original re-enacted | off | {told(original)} | 1 | {peak:.1f} |", flush=True)
    for device, bf16 in product(devices, (False, True)):
        if bf16 and device == "cpu" and not cpu_has_bf16():
            print("| step, cpu | bf16 | this CPU has no bfloat16 arithmetic | | |")
            continue
        rates, peak = apart(step_rates, device, bf16, given.batch, given.steps, given.threads, given.clock)
        ratio = statistics.median(rates) / statistics.median(original)
        words = f"| step, {device} | {'bf16' if bf16 else 'off'} "
        print(f"{words}| {told(rates)} | {ratio:.2f} | {peak:.1f} |", flush=True)
    rates, peak = apart(loader_rates, given.steps, given.clock)
    print(f"| loader, one process | | {told(rates)} | {statistics.median(rates) / ORIGINAL_LOADER:.1f} | {peak:.1f} |")


def original_rates(batch: int, steps: int, threads: int, clock: str) -> list[float]:
    """Time the re-enacted steps of the original."""
    torch.manual_seed(0)
    with cpu_threads(threads):
        return timed(deepknee_steps(batch), steps, "cpu", batch, clock)


def step_rates(device: str, bf16: bool, batch: int, steps: int, threads: int, clock: str) -> list[float]:
    """Time optimizer steps on random patches."""
    keep_freed_memory()
    torch.manual_seed(0)
    recipe = load_config(RECIPE, GradingExperiment)
    net = build_net(recipe.model).to(device)
    lay_out(net, torch.device(device))
    optimizer = torch.optim.Adam(net.parameters(), recipe.training.learning_rate)
    lateral, medial = torch.randn(2, batch, 1, recipe.geometry.patch, recipe.geometry.patch, device=device)
    grades = torch.randint(0, 5, (batch,), device=device)

    def steps_of() -> Iterator[None]:
        while True:
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=bf16):
                logits = net(lateral, medial)
            functional.cross_entropy(logits.float(), grades).backward()
            optimizer.step()
            yield

    with cpu_threads(threads):
        return timed(steps_of(), steps, device, batch, clock)


def loader_rates(rounds: int, clock: str) -> list[float]:
    """Time batches of augmented patches of ROIs held in memory, as in a training."""
    dataset = training_set(load_config(RECIPE, GradingExperiment), LOADED)

    def batches() -> Iterator[None]:
        while True:
            yield from (None for _ in DataLoader(dataset, batch_size=LOADED))

    with cpu_threads(1):
        return timed(batches(), rounds, "cpu", LOADED, clock)


def training_set(recipe: GradingExperiment, knees: int) -> TrainingDataset:
    """Random ROIs behind the changes of a recipe."""
    size, names = recipe.geometry.roi_px, tuple(map(str, range(knees)))
    rois = np.random.default_rng(0).integers(0, 256, (knees, size, size), np.uint8)
    graded = GradedKnees(rois, np.zeros(knees, np.int64), names, names)
    pictures = TrainingPictures(recipe.model.view(recipe.geometry), recipe.augmentation)
    return TrainingDataset(graded, pictures, torch.zeros(knees, GRADES))


def print_changes(recipes: Sequence[Path], batch: int, rounds: int) -> None:
    """Print a table of ROIs a second of CPU time."""
    print("| recipe | a knee at a time | draws alone | draws, then the batch |")
    print("|---|---|---|---|")
    for path in recipes:
        rates, _ = apart(change_rates, path, batch, rounds)
        print(f"| {path.stem} | {' | '.join(f'{told(rates[way::3])}' for way in range(3))} |", flush=True)


def change_rates(path: Path, batch: int, rounds: int) -> list[float]:
    """Time three ways of changing a batch in turns; their rates one after the other, again and again."""
    keep_freed_memory()
    whole = training_set(load_config(path, GradingExperiment), batch)
    stored, finish = whole.deferred()

    def ways() -> Iterator[None]:
        while True:
            for source, more in ((whole, None), (stored, None), (stored, finish)):
                for loaded in DataLoader(source, batch_size=batch):
                    if more:
                        more(loaded)
                yield

    with cpu_threads(1):
        work = ways()
        next(work), next(work)  # with the one that `timed` leaves out each way once
        return timed(work, 3 * rounds, "cpu", batch, "cpu")


if __name__ == "__main__":
    main()
