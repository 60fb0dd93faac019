"""Allocate memory for state, on the CPU in huge pages: with small pages, address translation takes more time
than the data."""
import mmap
import threading
import weakref

import torch
from torch import Tensor

from optimcb._compat.cpython import references
from optimcb.tracing.ir import PER_ELEMENT

__all__ = ['Arena', 'hand_out', 'new_states']


HUGE = 2 << 20 # bytes of a huge page
ALIGN = 64 # bytes: a cache line, and the widest vector


class Pages(mmap.mmap):
    "Mapped memory, which its storages keep alive, and which keeps its arena alive."


class Arena:
    """Zeroed memory for many tensors, each with its own storage; freed with the last tensor.

    As its storages keep references to its pages, their count shows whether all are still alive. Each step
    checks that, instead of the address of every tensor."""
    _known, _lock = weakref.WeakSet(), threading.RLock()

    def __init__(self,
        size:int # Bytes
    ):
        # private: a forked child gets its own copy
        pages = Pages(-1, size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if size >= HUGE and hasattr(mmap, 'MADV_HUGEPAGE'): pages.madvise(mmap.MADV_HUGEPAGE)
        start = torch.frombuffer(pages, dtype=torch.uint8).data_ptr()
        self.at = -start % HUGE
        self.span = range(start + self.at, start + self.at + size)
        pages.arena, self.pages = self, weakref.ref(pages)
        self.keep = pages # until the first tensor keeps them alive
        with Arena._lock: Arena._known.add(self)

    def tensor(self,
        like:Tensor, # Parameter
        dtype:torch.dtype # Dtype of the tensor
    ) -> Tensor:
        "Return the next tensor of the arena, with the shape and layout of a parameter."
        n = like.numel()
        if n == 0: return torch.empty_strided(like.shape, like.stride(), dtype=dtype)
        t = torch.frombuffer(self.pages(), dtype=dtype, count=n, offset=self.at)
        if like.stride() != (1,): t = t.as_strided(like.shape, like.stride())
        self.at += _room(like, dtype)
        self.keep = None
        return t

    @classmethod
    def all(cls) -> list:
        "List the arenas of all living tensors."
        with cls._lock: return list(cls._known)

    @property
    def storages(self) -> int:
        "The number of storages in the arena."
        return references(self.pages)


def new_states(
    bucket, # Parameters and their states
    fresh:dict, # By name, a `FreshState`
    slots:list # Numbers
) -> dict[str, list[Tensor]]:
    "Create new state for all parameters of a bucket, by name."
    if not fresh: return {}
    per_element = [name for name, o in fresh.items() if o.extent is PER_ELEMENT]
    wanted = [(p, fresh[name].dtype) for name in per_element for p in bucket.params]
    tensors = iter(_zeros(wanted, alone=len(bucket.params) == 1))
    made = {name: [next(tensors) for _ in bucket.params] for name in per_element}
    for name, (dtype, extent, born) in fresh.items():
        if extent is not PER_ELEMENT:
            made[name] = [torch.zeros((), dtype=dtype, device=p.device) for p in bucket.params]
        if born is not None and slots[born]:
            for t in made[name]: t.fill_(slots[born])
    return made


def hand_out(
    bucket, # Parameters and their states
    made:dict # New state for each of them, by name
):
    "Put new state into the parameters' state."
    for name, tensors in made.items():
        for s, t in zip(bucket.states, tensors): s[name] = t


def _room(p, dtype) -> int: return -(-p.numel()*dtype.itemsize // ALIGN)*ALIGN


def _zeros(wanted, alone) -> list[Tensor]:
    """Create tensors of zeros with the shapes and layouts of parameters.

    A single small tensor (`alone`) gains nothing from an arena, and there may be thousands of them"""
    size = sum(_room(p, dtype) for p, dtype in wanted)
    if wanted and wanted[0][0].is_cpu and hasattr(mmap, 'MAP_PRIVATE') and not (alone and size < HUGE):
        try: arena = Arena(size)
        except OSError: pass # the process has no more memory maps
        else: return [arena.tensor(p, dtype) for p, dtype in wanted]
    def zeros(p, dtype): return torch.empty_strided(p.shape, p.stride(), dtype=dtype, device=p.device).zero_()
    return [zeros(p, dtype) for p, dtype in wanted]
