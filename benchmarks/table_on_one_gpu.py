#!/usr/bin/env python
"""How long all of hc_experiments/ would take on the device at hand: measured steps, and what is made of them.

    python benchmarks/table_on_one_gpu.py [--size recipe|small] [--pack 1 2 3] [--steps N] [--compile]

Rows that differ in nothing that costs time (weight decay, the loss, how strong an augmentation is) are measured once.
They are trained on noise by the engine itself: loader, transfer, augmentation, step; the first epoch warms up and does
not count. Packed, K trainings run at once, each in a process of its own, and what is given is the images of all of
them; where that is more than one alone does, the device has room. The loader is timed alone too: no training is faster.

The extrapolation is arithmetic over those rates, and says what it leaves out; nothing of it is a run. Without a GPU the
CPU is measured, at the small size unless told otherwise: that checks this script and forecasts nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kneel.dataset import LandmarkSample
from kneel.engine.config import load_config
from kneel.engine.cpu import cpu_threads, keep_freed_memory
from kneel.engine.loading import KeyedSamples, deferred, make_loader, train_batches
from kneel.engine.trainer import Trainer
from kneel.experiment import LandmarkExperiment
from kneel.train import LandmarkTask

ROWS = Path(__file__).resolve().parents[1] / "hc_experiments"
PATIENCE = 900  # seconds that one of several waits for the others
SMALL = {"side": 64, "width": 8, "batch": 4}
Rows = dict[str, LandmarkExperiment]


@dataclass(frozen=True)
class Rates:
    """Images/s of training, of judging and of the loader, all jobs together; GB of GPU memory that each takes."""

    trained: float
    judged: float
    loaded: float
    memory: float


def main() -> None:
    """Measure each kind of row, then add up."""
    given = parse()
    paths = [path for path in sorted(ROWS.glob(f"{given.rows}.yaml")) if path.stem != "base"]
    rows = {path.stem: load_config(path, LandmarkExperiment) for path in paths}
    kinds: dict[str, list[str]] = {}
    for name, row in rows.items():
        kinds.setdefault(cost(row), []).append(name)
    print(f"{device_name(given)}. {len(rows)} rows, of which {len(kinds)} differ in cost; {given.steps} steps each.\n")
    rates = {pack: measure([rows[names[0]] for names in kinds.values()], given, pack) for pack in given.pack}
    print("| row | " + " | ".join(f"{pack} at once: images/s, loader, GB each" for pack in given.pack) + " |")
    print("|---" * (1 + len(given.pack)) + "|")
    for number, names in enumerate(kinds.values()):
        for name in names:
            same = "" if name == names[0] else f" (as {names[0]})"
            print(f"| {name}{same} | " + " | ".join(told(rates[pack][number]) for pack in given.pack) + " |")
    print("\n" + basis(given, rows))
    for pack in given.pack:
        print(f"- {pack} at once: {forecast(rows, list(kinds.values()), rates[pack], given)}")


def parse() -> argparse.Namespace:
    """Read the command line."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size",
        choices=("recipe", "small"),
        default="recipe" if cuda else "small",
        help="small: 64 pixels, width 8, batches of 4 (default here: %(default)s)",
    )
    parser.add_argument("--pack", type=int, nargs="+", default=[1, 2, 3] if cuda else [1], help="trainings at once")
    parser.add_argument("--steps", type=int, default=30 if cuda else 3, help="timed steps (default: %(default)s)")
    parser.add_argument("--rows", default="*", metavar="GLOB", help="which of them (default: all)")
    parser.add_argument("--compile", action="store_true", help="with training.compile")
    parser.add_argument("--workers", type=int, help="loader processes of each training (default: as in the files)")
    parser.add_argument("--threads", type=int, help="CPU threads of each training (default: the machine's, shared out)")
    parser.add_argument("--knees", type=int, default=748, help="of the whole set (default: %(default)s)")
    parser.add_argument("--folds", type=int, default=5, help="trained of each row (default: %(default)s)")
    return parser.parse_args()


def device_name(given: argparse.Namespace) -> str:
    """Say what is measured."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {given.size} size"
    return f"No GPU here: the CPU, {given.threads or torch.get_num_threads()} thread(s), {given.size} size"


def cost(row: LandmarkExperiment) -> str:
    """Name what decides how long a step takes."""
    passes = 0 if row.mixup is None else 2 if row.mixup.variant == "kneel" else 1
    augment = [name for name, value in row.augment.model_dump().items() if value not in (0.0, (1.0, 1.0))]
    training = row.training.batch_size, row.training.optimizer, row.training.precision, row.training.num_workers
    return json.dumps([row.model.model_dump(), row.roi.model_dump(), passes, augment, training])


def measure(rows: list[LandmarkExperiment], given: argparse.Namespace, pack: int) -> list[Rates | None]:
    """Train so many at once, in processes that do one row after the other; None where they do not fit."""
    context = multiprocessing.get_context("spawn")
    threads = given.threads or max(1, torch.get_num_threads() // pack)
    found: list[Rates | None] = []
    with ProcessPoolExecutor(pack, context, initializer=begin, initargs=(context.Barrier(pack),)) as pool:
        for row in rows:
            jobs = [pool.submit(train, resized(row, given), given.steps, threads) for _ in range(pack)]
            each = [job.result() for job in jobs]
            fits = [rates for rates in each if rates is not None]
            found.append(together(fits) if len(fits) == pack else None)
    return found


def together(each: list[Rates]) -> Rates:
    """All have done the same work: the slowest counts."""
    slowest = (min(getattr(rates, name) for rates in each) for name in ("trained", "judged", "loaded"))
    return Rates(*(len(each) * rate for rate in slowest), memory=max(rates.memory for rates in each))


def resized(row: LandmarkExperiment, given: argparse.Namespace) -> str:
    """Return the row's settings as JSON, at the size that is asked for."""
    settings = row.model_dump(mode="json")
    settings["training"] |= {"compile": given.compile}
    if given.workers is not None:
        settings["training"] |= {"num_workers": given.workers}
    if given.size == "small":
        settings["roi"] |= {"size": [SMALL["side"]] * 2}
        settings["model"] |= {"width": SMALL["width"]}
        settings["training"] |= {"batch_size": SMALL["batch"]}
    return json.dumps(settings)


def begin(gate: Any) -> None:
    """Keep what the processes meet at."""
    globals()["GATE"] = gate


def train(settings: str, steps: int, threads: int) -> Rates | None:
    """Time one training; None where there is not the memory for it."""
    gate = globals()["GATE"]
    try:
        with cpu_threads(threads):
            return timed_training(LandmarkExperiment.model_validate_json(settings), steps, gate)
    except Exception:
        gate.abort()  # the others need not wait
        raise


def timed_training(experiment: LandmarkExperiment, steps: int, gate: Any) -> Rates | None:
    """Time an epoch, a validation and the loader, all processes together, after one epoch that does not count."""
    keep_freed_memory()
    task = LandmarkTask(experiment, Path(), name="noise")
    batch, side = experiment.training.batch_size, experiment.roi.size[0]
    task.__dict__["samples"] = noise(steps * batch, side), noise(4 * batch, side)  # in place of the films
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    trainer: Trainer | None = None
    times = []
    for part in (warm_up, Trainer.train_epoch, Trainer.validate, load):
        gate.wait(PATIENCE)
        if math.inf in times:  # who found no memory still meets the others
            continue
        began = time.perf_counter()
        try:
            trainer = trainer or Trainer(task, experiment.training, not cuda)
            part(trainer, 1)  # steps wait for their loss, validation for its metrics: nothing is still running
        except torch.OutOfMemoryError:
            trainer, began = None, -math.inf
        times.append(time.perf_counter() - began)
    if math.inf in times:
        return None
    memory = torch.cuda.max_memory_reserved() / 1e9 if cuda else 0.0
    return Rates(steps * batch / times[1], 4 * batch / times[2], steps * batch / times[3], memory)


def warm_up(trainer: Trainer, epoch: int) -> None:
    """Do all once."""
    trainer.train_epoch(epoch - 1)
    trainer.validate(epoch - 1)


def load(trainer: Trainer, epoch: int) -> None:
    """Fetch an epoch and do nothing with it."""
    config = trainer.config
    fetched, _ = deferred(config, trainer.train_set, trainer.accelerator.device)
    samples = KeyedSamples(fetched, range(len(fetched)), (config.seed, "loader", epoch))
    batches = train_batches(len(samples), config.batch_size, 1)
    for _ in make_loader(samples, batches, num_workers=config.num_workers, pin=torch.cuda.is_available()):
        pass


def noise(count: int, side: int) -> list[LandmarkSample]:
    """Pictures a little larger than the network sees, as in training; their points lie inside."""
    rng = np.random.default_rng(0)
    stored = side + side // 24
    low, high = stored / 2 - side / 4, stored / 2 + side / 4
    pictures = rng.integers(0, 256, (min(count, 64), stored, stored), np.uint8)  # and then from the start again
    return [
        LandmarkSample(pictures[n % len(pictures)], rng.uniform(low, high, (16, 2)), str(n), "R", 0)
        for n in range(count)
    ]


def told(rates: Rates | None) -> str:
    """Say images/s of training and of the loader, and memory."""
    if rates is None:
        return "out of memory"
    return f"{rates.trained:.1f}, {rates.loaded:.0f}" + (f", {rates.memory:.1f} GB" if rates.memory else "")


def forecast(rows: Rows, kinds: list[list[str]], rates: list[Rates | None], given: argparse.Namespace) -> str:
    """Add up the hours of all rows."""
    hours = 0.0
    for names, measured in zip(kinds, rates, strict=True):
        if measured is None:
            return f"no figure, {names[0]} does not fit"
        for name in names:
            trained, judged = pictures(rows[name], given)
            hours += (trained / measured.trained + judged / measured.judged) / 3600
    if given.size == "small":
        return f"{hours:.2f} h if everything were of this small size, which it is not: no forecast"
    return f"{hours:.1f} h for the table (an extrapolation, not a run)"


def pictures(row: LandmarkExperiment, given: argparse.Namespace) -> tuple[float, float]:
    """Count what all folds of a row train on and judge; SWA's passes over the training set count as judged."""
    training, held = row.training, given.knees / row.folds
    kept = given.knees - held
    averages = 0 if training.swa_start is None else (training.epochs - training.swa_start) // training.swa_frequency
    return given.folds * training.epochs * kept, given.folds * (training.epochs * held + averages * kept)


def basis(given: argparse.Namespace, rows: Rows) -> str:
    """Say what the hours are made of."""
    epochs = sorted({row.training.epochs for row in rows.values()})
    trained, judged = (sum(part) for part in zip(*(pictures(row, given) for row in rows.values()), strict=True))
    return (
        f"Basis: {given.knees} knees, {given.folds} folds of each of {len(rows)} rows, epochs {epochs}: "
        f"{trained / 1e6:.2f} million pictures trained on and {judged / 1e6:.2f} million judged (SWA's passes over the "
        "training set among them), each at the rate measured for its kind of row. Left out: the start of a process, "
        "reading films (once, then cached), snapshots, boards, the joint-centre network that one row starts from.\n"
    )


if __name__ == "__main__":
    main()
