import os

import pytest

from kneel.imaging.writing import write_rows, write_whole


def test_the_file_is_on_the_disk_before_it_has_its_name_and_its_name_after(tmp_path, monkeypatch):
    """In this order, or a power cut could leave an empty file under the name, or none."""
    path, seen = tmp_path / "a.bin", []
    sync, replace = os.fsync, os.replace

    def noting_sync(descriptor):
        seen.append("folder" if os.path.samestat(os.fstat(descriptor), tmp_path.stat()) else "file")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noting_sync)
    monkeypatch.setattr(os, "replace", lambda *paths: (seen.append("name"), replace(*paths)))
    write_whole(path, b"new")
    assert seen == ["file", "name", "folder"]
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_what_breaks_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    write_whole(path, b"old")
    beside = []

    def full(descriptor):
        beside.extend(each.name for each in tmp_path.iterdir() if each != path)
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_whole(path, b"new")
    assert beside == [".a.bin.part"]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_tables_are_utf_8_with_line_feeds_whatever_the_machine(tmp_path):
    write_rows(tmp_path / "t.csv", [("name", "value"), ('Kn\u00e4ie, "left"', 0.1), ("two\nlines", 3)])
    expected = 'name,value\n"Kn\u00e4ie, ""left""",0.1\n"two\nlines",3\n'
    assert (tmp_path / "t.csv").read_bytes() == expected.encode()
