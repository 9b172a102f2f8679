import fcntl
import importlib.metadata
import json
import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from kneel.engine import pixel_cache
from kneel.engine.config import Settings
from kneel.engine.pixel_cache import cache_folder, cached, fingerprint

PIXELS = [np.arange(12, dtype=np.uint8).reshape(3, 4), np.full((2, 2), 7, np.uint8)]
NOTES = [{"subject": "a", "points": [[1.5, 0.1]]}, {"subject": "b", "points": []}]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KNEEL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pixels-v1"


class Maker:
    """Counts how often it is asked."""

    def __init__(self, pixels=PIXELS, notes=NOTES):
        self.calls, self.made = 0, (pixels, notes)

    def __call__(self):
        self.calls += 1
        return self.made


def check(pictures):
    for found, true in zip(pictures.pixels, PIXELS, strict=True):
        assert np.array_equal(found, true)
        assert found.dtype == np.uint8
    assert pictures.notes == NOTES


def test_made_once_and_mapped(folder):
    make = Maker()
    for _ in range(3):
        pictures = cached(make, {"size": 3}, [], "knees")
        check(pictures)
        assert isinstance(pictures.pixels[0].base.base, np.memmap)
    assert make.calls == 1
    torch.from_numpy(pictures.pixels[0])[0, 0] = 99  # no warning, and nobody else sees it
    check(cached(make, {"size": 3}, [], "knees"))


def test_whatever_it_depends_on_changes_makes_it_anew(folder, tmp_path):
    make, source, code = Maker(), tmp_path / "1.dcm", tmp_path / "decode.py"
    source.write_bytes(b"x" * 200_000)
    code.write_text("1")
    ask = lambda settings: cached(make, [settings, [source]], [code], "knees")  # noqa: E731
    ask({"mm": 0.3})
    ask({"mm": 0.4})
    assert make.calls == 2
    before = source.stat()
    source.write_bytes(b"x" * 100_000 + b"y" + b"x" * 99_999)
    ask({"mm": 0.3})
    assert make.calls == 3
    source.write_bytes(b"z" + b"x" * 199_999)
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    ask({"mm": 0.3})
    assert make.calls == 4
    code.write_text("2")
    ask({"mm": 0.3})
    ask({"mm": 0.3})
    assert make.calls == 5


@pytest.mark.parametrize("package", ["pydicom", "python-gdcm", "pillow"])
def test_another_version_of_what_reads_films_makes_it_anew(folder, monkeypatch, package):
    make, version = Maker(), importlib.metadata.version
    for other in (version(package), "99.0", "99.0"):
        monkeypatch.setattr(
            importlib.metadata, "version", lambda name, o=other: o if name == package else version(name)
        )
        check(cached(make, 1, [], "knees"))
    assert make.calls == 2


def entries(folder):
    return {json.loads(path.read_text())["content"]["notes"][0]["subject"] for path in folder.glob("*.json")}


def keep(folder, name, used):
    """Keep 100 bytes under a name, last used at a time; its key."""
    before = set(folder.glob("*.json")) if folder.exists() else set()
    make = Maker([np.zeros((10, 10), np.uint8)], [{"subject": name}])
    cached(make, name, [], "knees")
    (entry,) = set(folder.glob("*.json")) - before
    for path in (entry, entry.with_suffix(".pixels")):
        os.utime(path, (used, used))
    return entry.stem


def test_beyond_the_limit_those_go_whose_last_use_is_the_longest_ago(folder, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    keys = {name: keep(folder, name, 1000 + at) for at, name in enumerate("abc")}
    (folder / "mine.pixels").write_bytes(bytes(1000))  # not ours: neither counted nor deleted
    half = folder / f".{keys['b']}.pixels.x7_abcde"
    half.write_bytes(bytes(50))  # of a writer that was killed
    os.utime(half, (1001, 1001))
    size = sum(path.stat().st_size for path in folder.glob("*") if path.name != "mine.pixels")
    check_a = Maker()
    cached(check_a, "a", [], "knees")  # used now
    assert check_a.calls == 0
    monkeypatch.setattr(pixel_cache, "LARGEST", size)  # one more, and b has to go; that is enough
    keep(folder, "d", 1010)
    assert entries(folder) == {"a", "c", "d"}
    assert [f"{keys['b']}.json" in line for line in caplog.messages if "deleted" in line] == [True]
    assert not list(folder.glob(f"*{keys['b']}.[!l]*"))
    assert (folder / "mine.pixels").stat().st_size == 1000
    monkeypatch.setattr(pixel_cache, "LARGEST", 1)
    keep(folder, "e", 1020)
    assert entries(folder) == {"a", "e"}  # what is asked for, or was within a day, stays whatever the limit


def test_nothing_but_our_own_files_is_ever_deleted(folder, monkeypatch):
    keep(folder, "a", 1000)
    (old,) = folder.glob("*.json")
    mine = [folder.parent / old.name, folder.parent / f"{old.stem}.pixels"]  # named by hashes of something else
    mine += [folder / f"{old.stem}.json.gz", folder / f".{old.stem}.json.swp", folder / f"{old.stem}.pixels.bak"]
    for path in mine:
        path.write_bytes(b"mine")
        os.utime(path, (1, 1))
    monkeypatch.setattr(pixel_cache, "LARGEST", 1)
    keep(folder, "b", 1001)
    assert entries(folder) == {"b"}
    assert all(path.read_bytes() == b"mine" for path in mine)


def test_sets_that_together_are_too_large_do_not_push_each_other_out(folder, monkeypatch):
    monkeypatch.setattr(pixel_cache, "LARGEST", 1)
    makers = {name: Maker() for name in "ab"}
    for _ in range(2):
        for name, make in makers.items():
            check(cached(make, name, [], "knees"))
    assert [make.calls for make in makers.values()] == [1, 1]


def test_where_files_cannot_be_locked_nobody_deletes_what_another_is_writing(folder, monkeypatch):
    def refused(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refused)
    monkeypatch.setattr(pixel_cache, "LARGEST", 1)
    keep(folder, "a", 1000)
    half = folder / f".{'0' * 32}.pixels.abcd_efg"
    half.write_bytes(bytes(50))
    keep(folder, "b", 1001)
    assert entries(folder) == {"b"}
    assert half.exists()


def test_what_another_process_is_reading_or_writing_stays(folder, monkeypatch):
    key = keep(folder, "a", 1000)
    keep(folder, "b", 1001)
    monkeypatch.setattr(pixel_cache, "LARGEST", 1)
    with (folder / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keep(folder, "c", 1002)
    assert entries(folder) == {"a", "c"}


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "notes", "no json"])
def test_a_damaged_entry_is_seen_and_made_anew(folder, damage, caplog):
    make = Maker()
    cached(make, 1, [], "knees")
    (pixels,), (entry,) = folder.glob("*.pixels"), folder.glob("*.json")
    data = bytearray(pixels.read_bytes())
    data[5] ^= 1
    text = entry.read_text()
    changes = {
        "flip": lambda: pixels.write_bytes(data),
        "cut": lambda: pixels.write_bytes(data[:-1]),
        "gone": pixels.unlink,
        "notes": lambda: entry.write_text(text.replace("1.5", "1.6")),
        "no json": lambda: entry.write_text("{"),
    }
    changes[damage]()
    for _ in range(2):
        check(cached(make, 1, [], "knees"))
    assert make.calls == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_many_at_once_make_it_once(folder):
    make, found = Maker(), []
    gate = threading.Barrier(8)

    def ask():
        gate.wait()
        found.append(cached(make, 1, [], "knees"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert make.calls == 1
    assert len(found) == 8
    for pictures in found:
        check(pictures)
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".lock", ".pixels"]


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KNEEL_CACHE", str(tmp_path / "file" / "cache"))
    make = Maker()
    for _ in range(2):
        check(cached(make, 1, [], "knees"))
    assert make.calls == 2
    assert "KNEEL_CACHE names another folder, or off" in caplog.text


def test_a_full_disk_leaves_nothing_behind(folder, monkeypatch, caplog):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    check(cached(Maker(), 1, [], "knees"))
    assert "No space left" in caplog.text
    assert [path.suffix for path in folder.iterdir()] == [".lock"]


def test_it_can_be_switched_off_and_says_where_it_lies(folder, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    cached(Maker(), 1, [], "films")
    cached(Maker(), 1, [], "films")
    assert f"films: decoded into {folder} (0 MB)" in caplog.text
    assert f"films: 2 pictures from {folder}" in caplog.text
    monkeypatch.setenv("KNEEL_CACHE", "off")
    make = Maker()
    check(cached(make, 1, [], "films"))
    assert make.calls == 1
    assert cache_folder() is None
    monkeypatch.delenv("KNEEL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/kneel/pixels-v1")


def test_what_making_raises_is_raised_and_nothing_is_kept(folder):
    def broken():
        raise FileNotFoundError("1.dcm: missing")

    with pytest.raises(FileNotFoundError, match=r"1\.dcm"):
        cached(broken, 1, [], "knees")
    assert not list(folder.glob("*.json"))


def test_pictures_of_one_shape_stack_without_a_copy(folder):
    pixels = [np.full((2, 3), value, np.uint8) for value in (1, 2, 3)]
    make = Maker(pixels, [{}] * 3)
    assert np.array_equal(cached(make, 1, [], "knees").stacked(), np.stack(pixels))
    again = cached(make, 1, [], "knees")
    assert np.shares_memory(again.stacked(), again.pixels[1])


@dataclass(frozen=True)
class Film:
    points: np.ndarray
    side: str


class Geometry(Settings):
    px: int


def test_a_fingerprint_is_json_and_sees_every_value():
    films = [Film(np.array([[1.0, 2.0]]), "L"), Film(np.array([[1.0, 2.5]]), "L"), Film(np.array([[1.0, 2.0]]), "R")]
    seen = [json.dumps(fingerprint({"films": [film], "geometry": Geometry(px=1), "none": None})) for film in films]
    assert len(set(seen)) == 3
    assert fingerprint(Geometry(px=2)) == {"px": 2}
    assert fingerprint(np.zeros(3, np.uint8)) != fingerprint(np.zeros(3, np.int8))
    with pytest.raises(TypeError, match="cannot depend on a object"):
        fingerprint(object())
