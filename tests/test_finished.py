"""What counts as finished when films are cut again: the same code, the same request, pictures as they were written."""

import json
from dataclasses import asdict, dataclass
from functools import partial

import cv2
import numpy as np
import pytest

from kneel.imaging.finished import RECORDS, Cutting, SameName, code_digest, cut_films, row_fault, strangers
from kneel.imaging.preparing import encode_png


@dataclass(frozen=True)
class Square:
    """One grey picture of a film."""

    file: str
    bytes: int

    @property
    def pictures(self):
        return ((self.file, self.bytes, "3x3"),)


@dataclass(frozen=True)
class Record:
    request: dict
    rows: tuple[Square, ...]

    def to_json(self):
        return asdict(self)

    @classmethod
    def parse(cls, data):
        return cls(data["request"], tuple(Square(**row) for row in data["rows"]))


@dataclass(frozen=True)
class Task:
    name: str
    grey: int


def request(task):
    return {"grey": task.grey}


def cut(opened, task):
    """A film of grey 0 cannot be read."""
    opened.append(task.name)
    if task.grey == 0:
        return Record({}, ()), {}
    name, data = f"squares/{task.name}.png", encode_png(np.full((3, 3), task.grey, np.uint8))
    return Record(request(task), (Square(name, len(data)),)), {name: data}


@pytest.fixture
def films(tmp_path):
    """Cut films into out; which of them were opened."""
    code = tmp_path / "cutting.py"
    code.write_text("grey = 1")

    def run(*tasks):
        opened = []
        how = Cutting(partial(cut, opened), request, Record.parse, (code,))
        records, skipped = cut_films(tmp_path / "out", tasks, how, tables=["table.csv"])
        assert skipped == len(tasks) - len(opened)
        assert set(records) == {task.name for task in tasks}
        return opened

    return run


A, B = Task("a", 10), Task("b", 20)


def test_what_is_finished_is_left_alone(films):
    assert films(A, B) == ["a", "b"]
    assert films(A, B) == []
    assert films(A, Task("b", 30)) == ["b"]


def test_two_films_of_one_name_are_refused(films, tmp_path):
    """The record of the one would vouch for the pictures of the other."""
    with pytest.raises(SameName, match="1 names are of several films, as a "):
        films(A, B, Task("a", 20))
    assert not (tmp_path / "out").exists()


def test_other_code_cuts_everything_again(films, tmp_path):
    films(A, B)
    (tmp_path / "cutting.py").write_text("grey = 2")
    (tmp_path / "out" / "table.csv").touch()
    assert films(A, B) == ["a", "b"]
    assert not (tmp_path / "out" / "table.csv").exists()
    assert films(A, B) == []


def test_a_record_without_its_code_or_of_another_writing_vouches_for_nothing(films, tmp_path):
    films(A, B)
    folder = tmp_path / "out" / RECORDS
    stored = json.loads((folder / "a.json").read_text())
    del stored["code"]
    (folder / "a.json").write_text(json.dumps(stored))
    (folder / "b.json").write_text("[]")
    assert films(A, B) == ["a", "b"]


def test_a_film_that_cannot_be_read_is_tried_again(films, tmp_path):
    films(A)
    gone = Task("a", 0)
    assert films(gone) == ["a"]
    assert films(gone) == ["a"]
    assert list((tmp_path / "out" / RECORDS).iterdir()) == []


def test_pictures_are_read_back_and_strangers_named(films, tmp_path):
    films(A, B)
    out = tmp_path / "out"
    rows = [Square(f"squares/{name}.png", (out / "squares" / f"{name}.png").stat().st_size) for name in "ab"]
    assert [row_fault(out, row) for row in rows] == [None, None]
    (found,) = strangers(out, ["squares/*.png"], rows[:1], "table.csv")
    assert (found.film, found.kind) == ("squares/b.png", "note")
    assert "not listed in table.csv" in found.problem
    cv2.imwrite(str(out / "squares" / "a.png"), np.zeros((5, 5), np.uint8))
    assert "must be an 8 bit picture of 3x3" in row_fault(out, rows[0])
    assert films(A, B) == ["a"]


def test_code_is_told_by_names_and_content(tmp_path):
    for name, text in (("one", "x"), ("same", "x"), ("other", "y")):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "a.py").write_text(text)
        (tmp_path / name / "deep" / "a.pyc").write_text(name)
    one, same, other = (code_digest([tmp_path / name]) for name in ("one", "same", "other"))
    assert one == same != other
    (tmp_path / "same" / "deep" / "a.py").rename(tmp_path / "same" / "deep" / "b.py")
    assert code_digest([tmp_path / "same"]) != one
