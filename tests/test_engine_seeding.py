import hashlib
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from kneel.engine.config import ConfigError
from kneel.engine.folds import LeakageError, check_leakage, check_pictures, grouped_folds, split_digest
from kneel.engine.seeding import derive_seed, seed_everything


def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_derive_seed_is_the_same_in_every_python():
    code = "from kneel.engine.seeding import derive_seed; print(derive_seed(7, 'epoch', 3))"
    environment = {"PYTHONHASHSEED": "123", "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert int(other.stdout) == derive_seed(7, "epoch", 3) == 1817496201054852237


def test_keys_do_not_collide():
    keys = [(a, b) for a in range(40) for b in range(40)] + [("1", 2), (1, "2"), ("12",), (12,), ("1', 2",), ()]
    seeds = {derive_seed(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("part", [True, 1.0, None, (1,)])
def test_derive_seed_refuses_what_has_no_stable_text(part):
    with pytest.raises(TypeError, match="integers and words"):
        derive_seed(0, part)


def test_seed_everything_seeds_three_generators():
    seed_everything(5)
    first = draws()
    again = draws()
    seed_everything(5)
    assert draws() == first
    seed_everything(6)
    assert all(a != b for a, b in zip(draws(), first, strict=True))
    assert all(a != b for a, b in zip(again, first, strict=True))


def test_a_gpu_can_be_left_out():
    seed_everything(5)
    first = draws()
    seed_everything(5, devices=False)
    assert draws() == first


def cohort():
    """60 subjects with 1 to 3 films each; grades 0..4 by subject."""
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 4, 60)
    groups = [f"s{subject}" for subject, count in enumerate(counts) for _ in range(count)]
    labels = [subject % 5 for subject, count in enumerate(counts) for _ in range(count)]
    return groups, labels


def test_folds_part_subjects_and_spread_labels():
    groups, labels = cohort()
    folds = grouped_folds(groups, labels, k=5, seed=3)
    assert sorted(np.concatenate([val for _, val in folds])) == list(range(len(groups)))
    for train, val in folds:
        assert not {groups[i] for i in train} & {groups[i] for i in val}
        assert sorted([*train, *val]) == list(range(len(groups)))
        share = np.bincount([labels[i] for i in val], minlength=5) / len(val)
        assert np.abs(share - np.bincount(labels) / len(labels)).max() < 0.1


def test_folds_follow_the_seed():
    groups, labels = cohort()
    one, same, other = (grouped_folds(groups, labels, k=3, seed=seed) for seed in (1, 1, 2**40))
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(one, same, strict=True))
    assert not all(np.array_equal(a[1], b[1]) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("k", [1, 4])
def test_folds_refuse_impossible_numbers(k):
    with pytest.raises(ValueError, match=f"k = {k} folds: must be between 2 and the number of subjects, 3"):
        grouped_folds(["a", "b", "c", "a"], [0, 1, 0, 0], k=k, seed=0)
    with pytest.raises(ValueError, match="groups has 2 entries and labels 3"):
        grouped_folds(["a", "b"], [0, 1, 0], k=2, seed=0)


def test_leakage_names_the_subjects():
    check_leakage(["a", "a", "b"], ["c"])
    with pytest.raises(LeakageError, match=r"2 subject\(s\) in training and in validation: 17, b$"):
        check_leakage(["a", "b", 17], ["b", "b", 17, "d"])
    with pytest.raises(LeakageError, match=r"30 subject.*\.\.\.$"):
        check_leakage(range(30), range(30))


def test_folds_need_a_class_with_a_sample_for_each():
    with pytest.raises(ConfigError, match="k = 4 folds: no class has as many samples; the largest has 3"):
        grouped_folds("abcdef", [0, 0, 0, 1, 1, 2], k=4, seed=0)
    assert len(grouped_folds("abcdef", [0, 0, 0, 1, 1, 2], k=3, seed=0)) == 3


def test_a_fold_without_subjects_is_refused():
    """The splitter balances grades, and may leave a fold empty for that."""
    groups, grades = [0, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3], [1, 3, 3, 3, 0, 1, 0, 0, 0, 0, 0, 1]
    with pytest.raises(ConfigError, match="k = 4 folds: 4 subjects leave a fold empty; take fewer folds"):
        grouped_folds(groups, grades, k=4, seed=0)
    assert all(len(val) for _, val in grouped_folds(groups, grades, k=2, seed=0))


def test_the_same_picture_on_both_sides_is_refused():
    pictures = list(np.random.default_rng(0).integers(0, 255, (4, 5, 6), np.uint8))
    names = ["a", "b", "c", "d"]
    check_pictures(zip(names[:2], pictures[:2], strict=True), zip(names[2:], pictures[2:], strict=True))
    with pytest.raises(LeakageError, match="the same picture in training and in validation: b and c; 1 more such"):
        check_pictures(
            zip("ab", pictures[:2], strict=True), [("c", pictures[1].copy()), ("d", pictures[0]), ("e", pictures[2])]
        )


def test_split_digest_by_hand():
    """Order and repetition of subjects make no difference; their names do."""
    word = hashlib.sha256(b"a\nb").hexdigest()[:16]
    assert split_digest(["b", "a", "b"], ["c"]) == {"train": word, "val": hashlib.sha256(b"c").hexdigest()[:16]}
    assert split_digest(["a"], ["b"])["train"] != word
