"""A folder is one process's until that process ends, however it does."""

import errno
import subprocess
import sys
from contextlib import nullcontext

import pytest
from doors import script

from deepknee import cli
from kneel.imaging.one_writer import FolderBusy, one_writer
from kneel.imaging.preparing import exit_status
from kneel.prepare import prepare_films

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no flock")

HOLD = "from pathlib import Path\nfrom kneel.imaging.one_writer import one_writer\nimport sys\n"
HOLD += "with one_writer(Path(sys.argv[1])):\n    print('mine', flush=True)\n    sys.stdin.read()\n"


@pytest.fixture
def other(tmp_path):
    """Another process that holds tmp_path / "out"."""
    words = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "mine\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path, other):
    with pytest.raises(FolderBusy, match=r"out: another process is writing into it"), one_writer(tmp_path / "out"):
        pytest.fail("written into all the same")
    with one_writer(tmp_path / "elsewhere"):
        (tmp_path / "elsewhere" / "film.csv").touch()
    other.kill()
    other.wait()
    with one_writer(tmp_path / "out"):
        assert list((tmp_path / "out").iterdir()) == []  # nothing but the films' own files ever lies there


def test_reading_into_a_folder_that_is_written_is_refused(tmp_path, other, capsys):
    (tmp_path / "film.dcm").write_bytes(b"none")
    assert cli.main(["read", str(tmp_path / "film.dcm"), "--out", str(tmp_path / "out")]) == cli.WRONG_USE
    assert "another process is writing into it" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_preparing_into_a_folder_that_is_written_is_refused(tmp_path, other, capsys):
    def prepare():
        return bool(prepare_films(tmp_path / "out", [], []))

    assert exit_status("prepare", 1, prepare, ()) == 2
    assert "another process is writing into it" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_landmarks_are_not_located_where_another_process_locates(tmp_path, other, capsys, monkeypatch):
    for grade in range(5):
        (tmp_path / "out" / str(grade)).mkdir()
    monkeypatch.setattr("sys.argv", ["locate_landmarks.py", "--images", str(tmp_path / "out")])
    assert script("data_stuff/locate_landmarks").main() == 2
    assert "another process is writing into it" in capsys.readouterr().err
    assert len(list((tmp_path / "out").iterdir())) == 5


def test_a_folder_into_which_nothing_was_written_is_taken_away(tmp_path):
    with pytest.raises(KeyError), one_writer(tmp_path / "deep" / "out"):
        raise KeyError
    assert not (tmp_path / "deep" / "out").exists()
    (tmp_path / "mine").mkdir()
    with one_writer(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").is_dir()  # it was there before


@pytest.mark.parametrize(("number", "goes_on"), [(errno.EOPNOTSUPP, True), (errno.EIO, False)])
def test_a_file_system_without_locks_is_written_all_the_same_and_other_errors_come_out(
    tmp_path, monkeypatch, number, goes_on
):
    def refused(*_):
        raise OSError(number, "no")

    monkeypatch.setattr("fcntl.flock", refused)
    with nullcontext() if goes_on else pytest.raises(OSError, match="no"), one_writer(tmp_path / "out"):
        (tmp_path / "out" / "film.csv").touch()
    assert (tmp_path / "out" / "film.csv").exists() == goes_on
