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

__all__ = ['OTHERS', 'SAME', 'OnePass']


SOURCE = (Path(__file__).parent/'one_pass.c').read_text()
# what a look finds: gradients elsewhere in memory, gradients of other parameters, or anything else
SAME, MOVED, OTHERS, CHANGED = range(4)
# columns of a row, one for each parameter
COLUMNS = ('param', 'type', 'state', 'requires_grad', 'ptr', 'role', 'keys', 'dtype', 'grad_keys',
           'grad_dtype', 'dim', 'shape', 'entries', 'numbers')
NUMBERS = COLUMNS.index('numbers')
# what a look calls, by library
LIBTORCH = {
    'libc10.so': ['_ZNK3c1010TensorImpl4gradEv', '_ZNK3c1010TensorImpl13requires_gradEv'],
    'libtorch_cpu.so': ['_ZN5torch8autograd4impl12bump_versionERKN2at6TensorE',
                        *(f'aoti_torch_get_{name}' for name in 'data_ptr dim sizes strides dtype'.split())],
}


class OnePass:
    """What a plan noted, for `look`. Raises `c_compiler.CantBuild` where there is no such look."""
    def __init__(self,
        plan # Plan, which holds on to all objects that are noted
    ):
        self.library, self.torch = _loaded()
        if not all(map(_is_usual, plan.params)): raise c_compiler.CantBuild("a class has its own `grad`.")
        self.shapes, self.entries = [], []
        rows = [self._of_param(p, role) for p, role in zip(plan.params, plan.roles.tolist())]
        for k in plan.places.tolist():
            rows[k].update(self._of_stepped(plan.params[k], plan.known[plan.bucket_of[k]], plan.states[k]))
        self.rows = _table([[row.get(c, 0) for c in COLUMNS] for row in rows])
        self.numbers = _table([0]*len(self.entries)) # of all buckets that there may be
        self.note_buckets(plan)
        self.has_grad, self.grad_ptrs = _table(plan.present), _table([0]*len(rows))
        self.grad_ptrs[plan.order] = plan.grad_ptrs
        self.tables = [self.rows, _table(list(map(id, plan.values))), _table(self.shapes),
                       _table(self.entries), self.numbers, self.has_grad, self.grad_ptrs]
        tables, in_torch = [t.ctypes.data for t in self.tables], self.torch
        self.noted = _table([len(rows), len(plan.values), in_torch.offset, in_torch.keys_at, *tables,
                             in_torch.undefined, *in_torch.functions])
        self.address = self.noted.ctypes.data

    def _of_param(self, p, role) -> dict:
        "Return the columns that any parameter has"
        return dict(param=id(p), type=id(type(p)), requires_grad=p.requires_grad, role=role)

    def _of_stepped(self, p, bucket, state) -> dict:
        "Return the other columns of a parameter that kernels step"
        first = dict(shape=len(self.shapes), entries=len(self.entries))
        number = {name: ~k for k, name in enumerate(bucket.numbers)}
        self.shapes += (*p.shape, *p.stride())
        self.entries += len(state), *(number[name] if name in number else id(v) for name, v in state.items())
        g = _example(bucket.grad_dtype, p.device) if p.grad is None else p.grad
        (keys, dtype), (grad_keys, grad_dtype) = map(self.torch.kind_of, (p, g))
        return dict(state=id(state), ptr=p.data_ptr(), dim=p.dim(), keys=keys, dtype=dtype,
                    grad_keys=grad_keys, grad_dtype=grad_dtype, **first)

    def note_buckets(self,
        plan # Plan that has put parameters into other buckets
    ):
        "Note for each parameter which numbers it is to have, and which ones the present step steps."
        starts = np.cumsum([0, *(len(b.numbers) for b in plan.known)])
        self.rows[plan.places, NUMBERS] = starts[plan.bucket_of[plan.places]]
        self.order, self.ends = plan.order, np.cumsum([len(b.places) for b in plan.buckets], dtype=np.int64)
        self.order_at, self.ends_at = self.order.ctypes.data, self.ends.ctypes.data

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
        return self.has_grad != 0

    @property
    def ordered_grad_ptrs(self) -> np.ndarray:
        "The addresses of the gradients, in the order of the buckets."
        return self.grad_ptrs.take(self.order)

    def have_moved(self,
        ids:int, # Address of the ids of tensors
        ptrs:int, # Address of their addresses
        count:int # Number of tensors
    ) -> bool:
        "Does one of them lie elsewhere now?"
        return self.library.look_at_addresses(self.address, ids, ptrs, count) != SAME

    # After a step

    def put(self,
        numbers:list # For each bucket of the present step, a part of its parameters' state, by name
    ) -> None:
        "Put numbers into the state of parameters."
        for name in dict.fromkeys(name for new in numbers for name in new):
            values = [id(new[name]) if name in new else 0 for new in numbers]
            array = (ctypes.c_void_p*len(values))(*values)
            self.library.put(self.address, self.order_at, self.ends_at, array, len(values), name)

    def bump_versions(self) -> None:
        "Note that the parameters of the present step were written into: autograd asks for their versions."
        self.library.bump_versions(self.address, self.order_at, len(self.order))


def _table(numbers) -> np.ndarray: return np.array(numbers, np.int64)


# The library, and how tensors lie in memory

class InMemory:
    """How tensors lie in memory, and libtorch's functions that look at them. Raises `CantBuild`.

    `offset` is where in a tensor's Python object its tensor is, in bytes, and `keys_at` where in libtorch's
    object its dispatch keys are, in words."""
    def __init__(self):
        found = _of_libtorch()
        self.functions = [ctypes.cast(f, ctypes.c_void_p).value for f in found]
        self.grad, self.requires_grad, *_, self.dtype = found
        self.grad.restype, self.requires_grad.restype = ctypes.POINTER(ctypes.c_void_p), ctypes.c_bool
        leaf, other = torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(2))
        leaf.grad = torch.ones(2, 3)
        odd = torch._neg_view(torch.ones(2)), torch.eye(2).to_sparse()
        some = [leaf, leaf.grad, other, torch.zeros(()), *odd]
        self.offset = _only({_place(id(t), type(t).__basicsize__//8, t._cdata) for t in some})*8
        keys = [torch._C._dispatch_keys(t).raw_repr() for t in some]
        self.keys_at = _only({_place(t._cdata, WORDS, k) for t, k in zip(some, keys)})
        self.undefined = _only({self._grad_of(t) for t in some[1:]})
        if self._grad_of(leaf) != leaf.grad._cdata: raise c_compiler.CantBuild(OTHERWISE)
        if any(self.requires_grad(ctypes.c_void_p(t._cdata)) != t.requires_grad for t in some):
            raise c_compiler.CantBuild(OTHERWISE)

    def _grad_of(self, t) -> int: return self.grad(ctypes.c_void_p(t._cdata))[0]

    def kind_of(self,
        t:Tensor # A tensor
    ) -> tuple[int, int]:
        "Its dispatch keys, and libtorch's number for its type."
        code = ctypes.c_int()
        self.dtype(ctypes.c_void_p(id(t) + self.offset), ctypes.byref(code))
        return ctypes.c_int64.from_address(t._cdata + 8*self.keys_at).value, code.value


WORDS = 24 # of libtorch's object of a tensor, at most
OTHERWISE = "tensors lie otherwise in memory than is known."


def _only(found):
    "The one thing in a set"
    res = found.pop()
    if found or res is None: raise c_compiler.CantBuild(OTHERWISE)
    return res


def _place(address, count, word) -> int|None:
    "Which of the first words at an address is this one?"
    words = (ctypes.c_uint64.from_address(address + 8*i).value for i in range(count))
    return next((i for i, o in enumerate(words) if o == word), None)


def _loaded() -> tuple[ctypes.PyDLL, InMemory]:
    "The functions in C, and how tensors lie in memory. Raises `CantBuild`."
    return _checked(c_compiler.library(SOURCE)._name)


@cache
def _checked(path):
    if sysconfig.get_config_var('Py_GIL_DISABLED'): raise c_compiler.CantBuild("Python has no lock.")
    library = ctypes.PyDLL(path)
    obj, pointer, size = ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t
    library.look.argtypes = [pointer, obj, obj]
    library.look_at_addresses.argtypes = [pointer, pointer, pointer, size]
    library.bump_versions.argtypes = [pointer, pointer, size]
    library.put.argtypes = [pointer, pointer, pointer, pointer, size, obj]
    return library, InMemory()


def _of_libtorch() -> list:
    try:
        folder = Path(torch.__file__).parent/'lib'
        return [getattr(ctypes.CDLL(str(folder/name)), f) for name, fs in LIBTORCH.items() for f in fs]
    except (OSError, AttributeError) as e:
        raise c_compiler.CantBuild(f"libtorch lacks what a look calls ({e}).") from None


def _is_usual(p) -> bool:
    "Is what a look finds in libtorch what Python says of this parameter?"
    cls = type(p)
    return cls.grad is Tensor.grad and cls.requires_grad is Tensor.requires_grad and not p.is_inference()


@cache
def _example(dtype, device) -> Tensor: return torch.empty(0, dtype=dtype, device=device)
