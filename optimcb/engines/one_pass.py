"""Check in one pass, in C, that everything is as a plan noted it, and find the gradients' addresses.

Python's passes over lists in `plan` check the same in three to seven times the time. They are used if the
pass in C finds a change, if there is no compiler, or if the layout of tensors in memory isn't known."""
import ctypes
import sysconfig
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from optimcb.engines import c_compiler
from optimcb.tracing.bucket import Changed

__all__ = ['Addresses', 'OnePass']


SOURCE = (Path(__file__).parent/'one_pass.c').read_text()
SAME, MOVED, CHANGED = range(3)
# columns of a row, one for each parameter
COLUMNS = ('param', 'type', 'state', 'requires_grad', 'grad', 'ptr', 'grad_ptr', 'stepped', 'dtype',
           'grad_dtype', 'dim', 'shape', 'entries', 'numbers')
GRAD_PTR = COLUMNS.index('grad_ptr')
LIBTORCH = ('data_ptr', 'dim', 'sizes', 'strides', 'dtype')
NAMES = ('grad', 'requires_grad', 'layout', 'is_neg')
VALUES = (False, None, Tensor, torch.strided)


class OnePass:
    """What a plan noted, for `look`. Raises `c_compiler.CantBuild` where there is no such look."""
    def __init__(self,
        plan # Plan, which holds on to all objects that are noted
    ):
        self.library, offset, functions = _loaded()
        self.buckets, self.in_order, self.order = plan.buckets, plan.in_order, np.array(plan.order, np.int64)
        self.shapes, self.entries, self.count = [], [], 0 # the latter is that of numbers so far
        rows = {k: self._of_param(p) for k, p in enumerate(plan.params)}
        for bucket in plan.buckets:
            for k, p, state in zip(bucket.places, bucket.params, bucket.states):
                rows[k].update(self._of_stepped(p, bucket, state))
            self.count += len(bucket.numbers)
        self.rows = _table([[row.get(c, 0) for c in COLUMNS] for row in rows.values()])
        self.numbers = _table([0]*self.count)
        self.tables = [self.rows, _table(list(map(id, plan.values))), _table(self.shapes),
                       _table(self.entries), self.numbers]
        self.noted = _table([len(rows), len(plan.values), offset, *(t.ctypes.data for t in self.tables),
                             *map(id, NAMES + VALUES), *functions])
        self.address = self.noted.ctypes.data

    def _of_param(self, p) -> dict:
        "Return the columns that any parameter has"
        grad = 0 if p.grad is None else id(p.grad)
        return dict(param=id(p), type=id(type(p)), requires_grad=id(p.requires_grad), grad=grad)

    def _of_stepped(self, p, bucket, state) -> dict:
        "Return the other columns of a parameter that kernels step"
        first = dict(shape=len(self.shapes), entries=len(self.entries), numbers=self.count)
        number = {name: ~k for k, name in enumerate(bucket.numbers)}
        self.shapes += (*p.shape, *p.stride())
        self.entries += len(state), *(number[name] if name in number else id(v) for name, v in state.items())
        return dict(state=id(state), ptr=p.data_ptr(), grad_ptr=p.grad.data_ptr(), stepped=1, dim=p.dim(),
                    dtype=_dtype_code(p.dtype), grad_dtype=_dtype_code(p.grad.dtype), **first)

    def look(self,
        groups, # Parameter groups
        states:dict # The state of all parameters
    ) -> np.ndarray|None:
        """Return the addresses of the gradients if one has moved since the last look, or else None.

        Raises `Changed` if anything else isn't what it was."""
        params = [g['params'] for g in groups]
        if not all(isinstance(ps, list) for ps in params): raise Changed
        numbers = [id(v) for b in self.buckets for v in b.numbers.values()]
        if len(numbers) != len(self.numbers): raise Changed
        self.numbers[:] = numbers
        found = self.library.look(self.address, params, states)
        if found == CHANGED: raise Changed
        return self.grad_ptrs if found == MOVED else None

    def put(self,
        states:list, # States of parameters
        name:str, # A name
        value # What they have under it from now on
    ) -> None:
        "Put one value into many states."
        self.library.put(states, name, value)

    @property
    def grad_ptrs(self) -> np.ndarray:
        "The addresses of the gradients, in the order of the buckets."
        ptrs = self.rows[:, GRAD_PTR]
        return ptrs.copy() if self.in_order else ptrs[self.order]


def _table(numbers) -> np.ndarray: return np.array(numbers, np.int64)


class Addresses:
    "Tensors that must stay where they are in memory."
    def __init__(self,
        tensors:list # Kept as long as this is
    ):
        self.tensors = tensors
        self.ids, self.ptrs = _table(list(map(id, tensors))), _table([t.data_ptr() for t in tensors])

    def have_moved(self,
        noted:OnePass, # Knows how tensors lie in memory
        first:int=0, # First tensor to look at
        count:int|None=None # Number of tensors; default: all
    ) -> bool:
        "Does one of them lie elsewhere now?"
        count = len(self.ids) - first if count is None else min(count, len(self.ids) - first)
        at = 8*first
        ids, ptrs = self.ids.ctypes.data + at, self.ptrs.ctypes.data + at
        return noted.library.look_at_addresses(noted.address, ids, ptrs, count) != SAME


# The library, and how tensors lie in memory

def _loaded() -> tuple[ctypes.PyDLL, int, tuple]:
    """The functions in C, the offset of a tensor in its Python object, and the addresses of libtorch's
    functions. Raises `CantBuild`."""
    return _checked(c_compiler.library(SOURCE)._name)


@cache
def _checked(path):
    if sysconfig.get_config_var('Py_GIL_DISABLED'): raise c_compiler.CantBuild("Python has no lock.")
    library = ctypes.PyDLL(path)
    obj, pointer, size = ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t
    library.look.argtypes = [pointer, obj, obj]
    library.look_at_addresses.argtypes = [pointer, pointer, pointer, size]
    library.put.argtypes = [obj, obj, obj]
    torch_functions = tuple(ctypes.cast(f, pointer).value for f in _of_libtorch())
    return library, _offset(), torch_functions


@cache
def _of_libtorch() -> list:
    try:
        libtorch = ctypes.CDLL(str(Path(torch.__file__).parent/'lib'/'libtorch_cpu.so'))
        return [getattr(libtorch, f'aoti_torch_get_{name}') for name in LIBTORCH]
    except (OSError, AttributeError) as e:
        raise c_compiler.CantBuild(f"libtorch lacks its interface for C ({e}).") from None


@cache
def _offset() -> int:
    "Return the offset of the C++ tensor in its Python object, which must be the same for all classes"
    found = {_found_in(t) for t in (torch.ones(2), torch.nn.Parameter(torch.ones(2, 3)), torch.zeros(()))}
    offset = found.pop()
    if found or offset is None: raise c_compiler.CantBuild("the layout of tensors in memory is not known.")
    return offset


def _found_in(t) -> int|None:
    size = type(t).__basicsize__
    words = np.ctypeslib.as_array((ctypes.c_int64*(size//8)).from_address(id(t)))
    found = np.flatnonzero(words == t._cdata)
    return 8*int(found[0]) if len(found) == 1 else None


@cache
def _dtype_code(dtype) -> int:
    t, code = torch.empty(0, dtype=dtype), ctypes.c_int()
    get = _of_libtorch()[LIBTORCH.index('dtype')]
    get(ctypes.c_void_p(id(t) + _offset()), ctypes.byref(code))
    return code.value
