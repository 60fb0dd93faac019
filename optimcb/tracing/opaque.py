"""Functions that torch runs between kernels, on whole tensors: what `by_torch` marks.

What their results will be like is found out on tensors without memory, so that steppers can be recorded before anything is computed.
"""
from collections.abc import Callable
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ['Call', 'DO_IT', 'Foreign', 'HOLE', 'Surprise', 'foreseen', 'like', 'listed']


DO_IT = "Do it in a function that is decorated with `by_torch`."


class Hole:
    def __repr__(self): return '…'


HOLE = Hole() # where a tensor or a number goes, in what a function is handed


class Surprise(Exception):
    "A function returned something else than what was foreseen. Nothing has changed so far."


class Call(NamedTuple):
    "A function, and what it is handed beside tensors and numbers."
    f: Callable # What `by_torch` gives
    args: tuple # Of each a hole, or what is the same in each call
    kwargs: tuple # `(name, hole or what is the same)`
    told: str # Both as text, which tells 1 from 1.0

    @classmethod
    def of(cls, f, args, kwargs): return cls(f, tuple(args), tuple(kwargs.items()), repr((args, kwargs)))

    @property
    def name(self) -> str:
        "The function's name."
        return getattr(self.f, '__name__', type(self.f).__name__)

    def __call__(self,
        given, # What goes into the holes
        f:Callable|None=None # Another function of the same arguments
    ):
        "What the function returns."
        args, kwargs = self.filled(given)
        return (f or self.f)(*args, **kwargs)

    def filled(self,
        given # What goes into the holes
    ) -> tuple[list, dict]:
        "The arguments, with `given` in the holes."
        given = iter(given)
        args = [next(given) if a is HOLE else a for a in self.args]
        return args, {k: next(given) if a is HOLE else a for k, a in self.kwargs}


def listed(
    out # What a function returned
) -> list:
    "Its results."
    return list(out) if isinstance(out, (tuple, list)) else [out]


def like(
    out, # What a function returned
    results:list # Others in the place of its results
):
    "`results` as the function returns them: a tensor, a tuple, or one with names."
    if not isinstance(out, (tuple, list)): return results[0]
    return out._make(results) if hasattr(out, '_make') else type(out)(results)


def foreseen(
    call:Call, # A call
    given:list, # What goes into the holes: `(shape, strides or None, dtype)` for tensors, and numbers
    device:torch.device # Where the tensors would be
):
    """What the function would return, as tensors without memory. Raises `Surprise` if that can't be told.

    It is asked once for tensors of the same shapes and numbers of the same types."""
    known, key = call.f.foreseen, (call.told, *(o if isinstance(o, tuple) else type(o) for o in given))
    if key not in known: known[key] = _foreseen(call, given, device)
    return known[key]


def _foreseen(call, given, device):
    failure = None
    for mode in (lambda: torch.device('meta'), lambda: _fake(device)):
        try:
            with torch.no_grad(), mode():
                tensors = [_empty(*o) if isinstance(o, tuple) else o for o in given]
                before = [o._version for o in tensors if isinstance(o, Tensor)]
                out = call(tensors, call.f.like)
        except Exception as e:
            failure = failure or e
            continue
        if [o._version for o in tensors if isinstance(o, Tensor)] != before:
            raise Surprise("writes into a tensor that it is given", "Let it work on a copy, `x.clone()`.")
        odd = next((o for o in listed(out) if not isinstance(o, Tensor)), None)
        if odd is not None or not listed(out): raise Surprise(f"returns {type(odd).__name__}, no tensor", "Let it return a new tensor, or a tuple of them.")
        return like(out, [torch.empty(o.shape, dtype=o.dtype, device='meta') for o in listed(out)])
    raise Surprise(f"can't be tried on tensors without memory ({type(failure).__name__}: {str(failure).strip().splitlines()[0]:.200})",
                   "Tell what its results are like: `@by_torch(like=lambda …: …)`, a function of the same arguments.") from failure


@contextmanager
def _fake(device):
    "What keeps devices apart, which takes a second to begin with"
    from torch._subclasses.fake_tensor import FakeTensorMode
    with FakeTensorMode(allow_non_fake_inputs=True), device: yield


def _empty(shape, stride, dtype): return torch.empty(shape, dtype=dtype) if stride is None else torch.empty_strided(shape, stride, dtype=dtype)


class Foreign:
    "Stands for a tensor of another shape than the parameter's: functions by torch take it and give it, and it may be state."
    __slots__ = ('dtype', 'id', 'shape', 'trace')
    __array_priority__, __array_ufunc__ = 1000, None
    __class__ = property(lambda self: Tensor) # for steppers that ask

    def __init__(self,
        trace, # The trace that it is of
        id:int, # Operand
        dtype:torch.dtype, # Its type
        shape # Its shape
    ):
        self.trace, self.id, self.dtype, self.shape = trace, id, dtype, torch.Size(shape)

    each = property(lambda self: tuple(self.shape)) # neither one for each element nor one for each parameter
    ndim = property(lambda self: len(self.shape))
    device = property(lambda self: self.trace.example.device)
    def dim(self): return self.ndim
    def size(self, dim=None): return self.shape if dim is None else self.shape[dim]
    def numel(self): return self.shape.numel()
    def by_torch(self, f, args, kwargs): return self.trace.call(f, args, kwargs)

    def refuse(self, *args):
        "Raise `Untraceable`."
        self.trace.fail(f"it computes with a tensor of shape {tuple(self.shape)}, which is not the parameter's", DO_IT)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        next(o for o in (*args, *(kwargs or {}).values()) if type(o) is Foreign).refuse()

    def __getattr__(self, name):
        if name.startswith('__') or not hasattr(Tensor, name): raise AttributeError(name)
        self.refuse()

    def __repr__(self): return f"<stand-in for a tensor of {self.dtype}, of shape {tuple(self.shape)}>"


for _k in ('add', 'sub', 'mul', 'truediv', 'floordiv', 'mod', 'pow', 'matmul', 'and', 'or', 'xor'):
    for _r in ('', 'r', 'i'): setattr(Foreign, f'__{_r}{_k}__', Foreign.refuse)
for _k in ('neg', 'abs', 'invert', 'pos', 'lt', 'le', 'gt', 'ge', 'eq', 'ne', 'bool', 'float', 'int', 'index', 'complex', 'array', 'iter', 'len', 'getitem',
           'setitem', 'hash'): setattr(Foreign, f'__{_k}__', Foreign.refuse)
