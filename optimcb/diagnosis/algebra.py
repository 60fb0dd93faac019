"""Algebra on formulas, which are simplified as they are built.

An expression is a symbol, a number, a sum, a product of powers, or a function of expressions. `add`, `mul`,
`power` and `call` build them; they flatten, collect and cancel, and keep the order in which terms were
written. `choices` has conditions and choices between two expressions, `rewriting` substitutes expressions,
`rendering` and `latex` write them.
"""
import math
from collections.abc import Iterator
from fractions import Fraction
from keyword import iskeyword
from numbers import Number
from typing import NamedTuple

from optimcb.tracing.ops import REDUCTIONS

__all__ = ['Add', 'Call', 'Mul', 'Num', 'Sym', 'HALF', 'NUMEL', 'ONE', 'ZERO', 'add', 'apart',
           'call', 'calls', 'dims', 'div', 'divides', 'factors_of', 'functions', 'is_negative', 'is_size',
           'mul', 'neg', 'number', 'parts', 'power', 'product', 'scaled', 'sub', 'symbols', 'terms_of']


HALF = Fraction(1, 2)


class Sym(NamedTuple):
    "A name."
    name: str
    scalar: bool = True # A number, not a tensor?
    value: Number|None = None # Its current value, if known, from which the sign of a difference follows

    def __eq__(self, other): return isinstance(other, Sym) and self[:2] == other[:2]
    def __ne__(self, other): return not self == other
    def __hash__(self): return hash(self[:2])


class Num(NamedTuple):
    "A number."
    value: Number
    scalar = True


class Add(NamedTuple):
    "A sum of `(coefficient, expression)` pairs."
    terms: tuple
    @property
    def scalar(self): return all(e.scalar for _, e in self.terms)


class Mul(NamedTuple):
    "A product of `(base, exponent)` pairs, whose exponents are expressions."
    factors: tuple
    @property
    def scalar(self): return all(b.scalar for b, _ in self.factors)


class Call(NamedTuple):
    "A function of expressions."
    name: str
    args: tuple
    @property
    def scalar(self): return self.name in OVER_ALL or self.name != 'F' and all(a.scalar for a in self.args)


# Functions that give one number for all elements. `f` is an unknown number, `F` an unknown tensor
OVER_ALL = frozenset({*REDUCTIONS, 'mean', 'norm', 'rms', 'total', 'numel', 'f'})


def number(
    x:Number # A number
) -> Num:
    "Return `x` as an expression; whole numbers are written without a decimal point."
    if isinstance(x, Fraction): return Num(x if x.denominator != 1 else x.numerator)
    is_integer = abs(x) < 1e15 and x == int(x)
    return Num(int(x) if is_integer else float(x))


ZERO, ONE = Num(0), Num(1)


def terms_of(
    e # An expression
) -> list[tuple]:
    "List the terms of a sum as `(coefficient, expression)` pairs; a number is a multiple of 1."
    if isinstance(e, Add): return list(e.terms)
    if isinstance(e, Num): return [(e.value, ONE)]
    if not isinstance(e, Mul): return [(1, e)]
    (first, _), *others = e.factors
    return [(first.value, product(others))] if isinstance(first, Num) else [(1, e)]


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


def product(
    factors # `(base, exponent)` pairs in which nothing is left to simplify
):
    "Return the product of factors, or a plain expression for one factor or none."
    if not factors: return ONE
    (base, exponent), *others = factors
    return base if exponent == ONE and not others else Mul(tuple(factors))


def factors_of(
    e # An expression
) -> tuple:
    "List the factors of an expression as `(base, exponent)` pairs; the number 1 has none."
    if isinstance(e, Mul): return e.factors
    return () if e == ONE else ((e, ONE),)


def divides(
    factor:tuple # A `(base, exponent)` pair
) -> bool:
    "Is a factor part of the denominator?"
    return isinstance(factor[1], Num) and factor[1].value < 0


def is_negative(
    e # An expression
) -> bool:
    "Is an expression written with a leading minus?"
    return isinstance(e, Num) and e.value < 0 or isinstance(e, Mul) and is_negative(e.factors[0][0])


def mul(
    *es # Expressions
):
    "Multiply, and collect equal bases: the number first, then names of numbers, then tensors."
    coefficient, found = 1, {}
    todo = [(e, ONE) for e in es]
    while todo:
        e, exponent = todo.pop(0)
        if isinstance(e, Mul) and isinstance(exponent, Num) and isinstance(exponent.value, int):
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


NUMEL = Call('numel', ())


def _with_mean(factors) -> list:
    "Replace a sum divided by the number of elements by a mean"
    summed = next((b for b, x in factors if isinstance(b, Call) and b.name == 'sum' and x == ONE), None)
    if summed is None: return factors
    return [(Call('mean', b.args) if b is summed else b, x) for b, x in factors if b != NUMEL]


def _number_power(x, exponent):
    "Return a power of numbers, exact if possible"
    if exponent == 1: return x
    is_exact = isinstance(x, (int, Fraction)) and isinstance(exponent, int)
    return Fraction(x)**exponent if is_exact else x**exponent


def _positive(e):
    "Rewrite a negative sum, like `mom - 1`, as -1 times `1 - mom`"
    if not isinstance(e, Add) or (_value(e) or 0) >= 0: return 1, e
    return -1, Add(tuple((-c, x) for c, x in e.terms))


def _value(e) -> Number|None:
    "Return the value of an expression, or None if it is unknown"
    if isinstance(e, (Sym, Num)): return e.value
    if isinstance(e, Add): parts = [(c, _value(x)) for c, x in e.terms]
    elif isinstance(e, Mul): parts = [(_value(b), _value(x)) for b, x in e.factors]
    else: return None
    if any(v is None for o in parts for v in o): return None
    try: return sum(c*v for c, v in parts) if isinstance(e, Add) else math.prod(b**x for b, x in parts)
    except ArithmeticError: return None


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


def _norm(e) -> Call|None:
    "Return the root of a sum or mean of squares as a norm, else None"
    if not isinstance(e, Call) or e.name not in ('sum', 'mean') or not isinstance(e.args[0], Mul): return None
    squares = e.args[0].factors
    if any(x != Num(2) for _, x in squares): return None
    return Call('norm' if e.name == 'sum' else 'rms', (mul(*(b for b, _ in squares)),))


def call(
    name:str, # A function
    *args # Expressions
):
    "Build a function of expressions."
    return Call(name, args)


def symbols(
    e # An expression
) -> set[str]:
    "Collect the names in an expression."
    if isinstance(e, Sym):
        is_constant = not e.name.isidentifier() or iskeyword(e.name)
        return set() if is_constant else {e.name}
    if isinstance(e, Add): return set().union(*(symbols(x) for _, x in e.terms))
    if isinstance(e, Mul): return set().union(*(symbols(b) | symbols(x) for b, x in e.factors))
    return set().union(*map(symbols, e.args)) if isinstance(e, Call) else set()


def parts(
    e # An expression
) -> list:
    "List the expressions that it is made of."
    if isinstance(e, Add): return [x for _, x in e.terms]
    if isinstance(e, Mul): return [x for factor in e.factors for x in factor]
    return list(e.args) if isinstance(e, Call) else []


def calls(
    e # An expression
) -> Iterator[Call]:
    "Iterate over the functions in it."
    if isinstance(e, Call): yield e
    for x in parts(e): yield from calls(x)


def functions(
    e # An expression
) -> set[str]:
    "Collect the names of the functions in it."
    return {o.name for o in calls(e)}


def dims(
    e # An expression
) -> set[str]:
    "Collect what it has of the parameter's shape: `p.shape[0]`, `p.ndim`, `p.numel()`."
    if isinstance(e, Sym): return {e.name} if e.name.startswith('p.') else set()
    return {'p.numel()'} if e == NUMEL else set().union(*map(dims, parts(e)))


def is_size(
    e # An expression
) -> bool:
    "Tell whether it is how many places a dimension has, or several together, so that it is one at least."
    is_one_dimension = isinstance(e, Sym) and e.name.startswith('p.shape[')
    return is_one_dimension or e == NUMEL or isinstance(e, Call) and e.name == 'prod'


def apart(
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


