import copy
import json
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from kneel.dataset import LandmarkSample
from kneel.engine.config import ConfigError
from kneel.engine.fit import fit
from kneel.engine.folds import LeakageError, subject_marks
from kneel.engine.snapshot import load_snapshot, update_snapshot
from kneel.engine.transfer import RunUnfinished, weights_digest
from kneel.experiment import LandmarkExperiment
from kneel.metrics import error_summary, radial_errors
from kneel.network import build_network
from kneel.phantom.cohort import write_cohort
from kneel.stage import Stage
from kneel.train import LandmarkTask, train_landmarks

NOWHERE = Path("nowhere")  # a data root that no file is below: samples are set by hand
SETTINGS = {
    "task": "lc",
    "data": {"source": "phantom"},
    "roi": {"spacing_mm": 2.0, "size": (64, 64)},
    "model": {"width": 8, "depth": 2, "dropout": 0.0},
    "training": {"epochs": 1, "batch_size": 8, "learning_rate": 3e-3, "monitor": "error_mm", "mode": "min"},
}


def experiment(**changes):
    return LandmarkExperiment.model_validate({**SETTINGS, **changes})


def spot_samples(count, seed, landmarks=1):
    """Pictures with a bright spot; every landmark is its centre."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    samples = []
    for number in range(count):
        center = rng.uniform(14, 50, 2)
        picture = 200 * np.exp(-((x - center[0]) ** 2 + (y - center[1]) ** 2) / 40) + rng.uniform(0, 40, (64, 64))
        samples.append(
            LandmarkSample(picture.astype(np.uint8), np.tile(center, (landmarks, 1)), f"{seed}-{number}", "R", 0)
        )
    return samples


def task_with(train, val, **changes):
    task = LandmarkTask(experiment(**changes), NOWHERE, name="spots")
    task.__dict__["samples"] = (train, val)  # in place of the cached property, which would read files
    return task


@pytest.mark.slow
def test_a_spot_is_learnt_to_within_a_pixel():
    torch.manual_seed(0)
    task = task_with(spot_samples(96, 1), spot_samples(24, 2), loss={"spread": 0.1})
    net = task.build_model()
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    train, val = (torch.utils.data.default_collate([data[i] for i in range(len(data))]) for data in datasets(task))
    for _ in range(12):
        for rows in torch.randperm(96).split(16):
            optimizer.zero_grad()
            sum(task.training_loss(net, {key: value[rows] for key, value in train.items()})).backward()
            optimizer.step()
    net.eval()
    with torch.no_grad():
        outputs = {key: value.numpy() for key, value in task.predict(net, val).items()}
    metrics = task.metrics(outputs)
    assert metrics["error_mm"] < 2.0  # one pixel of 2 mm; the answer "in the middle" is off by 29 mm
    assert metrics["error_mm"] == pytest.approx(radial_errors(outputs["points"], outputs["truth"], 2.0).mean())


def datasets(task):
    return task.train_dataset(), task.val_dataset()


def first_loss(settings):
    """Loss of the first batch, while training, with every draw the same."""
    samples = spot_samples(4, 1)
    task = task_with(samples, samples, **settings)
    torch.manual_seed(0)
    net = task.build_model().train()
    batch = torch.utils.data.default_collate([task.val_dataset()[i] for i in range(4)])
    torch.manual_seed(1)
    return float(sum(task.training_loss(net, batch)).detach())


ELASTIC, ROBUST, MIXUP = {"kind": "elastic"}, {"kind": "robust"}, {"alpha": 0.75, "variant": "kneel"}


@pytest.mark.parametrize(
    ("plain", "changed"),
    [
        ({}, {"loss": {"width": 5.0}}),
        ({}, {"loss": {"curvature": 1.0}}),
        ({}, {"loss": {"spread": 1.0}}),
        ({}, {"loss": {"kind": "l1"}}),
        ({}, {"loss": {"kind": "l2"}}),
        ({"loss": {"kind": "l1"}}, {"loss": ELASTIC}),
        ({"loss": {"kind": "l2"}}, {"loss": ELASTIC}),
        ({"loss": ELASTIC}, {"loss": ELASTIC | {"l2_share": 0.3}}),
        ({"loss": {"kind": "l1"}}, {"loss": ROBUST}),
        ({"loss": ROBUST}, {"loss": ROBUST | {"alpha_init": 0.5}}),
        ({"loss": ROBUST}, {"loss": ROBUST | {"scale_init": 1.0}}),
        ({}, {"mixup": MIXUP}),
        ({"mixup": MIXUP}, {"mixup": MIXUP | {"variant": "zhang"}}),
        ({"mixup": MIXUP}, {"mixup": MIXUP | {"alpha": 0.1}}),
        *(
            ({}, {"model": SETTINGS["model"] | change})
            for change in (
                {"width": 12},
                {"depth": 3},
                {"block": "regular"},
                {"se_ratio": 4},
                {"dropout": 0.5},
                {"channels": 3},
                {"align_corners": True},
                {"grid": "corner"},
            )
        ),
        ({"model": SETTINGS["model"] | {"se_ratio": 4}}, {"model": SETTINGS["model"] | {"se_ratio": 2}}),
    ],
    ids=str,
)
def test_every_switch_of_loss_mixup_and_model_changes_the_loss(plain, changed):
    assert first_loss(plain) == first_loss(plain)
    assert first_loss(plain) != first_loss(changed)


def step_in(task, net, batch, add):
    """Gradient, buffers, and the largest number of activations kept at once; `add` is asked to take all terms."""
    kept, most = set(), [0]

    class Kept:
        def __init__(self, tensor):
            self.tensor, key = tensor, object()
            kept.add(key)
            weakref.finalize(self, kept.discard, key)
            most[0] = max(most[0], len(kept))

    torch.manual_seed(3)  # mixup and dropout draw alike
    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda each: each.tensor):
        add(task.training_loss(net, batch))
    return {name: value.grad for name, value in net.named_parameters()}, dict(net.named_buffers()), most[0]


def test_the_passes_of_mixup_one_by_one_give_the_gradient_of_their_sum_in_half_of_the_memory():
    def one_by_one(terms):
        for term in terms:
            term.backward()

    task = task_with(spot_samples(6, 1), spot_samples(2, 2), mixup=MIXUP, model={"width": 8, "depth": 2})
    net = task.build_model().train()
    assert any(layer.p > 0 for layer in net.modules() if isinstance(layer, torch.nn.Dropout2d))
    batch = torch.utils.data.default_collate([datasets(task)[0][i] for i in range(6)])
    whole = step_in(task, copy.deepcopy(net), batch, lambda terms: sum(terms).backward())
    parts = step_in(task, copy.deepcopy(net), batch, one_by_one)
    for name, gradient in whole[0].items():
        torch.testing.assert_close(parts[0][name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))
    for name, buffer in whole[1].items():
        assert torch.equal(parts[1][name], buffer)
    assert parts[2] <= 0.52 * whole[2]


def test_what_the_robust_loss_learns_is_trained_with_the_network_and_left_out_of_reading(tmp_path):
    for part, seed in (("train", 1), ("val", 2)):
        write_cohort(tmp_path / part, 2, seed=seed, spacing_mm=0.5, implant_fraction=0, single_knee_fraction=0)
    settings = {"model": {"width": 4, "depth": 2}, "loss": ROBUST, "roi": {"spacing_mm": 4.0, "size": (64, 64)}}
    result = train_landmarks(experiment(task="hc", **settings), tmp_path, tmp_path / "w", name="hc")
    weights, meta = load_snapshot(result.path_best)
    alpha, scale = weights["criterion.latent_alpha"], weights["criterion.latent_scale"]
    assert alpha.shape == scale.shape == (16, 2)
    assert alpha.abs().min() > 0  # started at 0
    assert scale.std() > 0  # started alike
    stage = Stage.from_snapshots([result.path_best], "hc", device=torch.device("cpu"))
    assert not any("criterion" in name for name in stage.nets[0].state_dict())
    # a network that starts from it takes the network, not what the loss learnt
    lc = LandmarkTask(experiment(**(settings | {"loss": {}})), tmp_path, name="lc", transfer=result.path_best)
    assert not any("criterion" in name for name in lc.build_model().state_dict())
    assert meta["experiment"]["loss"]["kind"] == "robust"


def test_augmenting_on_the_device_trains_alike(tmp_path):
    """In float64, where the rounding of the pictures grows least; dropout and noise draw alike on a CPU."""
    augment = {"rotation": 15.0, "scale": (0.8, 1.2), "noise": 0.05, "blur": 1.5, "cutout": 0.1, "jitter": 0.5}
    rows = []
    for where in ("loader", "device"):
        training = {**SETTINGS["training"], "epochs": 2, "swa_start": 1, "precision": "float64", "augment_on": where}
        model = {"width": 4, "depth": 2, "dropout": 0.25}
        task = task_with(spot_samples(12, 1), spot_samples(4, 2), augment=augment, training=training, model=model)
        rows.append(fit(task, task.experiment.training, tmp_path, name=where, cpu=True).history)
    for one, other in zip(*rows, strict=True):
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=1e-3)
        assert other["error_mm"] == pytest.approx(one["error_mm"], rel=5e-3)
    assert rows[0] != rows[1]  # two roads were taken


def folds_of(**changes):
    """Digest of the subjects of each part, and the held-out subjects, of the first three folds."""
    data = {"source": "phantom", "val": None}
    tasks = [LandmarkTask(experiment(data=data, **changes), NOWHERE, name="lc", fold=fold) for fold in range(3)]
    return [task.split for task in tasks], [{s.subject_id for s in task.samples[1]} for task in tasks]


def test_fold_and_seed_change_who_is_held_out(monkeypatch):
    subjects = spot_samples(12, 1)
    monkeypatch.setattr(LandmarkTask, "_load", lambda task, part: subjects)
    splits, held = folds_of(folds=3)
    assert len({split["val"] for split in splits}) == 3
    assert sum(map(len, held)) == len(set.union(*held)) == 12  # nobody twice, nobody left out
    again, _ = folds_of(folds=3)
    other, _ = folds_of(folds=3, training=SETTINGS["training"] | {"seed": 1})
    more, _ = folds_of(folds=4)
    assert again == splits
    assert other != splits
    assert more != splits


def test_hidden_points_do_not_train():
    task = task_with(spot_samples(4, 1), spot_samples(2, 2))
    net = task.build_model()
    batch = torch.utils.data.default_collate([task.val_dataset()[i] for i in range(2)])
    hidden = {**batch, "visible": torch.zeros(2, 1, dtype=torch.bool)}
    assert float(sum(task.training_loss(net, hidden)).detach()) == 0


def test_the_snapshot_rebuilds_the_network_and_knows_its_knee(tmp_path):
    for part, seed in (("train", 1), ("val", 2)):
        write_cohort(tmp_path / part, 4, seed=seed, spacing_mm=0.5, implant_fraction=0, single_knee_fraction=0)
    model = {"width": 4, "depth": 2}
    hc = experiment(task="hc", model=model)
    result = train_landmarks(hc, tmp_path, tmp_path / "w", name="hc")
    weights, meta = load_snapshot(result.path_best)
    net = build_network(meta["network"]).eval()
    net.load_state_dict(weights)
    assert meta["task"] == "hc"
    assert meta["name"] == "hc"
    assert meta["subjects"] == {"train": 4, "val": 4}
    parts = [{sample.subject_id for sample in part} for part in LandmarkTask(hc, tmp_path, name="hc").samples]
    assert [meta["trained_on"], meta["chosen_on"]] == [subject_marks(part) for part in parts]
    assert len(meta["trained_on"]) == 4 * 12
    stage = Stage.from_snapshots([result.path_best], "hc", device=torch.device("cpu"))
    assert stage.size == (64, 64)
    assert 50 < np.ptp(stage.shape.points[:, 0]) < 120  # a knee is some 80 mm wide
    picture = np.random.default_rng(0).random((64, 64), dtype=np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(picture)[None, None]).points[0].numpy()
    np.testing.assert_allclose(stage(picture)[0], expected, atol=1e-4)
    with pytest.raises(ValueError, match="trained for 'hc', needed is 'lc'"):
        Stage.from_snapshots([result.path_best], "lc", device=torch.device("cpu"))


def test_transfer_takes_all_but_the_last_layer(tmp_path):
    for part, seed in (("train", 1), ("val", 2)):
        write_cohort(tmp_path / part, 3, seed=seed, spacing_mm=0.5, implant_fraction=0, single_knee_fraction=0)
    model = {"width": 4, "depth": 2}
    result = train_landmarks(experiment(model=model), tmp_path, tmp_path / "w", name="lc")
    weights, _ = load_snapshot(result.path_best)
    task = LandmarkTask(experiment(task="hc", model=model), tmp_path, name="hc", transfer=result.path_best)
    started = task.build_model().state_dict()
    same = {name for name in weights if torch.equal(weights[name], started[name])}
    assert {name for name in weights if ".out_block." not in name} == same
    with pytest.raises(FileNotFoundError, match="train nothing first"):
        train_landmarks(experiment(transfer="nothing", model=model), tmp_path, tmp_path / "w", name="hc")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": {**SETTINGS["training"], "monitor": "eror_mm"}}, "monitor = eror_mm"),
        ({"training": {**SETTINGS["training"], "mode": "max"}}, "mode max"),
        ({"task": "hc", "augment": {"flip": 0.5}}, "flip"),
        ({"roi": {"spacing_mm": 2.0, "size": (64, 64), "margin": 0.2}}, "margin"),
        ({"roi": {"spacing_mm": 2.0, "size": (0, 64)}}, "32"),
        ({"augment": {"scale": (1.3, 0.8)}}, "smaller one first"),
        ({"augment": {"gamma": (0.0, 1.0)}}, "positive"),
        ({"model": {"width": 0}}, "4"),
        ({"model": {"dropout": 2.0}}, "less than 1"),
    ],
    ids=str,
)
def test_what_cannot_be_or_would_do_nothing_is_refused(changes, words):
    with pytest.raises(ValidationError, match=words):
        experiment(**changes)


def test_landmarks_outside_the_validation_window_are_named():
    samples = spot_samples(2, 1)
    samples[0].points[:] = (62.0, 30.0)
    task = task_with(samples, samples, roi={"spacing_mm": 2.0, "size": (32, 64)})
    with pytest.raises(ConfigError, match="leaves landmarks outside, subjects 1-0"):
        task.val_dataset()


def test_transfer_from_a_training_that_is_not_complete_is_refused(tmp_path):
    for part, seed in (("train", 1), ("val", 2)):
        write_cohort(tmp_path / part, 2, seed=seed, spacing_mm=0.5, implant_fraction=0, single_knee_fraction=0)
    small = {"model": {"width": 4, "depth": 2}, "roi": {"spacing_mm": 4.0, "size": (64, 64)}}
    first = train_landmarks(experiment(**small), tmp_path, tmp_path / "w", name="first")
    update_snapshot(first.path_last, {"training": load_snapshot(first.path_last)[1]["training"] | {"epochs": 5}})
    with pytest.raises(RunUnfinished, match=r"first/fold_0 is at epoch 1 of 5: finish it first"):
        train_landmarks(experiment(transfer="first", **small), tmp_path, tmp_path / "w", name="second")


def test_what_is_stored_beside_the_weights_makes_no_other_start(tmp_path):
    """A training goes on although looks were fitted to the one that it started from."""
    for part, seed in (("train", 1), ("val", 2)):
        write_cohort(tmp_path / part, 2, seed=seed, spacing_mm=0.5, implant_fraction=0, single_knee_fraction=0)
    small = {"model": {"width": 4, "depth": 2}, "roi": {"spacing_mm": 4.0, "size": (64, 64)}}
    first = train_landmarks(experiment(**small), tmp_path, tmp_path / "w", name="first")
    begun = train_landmarks(experiment(transfer="first", **small), tmp_path, tmp_path / "w", name="second")
    weights, file = load_snapshot(first.path_best)[0], first.path_best.read_bytes()
    update_snapshot(first.path_best, {"look": {"of": "it"}})
    again = train_landmarks(experiment(transfer="first", **small), tmp_path, tmp_path / "w", name="second", resume=True)
    assert first.path_best.read_bytes() != file
    assert load_snapshot(again.path_last)[1]["transfer"] == weights_digest(weights)
    assert again.history == begun.history


def test_a_film_under_two_subjects_on_both_sides_is_refused(tmp_path):
    write_cohort(tmp_path / "train", 3, seed=1, spacing_mm=0.5, implant_fraction=0)
    shutil.copytree(tmp_path / "train", tmp_path / "val")
    (tmp_path / "val" / "films" / "9010000.dcm").rename(tmp_path / "val" / "films" / "777.dcm")
    kept = [line for line in (tmp_path / "val" / "annotations.csv").read_text().splitlines() if "9010000" in line]
    head = (tmp_path / "val" / "annotations.csv").read_text().splitlines()[0]
    (tmp_path / "val" / "annotations.csv").write_text("\n".join([head, *kept]).replace("9010000", "777"))
    for other in (tmp_path / "val" / "films").glob("9*.dcm"):
        other.unlink()
    with pytest.raises(LeakageError, match="the same picture in training and in validation: subject 9010000, knee"):
        _ = LandmarkTask(experiment(), tmp_path, name="lc").samples


def test_transfer_from_another_split_is_refused(tmp_path):
    for part, seed in (("train", 1), ("val", 2), ("other", 3)):
        write_cohort(tmp_path / part, 3, seed=seed, spacing_mm=0.5, implant_fraction=0, single_knee_fraction=0)
    model = {"width": 4, "depth": 2}
    result = train_landmarks(experiment(model=model), tmp_path, tmp_path / "w", name="lc")
    other = experiment(task="hc", model=model, data={"source": "phantom", "train": "other"})
    with pytest.raises(LeakageError, match="another split"):
        LandmarkTask(other, tmp_path, name="hc", transfer=result.path_best).build_model()
    wider = experiment(task="hc", model={"width": 8, "depth": 2})
    with pytest.raises(ConfigError, match="does not fit"):
        LandmarkTask(wider, tmp_path, name="hc", transfer=result.path_best).build_model()


def test_a_subject_on_both_sides_is_refused(tmp_path):
    for part in ("train", "val"):
        write_cohort(tmp_path / part, 3, seed=1, spacing_mm=0.5)
    with pytest.raises(LeakageError, match="9010000"):
        _ = LandmarkTask(experiment(), tmp_path, name="lc").samples


def test_folds_hold_each_subject_out_once(tmp_path):
    write_cohort(tmp_path / "all", 6, seed=1, spacing_mm=0.5, single_knee_fraction=0)
    held_out = []
    for fold in range(3):
        source = {"source": "phantom", "train": "all", "val": None}
        train, val = LandmarkTask(experiment(data=source, folds=3), tmp_path, name="lc", fold=fold).samples
        assert not {s.subject_id for s in train} & {s.subject_id for s in val}
        held_out += [s.subject_id for s in val]
    assert len(held_out) == 12
    assert len(set(held_out)) == 6
    with pytest.raises(ValueError, match="fold = 3: must be 0 to 2"):
        LandmarkTask(experiment(data=source, folds=3), tmp_path, name="lc", fold=3)
    with pytest.raises(ValueError, match="fold = 1: must be 0 to 0"):  # a validation set of its own: one fold only
        LandmarkTask(experiment(), tmp_path, name="lc", fold=1)


def test_error_summary_by_hand():
    errors = [[0.0, 1.0], [2.0, 10.0]]
    assert error_summary(errors) == {
        "error_mm": 3.25,
        "median_mm": 1.5,
        "within_1mm": 0.5,
        "within_1.5mm": 0.5,
        "within_2mm": 0.75,
        "within_2.5mm": 0.75,
        "outliers": 0.5,
    }
    np.testing.assert_allclose(radial_errors([3.0, 4.0], [0.0, 0.0], (1.0, 2.0)), np.hypot(3, 8))


def test_an_experiment_reads_its_yaml_lists_as_pairs(tmp_path):
    text = json.dumps({**SETTINGS, "roi": {"spacing_mm": 2.0, "size": [64, 64]}})
    assert LandmarkExperiment.model_validate_json(text).roi.size == (64, 64)
