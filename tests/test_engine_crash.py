"""Trainings that are killed, run out of disk or find their snapshots damaged end as one that was left in peace."""

import csv
import errno
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fit_tasks import WRITTEN, Regression, contents, interrupt_at, run
from wrapped_file import Wrapped

from kneel.engine import provenance, record
from kneel.engine.atomic import DiskFull
from kneel.engine.generations import Generations
from kneel.engine.hold import RunBusy, hold
from kneel.engine.queue.fence import LOCK_VARIABLE
from kneel.engine.record import ResumeError
from kneel.engine.snapshot import SnapshotError, load_snapshot, update_snapshot
from kneel.engine.transfer import RunUnfinished, finished_best, start_of

TESTS = Path(__file__).parent
KILLS = 20
posix = pytest.mark.skipif(os.name == "nt", reason="SIGKILL and fork")


@pytest.fixture(autouse=True)
def _steady_code(monkeypatch):
    monkeypatch.setattr(record, "code_version", lambda: {"commit": "0" * 40})
    monkeypatch.setattr(provenance, "code_changes", lambda: (b"", []))


@pytest.fixture(scope="module")
def processes():
    """Processes that are forked from one that has torch and the task loaded."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS), str(TESTS.parent), before]))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["crash_task"])
    yield context
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


def spawn(processes, folder, epochs, **options):
    """Start a training and wait until it begins; returns the process and the connection that heard it."""
    import crash_task

    hears, says = processes.Pipe(duplex=False)
    process = processes.Process(target=crash_task.train, args=(folder, epochs, says), kwargs=options)
    process.start()
    says.close()
    assert hears.poll(120), "the training did not begin"
    assert hears.recv() == "started"
    return process, hears


def finish(processes, folder, epochs):
    """Train to the end in a process; returns the seconds that it took."""
    process, hears = spawn(processes, folder, epochs)
    began = time.monotonic()
    assert hears.recv() == "ended"
    process.join()
    return time.monotonic() - began


def epochs_over(folder):
    metrics = folder / "metrics.csv"
    return len(metrics.read_text().splitlines()) - 1 if metrics.exists() else 0


@posix
def test_killed_at_20_random_moments_it_ends_in_the_same_bytes(tmp_path, processes):
    epochs, rng = 30, random.Random(5)
    whole, parts = tmp_path / "whole" / "run", tmp_path / "parts" / "run"
    seconds = finish(processes, whole, epochs)
    with (whole / "metrics.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert 3 < sum(loss == min(losses[: at + 1]) for at, loss in enumerate(losses)) < epochs  # the best comes and stays
    reached = []
    for _ in range(KILLS):
        process, hears = spawn(processes, parts, epochs, waits=True)
        hears.poll(rng.uniform(0, 0.2 * seconds))  # it says no more: this is a while, and then it is killed
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        reached.append(epochs_over(parts))
    assert reached == sorted(reached)
    assert reached[-1] > 0
    finish(processes, parts, epochs)
    assert contents(parts) == contents(whole)
    assert not list(parts.glob(".*.tmp"))
    assert len(list((parts / "provenance").glob("start_*.json"))) > 1


@posix
def test_killed_20_times_while_it_writes_it_ends_in_the_same_bytes(tmp_path, processes):
    epochs, rng = 30, random.Random(7)
    whole, parts = tmp_path / "whole" / "run", tmp_path / "parts" / "run"
    finish(processes, whole, epochs)
    kinds, halves = [], 0
    for _ in range(KILLS):
        kind = processes.Value("i", 0)
        process, _ = spawn(processes, parts, epochs, waits=True, killed_at=rng.randint(1, 60), events=kind)
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
        kinds.append(kind.value)
        halves += bool(list(parts.rglob(".*.tmp")))
    assert all(kinds.count(kind) >= 3 for kind in (1, 2, 3))  # half a file, before and after a renaming
    assert halves >= 6
    finish(processes, parts, epochs)
    assert contents(parts) == contents(whole)
    assert not list(parts.glob(".*.tmp"))


class Full(Wrapped):
    """A file on a full disk."""

    def write(self, data):
        self.file.write(data[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fill_disk(patch, name, time):
    """Let the disk be full when a file is written for the `time`-th time."""
    plain, count = Path.open, 0

    def full(path, mode="r", **options):
        nonlocal count
        count += path.name == f".{name}.tmp"
        file = plain(path, mode, **options)
        return Full(file) if path.name == f".{name}.tmp" and count == time else file

    patch.setattr(Path, "open", full)


@pytest.mark.parametrize("file", [*WRITTEN, "best.safetensors.previous", "experiment.yaml"])
def test_a_full_disk_leaves_the_last_good_files_and_is_told(tmp_path, monkeypatch, file):
    whole = run(tmp_path, "whole", epochs=4)
    assert whole.best_epoch == 4
    folder = tmp_path / "parts"
    run(tmp_path, "parts", epochs=1)
    with monkeypatch.context() as patch:
        fill_disk(patch, file, 1 if file in ("experiment.yaml", "last.safetensors", "best.safetensors.previous") else 2)
        with pytest.raises(DiskFull, match=rf"No space left.*: [\d.]+ (bytes|kB) needed, .* free in .*parts.*{file}"):
            run(tmp_path, "parts", resume=True, epochs=4)
    assert not list(folder.rglob(".*.tmp"))
    epochs = load_snapshot(folder / "last.safetensors")[1]["epoch"]
    assert epochs_over(folder) in (epochs, epochs - 1)
    assert load_snapshot(folder / "best.safetensors")[1]["epoch"] in (epochs, epochs - 1)
    run(tmp_path, "parts", resume=True, epochs=4)
    assert contents(folder) == contents(tmp_path / "whole")


ON_A_SMALL_DISK = """
import sys
from pathlib import Path
import crash_task
from fit_tasks import Regression, run
crash_task.stay_with_one_commit()
filler, out = Path(sys.argv[1], "filler"), Path(sys.argv[2])
def fill(step):
    if step == 15:
        with filler.open("wb", buffering=0) as file:
            while file.write(bytes(1024)):
                pass
def fill_quietly(step):
    try:
        fill(step)
    except OSError as error:
        assert "No space left" in str(error)
try:
    run(filler.parent, task=Regression(hook=fill_quietly), epochs=4)
except OSError as error:
    print("told:", type(error).__name__, error)
print("left:", *sorted(path.name for path in (filler.parent / "run").iterdir()))
filler.unlink()
run(filler.parent, resume=True, epochs=4)
for path in (filler.parent / "run").iterdir():
    if path.is_file():
        (out / path.name).write_bytes(path.read_bytes())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tmpfs")
def test_a_small_disk_that_fills_up(tmp_path):
    mount = "mount -t tmpfs -o size=400k small"
    disk, out = tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    out.mkdir()
    try:
        subprocess.run(["unshare", "-rm", "sh", "-c", f"{mount} {disk}"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system may be mounted here: {error}")
    command = f'{mount} "$1" && exec "$2" -c "$3" "$1" "$4"'
    words = ["unshare", "-rm", "sh", "-c", command, "sh", str(disk), sys.executable, ON_A_SMALL_DISK, str(out)]
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    result = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths})
    assert result.returncode == 0, result.stderr
    assert "told: DiskFull" in result.stdout
    assert "kB needed" in result.stdout
    left = next(line for line in result.stdout.splitlines() if line.startswith("left:"))
    assert ".tmp" not in left
    assert "last.safetensors" in left
    run(tmp_path, "whole", epochs=4)
    assert contents(out) == contents(tmp_path / "whole")


def truncated(path):
    path.write_bytes(path.read_bytes()[:-20])


def emptied(path):
    path.write_bytes(b"")


def flipped(path):
    data = bytearray(path.read_bytes())
    data[-30] ^= 16
    path.write_bytes(data)


def flipped_in_the_metadata(path):
    data = path.read_bytes()
    at = data.index(b'\\"weight_decay\\": 0.0') + 19
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


DAMAGES = [truncated, emptied, flipped, flipped_in_the_metadata]
UNEVEN = {"learning_rate": 0.9, "optimizer": "sgd", "clip_norm": 100.0}  # its best epoch is the second


@pytest.mark.parametrize("changes", [{}, UNEVEN], ids=["the last is the best", "an early one is the best"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_last_snapshot_is_named_and_the_one_before_it_used(tmp_path, caplog, damage, changes):
    whole = run(tmp_path, "whole", epochs=6, **changes)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "parts", Regression(hook=interrupt_at(27)), epochs=6, **changes)  # in the fifth epoch
    folder = tmp_path / "parts"
    before = (folder / "last.safetensors.previous").read_bytes()
    damage(folder / "last.safetensors")
    task = Regression()
    with caplog.at_level(logging.WARNING):
        parts = run(tmp_path, "parts", task, resume=True, epochs=6, **changes)
    assert f"{folder / 'last.safetensors'}: " in caplog.text
    assert "going on from the one before it, epoch 3" in caplog.text
    assert len(task.seen) == 3 * 6
    assert parts.best_epoch == whole.best_epoch == (2 if changes else 6)
    assert contents(folder) == contents(tmp_path / "whole")
    assert (folder / "last.safetensors.previous").read_bytes() != before


@pytest.mark.parametrize("changes", [{}, UNEVEN], ids=["the last is the best", "an early one is the best"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_best_snapshot_is_made_anew(tmp_path, damage, changes):
    run(tmp_path, "whole", epochs=5, **changes)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "parts", Regression(hook=interrupt_at(20)), epochs=5, **changes)
    damage(tmp_path / "parts" / "best.safetensors")
    run(tmp_path, "parts", resume=True, epochs=5, **changes)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_best_of_the_lost_epoch_gives_way_to_the_one_before_it(tmp_path):
    """The best was of the epoch that is lost. Should that come out worse this time, as on a GPU, nothing is mixed."""
    task = Regression()
    rows = iter([2.0, 1.5, 1.0, 5.0, 6.0])
    task.metrics = lambda outputs: {"loss": next(rows)}
    run(tmp_path, task=task, epochs=3)
    files = Generations(tmp_path / "run")
    update_snapshot(files.best_before.rename(tmp_path / "x.safetensors"), {"temperature": 0.7})
    (tmp_path / "x.safetensors").rename(files.best_before)
    truncated(files.last)
    result = run(tmp_path, task=task, epochs=4, resume=True)
    assert [row["loss"] for row in result.history] == [2.0, 1.5, 5.0, 6.0]
    meta = load_snapshot(result.path_best)[1]
    assert (result.best_epoch, meta["epoch"], meta["temperature"]) == (2, 2, 0.7)


def test_two_damaged_snapshots_are_both_named_and_nothing_is_lost(tmp_path):
    run(tmp_path, epochs=2)
    files = Generations(tmp_path / "run")
    truncated(files.last)
    emptied(files.last_before)
    before = contents(files.folder)
    with pytest.raises(
        SnapshotError,
        match=r"last\.safetensors: .*; .*last\.safetensors\.previous: .*: train.py --overwrite starts over",
    ):
        run(tmp_path, epochs=3, resume=True)
    assert contents(files.folder) == before
    run(tmp_path, epochs=2, overwrite=True)
    files.last_before.unlink()
    flipped(files.last)
    with pytest.raises(SnapshotError, match=r"last\.safetensors: damaged.*; there is none before it"):
        run(tmp_path, epochs=3, resume=True)


def test_a_best_that_nothing_can_replace_is_said(tmp_path):
    run(tmp_path, epochs=3, **UNEVEN)
    files = Generations(tmp_path / "run")
    flipped(files.best)
    files.best_before.unlink()
    with pytest.raises(ResumeError, match=r"best\.safetensors is gone or damaged: epoch 2 was the best"):
        run(tmp_path, epochs=4, resume=True, **UNEVEN)


def test_the_number_of_files_does_not_grow_with_the_epochs(tmp_path):
    run(tmp_path, "short", epochs=3)
    run(tmp_path, "long", epochs=9)
    short, long = ({path.name for path in (tmp_path / name).iterdir()} for name in ("short", "long"))
    assert short == long
    assert {"last.safetensors.previous", "best.safetensors.previous"} < short


@posix
def test_a_second_training_into_the_same_folder_is_refused(tmp_path):
    with hold(tmp_path / "run"):
        mine = os.environ.pop(LOCK_VARIABLE)  # as another process would find it
        try:
            with pytest.raises(RunBusy, match=rf"run is held by process {os.getpid()} on .*; wait for it, stop it"):
                run(tmp_path, epochs=1)
        finally:
            os.environ[LOCK_VARIABLE] = mine
    assert len(run(tmp_path, epochs=1).history) == 1
    assert LOCK_VARIABLE not in os.environ


def test_a_run_that_is_not_complete_is_no_start_for_another(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"run/best\.safetensors"):
        finished_best(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, task=Regression(hook=interrupt_at(14)), epochs=3)
    with pytest.raises(RunUnfinished, match=r"run is at epoch 2 of 3: finish it first"):
        finished_best(tmp_path / "run")
    result = run(tmp_path, epochs=3, resume=True)
    assert finished_best(tmp_path / "run") == result.path_best


def test_an_experiment_says_what_it_starts_from_and_what_to_train_first(tmp_path):
    assert start_of("second", None, tmp_path, 1) is None
    with pytest.raises(
        FileNotFoundError, match=r"fold_1/best\.safetensors: .*; train first first, second starts from it"
    ):
        start_of("second", "first", tmp_path, 1)
    result = run(tmp_path / "first", epochs=1)
    assert result.path_best.parent == tmp_path / "first" / "run"
    (tmp_path / "first" / "run").rename(tmp_path / "first" / "fold_1")
    assert start_of("second", "first", tmp_path, 1) == tmp_path / "first" / "fold_1" / "best.safetensors"


def test_a_resumed_run_still_computes_with_what_it_had(tmp_path):
    """Resuming twice from a damaged snapshot needs two epochs in between: there is one generation more, not two."""
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, task=Regression(hook=interrupt_at(14)), epochs=5)
    files = Generations(tmp_path / "run")
    truncated(files.last)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, task=Regression(hook=interrupt_at(1)), epochs=5, resume=True)
    assert not files.last_before.exists()
    assert torch.equal(*(load_snapshot(path)[0]["0.weight"] for path in (files.last, files.best)))
    assert load_snapshot(files.last)[1]["epoch"] == 1
