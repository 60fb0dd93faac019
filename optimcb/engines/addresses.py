"""Where parameters and state lie in memory, and whether state still does.

Reading the address of each state in each step would take most of its time. State in an arena is known to
stay as long as the arena has as many storages as before. One of them may yet have been given other memory
by somebody who keeps the old one: some of these are looked at in each step, in turn."""
from bisect import bisect
from itertools import cycle

import numpy as np
from torch import Tensor

from optimcb._compat.dtensors import unsharded
from optimcb.engines.arena import Arena

__all__ = ['Addresses', 'IN_TURN', 'Memory']


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
        "Does one of the tensors lie at another address now?"
        end = len(self.tensors) if most is None else min(len(self.tensors), first + most)
        if look: return look.have_moved(*(at + 8*first for at in self.at), end - first)
        return list(map(Tensor.data_ptr, self.tensors[first:end])) != self.ptrs[first:end].tolist()


class Memory:
    """Where an optimizer's parameters and their states lie, by their places among all parameters.

    `addresses` are in a table for each name of state, and '.p' for the parameters themselves. `sizes` are
    those of the parameters, in this process and in all processes."""
    def __init__(self,
        n:int, # Number of all parameters
        found:dict # By the same names, pairs of a place and a tensor
    ):
        ptrs = {name: [t.data_ptr() for _, t in pairs] for name, pairs in found.items()}
        self.addresses = {name: _table(n, pairs, ptrs[name]) for name, pairs in found.items()}
        params = found['.p']
        self.sizes = _table(n, params, [p.numel() for _, p in params])
        self.unsharded_sizes = _table(n, params, [unsharded(p).numel() for _, p in params])
        names = [name for name in found if name != '.p']
        self._divide([t for name in names for _, t in found[name]],
                     [ptr for name in names for ptr in ptrs[name]])

    def _divide(self, states, ptrs):
        "Tell state in arenas that have no other storages from all other state"
        self.arenas, is_inside = _arenas(states, ptrs)
        self.inside, self.others = (
            Addresses([t for t, o in zip(states, is_inside) if o is wanted],
                      [ptr for ptr, o in zip(ptrs, is_inside) if o is wanted]) for wanted in (True, False))
        self.turns = cycle(range(0, max(1, len(self.inside.tensors)), IN_TURN))

    def state_has_moved(self,
        look=None # `OnePass`, which asks it in C; None: Python does
    ) -> bool:
        "Does some state lie elsewhere now, as far as this step looks?"
        if any(arena.storages != n for arena, n in self.arenas): return True
        if self.others.tensors and self.others.have_moved(look): return True
        return bool(self.inside.tensors) and self.inside.have_moved(look, next(self.turns), IN_TURN)


def _table(n, pairs, numbers) -> np.ndarray:
    "Put numbers at the places of `pairs` of a place and a tensor, in a table of `n`; the rest are 0"
    res = np.zeros(n, np.int64)
    res[[k for k, _ in pairs]] = numbers
    return res


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
