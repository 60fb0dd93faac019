"""Memory that launches on a GPU need besides the parameters' own: tables that the host sends, and pinned
buffers that they are sent from. Nothing here waits for the GPU."""
import time
from collections import deque
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ['Buffers', 'CapturedTable', 'uploaded']


LONGEST = 10 # seconds until a table of a few KB must have arrived


def uploaded(
    array:np.ndarray, # Numbers
    device:torch.device # Where to
) -> Tensor:
    "Copy to a device asynchronously. torch keeps the pinned memory until then."
    return torch.from_numpy(array).pin_memory().to(device, non_blocking=True)


class Buffer(NamedTuple):
    "Memory to send a table from."
    pinned: Tensor
    numbers: np.ndarray # The same memory
    copied: torch.cuda.Event # The last copy from it has run


class Buffers:
    "Pinned buffers, from which tables are sent. Each is used again only when its copy has run."
    def __init__(self,
        size:int # Numbers in a table
    ):
        self.size, self.sent = size, deque() # the buffer that was sent first is the first

    def send(self,
        numbers:np.ndarray, # What to send
        table:Tensor # On the device, where it is used in the order of the current stream
    ):
        "Copy `numbers` to `table`, on the current stream."
        buffer = self._free()
        buffer.numbers[:] = numbers
        table.copy_(buffer.pinned, non_blocking=True)
        buffer.copied.record()
        self.sent.append(buffer)

    def _free(self):
        "A buffer whose copy has run, or a new one"
        if self.sent and self.sent[0].copied.query(): return self.sent.popleft()
        pinned = torch.empty(self.size, dtype=torch.int64, pin_memory=True)
        return Buffer(pinned, pinned.numpy(), torch.cuda.Event())


@cache
def _other_stream(device) -> torch.cuda.Stream: return torch.cuda.Stream(device)


class CapturedTable:
    """The table of a step that a CUDA graph captures.

    While a graph captures, nothing can be allocated, and the current stream runs nothing. So the memory is
    there before, and is filled on another stream."""
    def __init__(self,
        size:int, # Numbers in a table
        device:torch.device # Of the graph
    ):
        self.stream = _other_stream(device)
        self.buffer = torch.ones(size + 1, dtype=torch.int64, pin_memory=True) # the last is a mark
        self.mark = torch.zeros(1, dtype=torch.int64, pin_memory=True)
        with torch.cuda.stream(self.stream):
            self.memory = torch.empty(size + 1, dtype=torch.int64, device=device)
        self.table, self.held = self.memory[:-1], None # `held` are tensors whose addresses are in it

    def fill(self,
        numbers:np.ndarray # What the kernels are to find
    ) -> bool:
        """Copy `numbers` to the table at once. Returns whether they have arrived.

        What waits for a stream or an event would break the capture off. So a mark is copied back after
        them, and the host looks for it in memory."""
        self.buffer.numpy()[:-1] = numbers
        with torch.cuda.stream(self.stream):
            self.memory.copy_(self.buffer, non_blocking=True)
            self.mark.copy_(self.memory[-1:], non_blocking=True)
        mark, end = self.mark.numpy(), time.monotonic() + LONGEST
        while not mark[0] and time.monotonic() < end: time.sleep(1e-5)
        return bool(mark[0])
