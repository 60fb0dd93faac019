"""torch's elementwise functions and methods, for tracers.

Rows of the table of operations register themselves. This module has functions with other arguments, functions
composed of other operations, casts and copies. Reductions are in `reductions`, Python's operators in
`tracer`.
"""
import math
from collections.abc import Callable
from functools import wraps
from numbers import Number

import numpy as np
import torch
from torch import Tensor

from optimcb.tracing.ir import DTYPES, LOW, PER_PARAMETER, Extent
from optimcb.tracing.ops import OPS
from optimcb.tracing.tracer import TRACERS, Tracer, as_tracer, trace_of

__all__ = ['apply', 'functions', 'like', 'tracer']


def apply(
    name:str, # Name of an operation
    *operands # Operands, some of them tracers
) -> Tracer:
    "Record an operation."
    for o in operands:
        if type(o) in TRACERS: return o.trace.apply(name, operands)
    raise TypeError("a tracer is used where it can't be.")


def tracer(
    x:Tracer, # A tracer
    id:int, # Operand
    dtype:torch.dtype|None=None, # Its dtype; default: that of `x`
    extent:Extent|None=None, # Its extent; default: that of `x`
    buffer:bool=False # Does it have its own memory?
) -> Tracer:
    "Return a new tracer in the trace of `x`."
    return x.trace.tracer_type(x.trace, id, dtype or x.dtype, extent or x.extent, buffer)


def _unary(name):
    def f(x): return x.trace.apply(name, (x,))
    return f


def _binary(name):
    def f(x, other): return apply(name, x, other)
    return f


# Functions whose arguments aren't just operands

def add(x, other, *, alpha=None):
    return apply('add', x, other) if alpha is None else apply('add_alpha', x, other, alpha)
def sub(x, other, *, alpha=None):
    return apply('sub', x, other) if alpha is None else apply('sub_alpha', x, other, alpha)
def rsub(x, other, *, alpha=None): return sub(other, x, alpha=alpha)


def div(x, other, *, rounding_mode=None):
    if rounding_mode == 'floor':
        trace_of(x, other).fail("it divides with `rounding_mode='floor'`", "Write `(a/b).floor()`.")
    res = apply('div', x, other)
    return apply('trunc', res) if rounding_mode else res


def addcmul(x, tensor1, tensor2, *, value=1): return apply('addcmul', x, tensor1, tensor2, value)
def addcdiv(x, tensor1, tensor2, *, value=1): return apply('addcdiv', x, tensor1, tensor2, value)


def _scale_first(f, scale, *tensors) -> Callable:
    "Also accept the keyword `scale` in torch's old position, before `tensors`: `p.add_(-lr, grad)`."
    @wraps(f)
    def g(x, *args, **kwargs):
        is_old = scale not in kwargs and len(args) + sum(k in kwargs for k in tensors) > len(tensors)
        if is_old and args: args, kwargs[scale] = args[1:], args[0]
        factor = kwargs.get(scale)
        extent = getattr(factor, 'extent', None)
        # torch treats a tensor without dimensions as a number
        is_tensor = extent not in (None, PER_PARAMETER) and not factor.trace.no_dims
        if is_tensor:
            trace_of(factor).fail(f"its `{scale}` is a tensor, which torch refuses", "Multiply by it.")
        return f(x, *args, **kwargs)
    return g


def lerp(x, end, weight):
    if x.dtype is not getattr(end, 'dtype', None):
        trace_of(x, end).fail("it interpolates between types, which torch refuses")
    return apply('lerp', x, end, weight)


def pow_(x, exponent):
    "Raise to a power, as torch does, which has special kernels for some exponents."
    if type(exponent) in TRACERS or not isinstance(exponent, Number): return apply('pow', x, exponent)
    if exponent == 2: return apply('square', x)
    if exponent == 3: return apply('cube', x)
    if exponent in (0.5, -0.5) and x.dtype is not torch.float16:
        return apply('sqrt' if exponent > 0 else 'rsqrt', x)
    if exponent == -1: return apply('reciprocal', x)
    if exponent == -2: return apply('reciprocal', apply('square', x))
    if exponent == 1/3: return apply('cube_root', x)
    return apply('pow', x, exponent)


def clamp(x, min=None, max=None):
    if min is not None: x = apply('clamp_min', x, min)
    return x if max is None else apply('clamp_max', x, max)


def where(condition, x, other): return apply('where', condition, x, other)
def masked_fill(x, mask, value): return like(where(mask, value, x), x)
def softplus(x, beta=1., threshold=20.): return apply('softplus', x, beta, threshold)
def heaviside(x, values): return where(x == 0, values, like(x > 0, x))
def isinf(x): return apply('eq', apply('abs', x), math.inf)
def isposinf(x): return apply('eq', x, math.inf)
def isneginf(x): return apply('eq', x, -math.inf)
def signbit(x): return apply('copysign', like(x == x, x)*0 + 1, x) < 0


def logit(x, eps=None):
    if eps is not None: x = clamp(x, eps, 1 - eps)
    return apply('log', x/(1 - x))


def nan_to_num(x, nan=0., posinf=None, neginf=None):
    top = torch.finfo(x.dtype).max
    x = where(apply('isnan', x), 0. if nan is None else nan, x)
    x = where(isposinf(x), top if posinf is None else posinf, x)
    return where(isneginf(x), -top if neginf is None else neginf, x)


# Activations

def _in_place_if(inplace, x, new): return x.write(new) if inplace else new
def relu(x, inplace=False): return _in_place_if(inplace, x, clamp(x, 0))
def hardtanh(x, min_val=-1., max_val=1., inplace=False):
    return _in_place_if(inplace, x, clamp(x, min_val, max_val))
def softshrink(x, lambd=0.5): return where(x > lambd, x - lambd, where(x < -lambd, x + lambd, x*0))
def hardshrink(x, lambd=0.5): return where((x >= -lambd) & (x <= lambd), 0., x)
def silu(x, inplace=False): return _in_place_if(inplace, x, x * apply('sigmoid', x))
def leaky_relu(x, negative_slope=0.01, inplace=False):
    return _in_place_if(inplace, x, where(x > 0, x, x*negative_slope))


# Logic

def _bitwise(name, c):
    "Return a bitwise operator `c`, for bools only"
    def f(x, other):
        if isinstance(other, (bool, np.bool_)):
            other = full_like(x, other) # torch's functions only take tensors
        if not x.dtype is getattr(other, 'dtype', None) is torch.bool:
            x.trace.fail(f"it uses `{c}` on numbers", "Compare first.")
        return apply(name, x, other)
    return f


def bitwise_not(x):
    if x.dtype is not torch.bool: x.trace.fail("it uses `~` on numbers", "Compare first.")
    return apply('logical_not', x)


# Types and copies

def like(
    x:Tracer, # A tracer
    as_:Tracer # Another one
) -> Tracer:
    "Return `x` in the dtype of `as_`."
    return tracer(x, x.trace.cast(x, as_.dtype), as_.dtype)


def to(x, *args, dtype=None, device=None, non_blocking=False, copy=False, memory_format=None):
    "Convert like `Tensor.to`, except to another kind of device."
    for o in args:
        if isinstance(o, torch.dtype): dtype = o
        elif type(o) in TRACERS: dtype = o.dtype
        elif isinstance(o, Tensor): dtype, device = o.dtype, o.device
        elif isinstance(o, (str, torch.device)): device = o
    if device is not None and torch.device(device) != x.device and torch.device(device).type != x.device.type:
        x.trace.fail(f"it moves a tensor to {device}")
    if dtype is None or dtype is x.dtype and dtype not in LOW: return clone(x) if copy else x
    if dtype not in DTYPES: x.trace.fail(f"it makes a tensor of {dtype}")
    if dtype is not x.dtype: return tracer(x, x.trace.cast(x, dtype), dtype)
    if not x.buffer: x.id = x.trace.emit('cast', dtype, x.extent, x.id) # an explicit request for rounding
    return x


def _to_dtype(dtype):
    "Return a method like `float`"
    def f(x, **kwargs): return to(x, dtype, **kwargs)
    return f


def type_as(x, other): return to(x, other)


def type_(x, dtype=None, non_blocking=False):
    if dtype is None: return torch.empty((), dtype=x.dtype, device=x.device).type()
    if not isinstance(dtype, torch.dtype):
        x.trace.fail(f"it makes a tensor of type {dtype}", "Name a `dtype`: `.to(torch.float32)`.")
    return to(x, dtype)


def clone(x, *, memory_format=None): return tracer(x, x.id, buffer=True)
def same(x, *args, **kwargs): return x
def copy_(x, src, non_blocking=False): return x.write(as_tracer(x.trace, src))
def fill_(x, value): return x.write(as_tracer(x.trace, value))
def zero_(x): return x.write(as_tracer(x.trace, 0.))


def full_like(x, fill_value, *, dtype=None, device=None, requires_grad=False, memory_format=None, layout=None,
              pin_memory=False):
    dtype = dtype or x.dtype
    if dtype not in DTYPES: x.trace.fail(f"it makes a tensor of {dtype}")
    if type(fill_value) in TRACERS: return tracer(x, x.trace.cast(fill_value, dtype), dtype, buffer=True)
    new = tracer(x, x.trace.emit('cast', dtype, x.extent, x.trace.slot(fill_value)), dtype, buffer=True)
    new.born = new.id
    return new


def zeros_like(x, **kwargs): return full_like(x, 0., **kwargs)
def ones_like(x, **kwargs): return full_like(x, 1., **kwargs)


def new_full(x, size, fill_value, **kwargs):
    size = torch.Size([size] if isinstance(size, int) else size)
    is_number = not size and not x.trace.no_dims # whatever the shape: it isn't asked for
    if not is_number and size == x.shape: return full_like(x, fill_value, **kwargs)
    if not size: return full_like(tracer(x, x.id, extent=PER_PARAMETER), fill_value, **kwargs)
    what = f"it makes a tensor of shape {tuple(size)}"
    x.trace.fail(what, "Make state in the shape of `p`, or a single number.")


def _size(size): return size[0] if len(size) == 1 and isinstance(size[0], (tuple, list)) else size
def new_zeros(x, *size, **kwargs): return new_full(x, _size(size), 0., **kwargs)
def new_ones(x, *size, **kwargs): return new_full(x, _size(size), 1., **kwargs)
def new_tensor(x, data, **kwargs): return new_full(x, (), data, **kwargs)


# Queries that need no data

def numel(x): return x.numel()
def is_floating_point(x): return x.is_floating_point()
def is_complex(x): return x.is_complex()
def is_same_size(x, other): return x.shape == other.shape
def is_signed(x): return x.dtype.is_signed
def is_conj(x): return False
def is_neg(x): return False
def result_type(a, b): return trace_of(a, b).common([a, b])


# By name

BY_NAME = [ # functions with torch's name
    rsub, addcmul, addcdiv, lerp, clamp, where, masked_fill, relu, softplus, hardtanh, softshrink, hardshrink,
    silu, leaky_relu, logit, heaviside, isinf, isposinf, isneginf, signbit, nan_to_num, to, type_as, clone,
    full_like, zeros_like, ones_like, new_full, new_zeros, new_ones, new_tensor, copy_, fill_, zero_,
    bitwise_not]
ALIASES = {'pow': pow_, 'clip': clamp, 'special_logit': logit, 'empty_like': zeros_like, 'new_empty':
    new_zeros, 'new': new_zeros, 'bitwise_and': _bitwise('logical_and', '&'), 'bitwise_or':
    _bitwise('logical_or', '|'), 'bitwise_xor': _bitwise('logical_xor', '^')}
SCALED = { # functions that also take the scale first
    'add': _scale_first(add, 'alpha', 'other'), 'sub': _scale_first(sub, 'alpha', 'other'),
    'addcmul': _scale_first(addcmul, 'value', 'tensor1', 'tensor2'),
    'addcdiv': _scale_first(addcdiv, 'value', 'tensor1', 'tensor2')}
OWN = {'add': add, 'sub': sub, 'div': div} # rows of the table with arguments besides operands
# Functions without an in-place variant for tracers
NOT_IN_PLACE = {**dict.fromkeys(('detach', 'detach_', 'contiguous', 'requires_grad_', 'positive', 'conj',
    'resolve_conj', 'resolve_neg', 'view_as'), same), 'float': _to_dtype(torch.float32), 'double':
    _to_dtype(torch.float64), 'half': _to_dtype(torch.float16), 'bfloat16': _to_dtype(torch.bfloat16), 'bool':
    _to_dtype(torch.bool), 'long': _to_dtype(torch.int64), 'type': type_, 'numel': numel, 'is_floating_point':
    is_floating_point, 'is_complex': is_complex, 'is_same_size': is_same_size, 'is_signed': is_signed,
    'is_conj': is_conj, 'is_neg': is_neg, 'result_type': result_type}


def functions() -> dict[str, Callable]:
    "Map torch's names to all elementwise functions of tracers, in-place variants included."
    res = {k: f for op in OPS.values() for k, f in _of_row(op).items()}
    res |= {f.__name__: f for f in BY_NAME} | ALIASES | SCALED
    return res


def _of_row(op) -> dict:
    "Return the functions that a row of the table registers"
    if not hasattr(torch, op.name) or op.arity > 2: return {}
    f = OWN.get(op.name) or (_unary if op.arity == 1 else _binary)(op.name)
    return dict.fromkeys((op.name, *op.aliases), f)
