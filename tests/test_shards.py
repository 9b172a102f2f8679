"""Shards and the tables merged from them, without a cluster: against the tables of a reading without one."""

import csv
import os
import random

import pytest
from oracle import make_reader, shut, snapshots

from deepknee import shard_tables
from deepknee.batch import read_films
from deepknee.films import find_films
from deepknee.folder import OutputFolder
from deepknee.output import FolderError
from deepknee.report import RESULT_COLUMNS, result_cells
from deepknee.shard_folder import ShardFolder, film_rows
from deepknee.shard_tables import Tally, write_tables
from deepknee.shards import DamagedShard, Shard, encode_shard, load_shard, shard_name

parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow comes with the extra: pip install '.[ray]'")
WORDS = {"1": "R L", "2": "L", "3": "none", "4": "bad", "5": "bug", "6": "R", "7": "R L", "8": "R", "9": "L"}


@pytest.fixture
def films(tmp_path):
    """Nine films of all kinds in two folders, one with a name that is no text, and a file that is no film."""
    for name, words in WORDS.items():
        write(tmp_path / "films" / name, words)
    write(tmp_path / "films" / "more" / "1.dcm", "R")
    write(tmp_path / "films" / "\udcff\n,.dcm", "L R")
    write(tmp_path / "films" / "\U0001f9b5.dcm", "L")
    write(tmp_path / "films" / "notes.txt", "")
    return tmp_path / "films"


def write(path, words):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(words)


def run(films, size=3, *, only=None, out=None, weights=None, spacing=None, overwrite=False, seed=0):
    """Read what is pending in pieces that come in any order, or stop after a few; the films read, and the tally."""
    out = out or films.parent / "out"
    found, others = find_films([str(films)], out)
    folder = ShardFolder.by(weights or snapshots(), out, spacing)
    plan = folder.plan(found, overwrite=overwrite)
    folder.open(plan.run, others)
    pieces = [plan.pending[start : start + size] for start in range(0, len(plan.pending), size)][:only]
    random.Random(seed).shuffle(pieces)
    for piece in pieces:
        folder.save((row for film in reversed(piece) for row in film_rows(film, make_reader(), folder)), plan.run)
    tally = write_tables(folder, plan, interrupted=only is not None)
    return sorted(film.file for piece in pieces for film in piece), tally


def without(films, out, **more):
    found, others = find_films([str(films)], out)
    return read_films(found, others, OutputFolder.by(snapshots(), out, **more), make_reader)


def tables(out):
    return [(out / name).read_bytes() for name in ("results.csv", "failures.csv")]


def names(out, table="results.csv"):
    with (out / table).open(newline="") as stream:
        return [os.path.basename(row["file"]) for row in csv.DictReader(stream)]


def shards(out):
    return sorted((out / "shards").glob("*.parquet"))


@pytest.mark.parametrize("size", [1, 3, 100])
def test_tables_are_those_of_a_reading_without_a_cluster(films, tmp_path, size):
    expected = without(films, tmp_path / "one", spacing_mm=(0.4, 0.5))
    _, tally = run(films, size, out=tmp_path / "two", spacing=(0.4, 0.5), seed=size)
    assert tables(tmp_path / "two") == tables(tmp_path / "one")
    counts = expected.read, expected.failed, expected.knees, expected.repeated
    assert tally == Tally(*counts) == Tally(9, 3, 12, 8)
    with (tmp_path / "two" / "results.csv").open(newline="") as stream:
        flagged = [row["file"] for row in csv.DictReader(stream) if "film_repeated" in row["flags"]]
    assert len(flagged) == 10, "all but the film whose left knee comes first"
    assert not any(",.dcm" in name for name in flagged)


def test_parquet_holds_the_same_in_full(films, tmp_path):
    run(films)
    table = parquet.read_table(tmp_path / "out" / "results.parquet")
    assert table.column_names == list(RESULT_COLUMNS)
    rows = [list(row.values()) for row in table.to_pylist()]
    with (tmp_path / "out" / "results.csv").open(newline="") as stream:
        assert [result_cells(row) for row in rows] == list(csv.reader(stream))[1:]
    expected = make_reader().read(films / "1").knees
    mine = [row for row in rows if row[0] == str(films / "1")]
    points = [[value for point in knee.landmarks.tolist() for value in point] for knee in expected]
    first = RESULT_COLUMNS.index("x0")
    assert [row[first : first + 32] for row in mine] == points


def test_no_films_left_make_empty_tables(tmp_path):
    write(tmp_path / "films" / "1", "bad")
    run(tmp_path / "films")
    assert names(tmp_path / "out") == []
    assert parquet.read_table(tmp_path / "out" / "results.parquet").num_rows == 0


def test_again_reads_only_the_rest_however_it_is_cut(films, tmp_path):
    before, _ = run(films, 2, only=3)
    rest, _ = run(films, 5)
    assert len(before) == 6
    assert set(before) & set(rest) == {str(films / "3"), str(films / "4"), str(films / "5")}, "those that failed"
    without(films, tmp_path / "one")
    assert tables(tmp_path / "out") == tables(tmp_path / "one")
    again, tally = run(films)
    assert len(again) == tally.failed == 3
    assert tables(tmp_path / "out") == tables(tmp_path / "one")


def test_a_film_that_changed_is_read_again_and_its_old_rows_go(films, tmp_path):
    run(films, 2)
    write(films / "1", "L")
    assert run(films, 1)[0] == [str(films / name) for name in ("1", "3", "4", "5")]
    assert names(tmp_path / "out").count("1") == 1
    os.utime(films / "1", (1e9, 1e9))
    assert str(films / "1") in run(films)[0]
    (films / "1").unlink()
    assert str(films / "1") not in run(films)[0]
    assert names(tmp_path / "out").count("1") == 1, "films of earlier runs stay"


def test_another_spacing_or_overwrite_reads_everything(films, tmp_path):
    run(films, 2)
    assert len(run(films, 5, spacing=(0.4, 0.5))[0]) == 12
    assert len(run(films, 5, spacing=(0.4, 0.5))[0]) == 3
    assert len(run(films, 4, spacing=(0.4, 0.5), overwrite=True)[0]) == 12
    without(films, tmp_path / "one", spacing_mm=(0.4, 0.5))
    assert tables(tmp_path / "out") == tables(tmp_path / "one")
    assert len(shards(tmp_path / "out")) == 4, "three and the side file's; what was superseded is gone"


def test_a_stopped_overwrite_keeps_what_would_be_read_alike(films, tmp_path):
    run(films)
    before, shards_before = names(tmp_path / "out"), shards(tmp_path / "out")
    write(films / "6", "R L")
    (films / "7").unlink()
    (films / "7").symlink_to("x" * 300)  # asking for its size is an error: File name too long
    assert run(films, only=0, overwrite=True)[1] == Tally(7, 0, 9, 5)
    assert names(tmp_path / "out") == [name for name in before if name not in ("6", "7")]
    assert set(shards_before) <= set(shards(tmp_path / "out"))
    assert run(films, 4, only=1, overwrite=True)[1].failed > 0
    assert names(tmp_path / "out") == [name for name in before if name not in ("6", "7")]
    read, tally = run(films)
    assert read == [str(films / name) for name in ("3", "4", "5", "6", "7")]
    assert tally == Tally(8, 4, 11, 7)
    assert "File name too long" in (tmp_path / "out" / "failures.csv").read_text()
    assert len(run(films, only=0, spacing=(0.4, 0.5))[0]) == 0
    assert names(tmp_path / "out") == [], "none with another spacing"
    assert run(films)[1] == tally, "and yet they are not lost"


def test_overlapping_shards_count_once_and_the_newest(films, tmp_path):
    run(films, 3)
    out = tmp_path / "out"
    folder = ShardFolder.by(snapshots(), out)
    expected = tables(out)
    stale = [row for path in shards(out) for row in load_shard(path).rows if row.status == "read"]
    folder.save([row._replace(knee=("old", *row.knee[1:])) for row in stale], 0)
    late = [row for row in stale if row.file.endswith(("/1", "/6", "/7"))]
    folder.save(late, 1)  # as when a node that was given up goes on writing
    plan = folder.plan(find_films([str(films)], out)[0])
    write_tables(folder, plan._replace(pending=[]))
    assert tables(out) == expected
    assert not any(path.name.startswith("000000") for path in shards(out))


def test_a_folder_that_was_shut_is_no_failure_once_its_films_are_read(films, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for _ in range(2):
        with shut(films / "more"):
            without(films, one)
            run(films, out=two)
        assert "more" in names(two, "failures.csv"), "also when its films were read before it was shut"
        assert tables(two) == tables(one)
        without(films, one)
        _, tally = run(films, out=two)
        assert "more" not in names(two, "failures.csv")
        assert tables(two) == tables(one)
        assert tally == Tally(9, 3, 12, 8)


@pytest.mark.parametrize("damage", ["cut off", "a byte", "empty"])
def test_a_damaged_shard_is_named_and_its_films_are_read_again(films, tmp_path, caplog, damage):
    run(films, 4)
    expected = tables(tmp_path / "out")
    path = shards(tmp_path / "out")[1]
    lost = {row.file for row in load_shard(path).rows if row.status == "read"}
    data = path.read_bytes()
    other = bytes([data[2000] ^ 1])
    path.write_bytes({"cut off": data[:-100], "a byte": data[:2000] + other + data[2001:], "empty": b""}[damage])
    with pytest.raises(DamagedShard, match="damaged"):
        load_shard(path)
    assert lost < set(run(films, 4)[0])
    assert f"{path}: damaged" in caplog.text
    assert path.with_suffix(".damaged").exists()
    assert tables(tmp_path / "out") == expected


def test_what_failed_since_it_was_read_counts_as_failed(films, tmp_path):
    """Read in the first run, failed in the second, not asked for in the third: the newest that tried it counts."""
    out = tmp_path / "out"
    run(films, out=out)
    write(films / "1", "bad")
    run(films, out=out)
    run(films / "more", out=out)
    assert "1" not in names(out)
    assert "1" in names(out, "failures.csv")


def test_what_is_no_shard_is_refused(films, tmp_path):
    run(films)
    path = shards(tmp_path / "out")[0]
    plain = tmp_path / "plain.parquet"
    parquet.write_table(parquet.read_table(path).replace_schema_metadata(), plain)
    data = plain.read_bytes()
    for name, message in (("x.parquet", "no shard of deepknee"), (shard_name(1, data), "no shard of format 1")):
        path.with_name(name).write_bytes(data)
        with pytest.raises(FolderError, match=message):
            run(films)
        path.with_name(name).unlink()


def test_other_weights_read_everything_again_but_mix_with_nothing(films, tmp_path):
    other = snapshots()
    other.id = "f" * 16
    run(films)
    write(tmp_path / "films2" / "1", "R")
    with pytest.raises(FolderError, match=r"holds 9 films read with other weights.*choose another --out"):
        run(tmp_path / "films2", weights=other)
    with pytest.raises(FolderError, match=r"holds 9 films read with .* or --spacing"):
        run(tmp_path / "films2", spacing=(0.4, 0.5))
    assert len(run(films, 4, weights=other)[0]) == 12
    assert {load_shard(path).made_by for path in shards(tmp_path / "out")} == {
        ShardFolder.by(other, tmp_path / "out").made_by["id"]
    }


def test_folders_with_and_without_shards_do_not_mix(films, tmp_path):
    run(films, out=tmp_path / "shards")
    without(films, tmp_path / "records")
    with pytest.raises(FolderError, match="read with --ray"):
        without(films, tmp_path / "shards")
    with pytest.raises(FolderError, match="read without --ray"):
        run(films, out=tmp_path / "records")


def test_outputs_inside_the_films_are_no_films(films):
    run(films, out=films / "out")
    assert len(find_films([str(films)], films / "out")[0]) == 12
    assert len(find_films([str(films)], films.parent / "elsewhere")[0]) == 12


def test_few_shards_are_in_memory_at_once(films, tmp_path, monkeypatch):
    run(films, 1)
    held, most, load = [0], [0], shard_tables.load_shard

    def counted(path):
        def rows(shard):
            held[0] += 1
            most[0] = max(most[0], held[0])
            yield from shard.rows
            held[0] -= 1

        shard = load(path)
        return shard._replace(rows=rows(shard))

    paths = shards(tmp_path / "out")
    firsts = [(load(path).rows[0].file, load(path).rows[0].key) for path in paths]
    monkeypatch.setattr(shard_tables, "load_shard", counted)
    rows = [row for _, row in shard_tables.in_order(paths, firsts)]
    assert rows == sorted(rows, key=lambda row: (row.file, row.key))
    assert len(rows) == 16
    assert most[0] <= 2, "one of the run, and the side files'"


def test_numbers_that_are_none_fail_the_film(films, tmp_path):
    class Broken(type(make_reader())):
        def read(self, *args, **more):
            reading = super().read(*args, **more)
            object.__setattr__(reading.knees[0], "confidence", float("nan"))
            return reading

    found, _ = find_films([str(films / "1")], tmp_path / "out")
    (row,) = film_rows(found[0], Broken(), ShardFolder.by(snapshots(), tmp_path / "out"))
    assert row.status == "failed"
    assert "JSON" in row.reason


def test_shards_hold_what_was_put_in(films, tmp_path):
    run(films, 100)
    rows = load_shard(shards(tmp_path / "out")[0]).rows
    data = encode_shard(Shard("who", [0.4, 0.5], rows))
    path = tmp_path / shard_name(7, data)
    path.write_bytes(data)
    assert load_shard(path) == Shard("who", [0.4, 0.5], rows)
