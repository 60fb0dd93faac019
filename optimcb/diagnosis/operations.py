"What the operations of a trace are in a formula."
from fractions import Fraction

import torch

from optimcb.diagnosis.algebra import ONE, Num, add, call, div, mul, neg, number, power, sub

__all__ = ['applied', 'cast']


TWO, HALF = number(2), number(Fraction(1, 2))


def _where(c, a, b):
    "An extreme that is NaN where an element is NaN is the extreme, as torch has it"
    if isinstance(c, Num): return a if c.value else b
    if getattr(c, 'name', '') == 'amax' and getattr(b, 'name', '') in ('amax', 'amin'): return b
    if getattr(c, 'args', None) == (a, b) and c.name in SMALLER: return call(SMALLER[c.name], a, b)
    return call('where', c, a, b)


SMALLER = dict(lt='minimum', le='minimum', gt='maximum', ge='maximum') # `where(a < b, a, b)`


def cast(
    x, # An expression
    old:torch.dtype, # Its type
    new:torch.dtype # The type to have
):
    "Convert `x` to another type. Rounding to fewer bits is not written down."
    if new is torch.bool: return x
    if old is torch.bool: return call('float', x)
    return call('trunc', x) if old.is_floating_point and not new.is_floating_point else x


# Of one number for all elements, it is that
def _extreme(name): return lambda x: x if x.scalar else call(name, x)


def _softplus(x, beta, threshold):
    "The threshold is shown if it isn't torch's default"
    return call('softplus', x, beta) if threshold == number(20) else call('softplus', x, beta, threshold)


OPS = dict(
    sum=lambda x: mul(call('numel'), x) if x.scalar else call('sum', x),
    amax=_extreme('amax'), amin=_extreme('amin'),
    neg=neg, add=add, sub=sub, mul=mul, div=div, where=_where,
    add_alpha=lambda x, y, alpha: add(x, mul(alpha, y)), sub_alpha=lambda x, y, alpha: sub(x, mul(alpha, y)),
    addcmul=lambda x, a, b, value: add(x, mul(value, a, b)),
    addcdiv=lambda x, a, b, value: add(x, div(mul(value, a), b)),
    lerp=lambda a, b, weight: add(mul(sub(ONE, weight), a), mul(weight, b)),
    reciprocal=lambda x: div(ONE, x), square=lambda x: power(x, TWO), cube=lambda x: power(x, number(3)),
    pow=power,
    sqrt=lambda x: power(x, HALF), rsqrt=lambda x: div(ONE, power(x, HALF)),
    clamp_min=lambda x, y: call('maximum', x, y), clamp_max=lambda x, y: call('minimum', x, y),
    softplus=_softplus)


def applied(
    name:str, # Name of an operation
    args:list # Its operands, as expressions
):
    "Write an operation; one without a form of its own is a function of its name."
    return OPS[name](*args) if name in OPS else call(name, *args)
