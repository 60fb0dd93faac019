"""Functions decorated with `by_torch`, which torch runs on whole tensors between kernels.

Their outputs are inferred with meta tensors, so that steppers can be recorded before anything is computed.
"""
import logging
from collections.abc import Callable
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from optimcb.tracing.ir import opaque

__all__ = ['Call', 'DO_IT', 'OpaqueTensor', 'OutputMismatch', 'PLACEHOLDER', 'infer_outputs', 'like',
    'listed']


DO_IT = "Do it in a function that is decorated with `by_torch`."


WORK_ON_COPY = "Let it work on a copy, `x.clone()`."
RETURN_TENSORS = "Let it return a new tensor, or a tuple of them."
GIVE_LIKE = ("Tell what its results are like: `@by_torch(like=lambda …: …)`, "
             "a function of the same arguments.")


class Placeholder:
    def __repr__(self): return '…'


PLACEHOLDER = Placeholder() # stands for a tensor or a number among a function's arguments


class OutputMismatch(Exception):
    "A function's outputs differ from the inferred ones. Nothing has changed so far."


class Call(NamedTuple):
    "A function with its arguments, with placeholders for tensors and numbers."
    f: Callable # Result of `by_torch`
    args: tuple # Placeholders, and values that are the same in each call
    kwargs: tuple # Pairs of a name and a placeholder or constant value
    text: str # Both as text, in which 1 and 1.0 differ

    @classmethod
    def of(cls, f, args, kwargs): return cls(f, tuple(args), tuple(kwargs.items()), repr((args, kwargs)))

    @property
    def name(self) -> str:
        "The function's name."
        return getattr(self.f, '__name__', type(self.f).__name__)

    def __call__(self,
        given, # Tensors and numbers for the placeholders
        f:Callable|None=None # Another function with the same arguments
    ):
        "Call the function."
        args, kwargs = self.filled(given)
        return (f or self.f)(*args, **kwargs)

    def batched(self,
        given, # For the placeholders: stacks of tensors, and what is the same for all parameters
        varies # Of each of them, is it a stack?
    ):
        "Stacks of what the function returns for several parameters."
        if callable(self.f.batched): return self(given, self.f.batched)
        def one(*tensors):
            own = iter(tensors)
            return self([next(own) if v else x for x, v in zip(given, varies)], self.f.__wrapped__)
        return torch.vmap(one)(*(x for x, v in zip(given, varies) if v))

    def filled(self,
        given # Tensors and numbers for the placeholders
    ) -> tuple[list, dict]:
        "Return the arguments with placeholders replaced by `given`."
        given = iter(given)
        args = [next(given) if a is PLACEHOLDER else a for a in self.args]
        return args, {k: next(given) if a is PLACEHOLDER else a for k, a in self.kwargs}


def listed(
    out # What a function returned
) -> list:
    "List the results."
    return list(out) if isinstance(out, (tuple, list)) else [out]


def like(
    out, # What a function returned
    results:list # Replacements of its results
):
    "Return `results` in the form of `out`: a tensor, a tuple, or a named tuple."
    if not isinstance(out, (tuple, list)): return results[0]
    return out._make(results) if hasattr(out, '_make') else type(out)(results)


def infer_outputs(
    call:Call, # A call
    given:list, # For each placeholder, `(shape, strides or None, dtype)` of a tensor, or a number
    device:torch.device # Device that the tensors would be on
):
    """Infer the function's outputs as meta tensors, or raise `OutputMismatch`.

    The result is cached by the shapes of tensors and the types of numbers.
    """
    kinds = (o if isinstance(o, tuple) else type(o) for o in given)
    known, key = call.f.inferred_outputs, (call.text, *kinds)
    if key not in known: known[key] = _infer_outputs(call, given, device)
    return known[key]


def _infer_outputs(call, given, device):
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
            raise OutputMismatch("writes into a tensor that it is given", WORK_ON_COPY)
        odd = next((o for o in listed(out) if not isinstance(o, Tensor)), None)
        if odd is not None or not listed(out):
            raise OutputMismatch(f"returns {type(odd).__name__}, no tensor", RETURN_TENSORS)
        return like(out, [torch.empty(o.shape, dtype=o.dtype, device='meta') for o in listed(out)])
    why = f'{type(failure).__name__}: {str(failure).strip().splitlines()[0]:.200}'
    raise OutputMismatch(f"can't be tried on tensors without memory ({why})", GIVE_LIKE) from failure


@contextmanager
def _fake(device):
    "Enter a fake tensor mode, which respects devices but takes a second to start"
    from torch._subclasses.fake_tensor import FakeTensorMode
    log = logging.getLogger(FakeTensorMode.__module__) # which prints a traceback of what is raised here
    was_disabled, log.disabled = log.disabled, True
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), device: yield
    finally: log.disabled = was_disabled


def _empty(shape, stride, dtype):
    if stride is None: return torch.empty(shape, dtype=dtype)
    return torch.empty_strided(shape, stride, dtype=dtype)


class OpaqueTensor:
    """A tracer of a tensor whose shape differs from the parameter's.

    Functions decorated with `by_torch` take and return it, and it may be state. Everything else raises.
    """
    __slots__ = ('dtype', 'id', 'shape', 'trace')
    __array_priority__, __array_ufunc__ = 1000, None
    __class__ = property(lambda self: Tensor) # for steppers that test the type

    def __init__(self,
        trace, # The `Trace` that it belongs to
        id:int, # Operand
        dtype:torch.dtype, # Its dtype
        shape # Its shape
    ):
        self.trace, self.id, self.dtype, self.shape = trace, id, dtype, torch.Size(shape)

    extent = property(lambda self: opaque(self.shape))
    ndim = property(lambda self: len(self.shape))
    device = property(lambda self: self.trace.example.device)
    def dim(self): return self.ndim
    def size(self, dim=None): return self.shape if dim is None else self.shape[dim]
    def numel(self): return self.shape.numel()
    def by_torch(self, f, args, kwargs): return self.trace.call(f, args, kwargs)

    def refuse(self, *args):
        "Raise `Untraceable`."
        what = f"it computes with a tensor of shape {tuple(self.shape)}, which is not the parameter's"
        self.trace.fail(what, DO_IT)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        next(o for o in (*args, *(kwargs or {}).values()) if type(o) is OpaqueTensor).refuse()

    def __getattr__(self, name):
        if name.startswith('__') or not hasattr(Tensor, name): raise AttributeError(name)
        self.refuse()

    def __repr__(self): return f"<tracer of a tensor of {self.dtype}, of shape {tuple(self.shape)}>"


BINARY = 'add sub mul truediv floordiv mod pow matmul and or xor'.split()
OTHERS = """neg abs invert pos lt le gt ge eq ne bool float int index complex array iter len getitem setitem
    hash""".split()
for _k in (*OTHERS, *BINARY, *(f'{side}{k}' for k in BINARY for side in 'ri')):
    setattr(OpaqueTensor, f'__{_k}__', OpaqueTensor.refuse)
