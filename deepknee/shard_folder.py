"""The output folder of ``deepknee read --ray``: what is complete in it, and how a film becomes rows of a shard."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

from deepknee.films import SHARDS, Film
from deepknee.output import Folder, FolderError, no_knee, reason_of, stamp, stamp_or_none
from deepknee.report import knee_record, result_values, to_json
from deepknee.shards import (
    FAILED,
    OTHER,
    READ,
    DamagedShard,
    Row,
    Shard,
    by_name,
    encode_shard,
    load_shard,
    run_of,
    shard_name,
)
from kneel.engine.atomic import sync_folder, write_atomic

if TYPE_CHECKING:
    from deepknee.pipeline import Reader

_BESIDE = re.compile(r"\.{1,2}\d{6,}-[0-9a-f]{16}-[0-9a-f]{32}(\.tmp)?")  # see `ShardFolder.save`
_log = logging.getLogger(__name__)


class Plan(NamedTuple):
    """What a run is going to do.

    Attributes
    ----------
    asked : frozenset of str
        Keys of all films that the user asks for.
    pending : list of Film
        Those that must be read, sorted by `by_name`.
    run : int
        Number of this run; higher is newer.
    """

    asked: frozenset[str]
    pending: list[Film]
    run: int


@dataclass(frozen=True)
class ShardFolder(Folder):
    """The output folder of a reading over a cluster: shards and tables, no pictures and no file of a single film."""

    def plan(self, films: Sequence[Film], *, overwrite: bool = False) -> Plan:
        """Say which films must be read. Damaged shards are named on the log, and set aside as ``*.damaged``.

        Parameters
        ----------
        films : sequence of Film
            What the user asks for.
        overwrite : bool
            Read all.

        Returns
        -------
        Plan
            Without the films that were read without error from a file of the same size and time, with the same weights,
            release and given spacing.

        Raises
        ------
        FolderError
            The folder holds films that were read without a cluster; or films of other weights or given spacing
            that are not among `films`; or something that is no shard.
        """
        if any((self.root / "records").glob("*.json")):
            raise FolderError(f"{self.root}: holds films read without --ray; choose another --out, or leave --ray out")
        asked = {film.key: film for film in films}
        done: dict[str, int] = {}  # and in which run
        strange: dict[str, str] = {}
        run = 1
        for path in self.paths():  # the older first
            run = run_of(path) + 1
            if (shard := _load_or_set_aside(path)) is None:
                continue
            for row in shard.films():
                if row.key not in asked:
                    strange.pop(row.key, None)
                    strange |= {} if self.ours(shard, row) else {row.key: row.file}
                elif self.done(asked[row.key], shard, row):
                    done[asked[row.key].key] = run
                elif row.status == READ or done.get(row.key) != run:  # what was read goes before what failed in a run
                    done.pop(row.key, None)
        self.refuse_strange(list(strange.values()))
        pending = sorted((film for film in films if overwrite or film.key not in done), key=by_name)
        return Plan(frozenset(asked), pending, run)

    def open(self, run: int, others: Iterable[tuple[Film, str]] = ()) -> None:
        """Make ready for films that will be read.

        Parameters
        ----------
        run : int
            From `plan`.
        others : iterable of (Film, str)
            Files that are no films, and why; listed in the tables.
        """
        (self.root / SHARDS).mkdir(parents=True, exist_ok=True)
        self.write_marker()
        if rows := [Row(film.file, film.key, OTHER, reason) for film, reason in others]:
            self.save(rows, run)

    def paths(self) -> list[Path]:
        """Return the files of all shards, those of older runs first."""
        return sorted((self.root / SHARDS).glob("*.parquet"))

    def save(self, rows: Iterable[Row], run: int) -> Path:
        """Write a shard.

        Parameters
        ----------
        rows : iterable of Row
            All rows of its films, the knees of a film together.
        run : int
            From `plan`.

        Returns
        -------
        Path
            Its file.
        """
        data = encode_shard(Shard(self.made_by["id"], self.given, sorted(rows, key=by_name)))
        path = self.root / SHARDS / shard_name(run, data)
        # under a name of its own first: a node that was given up may still be writing the same shard
        beside = path.with_name(f".{path.stem}-{uuid4().hex}")
        write_atomic(beside, data)
        os.replace(beside, path)
        sync_folder(path.parent)
        return path

    def left_behind(self) -> list[Path]:
        """Return what writers of shards that were killed have left of them."""
        return [path for path in sorted((self.root / SHARDS).glob(".*")) if _BESIDE.fullmatch(path.name)]

    def ours(self, shard: Shard, row: Row) -> bool:
        """Say whether a row may stand in one table with what is read now."""
        return row.status != READ or self.made(shard.made_by, shard.spacing_mm)

    def done(self, film: Film, shard: Shard, row: Row) -> bool:
        """Say whether a film was read without error, from the file that is there now, as it would be read now."""
        if row.status != READ or not self.ours(shard, row):
            return False
        return stamp_or_none(film.path) == (row.size, row.time_ns)


def film_rows(film: Film, reader: Reader, folder: ShardFolder) -> list[Row]:
    """Read a film; what is wrong with it is told by its row, not raised.

    Parameters
    ----------
    film : Film
        The file.
    reader : Reader
        Reads it.
    folder : ShardFolder
        For which; nothing is written.

    Returns
    -------
    list of Row
        Of its knees, or the one that says why there is none.
    """
    try:
        size, time_ns = stamp(film.path)
        reading = reader.read(film.path, spacing_mm=folder.spacing_mm)
        records = [knee_record(film.file, reading.radiograph, knee, {}) for knee in reading.knees]
        for record in records:
            to_json(record)  # numbers that are none fail the film, as they do where JSON is written
    except Exception as error:  # whatever it is, it must not stop the other films, and it is listed with its reason
        return [Row(film.file, film.key, FAILED, reason_of(error))]
    knees = [tuple(result_values(record)[1:]) for record in records]
    return [Row(film.file, film.key, READ, None, size, time_ns, knee) for knee in knees] or [
        Row(film.file, film.key, FAILED, no_knee(reading.radiograph))
    ]


def _load_or_set_aside(path: Path) -> Shard | None:
    try:
        return load_shard(path)
    except DamagedShard as error:
        path.rename(path.with_suffix(".damaged"))
        _log.warning("%s; its films that are asked for are read again", error)
        return None
