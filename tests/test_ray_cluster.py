"""How much of a cluster's work fits on its nodes: counted without Ray."""

import signal
import socket
import sys
from collections import Counter
from types import SimpleNamespace

import pytest
from queue_tools import fake

from kneel.engine import ray_cluster
from kneel.engine.queue import ray_jobs
from kneel.engine.queue.locks import Lock, Watch
from kneel.engine.queue.ray_jobs import RayAttempt, RayStart, run_here
from kneel.engine.queue.workers import Outcome, Slot
from kneel.engine.ray_cluster import ClusterError, Share, connected, slots

NODES = [{"CPU": 7.0, "GPU": 2.0}, {"CPU": 7.0}, {"CPU": 64.0, "GPU": 8.0}]


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes that live and one that does not."""
    nodes = [{"Resources": have, "Alive": alive} for have, alive in zip(NODES, (True, True, False), strict=True)]
    monkeypatch.setattr(ray_cluster, "load_ray", lambda: SimpleNamespace(nodes=lambda: nodes))


def test_an_address_where_nothing_listens_is_refused_before_ray_tries(monkeypatch):
    monkeypatch.setattr(ray_cluster, "load_ray", lambda: SimpleNamespace(is_initialized=lambda: False))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(ClusterError, match=f"no Ray cluster at {address}: .*refused"), connected(address):
        pass


@pytest.mark.parametrize("comes", ["while Ray connects", "later"])
def test_sigterm_does_what_it_did_before_ray_set_its_own_handler(monkeypatch, comes):
    heard = []

    def init(**_):
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))  # as Ray does
        if comes == "while Ray connects":
            signal.raise_signal(signal.SIGTERM)

    fake_ray = SimpleNamespace(is_initialized=lambda: False, init=init, shutdown=lambda: None)
    monkeypatch.setattr(ray_cluster, "load_ray", lambda: fake_ray)

    def hear(number, _):
        heard.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, hear)
    try:
        with pytest.raises(KeyboardInterrupt), connected("local"):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("share", "count"),
    [
        (Share(1, 0), 14),
        (Share(4, 0), 2),  # 14 cores, but no job spans nodes
        (Share(1, 1), 2),
        (Share(1, 0.5), 4),
        (Share(4, 0.5), 1),
        (Share(0.1, 0), 140),  # 7 / 0.1 is a little less than 70
    ],
)
def test_places_are_counted_node_by_node(share, count):
    assert slots(share) == count


@pytest.mark.usefixtures("cluster")
def test_what_fits_on_no_node_is_refused_and_not_waited_for():
    with pytest.raises(ClusterError, match="no node has 8 cores and 0 GPUs for one job: they have 7 cores and 2 GPUs"):
        slots(Share(8, 0))
    with pytest.raises(ClusterError, match="no node has 1 cores and 3 GPUs"):
        slots(Share(1, 3))


def test_done_is_believed_once_this_machine_sees_it(tmp_path, monkeypatch):
    attempt = RayAttempt(fake(tmp_path, "a"), Slot("ray 0"), None, None, Counter())
    assert attempt._seen(Outcome("failed", "no such film")) == Outcome("failed", "no such film")
    assert attempt._seen(Outcome("done")) is None  # a shared folder may lag behind
    monkeypatch.setattr(ray_jobs, "is_done", lambda job, source: True)
    assert attempt._seen(Outcome("done")) == Outcome("done")
    monkeypatch.setattr(ray_jobs, "is_done", lambda job, source: False)
    monkeypatch.setattr(ray_jobs, "_LAG_SECONDS", 0.0)
    lost = attempt._seen(Outcome("done"))
    assert lost is not None
    assert lost.hopeless
    assert "do both see the same WORKDIR?" in lost.reason


def test_a_job_that_another_runner_has_keeps_no_place_of_the_cluster(tmp_path, monkeypatch):
    sent = []
    task = SimpleNamespace(remote=lambda job, *_: sent.append(job))
    monkeypatch.setattr(ray_jobs, "load_ray", lambda: SimpleNamespace(remote=lambda **_: lambda function: task))
    start, job, watch = RayStart(Share()), fake(tmp_path, "a"), Watch()
    lock = Watch().acquire(job.folder)
    busy = start(job, Slot("ray 0"), watch)
    assert (busy.state, sent) == ("busy", [])
    lock.release()
    assert isinstance(start(job, Slot("ray 0"), watch), RayAttempt)
    assert sent == [job]
    assert isinstance(Watch().acquire(job.folder), Lock), "free for the node"


def test_a_call_to_stop_while_a_job_is_started_is_heard_and_its_lock_given_back(tmp_path, monkeypatch):
    job, begin = fake(tmp_path, "a", epochs=1000, seconds=0.1), ray_jobs.start_job

    def begin_and_stop(*arguments, **more):
        signal.raise_signal(signal.SIGINT)
        return begin(*arguments, **more)

    monkeypatch.setattr(ray_jobs, "start_job", begin_and_stop)
    before = signal.getsignal(signal.SIGINT)
    try:
        assert run_here(job, Share(), None, 5.0).state == "interrupted"
    finally:
        signal.signal(signal.SIGINT, before)
    assert isinstance(Watch().acquire(job.folder), Lock)
