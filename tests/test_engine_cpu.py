import sys

import pytest
import torch

from kneel.engine.cpu import cpu_threads, keep_freed_memory, lay_out


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_freed_memory_is_used_again_without_the_kernel():
    """After the first round, 64 buffers of 8 MB cost no new pages; by default every one is mapped anew."""
    import resource

    if not keep_freed_memory():
        pytest.skip("no glibc here")

    def faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(64):
            torch.ones(2 << 20)  # 2,048 pages each
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults()
    assert faults() < 64 * 2048 / 10


def test_threads_are_put_back():
    before = torch.get_num_threads()
    seen = []

    def broken():
        with cpu_threads(1):
            seen.append(torch.get_num_threads())
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    assert seen == [1]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("bf16", "device", "plain"), [(False, "cpu", True), (True, "cpu", False), (False, "cuda", False)]
)
def test_only_a_cpu_without_bf16_trains_in_the_plain_layout(monkeypatch, bf16, device, plain):
    monkeypatch.setattr("kneel.engine.cpu.cpu_has_bf16", lambda: bf16)
    net = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    picture = torch.randn(2, 3, 8, 8)
    expected = net(picture)
    lay_out(net, torch.device(device))
    assert net.weight.is_contiguous() == plain
    torch.testing.assert_close(net(picture), expected)
