import os
from pathlib import Path

import pytest
import torch

from deepknee import weights
from deepknee.weights import WeightsError, find_graders, find_weights
from kneel.engine.snapshot import save_snapshot

TASKS = ("lc", "hc", "kl")


def put(path, task, fold=0, *, number=0.0, experiment=None, **meta):
    """A snapshot as training writes it; every number is another network."""
    path.parent.mkdir(parents=True, exist_ok=True)
    described = {"task": task, "experiment": experiment or {"task": task}, "fold": fold, **meta}
    save_snapshot(path, {"w": torch.full((1,), float(number))}, described)
    return path


def put_run(folder, folds=1, *, suffix="", tasks=TASKS, number=0.0):
    for task in tasks:
        for fold in range(folds):
            path = folder / f"{task}_demo{suffix}" / f"fold_{fold}" / "best.safetensors"
            put(path, task, fold, number=10 * number + fold)


@pytest.fixture
def places(tmp_path, monkeypatch):
    """An empty current folder and an empty checkout."""
    here, checkout = tmp_path / "here", tmp_path / "checkout"
    here.mkdir()
    (checkout / "deepknee").mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setattr(weights, "__file__", str(checkout / "deepknee" / "weights.py"))
    return here, checkout


def test_folds_of_an_experiment_are_an_ensemble(tmp_path):
    put_run(tmp_path, folds=11)
    found = find_weights(tmp_path)
    assert [path.parent.name for path in found.paths("hc")] == [f"fold_{fold}" for fold in range(11)]
    described = found.describe()
    assert described["kl"]["experiment"] == "kl_demo"
    assert described["kl"]["files"][3]["file"] == "kl_demo/fold_3/best.safetensors"
    assert len(described["lc"]["files"]) == 11
    assert str(found) == f"lc lc_demo x 11, hc hc_demo x 11, kl kl_demo x 11 (weights {found.id})"


def test_best_goes_before_last(tmp_path):
    put_run(tmp_path)
    put(tmp_path / "kl_demo" / "fold_0" / "last.safetensors", "kl", number=9, epoch=4, training={"epochs": 4})
    assert [path.name for path in find_weights(tmp_path).paths("kl")] == ["best.safetensors"]


def test_a_training_that_is_not_complete_is_refused_but_for_its_file_by_name(tmp_path):
    put_run(tmp_path)
    folder = tmp_path / "kl_demo" / "fold_0"
    last = put(folder / "last.safetensors", "kl", number=9, epoch=3, training={"epochs": 4})
    with pytest.raises(WeightsError, match=r"kl_demo/fold_0 is at epoch 3 of 4: finish it first"):
        find_weights(tmp_path)
    assert find_weights([folder / "best.safetensors"], ["kl"]).paths("kl") == [folder / "best.safetensors"]
    (folder / "best.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"fold_0 has last\.safetensors but no best\.safetensors: finish it first"):
        find_weights(tmp_path)
    assert find_weights([last], ["kl"]).paths("kl") == [last]


def test_an_unfinished_training_of_another_task_is_passed_over(tmp_path):
    put_run(tmp_path)
    put(tmp_path / "lc_demo" / "fold_1" / "best.safetensors", "lc", 1, number=1)
    put(tmp_path / "lc_demo" / "fold_1" / "last.safetensors", "lc", 1, number=2, epoch=3, training={"epochs": 4})
    assert len(find_graders([tmp_path])[1]) == 1
    assert len(find_weights(tmp_path, ["hc", "kl"]).snapshots) == 2
    (tmp_path / "lc_demo" / "fold_1" / "best.safetensors").unlink()
    assert len(find_graders([tmp_path])[1]) == 1
    with pytest.raises(WeightsError, match=r"lc_demo/fold_1 has last\.safetensors but no best"):
        find_weights(tmp_path)


def test_a_damaged_last_snapshot_needs_a_best_one_beside_it(tmp_path):
    put_run(tmp_path)
    best = tmp_path / "kl_demo" / "fold_0" / "best.safetensors"
    best.with_name("last.safetensors").write_bytes(b"no")
    assert find_weights(tmp_path).paths("kl") == [best]
    best.unlink()
    with pytest.raises(WeightsError, match=r"last\.safetensors: cut, damaged"):
        find_weights(tmp_path)


def test_copies_count_once(tmp_path):
    put_run(tmp_path / "a")
    put_run(tmp_path / "b")
    assert len(find_weights(tmp_path).snapshots) == 3


def test_identity_follows_the_networks_not_their_place(tmp_path):
    put_run(tmp_path / "a", folds=2)
    put_run(tmp_path / "b", folds=2)
    put_run(tmp_path / "c", folds=2, number=1)
    one, same, other = (find_weights(tmp_path / name).id for name in "abc")
    assert one == same != other


def test_release_files_in_one_folder_are_named_by_themselves(tmp_path):
    for fold in (0, 1):
        put(tmp_path / f"kl_siamese_fold_{fold}.safetensors", "kl", fold, number=fold)
    put(tmp_path / "lc.safetensors", "lc")
    put(tmp_path / "hc.safetensors", "hc", name="hc_wing")
    described = find_weights(tmp_path).describe()
    assert {task: what["experiment"] for task, what in described.items()} == {
        "lc": "lc",
        "hc": "hc_wing",
        "kl": "kl_siamese",
    }


@pytest.mark.parametrize("task", TASKS)
def test_missing_task_is_named(tmp_path, task):
    put_run(tmp_path, tasks=[other for other in TASKS if other != task])
    with pytest.raises(WeightsError, match=rf"no weights for .*\({task}\): train some with `make demo`"):
        find_weights(tmp_path)


def test_two_experiments_of_a_task_must_be_chosen_from(tmp_path):
    put_run(tmp_path)
    put_run(tmp_path, tasks=["kl"], suffix="_wide", number=1)
    with pytest.raises(WeightsError, match=r"kl_demo .* and kl_demo_wide .*--weights A --weights B"):
        find_weights(tmp_path)
    chosen = find_weights([tmp_path / name for name in ("lc_demo", "hc_demo", "kl_demo_wide")])
    assert chosen.describe()["kl"]["experiment"] == "kl_demo_wide"


def test_one_name_with_two_settings_is_refused(tmp_path):
    put_run(tmp_path)
    put(tmp_path / "kl_demo" / "fold_1" / "best.safetensors", "kl", 1, number=1, experiment={"width": 64})
    with pytest.raises(WeightsError, match="other settings"):
        find_weights(tmp_path)


def test_one_fold_twice_is_refused(tmp_path):
    put_run(tmp_path / "a")
    put_run(tmp_path / "b", number=1)
    with pytest.raises(WeightsError, match="are both fold 0 of lc_demo"):
        find_weights(tmp_path)


def test_damaged_snapshot_is_not_left_out(tmp_path):
    put_run(tmp_path)
    (tmp_path / "kl_demo" / "fold_1.safetensors").write_bytes(b"no")
    with pytest.raises(WeightsError, match=r"fold_1\.safetensors"):
        find_weights(tmp_path)


@pytest.mark.parametrize("find", [find_weights, find_graders])
def test_every_place_that_is_named_must_give_something(tmp_path, find):
    put_run(tmp_path / "runs")
    (tmp_path / "empty").mkdir()
    put_run(tmp_path / "other", tasks=["mask"])
    with pytest.raises(WeightsError, match="nowhere: no such file or folder"):
        find([tmp_path / "runs", tmp_path / "nowhere"])
    for name in ("empty", "other"):
        with pytest.raises(WeightsError, match=rf"{name}: no weights for .*KL grades \(kl\)"):
            find([tmp_path / "runs", tmp_path / name])


def test_a_place_for_another_task_than_the_asked_is_named(tmp_path):
    put_run(tmp_path)
    assert len(find_graders([tmp_path / "kl_demo"])[1]) == 1
    with pytest.raises(WeightsError, match=r"hc_demo: no weights for KL grades \(kl\)"):
        find_graders([tmp_path / "kl_demo", tmp_path / "hc_demo"])


def test_nothing_anywhere_says_how_to_get_some(places):
    with pytest.raises(WeightsError, match=r"no weights found in .*make demo.*--weights"):
        find_weights()


def test_a_run_that_is_not_finished_is_named(places):
    put_run(places[0] / "demo", tasks=["lc", "hc"])
    with pytest.raises(WeightsError, match=r"demo: no weights for KL grades \(kl\)"):
        find_weights()


def test_search_order(places):
    here, checkout = places
    put_run(checkout / "demo", number=1)
    assert _root(find_weights()) == checkout / "demo"
    put_run(checkout / "pretrained", number=2)
    assert _root(find_weights()) == checkout / "pretrained"
    (here / "pretrained").mkdir()
    (here / "pretrained" / "README.md").touch()
    assert _root(find_weights()) == checkout / "pretrained"
    put_run(here / "pretrained", number=3)
    assert _root(find_weights()) == here / "pretrained"


def test_newest_complete_demo_run(places):
    here, checkout = places
    put_run(here / "demo" / "runs", number=1)
    put_run(checkout / "workdir", number=2)
    put_run(here / "workdir", number=3, tasks=["lc", "kl"])
    _age(here / "demo", 300)
    _age(checkout / "workdir", 200)
    _age(here / "workdir", 100)
    assert _root(find_weights()) == checkout / "workdir"
    put_run(here / "demo" / "runs", suffix="_again", tasks=["kl"], number=4)
    with pytest.raises(WeightsError, match="two experiments for KL grades"):
        find_weights()


def test_a_training_that_runs_in_one_place_leaves_the_complete_run_of_another(places):
    here, _ = places
    put(here / "workdir" / "kl_demo" / "fold_0" / "last.safetensors", "kl", epoch=1, training={"epochs": 4})
    with pytest.raises(WeightsError, match=r"workdir/kl_demo/fold_0 has last\.safetensors but no best"):
        find_weights()
    put_run(here / "demo")
    _age(here / "demo", 300)
    assert _root(find_weights()) == here / "demo"


def _root(found) -> Path:
    return found.paths("lc")[0].parents[2]


def _age(folder: Path, seconds: int) -> None:
    for path in folder.rglob("*.safetensors"):
        os.utime(path, (1e9 - seconds, 1e9 - seconds))
