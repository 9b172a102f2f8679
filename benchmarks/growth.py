#!/usr/bin/env python
"""How the cost of reading grows: with the film's pixels, the networks a stage, the number of films, the jobs.

    python benchmarks/growth.py [pixels] [networks] [films] [jobs] --out DIR

Each part is measured by itself, kept in DIR/growth.json and printed as the rows of a table; DIR/growth.png shows all
that is there. Films are phantoms with the same square millimetres whatever their pixels. Several networks a stage are
copies of those that ship. The many films are copies of a small one of one knee, read by `deepknee read`; those of the
jobs are copies of the bilateral film of `pipeline.py`, and their time is what each of 20 more films adds, without
starting and loading.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from film import COLUMNS, ROWS, write_film
from ledger import Ledger, reading_stages
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rates import CLOCK_HELP, CLOCKS

from deepknee.ensemble import Grader
from deepknee.pipeline import Reader, load_reader
from deepknee.weights import find_weights
from kneel.engine.snapshot import write_atomic
from kneel.localize import KneeLocalizer

PLAIN, REMEMBERED = "as it is", "answers remembered"
SETTINGS = {"1 core, 1 job": (1, 1), "2 cores, 1 job": (2, 1), "2 cores, 2 jobs": (2, 2)}
FEW, MANY = 4, 24  # films whose times are subtracted
SMALL_ROWS = 512
OF_NETWORKS = ("LC networks", "HC networks", "KL networks", "attention")
# run in a process of its own: the command, on so many cores; tells its peak memory
COMMAND = """
import os, sys
sys.path.insert(0, {here!r})
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:{cores}])
from deepknee.cli import main
if {remember}:
    from remember import remember_answers
    remember_answers()
status = main(["read", {films!r}, "--out", {out!r}, "--jobs", "{jobs}"])
from memory import peak_bytes
print(peak_bytes())
sys.exit(status)
"""

Runs = list[float]
Part = dict[str, dict[str, Runs]]  # setting -> quantity -> what each run gave


class How(NamedTuple):
    """How the parts are measured; `folder` is empty, for their films."""

    folder: Path
    threads: int
    runs: int
    clock: str
    megapixels: list[int]
    networks: list[int]
    films: dict[str, list[int]]


def main() -> None:
    """Measure what is asked for and draw all that is known."""
    given = parse()
    torch.set_num_threads(given.threads)
    kept = given.out / "growth.json"
    known: dict[str, Part] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.parts or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            number = {PLAIN: given.films, REMEMBERED: given.remembered}
            sizes = given.megapixels, given.networks, number
            known[name] = PARTS[name](How(Path(folder), given.threads, given.runs, given.clock, *sizes))
        print(rows(name, known[name]), flush=True)
        write_atomic(kept, json.dumps(known, indent=1).encode() + b"\n")
    draw(known, given.out / "growth.png")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--out", type=Path, required=True, help="folder of growth.json and growth.png")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads, but for jobs (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="of a film, and of the jobs (default: %(default)s)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help=f"but for jobs: {CLOCK_HELP}")
    for name, sizes, words in (
        ("megapixels", [1, 2, 5, 10, 20, 40], "of the part pixels"),
        ("networks", [1, 2, 3, 4, 5], "a stage, of the part networks"),
        ("films", [1, 10, 100], "of the part films, as it is"),
        ("remembered", [1, 10, 100, 1000], "of the part films, the networks' answers remembered"),
    ):
        default = f"{words} (default: {' '.join(map(str, sizes))})"
        parser.add_argument(f"--{name}", nargs="+", type=count, default=sizes, metavar="N", help=default)
    given = parser.parse_args()
    unknown = sorted(set(given.parts) - set(PARTS))
    if unknown:
        parser.error(f"{unknown[0]} is no part: must be one of {', '.join(PARTS)}")
    return given


def count(word: str) -> int:
    """Read a size, which is a whole number from 1 on."""
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is no whole number from 1 on")
    return int(word)


def pixels(how: How) -> Part:
    """By megapixels: ms of the networks and of all else; peak memory in MB of a command that reads this film alone."""
    reader, found = load_reader(device="cpu"), {}
    for megapixels in how.megapixels:
        film = how.folder / "film.dcm"
        write_film(film, rows=round((megapixels * 1e6 * ROWS / COLUMNS) ** 0.5))
        peak = command(copies(film, 1), how.threads)[1]
        found[str(megapixels)] = booked(reader, film, how) | {"peak memory": [peak]}
    return found


def networks(how: How) -> Part:
    """By networks a stage: ms of the networks and of all else."""
    film = how.folder / "film.dcm"
    write_film(film)
    weights, found = find_weights(), {}
    for number in how.networks:
        lc, hc, kl = ([weights.paths(task)[0]] * number for task in ("lc", "hc", "kl"))
        reader = Reader(KneeLocalizer.from_snapshots(lc, hc), Grader.from_snapshots(kl))
        found[str(number)] = booked(reader, film, how)
    return found


def films(how: How) -> Part:
    """By films: seconds of the whole command, and its peak memory in MB."""
    film = how.folder / "film.dcm"
    write_film(film, rows=SMALL_ROWS, knees=(("R", 2),))
    found: Part = {str(number): {} for number in sorted({number for each in how.films.values() for number in each})}
    for name, numbers in how.films.items():
        for number in numbers:
            seconds, peak = command(copies(film, number), how.threads, clock=how.clock, remember=name == REMEMBERED)
            found[str(number)] |= {f"s, {name}": [seconds], f"MB, {name}": [peak]}
    return found


def jobs(how: How) -> Part:
    """By cores and jobs, taking turns: seconds that one more film adds."""
    film = how.folder / "film.dcm"
    write_film(film)
    found: Part = {name: {"seconds": []} for name in SETTINGS}
    for _ in range(how.runs):
        for name, (cores, at_once) in SETTINGS.items():
            few, many = (command(copies(film, number), cores, at_once)[0] for number in (FEW, MANY))
            found[name]["seconds"].append((many - few) / (MANY - FEW))
    return found


TITLES = {
    "pixels": "megapixels of the film",
    "networks": "networks a stage",
    "films": "films of one knee",
    "jobs": "cores and jobs",
}
_OF_FILM = {"networks": "o-", "all else": "s--"}
PANELS: dict[str, list[tuple[dict[str, str], str]]] = {  # of each part: lines, and their unit
    "pixels": [(_OF_FILM, "ms a film"), ({"peak memory": "o-"}, "MB at the peak")],
    "networks": [(_OF_FILM, "ms a film")],
    "films": [
        ({f"{unit}, {name}": style for name, style in zip((PLAIN, REMEMBERED), ("o-", "s--"), strict=True)}, title)
        for unit, title in (("s", "s, whole command"), ("MB", "MB at the peak"))
    ],
    "jobs": [({"seconds": "o"}, "s that one more film adds")],
}
PARTS: dict[str, Callable[[How], Part]] = {"pixels": pixels, "networks": networks, "films": films, "jobs": jobs}


def booked(reader: Reader, film: Path, how: How) -> dict[str, Runs]:
    """Time every reading: ms of its networks, and of all else."""
    reader.read(film)
    books = [Ledger(reading_stages(reader), clock=CLOCKS[how.clock]) for _ in range(how.runs)]
    for book in books:
        with book.booking():
            reader.read(film)
    seconds = [sum(book.costs[name].seconds for name in OF_NETWORKS) for book in books]
    others = [book.total.seconds - part for book, part in zip(books, seconds, strict=True)]
    return {"networks": [1e3 * each for each in seconds], "all else": [1e3 * each for each in others]}


def copies(film: Path, number: int) -> Path:
    """Put so many copies of a film into a folder of their own."""
    there = film.with_name("films")
    shutil.rmtree(there, ignore_errors=True)
    there.mkdir()
    for count in range(number):
        shutil.copyfile(film, there / f"{count:04}.dcm")
    return there


def command(
    there: Path, cores: int, at_once: int = 1, *, clock: str = "wall", remember: bool = False
) -> tuple[float, float]:
    """Run `deepknee read` over a folder; its seconds, and the peak memory of its main process in MB."""
    out = there.with_name("out")
    shutil.rmtree(out, ignore_errors=True)
    here = str(Path(__file__).parent)
    code = COMMAND.format(here=here, cores=cores, films=str(there), out=str(out), jobs=at_once, remember=remember)
    now = time.perf_counter if clock == "wall" else _seconds_of_children
    began = now()
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return now() - began, int(answer.split()[-1]) / 1e6


def _seconds_of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def rows(name: str, part: Part) -> str:
    """Lay out a part as a table: medians, and ranges where there are several runs."""
    quantities = list(dict.fromkeys(quantity for measured in part.values() for quantity in measured))
    lines = [[name, *quantities], ["---"] * (1 + len(quantities))]
    lines += [[setting, *(told(measured.get(each, [])) for each in quantities)] for setting, measured in part.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def told(runs: Runs) -> str:
    """Median and range, to three digits; nothing of no run."""
    if not runs:
        return ""
    low, middle, high = (f"{value:#.3g}".rstrip(".") for value in (min(runs), statistics.median(runs), max(runs)))
    return f"{middle} ({low} to {high})" if len(runs) > 1 else middle


def draw(known: dict[str, Part], path: Path) -> None:
    """Draw the parts that are known, side by side."""
    panels = [panel for name in PARTS if name in known for panel in PANELS[name]]
    figure = Figure(figsize=(3.7 * len(panels), 3.1), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    names = [name for name in PARTS if name in known for _ in PANELS[name]]
    for axis, name, (lines, unit) in zip(axes, names, panels, strict=True):
        curve(axis, known[name], lines, unit)
        axis.set(xlabel=TITLES[name])
    figure.savefig(path, dpi=90)


def curve(axis: Axes, part: Part, lines: dict[str, str], unit: str) -> None:
    """Draw medians, with the ranges as bars; sizes on a logarithmic axis where they go far."""
    words = not next(iter(part)).isdigit()
    for quantity, style in lines.items():
        known = {size: measured[quantity] for size, measured in part.items() if quantity in measured}
        sizes = list(known) if words else [float(size) for size in known]
        middle = [statistics.median(runs) for runs in known.values()]
        below = [value - min(runs) for value, runs in zip(middle, known.values(), strict=True)]
        above = [max(runs) - value for value, runs in zip(middle, known.values(), strict=True)]
        axis.errorbar(sizes, middle, [below, above], fmt=style, label=quantity, capsize=3)
    if not words and max(map(float, part)) > 100:
        axis.set_xscale("log")
    axis.set_ylabel(unit)
    if axis.get_xscale() == "log" and unit.startswith("s,"):  # in proportion is straight then
        axis.set_yscale("log")
    else:
        axis.set_ylim(0, 1.3 * axis.get_ylim()[1])  # room for the legend
    axis.grid(alpha=0.3)
    if len(lines) > 1:
        axis.legend(loc="upper left")


if __name__ == "__main__":
    main()
