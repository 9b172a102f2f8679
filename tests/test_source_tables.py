import hashlib
import json

import pytest
from doors import SCRIPTS, script
from queue_tools import fake

from kneel.engine.queue.jobs import PlanError
from kneel.engine.queue.report import refuse
from kneel.engine.queue.state import refusals
from kneel.imaging.crops import COLUMNS

TRAINING = "training: {epochs: 1, monitor: kappa, mode: max}\n"
LANDMARKS = "model: {width: 4}\nroi: {spacing_mm: 2.0, size: [64, 64]}\n" + TRAINING.replace(
    "kappa, mode: max", "error_mm, mode: min"
)


@pytest.fixture(scope="module")
def train():
    """The script, which imports what lies beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        yield script("train")


def asked(train, tmp_path, text):
    """What the runner asks of the data of an experiment file."""
    (tmp_path / "x.yaml").write_text(text)
    return train.table_digests(train.read_experiment(tmp_path / "x.yaml"), tmp_path)


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return hashlib.sha256(text.encode()).hexdigest()


def test_every_table_of_an_experiment_is_known_by_its_content(train, tmp_path):
    digests = {name: put(tmp_path / name, name) for name in ("train/annotations.csv", "val/annotations.csv", "t.csv")}
    cohorts = {name: digests[name] for name in list(digests)[:2]}
    assert asked(train, tmp_path, "task: hc\ndata: {source: phantom}\n" + LANDMARKS) == cohorts
    assert asked(train, tmp_path, "task: kl\ndata: {source: phantom}\n" + TRAINING) == cohorts
    several = (
        "task: hc\ndata: {source: several, parts: [{data: {source: phantom}}, {data: {source: crops, table: t.csv, "
    )
    assert asked(train, tmp_path, several + "images: i}}]}\n" + LANDMARKS) == digests
    kneel_csv = "task: hc\ndata: {source: kneel_csv, annotations: t.csv, images: i}\n"
    assert asked(train, tmp_path, kneel_csv + LANDMARKS) == {"t.csv": digests["t.csv"]}
    rois = "task: kl\ndata: {source: graded_rois, val: null}\nlabels: {table: l.csv}\n" + TRAINING
    assert asked(train, tmp_path, rois) == {}  # nothing there: training will say so
    expected = {name: put(tmp_path / name, name) for name in ("train/knees.csv", "train/l.csv")}
    assert asked(train, tmp_path, rois) == expected


def test_of_a_graded_folder_the_pictures_and_the_points_count_and_not_who_found_them(train, tmp_path):
    text = "task: kl\ndata: {source: graded_folder}\ngeometry: {follow: FOLLOW}\n" + TRAINING
    centre, landmarks = (text.replace("FOLLOW", how) for how in ("centre", "landmarks"))
    for part in ("train", "val"):
        for grade in range(5):
            put(tmp_path / part / str(grade) / f"{grade}L.png", "")
    head, row = ",".join([*COLUMNS, "made_from"]), ",".join(map(str, range(len(COLUMNS))))
    put(tmp_path / "train" / "landmarks.csv", f"{head}\n{row},one\n")
    before = asked(train, tmp_path, landmarks)
    assert set(before) == {"train/*/*.png", "val/*/*.png", "train/landmarks.csv"}
    put(tmp_path / "train" / "landmarks.csv", f"{head}\n{row},two\n")
    assert asked(train, tmp_path, landmarks) == before
    put(tmp_path / "train" / "landmarks.csv", f"{head}\n{row.replace('9', '8')},two\n")
    put(tmp_path / "val" / "2" / "new.png", "")
    changed = asked(train, tmp_path, landmarks)
    assert {name for name in before if changed[name] != before[name]} == {"val/*/*.png", "train/landmarks.csv"}
    assert set(asked(train, tmp_path, centre)) == {"train/*/*.png", "val/*/*.png"}  # reads no points


def test_a_run_of_other_tables_is_refused_and_one_that_noted_none_is_not(tmp_path):
    """Else a corrected table would change nothing, and the figures of before would pass for those of now."""
    job = fake(tmp_path, "a", settings={"training": {"seed": 2}}, tables={"train/annotations.csv": "b" * 64})
    job.folder.mkdir(parents=True)
    stored = {"training": {"seed": 2}, "epoch": 3}
    for tables, told in (({}, 0), ({"train/annotations.csv": "b" * 64}, 0), ({"train/annotations.csv": "a" * 64}, 1)):
        (job.folder / "last.json").write_text(json.dumps(stored | ({"tables": tables} if tables else {})))
        assert len(refusals(job)) == told
    words = (
        r"a, fold 0 .*\n    train/annotations.csv: is not as it was when this was trained \(sha256 then aaaaaaaaaaaa, "
    )
    with pytest.raises(PlanError, match=words + r"now bbbbbbbbbbbb\)\n.*another --workdir, or move"):
        refuse([job])
