"""Shards: what ``deepknee read --ray`` keeps of the films, many of them in one Parquet file.

A row is a knee, or a film without one and the reason, so that every film asked for is accounted for. A shard is there
as a whole or not at all. Where several hold the same film, that of the newest run counts.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from deepknee.output import FolderError
from deepknee.report import DECIMALS, RESULT_COLUMNS
from kneel.engine.ray_cluster import ClusterError

FORMAT = 1  # of the shards; another number is another program's
READ, FAILED, OTHER = "read", "failed", "other"

_ABOUT = b"deepknee"  # where the metadata of a file have what describes the shard, as JSON

by_name = attrgetter("file", "key")  # the order of films and rows, as in the tables


class DamagedShard(FolderError):
    """A shard that is not as it was written."""


class Row(NamedTuple):
    """A knee, or a film without one.

    Attributes
    ----------
    file, key : str
        The film, as in `deepknee.films.Film`.
    status : str
        `READ`, `FAILED`, or `OTHER` for a file that is no film.
    reason : str or None
        Why it was not read.
    size, time_ns : int or None
        Of its file, from before it was read (`deepknee.output.stamp`).
    knee : tuple
        `deepknee.report.result_values` without the file; of None where there is no knee.
    """

    file: str
    key: str
    status: str
    reason: str | None = None
    size: int | None = None
    time_ns: int | None = None
    knee: tuple[Any, ...] = (None,) * (len(RESULT_COLUMNS) - 1)


class Shard(NamedTuple):
    """What a file holds.

    Attributes
    ----------
    made_by : str
        ``id`` of what read the films.
    spacing_mm : list of float or None
        (row, column) spacing that the user gave.
    rows : list of Row
        Sorted by `by_name`; the knees of a film as they were found.
    """

    made_by: str
    spacing_mm: list[float] | None
    rows: list[Row]

    def films(self) -> Iterator[Row]:
        """Yield the first row of every film."""
        return (next(same) for _, same in groupby(self.rows, by_name))


def shard_name(run: int, data: bytes) -> str:
    """Name the file of a shard by its run, so that names sort by age, and by its content, so that damage shows."""
    return f"{run:06d}-{_digest(data)}.parquet"


def run_of(path: Path) -> int:
    """Return the number of the run that wrote a shard.

    Raises
    ------
    FolderError
        The name of the file is none that `shard_name` gives.
    """
    name = re.fullmatch(r"(\d{6,})-[0-9a-f]{16}\.parquet", path.name)
    if name is None:
        raise FolderError(f"{path}: no shard of deepknee read; delete it, or choose another --out")
    return int(name[1])


def load_shard(path: Path) -> Shard:
    """Read a shard.

    Parameters
    ----------
    path : Path
        Its file.

    Raises
    ------
    DamagedShard
        It is not as it was written.
    FolderError
        It never was a shard, or is one of another format.
    """
    arrow, parquet = load_arrow()
    run_of(path)
    data = path.read_bytes()
    if _digest(data) != path.stem.partition("-")[2]:
        raise DamagedShard(f"{path}: damaged, its content is not what its name says; read again with --ray")
    table = parquet.ParquetFile(arrow.BufferReader(data)).read(use_threads=False)
    about = json.loads((table.schema.metadata or {}).get(_ABOUT, b"{}"))
    if about.get("format") != FORMAT:
        raise FolderError(f"{path}: no shard of format {FORMAT}; delete it, or choose another --out")
    columns = [column.to_pylist() for column in table.columns]
    rows = [
        Row(file.decode("utf-8", "surrogatepass"), key, status, reason, size, time_ns, tuple(knee))
        for file, key, status, reason, size, time_ns, *knee in zip(*columns, strict=True)
    ]
    return Shard(about["made_by"], about["spacing_mm"], rows)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def load_arrow() -> tuple[Any, Any]:
    """Return the modules ``pyarrow`` and ``pyarrow.parquet``.

    Raises
    ------
    ClusterError
        It is not installed.
    """
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ClusterError(f"--ray writes Parquet files ({error}): pip install '.[ray]' in the checkout") from error


def result_fields(arrow: Any) -> list[Any]:
    """Return the fields of `deepknee.report.RESULT_COLUMNS` in Parquet files."""
    types = {"kl": arrow.int8(), "abstain": arrow.bool_()} | dict.fromkeys(DECIMALS, arrow.float64())
    return [arrow.field(column, types.get(column, arrow.string())) for column in RESULT_COLUMNS]


def printable(text: str) -> str:
    r"""Return text that UTF-8 has: bytes of a file name that are none come out as ``\udcXX``, as in the CSV tables."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def encode_shard(shard: Shard) -> bytes:
    """Return the content of a shard's file.

    Parameters
    ----------
    shard : Shard
        At least one row.

    Raises
    ------
    ClusterError
        pyarrow is not installed.
    """
    arrow, parquet = load_arrow()
    # names as bytes, so that those that are no text keep their place in the order
    head = [("file", arrow.binary()), ("key", arrow.string()), ("status", arrow.string()), ("reason", arrow.string())]
    fields = [*head, ("size", arrow.int64()), ("time_ns", arrow.int64()), *result_fields(arrow)[1:]]
    about = {"format": FORMAT, "made_by": shard.made_by, "spacing_mm": shard.spacing_mm}
    schema = arrow.schema(fields, metadata={_ABOUT: json.dumps(about).encode("ascii")})
    cells = [
        (
            row.file.encode("utf-8", "surrogatepass"),
            *row[1:3],
            row.reason and printable(row.reason),
            *row[4:6],
            *row.knee,
        )
        for row in shard.rows
    ]
    arrays = [arrow.array(column, field.type) for column, field in zip(zip(*cells, strict=True), schema, strict=True)]
    sink = arrow.BufferOutputStream()
    # numbers hardly repeat: dictionaries of a few hundred rows would take more room than they save
    parquet.write_table(arrow.table(arrays, schema=schema), sink, use_dictionary=False)
    data: bytes = sink.getvalue().to_pybytes()
    return data
