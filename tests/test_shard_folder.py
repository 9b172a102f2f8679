"""The output folder of a reading over a cluster, without one: what is done in it, and what stays when it is stopped."""

import os
from pathlib import Path

import pytest
from oracle import make_reader, snapshots

from deepknee import shard_folder
from deepknee.batch import read_films
from deepknee.films import find_films
from deepknee.folder import OutputFolder
from deepknee.output import FolderError
from deepknee.ray_read import read_over_ray
from deepknee.shard_folder import ShardFolder, film_rows
from deepknee.shard_tables import Tally, write_tables
from deepknee.shards import Row
from kneel.engine.ray_cluster import Share

pytest.importorskip("pyarrow", reason="pyarrow comes with the extra: pip install '.[ray]'")


@pytest.fixture
def film(tmp_path):
    """A film of two knees."""
    path = tmp_path / "film"
    path.write_text("R L")
    (found,), _ = find_films([str(path)], tmp_path / "out")
    return found


@pytest.fixture
def folder(tmp_path):
    """Where it is read into."""
    return ShardFolder.by(snapshots(), tmp_path / "out")


def read(film, folder):
    plan = folder.plan([film])
    folder.open(plan.run)
    folder.save(film_rows(film, make_reader(), folder), plan.run)
    return plan


def results(folder):
    return (folder.root / "results.csv").read_text()


def test_empty_folders_of_the_other_kind_are_no_films_of_it(film, folder, tmp_path):
    one = OutputFolder.by(snapshots(), tmp_path / "out")
    one.open([])  # as a run leaves it that is stopped before its first film
    read(film, folder)
    with pytest.raises(FolderError, match="holds films read with --ray"):
        one.pending([film])
    for path in folder.paths():
        path.unlink()
    read_films([film], [], one, make_reader)
    with pytest.raises(FolderError, match="holds films read without --ray"):
        folder.plan([film])


@pytest.mark.parametrize("moves", [0, 1])
def test_what_a_killed_writer_leaves_is_removed_when_all_is_read(film, folder, monkeypatch, moves):
    plan, move, moved = folder.plan([film]), os.replace, []
    folder.open(plan.run)
    mine = folder.root / "shards" / ".notes-000001-0123456789abcdef"
    mine.touch()

    def killed(old, new):
        moved.append(new)
        if len(moved) > moves:
            raise KeyboardInterrupt
        move(old, new)

    rows = film_rows(film, make_reader(), folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # the dead tidy nothing up
        with pytest.raises(KeyboardInterrupt):
            folder.save(rows, plan.run)
    (left,) = set((folder.root / "shards").iterdir()) - {mine}
    write_tables(folder, plan, interrupted=True)
    assert left.exists()
    write_tables(folder, read(film, folder))
    assert set((folder.root / "shards").iterdir()) == {mine, *folder.paths()}


def test_the_name_of_a_shard_outlives_a_power_cut(film, folder, monkeypatch):
    synced = []
    monkeypatch.setattr(shard_folder, "sync_folder", lambda path: synced.append(sorted(path.glob("*.parquet"))))
    read(film, folder)
    assert synced == [folder.paths()]
    assert len(synced[0]) == 1


def test_ctrl_c_removes_nothing(film, folder, monkeypatch):
    write_tables(folder, read(film, folder))
    before, shards = results(folder), folder.paths()
    assert len(before.splitlines()) == 3
    monkeypatch.setattr("deepknee.ray_read._on_cluster", lambda *_: True)  # stopped before anything is read
    summary = read_over_ray([film], [], folder, make_reader, address="local", share=Share(), overwrite=True)
    assert summary.interrupted
    assert (summary.read, summary.knees) == (1, 2)
    assert (results(folder), folder.paths()) == (before, shards)


@pytest.mark.parametrize("reason", list(map(str, range(8))))  # other names of the shard: some come first, some last
def test_of_one_run_what_was_read_goes_before_what_was_given_up(film, folder, reason):
    plan = read(film, folder)
    folder.save([Row(film.file, film.key, "failed", reason)], plan.run)
    assert folder.plan([film]).pending == []
    assert write_tables(folder, plan) == Tally(1, 0, 2)
    assert len(results(folder).splitlines()) == 3
    folder.save([Row(film.file, film.key, "failed", reason)], plan.run + 1)
    assert folder.plan([film]).pending == [film], "of a newer run it counts"
