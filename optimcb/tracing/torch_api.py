"""How torch spells the operations: its functions, methods and operators, for stand-ins.

What the table of operations has as a row is spelled by itself; here are the functions with arguments of their own, those
that are made of others, types and copies, and what reduces a tensor.
"""
import math
from collections.abc import Callable
from functools import wraps
from numbers import Number

import numpy as np
import torch
from torch import Tensor

from optimcb.tracing.ops import OPS
from optimcb.tracing.tracer import DTYPES, FLOATS, FUNCTIONS, LOW, STANDS, Value, as_value, trace_of

__all__ = ['dress']


def _apply(name, *operands):
    for o in operands:
        if type(o) in STANDS: return o.trace.apply(name, operands)
    raise TypeError("a stand-in for a tensor is used where it can't be.")


def _plain(name):
    def f(x, other): return _apply(name, x, other)
    return f


def _unary(name):
    def f(x): return x.trace.apply(name, (x,))
    return f


def add(x, other, *, alpha=None): return _apply('add', x, other) if alpha is None else _apply('add_alpha', x, other, alpha)
def sub(x, other, *, alpha=None): return _apply('sub', x, other) if alpha is None else _apply('sub_alpha', x, other, alpha)
def rsub(x, other, *, alpha=None): return sub(other, x, alpha=alpha)
def mul(x, other): return _apply('mul', x, other)


def div(x, other, *, rounding_mode=None):
    if rounding_mode == 'floor': trace_of(x, other).fail("it divides with `rounding_mode='floor'`", "Write `(a/b).floor()`.")
    res = _apply('div', x, other)
    return _apply('trunc', res) if rounding_mode else res


def addcmul(x, tensor1, tensor2, *, value=1): return _apply('addcmul', x, tensor1, tensor2, value)
def addcdiv(x, tensor1, tensor2, *, value=1): return _apply('addcdiv', x, tensor1, tensor2, value)


def _scale_first(f, scale, *tensors) -> Callable:
    "Take the keyword `scale` also as torch of old does, before `tensors`: `p.add_(-lr, grad)`."
    @wraps(f)
    def g(x, *args, **kwargs):
        is_old = scale not in kwargs and len(args) + sum(k in kwargs for k in tensors) > len(tensors)
        if is_old and args: args, kwargs[scale] = args[1:], args[0]
        factor = kwargs.get(scale)
        if getattr(factor, 'each', False) and not factor.trace.no_dims: # one of no dimensions is a number for torch
            trace_of(factor).fail(f"its `{scale}` is a tensor, which torch refuses", "Multiply by it.")
        return f(x, *args, **kwargs)
    return g


def lerp(x, end, weight):
    if x.dtype is not getattr(end, 'dtype', None): trace_of(x, end).fail("it interpolates between types, which torch refuses")
    return _apply('lerp', x, end, weight)


def pow_(x, exponent):
    "torch has kernels of its own for some exponents."
    if type(exponent) in STANDS or not isinstance(exponent, Number): return _apply('pow', x, exponent)
    if exponent == 2: return _apply('square', x)
    if exponent == 3: return _apply('cube', x)
    if exponent in (0.5, -0.5) and x.dtype is not torch.float16: return _apply('sqrt' if exponent > 0 else 'rsqrt', x)
    if exponent == -1: return _apply('reciprocal', x)
    if exponent == -2: return _apply('reciprocal', _apply('square', x))
    return _apply('pow', x, exponent)


def clamp(x, min=None, max=None):
    if min is not None: x = _apply('clamp_min', x, min)
    return x if max is None else _apply('clamp_max', x, max)


def where(condition, x, other): return _apply('where', condition, x, other)
def masked_fill(x, mask, value): return _like(where(mask, value, x), x)
def relu(x, inplace=False): return _inside(x, clamp(x, 0), inplace)
def softplus(x, beta=1., threshold=20.): return _apply('softplus', x, beta, threshold)
def hardtanh(x, min_val=-1., max_val=1., inplace=False): return _inside(x, clamp(x, min_val, max_val), inplace)
def softshrink(x, lambd=0.5): return where(x > lambd, x - lambd, where(x < -lambd, x + lambd, x*0))
def hardshrink(x, lambd=0.5): return where((x >= -lambd) & (x <= lambd), 0., x)
def silu(x, inplace=False): return _inside(x, x * _apply('sigmoid', x), inplace)
def leaky_relu(x, negative_slope=0.01, inplace=False): return _inside(x, where(x > 0, x, x*negative_slope), inplace)
def logit(x, eps=None): return _apply('log', *(lambda c: (c/(1-c),))(x if eps is None else clamp(x, eps, 1-eps)))
def heaviside(x, values): return where(x == 0, values, _like(x > 0, x))
def isinf(x): return _apply('eq', _apply('abs', x), math.inf)
def isposinf(x): return _apply('eq', x, math.inf)
def isneginf(x): return _apply('eq', x, -math.inf)
def signbit(x): return _apply('copysign', _like(x == x, x)*0 + 1, x) < 0


def nan_to_num(x, nan=0., posinf=None, neginf=None):
    top = torch.finfo(x.dtype).max
    x = where(_apply('isnan', x), 0. if nan is None else nan, x)
    x = where(isposinf(x), top if posinf is None else posinf, x)
    return where(isneginf(x), -top if neginf is None else neginf, x)


def _logic(name, c):
    def f(x, other):
        if isinstance(other, (bool, np.bool_)): other = full_like(x, other) # torch's functions take tensors only
        if not x.dtype is getattr(other, 'dtype', None) is torch.bool:
            x.trace.fail(f"it uses `{c}` on numbers", "Compare first.")
        return _apply(name, x, other)
    return f


def invert(x):
    if x.dtype is not torch.bool: x.trace.fail("it uses `~` on numbers", "Compare first.")
    return _apply('logical_not', x)


def _like(x, as_) -> Value:
    return x.trace.kind(x.trace, x.trace.cast(x, as_.dtype), as_.dtype, x.each)


def _inside(x, new, inplace): return x.write(new) if inplace else new


# Types and copies

def to(x, *args, dtype=None, device=None, non_blocking=False, copy=False, memory_format=None):
    for o in args:
        if isinstance(o, torch.dtype): dtype = o
        elif type(o) in STANDS: dtype = o.dtype
        elif isinstance(o, Tensor): dtype, device = o.dtype, o.device
        elif isinstance(o, (str, torch.device)): device = o
    if device is not None and torch.device(device) != x.device and torch.device(device).type != x.device.type: x.trace.fail(f"it moves a tensor to {device}")
    if dtype is None or dtype is x.dtype and dtype not in LOW: return clone(x) if copy else x
    if dtype not in DTYPES: x.trace.fail(f"it makes a tensor of {dtype}")
    if dtype is x.dtype:
        if not x.buffer: x.id = x.trace.emit('cast', dtype, x.each, x.id) # here rounding was asked for
        return x
    return x.trace.kind(x.trace, x.trace.cast(x, dtype), dtype, x.each)


def type_as(x, other): return to(x, other)


def type_(x, dtype=None, non_blocking=False):
    if dtype is None: return torch.empty((), dtype=x.dtype, device=x.device).type()
    if not isinstance(dtype, torch.dtype):
        x.trace.fail(f"it makes a tensor of type {dtype}", "Name a `dtype`: `.to(torch.float32)`.")
    return to(x, dtype)


def clone(x, *, memory_format=None): return x.trace.kind(x.trace, x.id, x.dtype, x.each, buffer=True)
def same(x, *args, **kwargs): return x
def copy_(x, src, non_blocking=False): return x.write(as_value(x.trace, src))
def fill_(x, value): return x.write(as_value(x.trace, value))
def zero_(x): return x.write(as_value(x.trace, 0.))


def full_like(x, fill_value, *, dtype=None, device=None, requires_grad=False, memory_format=None, layout=None, pin_memory=False):
    dtype = dtype or x.dtype
    if dtype not in DTYPES: x.trace.fail(f"it makes a tensor of {dtype}")
    if type(fill_value) in STANDS: return x.trace.kind(x.trace, x.trace.cast(fill_value, dtype), dtype, x.each, buffer=True)
    new = x.trace.kind(x.trace, x.trace.emit('cast', dtype, x.each, x.trace.slot(fill_value)), dtype, x.each, buffer=True)
    new.born = new.id
    return new


def zeros_like(x, **kwargs): return full_like(x, 0., **kwargs)
def ones_like(x, **kwargs): return full_like(x, 1., **kwargs)


def new_full(x, size, fill_value, **kwargs):
    size = torch.Size([size] if isinstance(size, int) else size)
    if size == x.shape: return full_like(x, fill_value, **kwargs)
    if not size: return full_like(x.trace.kind(x.trace, x.id, x.dtype, False), fill_value, **kwargs)
    x.trace.fail(f"it makes a tensor of shape {tuple(size)}", "Make state in the shape of `p`, or a single number.")


def _size(size): return size[0] if len(size) == 1 and isinstance(size[0], (tuple, list)) else size
def new_zeros(x, *size, **kwargs): return new_full(x, _size(size), 0., **kwargs)
def new_ones(x, *size, **kwargs): return new_full(x, _size(size), 1., **kwargs)
def new_tensor(x, data, **kwargs): return new_full(x, (), data, **kwargs)


# Sums and the like over one tensor

PARTLY = "it reduces some dimensions of a tensor", "Reduce the whole of it, or do it in a function that is decorated with `by_torch`."


def _whole(x, dim, keepdim=False):
    if keepdim and x.ndim or dim is not None and dim != () and (isinstance(dim, int) or len(dim) != x.ndim) and not (isinstance(dim, int) and x.ndim == 1):
        x.trace.fail(*PARTLY)


def _wide(x, dtype=None):
    "The type of a sum"
    if dtype is not None: x = to(x, dtype)
    return x if x.dtype in FLOATS else x.trace.kind(x.trace, x.trace.cast(x, torch.int64), torch.int64, x.each)


def sum_(x, dim=None, keepdim=False, *, dtype=None):
    _whole(x, dim, keepdim)
    x = _wide(x, dtype)
    return x.trace.reduce('sum', x, x.dtype)


def count(x): return x.trace.kind(x.trace, x.trace.emit('numel', x.dtype, False), x.dtype, False) if x.each else 1


def mean(x, dim=None, keepdim=False, *, dtype=None):
    if dtype is not None: x = to(x, dtype)
    if x.dtype not in FLOATS: x.trace.fail(f"it takes the mean of {x.dtype}, which torch has none of", "Make it floats first: `x.float()`.")
    return sum_(x, dim, keepdim) / count(x)


def var(x, dim=None, unbiased=True, *, correction=None, keepdim=False):
    if isinstance(dim, bool): dim, unbiased = None, dim
    correction = int(unbiased) if correction is None else correction
    return sum_(pow_(x - mean(x, dim, keepdim), 2)) / (count(x) - correction)


def std(x, *args, **kwargs): return _apply('sqrt', var(x, *args, **kwargs))


def _extreme(name):
    def f(x, dim=None, keepdim=False):
        _whole(x, dim, keepdim)
        return where(any_(_apply('isnan', x)), math.nan, x.trace.reduce(name, x, x.dtype)) if x.dtype in FLOATS else x.trace.reduce(name, x, x.dtype)
    return f


amax, amin = _extreme('amax'), _extreme('amin')


def _two(pair, reduced):
    "`max(x, other)` is one thing, `max(x)` another"
    def f(x, other=None, **kwargs):
        if type(other) in STANDS: return _apply(pair, x, other)
        if other is not None or kwargs: trace_of(x).fail(*PARTLY)
        return reduced(x)
    return f


def any_(x, dim=None, keepdim=False):
    _whole(x, dim, keepdim)
    return x.trace.reduce('amax', x != 0, torch.bool)


def all_(x, dim=None, keepdim=False):
    _whole(x, dim, keepdim)
    return x.trace.reduce('amin', x != 0, torch.bool)


def count_nonzero(x, dim=None): return sum_(x != 0, dim)


def norm(x, p='fro', dim=None, keepdim=False, out=None, dtype=None):
    if dtype is not None: x = to(x, dtype)
    _whole(x, dim, keepdim)
    if x.dtype not in FLOATS: x.trace.fail(f"it takes the norm of {x.dtype}, which torch has none of", "Make it floats first: `x.float()`.")
    if p is None or p == 'fro' or p == 2: return _apply('sqrt', sum_(pow_(x, 2)))
    if p == 1: return sum_(_apply('abs', x))
    if p == math.inf: return amax(_apply('abs', x))
    if p == -math.inf: return amin(_apply('abs', x))
    if p == 0: return _like(sum_(x != 0), x)
    if not isinstance(p, Number): x.trace.fail(f"it takes a norm of order {p!r}")
    return pow_(sum_(pow_(_apply('abs', x), p)), 1/p)


def vector_norm(x, ord=2, dim=None, keepdim=False, *, dtype=None): return norm(x, ord, dim, keepdim, dtype=dtype)
def dist(x, other, p=2): return norm(x - other, p)


def _functions() -> dict:
    "Our function for each name that torch has."
    one = [o for o in OPS if o not in ('eq', 'ne') and OPS[o].text.count('{1}') == 0 and o not in ('cast', 'cube')]
    two = ['maximum', 'minimum', 'fmax', 'fmin', 'clamp_min', 'clamp_max', 'hypot', 'copysign', 'atan2',
           'eq', 'ne', 'lt', 'le', 'gt', 'ge', 'logical_and', 'logical_or', 'logical_xor']
    res = {**{o: _unary(o) for o in one}, **{o: _plain(o) for o in two}}
    for f in (add, sub, rsub, mul, div, addcmul, addcdiv, lerp, clamp, where, masked_fill, relu, softplus, hardtanh, softshrink, hardshrink, silu,
              leaky_relu, logit, heaviside, isinf, isposinf, isneginf, signbit, nan_to_num, to, type_as, clone, full_like, zeros_like, ones_like, new_full,
              new_zeros, new_ones, new_tensor, mean, var, std, count_nonzero, norm, dist, copy_, fill_, zero_): res[f.__name__] = f
    res.update({'amax': amax, 'amin': amin, 'sum': sum_, 'any': any_, 'all': all_, 'pow': pow_, 'linalg_vector_norm': vector_norm,
                'linalg_norm': vector_norm, 'empty_like': zeros_like,
                'max': _two('maximum', amax), 'min': _two('minimum', amin), 'new_empty': new_zeros, 'new': new_zeros, 'bitwise_not': invert,
                'bitwise_and': _logic('logical_and', '&'), 'bitwise_or': _logic('logical_or', '|'), 'bitwise_xor': _logic('logical_xor', '^')})
    alias = dict(absolute='abs', negative='neg', subtract='sub', multiply='mul', divide='div', true_divide='div', sgn='sign', clip='clamp', fix='trunc',
                 not_equal='ne', less='lt', less_equal='le', greater='gt', greater_equal='ge', arctan2='atan2',
                 special_expit='sigmoid', special_expm1='expm1', special_log1p='log1p', special_erf='erf', special_erfc='erfc', special_exp2='exp2',
                 special_logit='logit', special_round='round')
    alias.update({o[0] + o[3:]: o for o in one if o.startswith('arc')})
    res.update({k: res[v] for k, v in alias.items() if v in res})
    res.update(add=_scale_first(add, 'alpha', 'other'), sub=_scale_first(sub, 'alpha', 'other'),
               addcmul=_scale_first(addcmul, 'value', 'tensor1', 'tensor2'),
               addcdiv=_scale_first(addcdiv, 'value', 'tensor1', 'tensor2'))
    for k in list(res):
        if not k.endswith('_') and hasattr(Tensor, k + '_'): res[k + '_'] = _inplace(res[k])
    res.update(dict.fromkeys(('detach', 'detach_', 'contiguous', 'requires_grad_', 'positive', 'conj', 'resolve_conj', 'resolve_neg', 'view_as'), same))
    res.update({k: (lambda x, _dtype=d, **kw: to(x, _dtype)) for k, d in
                dict(float=torch.float32, double=torch.float64, half=torch.float16, bfloat16=torch.bfloat16, bool=torch.bool, long=torch.int64).items()})
    res.update({k: (lambda x, _k=k: getattr(x, _k)()) for k in ('numel', 'is_floating_point', 'is_complex')})
    res.update({'type': type_, 'is_same_size': lambda x, other: x.shape == other.shape,
                'is_signed': lambda x: x.dtype.is_signed, 'is_conj': lambda x: False, 'is_neg': lambda x: False})
    res['result_type'] = lambda a, b: trace_of(a, b).common([a, b])
    return res


def _inplace(f):
    def g(x, *args, **kwargs): return x.write(f(x if x.exact is None else x.unrounded(), *args, **kwargs))
    return g


def _reflected(f):
    def g(self, other): return f(other, self)
    return g


def _known(f):
    "Operators leave to the other operand what is neither tensor nor number"
    def g(self, other):
        return f(self, other) if type(other) in STANDS or isinstance(other, (Number, np.bool_, Tensor)) else NotImplemented
    return g


def dress():
    "Give stand-ins torch's functions, methods and operators."
    FUNCTIONS.update(_functions())
    for k, f in FUNCTIONS.items():
        if hasattr(Tensor, k) and k not in vars(Value): setattr(Value, k, f)
    for k in ('add', 'sub', 'mul', 'pow', 'div'):
        python = {'div': 'truediv'}.get(k, k)
        setattr(Value, f'__{python}__', _known(FUNCTIONS[k]))
        setattr(Value, f'__r{python}__', _known(_reflected(FUNCTIONS[k])))
        setattr(Value, f'__i{python}__', _known(FUNCTIONS[k + '_']))
    for k, name in {'and': 'bitwise_and', 'or': 'bitwise_or', 'xor': 'bitwise_xor', **{k: k for k in ('lt', 'le', 'gt', 'ge', 'eq', 'ne')}}.items():
        setattr(Value, f'__{k}__', _known(FUNCTIONS[name]))
    for k in ('and', 'or', 'xor'):
        setattr(Value, f'__i{k}__', _known(FUNCTIONS[f'bitwise_{k}_']))
        setattr(Value, f'__r{k}__', getattr(Value, f'__{k}__')) # the order is all the same
    Value.__neg__, Value.__abs__, Value.__invert__, Value.__pos__ = FUNCTIONS['neg'], FUNCTIONS['abs'], invert, same
