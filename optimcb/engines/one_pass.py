"""One look at all parameters of a step, in C: is everything as a plan noted it, and where are the gradients?

Python's passes over lists ask the same, in three to seven times the time. They decide: where the look finds
that something has changed, or where there is no compiler or another layout of tensors in memory than is
known, they are used."""
import ctypes
import sysconfig
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from optimcb.engines import c_compiler
from optimcb.tracing.bucket import Changed

__all__ = ['OTHERS', 'SAME', 'OnePass']


SOURCE = (Path(__file__).parent/'one_pass.c').read_text()
# what a look finds: gradients elsewhere in memory, gradients of other parameters, or anything else
SAME, MOVED, OTHERS, CHANGED = range(4)
# columns of a row, one for each parameter
COLUMNS = ('param', 'type', 'state', 'requires_grad', 'grad', 'ptr', 'grad_ptr', 'role', 'dtype',
           'grad_dtype', 'dim', 'shape', 'entries', 'numbers')
GRAD, GRAD_PTR, NUMBERS = map(COLUMNS.index, ('grad', 'grad_ptr', 'numbers'))
LIBTORCH = ('data_ptr', 'dim', 'sizes', 'strides', 'dtype')
NAMES = ('grad', 'requires_grad', 'layout', 'is_neg')
VALUES = (False, None, Tensor, torch.strided)


class OnePass:
    """What a plan noted, for `look`. Raises `c_compiler.CantBuild` where there is no such look."""
    def __init__(self,
        plan # Plan, which holds on to all objects that are noted
    ):
        self.library, offset, functions = _loaded()
        self.shapes, self.entries = [], []
        rows = [self._of_param(p, role) for p, role in zip(plan.params, plan.roles.tolist())]
        for k in plan.places.tolist():
            rows[k].update(self._of_stepped(plan.params[k], plan.known[plan.bucket_of[k]], plan.states[k]))
        self.rows = _table([[row.get(c, 0) for c in COLUMNS] for row in rows])
        self.numbers = _table([0]*len(self.entries)) # of all buckets that there may be
        self.note_buckets(plan)
        self.tables = [self.rows, _table(list(map(id, plan.values))), _table(self.shapes),
                       _table(self.entries), self.numbers]
        self.noted = _table([len(rows), len(plan.values), offset, *(t.ctypes.data for t in self.tables),
                             *map(id, NAMES + VALUES), *functions])
        self.address = self.noted.ctypes.data

    def _of_param(self, p, role) -> dict:
        "What is noted of any parameter"
        grad = 0 if p.grad is None else id(p.grad)
        return dict(param=id(p), type=id(type(p)), requires_grad=id(p.requires_grad), grad=grad, role=role)

    def _of_stepped(self, p, bucket, state) -> dict:
        "What is noted besides of one that kernels step"
        first = dict(shape=len(self.shapes), entries=len(self.entries))
        number = {name: ~k for k, name in enumerate(bucket.numbers)}
        self.shapes += (*p.shape, *p.stride())
        self.entries += len(state), *(number[name] if name in number else id(v) for name, v in state.items())
        grad_ptr = 0 if p.grad is None else p.grad.data_ptr()
        return dict(state=id(state), ptr=p.data_ptr(), grad_ptr=grad_ptr, dim=p.dim(), **first,
                    dtype=_dtype_code(p.dtype), grad_dtype=_dtype_code(bucket.grad_dtype))

    def note_buckets(self,
        plan # Plan that has put parameters into other buckets
    ):
        "Note for each parameter which numbers it is to have."
        starts = np.cumsum([0, *(len(b.numbers) for b in plan.known)])
        self.rows[plan.places, NUMBERS] = starts[plan.bucket_of[plan.places]]

    def look(self,
        groups, # Parameter groups
        states:dict, # The state of all parameters
        buckets:list # Those of all parameters that kernels can step, with the numbers that they are to have
    ) -> int:
        """Note where the gradients are. Return what has changed: `SAME` for nothing, `MOVED` if a gradient
        lies elsewhere, `OTHERS` if other parameters have one.

        Raises `Changed` if anything else isn't what it was."""
        params = [g['params'] for g in groups]
        if not all(isinstance(ps, list) for ps in params): raise Changed
        numbers = [id(v) for b in buckets for v in b.numbers.values()]
        self.numbers[:len(numbers)] = numbers
        found = self.library.look(self.address, params, states)
        if found == CHANGED: raise Changed
        return found

    @property
    def present(self) -> np.ndarray:
        "Has each parameter a gradient?"
        return self.rows[:, GRAD] != 0

    def grad_ptrs(self,
        places:np.ndarray # Of parameters
    ) -> np.ndarray:
        "The addresses of their gradients."
        return self.rows[places, GRAD_PTR]

    def have_moved(self,
        ids:np.ndarray, # Of tensors
        ptrs:np.ndarray # Their addresses
    ) -> bool:
        "Does one of them lie elsewhere now?"
        at = self.address, ids.ctypes.data, ptrs.ctypes.data, len(ids)
        return self.library.look_at_addresses(*at) != SAME

    def put(self,
        states:list, # States of parameters
        name:str, # A name
        value # What they have under it from now on
    ) -> None:
        "Put one value into many states."
        self.library.put(states, name, value)


def _table(numbers) -> np.ndarray: return np.array(numbers, np.int64)


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
    "Where in a tensor's Python object its tensor lies; the same for all kinds of tensors"
    found = {_found_in(t) for t in (torch.ones(2), torch.nn.Parameter(torch.ones(2, 3)), torch.zeros(()))}
    offset = found.pop()
    if found or offset is None: raise c_compiler.CantBuild("tensors lie otherwise in memory than is known.")
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
