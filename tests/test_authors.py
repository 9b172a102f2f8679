"""The authors' experiment files: every key of theirs becomes what the table in `kneel.authors` says."""

import logging
import re
from pathlib import Path

import pytest

from kneel.authors import MAPPED, UNHONOURED, is_authors_file, load_landmark_experiment
from kneel.engine.config import ConfigError, load_config
from kneel.experiment import LandmarkExperiment

ROOT = Path(__file__).resolve().parents[1]
HC = """\
experiment:
  - annotations: hc
  - meta: bf_landmarks_1_0.3.csv
  - dataset_root: /somewhere/else
  - n_folds: 5
  - fold: -1
  - seed: 42
transforms:
  - pad_x: 520
  - pad_y: 520
  - crop_x: 450
  - crop_y: 450
  - img_pad: 100
  - cutout: 0.1
model:
  - base_width: 24
  - multiscale_hg: True
  - use_se: False
  - se_ratio: 16
  - use_drop: False
  - init_model_from: workdir/lc_multiscale_wing_mixup_no_wd_cutout10
training:
  - lr: 1e-3
  - wd: 0
  - optim: adam
  - bs: 16
  - val_bs: 16
  - n_epochs: 100
  - use_mixup: True
  - mixup_alpha: 0.75
  - use_swa: False
  - swa_start: 1000
loss:
  - loss_type: wing
  - wing_w: 15
  - wing_c: 3
  - loss_weight: 0.3
"""


def write(tmp_path, text, folder="hc_experiments"):
    path = tmp_path / folder / "theirs.yml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def read(tmp_path, *changes, text=HC, folder="hc_experiments"):
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return load_landmark_experiment(write(tmp_path, text, folder))


def test_their_best_row_is_ours_but_for_the_window_and_the_precision(tmp_path):
    theirs = read(tmp_path).model_dump()
    ours = load_config(
        ROOT / "hc_experiments" / "multiscale_wing_mixup_no_wd_cutout10_from_lc.yaml", LandmarkExperiment
    ).model_dump()
    assert theirs["roi"]["size"] == (450, 450)
    assert theirs["augment"]["shift"] == pytest.approx(35 / 450)
    for section, name in (
        ("roi", "size"),
        ("augment", "shift"),
        ("training", "precision"),
        ("training", "num_workers"),
    ):
        del theirs[section][name], ours[section][name]
    assert theirs == ours


def test_augmentation_that_their_files_leave_to_the_code_is_that_of_our_lc_base(tmp_path):
    theirs = read(tmp_path, ("annotations: hc", "annotations: lc"), ("cutout: 0.1", "cutout: False"))
    ours = load_config(ROOT / "lc_experiments" / "base.yaml", LandmarkExperiment)
    assert theirs.augment.model_copy(update={"shift": 0.1}) == ours.augment
    assert theirs.roi.spacing_mm == ours.roi.spacing_mm


def test_what_is_mapped_and_what_is_not_is_said_once(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        read(tmp_path)
    (record,) = caplog.records
    mapped, idle, left = re.split(r"\. Without effect here: |\. Not honoured: ", record.getMessage())
    assert "theirs.yml" in mapped
    assert "mixup_alpha" in mapped
    assert left == "dataset_root, fold, img_pad, use_drop, val_bs."
    # a switch that is off still acts, what hangs on it does not; nor does a parameter of another loss
    assert idle == "se_ratio, swa_start, loss_weight"
    assert "use_se, " in mapped
    assert not MAPPED & UNHONOURED


@pytest.mark.parametrize(
    ("old", "new", "where", "value"),
    [
        ("base_width: 24", "base_width: 32", "model.width", 32),
        ("multiscale_hg: True", "multiscale_hg: False", "model.block", "regular"),
        ("use_se: False", "use_se: True", "model.se_ratio", 16),
        ("lr: 1e-3", "lr: 1e-4", "training.learning_rate", 1e-4),
        ("wd: 0", "wd: 1e-4", "training.weight_decay", 1e-4),
        ("optim: adam", "optim: sgd", "training.optimizer", "sgd"),
        ("- bs: 16", "- bs: 8", "training.batch_size", 8),
        ("n_epochs: 100", "n_epochs: 90", "training.epochs", 90),
        ("seed: 42", "seed: 7", "training.seed", 7),
        ("n_folds: 5", "n_folds: 3", "folds", 3),
        ("use_mixup: True", "use_mixup: False", "mixup", None),
        ("mixup_alpha: 0.75", "mixup_alpha: 0.1", "mixup.alpha", 0.1),
        ("use_swa: False", "use_swa: True", "training.swa_start", 27),  # 1000 steps of 37 an epoch
        ("cutout: 0.1", "cutout: 0.25", "augment.cutout", 0.25),
        ("cutout: 0.1", "cutout: True", "augment.cutout", 0.1),
        ("cutout: 0.1", "use_target_jitter: True", "augment.jitter", 1.3),
        ("crop_x: 450", "crop_x: 400", "roi.size", (400, 450)),
        ("wing_w: 15", "wing_w: 10", "loss.width", 10),
        ("wing_c: 3", "wing_c: 1", "loss.curvature", 1),
        ("loss_type: wing", "loss_type: elastic", "loss.l2_share", 0.3),
        ("loss_type: wing", "loss_type: robust", "loss.scale_init", 4.5),
        ("loss_type: wing", "loss_type: l1", "loss.kind", "l1"),
        ("init_model_from: workdir/lc_multiscale_wing_mixup_no_wd_cutout10", "init_model_from: ''", "transfer", None),
    ],
)
def test_every_switch_of_theirs_sets_one_of_ours(tmp_path, old, new, where, value):
    changed = read(tmp_path, (old, new))
    for name in where.split("."):
        changed = getattr(changed, name)
    assert changed == value


def test_a_table_in_place_of_the_task_is_read_by_its_folder(tmp_path):
    change = ("annotations: hc\n  - meta: bf_landmarks_1_0.3.csv", "annotations: other.csv")
    experiment = read(tmp_path, change, folder="lc_experiments")
    assert experiment.task == "lc"
    assert experiment.data.annotations == "other.csv"
    with pytest.raises(ConfigError, match=r"annotations = 'other\.csv': must be lc or hc"):
        read(tmp_path, change, folder="experiments")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("use_se: False", "use_sse: False", r"theirs\.yml: model\.use_sse: unknown key"),
        ("wd: 0", "lr: 0", "training.lr: given twice"),
        ("use_se: False", "use_se: 'False'", "use_se = 'False': must be True or False"),
        ("crop_x: 450", "crop_x: 600", "pad_x = 520: must not be below crop_x = 600"),
        ("bs: 16\n  - val", "bs: 0\n  - val", r"training\.batch_size = 0"),
        ("lr: 1e-3", "lr: fast", "lr = 'fast': must be a number"),
        ("loss_type: wing", "loss_type: adaptive", r"loss\.kind = adaptive"),
        ("loss:", "losses:", "losses: unknown key"),
        ("  - lr: 1e-3\n", "  - {lr: 1e-3, wd: 1}\n", "must be one `key: value`"),
    ],
)
def test_mistakes_are_refused_in_one_line(tmp_path, old, new, words):
    with pytest.raises(ConfigError, match=words) as error:
        read(tmp_path, (old, new))
    assert "\n" not in str(error.value)


def test_our_own_files_are_still_read_as_ours(caplog):
    path = ROOT / "hc_experiments" / "regular_wing.yaml"
    assert not is_authors_file(path)
    assert load_landmark_experiment(path) == load_config(path, LandmarkExperiment)
    assert not caplog.records


def test_the_commands_take_them(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    from experiments_runner import parse, plan

    path = write(tmp_path, HC)
    jobs = plan(parse(["--experiments", str(path.parent), "--data_root", str(tmp_path), "--workdir", str(tmp_path)]))
    assert [(job.name, job.fold, job.after) for job in jobs] == [
        ("theirs", fold, f"lc_multiscale_wing_mixup_no_wd_cutout10/fold_{fold}") for fold in range(5)
    ]
