"Translate the operations of a trace to expressions of a formula."
import ast
from functools import cache

import torch

from optimcb.diagnosis.algebra import Num, add, call, div, mul, neg, number, power, sub
from optimcb.tracing.ops import OPS

__all__ = ['applied', 'cast']


def _where(c, a, b):
    "Write a `where` that propagates NaN as the plain extreme, which in torch propagates NaN"
    if isinstance(c, Num): return a if c.value else b
    if getattr(c, 'name', '') == 'amax' and getattr(b, 'name', '') in ('amax', 'amin'): return b
    if getattr(c, 'args', None) == (a, b) and c.name in SMALLER: return call(SMALLER[c.name], a, b)
    return call('where', c, a, b)


SMALLER = dict(lt='minimum', le='minimum', gt='maximum', ge='maximum') # `where(a < b, a, b)`


def cast(
    x, # An expression
    old:torch.dtype, # Its dtype
    new:torch.dtype # The new dtype
):
    "Convert `x` to another dtype. Formulas leave out rounding to fewer bits."
    if new is torch.bool: return x
    if old is torch.bool: return call('float', x)
    return call('trunc', x) if old.is_floating_point and not new.is_floating_point else x


# the extreme of a scalar is the scalar
def _extreme(name): return lambda x: x if x.scalar else call(name, x)


def _softplus(x, beta, threshold):
    "Write softplus, with its threshold only if it isn't torch's default"
    return call('softplus', x, beta) if threshold == number(20) else call('softplus', x, beta, threshold)


def _sum(x): return mul(call('numel'), x) if x.scalar else call('sum', x)


SPECIAL = dict(sum=_sum, amax=_extreme('amax'), amin=_extreme('amin'), where=_where, softplus=_softplus)
ARITHMETIC = {ast.Add: add, ast.Sub: sub, ast.Mult: mul, ast.Div: div, ast.Pow: power}


def applied(
    name:str, # Name of an operation
    args:list # Its operands, as expressions
):
    "Write an operation by the formula in its table row, or else as a function of its name."
    if name in SPECIAL: return SPECIAL[name](*args)
    if name not in OPS or OPS[name].formula is None: return call(name, *args)
    return _evaluated(_parsed(name), args)


@cache
def _parsed(name) -> ast.expr:
    "Parse a row's formula, whose operands are `x0`, `x1`, …"
    op = OPS[name]
    return ast.parse(op.formula.format(*(f'x{i}' for i in range(op.arity))), mode='eval').body


def _evaluated(o, args):
    "Build the expression of a syntax tree"
    if isinstance(o, ast.Constant): return number(o.value)
    if isinstance(o, ast.Name): return args[int(o.id[1:])]
    if isinstance(o, ast.UnaryOp): return neg(_evaluated(o.operand, args))
    if isinstance(o, ast.Call): return call(o.func.id, *(_evaluated(a, args) for a in o.args))
    return ARITHMETIC[type(o.op)](_evaluated(o.left, args), _evaluated(o.right, args))
