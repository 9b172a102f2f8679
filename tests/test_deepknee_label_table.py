import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deepknee.dataset import GradedKnees
from deepknee.label_table import check_replaceable, describe_labels, read_labels, teachers_marks, write_labels
from deepknee.predictions import GradePredictions, PredictionTableError, write_predictions
from deepknee.unseen import Training
from kneel.engine.folds import LeakageError, subject_marks

FOLDER = Path("somewhere/train")
GRADES = [0, 3, 4, 1]


def knees_of(subjects: str, grades: list[int]) -> GradedKnees:
    names = tuple(f"{FOLDER}/{grade}/{subject}L.png" for subject, grade in zip(subjects, grades, strict=True))
    rois = np.zeros((len(grades), 2, 2), np.uint8)
    return GradedKnees(rois, np.array(grades), tuple(subjects), names)


KNEES, VAL = knees_of("abcd", GRADES), knees_of("xy", [0, 2])


def labels_of(knees: GradedKnees) -> GradePredictions:
    chances = np.random.default_rng(1).dirichlet(np.ones(5), len(knees))
    table = pd.DataFrame({"knee": knees.names_within(FOLDER), "subject_id": knees.subjects, "side": "L"})
    return GradePredictions("teachers", table.assign(true_kl=knees.grades), chances)


def teacher(subjects: str) -> Training:
    return Training("some/where/place/fold_0/one.safetensors", subject_marks(subjects))


def test_rows_are_found_by_the_name_of_the_knee(tmp_path: Path) -> None:
    labels = labels_of(KNEES)
    shuffled = replace(labels, knees=labels.knees.iloc[[2, 0, 3, 1]], probabilities=labels.probabilities[[2, 0, 3, 1]])
    write_labels(tmp_path / "labels.csv", shuffled, [teacher("abcd")])
    read = read_labels(tmp_path / "labels.csv", KNEES, FOLDER, VAL)
    np.testing.assert_allclose(read, labels.probabilities, atol=1e-7)
    some = KNEES.subset(np.array([3, 1]))  # as of a fold
    np.testing.assert_allclose(read_labels(tmp_path / "labels.csv", some, FOLDER, VAL), read[[3, 1]])


def test_teachers_that_saw_validation_subjects_are_refused(tmp_path: Path) -> None:
    write_labels(tmp_path / "labels.csv", labels_of(KNEES), [teacher("abcd"), teacher("abcdy")])
    with pytest.raises(LeakageError, match="trained on 1 of the validation subjects: y"):
        read_labels(tmp_path / "labels.csv", KNEES, FOLDER, VAL)
    with pytest.raises(LeakageError, match=r"old\.safetensors: does not note"):
        write_labels(tmp_path / "other.csv", labels_of(KNEES), [Training("old.safetensors")])
    assert not (tmp_path / "other.csv").exists()


def test_a_table_whose_writing_was_cut_short_does_not_pass_for_readers_votes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def first_alone(path: Path, data: bytes) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path)
        path.write_bytes(data)

    for module in ("label_table", "predictions"):
        monkeypatch.setattr(f"deepknee.{module}.write_atomic", first_alone)
    with pytest.raises(KeyboardInterrupt):
        write_labels(tmp_path / "labels.csv", labels_of(KNEES), [teacher("abcdxy")])
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_labels(tmp_path / "labels.csv", KNEES, FOLDER, VAL)


def test_readers_votes_need_no_note_and_another_tables_note_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    write_labels(path, labels_of(KNEES), [teacher("abcd")])
    check_replaceable(path)
    check_replaceable(tmp_path / "another.csv")
    assert describe_labels(path)["teachers"] == ["place/fold_0/one.safetensors"]
    assert teachers_marks(path) == [subject_marks("dcba")]
    path.write_text(path.read_text() + "\n")
    for asked in (lambda: read_labels(path, KNEES, FOLDER, VAL), lambda: check_replaceable(path)):
        with pytest.raises(PredictionTableError, match=r"was changed since labels\.json beside it was written"):
            asked()
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(PredictionTableError, match=r"labels\.json: damaged"):
        read_labels(path, KNEES, FOLDER, VAL)
    path.with_suffix(".json").unlink()
    with pytest.raises(PredictionTableError, match=r"labels\.csv: is there, and not from networks"):
        check_replaceable(path)
    assert read_labels(path, KNEES, FOLDER, VAL).shape == (4, 5)
    assert "teachers" not in describe_labels(path)


def test_what_evaluate_kl_wrote_does_not_pass_for_readers_votes(tmp_path: Path) -> None:
    """Its predictions.csv has the same layout, and nothing says whom its networks had seen."""
    labels, path = labels_of(KNEES), tmp_path / "labels.csv"
    write_predictions(path, replace(labels, members=np.stack([labels.probabilities] * 2)))
    with pytest.raises(PredictionTableError, match=r"no labels\.json beside it .* scripts/label_kl\.py writes both"):
        read_labels(path, KNEES, FOLDER, VAL)
    write_labels(path, replace(labels, members=np.stack([labels.probabilities] * 2)), [teacher("abcd")])
    assert read_labels(path, KNEES, FOLDER, VAL).shape == (4, 5)


def test_a_table_that_is_not_there_is_named_with_what_writes_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"labels\.csv: no such file, .* scripts/label_kl\.py writes one"):
        read_labels(tmp_path / "labels.csv", KNEES, FOLDER, VAL)


def test_knees_that_are_missing_or_graded_otherwise_are_named(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    write_labels(path, labels_of(KNEES.subset(np.array([0, 1, 3]))), [])
    with pytest.raises(PredictionTableError, match=r"lacks 1 of 4 training knees: 4/cL\.png"):
        read_labels(path, KNEES, FOLDER, VAL)
    labels = labels_of(KNEES)
    labels.knees.loc[1, "true_kl"] = 2
    write_labels(path, labels, [])
    with pytest.raises(PredictionTableError, match=r"true_kl of 1 knees is not their grade: 3/bL\.png has 2, and"):
        read_labels(path, KNEES, FOLDER, VAL)
    assert json.loads(path.with_suffix(".json").read_text())["teachers"] == []
