"""Where state lies in memory, and whether it still does.

Reading the address of each state in each step would take most of its time. State in an arena is known to
stay as long as the arena has as many storages as before. One of them may yet have been given other memory
by somebody who keeps the old one: some of these are looked at in each step, in turn."""
from bisect import bisect
from itertools import cycle

import numpy as np
from torch import Tensor

from optimcb.engines.arena import Arena

__all__ = ['Addresses', 'IN_TURN', 'StateMemory']


IN_TURN = 64 # states in arenas whose addresses are checked in one step


class Addresses:
    "Tensors that must stay where they are in memory."
    def __init__(self,
        tensors:list, # Kept as long as this is
        ptrs:list # Their addresses
    ):
        self.tensors = tensors
        self.ids, self.ptrs = np.array(list(map(id, tensors)), np.int64), np.array(ptrs, np.int64)
        self.at = self.ids.ctypes.data, self.ptrs.ctypes.data # for C

    def have_moved(self,
        look=None, # `OnePass`, which asks it in C; None: Python does
        first:int=0, # First tensor to look at
        most:int|None=None # Number of tensors to look at, if there are so many; default: all
    ) -> bool:
        "Does one of them lie elsewhere now?"
        end = len(self.tensors) if most is None else min(len(self.tensors), first + most)
        if look: return look.have_moved(*(at + 8*first for at in self.at), end - first)
        return list(map(Tensor.data_ptr, self.tensors[first:end])) != self.ptrs[first:end].tolist()


class StateMemory:
    "The addresses of state: in arenas that have no other storages, and elsewhere."
    def __init__(self,
        states:list, # Tensors
        ptrs:list # Their addresses
    ):
        self.arenas, is_inside = _arenas(states, ptrs)
        self.inside, self.others = (
            Addresses([t for t, o in zip(states, is_inside) if o is wanted],
                      [ptr for ptr, o in zip(ptrs, is_inside) if o is wanted]) for wanted in (True, False))
        self.turns = cycle(range(0, max(1, len(self.inside.tensors)), IN_TURN))

    def has_changed(self,
        look=None # `OnePass`, which asks it in C; None: Python does
    ) -> bool:
        "Does some state lie elsewhere now, as far as this step looks?"
        if any(arena.storages != n for arena, n in self.arenas): return True
        if self.others.tensors and self.others.have_moved(look): return True
        return bool(self.inside.tensors) and self.inside.have_moved(look, next(self.turns), IN_TURN)


def _arenas(states, ptrs) -> tuple[list, list]:
    """Return the arenas whose storages are all among `states`, with their counts; and for each state, whether
    it is in one of them"""
    arenas = sorted(Arena.all(), key=lambda arena: arena.span.start)
    starts, inside, where = [arena.span.start for arena in arenas], [set() for _ in arenas], []
    for t, ptr in zip(states, ptrs):
        i = bisect(starts, ptr) - 1
        where.append(i if i >= 0 and ptr in arenas[i].span else None)
        if where[-1] is not None: inside[i].add(id(t))
    whole = {i for i, found in enumerate(inside) if found and len(found) == arenas[i].storages}
    return [(arenas[i], len(inside[i])) for i in sorted(whole)], [i in whole for i in where]
