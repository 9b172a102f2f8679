#!/usr/bin/env python
"""What a million films cost over a cluster (`deepknee read --ray`): measured here a film at a time, then multiplied.

    python benchmarks/million_films.py [--films 5] [--rows 100000] [--cores 1000] [--gigabits 10]

Reading is timed in CPU seconds of one thread, by the function that the nodes call, over copies of the film of
`pipeline.py` (a DICOM phantom of 5 megapixels, both knees, uncompressed). The other parts are done with made-up rows
for as many films as --rows says, on files that are there but empty; Ray's with tasks that do nothing. Memory a film is
what four fifths of these films add to the peak of the first fifth.
"""

from __future__ import annotations

import argparse
import pickle
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
from film import write_film
from memory import peak_bytes

from deepknee.films import Film, find_films
from deepknee.hand_out import MOST_FILMS, cut, hand_out
from deepknee.pipeline import load_reader
from deepknee.shard_folder import ShardFolder, film_rows
from deepknee.shard_tables import write_tables
from deepknee.shards import Row, load_arrow
from deepknee.weights import find_weights
from kneel.engine.ray_cluster import LOCAL, Share, connected, slots

MILLION = 1_000_000
SENT = 200  # shards, to tasks that do nothing
Figures = dict[str, float]


def main() -> None:
    """Measure all parts and print the arithmetic."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=5, help="films that are read (%(default)s)")
    parser.add_argument("--rows", type=int, default=100_000, help="films with made-up rows (%(default)s)")
    parser.add_argument("--cores", type=int, default=1000, help="of the cluster in the arithmetic (%(default)s)")
    parser.add_argument("--gigabits", type=float, default=10, help="a second, of its storage (%(default)s)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    load_arrow()
    with tempfile.TemporaryDirectory() as place:
        figures, rows = reading(Path(place) / "reading", given.films)
        merging(Path(place) / "few", rows, given.rows // 5)
        few = peak_bytes()
        figures |= merging(Path(place) / "many", rows, given.rows)
        figures["kB of memory a film"] = (peak_bytes() - few) / 1e3 / (given.rows - given.rows // 5)
    figures |= sending()
    for name, value in figures.items():
        print(f"{name:50} {value:.4g}")
    print(arithmetic(figures, given.cores, given.gigabits))


def reading(place: Path, count: int) -> tuple[Figures, list[Row]]:
    """Read a few films as a node does; their figures, and the rows of one."""
    place.mkdir()
    write_film(place / "film.dcm")
    weights = find_weights()
    folder = ShardFolder.by(weights, place / "out")
    reader = load_reader(weights, "cpu")
    (film,), _ = find_films([place / "film.dcm"], folder.root)
    rows = film_rows(film, reader, folder)  # also warms up
    seconds = [timed(lambda: film_rows(film, reader, folder))[0] for _ in range(count)]
    return {
        "CPU s a film, median": statistics.median(seconds),
        "CPU s a film, least": min(seconds),
        "CPU s a film, most": max(seconds),
        "MB read a film": film.path.stat().st_size / 1e6,
    }, rows


def merging(place: Path, rows: Sequence[Row], count: int) -> Figures:
    """Plan, write and merge shards of made-up films, all with the knees of a real one, whose numbers are changed."""
    films = place / "films"
    for number in range(count):
        file = films / f"{number // 1000:03d}" / f"subject_{number:07d}_baseline.dcm"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    folder = ShardFolder.by(find_weights(), place / "out")
    listing, (found, _) = timed(lambda: find_films([films], folder.root))
    planning, plan = timed(lambda: folder.plan(found))
    folder.open(plan.run)
    draw = random.Random(0)
    writing = [
        timed(lambda piece=piece: folder.save(made_up(piece.films, rows, draw), plan.run))[0]
        for piece in cut(plan.pending, 1)
    ]
    stored = sum(path.stat().st_size for path in folder.paths())
    again, resumed = timed(lambda: folder.plan(found))
    assert not resumed.pending
    merge, tally = timed(lambda: write_tables(folder, plan))
    assert tally.read == count
    tables = sum((folder.root / name).stat().st_size for name in ("results.csv", "results.parquet"))
    return {
        "CPU ms a film, listing": 1e3 * (listing + planning) / count,
        "CPU ms a film, listing again when all are done": 1e3 * (listing + again) / count,
        "CPU ms a film, merging": 1e3 * merge / count,
        "CPU ms a shard, making up and writing": 1e3 * statistics.median(writing),
        "kB of shard a film": stored / 1e3 / count,
        "kB of tables a film": tables / 1e3 / count,
    }


def made_up(films: Sequence[Film], rows: Sequence[Row], draw: random.Random) -> list[Row]:
    """Give films the rows of another, each number a little different, so that they compress as real ones do."""

    def changed(knee: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(value * draw.uniform(0.9, 1.1) if isinstance(value, float) else value for value in knee)

    stamps = [film.path.stat() for film in films]
    return [
        Row(film.file, film.key, row.status, None, stamp.st_size, stamp.st_mtime_ns, changed(row.knee))
        for film, stamp in zip(films, stamps, strict=True)
        for row in rows
    ]


def sending() -> Figures:
    """Send shards of films to tasks that do nothing."""
    films = tuple(
        Film(f"films/subject_{n:07d}.dcm", Path(f"/data/films/subject_{n:07d}.dcm"), f"n-{n:010x}")
        for n in range(MOST_FILMS * SENT)
    )
    with connected(LOCAL) as ray:
        task = ray.remote(num_cpus=1, max_retries=0)(nothing)
        ray.get([task.remote(films[:1]) for _ in range(slots(Share()))])  # processes start
        start = time.perf_counter()
        seconds, _ = timed(lambda: sum(hand_out(ray, cut(films, 1), task.remote, print, 2 * slots(Share()))))
        wall = time.perf_counter() - start
    return {
        "CPU ms a shard, sending": 1e3 * seconds / SENT,
        "ms a shard, sent and done": 1e3 * wall / SENT,
        "kB a shard over Ray": len(pickle.dumps(films[:MOST_FILMS])) / 1e3,
    }


def nothing(films: Sequence[Film]) -> Path:
    """Read nothing."""
    return Path("/")


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of some work, and its result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def arithmetic(figures: Figures, cores: int, gigabits: float) -> str:
    """Multiply."""
    seconds, megabytes, kilobytes = (
        figures["CPU s a film, median"],
        figures["MB read a film"],
        figures["kB of memory a film"],
    )
    rate = gigabits / 8 * 1e3 / megabytes  # films a second that the storage gives
    lines = {
        "core-hours": MILLION * seconds / 3600,
        f"hours on {cores} cores": MILLION * seconds / 3600 / cores,
        f"Gbit/s that {cores} cores ask for": cores / seconds * megabytes * 8 / 1e3,
        "TB read": MILLION * megabytes / 1e6,
        f"hours at {gigabits:g} Gbit/s": MILLION / rate / 3600,
        f"cores that {gigabits:g} Gbit/s keep busy": rate * seconds,
        "cores that one command keeps busy": MOST_FILMS * seconds / figures["ms a shard, sent and done"] * 1e3,
        "GB of shards": MILLION * figures["kB of shard a film"] / 1e6,
        "GB of tables": MILLION * figures["kB of tables a film"] / 1e6,
        "GB of memory more where the command runs": MILLION * kilobytes / 1e6,
        "minutes of listing": MILLION * figures["CPU ms a film, listing"] / 6e4,
        "minutes of merging": MILLION * figures["CPU ms a film, merging"] / 6e4,
    }
    shards = f"\na million films, {MILLION // MOST_FILMS:,} shards"
    return "\n".join([shards, *(f"{name:50} {value:,.4g}" for name, value in lines.items())])


if __name__ == "__main__":
    main()
