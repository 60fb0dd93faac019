"""Expressions: what formulas are made of, and questions about them.

An expression is a name, a number, a sum, a product of powers, or a function of expressions. All are
immutable tuples. With a number `lr = Sym('lr')` and a tensor `g = Sym('g', False)`, `1 - lr*g**2` is

    Add(((1, ONE), (-1, Mul(((lr, ONE), (g, Num(2)))))))

`algebra` builds sums, products and powers, simplified; `choices` builds conditions; functions are built here.
"""
from collections.abc import Iterator
from fractions import Fraction
from keyword import iskeyword
from numbers import Number
from typing import NamedTuple

from optimcb.tracing.ops import REDUCTIONS

__all__ = ['Add', 'Call', 'Mul', 'Num', 'Sym', 'HALF', 'NUMEL', 'ONE', 'ZERO', 'call', 'calls', 'dims',
           'divides', 'factors_of', 'functions', 'is_negative', 'is_size', 'number', 'product',
           'subexpressions', 'symbols', 'terms_of']


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


def call(
    name:str, # A function
    *args # Expressions
):
    "Build a function of expressions."
    return Call(name, args)


HALF, ZERO, ONE = Fraction(1, 2), Num(0), Num(1)
NUMEL = Call('numel', ()) # number of elements of the parameter


# Sums and products

def terms_of(
    e # An expression
) -> list[tuple]:
    "List the terms of a sum as `(coefficient, expression)` pairs; a number is a multiple of 1."
    if isinstance(e, Add): return list(e.terms)
    if isinstance(e, Num): return [(e.value, ONE)]
    if not isinstance(e, Mul): return [(1, e)]
    (first, _), *others = e.factors
    return [(first.value, product(others))] if isinstance(first, Num) else [(1, e)]


def factors_of(
    e # An expression
) -> tuple:
    "List the factors of an expression as `(base, exponent)` pairs; the number 1 has none."
    if isinstance(e, Mul): return e.factors
    return () if e == ONE else ((e, ONE),)


def product(
    factors # `(base, exponent)` pairs in which nothing is left to simplify
):
    "Return the product of factors, or a plain expression for one factor or none."
    if not factors: return ONE
    (base, exponent), *others = factors
    return base if exponent == ONE and not others else Mul(tuple(factors))


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


# What is in an expression

def subexpressions(
    e # An expression
) -> list:
    "List the expressions directly inside an expression."
    if isinstance(e, Add): return [x for _, x in e.terms]
    if isinstance(e, Mul): return [x for factor in e.factors for x in factor]
    return list(e.args) if isinstance(e, Call) else []


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


def calls(
    e # An expression
) -> Iterator[Call]:
    "Iterate over the function calls in an expression."
    if isinstance(e, Call): yield e
    for x in subexpressions(e): yield from calls(x)


def functions(
    e # An expression
) -> set[str]:
    "Collect the names of the functions in an expression."
    return {o.name for o in calls(e)}


def dims(
    e # An expression
) -> set[str]:
    "Collect the names of the parameter's shape in an expression: `p.shape[0]`, `p.ndim`, `p.numel()`."
    if isinstance(e, Sym): return {e.name} if e.name.startswith('p.') else set()
    return {'p.numel()'} if e == NUMEL else set().union(*map(dims, subexpressions(e)))


def is_size(
    e # An expression
) -> bool:
    "Is an expression the size of one or several dimensions, so that it is at least 1?"
    is_one_dimension = isinstance(e, Sym) and e.name.startswith('p.shape[')
    return is_one_dimension or e == NUMEL or isinstance(e, Call) and e.name == 'prod'
