"""Boards on a real visdom server, which the project's own script starts."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import requests

from kneel.engine import board_visdom
from kneel.engine.board import Showing
from kneel.engine.board_visdom import VisdomBoard

ROOT = Path(__file__).resolve().parents[1]
SERVER = ROOT / "scripts" / "visdom_server.py"
LIMIT = 120.0


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait(condition):
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.05)


def answers(port):
    try:
        return requests.get(f"http://127.0.0.1:{port}/", timeout=2).ok
    except requests.RequestException:
        return False


@contextmanager
def server_on(port):
    process = subprocess.Popen(
        [sys.executable, SERVER, "--port", str(port), "--watch", str(os.getpid())],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait(lambda: answers(port))
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def port():
    number = free_port()
    with server_on(number):
        yield number


def window(port, env, name):
    asked = requests.post(f"http://127.0.0.1:{port}/win_data", data=json.dumps({"eid": env, "win": name}), timeout=5)
    return json.loads(asked.text) if asked.text else None


def points(port, env, name):
    """Every named line of a window as its points."""
    traces = window(port, env, name)["content"]["data"]
    return {trace["name"]: list(zip(trace["x"], trace["y"], strict=True)) for trace in traces}


def table(epochs):
    return [
        {
            "epoch": epoch,
            "learning_rate": 0.1,
            "train_loss": 1.0 / epoch,
            "val_loss": 2.0 / epoch,
            "kappa": 0.5,
            "kappa_low": 0.4,
            "kappa_high": float("nan") if epoch == 2 else 0.6,
        }
        for epoch in range(1, epochs + 1)
    ]


def fill(folder, board, first, last):
    """A training from one epoch to another, begun or resumed; its pictures get brighter."""
    showing = Showing(folder, board)
    showing.begin(table(first - 1))
    for epoch in range(first, last + 1):
        showing.epoch(table(epoch), np.full((8, 16, 3), 10 * epoch, np.uint8))


def captions(port, env):
    return [picture["caption"] for picture in window(port, env, "pictures")["content"]]


def test_curves_bands_and_pictures_reach_the_server(port, tmp_path):
    fill(tmp_path, VisdomBoard("127.0.0.1", port, "whole"), 1, 3)
    assert points(port, "whole", "loss") == {
        "train_loss": [(1, 1.0), (2, 0.5), (3, 1 / 3)],
        "val_loss": [(1, 2.0), (2, 1.0), (3, 2 / 3)],
    }
    assert points(port, "whole", "learning_rate") == {"learning_rate": [(1, 0.1), (2, 0.1), (3, 0.1)]}
    kappa = points(port, "whole", "kappa")
    assert kappa["kappa low"] == [(1, 0.4), (2, 0.4), (3, 0.4)]
    assert kappa["kappa high"] == [(1, 0.6), (2, None), (3, 0.6)]
    fills = {trace["name"]: trace.get("fill") for trace in window(port, "whole", "kappa")["content"]["data"]}
    assert fills == {"kappa low": None, "kappa high": "tonexty", "kappa": None}
    assert captions(port, "whole") == ["epoch 1", "epoch 2", "epoch 3"]


def test_a_resumed_training_shows_no_point_and_no_picture_twice(port, tmp_path):
    fill(tmp_path, VisdomBoard("127.0.0.1", port, "resumed"), 1, 3)
    # epoch 3 was shown, but its snapshot was lost: it is trained again
    fill(tmp_path, VisdomBoard("127.0.0.1", port, "resumed"), 3, 4)
    assert points(port, "resumed", "loss")["train_loss"] == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]
    assert captions(port, "resumed") == ["epoch 1", "epoch 2", "epoch 3", "epoch 4"]
    fill(tmp_path, VisdomBoard("127.0.0.1", port, "resumed"), 1, 1)  # --overwrite
    assert points(port, "resumed", "loss")["train_loss"] == [(1, 1.0)]
    assert captions(port, "resumed") == ["epoch 1"]


def test_each_run_has_its_own_environment(port, tmp_path):
    for fold in ("a", "b"):
        (tmp_path / fold).mkdir()
        fill(tmp_path / fold, VisdomBoard("127.0.0.1", port, f"run_{fold}"), 1, 1)
    asked = requests.post(f"http://127.0.0.1:{port}/env_state", data="{}", timeout=5)
    assert {"run_a", "run_b"} <= set(json.loads(asked.text))


def test_the_slider_stays_short(port, tmp_path, monkeypatch):
    monkeypatch.setattr(board_visdom, "_SLIDER", 4)
    fill(tmp_path, VisdomBoard("127.0.0.1", port, "slider"), 1, 6)
    assert captions(port, "slider") == ["epoch 1", "epoch 5", "epoch 6"]


def test_a_server_that_dies_costs_one_warning_and_is_filled_when_it_is_back(tmp_path, monkeypatch):
    number = free_port()
    board = VisdomBoard("127.0.0.1", number, "run")
    showing = Showing(tmp_path, board)
    with server_on(number):
        showing.epoch(table(1), np.zeros((8, 8, 3), np.uint8))
    with pytest.warns(UserWarning, match=rf"no visdom at http://127.0.0.1:{number} \(no connection\)") as caught:
        showing.epoch(table(2), np.zeros((8, 8, 3), np.uint8))
    assert len(caught) == 1
    showing.epoch(table(3), np.zeros((8, 8, 3), np.uint8))  # waits before it asks again; a warning would be an error
    board._not_before = 0.0
    showing.epoch(table(4), np.zeros((8, 8, 3), np.uint8))  # asks again; another warning would be an error
    with server_on(number):
        board._not_before = 0.0
        showing.epoch(table(5), np.zeros((8, 8, 3), np.uint8))
        assert [epoch for epoch, _ in points(number, "run", "loss")["val_loss"]] == [1, 2, 3, 4, 5]
        assert captions(number, "run") == [f"epoch {epoch}" for epoch in (1, 2, 3, 4, 5)]
    assert (tmp_path / "metrics.csv").read_text().count("\n") == 6


def test_a_server_that_hangs_costs_one_warning_and_its_patience_once(tmp_path, monkeypatch):
    monkeypatch.setattr(board_visdom, "_PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # the kernel accepts, nobody answers
        board = VisdomBoard("127.0.0.1", deaf.getsockname()[1], "run")
        with pytest.warns(UserWarning, match="silent for 0 s") as caught:
            board.show(table(1), {})
        assert len(caught) == 1
        board.show(table(2), {})
        deaf.settimeout(5)
        deaf.accept()[0].close()
        deaf.settimeout(0.2)
        with pytest.raises(TimeoutError):
            deaf.accept()  # it was asked once only


def test_something_else_than_visdom_is_not_taken_for_it(port, tmp_path):
    board = VisdomBoard(f"http://127.0.0.1:{port}/nowhere#", 0, "run")
    with pytest.warns(UserWarning, match="no visdom at"):
        board.show(table(1), {})


def beside(port, pid, *more):
    command = [sys.executable, SERVER, "--beside", str(pid), "--port", str(port), *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)


def test_a_server_is_started_beside_a_process_and_ends_with_it(tmp_path):
    number = free_port()
    owner = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])
    try:
        check_beside(number, owner, tmp_path)
    finally:
        owner.kill()
        owner.wait()
    wait(lambda: not answers(number))


def check_beside(number, owner, tmp_path):
    done = beside(number, owner.pid, "--log", str(tmp_path / "logs" / "visdom.log"))
    assert (done.returncode, done.stdout) == (0, f"localhost:{number}\n"), done.stderr
    assert f"curves: http://localhost:{number}" in done.stderr
    again = beside(number, owner.pid)
    assert (again.returncode, again.stdout) == (0, f"localhost:{number}\n")
    listening = Path("/proc/net/tcp").read_text() if Path("/proc/net/tcp").exists() else ""
    assert f"00000000:{number:04X}" not in listening  # on the loopback only


def test_a_port_that_is_taken_is_named_and_costs_no_training(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = beside(other.getsockname()[1], os.getpid())
    assert done.returncode == 1
    assert done.stdout == ""
    assert "taken by something else than visdom; set PORT" in done.stderr


def test_replay_rebuilds_a_board_from_its_folder(port, tmp_path):
    folder = tmp_path / "work" / "exp" / "fold_0"
    folder.mkdir(parents=True)

    class Nothing:
        def show(self, rows, pictures):
            pass

    fill(folder, Nothing(), 1, 2)
    command = [sys.executable, ROOT / "scripts" / "replay_board.py", tmp_path / "work"]
    done = subprocess.run(
        [*command, "--visdom", f"localhost:{port}"], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{folder}: 2 epochs\n"
    assert points(port, "exp_fold_0", "loss")["train_loss"] == [(1, 1.0), (2, 0.5)]
    assert captions(port, "exp_fold_0") == ["epoch 1", "epoch 2"]
    lost = subprocess.run(
        [*command, "--visdom", f"localhost:{free_port()}"], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert lost.returncode == 1
    assert "no visdom at" in lost.stderr


def test_replay_of_nothing_is_wrong_use(tmp_path):
    command = [sys.executable, ROOT / "scripts" / "replay_board.py", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 2
    assert f"no metrics.csv below {tmp_path}" in done.stderr


@pytest.mark.slow
def test_the_page_shows_the_board_in_a_browser(port, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium is installed")
    if "stays blank" in page_state():
        pytest.skip("the page's scripts are not there: scripts/visdom_server.py --fetch")
    fill(tmp_path, VisdomBoard("127.0.0.1", port, "page"), 1, 2)
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=15000", "--dump-dom"]
    done = subprocess.run(
        [*command, f"--user-data-dir={tmp_path}/profile", f"http://127.0.0.1:{port}/env/page"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    for seen in ("train_loss", "val_loss", "kappa", "learning_rate", "epoch 2", "data:image/jpeg"):
        assert seen in done.stdout, done.stderr


def page_state():
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'scripts')!r}); import visdom_server as v; print(v.missing_page())"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
