"""One job from its lock to its state, and the same when somebody is killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from queue_tools import alive, fake, starts, until

from kneel.engine.queue.jobs import PlanError, chain_lengths, check
from kneel.engine.queue.locks import Owner, Watch
from kneel.engine.queue.state import JobState, epochs_over, is_done, last_lines, last_metric, refusals
from kneel.engine.queue.workers import Slot, run_job, start_job

CPU = Slot("cpu")


def test_a_job_runs_once_and_leaves_log_and_state(tmp_path):
    job = fake(tmp_path, settings={"training": {"epochs": 2, "threads": 1}}, products=("metrics.csv",))
    assert run_job(job, Slot("3", 2), Watch()).state == "done"
    state = JobState.read(job.folder)
    assert (state.state, state.attempt, state.epochs, state.exit, state.device) == ("done", 1, 2, 0, "3")
    assert state.seconds > 0
    assert state.started <= state.ended
    assert (epochs_over(job.folder), last_metric(job)) == (2, 0.5)
    assert last_lines(job.folder)[1:] == ["the last words"]
    assert (job.folder / "starts").read_text().split()[2] == "3"
    assert is_done(job)
    assert run_job(job, CPU, Watch()).state == "done"
    assert len(starts(job)) == 1


@pytest.mark.parametrize("change", ["settings", "product", "state"])
def test_what_is_not_quite_done_is_started_again(tmp_path, change):
    job = fake(tmp_path, settings={"training": {"epochs": 2}}, products=("metrics.csv",))
    run_job(job, CPU, Watch())
    if change == "settings":
        job = fake(tmp_path, epochs=3, settings={"training": {"epochs": 3}}, products=("metrics.csv",))
    elif change == "product":
        (job.folder / "metrics.csv").unlink()
    else:
        (job.folder / "job.json").write_text("{ cut")
    assert run_job(job, CPU, Watch()).state == "done"
    assert len(starts(job)) == 2


def test_other_threads_are_no_other_run(tmp_path):
    job = fake(tmp_path, settings={"training": {"epochs": 2, "threads": 1}})
    run_job(job, CPU, Watch())
    assert is_done(fake(tmp_path, settings={"training": {"epochs": 2, "threads": None}}))


def test_a_follower_is_undone_by_a_later_run_of_its_source(tmp_path):
    source = fake(tmp_path, "lc")
    job = fake(tmp_path, "hc", after=source.key)
    run_job(source, CPU, Watch())
    run_job(job, CPU, Watch(), source=source)
    assert is_done(job, source)
    content = json.loads((source.folder / "job.json").read_text())
    (source.folder / "job.json").write_text(json.dumps(content | {"ended": "2999-01-01T00:00:00+00:00"}))
    assert not is_done(job, source)


@pytest.mark.parametrize(
    ("end", "reason", "hopeless"),
    [
        ("sys.exit('no such film')", "no such film", False),
        ("print('bad key'); sys.exit(2)", "bad key", True),
        ("os.kill(os.getpid(), 9)", "killed by SIGKILL", False),
    ],
)
def test_a_failure_says_why(tmp_path, end, reason, hopeless):
    job = fake(tmp_path, end=end)
    outcome = run_job(job, CPU, Watch())
    assert (outcome.state, outcome.reason, outcome.hopeless) == ("failed", reason, hopeless)
    assert JobState.read(job.folder).reason == reason


def test_a_job_that_somebody_has_is_left_alone(tmp_path):
    job = fake(tmp_path, epochs=1000, seconds=0.02)
    attempt = start_job(job, CPU, Watch())
    other = run_job(job, CPU, Watch(stale_after=0.0))
    assert other.state == "busy"
    assert f"process {os.getpid()} on " in other.reason
    attempt.stop()  # at once: perhaps before it runs
    assert attempt.wait().state == "interrupted"


def test_stopping_is_clean_and_resumable(tmp_path):
    """Nothing that it started is left: not the child, nor the grandchild that left its group."""
    leave = (
        "import subprocess; print('pid', subprocess.Popen(['setsid', 'sleep', '1000']).pid, flush=True); time.sleep(99)"
    )
    job = fake(tmp_path, epochs=3, end=leave)
    attempt = start_job(job, CPU, Watch())
    grandchild = until(lambda: [int(line[4:]) for line in last_lines(job.folder) if line.startswith("pid ")])[0]
    [[_, child]] = starts(job)
    assert alive(child)
    assert alive(grandchild)
    attempt.stop()
    assert attempt.wait().state == "interrupted"
    assert not alive(child)
    assert not alive(grandchild)
    assert JobState.read(job.folder).state == "interrupted"
    again = fake(tmp_path, epochs=5)
    assert run_job(again, CPU, Watch()).state == "done"
    assert [epochs for epochs, _ in starts(job)] == [0, 3]


@pytest.mark.parametrize("how", ["deaf", "stopped"])
def test_a_job_that_does_not_hear_is_killed(tmp_path, how):
    deaf = "import signal; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(1000)"
    job = fake(tmp_path, end=deaf)
    attempt = start_job(job, CPU, Watch(), grace=0.2)
    until(lambda: "deaf" in last_lines(job.folder))
    [[_, child]] = starts(job)
    if how == "stopped":
        os.kill(child, signal.SIGSTOP)
    attempt.stop()
    assert attempt.wait().state == "interrupted"
    assert not alive(child)


# a runner of one job; its keeper and its job are processes of their own
RUNNER = """
import json, pathlib, sys
from kneel.engine.queue.jobs import Job
from kneel.engine.queue.locks import Watch
from kneel.engine.queue.workers import Slot, run_job
name, folder, command = json.loads(sys.argv[1])
print(run_job(Job(name, 0, pathlib.Path(folder), tuple(command)), Slot("cpu"), Watch()).state)
"""


def runner(job):
    words = json.dumps([job.name, str(job.folder), list(job.command)])
    return subprocess.Popen([sys.executable, "-c", RUNNER, words], stdout=subprocess.PIPE, text=True)


def children(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize("victim", ["runner", "keeper", "job"])
def test_whoever_is_killed_nothing_runs_on_and_the_next_goes_on(tmp_path, victim):
    job = fake(tmp_path, epochs=1000, seconds=0.02)
    process = runner(job)
    until(lambda: epochs_over(job.folder) >= 3)
    [[_, training]] = starts(job)
    [keeper] = children(process.pid)
    os.kill({"runner": process.pid, "keeper": keeper, "job": training}[victim], signal.SIGKILL)
    words, _ = process.communicate(timeout=20)
    assert words == {"runner": "", "keeper": "failed\n", "job": "failed\n"}[victim]
    until(lambda: not alive(training) and not alive(keeper))
    state = JobState.read(job.folder).state
    assert state == {"runner": "interrupted", "keeper": "running", "job": "failed"}[victim]
    over = epochs_over(job.folder)
    assert run_job(fake(tmp_path, epochs=over + 2), CPU, Watch()).state == "done"
    assert [epochs for epochs, _ in starts(job)] == [0, over]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_stopped_runner_stops_no_job_and_loses_none(tmp_path):
    job = fake(tmp_path, epochs=30, seconds=0.02)
    process = runner(job)
    until(lambda: epochs_over(job.folder) >= 1)
    process.send_signal(signal.SIGSTOP)
    assert run_job(job, CPU, Watch(stale_after=0.0)).state == "busy"
    until(lambda: JobState.read(job.folder).state == "done")
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=20)[0] == "done\n"
    assert len(starts(job)) == 1


def test_a_keeper_that_lost_its_folder_kills_its_job_and_writes_nothing(tmp_path):
    """It slept on a machine that another one took for dead; here its job is the one that went on."""
    job = fake(tmp_path, epochs=1000, seconds=0.02)
    attempt = start_job(job, CPU, Watch())
    until(lambda: epochs_over(job.folder) >= 1)
    [[_, training]] = starts(job)
    theirs = job.folder / ".lock" / "2"
    theirs.write_text(json.dumps({"machine": "m", "host": "elsewhere", "pid": 7}))
    outcome = attempt.wait()
    assert outcome.state == "busy"
    assert not alive(training)
    assert JobState.read(job.folder).state == "running"  # theirs to write


def test_the_stored_run_of_another_experiment_is_refused_with_the_difference(tmp_path):
    job = fake(tmp_path, settings={"task": "hc", "training": {"schedule": "step", "epochs": 5, "seed": 1}})
    assert refusals(job) == []  # nothing stored
    job.folder.mkdir(parents=True)
    stored = {"task": "hc", "training": {"schedule": "step", "epochs": 3, "seed": 2}, "epoch": 3, "code": "any"}
    (job.folder / "last.json").write_text(json.dumps(stored))
    assert refusals(job) == ["training.seed: stored 2, asked 1"]
    shorter = fake(tmp_path, settings={"training": {"schedule": "step", "epochs": 2, "seed": 2}})
    assert refusals(shorter) == ["training.epochs: stored 3, asked 2"]


def test_two_jobs_of_one_name_and_circles_are_refused(tmp_path):
    with pytest.raises(PlanError, match="two experiments of the name a"):
        check([fake(tmp_path), fake(tmp_path, epochs=3)])
    with pytest.raises(PlanError, match="a/fold_0 -> b/fold_0 -> a/fold_0"):
        check([fake(tmp_path, "a", after="b/fold_0"), fake(tmp_path, "b", after="a/fold_0")])
    check([fake(tmp_path, "a", after="elsewhere/fold_0")])


def test_chains_count_from_their_start(tmp_path):
    jobs = [fake(tmp_path, "a"), fake(tmp_path, "b", after="a/fold_0"), fake(tmp_path, "c", after="b/fold_0")]
    jobs.append(fake(tmp_path, "d", after="a/fold_0"))
    seconds = {"a/fold_0": 1.0, "b/fold_0": 2.0, "c/fold_0": 4.0, "d/fold_0": 16.0}
    assert chain_lengths(jobs, seconds) == {"a/fold_0": 17.0, "b/fold_0": 6.0, "c/fold_0": 4.0, "d/fold_0": 16.0}


def test_the_owner_is_named():
    assert str(Owner("m", "host", 3)) == "process 3 on host"
