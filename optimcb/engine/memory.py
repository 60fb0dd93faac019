"Memory for state: in huge pages on the CPU, since a step over small pages waits for their addresses more than for their numbers."
import mmap

import torch
from torch import Tensor

__all__ = ['hand_out', 'new_states']

HUGE = 2 << 20 # bytes of a huge page
ALIGN = 64 # bytes: a cache line, and the widest vector


def new_states(
    alike, # Parameters, and their states
    fresh:dict, # By name: type, whether it has the parameter's shape, and the slot of what it starts from
    slots:list # Numbers
) -> dict[str, list[Tensor]]:
    "New state for each of the parameters, by name."
    each = [name for name, (_, each, _) in fresh.items() if each]
    tensors = iter(_zeros([(p, fresh[name][0]) for name in each for p in alike.params]))
    made = {name: [next(tensors) for _ in alike.params] for name in each}
    for name, (dtype, each, born) in fresh.items():
        if not each: made[name] = [torch.zeros((), dtype=dtype, device=p.device) for p in alike.params]
        if born is not None and slots[born]:
            for t in made[name]: t.fill_(slots[born])
    return made


def hand_out(
    alike, # Parameters, and their states
    made:dict # New state for each of them, by name
):
    "Put new state where it belongs."
    for name, tensors in made.items():
        for s, t in zip(alike.states, tensors): s[name] = t


def _zeros(wanted) -> list[Tensor]:
    "Tensors of zeros with the shapes and layouts of parameters"
    sizes = [-(-p.numel()*dtype.itemsize // ALIGN)*ALIGN for p, dtype in wanted]
    pages = _pages(sum(sizes)) if wanted and wanted[0][0].is_cpu else None
    if pages is None: return [torch.empty_strided(p.shape, p.stride(), dtype=dtype, device=p.device).zero_() for p, dtype in wanted]
    at, res = pages[1], []
    for (p, dtype), size in zip(wanted, sizes):
        res.append(torch.frombuffer(pages[0], dtype=dtype, count=p.numel(), offset=at).as_strided(p.shape, p.stride()))
        at += size
    return res


def _pages(size) -> tuple[mmap.mmap, int]|None:
    "Zeroed memory, freed with the last tensor in it, and where in it the first huge page begins; None where the system has none or it isn't worth it"
    if size < HUGE or not hasattr(mmap, 'MADV_HUGEPAGE'): return None
    try:
        pages = mmap.mmap(-1, size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) # private: a child after fork has its own
        pages.madvise(mmap.MADV_HUGEPAGE)
    except OSError: return None
    return pages, -torch.frombuffer(pages, dtype=torch.uint8).data_ptr() % HUGE
