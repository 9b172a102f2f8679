import os

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """The suite runs a worker a core; torch's own threads would only get in each other's way."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Decoded pictures stay out of the user's cache; processes that tests start find them here too."""
    os.environ["KNEEL_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def nodes():
    """Start one cluster for all tests: that takes longer than many of them."""
    from ray_nodes import Nodes

    nodes = Nodes()
    yield nodes
    nodes.stop()


@pytest.fixture(scope="module")
def two_nodes(nodes):
    """A Ray cluster of two nodes whose processes can import what the tests can; this process is connected to it."""
    with nodes.connected():
        yield nodes


@pytest.fixture
def steady_code(monkeypatch):
    """Somebody may commit while two runs are compared byte by byte."""
    monkeypatch.setattr("kneel.engine.record.code_version", lambda: {"commit": "0" * 40})
