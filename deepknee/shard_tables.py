"""The tables of a reading over a cluster, merged from its shards row by row: a million films need not fit in memory."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepknee.output import folders_above
from deepknee.repeats import FLAG, outline, repeated
from deepknee.report import FAILURE_COLUMNS, RESULT_COLUMNS, result_cells
from deepknee.shard_folder import Plan, ShardFolder
from deepknee.shards import FAILED, READ, Row, by_name, load_arrow, load_shard, printable, result_fields, run_of
from kneel.engine.atomic import opened_atomic

_POINTS = slice(RESULT_COLUMNS.index("x0") - 1, RESULT_COLUMNS.index("y15"))  # of `Row.knee`, which has no file
_GROUP = 20_000  # rows of results.parquet that are held until they are written


@dataclass
class Tally:
    """What the tables hold of the films that were asked for.

    Attributes
    ----------
    read, failed : int
        Films.
    knees : int
        Knees of the films that were read.
    repeated : int
        Films of the tables that are the same picture as another; see `deepknee.repeats`.
    """

    read: int = 0
    failed: int = 0
    knees: int = 0
    repeated: int = 0


def write_tables(folder: ShardFolder, plan: Plan, *, interrupted: bool = False) -> Tally:
    """Write ``results.csv``, ``results.parquet`` and ``failures.csv``, each film once; shards without use are removed.

    Parameters
    ----------
    folder : ShardFolder
        Where shards lie and tables go.
    plan : Plan
        Of this run: of the films that are pending in it, only what it has read counts.
    interrupted : bool
        Not all that was pending was tried. Then what an earlier run has read of such films counts too, as far as it
        would be read alike now, and no shard is removed.

    Returns
    -------
    Tally
        What was counted on the way.

    Raises
    ------
    DamagedShard
        A shard was damaged since the run began.
    OSError
        Tables cannot be written.
    """
    paths = folder.paths()
    newest, firsts, repeats = _newest(folder, plan, paths, interrupted)
    tally, last, others = Tally(repeated=len(repeats)), "", []
    results, failures = folder.root / "results.csv", folder.root / "failures.csv"
    with (
        _csv(results, RESULT_COLUMNS) as to_results,
        _csv(failures, FAILURE_COLUMNS) as to_failures,
        _parquet(folder.root / "results.parquet") as to_parquet,
    ):
        for number, row in in_order(paths, firsts):
            if newest.get(row.key) != number:
                continue
            if row.status == READ:
                knee = _flagged(row.knee) if row.key in repeats else row.knee
                to_results(result_cells((row.file, *knee)))
                to_parquet((printable(row.file), *knee))
            elif row.status == FAILED:
                to_failures((row.file, row.reason))
            else:
                others.append((row.file, row.reason))
            if row.key in plan.asked:
                tally.knees += row.status == READ
                tally.read += row.status == READ and row.key != last
                tally.failed += row.status == FAILED
            last = row.key
        for other in others:  # below the failures, as without a cluster
            to_failures(other)
    if not interrupted:
        for number in set(range(len(paths))) - set(newest.values()):
            paths[number].unlink()
        for path in folder.left_behind():  # nobody waits for whoever may be writing still
            path.unlink(missing_ok=True)
    return tally


def in_order(paths: Sequence[Path], firsts: Sequence[tuple[str, str] | None]) -> Iterator[tuple[int, Row]]:
    """Merge the rows of shards by `deepknee.shards.by_name`.

    A shard is read when its first film comes. A run cuts a sorted list into shards, so that one shard a run is in
    memory, and not all of them.

    Parameters
    ----------
    paths : sequence of Path
        The shards.
    firsts : sequence of (str, str) or None
        File and key of the first row of each; None for one to be left out.

    Yields
    ------
    int
        Number of the shard.
    Row
        One of its rows.
    """
    later = sorted(((first, number) for number, first in enumerate(firsts) if first is not None), reverse=True)
    held: list[tuple[tuple[str, str], int, Row, Iterator[Row]]] = []  # a heap of the next row of each
    while later or held:
        if later and (not held or later[-1][0] <= held[0][0]):
            first, number = later.pop()
            rows = iter(load_shard(paths[number]).rows)
            heappush(held, (first, number, next(rows), rows))
            continue
        _, number, row, rows = heappop(held)
        yield number, row
        if (following := next(rows, None)) is not None:
            heappush(held, (by_name(following), number, following, rows))


def _newest(
    folder: ShardFolder, plan: Plan, paths: Sequence[Path], interrupted: bool
) -> tuple[dict[str, int], list[tuple[str, str] | None], frozenset[str]]:
    """Tell for every film which shard counts, the first row of every shard that counts for any, and repeated films."""
    pending = {film.key: film for film in plan.pending}
    newest: dict[str, int] = {}
    unread: dict[str, str] = {}  # of the newest, with the file of those that failed
    in_folder: dict[str, str] = {}  # a film of each folder
    outlines: dict[str, NDArray[np.float32]] = {}
    firsts: list[tuple[str, str] | None] = []
    runs = [run_of(path) for path in paths]
    for number, path in enumerate(paths):
        shard, old = load_shard(path), runs[number] < plan.run
        for row in shard.films():
            if old and row.key in pending:
                counts = interrupted and folder.done(pending[row.key], shard, row)
            else:
                counts = folder.ours(shard, row)
            # a node that was given up may have read the film after all
            held = newest.get(row.key) if row.status != READ and row.key not in unread else None
            if counts and (held is None or runs[held] < runs[number]):
                newest[row.key] = number
                if row.status == READ:
                    unread.pop(row.key, None)
                    outlines[row.key] = outline(row.knee[_POINTS])
                else:
                    outlines.pop(row.key, None)
                    unread[row.key] = row.file if row.status == FAILED else ""
                in_folder[os.path.dirname(row.file)] = row.file
        firsts.append(by_name(shard.rows[0]))
    opened = folders_above(in_folder.values())
    for key, file in unread.items():  # as `deepknee.folder.OutputFolder.write_tables` leaves them out
        if file and key not in plan.asked and str(PurePath(file)) in opened:
            del newest[key]
    used = set(newest.values())
    return newest, [first if number in used else None for number, first in enumerate(firsts)], repeated(outlines)


def _flagged(knee: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*knee[:-1], ";".join(filter(None, (knee[-1], FLAG))))


@contextmanager
def _csv(path: Path, columns: Sequence[str]) -> Iterator[Callable[[Sequence[Any]], Any]]:
    """Open a table, as `deepknee.report.to_csv` would write it."""
    with opened_atomic(path) as file:
        text = io.TextIOWrapper(file, "utf-8", "backslashreplace", newline="")
        try:
            table = csv.writer(text, lineterminator="\n")
            table.writerow(columns)
            yield table.writerow
        finally:
            text.detach()  # which also writes out what it holds


@contextmanager
def _parquet(path: Path) -> Iterator[Callable[[Sequence[Any]], None]]:
    """Open a table of full precision."""
    arrow, parquet = load_arrow()
    schema = arrow.schema(result_fields(arrow))
    held: list[Sequence[Any]] = []

    def write() -> None:
        columns = zip(*held, strict=True) if held else [()] * len(schema)
        arrays = [arrow.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        table.write_table(arrow.table(arrays, schema=schema))
        held.clear()

    def add(row: Sequence[Any]) -> None:
        held.append(row)
        if len(held) == _GROUP:
            write()

    with opened_atomic(path) as file, parquet.ParquetWriter(file, schema) as table:
        yield add
        write()
