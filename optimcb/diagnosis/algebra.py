"""Sums, products and powers of expressions, which are simplified as they are built.

Functions here take and return expressions. They flatten, collect and cancel, and keep the order in which
terms were written. With `a, b = Sym('a'), Sym('b')`:

    add(a, b, a)                 # 2*a + b
    mul(a, b, power(a, Num(-1))) # b
    sub(a, a)                    # ZERO
    factor_out(mul(a, b), a)     # a, b, ONE

`choices` has conditions and choices between two expressions, `rewriting` substitutes expressions,
`rendering` and `latex` write them.
"""
import math
from fractions import Fraction
from numbers import Number

from optimcb.diagnosis.expressions import (
    HALF,
    NUMEL,
    ONE,
    ZERO,
    Add,
    Call,
    Mul,
    Num,
    Sym,
    factors_of,
    number,
    product,
    terms_of,
)

__all__ = ['add', 'div', 'factor_out', 'mul', 'neg', 'power', 'scaled', 'sub']


def add(
    *es # Expressions
):
    "Add, and collect equal terms."
    found = {}
    for e in es:
        for c, x in terms_of(e): found[x] = found.get(x, 0) + c
    terms = tuple((c, x) for x, c in found.items() if c != 0)
    if not terms: return ZERO
    return scaled(*terms[0]) if len(terms) == 1 else Add(terms)


def scaled(
    c:Number, # A coefficient
    e # An expression
):
    "Multiply an expression by a number."
    if c == 1: return e
    return number(c) if e == ONE else mul(number(c), e)


def neg(
    e # An expression
):
    "Negate `e`."
    return mul(Num(-1), e)


def sub(
    a, # An expression
    b # Another
):
    "Subtract `b` from `a`."
    return add(a, neg(b))


def mul(
    *es # Expressions
):
    "Multiply, and collect equal bases: the number first, then names of numbers, then tensors."
    coefficient, found = 1, {} # exponents by base
    todo = [(e, ONE) for e in es]
    while todo:
        e, exponent = todo.pop(0)
        is_whole = isinstance(exponent, Num) and isinstance(exponent.value, int)
        if isinstance(e, Mul) and is_whole: # `(x*y)**2` is `x**2 * y**2`
            todo[:0] = [(b, mul(x, exponent)) for b, x in e.factors]
        elif isinstance(e, Num) and isinstance(exponent, Num) and (e.value != 0 or exponent.value > 0):
            coefficient *= _number_power(e.value, exponent.value)
        else:
            sign, e = _positive(e) if exponent in (ONE, Num(-1)) else (1, e)
            coefficient *= sign
            found[e] = add(found[e], exponent) if e in found else exponent
    factors = [(b, x) for b, x in found.items() if x != ZERO]
    if found.get(NUMEL) == Num(-1): factors = _with_mean(factors)
    if coefficient == 0: return ZERO
    factors.sort(key=lambda f: not f[0].scalar)
    if coefficient == 1: return product(factors)
    return product([(number(coefficient), ONE), *factors])


def div(
    a, # An expression
    b # Another
):
    "Divide `a` by `b`."
    return mul(a, power(b, Num(-1)))


def power(
    base, # An expression
    exponent # Another
):
    "Raise `base` to a power; a root of a sum of squares is a norm."
    if exponent == ONE: return base
    if exponent == ZERO: return ONE
    if exponent == Num(HALF) and (norm := _norm(base)): return norm
    if isinstance(exponent, Num) and isinstance(exponent.value, int):
        is_number = isinstance(base, Num) and (base.value or exponent.value > 0)
        if is_number: return number(_number_power(base.value, exponent.value))
        if isinstance(base, Mul): return mul(*(power(b, mul(x, exponent)) for b, x in base.factors))
    return Mul(((base, exponent),))


def factor_out(
    a, # A number, as an expression
    b # Another
) -> tuple:
    """Factor out common factors. Returns their product, and the rest of each expression.

    0 has any name as a factor."""
    mine, theirs = factors_of(a), factors_of(b)
    shared = [f for f in mine if f in theirs]
    if ZERO in (a, b):
        other = theirs if a == ZERO else mine
        shared = [f for f in other if isinstance(f[0], Sym) and f[1] == ONE]
    rests = [ZERO if e == ZERO else product([f for f in factors_of(e) if f not in shared]) for e in (a, b)]
    return product(shared), *rests


# Simplification

def _with_mean(factors) -> list:
    "Replace a sum divided by the number of elements by a mean"
    summed = next((b for b, x in factors if isinstance(b, Call) and b.name == 'sum' and x == ONE), None)
    if summed is None: return factors
    return [(Call('mean', b.args) if b is summed else b, x) for b, x in factors if b != NUMEL]


def _norm(e) -> Call|None:
    "Return the root of a sum or mean of squares as a norm, else None"
    if not isinstance(e, Call) or e.name not in ('sum', 'mean') or not isinstance(e.args[0], Mul): return None
    squares = e.args[0].factors
    if any(x != Num(2) for _, x in squares): return None
    return Call('norm' if e.name == 'sum' else 'rms', (mul(*(b for b, _ in squares)),))


def _positive(e):
    "Rewrite a negative sum, like `mom - 1`, as -1 times `1 - mom`"
    if not isinstance(e, Add) or (_value(e) or 0) >= 0: return 1, e
    return -1, Add(tuple((-c, x) for c, x in e.terms))


def _value(e) -> Number|None:
    "Return the current value of an expression of numbers, or None if it is unknown"
    if isinstance(e, (Sym, Num)): return e.value
    if isinstance(e, Add): pairs = [(c, _value(x)) for c, x in e.terms]
    elif isinstance(e, Mul): pairs = [(_value(b), _value(x)) for b, x in e.factors]
    else: return None
    if any(v is None for pair in pairs for v in pair): return None
    try: return sum(c*v for c, v in pairs) if isinstance(e, Add) else math.prod(b**x for b, x in pairs)
    except ArithmeticError: return None


def _number_power(x, exponent):
    "Return a power of numbers, exact if possible"
    if exponent == 1: return x
    is_exact = isinstance(x, (int, Fraction)) and isinstance(exponent, int)
    return Fraction(x)**exponent if is_exact else x**exponent
