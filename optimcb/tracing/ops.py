"""The operations that a trace may hold: a row each, for all lowerings.

`text` is the expression of one element. C and Triton share it: names in it are functions of C's library and of
`kernel.h`, or of `triton_ops`. `{0}`, `{1}`, … are operands in the type that the operation computes in, `{f}` is C's
suffix of that type, empty in Triton. `run` is torch's function for tensors, `foreach` the one for lists of them.
They round as torch's own kernels for the CPU do, where C can: `add` with `alpha` is one fused multiply-add.
"""
import math
import operator
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

__all__ = ['OPS', 'REDUCTIONS', 'Op', 'Reduction', 'of_nothing']


class Op(NamedTuple):
    "An operation on elements."
    name: str
    text: str # Expression, in C and in Triton
    run: Callable # torch's function
    foreach: Callable|None = None # torch's function for lists, its first operand a list
    gives: str = 'same' # Type of the result: the operands' common type, 'float' if that is none, 'bool', or 'cast'


class Reduction(NamedTuple):
    "From all elements of a tensor to one number."
    name: str
    start: float # Value for no elements
    text: str # Of two partial results
    run: Callable # torch's function


def _foreach(name): return getattr(torch, f'_foreach_{name}', None)
def _same(name, text, run=None, **kw): return Op(name, text, run or getattr(torch, name), _foreach(name), **kw)
def _float(name, text='{f}', **kw): return _same(name, f'{name}_{{f}}({{0}})' if text == '{f}' else text, gives='float', **kw)
def _bool(name, text, run=None): return Op(name, text, run or getattr(torch, name), gives='bool')


OPS = {o.name: o for o in [
    # arithmetic
    _same('neg', '-{0}'),
    _same('abs', 'abs_{f}({0})'),
    _same('sign', 'sign_{f}({0})'),
    _same('add', '{0} + {1}', operator.add),
    Op('add_alpha', 'fma_{f}({1}, {2}, {0})', lambda a, b, alpha: torch.add(a, b, alpha=alpha), lambda a, b, alpha: torch._foreach_add(a, b, alpha=alpha)),
    _same('sub', '{0} - {1}', operator.sub),
    Op('sub_alpha', 'fma_{f}(-({1}), {2}, {0})', lambda a, b, alpha: torch.sub(a, b, alpha=alpha), lambda a, b, alpha: torch._foreach_sub(a, b, alpha=alpha)),
    _same('mul', '{0} * {1}', operator.mul),
    _same('div', 'div_{f}({0}, {1})', operator.truediv, gives='float'),
    _same('reciprocal', 'div_{f}(1, {0})', gives='float'),
    _same('square', '{0} * {0}'),
    Op('cube', '({0} * {0}) * {0}', lambda a: a**3, lambda a: torch._foreach_pow(a, 3)),
    _same('addcmul', 'fma_{f}({3} * {1}, {2}, {0})', lambda a, b, c, value: torch.addcmul(a, b, c, value=value)),
    _same('addcdiv', '{0} + div_{f}({3} * {1}, {2})', lambda a, b, c, value: torch.addcdiv(a, b, c, value=value), gives='float'),
    _same('lerp', 'lerp_{f}({0}, {1}, {2})'),
    _float('hypot', 'hypot{f}({0}, {1})'),
    _float('copysign', 'copysign{f}({0}, {1})'),
    # the larger, the smaller: NaN where one of them is NaN
    _same('maximum', 'maximum_{f}({0}, {1})'),
    _same('minimum', 'minimum_{f}({0}, {1})'),
    Op('clamp_min', 'maximum_{f}({0}, {1})', lambda a, b: torch.clamp(a, min=b), torch._foreach_clamp_min),
    Op('clamp_max', 'minimum_{f}({0}, {1})', lambda a, b: torch.clamp(a, max=b), torch._foreach_clamp_max),
    Op('fmax', 'where({0} != {0}, {1}, where({1} > {0}, {1}, {0}))', torch.fmax),
    Op('fmin', 'where({0} != {0}, {1}, where({1} < {0}, {1}, {0}))', torch.fmin),
    # rounding
    _same('floor', 'floor{f}({0})'),
    _same('ceil', 'ceil{f}({0})'),
    _same('round', 'rint{f}({0})'),
    _same('trunc', 'trunc{f}({0})'),
    _same('frac', '{0} - trunc{f}({0})'),
    # roots, powers, logarithms and the like
    _float('sqrt', 'sqrt{f}({0})'),
    _float('rsqrt', 'div_{f}(1, sqrt{f}({0}))'),
    Op('pow', 'pow{f}({0}, {1})', operator.pow, gives='float'),
    _float('exp'), _float('exp2'), _float('expm1'),
    _float('log'), _float('log2'), _float('log10'), _float('log1p'),
    _float('sigmoid', 'div_{f}(1, 1 + exp_{f}(-({0})))'),
    _float('tanh'), _float('erf'),
    _float('sin'), _float('cos'),
    *[_float(o) for o in ('tan', 'sinh', 'cosh', 'erfc')],
    *[_float(o, f'{o[0]}{o[3:]}_{{f}}({{0}})') for o in ('arcsin', 'arccos', 'arctan', 'arcsinh', 'arccosh', 'arctanh')],
    _float('atan2', 'atan2{f}({0}, {1})'),
    _same('softplus', 'softplus_{f}({0}, {1}, {2})', F.softplus, gives='float'),
    # questions
    _bool('eq', '{0} == {1}'), _bool('ne', '{0} != {1}'),
    _bool('lt', '{0} < {1}'), _bool('le', '{0} <= {1}'),
    _bool('gt', '{0} > {1}'), _bool('ge', '{0} >= {1}'),
    _bool('isnan', '{0} != {0}'),
    _bool('isfinite', '({0}) - ({0}) == 0'),
    _bool('logical_and', '({0} != 0) & ({1} != 0)'), _bool('logical_or', '({0} != 0) | ({1} != 0)'),
    _bool('logical_xor', '({0} != 0) ^ ({1} != 0)'), _bool('logical_not', '{0} == 0'),
    # choice and type; the first operand of `where` is a truth
    Op('where', 'where({0}, {1}, {2})', torch.where),
    Op('cast', '{0}', lambda x, dtype: x.to(dtype), gives='cast'),
]}

REDUCTIONS = {o.name: o for o in [
    Reduction('sum', 0, '{0} + {1}', torch.sum),
    Reduction('amax', -math.inf, '{0} > {1} ? {0} : {1}', torch.amax),
    Reduction('amin', math.inf, '{0} < {1} ? {0} : {1}', torch.amin),
]}


def of_nothing(
    name:str, # Of a reduction
    dtype:torch.dtype # Of what it reduces
) -> float:
    "What it comes to for no elements."
    start = REDUCTIONS[name].start
    if dtype.is_floating_point or not start: return start
    least, largest = (0, 1) if dtype is torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    return least if start < 0 else largest
