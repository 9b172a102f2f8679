"""Films read over a real Ray cluster of two nodes: two raylets on this machine."""

import csv
import os
import signal
import sys
import threading
from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import ray_nodes  # noqa: F401  (before Ray: it says where Ray may listen)
from oracle import make_reader, snapshots
from queue_tools import until
from ray_reader import begun, held_reader

from deepknee import cli
from deepknee.batch import read_films
from deepknee.films import find_films
from deepknee.folder import OutputFolder
from deepknee.output import CRASHED, FolderError
from deepknee.ray_read import Work, read_here, read_over_ray
from deepknee.shard_folder import ShardFolder
from kneel.engine.ray_cluster import ClusterError, Share
from kneel.engine.stopping import sigterm_as_ctrl_c
from kneel.phantom.render import FilmSpec, render_film

ray = pytest.importorskip("ray", reason="Ray is an extra: pip install '.[ray]'")
pytest.importorskip("pyarrow", reason="pyarrow comes with the extra: pip install '.[ray]'")
PRETRAINED = Path(__file__).resolve().parents[1] / "pretrained"


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Twelve films, some of which cannot be read, and a file that is no film."""
    folder = tmp_path_factory.mktemp("films")
    for number in range(12):
        words = {3: "none", 7: "bad", 8: "bug"}.get(number, "R L" if number % 2 else "L")
        (folder / f"{number:02d}").write_text(words)
    (folder / "notes.txt").touch()
    return folder


@pytest.fixture(scope="module")
def expected(films, tmp_path_factory):
    """Summary and tables of a reading without a cluster."""
    out = tmp_path_factory.mktemp("one")
    found, others = find_films([str(films)], out)
    summary = read_films(found, others, OutputFolder.by(snapshots(), out), make_reader)
    return summary, tables(out)


def read(films, notes, address):
    found, others = find_films([str(films)], notes / "out")
    folder = ShardFolder.by(snapshots(), notes / "out")
    return read_over_ray(found, others, folder, held_reader(notes), address=address, share=Share())


def tables(out):
    return [(out / name).read_bytes() for name in ("results.csv", "failures.csv")]


def counts(notes):
    return Counter(name for name, _ in begun(notes))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_it_keeps_what_is_done_and_goes_on_with_the_rest(films, expected, tmp_path, nodes, request, number):
    (tmp_path / "wait").write_text("10 11")
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored where a shell began it in the background

    def stop():
        shards = tmp_path / "out" / "shards"
        until(lambda: {"10", "11"} & set(counts(tmp_path)) and len(list(shards.iterdir())) >= 4, 120)
        os.kill(os.getpid(), number)

    stopper = threading.Thread(target=stop)
    stopper.start()
    try:
        with sigterm_as_ctrl_c():
            summary = read(films, tmp_path, nodes.address)  # leaves the cluster at the end, as the command does
    finally:
        stopper.join()
        signal.signal(signal.SIGINT, before)
    assert summary.interrupted
    with (tmp_path / "out" / "results.csv").open() as stream:
        done = {Path(row["file"]).name for row in csv.DictReader(stream)}
    assert 0 < len(done) == summary.read < expected[0].read
    first = counts(tmp_path)
    (tmp_path / "go").touch()
    again = read(films, tmp_path, request.getfixturevalue("two_nodes").address)
    assert again == replace(expected[0], earlier=len(done))
    assert all(counts(tmp_path)[name] == first[name] for name in done), "read once, and never again"
    assert tables(tmp_path / "out") == expected[1]


@pytest.mark.slow
def test_a_node_killed_in_mid_run_loses_nothing_and_doubles_nothing(films, expected, tmp_path, two_nodes):
    node = two_nodes.add()
    (tmp_path / "victim").write_text(node.node_id)

    def kill():
        until((tmp_path / "held").exists, 120)
        two_nodes.kill(node)

    killer = threading.Thread(target=kill)
    killer.start()
    summary = read(films, tmp_path, two_nodes.address)
    killer.join()
    lost = [name for name, where in begun(tmp_path) if where == node.node_id]
    assert lost, "it was reading when it was killed"
    assert all(counts(tmp_path)[name] == 2 for name in lost), "read again on another node"
    assert summary == expected[0]
    assert tables(tmp_path / "out") == expected[1]


@pytest.mark.slow
def test_a_film_that_kills_its_process_is_listed_and_the_others_are_read(tmp_path, two_nodes):
    (tmp_path / "films").mkdir()
    for name, words in (("1", "R"), ("2", "crash"), ("3", "L R"), ("4", "L")):
        (tmp_path / "films" / name).write_text(words)
    summary = read(tmp_path / "films", tmp_path, two_nodes.address)
    assert (summary.read, summary.failed, summary.knees) == (3, 1, 4)
    assert counts(tmp_path) == {"1": 1, "2": 2, "3": 1, "4": 1}
    assert tables(tmp_path / "out")[1].decode().splitlines()[1:] == [f'{tmp_path / "films" / "2"},"{CRASHED}"']


@pytest.mark.slow
def test_the_command_reads_with_the_networks_that_ship_as_without_ray(tmp_path, two_nodes, capsys):
    (tmp_path / "films").mkdir()
    for number, sides in enumerate([("R", "L"), ("L",)]):
        spec = FilmSpec(300, 500 - 100 * (len(sides) == 1), 0.8, tuple((side, 2) for side in sides))
        drawn = render_film(spec, np.random.default_rng(number))
        cv2.imwrite(str(tmp_path / "films" / f"{number}.png"), (drawn.pixels // 256).astype(np.uint8))
    words = ["read", str(tmp_path / "films"), "--weights", str(PRETRAINED), "--spacing", "0.8", "--out"]
    assert cli.main([*words, str(tmp_path / "one"), "--device", "cpu"]) == 0
    assert cli.main([*words, str(tmp_path / "two"), "--ray", two_nodes.address]) == 0
    assert tables(tmp_path / "two") == tables(tmp_path / "one")
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [
        *("deepknee.json", "failures.csv", "results.csv", "results.parquet", "shards")
    ]
    assert f"2 of 2 films read, 3 knees\ntable: {tmp_path / 'two' / 'results.csv'}" in capsys.readouterr().out
    assert cli.main([*words, str(tmp_path / "two")]) == 2
    assert "give --ray again" in capsys.readouterr().err


@pytest.mark.slow
def test_networks_that_do_not_load_on_a_node_are_an_error_of_the_command(tmp_path, two_nodes, capsys):
    (tmp_path / "1").write_text("R")
    words = ["--weights", str(PRETRAINED), "--out", str(tmp_path / "out"), "--ray", two_nodes.address]
    assert cli.main(["read", str(tmp_path / "1"), *words, "--ray_cores", "2"]) == 2
    assert "no node has 2 cores" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_films_that_overlap_in_a_process_make_the_same_shard(films, tmp_path, monkeypatch):
    threads = []
    monkeypatch.setattr("torch.set_num_threads", threads.append)
    monkeypatch.setattr("cv2.setNumThreads", threads.append)
    folder = ShardFolder.by(snapshots(), tmp_path / "out")
    plan = folder.plan(find_films([str(films)], folder.root)[0])
    folder.open(plan.run)
    works = [Work(folder, plan.run, make_reader, share) for share in (Share(), Share(2.5), Share(1, 0.5))]
    assert len({read_here(work, plan.pending, True) for work in works}) == 1, "its name is its content"
    assert threads == [1, 1, 2, 2, 1, 1]


def test_films_that_another_command_takes_away_are_an_error(films, tmp_path, monkeypatch):
    monkeypatch.setattr("deepknee.ray_read._on_cluster", lambda plan, others, folder, *_: folder.open(plan.run, others))
    with pytest.raises(FolderError, match="12 films are lost"):
        read(films, tmp_path, "nowhere")


class OneProcess:
    """Stands for a cluster of one node, on which something happens ``during`` a task; that is over when it is sent."""

    exceptions = SimpleNamespace(
        RayError=ray.exceptions.RayError,
        RayTaskError=ray.exceptions.RayTaskError,
        NodeDiedError=ray.exceptions.NodeDiedError,
    )

    def __init__(self, during):
        self.during = during

    def remote(self, **_):
        return lambda task: SimpleNamespace(remote=partial(self.run, task))

    def run(self, task, work, films, seen):
        try:
            with self.during(films):
                return task(work, films, seen), None
        except ClusterError as error:
            return None, ray.exceptions.RayTaskError("read_here", "traceback", error)

    def wait(self, references, *, num_returns):
        return references[:1], references[1:]

    def get(self, reference):
        path, error = reference
        if error is not None:
            raise error
        return path


@pytest.fixture
def one_process(monkeypatch):
    """Reads on such a cluster."""

    def connect(during):
        monkeypatch.setattr("deepknee.ray_read.connected", lambda address: nullcontext(OneProcess(during)))
        monkeypatch.setattr("deepknee.ray_read.slots", lambda share: 1)

    return connect


@contextmanager
def unmounted(folder):
    away = folder.rename(folder.with_name("away"))
    try:
        yield
    finally:
        away.rename(folder)


def test_a_film_that_is_deleted_while_it_is_sent_out_alone_is_listed_and_the_others_are_read(tmp_path, one_process):
    (tmp_path / "films").mkdir()
    for name in "123":
        (tmp_path / "films" / name).write_text("R")

    def delete(films):
        return nullcontext([film.path.unlink(missing_ok=True) for film in films if film.path.name == "2"])

    one_process(delete)
    summary = read(tmp_path / "films", tmp_path, "somewhere")
    assert (summary.read, summary.failed) == (2, 1)
    assert tables(tmp_path / "out")[1].decode().splitlines()[1:] == [
        f"{tmp_path / 'films' / '2'},No such file or directory"
    ]
    assert counts(tmp_path) == {"1": 1, "3": 1}


def test_a_node_that_does_not_see_the_films_is_an_error_and_fails_none(tmp_path, one_process):
    for name in ("here", "there"):
        (tmp_path / "films" / name).mkdir(parents=True)
        (tmp_path / "films" / name / "1").write_text("R")
    one_process(lambda films: unmounted(tmp_path / "films" / "there"))
    with pytest.raises(ClusterError, match=r"sees none of 1 films, as .*there/1.* under the same path\?"):
        read(tmp_path / "films", tmp_path, "somewhere")
    (tmp_path / "films" / "there" / "1").unlink()
    (tmp_path / "films" / "there" / "1").symlink_to("nowhere")  # the command does not see it either
    summary = read(tmp_path / "films", tmp_path, "somewhere")
    assert (summary.earlier, summary.read, summary.failed) == (1, 1, 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ray", "auto", "--jobs", "2"], "--jobs does not go with --ray"),
        (["--ray", "auto", "--device", "cuda"], "--device does not go with --ray"),
        (["--ray", "auto", "--attention", "hirescam"], "--attention does not go with --ray"),
        (["--ray", "auto", "--ray_gpus", "1.5"], "--ray_gpus a part of 1"),
        (["--ray_gpus", "1"], "act only with --ray"),
    ],
)
def test_options_that_do_not_go_together(words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["read", "x.dcm", "--out", "y", *words])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_without_pyarrow_it_is_said_how_to_install_it(films, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ClusterError, match=r"pip install '\.\[ray\]'"):
        read(films, tmp_path, "local")
    assert not (tmp_path / "out").exists()
