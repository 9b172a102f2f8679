"""The runner over fake trainings: order, retries, stops, and several runners on one folder."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from queue_tools import alive, fake, starts, until

from kneel.engine.queue.estimate import epoch_seconds
from kneel.engine.queue.jobs import PlanError
from kneel.engine.queue.live import Display, Row, Table
from kneel.engine.queue.locks import Watch
from kneel.engine.queue.report import describe, refuse
from kneel.engine.queue.runner import Options, Runner
from kneel.engine.queue.state import JobState, epochs_over
from kneel.engine.queue.workers import Slot, run_job, slots

BAD = "sys.exit('no such film')"


class Silent(Display):
    """Keeps what it is told."""

    def __init__(self):
        self.events, self.drawn = [], []

    def event(self, words):
        self.events.append(words)

    def draw(self, rows, counts, seconds_left):
        self.drawn.append((rows, counts, seconds_left))


def run(jobs, number=1, **options):
    display = Silent()
    report = Runner(jobs, [Slot("cpu")] * number, display, Options(**options)).run()
    return report, display


def order(display):
    return [words.split()[1].rstrip(",") for words in display.events if words.startswith("start")]


def test_the_longest_chain_starts_first(tmp_path):
    jobs = [
        fake(tmp_path, "short", workload=1),
        fake(tmp_path, "long", workload=5),
        fake(tmp_path, "source", workload=1),
        fake(tmp_path, "follower", workload=9, after="source/fold_0"),
    ]
    report, display = run(jobs)
    assert order(display) == ["source", "follower", "long", "short"]
    assert [job.name for job in report.done] == ["source", "follower", "long", "short"]
    assert describe(report) == ""


def test_what_was_measured_counts_more_than_the_guess(tmp_path):
    """Fold 0 of each has run: the one whose epochs took longer comes first, whatever was guessed."""
    slow = [fake(tmp_path, "slow", fold, workload=1) for fold in (0, 1)]
    quick = [fake(tmp_path, "quick", fold, workload=100) for fold in (0, 1)]
    for job, seconds in ((slow[0], 60.0), (quick[0], 6.0)):
        job.folder.mkdir(parents=True)
        JobState("done", epochs=3, seconds=seconds).write(job.folder)
    assert epoch_seconds([*slow, *quick]) == {"slow": 20.0, "quick": 2.0}
    assert order(run([*quick, *slow])[1]) == ["slow", "quick"]


def test_a_follower_waits_for_its_own_fold_only_and_a_failed_fold_blocks_no_other(tmp_path):
    sources = [fake(tmp_path, "lc", fold, end=BAD if fold == 1 else "", workload=9 - fold) for fold in range(3)]
    followers = [fake(tmp_path, "hc", fold, after=f"lc/fold_{fold}") for fold in range(3)]
    last = fake(tmp_path, "kl", 1, after="hc/fold_1")
    report, _ = run([*followers, last, *sources], retries=0)
    assert [job.key for job in report.failed] == ["lc/fold_1"]
    assert sorted(report.blocked.values()) == ["not begun, lc, fold 1 failed"] * 2
    assert {job.key for job in report.blocked} == {"hc/fold_1", "kl/fold_1"}
    assert {job.key for job in report.done} == {"lc/fold_0", "lc/fold_2", "hc/fold_0", "hc/fold_2"}
    with_two, _ = run([fake(tmp_path / "2", "lc", 0, seconds=0.3), fake(tmp_path / "2", "lc", 1)], number=2)
    assert len(with_two.done) == 2


def test_a_follower_starts_while_other_folds_of_its_source_still_run(tmp_path):
    sources = [fake(tmp_path, "lc", fold, epochs=1, seconds=0 if fold else 2.0) for fold in (0, 1)]
    follower = fake(tmp_path, "hc", 1, after="lc/fold_1")
    _, display = run([*sources, follower], number=2)
    words = [event.partition(" on ")[0] for event in display.events]
    assert words.index("start  hc, fold 1,") < words.index("done   lc, fold 0,")


@pytest.mark.parametrize(("end", "tried"), [(BAD, 3), ("sys.exit(2)", 1)])
def test_failures_are_tried_again_so_often_and_told_once(tmp_path, end, tried):
    jobs = [fake(tmp_path, "bad", fold, end=end) for fold in (0, 1)]
    report, _ = run([*jobs, fake(tmp_path, "good")], retries=2)
    assert [len(starts(job)) for job in jobs] == [tried, tried]
    assert [job.name for job in report.done] == ["good"]
    words = describe(report)
    assert words.count("failed: bad, fold 0 1") == 1
    assert "    the last words" in words
    again, _ = run(jobs, retries=0)  # a later runner has its own tries
    assert [len(starts(job)) for job in jobs] == [tried + 1] * 2
    assert len(again.failed) == 2


def test_a_failure_that_passes_is_forgotten(tmp_path):
    job = fake(tmp_path, end="sys.exit(0 if (folder / 'starts').read_text().count(chr(10)) > 1 else 'once')")
    report, display = run([job])
    assert [done.key for done in report.done] == ["a/fold_0"]
    assert any("is tried again" in words for words in display.events)
    assert JobState.read(job.folder).failures == 0


def test_a_second_runner_starts_nothing_that_is_done(tmp_path):
    jobs = [fake(tmp_path, "a"), fake(tmp_path, "b", after="a/fold_0")]
    run(jobs)
    report, display = run(jobs)
    assert len(report.done) == 2
    assert display.events == ["done   2 of 2 job(s), before"]
    assert [len(starts(job)) for job in jobs] == [1, 1]


def test_other_settings_are_refused_before_anything_starts(tmp_path):
    jobs = [fake(tmp_path, "a", fold, settings={"training": {"seed": 1}}) for fold in (0, 1)]
    for job in jobs:
        job.folder.mkdir(parents=True)
        (job.folder / "last.json").write_text(json.dumps({"training": {"seed": 2}, "epoch": 3}))
    with pytest.raises(PlanError, match=r"a, fold 0 1 .*\n    training.seed: stored 2, asked 1") as caught:
        refuse([*jobs, fake(tmp_path, "b")])
    assert str(caught.value).count("training.seed") == 1


def test_devices_and_threads_are_shared_out(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert slots(["cpu"], 1) == [Slot("cpu", None)]
    assert slots(["0", "3"], 2) == [Slot("0", 2), Slot("3", 2), Slot("0", 2), Slot("3", 2)]
    assert slots(["cpu"], 16)[0].threads == 1
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert Slot("cpu", 3).environment()["OMP_NUM_THREADS"] == "3"
    assert Slot("cpu", 3).environment()["CUDA_VISIBLE_DEVICES"] == ""
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert "OMP_NUM_THREADS" not in Slot("cpu", 3).environment()


def test_the_table_is_told_job_device_epoch_metric_and_time(tmp_path):
    before = fake(tmp_path, "a", 0, epochs=2, seconds=0.05)
    run([before])
    _, display = run([before, fake(tmp_path, "a", 1, epochs=6, seconds=0.5)])
    rows = [rows[0] for rows, _, _ in display.drawn if rows]
    assert {(row.job, row.device, row.epochs, row.monitor) for row in rows} == {("a, fold 1", "cpu", 6, "error")}
    assert rows[0].seconds_left is not None  # from fold 0, before an epoch of its own was over
    assert any(0 < row.epoch < 6 for row in rows)
    assert all(row.metric == pytest.approx(1 / row.epoch) for row in rows if row.epoch)
    assert rows[0].seconds_left > 0
    assert display.drawn[-1][1]["done"] == 2


def test_the_table_is_drawn(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("LINES", "9")
    rows = [Row(f"wing, fold {fold}", "7", 2, 3, "error_mm", 0.51234, 3725) for fold in range(5)]
    with Table() as table:
        table.event("start  wing, fold 0")
        table.draw(rows, {"done": 4, "running": 5, "failed": 0}, 90000)
        shown = capsys.readouterr().out
        table.draw([], {"done": 9}, None)
    for words in ("start  wing, fold 0", "wing, fold 2", " 7 ", "2/3", "error_mm 0.5123", "1 h 02 min"):
        assert words in shown
    assert "wing, fold 3" not in shown  # no room on nine lines
    assert "2 more run, 4 done, 5 running; all done in 1 d 01 h" in shown
    assert "done" in capsys.readouterr().out


# a runner in a process of its own over fakes: name, fold, epochs, seconds, end
RUNNER = """
import json, pathlib, sys
sys.path.insert(0, sys.argv[1])
from queue_tools import fake
from kneel.engine.queue.live import Display
from kneel.engine.queue.runner import Options, Runner
from kneel.engine.queue.workers import Slot
jobs = [fake(sys.argv[2], name, fold, epochs=epochs, seconds=seconds, end=end)
        for name, fold, epochs, seconds, end in json.loads(sys.argv[3])]
report = Runner(jobs, [Slot("cpu")] * 2, Display(), Options(grace=5)).run()
print(len(report.done), len(report.left), report.stopped_by, flush=True)
"""


def runner(tmp_path, jobs):
    command = [sys.executable, "-c", RUNNER, os.path.dirname(__file__), str(tmp_path), json.dumps(jobs)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_runner_stops_its_children_and_another_goes_on(tmp_path, number):
    process = runner(tmp_path, [["a", fold, 200, 0.05, ""] for fold in range(3)])
    jobs = [fake(tmp_path, "a", fold, epochs=200) for fold in range(3)]
    until(lambda: sum(epochs_over(job.folder) >= 2 for job in jobs) == 2)
    process.send_signal(number)
    words, _ = process.communicate(timeout=20)
    assert words.splitlines()[-1] == f"0 3 {int(number)}"
    assert sorted(JobState.read(job.folder).state for job in jobs[:2]) == ["interrupted"] * 2
    assert not any(alive(pid) for job in jobs for _, pid in starts(job))
    over = [epochs_over(job.folder) for job in jobs]
    assert len(run(jobs, number=2)[0].done) == 3
    assert [starts(job)[-1][0] for job in jobs] == over


def test_two_runners_share_the_jobs_and_one_killed_loses_none(tmp_path):
    """SIGKILL to one of three runners in the middle: every job ends once, no epoch runs twice at a time."""
    plan = [["a", fold, 10, 0.03, ""] for fold in range(12)]
    jobs = [fake(tmp_path, "a", fold, epochs=10) for fold in range(12)]
    runners = [runner(tmp_path, plan) for _ in range(3)]
    until(lambda: sum(bool(starts(job)) for job in jobs) >= 5)
    runners[0].kill()
    runners[0].communicate()
    for process in runners[1:]:
        words, _ = process.communicate(timeout=60)
        assert words.splitlines()[-1] == "12 0 None"
    for job in jobs:
        assert JobState.read(job.folder).state == "done"
        begun = [epochs for epochs, _ in starts(job)]
        assert begun == sorted(begun)
        assert len(begun) <= 2  # twice is only what the killed runner had
    assert sum(len(starts(job)) for job in jobs) <= 14


def test_two_runners_spend_the_retries_together(tmp_path):
    plan = [["bad", 0, 1, 0.2, BAD]]
    runners = [runner(tmp_path, plan) for _ in range(2)]
    for process in runners:
        process.communicate(timeout=60)
    assert len(starts(fake(tmp_path, "bad"))) == 2


def test_not_waiting_leaves_the_jobs_of_others(tmp_path):
    other = Watch().acquire(fake(tmp_path, "a").folder)
    jobs = [fake(tmp_path, "a"), fake(tmp_path, "b", after="a/fold_0"), fake(tmp_path, "c")]
    report, display = run(jobs, wait=False)
    assert [job.name for job in report.done] == ["c"]
    assert [job.name for job in report.left] == ["a", "b"]
    assert "2 job(s) not done: left to other runners" in describe(report)
    assert any(words.startswith("wait   a, fold 0: held by process") for words in display.events)
    other.release()
    assert len(run(jobs, wait=False)[0].done) == 3


def test_a_job_that_another_runner_ends_is_waited_for(tmp_path):
    job = fake(tmp_path, "a", epochs=5, seconds=0.1)
    thread = threading.Thread(target=run_job, args=(job, Slot("cpu"), Watch()))
    thread.start()
    until(lambda: starts(job))
    report, display = run([job, fake(tmp_path, "b", after=job.key)])
    thread.join()
    assert len(report.done) == 2
    assert "done   a, fold 0, by another runner" in display.events
    assert len(starts(job)) == 1
