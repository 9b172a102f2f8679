import hashlib
import http.server
import subprocess
import sys
import threading
from pathlib import Path
from runpy import run_path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOOR = ROOT / "scripts" / "data_stuff" / "fetch_annotations.py"
TABLE = ROOT.parent / "shared" / "data" / "kneel" / "bf_landmarks_1_0.3.csv"


@pytest.fixture(scope="module")
def door():
    return run_path(str(DOOR))


@pytest.fixture
def served(tmp_path):
    """A web server on this machine with one file; its address and the file's content."""
    content = b"subject_id,side\n" * 5000
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "a.csv").write_bytes(content)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path / "www"))

        def log_message(self, *_):
            pass

        def do_GET(self):
            if self.path == "/short.csv":  # promises more than it sends
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"x" * 10)
            else:
                super().do_GET()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", content
        server.shutdown()
        thread.join()


def test_a_download_with_the_right_sum_is_kept(door, served, tmp_path):
    address, content = served
    out = tmp_path / "deep" / "table.csv"
    door["fetch"](f"{address}/a.csv", out, sha256=hashlib.sha256(content).hexdigest())
    assert out.read_bytes() == content
    assert [path.name for path in out.parent.iterdir()] == ["table.csv"]


@pytest.mark.parametrize(
    ("name", "words"), [("a.csv", "sha256 is .* must be 00ff"), ("none.csv", "404"), ("short.csv", "after 10 of 1000")]
)
def test_anything_else_leaves_what_was_there(door, served, tmp_path, name, words):
    out = tmp_path / "table.csv"
    out.write_text("mine")
    with pytest.raises(door["FetchError"], match=words):
        door["fetch"](f"{served[0]}/{name}", out, sha256="00ff")
    assert out.read_text() == "mine"
    assert not list(tmp_path.glob("*.part"))


def test_a_wrong_copy_is_refused_in_one_line_with_both_sums(door, tmp_path):
    copy = tmp_path / "with space.csv"
    copy.write_bytes(b"x")
    command = [sys.executable, str(DOOR), "--from-file", str(copy), "--out", str(tmp_path / "t.csv")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    last = result.stderr.splitlines()[-1]
    assert result.returncode == 1
    assert hashlib.sha256(b"x").hexdigest() in last
    assert door["SHA256"] in last
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "t.csv").exists()


@pytest.mark.skipif(not TABLE.is_file(), reason="the authors' table is not here")
def test_the_authors_table_is_the_one(tmp_path):
    command = [sys.executable, str(DOOR), "--from-file", str(TABLE)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "bf_landmarks_1_0.3.csv").read_bytes() == TABLE.read_bytes()


def test_the_address_is_the_authors(door):
    assert door["URL"] == "https://raw.githubusercontent.com/imedslab/KNEEL/master/annotations/bf_landmarks_1_0.3.csv"
