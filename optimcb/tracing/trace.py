"""The trace of a step: what steppers do to tracers, written down as nodes and numbers.

Operands are indices of nodes, or `~k` for the number `slots[k]`, so that the nodes are the same whatever the
numbers are: a kernel is compiled once, and a counter that counts doesn't change it.
"""
from numbers import Number

import numpy as np
import torch
from torch import Tensor

from optimcb.tracing.ir import DTYPES, FLOATS, OPAQUE, PER_ELEMENT, PER_PARAMETER, Node, extent_of
from optimcb.tracing.numbers import plain
from optimcb.tracing.opaque import (
    PLACEHOLDER,
    Call,
    OpaqueTensor,
    OutputMismatch,
    infer_outputs,
    like,
    listed,
)
from optimcb.tracing.ops import OPS
from optimcb.tracing.tracer import TRACERS, Tracer
from optimcb.tracing.typed_tracers import TypedTracer

__all__ = ['Trace', 'Untraceable']


NOT_FROM_P = "Make it with `torch.zeros_like(p)` or the like."
LEFT_OVER = "it keeps a tensor of another parameter or an earlier step", "Return it as state."
PASSED_ON = (bool, str, type(None), torch.dtype, torch.device, tuple) # arguments that calls pass on unchanged


class Untraceable(Exception):
    "A stepper does something unsupported by tracers: `what` it does, and what to write `instead`."
    def __init__(self,
        what:str, # What the stepper does
        instead:str='Only the eager engine can do it.' # What to write
    ):
        super().__init__(what, instead)
        self.what, self.instead = what, instead


class Trace:
    """What one step does to tensors: nodes, and the numbers that they take, as `slots`.

    A trace is also an observer of `Composition.run`, so that an error can name the stepper that caused it.
    """
    def __init__(self,
        example, # A parameter that the step is recorded for
        looked:set, # Takes the names of attributes of `example` that steppers read, `stride()` among them
        typed:bool=False # Should tracers say that they are tensors?
    ):
        self.example, self.looked, self.tracer_type = example, looked, TypedTracer if typed else Tracer
        # by node, as a flat tuple `(op, dtype, extent, *args)`, its index; in the order of recording
        self.index = {}
        self.slots, self.externals, self.versions = [], [], []
        self.no_dims = example.dim() == 0
        self.shown = {} # values of attributes that steppers see instead of the example's
        self.failure = self.param = None
        self.no_calls = None # why no function can be called by torch
        self.asks_own = False # did a stepper read an attribute that a user gave to the parameter?
        self.stepper = None # the one that runs
        self._nodes = []

    # What `Composition.run` tells an observer

    def enter(self, stepper, p, values):
        "Note that a stepper begins."
        self.stepper = stepper
        return values

    def leave(self, stepper, p, values, new):
        "Note that it has returned `new`."
        return new

    @property
    def nodes(self) -> list[Node]:
        "The nodes so far."
        entries = list(self.index)
        self._nodes += map(Node.of, entries[len(self._nodes):])
        return self._nodes

    def fail(self, what, *instead):
        "Raise `Untraceable`, and remember it: a stepper might catch it."
        if self.failure is None:
            self.failure = Untraceable(what, *instead)
            if self.stepper is not None: self.failure.stepper = self.stepper
        raise self.failure

    # Operands

    def emit(self, *node) -> int:
        "Index of a node, which is appended if it isn't there."
        return self.index.setdefault(node, len(self.index))

    def slot(self, number) -> int:
        "Operand for a number."
        self.slots.append(number)
        return -len(self.slots)

    def operand(self, o) -> int:
        "Operand for `o`: a tracer, a number, or a tensor of one number."
        if isinstance(o, Tracer): return o.id
        if isinstance(o, np.bool_): o = bool(o) # which NumPy doesn't call a number
        if isinstance(o, Number) and not isinstance(o, complex): return self.slot(o)
        if type(o) is OpaqueTensor: o.refuse()
        if isinstance(o, Tensor): return self.external(o).id
        self.fail(f"it computes with {type(o).__name__}", "Use numbers, and tensors that come from `p`.")

    def external(self, tensor) -> Tracer:
        "Tracer of a real tensor, which must be one number."
        if tensor.dim() or tensor.dtype not in DTYPES:
            shape = tuple(tensor.shape)
            self.fail(f"it computes with a tensor of shape {shape} that doesn't come from `p`", NOT_FROM_P)
        k = next((k for k, known in enumerate(self.externals) if known is tensor), len(self.externals))
        if k == len(self.externals):
            self.externals.append(tensor)
            self.versions.append(tensor._version)
        id = self.emit('external', tensor.dtype, PER_PARAMETER, k)
        return self.tracer_type(self, id, tensor.dtype, PER_PARAMETER)

    # Operations

    def apply(self, name, operands) -> Tracer:
        "The operation `name` on `operands`, by torch's rules for types."
        args, dtype, extent, mixed = [], None, PER_PARAMETER, False
        for o in operands:
            if type(o) in TRACERS:
                args.append(o.id)
                if o.dtype is not dtype: dtype, mixed = o.dtype, dtype is not None
                if o.extent is PER_ELEMENT: extent = PER_ELEMENT
                if o.trace is not self: self.fail(*LEFT_OVER)
            elif type(o) is float:
                self.slots.append(o)
                args.append(-len(self.slots))
            else:
                args.append(self.operand(o))
                if isinstance(o, Tensor): mixed = True
        result = dtype
        if mixed or dtype not in FLOATS or name in SPECIAL: dtype, result = self._types(name, operands)
        index = self.index
        id = index.setdefault((name, dtype, extent, *args), len(index))
        return self.tracer_type(self, id, result, extent)

    def _types(self, name, operands) -> tuple[torch.dtype, torch.dtype]:
        "The type that an operation computes in, and that of its result"
        gives = OPS[name].gives
        dtype = self.common(operands[name == 'where':])
        if dtype not in DTYPES: self.fail(f"it makes a tensor of {dtype}")
        if gives == 'float' and dtype not in FLOATS: dtype = torch.get_default_dtype()
        return dtype, torch.bool if gives == 'bool' else dtype

    def common(self, operands) -> torch.dtype:
        "torch's type for an operation on `operands`."
        kinds, default = tuple(map(self._kind, operands)), torch.get_default_dtype()
        if (kinds, default) not in COMMON: COMMON[kinds, default] = _common(kinds)
        return COMMON[kinds, default]

    def _kind(self, o):
        "Return the properties of an operand that affect type promotion: dtype, and whether it has dimensions"
        if type(o) in TRACERS: return o.dtype, o.extent is PER_ELEMENT and not self.no_dims
        if isinstance(o, Tensor): return o.dtype, False
        if isinstance(o, (bool, np.bool_)): return bool
        return int if isinstance(o, (int, np.integer)) else float

    def cast(self, x:Tracer, dtype) -> int:
        "Operand for `x` in another type, rounded if that is narrower."
        return x.id if x.dtype is dtype and x.id >= 0 else self.emit('cast', dtype, x.extent, x.id)

    def reduce(self, name, x:Tracer, dtype) -> Tracer:
        "All elements of `x` in one number."
        if x.extent is not PER_ELEMENT: return self.tracer_type(self, x.id, x.dtype, PER_PARAMETER)
        id = self.emit(name, dtype, PER_PARAMETER, x.id)
        return self.tracer_type(self, id, dtype, PER_PARAMETER)

    def total(self, x:Tracer, round:int) -> Tracer:
        "Sum `x`, one number per parameter, over all parameters, as the `round`th request."
        if x.extent is not PER_PARAMETER:
            what = "it yields a tensor, not one number of each parameter"
            self.fail(what, "Yield a sum: `total = yield x.sum()`.")
        dtype = torch.promote_types(x.dtype, torch.float32)
        id = self.emit('total', dtype, PER_PARAMETER, x.id, round)
        return self.tracer_type(self, id, dtype, PER_PARAMETER)

    # Functions by torch

    def call(self, f, args, kwargs):
        "Tracers of what `f`, which is decorated with `by_torch`, returns."
        name = getattr(f, '__name__', type(f).__name__)
        if self.no_calls: self.fail(f"it calls `{name}`, but {self.no_calls}")
        self.looked.add('shape')
        operands, given = [], []
        def operand(o):
            if isinstance(o, PASSED_ON): return o
            operands.append(self._handed(o, name))
            given.append(self._described(o))
            return PLACEHOLDER
        call = Call.of(f, [operand(o) for o in args], {k: operand(o) for k, o in kwargs.items()})
        try: out = infer_outputs(call, given, self.example.device)
        except OutputMismatch as e: self.fail(f"it calls `{name}`, which {e.args[0]}", *e.args[1:])
        id = self.emit('call', None, OPAQUE, *operands, call)
        return like(out, [self._result(name, id, k, o) for k, o in enumerate(listed(out))])

    def _handed(self, o, name) -> int:
        "Return the operand for an argument of function `name`"
        is_tracer = type(o) in TRACERS
        if (is_tracer or type(o) is OpaqueTensor) and o.trace is not self: self.fail(*LEFT_OVER)
        if type(o) is OpaqueTensor: return o.id
        if is_tracer: return self.cast(o, o.dtype)
        if isinstance(o, (Number, Tensor)): return self.operand(o)
        self.fail(f"it passes {type(o).__name__} to `{name}`", "Pass it tensors, numbers and strings.")

    def _described(self, o) -> tuple|Number:
        "Return `(shape, stride, dtype)` of a tensor that is passed to a function, or the number"
        if type(o) is OpaqueTensor: return o.shape, None, o.dtype
        if type(o) in TRACERS and o.extent is PER_ELEMENT:
            return self.example.shape, self.example.stride(), o.dtype
        if hasattr(o, 'dtype') and not isinstance(o, Number): return (), None, o.dtype
        o = plain(o)
        return int(o) if hasattr(o, '__index__') else float(o)

    def _result(self, name, call, k, o):
        "Tracer of result `k` of a call, which is like `o`"
        if o.dtype not in DTYPES: self.fail(f"it calls `{name}`, which makes a tensor of {o.dtype}")
        extent = extent_of(o, self.example).without_shape
        id = self.emit('result', o.dtype, extent, call, k)
        if extent is OPAQUE: return OpaqueTensor(self, id, o.dtype, o.shape)
        return self.tracer_type(self, id, o.dtype, extent, buffer=True)


# The type of the result isn't the operands'
SPECIAL = frozenset(o for o in OPS if OPS[o].gives == 'bool' or o == 'where')
COMMON = {} # by operands' kinds and the default type, what `_common` says


def _common(kinds) -> torch.dtype:
    "torch's type for operands of these kinds"
    one = {bool: True, int: 1, float: 1.}
    res = [one[k] if k in one else torch.empty((1,)*k[1], dtype=k[0], device='meta') for k in kinds]
    acc = res[0]
    for o in res[1:]: acc = _joined(acc, o)
    return acc.dtype if isinstance(acc, Tensor) else torch.result_type(torch.empty((), dtype=torch.bool), acc)


def _joined(a, b):
    "Return an object with the promoted dtype and rank of `a` and `b`"
    dims = max(getattr(a, 'ndim', 0), getattr(b, 'ndim', 0))
    if not isinstance(a, Tensor) and not isinstance(b, Tensor): return a + b
    return torch.empty((1,)*dims, dtype=torch.result_type(a, b), device='meta')
