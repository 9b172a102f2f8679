"""Trainings that were stopped, finished or lost, and are started again."""

import os

import pytest
from fit_tasks import WRITTEN, Normed, Regression, contents, interrupt_at, run

from kneel.engine.record import ResumeError, RunExists
from kneel.engine.snapshot import load_snapshot, load_training_state, update_snapshot

pytestmark = pytest.mark.usefixtures("steady_code")


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("step", [1, 7, 13, 18])
def test_resume_after_a_kill_is_bit_exact(tmp_path, step, optimizer):
    changes = {"optimizer": optimizer, "momentum": 0.9 if optimizer == "sgd" else 0.0, "schedule": "cosine"}
    whole = run(tmp_path, "whole", **changes)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "parts", Regression(hook=interrupt_at(step)), **changes)
    parts = run(tmp_path, "parts", resume=True, **changes)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert (parts.best_epoch, parts.best_metric) == (whole.best_epoch, whole.best_metric)
    assert str(parts.history) == str(whole.history)


@pytest.mark.parametrize("epoch", [2, 3])
@pytest.mark.parametrize("file", WRITTEN)
def test_a_kill_before_any_file_is_renamed_is_made_good(tmp_path, monkeypatch, file, epoch):
    whole = run(tmp_path, "whole", epochs=3)
    assert whole.best_epoch == 3
    replace = os.replace
    count = 0

    def killed(source, target):
        nonlocal count
        count += target.name == file
        if target.name == file and count == epoch:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, "parts", epochs=3)
    assert load_snapshot(tmp_path / "parts" / "best.safetensors")[1]["epoch"] <= epoch
    run(tmp_path, "parts", resume=True, epochs=3)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_more_epochs_continue_a_step_schedule(tmp_path):
    whole = run(tmp_path, "whole", epochs=4, milestones=(1,))
    run(tmp_path, "parts", epochs=2, milestones=(1,))
    parts = run(tmp_path, "parts", resume=True, epochs=4, milestones=(1,))
    assert str(parts.history) == str(whole.history)
    assert (tmp_path / "parts" / "last.safetensors").read_bytes() == whole.path_last.read_bytes()


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    first = run(tmp_path)
    before = contents(tmp_path / "run")
    again = run(tmp_path, resume=True, threads=1)
    assert contents(tmp_path / "run") == before
    assert str(again) == str(first)


def test_resume_of_another_run_shows_the_difference(tmp_path):
    run(tmp_path, epochs=2, schedule="cosine")
    changes = {"epochs": 3, "schedule": "cosine", "learning_rate": 0.5}
    words = r"last.safetensors \(2 epochs\) is another run: training.epochs: stored 2, asked 3; "
    with pytest.raises(ResumeError, match=words + r"training.learning_rate: stored 0.02, asked 0.5$"):
        run(tmp_path, resume=True, **changes)
    other = Regression()
    other.describe = lambda: {"task": "regression", "model": {"hidden": 9}, "normalization": {"mean": [0.0]}}
    with pytest.raises(ResumeError, match=r"another run: model.hidden: stored 8, asked 9$"):
        run(tmp_path, task=other, resume=True, epochs=2, schedule="cosine")


def test_a_run_of_other_tables_is_not_gone_on_with_and_one_that_noted_none_is(tmp_path):
    def task(**more):
        made = Regression()
        described = made.describe()
        made.describe = lambda: described | more
        return made

    run(tmp_path, epochs=2)
    run(tmp_path, task=task(tables={"a.csv": "1" * 64}), resume=True, epochs=3)  # begun before tables were noted
    run(tmp_path, task=task(tables={"a.csv": "1" * 64, "b.csv": "3" * 64}), resume=True, epochs=3)
    with pytest.raises(
        ResumeError, match=r"another run: a.csv: is not as it was when this was trained \(sha256 then 1+,"
    ):
        run(tmp_path, task=task(tables={"a.csv": "2" * 64}), resume=True, epochs=4)


def test_a_step_run_is_not_cut_short(tmp_path):
    run(tmp_path, epochs=3)
    with pytest.raises(ResumeError, match=r"training.epochs: stored 3, asked 2"):
        run(tmp_path, resume=True, epochs=2)


def test_a_lost_best_snapshot_is_missed(tmp_path):
    result = run(tmp_path, learning_rate=0.9, optimizer="sgd", clip_norm=100.0, epochs=3)
    assert result.best_epoch < 3
    result.path_best.unlink()
    result.path_best.with_name("best.safetensors.previous").unlink()
    with pytest.raises(
        ResumeError, match=rf"best.safetensors is gone or damaged: epoch {result.best_epoch} was the best"
    ):
        run(tmp_path, resume=True, learning_rate=0.9, optimizer="sgd", clip_norm=100.0, epochs=3)


def test_a_run_is_never_overwritten_unasked(tmp_path):
    run(tmp_path, epochs=1)
    before = contents(tmp_path / "run")
    with pytest.raises(RunExists, match=r"run holds a run already .*--resume goes on with it, --overwrite replaces it"):
        run(tmp_path, epochs=2)
    assert contents(tmp_path / "run") == before
    assert len(run(tmp_path, epochs=2, overwrite=True).history) == 2
    with pytest.raises(ValueError, match="choose one"):
        run(tmp_path, resume=True, overwrite=True)
    for name in ("last.safetensors", "last.safetensors.previous"):
        (tmp_path / "run" / name).unlink()
    with pytest.raises(RunExists, match=r"no last\.safetensors to go on from; --overwrite replaces it"):
        run(tmp_path, resume=True)


def test_a_run_of_before_augment_on_is_not_gone_on_with_where_its_pictures_would_be_others(tmp_path):
    """A finished one is, and one whose data set never could leave its augmentation to the device."""
    for name, kind in (("deferring", Normed), ("plain", Regression)):
        run(tmp_path, name, kind(), epochs=2)
        path = tmp_path / name / "last.safetensors"
        training = load_snapshot(path)[1]["training"]
        update_snapshot(path, {"training": {key: value for key, value in training.items() if key != "augment_on"}})
        run(tmp_path, name, kind(), epochs=2, resume=True)
    run(tmp_path, "plain", Regression(), epochs=3, resume=True)
    with pytest.raises(
        ResumeError, match=r"last\.safetensors was begun when .* in another way; train.py --overwrite starts over"
    ):
        run(tmp_path, "deferring", Normed(), epochs=3, resume=True)


def test_a_board_sees_all_epochs_also_after_a_resume(tmp_path):
    shown, calls = [], []

    class Watcher:
        def show(self, rows, pictures):
            shown[:] = [(row["epoch"], row["loss"]) for row in rows]
            calls.append(len(rows))

    run(tmp_path, epochs=2)
    result = run(tmp_path, resume=True, epochs=3, board=Watcher())
    assert shown == [(row["epoch"], row["loss"]) for row in result.history]
    assert calls == [2, 3]


def test_last_state_holds_the_optimizer_exactly(tmp_path):
    result = run(tmp_path, epochs=1)
    tensors, state = load_training_state(result.path_last)
    assert float(tensors["optimizer/0/step"]) == 6.0  # 22 samples in batches of 4, the last with 2
    assert state["optimizer"]["param_groups"][0]["lr"] == 0.02
    assert not any("/" in key for key in load_snapshot(result.path_last)[0])


def test_what_others_added_to_the_best_snapshot_survives_a_rerun(tmp_path, caplog):
    """A temperature that was fitted afterwards is not lost when a finished training is started again."""
    result = run(tmp_path, epochs=1)
    update_snapshot(result.path_best, {"temperature": 0.7})
    again = run(tmp_path, epochs=1, resume=True)
    assert load_snapshot(again.path_best)[1]["temperature"] == 0.7
    again.path_best.write_bytes(again.path_best.read_bytes()[:-40])  # a broken one is written anew
    run(tmp_path, epochs=1, resume=True)
    assert "temperature" not in load_snapshot(again.path_best)[1]
    assert "calibrate it again" in caplog.text
