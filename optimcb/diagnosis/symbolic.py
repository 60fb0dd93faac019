"""Symbolic numbers, which record their expression, and the decisions that steppers make by them.

A stepper works with such numbers as usual, while its arithmetic is recorded. When it compares two of them,
the condition is recorded, too, and the opposite answer can be forced. So every branch of a stepper can be
explored, whether or not a real step takes it.
"""
import math
import operator
from contextlib import contextmanager
from fractions import Fraction
from numbers import Real
from typing import NamedTuple

from optimcb._compat.cpython import frame_above, module_of
from optimcb.diagnosis.algebra import add, div, mul, neg, power, sub
from optimcb.diagnosis.expressions import ONE, ZERO, call, dims, is_size, number, symbols
from optimcb.tracing import reductions, torch_api
from optimcb.tracing.numbers import MATH_LOCK
from optimcb.tracing.recording import NotRecorded

__all__ = ['Decision', 'Decisions', 'Symbolic', 'expression_of', 'math_written', 'plain', 'symbolic']


LOCK = MATH_LOCK # only one thread at a time may record
# The library's own bookkeeping compares numbers, too, which is not a decision of a stepper
BOOKKEEPING = tuple(f'optimcb.{o}.' for o in ('engines', 'composition', 'tracing', 'diagnosis', 'hypers'))
OF_TORCH = torch_api.__name__, reductions.__name__ # modules that steppers call


MOST_QUESTIONS = 1000 # limit per step


# Decisions

class Decision(NamedTuple):
    "A stepper's decision by a number."
    condition: object # An expression: a comparison
    answer: bool # The answer that the stepper got
    natural: bool # The true answer


class Decisions:
    "Records the decisions of steppers, by their places in the composition, and may force them."
    listening = None # the instance that records decisions

    def __init__(self,
        forced=None # By the place of a stepper, forced answers to its first conditions
    ):
        self.forced, self.made, self.place, self.departed = forced or {}, {}, None, False
        self.asked = 0

    def began(self,
        place:int # Place of the stepper
    ):
        "Note that a stepper is called."
        self.place = place
        self.made[place] = []

    def answer(self, condition, natural):
        "Answer a condition: as before if it is repeated, else as forced, else truthfully."
        made = self.made[self.place]
        self.asked += 1
        if self.asked > MOST_QUESTIONS:
            raise NotRecorded([], "it goes on and on where it is forced to take another branch.")
        for d in made:
            if d.condition == condition: return d.answer
        forced = self.forced.get(self.place, ())
        answer = forced[len(made)] if len(made) < len(forced) else natural
        self.departed |= answer != natural
        made.append(Decision(condition, answer, natural))
        return answer

    @contextmanager
    def listen(self):
        "Record the decisions inside a `with` block."
        with LOCK:
            before, Decisions.listening = Decisions.listening, self
            try: yield self
            finally: Decisions.listening = before


def _decided(name, natural, a, b):
    "Return the answer to a comparison; if a stepper made it, record it"
    listening = Decisions.listening
    if listening is None or listening.place is None: return natural
    module = module_of(frame_above(2)) # of what compares
    if module not in OF_TORCH and f'{module}.'.startswith(BOOKKEEPING): return natural
    if a == b: return natural
    condition = call(name, a, b)
    if not symbols(condition) and not dims(condition) or _is_of_empty(condition): return natural
    return listening.answer(condition, natural)


def _is_of_empty(c) -> bool:
    "Does a comparison tell tensors without elements from others, as `n > 0` does for a number of a shape?"
    if c.name in ('gt', 'ge'): c = call(dict(gt='lt', ge='le')[c.name], *c.args[::-1])
    small, large = c.args
    if is_size(small): return (c.name, large) in (('lt', ONE), ('le', ZERO), ('eq', ZERO), ('ne', ZERO))
    return is_size(large) and (small == ZERO or (c.name, small) == ('le', ONE))


# Numbers

class Symbolic:
    "A number with an expression, `e`."


def symbolic(
    value:Real, # A number
    e # Its expression
) -> Symbolic:
    "Return `value` as a symbolic number."
    res = (Symbolic.whole if isinstance(value, int) else _Float)(value)
    res.e = e
    return res


def expression_of(
    x:Real # A number
):
    "Return the expression of a number, or a plain number itself."
    return x.e if isinstance(x, Symbolic) else number(x)


def plain(
    x:Real # A number
) -> int|float:
    "Return the plain number."
    if isinstance(x, (int, _Count)): return int(x)
    return float.__float__(x) if isinstance(x, float) else float(x)


def _worked_out(f, *xs):
    "Call `f` on numbers; return an arbitrary number if it fails, as it may in a forced branch"
    departed = Decisions.listening is not None and Decisions.listening.departed
    try: res = f(*xs)
    except (ArithmeticError, ValueError):
        if not departed: raise
        return 1.
    return 1. if departed and isinstance(res, complex) else res


def _floored(a, b): return call('floor', div(a, b))
def _rest(a, b): return call('mod', a, b)


ARITHMETIC = dict(add=add, sub=sub, mul=mul, truediv=div, pow=power, floordiv=_floored, mod=_rest)
COMPARISONS = 'eq', 'ne', 'lt', 'le', 'gt', 'ge'


def _operators(cls):
    "Add recorded arithmetic and comparisons to `cls`"
    def written(value, build): return symbolic(value, build()) if isinstance(value, (int, float)) else value
    def arithmetic(name, f, build):
        def forward(self, other):
            if not isinstance(other, Real): return NotImplemented
            value = _worked_out(f, plain(self), plain(other))
            return written(value, lambda: build(self.e, expression_of(other)))
        def backward(self, other):
            if not isinstance(other, Real): return NotImplemented
            value = _worked_out(f, plain(other), plain(self))
            return written(value, lambda: build(expression_of(other), self.e))
        setattr(cls, f'__{name}__', forward)
        setattr(cls, f'__r{name}__', backward)
    def comparison(name, f):
        def compare(self, other):
            if not isinstance(other, Real): return NotImplemented
            return _decided(name, f(plain(self), plain(other)), self.e, expression_of(other))
        setattr(cls, f'__{name}__', compare)
    for name, build in ARITHMETIC.items(): arithmetic(name, getattr(operator, name), build)
    for name in COMPARISONS: comparison(name, getattr(operator, name))
    cls.__hash__ = cls.__mro__[2].__hash__
    cls.__bool__ = lambda self: _decided('ne', plain(self) != 0, self.e, number(0))
    cls.__neg__ = lambda self: symbolic(-plain(self), neg(self.e))
    cls.__abs__ = lambda self: symbolic(abs(plain(self)), call('abs', self.e))
    cls.__pos__ = lambda self: self
    def rounding(name, f):
        def rounded(self): return symbolic(_worked_out(f, plain(self)), call(name, self.e))
        setattr(cls, f'__{name}__', rounded)
    for name in ('floor', 'ceil', 'trunc'): rounding(name, getattr(math, name))
    return cls


@_operators
class _Float(Symbolic, float): pass
@_operators
class _Int(Symbolic, int): pass
class _Count(_Float):
    "A whole number that is a float, so that operators with floats are ours"
    def __index__(self): return int(float.__float__(self))


WHOLE = _Count, _Int # the first records more, but isn't accepted everywhere
Symbolic.whole = _Count


def _named_call(name): return lambda x: call(name, x)


OF_MATH = dict(sqrt=lambda x: power(x, number(Fraction(1, 2))), pow=power)
NAMED = 'exp', 'log', 'expm1', 'log1p', 'sin', 'cos', 'tan', 'sinh', 'cosh', 'tanh', 'erf', 'exp2'
OF_MATH |= {k: _named_call(k) for k in NAMED if hasattr(math, k)} # `exp2` is new in Python 3.11


@contextmanager
def math_written():
    "Let functions of `math` record calls with symbolic numbers, inside a `with` block."
    def written(f, build):
        count = build.__code__.co_argcount # `log` with another base is not recorded
        def call(*xs):
            if len(xs) != count or not any(isinstance(x, Symbolic) for x in xs): return f(*xs)
            return symbolic(_worked_out(f, *map(plain, xs)), build(*map(expression_of, xs)))
        return call
    with LOCK:
        before = {k: getattr(math, k) for k in (*OF_MATH, 'prod')}
        def prod(xs, **kwargs):
            is_shape = isinstance(xs, tuple) and hasattr(xs, 'numel') and not kwargs
            return xs.numel() if is_shape else before['prod'](xs, **kwargs)
        try:
            for k, build in OF_MATH.items(): setattr(math, k, written(before[k], build))
            math.prod = prod
            yield
        finally:
            for k, f in before.items(): setattr(math, k, f)
