"""`math`'s functions as steppers call them: what they do to numbers can be written down, as arithmetic can.

A recording follows numbers, to be used again in steps that differ in numbers only. It can't follow them into
`math`, which is written in C.
"""
import math

__all__ = ['exp', 'log', 'sqrt']


def _of(name, x):
    "`math`'s function of a number, which may be one that is followed"
    return x.in_math(name) if hasattr(type(x), 'in_math') else getattr(math, name)(x)


def sqrt(
    x # A number
):
    "Return the square root."
    return _of('sqrt', x)


def exp(
    x # A number
):
    "Return e to the power of `x`."
    return _of('exp', x)


def log(
    x # A number
):
    "Return the natural logarithm."
    return _of('log', x)
