"""The fused engine on CUDA: launch a program as Triton kernels, for all parameters at once.

Kernels look everything up in tables of 64-bit numbers, so the compiled code contains no size, address or
hyper-parameter. `table` is sent in each step: for each member of a launch, a row of numbers, which are the
program's arguments, and for each tensor, a row of addresses, one per column. Two tables stay on the device.
`chunks` has a row for each chunk of elements: its tensor, start and size, and the positions of its tensor's
addresses and numbers in `table`. `tensors` has a row for each tensor: these positions, its size, its first
chunk, and the one after its last."""
from contextlib import contextmanager

import numpy as np
import torch

from optimcb.engines.c_compiler import CantBuild
from optimcb.engines.launch import KernelLaunch
from optimcb.engines.triton_source import ARGUMENTS, CHUNK, PRELUDE, functions, source

__all__ = ['ARGUMENTS', 'OPTIONS', 'PRELUDE', 'Launch', 'functions', 'source']


OPTIONS = {'num_warps': 4, 'enable_fp_fusion': False}


def _upload(array, device) -> torch.Tensor:
    """Copy to a device asynchronously, on its current stream.

    torch keeps the pinned memory alive until then"""
    if device.type == 'cpu': return torch.from_numpy(array.copy()) # for Triton's interpreter
    pinned = torch.empty(array.shape, dtype=torch.int64, pin_memory=True)
    pinned.numpy()[...] = array
    return pinned.to(device, non_blocking=True)


def _tables(member, sizes, unsharded_sizes, columns, slots) -> tuple[np.ndarray, np.ndarray]:
    """Build `chunks` and `tensors`, from each parameter's member, and its sizes in this process and in all"""
    each, ends = np.arange(len(sizes)), np.cumsum(-(-sizes//CHUNK))
    rows = (member[-1] + 1)*slots + each*columns
    tensors = np.stack([rows, member*slots, unsharded_sizes, np.append(0, ends[:-1]), ends], 1)
    of = np.repeat(each, np.diff(ends, prepend=0))
    start = (np.arange(ends[-1]) - tensors[of, 3])*CHUNK
    counts = np.minimum(CHUNK, sizes[of] - start)
    return np.stack([of, start, counts, tensors[of, 0], tensors[of, 1]], 1), tensors


class Launch(KernelLaunch):
    """Launch of kernels for parameters whose programs have the same key, with the kernels' arguments.

    Everything that is the same in each step is created once. Raises `Unsupported` and `CantBuild`."""
    def __init__(self,
        members:list, # `(bucket, program)`: programs with the same key
        at:list, # Of each of them, the index of its first parameter in the plan
        plan # Plan, which knows where parameters and state lie
    ):
        super().__init__(members, at, plan)
        self.device = members[0][0].example.device
        text = source(self.program)
        columns, numbers = self.columns, len(members)*len(self.program.slots)
        self.host = np.zeros(numbers + self.rows[-1]*len(columns), np.int64)
        self.numbers = self.host[:numbers].view(np.float64).reshape(len(members), -1)
        self.memory = self.host[numbers:].reshape(self.rows[-1], -1)
        self._place_all(plan)
        sizes = plan.sizes[self.places], plan.unsharded_sizes[self.places]
        tables = _tables(self.member, *sizes, len(columns), len(self.program.slots))
        tables = dict(zip(('chunks', 'tensors'), tables))
        self.count = {k: len(t) for k, t in tables.items()}
        with self._here() as stream:
            self.tables, self.stream = [_upload(t, self.device) for t in tables.values()], stream
            self._build(text, stream)

    def _build(self, text, stream):
        "Compile the kernels, before any change"
        self._send(stream)
        try:
            known = functions(text)
            passes = self.program.passes
            self.kernels = [[(known[name], self.count[over]) for name, over in o] for o in passes]
            for o in self.kernels:
                for kernel, _ in o: kernel[(0,)](*self.arguments, **OPTIONS) # empty grid: only compiles
        except Exception as e:
            raise CantBuild(f"Triton can't build a kernel ({type(e).__name__}: {e}).") from None

    @contextmanager
    def _here(self):
        "Switch to the device, and return its current stream"
        if self.device.type == 'cpu': yield None
        else:
            with torch.cuda.device(self.device): yield torch.cuda.current_stream()

    def start(self,
        recordings:list, # Of each member
        plan # Where the gradients are
    ):
        "Send this step's gradients and numbers."
        with self._here() as stream:
            self._fill(recordings, plan)
            self._send(stream)

    def capture(self,
        recordings:list, # Of each member
        plan # Where the gradients are
    ):
        "Start a step that a CUDA graph captures; `renew` sends its numbers later."
        with self._here() as stream:
            self._fill(recordings, plan)
            self.captured = torch.empty(len(self.host), dtype=torch.int64, device=self.device)
            self._send(stream, self.captured)

    def renew(self,
        recordings:list, # Of each member
        plan # Where the gradients are
    ):
        "Send new numbers to kernels in a CUDA graph."
        with self._here():
            self._fill(recordings, plan)
            self.captured.copy_(_upload(self.host, self.device))

    def _send(self, stream, table=None):
        "Prepare the arguments of a step's kernels, in memory of the current stream"
        for t in self.tables if stream != self.stream else (): t.record_stream(stream)
        sums, totals = len(self.program.sums), len(self.program.totals)
        def room(rows, columns):
            return torch.empty(rows, columns, dtype=torch.float64, device=self.device) if columns else None
        self.yields, self.totals = room(self.count['tensors'], totals), room(1, totals)
        partial, self.sums = room(self.count['chunks'], sums), room(self.count['tensors'], sums)
        table = _upload(self.host, self.device) if table is None else table
        self.arguments = *self.tables, table, partial, self.sums, self.yields, self.totals

    def call(self, i):
        "Call the functions at the end of phase `i`, and send the addresses of their results."
        with self._here():
            super().call(i)
            self.arguments = *self.tables, _upload(self.host, self.device), *self.arguments[3:]

    def phase(self, i) -> dict[int, torch.Tensor]:
        "Launch a phase; return the sums of the values that it yields, by round, on the device."
        with self._here():
            for kernel, count in self.kernels[i]: kernel[(count,)](*self.arguments, **OPTIONS)
            if self.sharding: self._gather_sums(i, self.sums)
            return self._yielded(i)

    def take(self, totals):
        "Receive the totals over all parameters, by round."
        for j, (round, _) in enumerate(self.program.rounds):
            if round in totals: self.totals[0, j] = totals[round]

    def finish(self):
        "Put new state into the parameters' state."
        super().finish()
        self.made = self.held = self.arguments = self.sums = self.yields = self.totals = None
