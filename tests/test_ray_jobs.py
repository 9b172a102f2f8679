"""The queue on a real Ray cluster of two nodes: two raylets on this machine."""

import csv
import os
import signal
import threading

import pytest
import ray_nodes  # noqa: F401  (before Ray: it says where Ray may listen)
from queue_tools import alive, fake, starts, until

from kneel.engine.queue.live import Display
from kneel.engine.queue.runner import Options, Runner
from kneel.engine.queue.state import JobState
from kneel.engine.queue.workers import Slot
from kneel.engine.ray_cluster import Share, slots

pytest.importorskip("ray", reason="Ray is an extra: pip install '.[ray]'")
pytestmark = pytest.mark.slow


def run(jobs, **options):
    from kneel.engine.queue.ray_jobs import RayStart

    places = [Slot(f"ray {number}") for number in range(slots(Share()))]
    return Runner(jobs, places, Display(), Options(**options), start=RayStart(Share())).run()


def epochs(job):
    with (job.folder / "metrics.csv").open() as file:
        return [row["epoch"] for row in csv.DictReader(file)]


def test_jobs_are_done_once_and_in_order(two_nodes, tmp_path):
    jobs = [fake(tmp_path, "a", fold) for fold in range(3)]
    jobs += [fake(tmp_path, "after", after="a/fold_1"), fake(tmp_path, "bad", end="sys.exit('no such film')")]
    report = run(jobs, retries=1)
    assert report.done.index(jobs[3]) > report.done.index(jobs[1])
    assert len(report.done) == 4
    assert list(report.failed.values()) == ["no such film"]
    assert [len(starts(job)) for job in jobs] == [1, 1, 1, 1, 2]
    assert JobState.read(jobs[0].folder).device == "cpu"
    assert run(jobs[:4]).done == jobs[:4]
    assert [len(starts(job)) for job in jobs[:4]] == [1] * 4


def test_a_node_killed_in_mid_training_loses_nothing(two_nodes, tmp_path, capfd):
    node = two_nodes.add()
    jobs = [fake(tmp_path, "a", fold, epochs=40, seconds=0.1) for fold in range(slots(Share()))]
    began = {}

    def kill():
        until(lambda: all((job.folder / "metrics.csv").exists() for job in jobs), 120)
        began.update({job: starts(job)[0][1] for job in jobs})
        two_nodes.kill(node)

    killer = threading.Thread(target=kill)
    killer.start()
    report = run(jobs)
    killer.join()
    assert sorted(map(str, report.done)) == sorted(map(str, jobs))
    assert [epochs(job) for job in jobs] == [[str(epoch) for epoch in range(1, 41)]] * len(jobs)
    again = [starts(job) for job in jobs if len(starts(job)) > 1]
    assert len(again) == 1, "one job was on the node, and was started once more"
    assert 0 < again[0][1][0] < 40, "it went on where it had been"
    assert not any(map(alive, began.values()))


def test_a_runner_that_is_stopped_stops_the_jobs_on_the_cluster(two_nodes, tmp_path):
    """Also on nodes that were told to ignore SIGINT, as these were (`ray_nodes`)."""
    jobs = [fake(tmp_path, "a", fold, epochs=1000, seconds=0.1) for fold in range(2)]

    def stop():
        until(lambda: all((job.folder / "metrics.csv").exists() for job in jobs), 120)
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop)
    stopper.start()
    report = run(jobs)
    stopper.join()
    assert (report.stopped_by, len(report.left)) == (signal.SIGTERM, 2)
    assert not any(alive(starts(job)[0][1]) for job in jobs)
    assert {JobState.read(job.folder).state for job in jobs} == {"interrupted"}
