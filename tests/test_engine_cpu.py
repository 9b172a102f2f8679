import sys

import pytest
import torch

from kneel.engine.cpu import cpu_threads, keep_freed_memory


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
