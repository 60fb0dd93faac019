"""The tables of operations and reductions: for each what it is in torch, C, Triton and formulas, in one row.

A row whose name is a torch function can be traced by that name and its aliases, as a function, as a method
and in place. To add an operation, add a row here and an expression in `tests/tracing/test_operations.py`.
What torch calls with arguments of its own has a function in `torch_api`.

`text` is the expression of one element. C and Triton share it: names in it are functions of C's library and
of `kernel.h`, or of `triton_math`. `{0}`, `{1}`, … are operands in the type that the operation computes in,
`{f}` is C's suffix of that type, empty in Triton. `formula` is a Python expression of the same operands.
Operations round as torch's own kernels for the CPU do, where C can: `add` with `alpha` is one fused
multiply-add. (Where torch broadcasts an operand, it rounds some elements once and others twice.)

A row of `REDUCTIONS` can be traced under its name, too, over all dimensions, where it is NaN as torch's is if
an element is; `tracing.reductions` has the others.
"""
import math
import operator
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

__all__ = ['OPS', 'REDUCTIONS', 'Op', 'Reduction', 'of_nothing']


class Op(NamedTuple):
    "An elementwise operation."
    name: str # Name in traces, and of torch's function if there is one
    text: str # Expression, in C and in Triton
    run: Callable # torch's function
    foreach: Callable|None = None # torch's function for lists, whose first operand is a list
    gives: str = 'same' # Dtype of the result: the operands', a 'float' at least, 'bool', or 'cast'
    formula: str|None = None # Expression in formulas; default: a call, `name(…)`
    aliases: tuple = () # torch's other names for it

    @property
    def arity(self) -> int:
        "The number of operands."
        return next(n for n in range(5) if f'{{{n}}}' not in self.text)


class Reduction(NamedTuple):
    "From all elements of a tensor to one number, which kernels work out in double."
    name: str # In traces, and torch's function
    start: float # Value for no elements
    run: Callable # torch's function
    text: str # Of two partial results, in C
    clause: str # Its name in OpenMP
    pair: str # Of two partial results, in Triton
    block: str # Of all elements of a block, in Triton
    across: str # Its name in `torch.distributed.ReduceOp`
    formula: str # If all elements are the same, `{0}`; else it is a call, `name(…)`
    integers: bool = False # Can kernels reduce int64?


def _foreach(name): return getattr(torch, f'_foreach_{name}', None)


def _same(name, text, run=None, *, aka='', **kw):
    "Return a row with torch's name and its function for lists; `aka` are aliases"
    return Op(name, text, run or getattr(torch, name), _foreach(name), aliases=tuple(aka.split()), **kw)


def _float(name, text=None, **kw):
    "Return a row whose result is a float; default: the C library function of that name"
    return _same(name, text or f'{name}_{{f}}({{0}})', gives='float', **kw)


def _arc(name):
    "Return a row for `arcsin` and the like, which C calls `asin`"
    short = name.replace('arc', 'a')
    return _float(name, f'{short}_{{f}}({{0}})', aka=short)


def _bool(name, text, *, aka=''):
    "Return a row whose result is a bool"
    return Op(name, text, getattr(torch, name), gives='bool', aliases=tuple(aka.split()))


def _add(a, b, alpha): return torch.add(a, b, alpha=alpha)
def _sub(a, b, alpha): return torch.sub(a, b, alpha=alpha)
def _add_lists(a, b, alpha): return torch._foreach_add(a, b, alpha=alpha)
def _sub_lists(a, b, alpha): return torch._foreach_sub(a, b, alpha=alpha)
def _addcmul(a, b, c, value): return torch.addcmul(a, b, c, value=value)
def _addcdiv(a, b, c, value): return torch.addcdiv(a, b, c, value=value)
def _cube_lists(a): return torch._foreach_pow(a, 3)
def _cube_root_lists(a): return torch._foreach_pow(a, 1/3)


OPS = {o.name: o for o in [
    # arithmetic
    _same('neg', '-{0}', formula='-{0}', aka='negative'),
    _same('abs', 'abs_{f}({0})', aka='absolute'),
    _same('sign', 'sign_{f}({0})', aka='sgn'),
    _same('add', '{0} + {1}', operator.add, formula='{0} + {1}'),
    Op('add_alpha', 'fma_{f}({1}, {2}, {0})', _add, _add_lists, formula='{0} + {2}*{1}'),
    _same('sub', '{0} - {1}', operator.sub, formula='{0} - {1}', aka='subtract'),
    Op('sub_alpha', 'fma_{f}(-({1}), {2}, {0})', _sub, _sub_lists, formula='{0} - {2}*{1}'),
    _same('mul', '{0} * {1}', operator.mul, formula='{0}*{1}', aka='multiply'),
    _same('div', 'div_{f}({0}, {1})', operator.truediv, gives='float', formula='{0}/{1}',
          aka='divide true_divide'),
    _same('reciprocal', 'div_{f}(1, {0})', gives='float', formula='1/{0}'),
    _same('square', '{0} * {0}', formula='{0}**2'),
    Op('cube', '({0} * {0}) * {0}', lambda a: a**3, _cube_lists, formula='{0}**3'),
    _same('addcmul', 'fma_{f}({3} * {1}, {2}, {0})', _addcmul, formula='{0} + {3}*{1}*{2}'),
    _same('addcdiv', '{0} + div_{f}({3} * {1}, {2})', _addcdiv, gives='float', formula='{0} + {3}*{1}/{2}'),
    _same('lerp', 'lerp_{f}({0}, {1}, {2})', formula='(1 - {2})*{0} + {2}*{1}'),
    _float('hypot', 'hypot{f}({0}, {1})'),
    _float('copysign', 'copysign{f}({0}, {1})'),
    # maximum and minimum, NaN if either operand is NaN
    _same('maximum', 'maximum_{f}({0}, {1})'),
    _same('minimum', 'minimum_{f}({0}, {1})'),
    Op('clamp_min', 'maximum_{f}({0}, {1})', lambda a, b: torch.clamp(a, min=b), torch._foreach_clamp_min,
       formula='maximum({0}, {1})'),
    Op('clamp_max', 'minimum_{f}({0}, {1})', lambda a, b: torch.clamp(a, max=b), torch._foreach_clamp_max,
       formula='minimum({0}, {1})'),
    Op('fmax', 'where({0} != {0}, {1}, where({1} > {0}, {1}, {0}))', torch.fmax),
    Op('fmin', 'where({0} != {0}, {1}, where({1} < {0}, {1}, {0}))', torch.fmin),
    # rounding
    _same('floor', 'floor{f}({0})'),
    _same('ceil', 'ceil{f}({0})'),
    _same('round', 'rint{f}({0})', aka='special_round'),
    _same('trunc', 'trunc{f}({0})', aka='fix'),
    _same('frac', '{0} - trunc{f}({0})'),
    # roots, powers, logarithms etc.
    _float('sqrt', 'sqrt{f}({0})', formula='{0}**(1/2)'),
    _float('rsqrt', 'div_{f}(1, sqrt{f}({0}))', formula='1/{0}**(1/2)'),
    Op('cube_root', 'cube_root_{f}({0})', lambda a: a**(1/3), _cube_root_lists, gives='float',
       formula='{0}**(1/3)'),
    Op('pow', 'pow{f}({0}, {1})', operator.pow, gives='float', formula='{0}**{1}'),
    _float('exp'),
    _float('exp2', aka='special_exp2'),
    _float('expm1', aka='special_expm1'),
    _float('log'),
    _float('log2'),
    _float('log10'),
    _float('log1p', aka='special_log1p'),
    _float('xlogy', 'where({1} != {1}, {1}, where({0} == 0, 0, {0} * log_{f}({1})))', aka='special_xlogy'),
    _float('sigmoid', 'div_{f}(1, 1 + exp_{f}(-({0})))', aka='special_expit'),
    _float('tanh'),
    _float('erf', aka='special_erf'),
    _float('erfc', aka='special_erfc'),
    _float('sin'), _float('cos'), _float('tan'), _float('sinh'), _float('cosh'),
    _arc('arcsin'), _arc('arccos'), _arc('arctan'), _arc('arcsinh'), _arc('arccosh'), _arc('arctanh'),
    _float('atan2', 'atan2{f}({0}, {1})', aka='arctan2'),
    _same('softplus', 'softplus_{f}({0}, {1}, {2})', F.softplus, gives='float'),
    # predicates
    _bool('eq', '{0} == {1}'),
    _bool('ne', '{0} != {1}', aka='not_equal'),
    _bool('lt', '{0} < {1}', aka='less'),
    _bool('le', '{0} <= {1}', aka='less_equal'),
    _bool('gt', '{0} > {1}', aka='greater'),
    _bool('ge', '{0} >= {1}', aka='greater_equal'),
    _bool('isnan', '{0} != {0}'),
    _bool('isfinite', '({0}) - ({0}) == 0'),
    _bool('logical_and', '({0} != 0) & ({1} != 0)'),
    _bool('logical_or', '({0} != 0) | ({1} != 0)'),
    _bool('logical_xor', '({0} != 0) ^ ({1} != 0)'),
    _bool('logical_not', '{0} == 0'),
    # choice and cast; the first operand of `where` is a bool
    Op('where', 'where({0}, {1}, {2})', torch.where),
    Op('cast', '{0}', lambda x, dtype: x.to(dtype), gives='cast'),
]}

REDUCTIONS = {o.name: o for o in [
    Reduction('sum', 0, torch.sum, '{0} + {1}', '+', '{0} + {1}', 'tl.sum({0}, 0)', 'SUM',
              'numel()*{0}', integers=True),
    Reduction('amax', -math.inf, torch.amax, '{0} > {1} ? {0} : {1}', 'max', 'tl.maximum({0}, {1})',
              'tl.max({0}, 0)', 'MAX', '{0}'),
    Reduction('amin', math.inf, torch.amin, '{0} < {1} ? {0} : {1}', 'min', 'tl.minimum({0}, {1})',
              'tl.min({0}, 0)', 'MIN', '{0}'),
]}


def of_nothing(
    name:str, # Name of a reduction
    dtype:torch.dtype # Dtype of the elements
) -> float:
    "Return the result of a reduction of no elements."
    start = REDUCTIONS[name].start
    if dtype.is_floating_point or math.isfinite(start): return start
    least, largest = (0, 1) if dtype is torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    return least if start < 0 else largest
