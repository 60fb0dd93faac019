"What launches on a GPU need of CUDA, on a CPU: memory that is sent arrives at once, there is one stream, and a driver of Triton launches nothing."
from contextlib import nullcontext

import torch
from triton.backends.compiler import GPUTarget

from optimcb.engines import triton_kernels
from optimcb.engines.triton_kernels import Launch


class Buffers:
    def __init__(self, size): self.size = size
    def send(self, numbers, table):
        assert len(numbers) == len(table) == self.size
        table.copy_(torch.from_numpy(numbers))


class CapturedTable:
    def __init__(self, size, device): self.table, self.held = torch.full((size,), -1), None
    def fill(self, numbers):
        self.table.copy_(torch.from_numpy(numbers))
        return True


def install(put=setattr):
    "Let tensors on the CPU pass for those on a GPU; `put` may be monkeypatch's"
    put(triton_kernels, 'uploaded', lambda array, device: torch.from_numpy(array.copy()))
    put(triton_kernels, 'Buffers', Buffers)
    put(triton_kernels, 'CapturedTable', CapturedTable)
    put(Launch, '_here', lambda self: nullcontext())
    put(Launch, '_current_stream', lambda self: 77)
    put(torch.cuda, 'synchronize', lambda device=None: None)


class FakeDriver:
    "Of Triton: compiles for a GPU that isn't there, and notes what is launched"
    def __init__(self, results=5, capability=90):
        self.launched, self.loaded, self.results, self.capability, self.utils = [], [], results, capability, self
        self.launcher_cls = self.Launcher
        self.get_current_device, self.get_current_stream = lambda: 0, lambda device: 77
        self.get_current_target = lambda: GPUTarget('cuda', capability, 32)

    def Launcher(self, src, metadata):
        def launch(*args): self.launched.append((src.fn.__name__, args))
        return launch

    def load_binary(self, name, *args):
        "Module, handle, registers, spills, and in later versions threads"
        self.loaded.append(name)
        return (1, f'handle of {name}', 32, 0, 1024)[:self.results]

    def unload_module(self, module): pass
    def get_device_properties(self, device): return dict(max_shared_mem=232448, multiprocessor_count=132, warpSize=32)
    def get_device_interface(self): return torch.cpu
