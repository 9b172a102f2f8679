import socket
import sys
import types

import pytest

from kneel.engine.board import MetricsCsv, VisdomBoard


@pytest.fixture
def listening():
    """A port where something listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def deaf():
    """A port where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def visdom(monkeypatch):
    """A visdom that only notes what it is asked; ``fail`` makes the server die."""
    module = types.ModuleType("visdom")
    module.lines, module.clients, module.fail = [], [], False

    class Visdom:
        def __init__(self, **arguments):
            module.clients.append(arguments)

        def line(self, **arguments):
            if module.fail:
                raise ConnectionError("Error connecting to Visdom server")
            module.lines.append(arguments)

    module.Visdom = Visdom
    monkeypatch.setitem(sys.modules, "visdom", module)
    return module


def test_csv_is_complete_after_every_row(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("of an earlier run")
    table = MetricsCsv(path)
    assert path.read_text() == "of an earlier run"
    table.scalars(1, {"loss": 0.1 + 0.2, "auc": float("nan")})
    assert path.read_text() == "epoch,loss,auc\n1,0.30000000000000004,nan\n"
    table.scalars(2, {"auc": 0.5, "loss": 1e-300})
    assert path.read_text() == "epoch,loss,auc\n1,0.30000000000000004,nan\n2,1e-300,0.5\n"
    with pytest.raises(ValueError, match="epoch 3: other columns than in the first row: auc, kappa"):
        table.scalars(3, {"loss": 1.0, "kappa": 1.0})


def test_unreachable_visdom_costs_one_warning(deaf, monkeypatch):
    monkeypatch.setitem(sys.modules, "visdom", None)  # importing it would raise
    with pytest.warns(UserWarning, match=f"no visdom at http://localhost:{deaf} ") as caught:
        board = VisdomBoard(port=deaf)
    assert len(caught) == 1
    board.scalars(1, {"loss": 1.0})  # another warning would be an error


def test_visdom_shows_training_and_validation_together(listening, visdom):
    board = VisdomBoard("127.0.0.1", listening, env="run")
    (client,) = visdom.clients
    assert (client["server"], client["port"], client["env"]) == ("http://127.0.0.1", listening, "run")
    for epoch in (1, 2):
        board.scalars(epoch, {"train_loss": 3.0, "loss": 4.0, "kappa": 0.5})
    shown = [
        (line["win"], line["name"], line["X"].tolist(), line["Y"].tolist(), line["update"]) for line in visdom.lines
    ]
    assert shown[:3] == [
        ("loss", "train_loss", [1], [3.0], None),
        ("loss", "loss", [1], [4.0], "append"),
        ("kappa", "kappa", [1], [0.5], None),
    ]
    assert [line[-1] for line in shown[3:]] == ["append"] * 3


def test_visdom_that_dies_costs_one_warning(listening, visdom):
    board = VisdomBoard("127.0.0.1", listening)
    board.scalars(1, {"loss": 1.0})
    visdom.fail = True
    with pytest.warns(UserWarning, match="no visdom at") as caught:
        board.scalars(2, {"loss": 1.0, "kappa": 1.0})
    assert len(caught) == 1
    board.scalars(3, {"loss": 1.0, "kappa": 1.0})  # another warning would be an error
    assert len(visdom.lines) == 1
