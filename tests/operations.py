"""Which operations of torch something comes to, for several test files."""

from torch.utils._python_dispatch import TorchDispatchMode


class Called(TorchDispatchMode):
    """Notes the names of all operations."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))

    def on_ten_bits(self):
        """Of them those that a GPU may round to TF32: convolutions and matrix products."""
        products = {"mm", "bmm", "addmm", "baddbmm", "matmul"}
        return {name for name in self.names if "conv" in name or name in products}
