"""What vouches for films that networks cut: their weights, and the code that finds knees with them."""

import ast
from pathlib import Path
from types import SimpleNamespace

import pytest
from doors import script

from deepknee import weights
from deepknee.grading_plan import Plan

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def door():
    return script("data_stuff/create_grading_dataset")


def own_imports(path):
    """Modules that lie in kneel itself, neither in imaging, which vouches anyhow, nor in the engine."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("kneel.") and node.module.count(".") == 1:
            yield ROOT / "kneel" / f"{node.module.removeprefix('kneel.')}.py"


def test_all_code_that_finds_knees_vouches(door):
    found, ahead = set(), [ROOT / "kneel" / "localize.py"]
    while ahead:
        path = ahead.pop()
        if path not in found:
            found.add(path)
            ahead += own_imports(path)
    assert set(door.FINDS) == found
    assert len(found) > 5


def test_a_change_of_the_code_is_another_finder(door, monkeypatch, tmp_path):
    found = SimpleNamespace(paths=lambda task: [], snapshots=[SimpleNamespace(sha256="a", task="lc")])
    monkeypatch.setattr(weights, "find_weights", lambda *_: found)
    code = tmp_path / "find.py"
    monkeypatch.setattr(door, "FINDS", [code])
    identities = []
    for text in ("one", "other", "one"):
        code.write_text(text)
        identities.append(door.Networks(None, "cpu").id)
    assert identities[0] == identities[2] != identities[1]


def test_a_mistyped_column_of_projects_is_refused(door, monkeypatch, tmp_path, capsys):
    table = tmp_path / "t.csv"
    table.write_text("ID,SIDE,READPRJ,V00XRKL\n1,1,15,2\n1,1,37,3\n")
    flags = ["--cohort", "oai", "--download", str(tmp_path), "--readings", str(table), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["create_grading_dataset", *flags, "--project_column", "READPROJ", "--split", "x"])
    assert door.main() == 2
    assert f"{table}: no column READPROJ; has ID, SIDE, READPRJ, V00XRKL" in capsys.readouterr().err


def test_a_list_of_bad_boxes_that_was_not_given_is_noted(door, monkeypatch, tmp_path):
    films, poor, other = (tmp_path / f"{name}.csv" for name in ("train", "train_poor_detections", "val"))
    films.write_text("a/V0/1/PA10/1 300 10 420 130 40 12 160 132\n")
    poor.write_text("0L\n")
    other.write_text(films.read_text())
    monkeypatch.setattr(door, "OPEN", {"most": lambda roots: None})
    monkeypatch.setattr(door, "read_readings", lambda *_, **__: None)
    monkeypatch.setattr(door, "plan_listed", lambda *_: Plan((), ()))

    def noted(*words):
        flags = ["--cohort", "most", "--download", "d", "--readings", "r", "--out", "o", "--split", *map(str, words)]
        monkeypatch.setattr("sys.argv", ["create_grading_dataset", *flags])
        return [(problem.kind, problem.film) for problem in door.plan(door.parse()).problems]

    assert noted(films) == noted(films, other) == [("note", str(poor))]
    assert noted(films, "--poor", poor) == noted(other) == []
