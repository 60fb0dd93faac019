"Translate the operations of a trace to expressions of a formula."
import ast
from functools import cache

import torch

from optimcb.diagnosis.algebra import add, div, mul, neg, power, sub
from optimcb.diagnosis.expressions import Num, call, number
from optimcb.tracing.ops import OPS, REDUCTIONS

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


def _softplus(x, beta, threshold):
    "Write softplus, with its threshold only if it isn't torch's default"
    return call('softplus', x, beta) if threshold == number(20) else call('softplus', x, beta, threshold)


SPECIAL = dict(where=_where, softplus=_softplus)
ARITHMETIC = {ast.Add: add, ast.Sub: sub, ast.Mult: mul, ast.Div: div, ast.Pow: power}


def applied(
    name:str, # Name of an operation
    args:list # Its operands, as expressions
):
    "Write an operation by the formula in its table row, or else as a function of its name."
    if name in SPECIAL: return SPECIAL[name](*args)
    formula = _formula(name, args)
    return call(name, *args) if formula is None else _evaluated(_parsed(formula), args)


def _formula(name, args) -> str|None:
    "That of a row; that of a reduction holds for one number, which all elements are"
    if name in REDUCTIONS: return REDUCTIONS[name].formula if args[0].scalar else None
    return OPS[name].formula if name in OPS else None


@cache
def _parsed(formula) -> ast.expr:
    "The syntax tree of a row's formula, whose operands are names `x0`, `x1`, …"
    return ast.parse(formula.format('x0', 'x1', 'x2', 'x3'), mode='eval').body


def _evaluated(o, args):
    "Build the expression of a syntax tree"
    if isinstance(o, ast.Constant): return number(o.value)
    if isinstance(o, ast.Name): return args[int(o.id[1:])]
    if isinstance(o, ast.UnaryOp): return neg(_evaluated(o.operand, args))
    if isinstance(o, ast.Call): return call(o.func.id, *(_evaluated(a, args) for a in o.args))
    return ARITHMETIC[type(o.op)](_evaluated(o.left, args), _evaluated(o.right, args))
