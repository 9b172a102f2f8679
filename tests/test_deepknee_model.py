from pathlib import Path

import numpy as np
import pytest
import torch

from deepknee.model import KneeNet, pool

PARITY = Path(__file__).resolve().parents[1].parent / "shared" / "parity"


def authors_net(seed: int) -> KneeNet:
    weights = torch.load(PARITY / f"deepknee_seed_{seed}.pth", weights_only=True)
    net = KneeNet(width=64)
    net.load_state_dict({key.removeprefix("module."): value for key, value in weights.items()}, strict=True)
    return net.eval()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_logits_of_the_authors_weights(seed: int) -> None:
    if not PARITY.is_dir():
        pytest.skip("the authors' outputs are not beside this checkout")
    expected = np.load(PARITY / "deepknee_nets.npz")
    with torch.no_grad():
        found = authors_net(seed)(torch.from_numpy(expected["l"]), torch.from_numpy(expected["m"]))
    np.testing.assert_allclose(found.numpy(), expected[f"logits_{seed}"], atol=1e-5)


def test_parameters_and_map_size_of_the_paper() -> None:
    net = KneeNet(width=64).eval()
    assert sum(p.numel() for p in net.parameters()) == 595_077
    lateral, medial = net.features(*torch.zeros(2, 1, 1, 128, 128))
    assert lateral.shape == medial.shape == (1, 256, 10, 10)


@pytest.mark.parametrize(("width", "patch"), [(4, 106), (6, 128), (3, 64)])
def test_any_width_and_patch(width: int, patch: int) -> None:
    net = KneeNet(width=width, dropout=0.0)
    assert net(*torch.zeros(2, 3, 1, patch, patch)).shape == (3, 5)


def test_one_branch_reads_both_patches() -> None:
    torch.manual_seed(0)
    net = KneeNet(width=4).eval()
    lateral, medial = torch.randn(2, 2, 1, 64, 64)
    direct = [pool(net.branch(patch)) for patch in (lateral, medial)]
    expected = torch.cat(direct, 1) @ net.final[1].weight.T + net.final[1].bias
    torch.testing.assert_close(net(lateral, medial), expected)


def test_batch_norm_epsilon_of_the_paper() -> None:
    assert {m.eps for m in KneeNet(width=2).modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-3}
