"torch's reductions of a tensor to a scalar, for tracers."
import math
from collections.abc import Callable
from numbers import Number

import torch

from optimcb.tracing.ir import FLOATS, PER_ELEMENT, PER_PARAMETER
from optimcb.tracing.ops import REDUCTIONS
from optimcb.tracing.torch_api import apply, like, pow_, to, tracer, where
from optimcb.tracing.tracer import TRACERS, trace_of

__all__ = ['FUNCTIONS', 'of_row']


NOT_PARTLY = ("it reduces some dimensions of a tensor",
              "Reduce the whole of it, or do it in a function that is decorated with `by_torch`.")
MAKE_FLOATS = "Make it floats first: `x.float()`."


def _check_all(x, dim, keepdim=False):
    "Fail where not all dimensions are reduced, or some are kept"
    if keepdim and int(x.ndim): x.trace.fail(*NOT_PARTLY)
    if dim is None or dim == (): return
    count = 1 if isinstance(dim, int) else len(dim)
    if count != int(x.ndim): x.trace.fail(*NOT_PARTLY)


def _check_floats(x, what):
    if x.dtype not in FLOATS:
        x.trace.fail(f"it takes the {what} of {x.dtype}, which torch has none of", MAKE_FLOATS)


def _as_summed(x, dtype=None):
    "Return `x` in the dtype of its sum"
    if dtype is not None: x = to(x, dtype)
    return x if x.dtype in FLOATS else tracer(x, x.trace.cast(x, torch.int64), torch.int64)


def of_row(
    name:str # Of a reduction in the table
) -> Callable:
    "Make torch's function for tracers: it reduces all dimensions, integers and truth values as int64."
    def f(x, dim=None, keepdim=False, *, dtype=None):
        _check_all(x, dim, keepdim)
        x = _as_summed(x, dtype)
        return x.trace.reduce(name, x, x.dtype)
    return f


sum_ = of_row('sum')


def count(x):
    "Return the number of elements."
    if x.extent is not PER_ELEMENT: return 1
    return tracer(x, x.trace.emit('numel', x.dtype, PER_PARAMETER), extent=PER_PARAMETER)


def mean(x, dim=None, keepdim=False, *, dtype=None):
    if dtype is not None: x = to(x, dtype)
    _check_floats(x, 'mean')
    return sum_(x, dim, keepdim) / count(x)


def var(x, dim=None, unbiased=True, *, correction=None, keepdim=False):
    if isinstance(dim, bool): dim, unbiased = None, dim
    correction = int(unbiased) if correction is None else correction
    return sum_(pow_(x - mean(x, dim, keepdim), 2)) / (count(x) - correction)


def std(x, *args, **kwargs): return apply('sqrt', var(x, *args, **kwargs))


def _extreme(name):
    def f(x, dim=None, keepdim=False):
        _check_all(x, dim, keepdim)
        if x.dtype not in FLOATS: return x.trace.reduce(name, x, x.dtype)
        return where(any_(apply('isnan', x)), math.nan, x.trace.reduce(name, x, x.dtype))
    return f


amax, amin = _extreme('amax'), _extreme('amin')


def _one_or_two(pair, reduced):
    "Dispatch `max(x, other)` to the elementwise operation, and `max(x)` to the reduction"
    def f(x, other=None, **kwargs):
        if type(other) in TRACERS: return apply(pair, x, other)
        if other is not None or kwargs: trace_of(x).fail(*NOT_PARTLY)
        return reduced(x)
    return f


def any_(x, dim=None, keepdim=False):
    _check_all(x, dim, keepdim)
    return x.trace.reduce('amax', x != 0, torch.bool)


def all_(x, dim=None, keepdim=False):
    _check_all(x, dim, keepdim)
    return x.trace.reduce('amin', x != 0, torch.bool)


def count_nonzero(x, dim=None): return sum_(x != 0, dim)


def norm(x, p='fro', dim=None, keepdim=False, out=None, dtype=None):
    if dtype is not None: x = to(x, dtype)
    _check_all(x, dim, keepdim)
    _check_floats(x, 'norm')
    if p is None or p == 'fro' or p == 2: return apply('sqrt', sum_(pow_(x, 2)))
    if p == 1: return sum_(apply('abs', x))
    if p == math.inf: return amax(apply('abs', x))
    if p == -math.inf: return amin(apply('abs', x))
    if p == 0: return like(sum_(x != 0), x)
    if not isinstance(p, Number): x.trace.fail(f"it takes a norm of order {p!r}")
    return pow_(sum_(pow_(apply('abs', x), p)), 1/p)


def vector_norm(x, ord=2, dim=None, keepdim=False, *, dtype=None):
    return norm(x, ord, dim, keepdim, dtype=dtype)
def dist(x, other, p=2): return norm(x - other, p)


FUNCTIONS = {
    **{name: of_row(name) for name in REDUCTIONS},
    'mean': mean, 'var': var, 'std': std, 'amax': amax, 'amin': amin, 'any': any_, 'all': all_,
    'count_nonzero': count_nonzero, 'norm': norm, 'dist': dist, 'linalg_vector_norm': vector_norm,
    'linalg_norm': vector_norm, 'max': _one_or_two('maximum', amax), 'min': _one_or_two('minimum', amin)}
