"""The output folder of ``deepknee read``: what is complete in it, and the tables made from that.

A film is over when its record ``records/KEY.json`` exists, which is written last, after the outputs of its knees.
Tables and report are made from the records alone, so they hold complete films only, whenever they are made.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from deepknee.draw import attention_picture, encode_jpeg, encode_png, landmark_picture
from deepknee.films import SHARDS, Film
from deepknee.html import render
from deepknee.knee_reading import KneeReading, Reading
from deepknee.output import Folder, FolderError, folders_above, stamp_or_none
from deepknee.repeats import mark_repeated
from deepknee.report import (
    FAILURE_COLUMNS,
    FORMAT,
    RESULT_COLUMNS,
    knee_record,
    result_cells,
    result_values,
    to_csv,
    to_json,
)
from kneel.engine.atomic import write_atomic
from kneel.imaging.radiograph import Radiograph

REPORT_PX = 300  # side of the pictures inside report.html
# of a knee, below the folder; the small pictures are kept, as making them anew for a thousand films takes half a minute
OUTPUTS = (
    *("knees/{}_landmarks.png", "knees/{}_attention.png", "knees/{}.json"),
    *("records/{}_landmarks.jpg", "records/{}_attention.jpg"),
)

Record = dict[str, Any]


@dataclass(frozen=True)
class OutputFolder(Folder):
    """A record a film, and pictures and a JSON a knee."""

    def pending(self, films: Sequence[Film], *, overwrite: bool = False) -> list[Film]:
        """Say which films must be read; nothing is written.

        Done are films that were read without error from a file of the same size and time, with the same weights,
        release and given spacing.

        Parameters
        ----------
        films : sequence of Film
            What the user asks for.
        overwrite : bool
            Read all.

        Returns
        -------
        list of Film
            Those that are not done.

        Raises
        ------
        FolderError
            The folder holds films of other weights or given spacing that are not among `films`, or something that is
            no record, or films that were read over a cluster.
        """
        if any((self.root / SHARDS).glob("*.parquet")):
            raise FolderError(f"{self.root}: holds films read with --ray; choose another --out, or give --ray again")
        records = self.read_records()
        asked = {film.key for film in films}
        strange = [record["file"] for key, record in records.items() if key not in asked and not self._ours(record)]
        self.refuse_strange(strange)
        return [film for film in films if overwrite or not self._done(film, records.get(film.key))]

    def open(self, pending: Iterable[Film], others: Iterable[tuple[Film, str]] = ()) -> None:
        """Make ready for films that will be read.

        What is there of them is removed, so that old and new never mix, but for what is done and only read again: that
        stays until it is, for whoever stops before.

        Parameters
        ----------
        pending : iterable of Film
            From `pending`.
        others : iterable of (Film, str)
            Files that are no films, and why; listed in the tables.
        """
        for folder in (self.root, self.knees, self.records):
            folder.mkdir(parents=True, exist_ok=True)
        records = self.read_records()
        for film in pending:
            if not self._done(film, record := records.get(film.key)):
                self._remove(film.key, record)
        self.write_marker()
        for film, reason in others:
            self._write(film, "other", reason=reason)

    @property
    def knees(self) -> Path:
        """Folder of the JSON and pictures of the knees."""
        return self.root / "knees"

    @property
    def records(self) -> Path:
        """Folder of one JSON a film, and of the small pictures for the report."""
        return self.root / "records"

    def encode(self, film: Film, reading: Reading) -> dict[str, list[bytes]]:
        """Draw and describe the knees of a film; nothing is written.

        Parameters
        ----------
        film : Film
            The file.
        reading : Reading
            What was found on it.

        Returns
        -------
        dict
            For every knee the name of its outputs, and their content in the order of `OUTPUTS`.
        """
        return {f"{film.key}_{knee.side}": self._encode(film, reading.radiograph, knee) for knee in reading.knees}

    def _encode(self, film: Film, radiograph: Radiograph, knee: KneeReading) -> list[bytes]:
        pictures = landmark_picture(radiograph, knee), attention_picture(radiograph, knee)
        record = to_json(knee_record(film.file, radiograph, knee, self.made_by))
        return [*map(encode_png, pictures), record, *(encode_jpeg(picture, REPORT_PX) for picture in pictures)]

    def save(self, film: Film, knees: Mapping[str, Sequence[bytes]], before: tuple[int, int]) -> None:
        """Write the outputs of a film's knees, then its record; what was there of it is removed.

        Parameters
        ----------
        film : Film
            The file.
        knees : mapping
            From `encode`.
        before : (int, int)
            Size and time of the file (`stamp`), from before it was read.
        """
        self._remove_old(film)
        for name, contents in knees.items():
            for path, content in zip(self._outputs(name), contents, strict=True):
                write_atomic(path, content)
        self._write(film, "read", knees=list(knees), size=before[0], time_ns=before[1])

    def save_failure(self, film: Film, reason: str) -> None:
        """Write the record of a film that could not be read; what was there of it is removed.

        Parameters
        ----------
        film : Film
            The file.
        reason : str
            Why.
        """
        self._remove_old(film)
        self._write(film, "failed", reason=reason)

    def read_records(self) -> dict[str, Record]:
        """Return the records of all films in the folder, by key.

        Raises
        ------
        FolderError
            A file among them is no record.
        """
        return {path.stem: _load(path) for path in sorted(self.records.glob("*.json"))}

    def write_tables(self, asked: Collection[str] = ()) -> int:
        """Write ``results.csv``, ``failures.csv`` and ``report.html`` from the records.

        Parameters
        ----------
        asked : collection of str
            Keys of the films of this run. A folder that could not be opened in an earlier one is no failure any more
            when films were found in it since.

        Returns
        -------
        int
            How many films of the tables are the same picture as another; see `deepknee.repeats`.
        """
        films = sorted(self.read_records().items(), key=lambda item: (item[1]["file"], item[0]))
        knees: list[tuple[str, Record]] = []
        failures, others = [], []
        opened = folders_above(film["file"] for _, film in films)
        for key, film in films:
            if film["status"] == "failed" and key not in asked and str(PurePath(film["file"])) in opened:
                continue
            if film["status"] == "other":
                others.append((film["file"], film["reason"]))
            elif film["status"] == "failed":
                failures.append((film["file"], film["reason"]))
            elif self._complete(film):
                knees += [(name, _load(self.knees / f"{name}.json")) for name in film["knees"]]
            else:
                failures.append((film["file"], "its outputs were deleted since: read it again"))
        repeats = mark_repeated([record for _, record in knees])
        rows = (result_cells(result_values(record)) for _, record in knees)
        write_atomic(self.root / "results.csv", to_csv(RESULT_COLUMNS, rows))
        write_atomic(self.root / "failures.csv", to_csv(FAILURE_COLUMNS, failures + others))
        pages = render(knees, failures, others, self.made_by, self._small, _link)
        write_atomic(self.root / "report.html", b"".join(pages))
        return repeats

    def _ours(self, record: Record) -> bool:
        return record["status"] != "read" or self.made(record["made_by"], record["spacing_mm"])

    def _complete(self, record: Record) -> bool:
        return all(path.is_file() for name in record["knees"] for path in self._outputs(name))

    def _done(self, film: Film, record: Record | None) -> bool:
        if record is None or record["status"] != "read" or not self._ours(record) or not self._complete(record):
            return False
        return stamp_or_none(film.path) == (record["size"], record["time_ns"])

    def _remove(self, key: str, record: Record | None) -> None:
        """Remove a film's outputs, the record first: without it the rest is nothing."""
        if record is not None:
            (self.records / f"{key}.json").unlink()
            for name in record.get("knees", ()):
                for path in self._outputs(name):
                    path.unlink(missing_ok=True)

    def _remove_old(self, film: Film) -> None:
        if (path := self.records / f"{film.key}.json").exists():
            self._remove(film.key, _load(path))

    def _write(self, film: Film, status: str, **more: Any) -> None:
        record = {"format": FORMAT, "file": film.file, "status": status, "made_by": self.made_by["id"]}
        write_atomic(self.records / f"{film.key}.json", to_json({**record, "spacing_mm": self.given, **more}))

    def _outputs(self, name: str) -> list[Path]:
        return [self.root / output.format(name) for output in OUTPUTS]

    def _small(self, name: str, kind: str) -> bytes:
        return (self.records / f"{name}_{kind}.jpg").read_bytes()


def _link(name: str, kind: str) -> str:
    return f"knees/{name}_{kind}.png"


def _load(path: Path) -> Record:
    try:
        record = json.loads(path.read_bytes())
        known = record["format"] == FORMAT and isinstance(record["file"], str)
    except (ValueError, KeyError, TypeError) as error:
        raise FolderError(f"{path}: no record of deepknee read; delete it, or choose another --out") from error
    if not known:
        raise FolderError(f"{path}: format {record['format']!r}, must be {FORMAT}; choose another --out")
    return record
