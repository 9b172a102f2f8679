import csv
import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from oracle import make_reader, snapshots

from deepknee import cli, pipeline, weights
from deepknee.folder import OutputFolder
from deepknee.weights import WeightsError

DOOR = Path(__file__).resolve().parents[1] / "scripts" / "test_okoa_maknee.py"


@pytest.fixture
def asked(monkeypatch):
    """Networks that know the answer; what was asked for is written down."""
    seen = {}

    def find(folders):
        seen["weights"] = folders
        return snapshots()

    def load(found, device, attention):
        seen.update(device=device, attention=attention)
        return make_reader()

    monkeypatch.setattr(weights, "find_weights", find)
    monkeypatch.setattr(pipeline, "load_reader", load)
    return seen


@pytest.fixture
def films(tmp_path):
    """Two films that can be read."""
    for name in ("1", "2"):
        (tmp_path / "films" / f"{name}.dcm").parent.mkdir(exist_ok=True)
        (tmp_path / "films" / f"{name}.dcm").write_text(f"R L {name}")
    return tmp_path / "films"


def read(*words):
    return cli.main(["read", *map(str, words)])


def test_a_film_under_two_names_is_told(films, tmp_path, asked, capsys):
    (films / "copy.dcm").write_text("R L 1")
    assert read(films, "--out", tmp_path / "out") == 0
    told = f"2 films are the same pictures as others: film_repeated in {tmp_path / 'out' / 'results.csv'}\n"
    assert told in capsys.readouterr().out
    with (tmp_path / "out" / "results.csv").open() as stream:
        flags = {(Path(row["file"]).name, row["side"]): row["flags"] for row in csv.DictReader(stream)}
    assert {knee for knee, words in flags.items() if words} == {(n, s) for n in ("1.dcm", "copy.dcm") for s in "RL"}
    assert "same picture was read under another name" in (tmp_path / "out" / "report.html").read_text()
    (films / "copy.dcm").unlink()
    assert read(films / "2.dcm", "--out", tmp_path / "two") == 0
    assert "same pictures" not in capsys.readouterr().out


def test_all_read(films, tmp_path, asked, capsys):
    assert read(films, "--out", tmp_path / "out") == 0
    said = capsys.readouterr()
    assert said.out.startswith("2 of 2 films read, 4 knees\nreport: ")
    assert said.err.startswith("weights: ")
    assert asked == {"weights": None, "device": pipeline.choose_device("auto"), "attention": "gradcam"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("results.csv", "failures.csv", "report.html", "deepknee.json", "knees", "records")
    }


def test_options_reach_their_places(films, tmp_path, asked):
    words = ["--out", tmp_path / "out", "--weights", "a", "--weights", "b", "--device", "cpu", "--spacing", "0.2X0.1"]
    words += ["--attention", "hirescam"]
    assert read(films / "1.dcm", films / "2.dcm", *words, "--overwrite") == 0
    assert asked == {"weights": ["a", "b"], "device": "cpu", "attention": "hirescam"}
    assert ",0.2x0.1,detector," in (tmp_path / "out" / "results.csv").read_text()


def test_films_are_read_again_for_another_kind_of_attention(films, tmp_path, asked, capsys):
    read(films, "--out", tmp_path / "out")
    capsys.readouterr()
    for method, earlier in (("gradcam", "(2 earlier)"), ("integrated", ""), ("integrated", "(2 earlier)")):
        assert read(films, "--out", tmp_path / "out", "--attention", method) == 0
        assert f"2 of 2 films read{' ' * bool(earlier)}{earlier}," in capsys.readouterr().out
    record = json.loads(next((tmp_path / "out" / "knees").glob("*.json")).read_text())
    assert record["made_by"]["attention"] == "integrated"
    assert "Attention is integrated gradients" in (tmp_path / "out" / "report.html").read_text()


def test_some_failed(films, tmp_path, asked, capsys):
    (films / "3").write_text("bad")
    assert read(films, "--out", tmp_path / "out") == 3
    assert f"1 failed: {tmp_path / 'out' / 'failures.csv'}" in capsys.readouterr().out


def test_side_files_are_no_failure(films, tmp_path, asked):
    (films / "notes.txt").touch()
    assert read(films, "--out", tmp_path / "out") == 0
    assert "notes.txt,not a film" in (tmp_path / "out" / "failures.csv").read_text()


def test_again(films, tmp_path, asked, capsys):
    read(films, "--out", tmp_path / "out")
    capsys.readouterr()
    assert read(films, "--out", tmp_path / "out") == 0
    assert "2 of 2 films read (2 earlier), 4 knees" in capsys.readouterr().out


def test_ctrl_c(films, tmp_path, asked, capsys):
    (films / "2.dcm").write_text("interrupt")
    assert read(films, "--out", tmp_path / "out") == 130
    assert "stopped: 1 of 2 films read, 2 knees" in capsys.readouterr().out


@pytest.fixture
def unheard():
    """What SIGTERM does outside of the command: it must not end the tests."""

    def fail(number, frame):
        pytest.fail("SIGTERM was not heard by the command")

    before = signal.signal(signal.SIGTERM, fail)
    yield fail
    signal.signal(signal.SIGTERM, before)


def test_sigterm_is_heard_as_ctrl_c_and_told_by_the_status(films, tmp_path, asked, unheard, capsys):
    read(films / "1.dcm", "--out", tmp_path / "out")
    (films / "2.dcm").write_text("terminate")
    assert read(films, "--out", tmp_path / "out") == 143
    assert "stopped: 1 of 2 films read (1 earlier), 2 knees" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) is unheard
    (films / "2.dcm").write_text("L")
    assert read(films, "--out", tmp_path / "out") == 0
    assert "2 of 2 films read (1 earlier), 3 knees" in capsys.readouterr().out


def test_sigterm_sent_twice_lets_the_tables_be_written(films, tmp_path, asked, unheard, monkeypatch):
    write_tables = OutputFolder.write_tables

    def again(*given):
        signal.raise_signal(signal.SIGTERM)
        write_tables(*given)

    monkeypatch.setattr(OutputFolder, "write_tables", again)
    (films / "1.dcm").unlink()
    (films / "2.dcm").write_text("terminate")
    assert read(films, "--out", tmp_path / "out") == 143
    assert (tmp_path / "out" / "results.csv").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_before_the_first_film(films, tmp_path, asked, unheard, monkeypatch, capsys, number):
    def stop(folders):
        if number == signal.SIGTERM:
            signal.raise_signal(number)
        raise KeyboardInterrupt

    monkeypatch.setattr(weights, "find_weights", stop)
    assert read(films, "--out", tmp_path / "out") == 128 + number
    assert capsys.readouterr().err == "deepknee read: stopped\n"


def test_names_that_a_terminal_cannot_print(films, tmp_path, asked):
    (films / "2.dcm").rename(films / "\udcff.dcm")
    assert read(films, "--out", tmp_path / "out") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: PATH, --out"),
        (["x.dcm"], "required: --out"),
        (["--spacing", "0"], "'0': must be mm a pixel"),
        (["--spacing", "1x2x3"], "must be mm a pixel"),
        (["--spacing", "nan"], "must be mm a pixel"),
        (["--spacing", "0.1,0.1"], "must be mm a pixel"),
        (["--jobs", "0"], "'0': must be a whole number"),
        (["--out", ""], "--out: is empty: must name a folder"),
        (["--jobs", "two"], "must be a whole number"),
        (["--device", "tpu"], "invalid choice: 'tpu'"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_words_that_make_no_sense(words, message, capsys):
    paths = ["x.dcm", "--out", "y"] if words and words[0].startswith("--") else []
    with pytest.raises(SystemExit) as stopped:
        read(*words, *paths)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_paths_and_folders_that_make_no_sense(films, tmp_path, asked, capsys):
    assert read(tmp_path / "typo", "--out", tmp_path / "out") == 2
    assert "typo: there is no such file or folder" in capsys.readouterr().err
    assert read(films, "--out", films / "1.dcm") == 2
    assert "1.dcm: is a file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_weights(films, tmp_path, asked, monkeypatch, capsys):
    def none(folders):
        raise WeightsError("no weights found")

    monkeypatch.setattr(weights, "find_weights", none)
    assert read(films, "--out", tmp_path / "out") == 2
    assert "deepknee read: error: no weights found" in capsys.readouterr().err


def test_outputs_that_cannot_be_written(films, asked, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "knees").touch()
    assert read(films, "--out", tmp_path / "out") == 1
    assert "outputs cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--help"], ["read", "--help"]])
def test_help_explains(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    told = ["Research use only. Not a medical device.", "results.csv", "report.html", "failures.csv", "exit status"]
    told += ["--weights", "--overwrite", "ROWxCOLUMN", "examples", "p0..p4", "x0,y0..x15,y15", "Ctrl-C", "pretrained/"]
    assert [word for word in told if word not in said] == []


def test_door_is_the_same_command(films, tmp_path, asked, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(DOOR), str(films), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(DOOR), run_name="__main__")
    assert stopped.value.code == 0
    assert (tmp_path / "out" / "results.csv").exists()


def test_door_opens_from_a_shell():
    done = subprocess.run([sys.executable, DOOR, "--help"], capture_output=True, text=True, check=True)
    assert "usage: deepknee read" in done.stdout


def test_threads_wait_asleep_unless_told_otherwise(monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    cli._share_cores()
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    cli._share_cores()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
