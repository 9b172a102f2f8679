#!/usr/bin/env python
"""Account for every millisecond of reading one film, beside the machine's limits and the original's times.

    python benchmarks/pipeline.py [--runs N] [--threads N] [--weights DIR] [--film FILE]

The film is a phantom: 2048 x 2494 pixels of 12 bits in 16, uncompressed, two knees. A stage's time is without that of
the stages inside it; the lines add up to the whole, which is film to report data, no files written. GMAC/s and GB/s
are achieved ones, with their share of what this machine does at best (a big matrix product; a triad over big arrays);
bytes count arrays and tensors that go in and out of stages and operations, though some of them never leave the cache.

The original's times are medians of its own code on two cores of another machine: ratios to them compare whole programs
across machines, not equal networks on one. It reads and normalises the film twice (2 x 79 ms); its networks are five
folds, ours those that are loaded: the line above the table says which.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from film import write_film
from ledger import REST, Cost, Ledger, reading_stages
from machine import Machine, measure_machine
from rates import CLOCK_HELP, CLOCKS

from deepknee.pipeline import Reader, load_reader

# medians of the original programs: LC and HC run 5 networks of width 24, grading 3 of width 64 with its drawing
ORIGINAL_MS = {
    ("decode", "normalise"): 158.0,
    ("LC networks",): 1726.0,
    ("windows and ROIs", "HC networks"): 3616.0,
    ("contrast of ROIs", "KL networks", "attention"): 342.0,
}
ORIGINAL_ALL_MS, ORIGINAL_LOAD_S, ORIGINAL_PEAK_MB = 5723.0, 2.5, 1355
FIRST_ANSWER = Path(__file__).with_name("first_answer.py")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30, help="timed readings (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument("--weights", type=Path, help="snapshots (default: as `deepknee read` finds them)")
    parser.add_argument("--film", type=Path, help="another film (the ratios then mean nothing)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help=CLOCK_HELP)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    reader = load_reader(given.weights, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        film = given.film or Path(folder) / "film.dcm"
        if given.film is None:
            write_film(film)
        machine = measure_machine(CLOCKS[given.clock])
        print(f"machine: {machine.describe()}")
        print(f"networks: {describe(reader)}; knees found: {len(reader.read(film).knees)}\n")
        stages(reader, film, given, machine)
        first_answers(film, given)


def describe(reader: Reader) -> str:
    """Say how many networks of which size work."""
    kinds = {"LC": reader.localizer.lc.nets, "HC": reader.localizer.hc.nets}
    kinds["KL"] = [member.net for member in reader.grader.members]
    sizes = {name: sum(weight.numel() for weight in nets[0].parameters()) / 1e6 for name, nets in kinds.items()}
    return ", ".join(f"{name} {len(nets)} x {sizes[name]:.2f} M weights" for name, nets in kinds.items())


def stages(reader: Reader, film: Path, given: argparse.Namespace, machine: Machine) -> None:
    """Print the account of a reading, then the groups of stages that the original was timed by."""
    watched = reading_stages(reader)
    counted = Ledger(watched, count=True)
    with counted.booking():
        reader.read(film)
    books = [Ledger(watched, clock=CLOCKS[given.clock]) for _ in range(given.runs)]
    for book in books:
        with book.booking():
            reader.read(film)
    print("| stage | calls | ms, median (range) | GMAC | GMAC/s | of peak | MB moved | GB/s | of memory |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, cost in counted.costs.items():
        print(row(name, cost, [book.costs[name].seconds for book in books], machine))
    print(row("**all**", counted.total, [book.total.seconds for book in books], machine))
    print("\n| stages | ms, median (range) | original, ms | ratio |\n|---|---|---|---|")
    groups = [(names, " + ".join(names), original) for names, original in ORIGINAL_MS.items()]
    for names, title, original in [*groups, (tuple(counted.costs), "**all**", ORIGINAL_ALL_MS)]:
        times = [sum(book.costs[name].seconds for name in names) for book in books]
        print(f"| {title} | {told(times)} | {original:.0f} | {original / 1e3 / statistics.median(times):.1f} |")


def row(name: str, cost: Cost, times: list[float], machine: Machine) -> str:
    """One stage: what it was counted to do, at the speed of its median time."""
    seconds = statistics.median(times)
    compute = ["", "", ""]
    if cost.macs:
        speed = cost.macs / seconds / 1e9
        compute = [f"{cost.macs / 1e9:.3f}", f"{speed:.0f}", f"{speed / machine.fp32:.0%}"]
    traffic = ["", "", ""]
    if name != REST:
        speed = cost.moved / seconds / 1e9
        traffic = [f"{cost.moved / 1e6:.0f}", f"{speed:.1f}", f"{speed / machine.bandwidth:.0%}"]
    return "| " + " | ".join([name, str(cost.calls), told(times), *compute, *traffic]) + " |"


def told(times: list[float]) -> str:
    """Median and range in milliseconds."""
    low, middle, high = (1e3 * value for value in (min(times), statistics.median(times), max(times)))
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def first_answers(film: Path, given: argparse.Namespace, runs: int = 3) -> None:
    """Print what a new process needs until its first answer, and its peak memory."""
    command = [sys.executable, FIRST_ANSWER, film, given.clock, *([] if given.weights is None else [given.weights])]
    environment = os.environ | {"OMP_NUM_THREADS": str(given.threads)}
    answers = []
    for _ in range(runs):
        output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        answers.append(json.loads(output))
    parts = {name: statistics.median(answer[name] for answer in answers) for name in ("import", "load", "read")}
    firsts = [sum(answer[name] for name in parts) for answer in answers]
    words = ", ".join(f"{name} {seconds:.2f}" for name, seconds in parts.items())
    print(
        f"\nfirst answer of a new process: {told(firsts)} ms; medians in s: {words} (original: load {ORIGINAL_LOAD_S})"
    )
    print(f"peak memory: {max(answer['peak'] for answer in answers) / 1e6:.0f} MB (original {ORIGINAL_PEAK_MB} MB)")


if __name__ == "__main__":
    main()
