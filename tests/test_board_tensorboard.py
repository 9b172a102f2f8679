"""Boards for TensorBoard, read back by TensorBoard's own reader."""

import math
import sys

import numpy as np
import pytest

from kneel.engine.board import Showing
from kneel.engine.board_tensorboard import TensorBoard
from kneel.engine.config import ConfigError


def table(epochs):
    return [
        {"epoch": epoch, "train_loss": 1 / epoch, "kappa": 0.5, "kappa_low": 0.4, "kappa_high": math.nan}
        for epoch in range(1, epochs + 1)
    ]


def test_without_tensorboard_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match="pip install tensorboard"):
        TensorBoard(tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_resumed_training_shows_no_point_and_no_picture_twice(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is an extra and not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, last in ((1, 3), (3, 4)):  # epoch 3 was shown, but its snapshot was lost: it is trained again
        board = TensorBoard(tmp_path / "tensorboard")
        showing = Showing(tmp_path, board)
        showing.begin(table(first - 1))
        for epoch in range(first, last + 1):
            showing.epoch(table(epoch), np.zeros((8, 8, 3), np.uint8))
        board.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train_loss")] == [
        (epoch, pytest.approx(1 / epoch)) for epoch in (1, 2, 3, 4)
    ]
    assert [event.value for event in events.Scalars("kappa_low")] == pytest.approx([0.4] * 4)
    assert [event.step for event in events.Images("predictions")] == [1, 2, 3, 4]
