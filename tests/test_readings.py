import re
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deepknee.boxes import Box, ListError, read_lists
from deepknee.readings import COLUMNS, Columns, KneeKey, ReadingsError, parse_grade, read_readings

SPLITS = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "deepknee_splits"
OAI, MOST = COLUMNS["oai"], COLUMNS["most"]


def grades(readings):
    return {key: grade.kl for key, grade in readings.grades.items()}


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("cell", "kl"), [(0, 0), (4.0, 4), ("3", 3), ("2: Minimal", 2), (" 1.0 ", 1), (b"2", 2), (np.float64(3), 3)]
)
def test_grades_in_all_their_writings(cell, kl):
    grade = parse_grade(cell)
    assert (grade.kl, grade.reason) == (kl, "")


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (float("nan"), "no grade: the cell is empty"),
        (None, "no grade: the cell is empty"),
        ("", "no grade: the cell is empty"),
        (".", r"no grade: the reading is \., a code of missing values"),
        (".A: Not expected", r"no grade: the reading is \.A: Not expected, a code"),
        ("P", "no grade: the reading is P, a code"),
        ("X", "no grade: the reading is X, a code"),
        (-1, "no grade: the reading is -1, a code"),
        (8.0, "prosthesis: the reading is 8"),
        ("8", "prosthesis"),
        (9, "no grade: the reading is 9, a film that could not be read"),
        (5, "no grade: the reading is 5, no KL grade, a prosthesis perhaps"),
        (1.9, "no grade: the reading is 1.9, a fraction"),
        ("inf", "no grade"),
        ("two", "no grade: the reading is 'two', must be 0 to 4"),
    ],
)
def test_what_is_no_grade_says_why(cell, words):
    grade = parse_grade(cell)
    assert grade.kl is None
    assert re.match(words, grade.reason), grade.reason


def test_a_code_can_be_taken_as_a_grade():
    assert parse_grade(1.9, {"1.9": 1}).kl == 1
    assert parse_grade("8", {"1.9": 1}).kl is None


def test_the_oai_table_as_text(tmp_path):
    table = write(
        tmp_path / "kXR_SQ_BU00.txt",
        "ID|SIDE|READPRJ|VERSION|v00xrkl|V00XRJSM\n"
        "9000099|1: Right|15|0.8|3: 3|1\n9000099|2: Left|15|0.8|.T: Technical problems|1\n9000296|2|37|0.8|0|0\n",
    )
    readings = read_readings([table], OAI)
    assert grades(readings) == {("9000099", "00", "R"): 3, ("9000099", "00", "L"): None, ("9000296", "00", "L"): 0}
    assert readings.visits == {"00"}
    assert readings.of(KneeKey("9000296", "00", "R")).reason == "no grade: no row for this side and visit"
    assert readings.of(KneeKey("1", "00", "R")).reason == "no grade: no row for the subject in kXR_SQ_BU00.txt"
    assert "visit 01: the readings are of visit 00" in readings.of(KneeKey("9000099", "01", "R")).reason


def test_several_visits_come_from_several_tables(tmp_path):
    tables = [write(tmp_path / f"{v}.csv", f"ID,SIDE,V{v}XRKL\n1,1,{k}\n") for v, k in (("00", 0), ("10", 2))]
    columns = Columns("ID", "V{visit}XRKL", "SIDE")
    assert grades(read_readings(tables, columns)) == {("1", "00", "R"): 0, ("1", "10", "R"): 2}


def test_the_most_table_is_one_row_a_subject(tmp_path):
    """Names as public code reads them: V{visit}X{R or L}KL, in a table of many more columns."""
    table = write(
        tmp_path / "MOSTV01235XRAY.txt",
        "MOSTID\tV0XRKL\tV0XLKL\tV2XRKL\tV2XLKL\tV0XRJSM\tV0XPFROA\nM0001\t2\t1.9\t8\tX\t1\t1\nM0002\t0\t\t0\t4\t0\t0\n",
    )
    readings = read_readings([table], MOST)
    assert grades(readings) == {
        ("M0001", "0", "R"): 2, ("M0001", "0", "L"): None, ("M0001", "2", "R"): None, ("M0001", "2", "L"): None,
        ("M0002", "0", "R"): 0, ("M0002", "0", "L"): None, ("M0002", "2", "R"): 0, ("M0002", "2", "L"): 4,
    }  # fmt: skip
    named = write(tmp_path / "other.csv", "subject;v0xrklr;v0xrkll\nM0001;2;1\n")
    assert grades(read_readings([named], Columns("Subject", "v{visit}xrkl{side}"))) == {
        ("M0001", "0", "R"): 2,
        ("M0001", "0", "L"): 1,
    }


def test_readers_that_differ(tmp_path):
    """Project 15 goes before the others; within one project a contradiction is no grade."""
    rows = ["1,1,15,2", "1,1,37,2", "2,1,37,3", "2,1,15,1", "3,1,15,1", "3,1,15,2", "4,1,37,0", "4,1,42,1"]
    table = write(tmp_path / "t.csv", "ID,SIDE,READPRJ,V00XRKL\n" + "\n".join(rows))
    readings = read_readings([table], OAI)
    assert [grade.kl for grade in readings.grades.values()] == [2, 1, None, None]
    assert [bool(grade.remark) for grade in readings.grades.values()] == [False, True, False, False]
    first, second, third, _ = readings.grades.values()
    assert first.reason == ""
    assert second.remark == "several readings, 3 (project 37), 1 (project 15): that of project 15 is taken"
    assert third.reason == "no grade: several readings that differ, 1 (project 15), 2 (project 15)"
    assert grades(read_readings([table], OAI, project="37")) == {
        (s, "00", "R"): k for s, k in (("1", 2), ("2", 3), ("4", 0))
    }
    with pytest.raises(ReadingsError, match="no reading of project 7"):
        read_readings([table], OAI, project="7")


def test_what_was_not_read_contradicts_nothing(tmp_path):
    """An empty cell, or a code for that, gives way to a reading; a replaced joint does not."""
    rows = ["1,1,15,", "1,1,37,2", "2,1,37,2", "2,1,42,.", "3,1,15,8", "3,1,37,2", "4,1,15,", "4,1,37,.A"]
    table = write(tmp_path / "t.csv", "ID,SIDE,READPRJ,V00XRKL\n" + "\n".join(rows))
    one, two, three, four = read_readings([table], OAI).grades.values()
    assert [grade.kl for grade in (one, two, three, four)] == [2, 2, None, None]
    assert three.reason == "prosthesis: the reading is 8"
    assert four.reason.startswith("no grade: ")


def test_a_project_that_was_asked_for_needs_its_column(tmp_path):
    table = write(tmp_path / "t.csv", "ID,SIDE,READPRJ,V00XRKL\n1,1,15,2\n1,1,37,3\n")
    bare = write(tmp_path / "bare.csv", "ID,SIDE,V00XRKL\n1,1,2\n")
    assert grades(read_readings([bare], OAI)) == {("1", "00", "R"): 2}
    with pytest.raises(ReadingsError, match=r"bare\.csv: no column READPRJ; has ID, SIDE, V00XRKL"):
        read_readings([bare], OAI, project="15")
    with pytest.raises(ReadingsError, match=r"t\.csv: no column READPROJ"):
        read_readings([table], Columns("ID", "V{visit}XRKL", "SIDE", "READPROJ", needs_project=True))


def test_a_sas_table_goes_through_pandas(tmp_path, monkeypatch):
    """pandas cannot write sas7bdat, so its reader stands in here: what it returns is as pandas documents it."""
    asked = []

    def read_sas(path, encoding):
        asked.append((path, encoding))
        return pd.DataFrame(
            {"ID": ["9000099", "9000099"], "SIDE": [1.0, 2.0], "READPRJ": [15.0, 15.0], "V00XRKL": [3.0, np.nan]}
        )

    monkeypatch.setattr(pd, "read_sas", read_sas)
    path = tmp_path / "kxr_sq_bu00.sas7bdat"
    assert grades(read_readings([path], OAI)) == {("9000099", "00", "R"): 3, ("9000099", "00", "L"): None}
    assert asked == [(path, "latin-1")]


def test_a_grade_in_two_writings_is_one_grade(tmp_path, monkeypatch):
    text = write(tmp_path / "t.txt", "ID|SIDE|READPRJ|V00XRKL\n1|1|15|3: 3\n2|1|37|3: 3\n3|1|15|2: 2\n")
    sas = pd.DataFrame({"ID": ["1", "2", "3"], "SIDE": 1.0, "READPRJ": [15.0, 42.0, 15.0], "V00XRKL": 3.0})
    monkeypatch.setattr(pd, "read_sas", lambda path, encoding: sas)
    first, second, third = read_readings([text, tmp_path / "t.sas7bdat"], OAI).grades.values()
    assert [(grade.kl, grade.reason, grade.remark) for grade in (first, second)] == [(3, "", "")] * 2
    assert third.reason == "no grade: several readings that differ, 2: 2 (project 15), 3 (project 15)"


def xport(columns, rows):
    """A SAS transport file (TS-140), by hand: 80 byte cards, character and IBM float cells of 8 bytes."""

    def card(text):
        return text.ljust(80).encode()

    def ibm(value):
        if value is None:  # a missing value of SAS: .A
            return b"A" + bytes(7)
        if value == 0:
            return bytes(8)
        exponent, fraction = 64, float(value)
        while fraction >= 1:
            fraction, exponent = fraction / 16, exponent + 1
        return struct.pack(">Q", exponent << 56 | int(fraction * 2**56))

    head = "HEADER RECORD*******{}HEADER RECORD!!!!!!!{}"
    zeros = "0" * 30
    out = (
        card(head.format("LIBRARY ", zeros)) + card("SAS     SAS     SASLIB  6.06    LINUX") + card("01JAN20:00:00:00")
    )
    out += card(head.format("MEMBER  ", "000000000000000001600000000140")) + card(head.format("DSCRPTR ", zeros))
    out += card("SAS     T       SASDATA 6.06    LINUX") + card("01JAN20:00:00:00")
    out += card(head.format("NAMESTR ", f"000000{len(columns):04d}00000000000000000000"))
    names = b""
    for index, (name, text) in enumerate(columns):
        fields = struct.pack(">hhhh", 2 if text else 1, 0, 8, index + 1) + name.ljust(8).encode() + b" " * 40
        fields += b" " * 8 + struct.pack(">hhh2s", 8, 0, 0, b"  ") + b" " * 8 + struct.pack(">hh", 0, 0)
        names += fields + struct.pack(">l", 8 * index) + bytes(52)
    out += names + b" " * (-len(names) % 80) + card(head.format("OBS     ", zeros))
    cells = b"".join(
        value.ljust(8).encode() if text else ibm(value)
        for row in rows
        for (_, text), value in zip(columns, row, strict=True)
    )
    return out + cells + b" " * (-len(cells) % 80)


def test_bytes_of_a_sas_file_are_read(tmp_path):
    """The other format of SAS, which can be written by hand: text and numbers, and a missing value."""
    path = tmp_path / "bu.xpt"
    columns = [("ID", True), ("SIDE", False), ("READPRJ", True), ("V00XRKL", False)]
    path.write_bytes(xport(columns, [("9000099", 1, "15", 4), ("9000099", 2, "15", 0), ("9000296", 1, "15", None)]))
    assert grades(read_readings([path], OAI)) == {
        ("9000099", "00", "R"): 4,
        ("9000099", "00", "L"): 0,
        ("9000296", "00", "R"): None,
    }


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", None, "t.csv: No such file"),
        ("t.csv", "A,B\n1,2\n", "no column ID; has A, B"),
        ("t.csv", "ID,READPRJ,V00XRKL\n1,15,2\n", "no column SIDE"),
        ("t.csv", "ID,SIDE,KL\n1,1,2\n", r"no column V\{visit\}XRKL with digits"),
        ("t.csv", "ID,SIDE,V00XRKL\n1,3,2\n", "row 1: side is '3', must be 1 or R"),
        ("t.csv", "ID,SIDE,V00XRKL\n,1,2\n", "row 1: ID is empty"),
        ("t.csv", "ID,SIDE,V00XRKL\n", "no reading in it"),
        ("t.csv", "", "not a table"),
        ("t.sas7bdat", "no SAS", "not a table"),
    ],
)
def test_a_table_that_cannot_be_used_says_where(tmp_path, name, text, words):
    if text is not None:
        write(tmp_path / name, text)
    with pytest.raises(ReadingsError, match=words):
        read_readings([tmp_path / name], OAI)


def test_boxes_of_a_list(tmp_path):
    path = write(
        tmp_path / "list.csv", "a/V0/1/PA10/11 300 10 420 130 40 12 160 132\nb/V0/1/PA10/11 -1 -1 -1 -1 40 12 160 132\n"
    )
    poor = write(tmp_path / "poor.csv", "0R\n1R\n1L\n")
    first, second = read_lists([path], poor)
    assert first.boxes == {"L": Box(300, 10, 420, 130), "R": Box(40, 12, 160, 132)}
    assert first.boxes["L"].center == (359.5, 69.5)  # of columns 300 to 419 and rows 10 to 129
    assert first.boxes["L"].size == 120
    assert (first.poor, second.poor) == ({"R"}, {"L", "R"})
    assert set(second.boxes) == {"R"}
    assert second.where == "list.csv, line 2"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no film in it"),
        ("a 1 2 3\n", "line 1: 'a 1 2 3', must be a path and the 8 numbers"),
        ("a 1 2 3 4 5 6 7 x\n", "must be a path and the 8 numbers"),
        ("a 1 2 3 4 5 6 7 nan\n", "must be a path and the 8 numbers"),
        ("a 9 2 3 4 5 6 7 8\n", "is empty"),
        ("/a 1 2 3 4 5 6 7 8\n", "must lie below"),
        ("../a 1 2 3 4 5 6 7 8\n", "must lie below"),
    ],
)
def test_a_list_that_cannot_be_used_says_where(tmp_path, text, words):
    with pytest.raises(ListError, match=words):
        read_lists([write(tmp_path / "list.csv", text)])


def test_bad_boxes_belong_to_one_list(tmp_path):
    path = write(tmp_path / "list.csv", "a 1 2 3 4 5 6 7 8\n")
    poor = write(tmp_path / "poor.csv", "1R\n")
    with pytest.raises(ListError, match="must be 0 to 0 followed by L or R"):
        read_lists([path], poor)
    with pytest.raises(ListError, match="counts the lines of one list"):
        read_lists([path, path], poor)


@pytest.mark.skipif(not SPLITS.is_dir(), reason="the authors' lists are not here")
def test_the_authors_lists_are_what_the_module_says():
    train = read_lists([SPLITS / "MOST_train.csv"], SPLITS / "MOST_train_poor_detections.csv")
    other = read_lists([SPLITS / "OAI_val.csv", SPLITS / "OAI_test.csv"])
    assert (len(train), len(other)) == (10100, 4506)
    assert sum(2 - len(film.boxes) for film in train) == 42
    both = [film.boxes for film in train + other if len(film.boxes) == 2]
    assert all(boxes["L"].center[0] > boxes["R"].center[0] for boxes in both)
    assert {boxes["L"].size for boxes in both[: len(train) - 21]} == {600, 706, 1200}
    # lines are counted from 0: the bad boxes stand at other heights than their neighbours, one line on they do not
    height = [abs(b["L"].top - b["R"].top) / b["L"].size if len(b) == 2 else np.nan for b in (f.boxes for f in train)]
    bad = np.array([bool(film.poor) for film in train])
    assert np.nanmedian(np.array(height)[bad]) > 2.5 * np.nanmedian(height)
    assert np.nanmedian(np.array(height)[np.roll(bad, 1)]) < 1.5 * np.nanmedian(height)
