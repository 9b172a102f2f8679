"""One owner a folder: with flock on one machine, and by heartbeats where that does not reach."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from queue_tools import until

from kneel.engine.queue import locks
from kneel.engine.queue.fence import LOCK_VARIABLE, LockLost, check_owned
from kneel.engine.queue.locks import Busy, Lock, Owner, Watch

# an owner on another machine whose file system has no flock: it beats until told by a signal, then looks once more
OWNER = """
import errno, fcntl, pathlib, sys, time
from kneel.engine.queue import locks
if sys.argv[2] == "elsewhere":
    def refuse(*_): raise OSError(errno.ENOLCK, "no locks here")
    fcntl.flock = refuse
    owner = locks.Owner("another kernel", "elsewhere", 1)
else:
    owner = None
lock = locks.Watch(owner).acquire(pathlib.Path(sys.argv[1]))
print(type(lock).__name__, flush=True)
while True:
    try:
        lock.beat()
    except locks.LockLost as error:
        print("lost:", error, flush=True)
        break
    time.sleep(0.02)
"""


@pytest.fixture
def owner(tmp_path):
    """Starts owners of ``tmp_path`` in processes of their own."""
    started = []

    def start(where):
        command = [sys.executable, "-c", OWNER, str(tmp_path), where]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "Lock\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_one_owner_until_it_gives_back(tmp_path):
    lock = Watch().acquire(tmp_path)
    other = Watch().acquire(tmp_path)
    assert isinstance(other, Busy)
    assert other.owner == Owner.here()
    lock.beat()
    lock.release()
    again = Watch().acquire(tmp_path)
    assert isinstance(again, Lock)
    assert [path.name for path in (tmp_path / ".lock").iterdir()] == ["2"]  # no number twice, and no old ones left
    with pytest.raises(LockLost, match="taken over by process"):
        lock.beat()


def test_a_killed_owner_is_followed_at_once_on_its_machine(tmp_path, owner):
    process = owner("here")
    assert isinstance(Watch(stale_after=0.0).acquire(tmp_path), Busy)  # held: no time makes it dead
    process.kill()
    process.wait()
    assert isinstance(Watch(stale_after=1e9).acquire(tmp_path), Lock)


def test_a_stopped_owner_on_this_machine_keeps_its_folder(tmp_path, owner):
    process = owner("here")
    process.send_signal(signal.SIGSTOP)
    watch = Watch(stale_after=0.0)
    watch.acquire(tmp_path)
    assert isinstance(watch.acquire(tmp_path), Busy)
    process.send_signal(signal.SIGCONT)


def test_whoever_inherited_the_lock_holds_it(tmp_path):
    """As a training whose keeper was killed does."""
    lock = Watch().acquire(tmp_path)
    heir = subprocess.Popen(["sleep", "100"], pass_fds=(lock.descriptor,))
    lock.hand_over()
    assert isinstance(Watch(stale_after=0.0).acquire(tmp_path), Busy)
    heir.kill()
    heir.wait()
    assert isinstance(Watch().acquire(tmp_path), Lock)


def test_an_owner_elsewhere_lives_while_it_beats_and_is_followed_when_it_stopped(tmp_path, owner):
    process = owner("elsewhere")
    watch = Watch(stale_after=0.5)
    began = time.monotonic()
    while time.monotonic() < began + 1:  # watched for twice the limit
        assert isinstance(watch.acquire(tmp_path), Busy)
    process.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    lock = until(lambda: isinstance(found := watch.acquire(tmp_path), Lock) and found)
    assert time.monotonic() - stopped >= 0.4
    process.send_signal(signal.SIGCONT)  # it wakes, and finds that it was taken for dead
    assert process.stdout.readline().startswith("lost: ")
    assert process.wait(20) == 0
    lock.beat()


@pytest.mark.parametrize("skew", [-1e6, 1e6])
def test_clocks_of_other_machines_say_nothing(tmp_path, skew):
    """A file time far in the past or the future is neither dead nor alive: only a change counts."""
    theirs = Watch(Owner("another kernel", "elsewhere", 1)).acquire(tmp_path)
    theirs.hand_over()
    os.utime(theirs.path, (time.time() + skew,) * 2)
    watch = Watch(stale_after=0.2)
    assert isinstance(watch.acquire(tmp_path), Busy)
    assert isinstance(until(lambda: isinstance(found := watch.acquire(tmp_path), Lock) and found), Lock)


def test_without_flock_an_owner_of_this_machine_is_watched_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    held = Watch().acquire(tmp_path)
    watch = Watch(stale_after=0.2)
    assert isinstance(watch.acquire(tmp_path), Busy)
    until(lambda: isinstance(watch.acquire(tmp_path), Lock))
    with pytest.raises(LockLost):
        held.beat()


def test_a_folder_that_cannot_be_locked_says_so(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(locks.fcntl, "flock", broken)
    with pytest.raises(OSError, match="broken disk"):
        Watch().acquire(tmp_path)


def test_a_file_without_its_owner_is_being_written(tmp_path):
    """Between its creation and its lock nobody may take it away."""
    (tmp_path / ".lock").mkdir()
    (tmp_path / ".lock" / "1").touch()
    found = Watch(stale_after=100).acquire(tmp_path)
    assert isinstance(found, Busy)
    assert "starting" in str(found)


def test_who_slept_since_it_looked_takes_no_number_of_the_past(tmp_path, monkeypatch):
    """It saw number 1 free; while it slept 2 came, 3 came and 2 was deleted."""
    first = Watch().acquire(tmp_path)
    first.release()
    seen = locks.owner_files(tmp_path / ".lock")
    Watch().acquire(tmp_path).release()
    third = Watch().acquire(tmp_path)
    answers = [seen]
    real = locks.owner_files
    monkeypatch.setattr(locks, "owner_files", lambda folder: answers.pop() if answers else real(folder))
    monkeypatch.setattr(Watch, "_lives", lambda *_: False)
    assert isinstance(Watch().acquire(tmp_path), Busy)
    third.beat()
    assert [path.name for path in (tmp_path / ".lock").iterdir()] == ["3"]


def test_of_many_at_once_one_gets_it(tmp_path):
    for number in range(20):
        folder = tmp_path / str(number)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _, folder=folder: Watch().acquire(folder), range(8)))
        assert sum(isinstance(one, Lock) for one in found) == 1


def test_a_training_asks_before_it_writes(tmp_path, monkeypatch):
    check_owned()  # by hand, without a queue
    lock = Watch().acquire(tmp_path)
    monkeypatch.setenv(LOCK_VARIABLE, str(lock.path))
    check_owned()
    (lock.path.parent / "2").write_text(json.dumps({}))
    with pytest.raises(LockLost, match="another runner"):
        check_owned()
