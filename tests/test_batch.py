import csv
import json
import os
import signal
from pathlib import Path

import pytest
from oracle import film, make_reader, shut, snapshots

from deepknee import folder as folder_module
from deepknee.batch import CRASHED, read_films
from deepknee.films import find_films
from deepknee.folder import FolderError, OutputFolder
from deepknee.output import no_knee


@pytest.fixture
def films(tmp_path):
    """Five films: two knees, one, none, unreadable, and one that trips over a bug."""
    for name, words in {"1": "R L", "2": "L", "3": "none", "4": "bad", "5": "bug"}.items():
        write(tmp_path / "films" / f"{name}.dcm", words)
    write(tmp_path / "films" / "notes.txt", "")
    return tmp_path / "films"


def write(path, words):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(words)


def run(films, *, jobs=1, overwrite=False, weights=None, spacing=None, out=None):
    out = out or films.parent / "out"
    found, others = find_films([str(films)], out)
    folder = OutputFolder.by(weights or snapshots(), out, spacing)
    return read_films(found, others, folder, make_reader, jobs=jobs, overwrite=overwrite)


def table(out, name):
    with (out / name).open(newline="") as stream:
        return list(csv.DictReader(stream))


def knees(out):
    return [(Path(row["file"]).name, row["side"]) for row in table(out, "results.csv")]


def failures(out):
    return {Path(row["file"]).name: row["reason"] for row in table(out, "failures.csv")}


def contents(out):
    return {path.relative_to(out): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def times(out):
    return {path.name: path.stat().st_mtime_ns for path in (out / "knees").iterdir()}


def test_a_folder_that_was_shut_is_no_failure_once_its_films_are_read(films, tmp_path):
    write(films / "shut" / "1.dcm", "R")
    for _ in range(2):
        with shut(films / "shut"):
            assert run(films).failed == 4
        assert "shut" in failures(tmp_path / "out"), "also when its films were read before it was shut"
        assert run(films).failed == 3
        assert "shut" not in failures(tmp_path / "out")
        assert len(knees(tmp_path / "out")) == 4


def test_every_film_is_read_or_listed(films, tmp_path):
    summary = run(films)
    out = tmp_path / "out"
    assert (summary.films, summary.read, summary.knees, summary.failed) == (5, 2, 3, 3)
    assert knees(out) == [("1.dcm", "R"), ("1.dcm", "L"), ("2.dcm", "L")]
    assert failures(out) == {
        "3.dcm": no_knee(film()),
        "4.dcm": "Rows (0028,0010) is 0",
        "5.dcm": "ZeroDivisionError: a bug",
        "notes.txt": "not a film: .txt files lie beside films",
    }
    assert sorted(path.suffix for path in (out / "knees").iterdir()) == [".json"] * 3 + [".png"] * 6
    assert (out / "report.html").read_text().count("<article") == 3
    marker = json.loads((out / "deepknee.json").read_text())
    assert marker["made_by"]["code"]["torch"]
    assert not [path for path in out.rglob("*") if path.name.endswith((".tmp", ".part"))]


def test_files_of_one_name_do_not_collide(tmp_path):
    for name in ("a/1.dcm", "b/1.dcm"):
        write(tmp_path / "films" / name, "R")
    run(tmp_path / "films")
    rows = table(tmp_path / "out", "results.csv")
    assert [Path(row["file"]).parent.name for row in rows] == ["a", "b"]
    assert len(list((tmp_path / "out" / "knees").iterdir())) == 6


def test_again_reads_only_what_failed(films, tmp_path):
    run(films)
    before = times(tmp_path / "out")
    write(films / "4.dcm", "R")
    summary = run(films)
    assert (summary.earlier, summary.read, summary.failed) == (2, 3, 2)
    after = times(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 3
    assert "4.dcm" not in failures(tmp_path / "out")


def test_overwrite_reads_everything(films, tmp_path):
    run(films)
    assert run(films, overwrite=True).earlier == 0


def test_a_film_that_changed_is_read_again_and_leaves_nothing_behind(films, tmp_path):
    run(films)
    write(films / "1.dcm", "L")
    assert run(films).earlier == 1
    assert knees(tmp_path / "out") == [("1.dcm", "L"), ("2.dcm", "L")]
    assert not list((tmp_path / "out" / "knees").glob("1-*_R*"))


def test_a_touched_film_is_read_again(films):
    run(films)
    os.utime(films / "1.dcm", (1e9, 1e9))
    assert run(films).earlier == 1


def test_another_spacing_is_read_again(films, tmp_path):
    run(films)
    assert run(films, spacing=(0.4, 0.5)).earlier == 0
    assert {row["spacing_mm"] for row in table(tmp_path / "out", "results.csv")} == {"0.4x0.5"}
    assert run(films, spacing=(0.4, 0.5)).earlier == 2


def test_another_spacing_mixes_with_nothing(films, tmp_path):
    """Films that are not named now would stay in the tables with millimetres of another size."""
    run(films, spacing=(0.4, 0.5))
    write(tmp_path / "more" / "6.dcm", "R")
    before = contents(tmp_path / "out")
    for spacing in (None, (0.4, 0.4)):
        with pytest.raises(FolderError, match=r"holds 2 films read with .* or --spacing, as .*choose another --out"):
            run(tmp_path / "more", spacing=spacing)
    assert contents(tmp_path / "out") == before
    assert run(tmp_path / "more", spacing=(0.4, 0.5)).read == 1
    assert len(knees(tmp_path / "out")) == 4


@pytest.mark.parametrize("name", ["knees", "records"])
def test_films_of_somebody_else_where_outputs_go_are_refused(tmp_path, name):
    """Else they would be read once, and be overlooked as outputs from then on."""
    write(tmp_path / "films" / name / "1.dcm", "R")
    write(tmp_path / "films" / "2.dcm", "L")
    before = contents(tmp_path / "films")
    with pytest.raises(FolderError, match=rf"{name}: holds files, and no deepknee\.json.*choose another --out"):
        run(tmp_path / "films", out=tmp_path / "films")
    assert contents(tmp_path / "films") == before
    (tmp_path / "films" / name / "1.dcm").unlink()
    assert run(tmp_path / "films", out=tmp_path / "films").read == 1
    assert run(tmp_path / "films", out=tmp_path / "films").earlier == 1


def test_deleted_outputs_are_made_again(films, tmp_path):
    run(films)
    next((tmp_path / "out" / "knees").glob("1-*_R_attention.png")).unlink()
    assert run(films).earlier == 1
    assert len(times(tmp_path / "out")) == 9


def test_other_weights_read_everything_again_but_mix_with_nothing(films, tmp_path):
    run(films)
    other = snapshots()
    other.id = "f" * 16
    assert run(films, weights=other).earlier == 0
    write(tmp_path / "more" / "6.dcm", "R")
    third = snapshots()
    third.id = "e" * 16
    before = contents(tmp_path / "out")
    with pytest.raises(FolderError, match=r"holds 2 films read with other weights.*choose another --out"):
        run(tmp_path / "more", weights=third)
    assert contents(tmp_path / "out") == before


def test_networks_that_do_not_load_leave_everything_as_it_is(films, tmp_path):
    run(films)
    before = contents(tmp_path / "out")

    def broken():
        raise ValueError("no such layer")

    found, _ = find_films([str(films)], tmp_path / "out")
    with pytest.raises(ValueError, match="no such layer"):
        read_films(found, [], OutputFolder.by(snapshots(), tmp_path / "out"), broken, overwrite=True)
    assert contents(tmp_path / "out") == before


def test_films_of_earlier_runs_stay_in_the_tables(films, tmp_path):
    run(films)
    write(tmp_path / "more" / "6.dcm", "R")
    summary = run(tmp_path / "more")
    assert (summary.films, summary.failed) == (1, 0)
    assert knees(tmp_path / "out")[-1] == ("6.dcm", "R")
    assert len(knees(tmp_path / "out")) == 4
    assert len(failures(tmp_path / "out")) == 4


def test_ctrl_c_leaves_tables_of_what_is_complete(films, tmp_path):
    run(films)
    write(films / "2.dcm", "interrupt")
    summary = run(films, overwrite=True)
    assert summary.interrupted
    assert knees(tmp_path / "out") == [("1.dcm", "R"), ("1.dcm", "L")]
    write(films / "2.dcm", "L")
    assert run(films).earlier == 1
    assert len(knees(tmp_path / "out")) == 3


def test_ctrl_c_keeps_earlier_readings_that_were_to_be_done_anew(films, tmp_path):
    write(films / "0.dcm", "R")
    write(films / "6.dcm", "R")
    run(films)
    for number in (0, 5):
        write(films / f"{number}.dcm", "interrupt" if number == 5 else "L")
    write(films / "7.dcm", "R")
    assert run(films, overwrite=True).interrupted
    assert knees(tmp_path / "out") == [("0.dcm", "L"), ("1.dcm", "R"), ("1.dcm", "L"), ("2.dcm", "L"), ("6.dcm", "R")]
    assert not list((tmp_path / "out" / "knees").glob("0-*_R*")), "old and new never mix"
    (films / "0.dcm").write_text("interrupt")
    assert run(films, overwrite=True).interrupted
    assert ("0.dcm", "L") not in knees(tmp_path / "out"), "of another file than is there now"
    assert len(knees(tmp_path / "out")) == 4


@pytest.mark.parametrize("number", range(12))
def test_ctrl_c_while_writing_leaves_complete_films(tmp_path, monkeypatch, number):
    write(tmp_path / "films" / "1.dcm", "R")
    write(tmp_path / "films" / "2.dcm", "L")
    writes = 0
    real = folder_module.write_atomic

    def write_or_stop(path, data):
        nonlocal writes
        writes += path.parent.name in ("knees", "records")
        if writes == number + 1:
            writes += 1
            raise KeyboardInterrupt
        real(path, data)

    monkeypatch.setattr(folder_module, "write_atomic", write_or_stop)
    assert run(tmp_path / "films").interrupted
    complete = number // 6  # five outputs and the record of each film
    assert len(knees(tmp_path / "out")) == complete
    assert (tmp_path / "out" / "report.html").read_text().count("<article") == complete
    monkeypatch.undo()
    assert run(tmp_path / "films").earlier == complete
    assert knees(tmp_path / "out") == [("1.dcm", "R"), ("2.dcm", "L")]


def test_a_full_disk_is_not_the_films_fault(films, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module, "write_atomic", full)
    with pytest.raises(OSError, match="No space left"):
        run(films)


def test_something_else_among_the_records_is_refused(films, tmp_path):
    run(films)
    (tmp_path / "out" / "records" / "x.json").write_text("[]")
    with pytest.raises(FolderError, match=r"x\.json: no record of deepknee read"):
        run(films)
    (tmp_path / "out" / "records" / "x.json").write_text('{"format": 99, "file": "x"}')
    with pytest.raises(FolderError, match="format 99, must be 3"):
        run(films)


def test_outputs_into_a_file_are_refused(tmp_path):
    write(tmp_path / "out", "")
    with pytest.raises(FolderError, match="is a file"):
        OutputFolder.by(snapshots(), tmp_path / "out")


def test_processes_answer_as_one_and_survive_a_crash(films, tmp_path):
    run(films, out=tmp_path / "one")
    write(films / "6.dcm", "crash")
    summary = run(films, out=tmp_path / "two", jobs=2)
    assert (summary.films, summary.read, summary.failed) == (6, 2, 4)
    assert failures(tmp_path / "two") == failures(tmp_path / "one") | {"6.dcm": CRASHED}
    assert contents(tmp_path / "two" / "knees") == contents(tmp_path / "one" / "knees")


@pytest.fixture
def heeds_ctrl_c():
    """A shell starts background jobs deaf to Ctrl-C, and a test runner may be one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_with_processes(films, tmp_path):
    write(films / "1.dcm", "stop R")
    for number in range(6, 12):
        write(films / f"{number}.dcm", "R")
    summary = run(films, jobs=2)
    assert summary.interrupted
    done = knees(tmp_path / "out")
    assert ("1.dcm", "R") in done  # what was being read is finished
    assert summary.read == len(done) < 8
