"""The fused engine on CUDA: launch a program as Triton kernels, for all parameters at once.

Kernels look everything up in tables of 64-bit numbers, so the compiled code contains no size, address or
hyper-parameter. `table` is sent in each step: for each member of a launch, a row of numbers, which are the
program's arguments, and for each tensor, a row of addresses, one per column. Two tables stay on the device.
`chunks` has a row for each chunk of elements: its tensor, start and size, and the positions of its tensor's
addresses and numbers in `table`. `tensors` has a row for each tensor: these positions, its size, its first
chunk, and the one after its last. Where a tensor has many chunks, their sums are joined in groups first."""
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch

from optimcb.engines.c_compiler import CantBuild
from optimcb.engines.cuda_memory import Buffers, CapturedTable, uploaded
from optimcb.engines.launch import KernelLaunch
from optimcb.engines.refusals import CantRun
from optimcb.engines.triton_key import provide_key
from optimcb.engines.triton_source import ALONE, ARGUMENTS, JOIN, PRELUDE, chunk_of, functions, source

__all__ = ['ARGUMENTS', 'OPTIONS', 'PRELUDE', 'Launch', 'functions', 'source']


OPTIONS = {'num_warps': 4, 'enable_fp_fusion': False}
TABLE = ARGUMENTS.index('table')
COUNT = 2 # field of a row of `chunks`: the number of elements
FIRST, LAST = 3, 4 # fields of a row of `tensors`
KEPT = [] # memory that CUDA graphs may still read


def _tables(member, sizes, unsharded_sizes, columns, slots, chunk) -> tuple[np.ndarray, np.ndarray]:
    """Build `chunks` of `chunk` elements, and `tensors`, from each parameter's member, and its sizes in this
    process and in all"""
    each, ends = np.arange(len(sizes)), np.cumsum(-(-sizes//chunk))
    rows = (member[-1] + 1)*slots + each*columns
    tensors = np.stack([rows, member*slots, unsharded_sizes, np.append(0, ends[:-1]), ends], 1)
    of = np.repeat(each, np.diff(ends, prepend=0))
    start = (np.arange(ends[-1]) - tensors[of, FIRST])*chunk
    counts = np.minimum(chunk, sizes[of] - start)
    return np.stack([of, start, counts, tensors[of, 0], tensors[of, 1]], 1), tensors


def _groups(tensors) -> tuple[np.ndarray, np.ndarray]:
    """Build tables like `tensors` for joins in two stages: first and last chunk of each group, first and last
    group of each tensor"""
    first, last = tensors[:, FIRST], tensors[:, LAST]
    counts = np.where(last - first <= ALONE, 1, -(-(last - first)//JOIN))
    ends = np.cumsum(counts)
    of = np.repeat(np.arange(len(tensors)), counts)
    groups, of_groups = np.zeros((ends[-1], tensors.shape[1]), np.int64), np.zeros_like(tensors)
    groups[:, FIRST] = first[of] + (np.arange(ends[-1]) - (ends - counts)[of])*JOIN
    groups[:, LAST] = np.where(counts[of] == 1, last[of], np.minimum(groups[:, FIRST] + JOIN, last[of]))
    of_groups[:, FIRST], of_groups[:, LAST] = ends - counts, ends
    return groups, of_groups


class Kernel(NamedTuple):
    "A kernel that is compiled and loaded."
    compiled: Any # Keeps it loaded
    run: Any # Launches it
    function: Any # Its handle
    metadata: Any # For `run`


class Arguments:
    "Arguments of kernels: tensors, and their addresses."
    def __init__(self,
        *tensors:torch.Tensor # In the order of `ARGUMENTS`
    ):
        self.tensors, self.pointers = list(tensors), [t.data_ptr() for t in tensors]


class Launch(KernelLaunch):
    """Launch of kernels for parameters whose programs have the same key, with the kernels' arguments.

    Everything that is the same in each step is created once: kernels get the same arguments in each, as
    addresses. Raises `Unsupported` and `CantBuild`."""
    def __init__(self,
        members:list, # `(bucket, program)`: programs with the same key
        at:list, # For each member, the index of its first parameter in the plan
        plan # Plan, which knows the addresses of parameters and state
    ):
        super().__init__(members, at, plan)
        self.device = members[0][0].example.device
        text = source(self.program)
        columns, numbers = self.columns, len(members)*len(self.program.slots)
        self.host = np.zeros(numbers + self.rows[-1]*len(columns), np.int64)
        self.numbers = self.host[:numbers].view(np.float64).reshape(len(members), -1)
        self.memory = self.host[numbers:].reshape(self.rows[-1], -1)
        self._place_all(plan)
        sizes = plan.memory.sizes[self.places], plan.memory.unsharded_sizes[self.places]
        chunk = chunk_of(self.program)
        tables = _tables(self.member, *sizes, len(columns), len(self.program.slots), chunk)
        self.count = dict(zip(('chunks', 'tensors'), map(len, tables)))
        with self._here():
            self._allocate(tables)
            self._build(text)
        self.spare = None # table for the next step that a graph captures

    def _allocate(self, tables):
        "Allocate what kernels read and write besides the parameters' tensors"
        sums, totals = len(self.program.sums), len(self.program.totals)
        def room(rows, columns): return torch.empty(rows, columns, dtype=torch.float64, device=self.device)
        partial, self.sums = room(self.count['chunks'], sums), room(self.count['tensors'], sums)
        self.yields, self.totals = room(self.count['tensors'], totals), room(1, totals)
        self.table = torch.empty(len(self.host), dtype=torch.int64, device=self.device)
        self.buffers = Buffers(len(self.host))
        chunks, tensors = (uploaded(t, self.device) for t in tables)
        rest = self.yields, self.totals
        self.arguments = Arguments(chunks, tensors, self.table, partial, self.sums, *rest)
        self.joins = [(self.count['tensors'], self.arguments)]
        groups, of_groups = _groups(tables[1])
        if sums and len(groups) > len(of_groups):
            found, of_found = (uploaded(t, self.device) for t in (groups, of_groups))
            middle = room(len(groups), sums)
            self.joins = [(len(groups), Arguments(chunks, found, self.table, partial, middle, *rest)),
                          (len(of_groups), Arguments(chunks, of_found, self.table, middle, self.sums, *rest))]
        self.stream = self._current_stream()
        self.streams = {self.stream} # that the memory is used on

    def _build(self, text):
        "Compile the kernels, before any change"
        try:
            provide_key()
            known = functions(text)
            passes = self.program.passes
            self.kernels = [[o for step in steps for o in self._launches(known, *step)] for steps in passes]
        except Exception as e:
            raise CantBuild(f"Triton can't build a kernel ({type(e).__name__}: {e}).") from None

    def _launches(self, known, name, over) -> list:
        "What is launched for a function: a kernel, its grid and its arguments; joins may have two stages"
        kernel = self._compiled(known[name])
        if name.startswith('join'): return [(kernel, *o) for o in self.joins]
        return [(kernel, self.count[over], self.arguments)]

    def _compiled(self, function):
        "Compile a kernel, and load it"
        compiled = function.warmup(*self.arguments.tensors, grid=(1,), **OPTIONS)
        run = compiled.run # loads it
        return Kernel(compiled, run, compiled.function, compiled.packed_metadata)

    def _run(self, kernel, count, arguments):
        "Launch a kernel as Triton does in the end, without what it looks up in each launch before"
        no_hooks = None, None, None
        kernel.run(count, 1, 1, self.stream, kernel.function, kernel.metadata, *no_hooks, *arguments.pointers)

    def _here(self):
        "Switch to the device, if it isn't the current one"
        is_current = torch.cuda.current_device() == self.device.index
        return nullcontext() if is_current else torch.cuda.device(self.device)

    def _current_stream(self) -> int: return torch._C._cuda_getCurrentRawStream(self.device.index)

    def _use(self, table):
        "Let the next kernels read a table"
        self.arguments.tensors[TABLE], self.arguments.pointers[TABLE] = table, table.data_ptr()

    def start(self,
        recordings:list, # Of each member
        plan # Where the gradients are
    ):
        "Send this step's gradients and numbers."
        with self._here():
            if self.spare is None: self.spare = CapturedTable(len(self.host), self.device)
            self._use(self.table)
            self._note_stream()
            self._fill(recordings, plan)
            self.buffers.send(self.host, self.table)

    def _note_stream(self):
        "Note the current stream: memory that is used on it isn't given to others before it is done"
        self.stream = self._current_stream()
        if self.stream in self.streams: return
        self.streams.add(self.stream)
        stream = torch.cuda.current_stream()
        for _, arguments in ((0, self.arguments), *self.joins):
            for t in arguments.tensors: t.record_stream(stream)

    def call(self, i):
        "Call the functions at the end of phase `i`, and send the addresses of their results."
        with self._here():
            super().call(i)
            self.buffers.send(self.host, self.table)

    def phase(self, i) -> dict[int, torch.Tensor]:
        "Launch a phase; return the sums of the values that it yields, by round, on the device."
        with self._here():
            for kernel, count, arguments in self.kernels[i]:
                if count: self._run(kernel, count, arguments)
            if self.sharding: self._gather_sums(i, self.sums)
            return self._yielded(i)

    def take(self, totals):
        "Receive the totals over all parameters, by round."
        for j, (round, _) in enumerate(self.program.rounds):
            if round in totals: self.totals[0, j] = totals[round]

    def finish(self):
        "Put new state into the parameters' state."
        super().finish()
        self.made = self.held = None

    # CUDA graphs

    def capture(self,
        recordings:list, # Of each member
        plan # Where the gradients are
    ) -> CapturedTable:
        "Start a step that a CUDA graph captures. Returns the table that its kernels read. Raises `CantRun`."
        with self._here():
            self._fill(recordings, plan)
            table, self.spare = self.spare, None
            if not table.fill(self.host):
                raise CantRun("the numbers of a step that a CUDA graph captures don't arrive on the GPU.")
            self.stream = self._current_stream()
            self._use(table.table)
        table.held = self.held
        return table

    def renew(self,
        recordings:list, # Of each member
        plan, # Plan of the parameters
        grads, # The addresses of the gradients that a graph has captured
        table:CapturedTable # That its kernels read
    ):
        "Send new numbers to kernels in a CUDA graph."
        with self._here():
            if self.spare is None: self.spare = CapturedTable(len(self.host), self.device)
            self._fill(recordings, plan, grads)
            self.buffers.send(self.host, table.table)
            table.held, self.made = self.held, None

    def disarm(self,
        table:CapturedTable # That kernels in a CUDA graph read
    ):
        """Let kernels in a CUDA graph do nothing: their chunks have no elements, and all addresses lead to
        one number. The launch can't be used any more, and its memory is kept."""
        with self._here():
            nowhere = torch.zeros(1, dtype=torch.int64, device=self.device)
            self.arguments.tensors[0][:, COUNT].zero_()
            table.table[self.numbers.size:] = nowhere.data_ptr()
            KEPT.append((self.arguments, self.joins, table, nowhere))
            torch.cuda.synchronize(self.device) # then no replay under way uses what is freed next
