import hashlib
import json
import os

import pytest
import safetensors.torch
import torch
from torch import nn

from kneel.engine import provenance
from kneel.engine.provenance import code_version
from kneel.engine.snapshot import (
    SnapshotError,
    load_metadata,
    load_snapshot,
    load_training_state,
    save_snapshot,
    update_snapshot,
)

META = {"task": "kl", "model": {"width": 64}, "metrics": {"kappa": 0.83, "auc": None}}


def weights():
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(4, generator=generator)
    return {
        "conv.weight": torch.randn(2, 3, 3, 3, generator=generator).to(memory_format=torch.channels_last),
        "half": half.bfloat16(),
        "double": half.double(),
        "count": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "view": half[::2],
    }


def equal(one, other):
    return one.keys() == other.keys() and all(
        one[key].dtype == other[key].dtype and torch.equal(one[key], other[key]) for key in one
    )


def test_round_trip_is_exact(tmp_path):
    path = tmp_path / "best.safetensors"
    save_snapshot(path, weights(), META)
    state, meta = load_snapshot(path)
    assert equal(state, weights())
    assert meta == META


def test_same_input_same_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_snapshot(tmp_path / name / "best.safetensors", weights(), META)
    for file in ("best.safetensors", "best.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_readable_copy_names_its_file(tmp_path):
    save_snapshot(tmp_path / "best.safetensors", weights(), META)
    copy = json.loads((tmp_path / "best.json").read_text())
    digest = hashlib.sha256((tmp_path / "best.safetensors").read_bytes()).hexdigest()
    assert copy == {"file": "best.safetensors", "sha256": digest, **META}


def test_tied_weights_are_kept(tmp_path):
    layer = nn.Linear(3, 3)
    save_snapshot(tmp_path / "a.safetensors", {"one": layer.weight, "two": layer.weight}, {})
    state, _ = load_snapshot(tmp_path / "a.safetensors")
    assert torch.equal(state["one"], layer.weight)
    assert torch.equal(state["two"], layer.weight)


def test_training_state_is_kept_apart(tmp_path):
    path = tmp_path / "last.safetensors"
    extra = {"optimizer/0/exp_avg": torch.ones(3), "optimizer/0/step": torch.tensor(4.0)}
    save_snapshot(path, weights(), META, training_state=(extra, {"history": [1]}))
    state, meta = load_snapshot(path)
    assert equal(state, weights())
    assert meta == META
    tensors, settings = load_training_state(path)
    assert equal(tensors, extra)
    assert settings == {"history": [1]}
    save_snapshot(path, weights(), META)
    with pytest.raises(SnapshotError, match="holds weights only"):
        load_training_state(path)


@pytest.mark.parametrize(
    ("name", "state", "meta", "words"),
    [
        ("a.pth", {}, {}, "ends in .safetensors"),
        ("a.safetensors", {"x/y": torch.ones(1)}, {}, "weight 'x/y': names with /"),
        ("a.safetensors", {}, {"loss": float("nan")}, "not JSON"),
        ("a.safetensors", {}, {"model": object()}, "not JSON"),
    ],
)
def test_what_cannot_be_saved_is_refused_and_nothing_written(tmp_path, name, state, meta, words):
    with pytest.raises(SnapshotError, match=words):
        save_snapshot(tmp_path / name, state, meta)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stage", ["write", "replace"])
def test_an_interrupted_writer_leaves_the_last_good_file(tmp_path, monkeypatch, stage):
    path = tmp_path / "best.safetensors"
    save_snapshot(path, weights(), META)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync" if stage == "write" else "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_snapshot(path, {"other": torch.ones(1)}, {})
    monkeypatch.undo()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_kill_while_writing_leaves_the_last_good_file(tmp_path):
    path = tmp_path / "best.safetensors"
    save_snapshot(path, weights(), META)
    (tmp_path / ".best.safetensors.tmp").write_bytes(b"half a fi")  # what a killed writer leaves
    assert equal(load_snapshot(path)[0], weights())
    save_snapshot(path, {"other": torch.ones(1)}, {})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.json", "best.safetensors"]


@pytest.mark.parametrize("load", [load_snapshot, load_metadata])
def test_every_cut_and_every_flipped_bit_is_found(tmp_path, load):
    path = tmp_path / "best.safetensors"
    save_snapshot(path, {"x": torch.arange(4.0)}, {"a": 1})
    good = path.read_bytes()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(SnapshotError, match=r"best\.safetensors"):
            load(path)
    for at in range(len(good) - 16, len(good)):
        path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        with pytest.raises(SnapshotError, match=r"best\.safetensors: damaged: the weights do not match"):
            load(path)
    name_of_the_checksum = range(good.index(b"file_sha256"), good.index(b"file_sha256") + 11)
    for at in (at for at in range(len(good) - 16) if at not in name_of_the_checksum):  # without it all else is right
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(SnapshotError, match=r"best\.safetensors"):
            load(path)


def test_snapshots_from_before_the_checksum_of_the_file_are_read(tmp_path):
    path = tmp_path / "old.safetensors"
    tensors = {"x": torch.arange(4.0)}
    body = safetensors.torch.save(tensors)[-16:]
    header = {"format": 1, "sha256": hashlib.sha256(body).hexdigest(), "meta": {"a": 1}, "training": None}
    path.write_bytes(safetensors.torch.save(tensors, metadata={"snapshot": json.dumps(header)}))
    state, meta = load_snapshot(path)
    assert torch.equal(state["x"], tensors["x"])
    assert meta == {"a": 1}
    assert load_metadata(path) == ({"a": 1}, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize("load", [load_snapshot, load_metadata])
def test_foreign_files_are_named(tmp_path, load):
    path = tmp_path / "foreign.safetensors"
    with pytest.raises(SnapshotError, match=r"foreign\.safetensors: cannot be read: No such file"):
        load(path)
    path.write_bytes(b"\x80\x04\x95 a pickle")
    with pytest.raises(SnapshotError, match=r"foreign\.safetensors: cut, damaged or no safetensors"):
        load(path)
    for metadata in (None, {"snapshot": "[]"}, {"snapshot": "{"}, {"other": "1"}):
        path.write_bytes(safetensors.torch.save({"x": torch.ones(1)}, metadata=metadata))
        with pytest.raises(SnapshotError, match=r"foreign\.safetensors: safetensors, but without"):
            load(path)
    path.write_bytes(safetensors.torch.save({}, metadata={"snapshot": '{"format": 99, "sha256": ""}'}))
    with pytest.raises(SnapshotError, match="snapshot format 99; this code reads 1"):
        load(path)


def test_code_version_is_known_or_none(monkeypatch):
    version = code_version()
    assert version.keys() == {"package", "commit", "dirty", "torch"}
    assert version["torch"] == torch.__version__
    assert (version["commit"] is None) == (version["dirty"] is None)
    monkeypatch.setenv("PATH", "")  # a machine without git
    bare = code_version.__wrapped__()
    assert bare["commit"] is None
    assert bare["dirty"] is None


def test_a_checkout_that_does_not_hold_this_code_is_not_quoted(tmp_path, monkeypatch):
    environment = tmp_path / "env" / "kneel" / "engine" / "provenance.py"
    environment.parent.mkdir(parents=True)
    environment.touch()
    provenance._git(tmp_path, "init")
    monkeypatch.setattr(provenance, "__file__", str(environment))
    assert code_version.__wrapped__()["commit"] is None


@pytest.mark.parametrize("training", [None, ({"momentum": torch.ones(3)}, {"epoch": 2})])
def test_metadata_are_written_anew_and_weights_stay_byte_for_byte(tmp_path, training):
    path = tmp_path / "best.safetensors"
    save_snapshot(path, weights(), META, training_state=training)

    def body():
        data = path.read_bytes()
        return data[8 + int.from_bytes(data[:8], "little") :]

    before = body()
    update_snapshot(path, {"temperature": 1.25, "metrics": None})
    assert body() == before
    state, meta = load_snapshot(path)
    assert equal(state, weights())
    assert meta == {**META, "temperature": 1.25, "metrics": None}
    assert json.loads(path.with_suffix(".json").read_text())["temperature"] == 1.25
    if training:
        tensors, settings = load_training_state(path)
        assert equal(tensors, training[0])
        assert settings == training[1]


def test_metadata_that_cannot_be_written_leave_the_snapshot_as_it_was(tmp_path):
    path = tmp_path / "best.safetensors"
    save_snapshot(path, weights(), META)
    before = path.read_bytes()
    with pytest.raises(SnapshotError, match="not JSON"):
        update_snapshot(path, {"temperature": float("nan")})
    assert path.read_bytes() == before
