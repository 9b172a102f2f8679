import math

import numpy as np
import pytest
import torch
from PIL import Image

from kneel.engine.board import (
    Showing,
    find_pictures,
    picture_path,
    quantities,
    read_metrics,
    replay,
    with_intervals,
    write_metrics,
)
from kneel.engine.curves import windows
from kneel.engine.pictures import draw, handful, side_by_side


class Shown:
    """A board that notes what it is given."""

    def __init__(self):
        self.calls = []

    def show(self, rows, pictures):
        self.calls.append(([dict(row) for row in rows], list(pictures)))


def row(epoch, **values):
    return {"epoch": epoch, **values}


def test_csv_is_whole_and_exact(tmp_path):
    path = tmp_path / "metrics.csv"
    rows = [row(1, loss=0.1 + 0.2, auc=math.nan), {"auc": 0.5, "loss": 1e-300, "epoch": 2}]
    write_metrics(path, rows)
    assert path.read_text() == "epoch,loss,auc\n1,0.30000000000000004,nan\n2,1e-300,0.5\n"
    assert str(read_metrics(path)) == str([rows[0], row(2, loss=1e-300, auc=0.5)])
    with pytest.raises(ValueError, match="epoch 3: other columns than in the first row: auc, kappa"):
        write_metrics(path, [*rows, row(3, loss=1.0, kappa=1.0)])


@pytest.mark.parametrize("bad", ["epoch,a\n1,x\n", "a\n1\n", "epoch,a\n1\n", "epoch,a\n1,2,3\n"])
def test_what_is_no_table_of_a_training_is_refused_with_its_line(tmp_path, bad):
    (tmp_path / "metrics.csv").write_text(bad)
    with pytest.raises(ValueError, match=r"metrics.csv, line 2: must hold an epoch and numbers"):
        read_metrics(tmp_path / "metrics.csv")


def test_intervals_stand_behind_their_metric_and_are_no_metrics_themselves():
    found = with_intervals({"kappa": 0.5, "mae": 1.0}, {"kappa": (0.123456789, math.nan)})
    assert list(found) == ["kappa", "kappa_low", "kappa_high", "mae"]
    assert found["kappa_low"] == 0.123457
    assert quantities(row(1, **found)) == ["kappa", "mae"]
    with pytest.raises(ValueError, match="auc: no metric of that name"):
        with_intervals({"kappa": 0.5}, {"auc": (0.0, 1.0)})
    with pytest.raises(ValueError, match="_low and _high"):
        with_intervals({"a": 0.5, "a_low": 0.1}, {"a": (0.0, 1.0)})


def test_windows_hold_what_belongs_together():
    values = dict.fromkeys(("train_loss", "val_loss", "kappa", "recall_0", "recall_1", "within_1.5mm"), 1.0)
    found = windows([row(1, **values, kappa_low=0.5, kappa_high=2.0), row(2, **values, kappa_low=0.6, kappa_high=1.5)])
    assert {title: [curve.name for curve in curves] for title, curves in found.items()} == {
        "loss": ["train_loss", "val_loss"],
        "kappa": ["kappa"],
        "recall": ["recall_0", "recall_1"],
        "within": ["within_1.5mm"],
    }
    (kappa,) = found["kappa"]
    assert (kappa.values, kappa.low, kappa.high) == ((1.0, 1.0), (0.5, 0.6), (2.0, 1.5))
    assert found["loss"][0].low is None


def test_the_folder_keeps_what_its_board_was_shown(tmp_path):
    grey = np.full((8, 8, 3), 128, np.uint8)
    board = Shown()
    showing = Showing(tmp_path, board)
    showing.begin([])
    rows = [row(1, loss=1.0)]
    showing.epoch(rows, grey)
    rows.append(row(2, loss=0.5))
    showing.epoch(rows, None)
    assert board.calls == [(rows[:1], [1]), (rows, [1])]
    with Image.open(picture_path(tmp_path, 1)) as image:
        np.testing.assert_allclose(np.asarray(image), grey, atol=1)
    again = Shown()
    assert replay(tmp_path, again) == 2
    assert again.calls == [(rows, [1])]


def test_a_training_is_resumed_with_a_metric_more_and_one_less(tmp_path):
    board = Shown()
    showing = Showing(tmp_path, board)
    rows = [row(1, loss=1.0, old=3.0), row(2, loss=0.5, kappa=0.7, kappa_low=0.6)]
    showing.begin(rows[:1])
    showing.epoch(rows, None)
    wanted = "epoch,loss,kappa,kappa_low,old\n1,1.0,nan,nan,3.0\n2,0.5,0.7,0.6,nan\n"
    assert (tmp_path / "metrics.csv").read_text() == wanted
    shown = board.calls[-1][0]
    assert str(shown) == str(read_metrics(tmp_path / "metrics.csv"))
    (kappa,) = windows(shown)["kappa"]
    assert str(kappa.values) == "(nan, 0.7)"


def test_a_resumed_training_forgets_pictures_of_epochs_that_it_does_not_have(tmp_path):
    showing = Showing(tmp_path, Shown())
    rows = [row(epoch, loss=1.0) for epoch in (1, 2, 3)]
    for count in (1, 2, 3):
        showing.epoch(rows[:count], np.zeros((8, 8, 3), np.uint8))
    board = Shown()
    Showing(tmp_path, board).begin(rows[:2])
    assert board.calls == [(rows[:2], [1, 2])]
    Showing(tmp_path, board).begin([])
    assert not find_pictures(tmp_path)
    assert len(board.calls) == 1


def test_without_a_board_there_are_no_pictures(tmp_path):
    Showing(tmp_path, None).epoch([row(1, loss=1.0)], None)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize(("length", "chosen"), [(1, [0]), (3, [0, 1, 2]), (16, [0, 2, 4, 6, 8, 10, 12, 14])])
def test_the_handful_is_spread_over_the_set(length, chosen):
    assert handful(length) == chosen


def test_the_grid_has_four_columns():
    tiles = [np.full((2, 3, 3), number, np.uint8) for number in range(5)]
    grid = side_by_side(tiles)
    assert grid.shape == (2 * 2 + 4, 4 * 3 + 3 * 4, 3)
    assert (grid[:2, 7:10] == 1).all()
    assert (grid[6:, :3] == 4).all()
    assert (grid[6:, 3:] == 255).all()


def test_a_task_draws_the_handful_with_the_network_in_evaluation_mode():
    class Task:
        def pictures(self, model, batch):
            assert not model.training
            assert not torch.is_grad_enabled()
            return [np.full((4, 4, 3), int(value), np.uint8) for value in batch]

    grid = draw(Task(), torch.nn.Dropout(), torch.arange(20), lambda batch: batch)
    assert [int(value) for value in grid[0, 1::8, 0]] == handful(20)[:4]
