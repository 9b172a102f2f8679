import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from doors import script
from torch.utils.data import default_collate

from deepknee.dataset import GradedKnees
from deepknee.ensemble import Grader
from deepknee.experiment import GradingExperiment
from deepknee.metrics import grading_metrics
from deepknee.train import GradingTask, train_grader
from kneel.engine.config import ConfigError, load_config
from kneel.engine.folds import LeakageError, marked_subjects, subject_marks
from kneel.engine.snapshot import load_snapshot, update_snapshot
from kneel.engine.transfer import RunUnfinished

FOLDER = Path(__file__).resolve().parents[1]
EXPERIMENT = """
task: kl
data: {source: graded_folder}
geometry: {roi_mm: 60, roi_px: 104, crop: 100, patch: 50, top: 25}
model: {width: 4, dropout: 0}
augmentation: {jitter_px: 2, rotation_deg: 3}
training: {epochs: 15, batch_size: 10, learning_rate: 1e-2, monitor: kappa, mode: max, threads: 1}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Knees whose joint space is the wider, the lower the grade."""
    root = tmp_path_factory.mktemp("graded")
    rng, subject = np.random.default_rng(0), 1
    for part, each in (("train", 10), ("val", 4)):
        for grade in range(5):
            (root / part / str(grade)).mkdir(parents=True)
            for _ in range(each + 5 * (grade == 0)):
                picture = rng.integers(0, 20, (104, 104)) + 20
                picture[:, 10:94] += 150
                picture[52 - (14 - 3 * grade) : 52, 10:94] -= 140
                cv2.imwrite(str(root / part / str(grade) / f"{subject}R.png"), picture.astype(np.uint8))
                subject += 1
    return root


def experiment(tmp_path: Path, text: str = EXPERIMENT) -> GradingExperiment:
    path = tmp_path / "small.yaml"
    path.write_text(text)
    return load_config(path, GradingExperiment)


def test_a_training_learns_and_its_snapshot_grades(root: Path, tmp_path: Path) -> None:
    settings = experiment(tmp_path)
    result = train_grader(settings, root, tmp_path, name="small")
    assert result.path_best == tmp_path / "small" / "fold_0" / "best.safetensors"
    assert result.best_metric > 0.6
    task = GradingTask(settings, root, name="kl")
    grade = Grader.from_snapshots([result.path_best]).predict(task.knees[1].rois)
    found = grading_metrics(grade.probabilities, task.knees[1].grades)
    assert found["kappa"] == pytest.approx(result.best_metric, abs=1e-6)
    assert found["cross_entropy"] == pytest.approx(result.history[result.best_epoch - 1]["cross_entropy"], abs=1e-4)
    meta = json.loads(result.path_best.with_suffix(".json").read_text())
    assert meta["task"] == "kl"
    assert meta["knees"] == {"train": [15, 10, 10, 10, 10], "val": [9, 4, 4, 4, 4]}


def test_the_same_seed_trains_the_same_network(root: Path, tmp_path: Path) -> None:
    text = EXPERIMENT.replace("epochs: 15", "epochs: 1")
    first, second = (train_grader(experiment(tmp_path, text), root, tmp_path, name=name) for name in "ab")
    other = train_grader(experiment(tmp_path, text.replace("{epochs", "{seed: 1, epochs")), root, tmp_path, name="c")
    assert first.history == second.history
    assert first.history != other.history


def test_mixup_pairs_both_patches_of_a_knee_with_those_of_one_other(root: Path, tmp_path: Path) -> None:
    """The loss is that of a batch mixed by hand, with labels mixed in the same shares."""
    text = EXPERIMENT + "mixup_alpha: 0.4\nlabel_spread: 0.5\n"
    task = GradingTask(experiment(tmp_path, text), root, name="kl")
    net, dataset = task.build_model().double().eval(), task.val_dataset()
    *patches, labels, grades = default_collate([dataset[index] for index in (0, 11, 15, 24)])
    torch.manual_seed(5)
    loss = task.training_loss(net, [*(patch.double() for patch in patches), labels, grades])
    torch.manual_seed(5)
    share = float(torch.distributions.Beta(0.4, 0.4).sample())
    other = torch.randperm(4)
    assert 0.01 < share < 0.99
    assert (other != torch.arange(4)).any()
    standardize = task.settings.intensity.standardize
    logits = net(*(standardize(share * patch.double() + (1 - share) * patch.double()[other]) for patch in patches))
    mixed = share * labels + (1 - share) * labels[other]
    expected = -(mixed * logits.log_softmax(1)).sum(1).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_labels_from_a_table_are_mixed_with_the_grades(root: Path, tmp_path: Path) -> None:
    text = EXPERIMENT.replace("epochs: 15", "epochs: 1")
    first = train_grader(experiment(tmp_path, text), root, tmp_path, name="teacher")
    words = ["--data", str(root / "train"), "--weights", str(first.path_best), "--out", str(root / "train/taught.csv")]
    assert script("label_kl").main(words) == 0
    settings = experiment(tmp_path, text + "labels: {table: taught.csv, share: 0.25}\n")
    task = GradingTask(settings, root, name="kl")
    *_, label, grade = task.train_dataset()[20]
    chances = Grader.from_snapshots([first.path_best]).predict(task.knees[0].rois[20:21]).probabilities[0]
    np.testing.assert_allclose(label, 0.75 * np.eye(5)[grade] + 0.25 * chances, atol=1e-6)
    *_, label, grade = task.val_dataset()[20]
    np.testing.assert_array_equal(label, np.eye(5)[grade])
    result = train_grader(settings, root, tmp_path, name="pupil")
    meta = json.loads(result.path_best.with_suffix(".json").read_text())
    assert meta["labels"]["teachers"] == ["teacher/fold_0/best.safetensors"]


def test_a_pupil_notes_whom_its_teachers_were_trained_on(root: Path, tmp_path: Path) -> None:
    short = EXPERIMENT.replace("epochs: 15", "epochs: 1")
    teacher = train_grader(experiment(tmp_path, short), root, tmp_path, name="teacher")
    update_snapshot(teacher.path_best, {"trained_on": subject_marks(["stranger"])})
    table = root / "train" / "marked.csv"
    words = ["--data", str(root / "train"), "--weights", str(teacher.path_best), "--out", str(table)]
    assert script("label_kl").main(words) == 0
    taught = short + "labels: {table: marked.csv}\n"
    train_grader(experiment(tmp_path, taught), root, tmp_path, name="pupil")
    last = train_grader(experiment(tmp_path, short + "transfer: pupil\n"), root, tmp_path, name="follower")
    meta = json.loads(last.path_best.with_suffix(".json").read_text())
    assert marked_subjects(["stranger", "1", "nobody"], meta["trained_on"]) == {"stranger", "1"}


def test_epochs_are_balanced_and_each_draws_anew(root: Path, tmp_path: Path) -> None:
    task = GradingTask(experiment(tmp_path, EXPERIMENT + "sampling: {samples: 20000}\n"), root, name="kl")
    draws = []
    for seed in (1, 2):
        sampler = task.train_sampler(task.train_dataset(), torch.Generator().manual_seed(seed))
        assert sampler is not None
        draws.append(np.array(list(sampler)))
        shares = np.bincount(task.knees[0].grades[draws[-1]]) / 20000
        np.testing.assert_allclose(shares, 0.2, atol=0.012)  # four standard deviations
    assert not np.array_equal(*draws)


def test_without_balance_the_order_is_the_engines(root: Path, tmp_path: Path) -> None:
    task = GradingTask(experiment(tmp_path, EXPERIMENT + "sampling: {balanced: false}\n"), root, name="kl")
    assert task.train_sampler(task.train_dataset(), torch.Generator()) is None


def test_statistics_are_those_of_the_training_knees(root: Path, tmp_path: Path) -> None:
    task = GradingTask(experiment(tmp_path), root, name="kl")
    assert isinstance(task.knees[0], GradedKnees)
    found = task.settings.intensity
    # of both patches, which share all columns of the crop; the original used the lateral patch twice
    both = task.knees[0].rois[:, 2 + 25 : 2 + 75, 2:102] / 255
    assert (found.mean, found.std) == pytest.approx((both.mean(), both.std()), abs=1e-6)


@pytest.mark.parametrize(
    "path", sorted([*FOLDER.glob("kl_experiments/*.yaml"), *FOLDER.glob("demo_experiments/kl*.yaml")])
)
def test_experiment_files_can_be_read(path: Path) -> None:
    settings = load_config(path, GradingExperiment)
    assert settings.training.monitor == "kappa"
    assert settings.training.mode == "max"


def test_seeds_differ_in_the_seed_alone() -> None:
    runs = [
        load_config(FOLDER / f"kl_experiments/siamese_seed_{seed}.yaml", GradingExperiment) for seed in (21, 42, 84)
    ]
    assert [run.training.seed for run in runs] == [21, 42, 84]
    same = {run.training.model_copy(update={"seed": 0}).model_dump_json() for run in runs}
    assert len(same) == 1
    assert len({run.model_dump_json(exclude={"training"}) for run in runs}) == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sampling: {balanced: false, samples: 5}", "acts only with balanced"),
        ("contrast: knee", "contrast"),
        ("optim: adam", "optim: unknown key"),
        ("geometry: {roi_px: 60, crop: 60, patch: 30, top: 0}", "patch = 30: the network needs at least 49"),
        ("augmentation: {jitter_px: 9}", "jitter_px = 9: the rim around geometry.crop is 2"),
    ],
)
def test_mistakes_in_a_file_are_refused(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "sound.yaml").write_text(EXPERIMENT)
    with pytest.raises(ConfigError, match=words):
        experiment(tmp_path, f"base: sound.yaml\n{line}\n")


def test_a_trial_upon_a_member_of_an_ensemble_says_whether_it_belongs_to_it(tmp_path: Path) -> None:
    """Their networks would be read together without a word."""
    shipped = f"base: {FOLDER}/kl_experiments/chen2018_joint_seed_42.yaml\n"
    with pytest.raises(ConfigError, match=r'ensemble = "chen2018" .* is not taken over'):
        experiment(tmp_path, shipped + "training: {seed: 3}\n")
    assert experiment(tmp_path, shipped + "ensemble: null\n").ensemble is None
    assert experiment(tmp_path, shipped + "ensemble: chen2018\n").ensemble == "chen2018"


def test_folds_of_a_fixed_split_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fold = 1: must be 0 to 0"):
        GradingTask(experiment(tmp_path), root, fold=1, name="kl")


def test_label_spread_and_power_act(root: Path, tmp_path: Path) -> None:
    """Soft labels raise the least loss that can be reached; the power moves chances between even and natural."""
    task = GradingTask(experiment(tmp_path), root, name="kl")
    soft = GradingTask(experiment(tmp_path, EXPERIMENT + "label_spread: 0.5\n"), root, name="kl")

    def batch(task: GradingTask) -> list[torch.Tensor]:
        return default_collate([task.train_dataset()[25]])  # of grade 2

    def sure(*pictures: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[0.0, 0.0, 20.0, 0.0, 0.0]])

    assert task.training_loss(sure, batch(task)) < 1e-6  # type: ignore[arg-type]
    assert soft.training_loss(sure, batch(soft)) > 1  # type: ignore[arg-type]
    text = EXPERIMENT + "sampling: {power: 0.5, samples: 20000}\n"
    half = GradingTask(experiment(tmp_path, text), root, name="kl")
    sampler = half.train_sampler(half.train_dataset(), torch.Generator().manual_seed(1))
    assert sampler is not None
    drawn = half.knees[0].grades[np.array(list(sampler))]
    # 15 knees of grade 0 and 10 of each other: shares as sqrt(15) to sqrt(10), between those of 15 to 10 and 1 to 1
    assert (drawn == 0).mean() == pytest.approx(0.2344, abs=0.012)  # four standard deviations; 0.273 and 0.2
    with pytest.raises(ConfigError, match=r"power = 0\.5 acts only with balanced"):
        experiment(tmp_path, EXPERIMENT + "sampling: {balanced: false, power: 0.5}\n")


def test_transfer_starts_from_the_best_weights_of_the_same_split(root: Path, tmp_path: Path) -> None:
    short = EXPERIMENT.replace("epochs: 15", "epochs: 1")
    first = train_grader(experiment(tmp_path, short), root, tmp_path, name="first")
    follow = experiment(tmp_path, short.replace("1e-2", "1e-12") + "transfer: first\n")
    second = train_grader(follow, root, tmp_path, name="second")
    before, after = (load_snapshot(result.path_best)[0] for result in (first, second))
    for name, value in before.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(after[name], value, atol=1e-9, rtol=0)
    assert load_snapshot(second.path_best)[1]["started_from"].startswith("first, sha256 of the weights ")
    update_snapshot(first.path_best, {"temperature": 0.7})  # the start is the same
    train_grader(follow, root, tmp_path, name="second", resume=True)
    training = load_snapshot(first.path_last)[1]["training"]
    update_snapshot(first.path_last, {"training": {**training, "epochs": 3}})
    with pytest.raises(RunUnfinished, match=r"first/fold_0 is at epoch 1 of 3: finish it first"):
        train_grader(follow, root, tmp_path, name="third")
    update_snapshot(first.path_last, {"training": training})
    with pytest.raises(FileNotFoundError, match="train nothing first"):
        train_grader(experiment(tmp_path, short + "transfer: nothing\n"), root, tmp_path, name="third")
    wide = experiment(tmp_path, short.replace("width: 4", "width: 5") + "transfer: first\n")
    with pytest.raises(ConfigError, match="does not fit"):
        train_grader(wide, root, tmp_path, name="third")


def test_transfer_from_another_split_is_refused(root: Path, tmp_path: Path) -> None:
    """A network that may have been trained on this training's validation knees would be judged by what it has seen."""
    short = EXPERIMENT.replace("epochs: 15", "epochs: 1")
    swapped = short.replace("{source: graded_folder}", "{source: graded_folder, train: val, val: train}")
    train_grader(experiment(tmp_path, swapped), root, tmp_path, name="swapped")
    with pytest.raises(LeakageError, match="another split of subjects"):
        train_grader(experiment(tmp_path, short + "transfer: swapped\n"), root, tmp_path, name="kl")


def test_a_training_from_before_subjects_were_noted_goes_on(root: Path, tmp_path: Path) -> None:
    once = "augmentation: {jitter_px: 2, rotation_deg: 3}\ntraining: {epochs: 1, schedule: step, "
    text = EXPERIMENT.replace("augmentation: {jitter_px: 2, rotation_deg: 3}\ntraining: {epochs: 15, ", once)
    first = train_grader(experiment(tmp_path, text), root, tmp_path, name="old")
    update_snapshot(first.path_last, {"trained_on": None, "chosen_on": None})
    longer = text.replace("epochs: 1,", "epochs: 2,")
    result = train_grader(experiment(tmp_path, longer), root, tmp_path, name="old", resume=True)
    assert len(result.history) == 2
    now, before = load_snapshot(result.path_last)[1], load_snapshot(first.path_best)[1]
    assert all(now[marks] == before[marks] != "" for marks in ("trained_on", "chosen_on"))
