import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """The suite runs a worker a core; torch's own threads would only get in each other's way."""
    torch.set_num_threads(1)
