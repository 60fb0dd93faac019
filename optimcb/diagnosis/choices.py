"""Conditions on numbers, and choices between two expressions.

`choice` builds a choice as a function of a condition and both expressions. It factors out what both have in
common, and writes the smaller or larger of two numbers as `min` or `max`.
"""
import operator

from optimcb.diagnosis.algebra import add, div, factor_out, mul, neg, power, scaled
from optimcb.diagnosis.expressions import (
    HALF,
    ONE,
    ZERO,
    Add,
    Call,
    Mul,
    Num,
    Sym,
    call,
    divides,
    factors_of,
    is_negative,
    is_size,
    subexpressions,
    symbols,
)

__all__ = ['NO', 'OPPOSITE', 'YES', 'both', 'choice', 'condition', 'either', 'negated']


# Choices

OPPOSITE = dict(eq='ne', ne='eq', lt='ge', ge='lt', gt='le', le='gt', is_none='is_there', is_there='is_none')
OPPOSITE |= {'and': 'or', 'or': 'and'}
TRUE, FALSE = Num(True), Num(False)
YES, NO = Sym('True'), Sym('False') # arguments of functions


def condition(
    name:str, # Name of a comparison, or `and` or `or`
    *args # Compared expressions, or two conditions
):
    "Build a condition, or true or false if it is known."
    if name == 'and': return both(*args)
    if name == 'or': return either(*args)
    if not all(isinstance(a, Num) for a in args): return call(name, *args)
    return TRUE if getattr(operator, name)(*(a.value for a in args)) else FALSE


def negated(
    c # A condition on numbers
):
    "Negate a condition."
    if isinstance(c, Num): return FALSE if c.value else TRUE
    args = map(negated, c.args) if c.name in ('and', 'or') else c.args
    return call(OPPOSITE[c.name], *args)


def both(
    a, # A condition on numbers
    b # Another
):
    "Build the condition that both hold."
    if isinstance(a, Num): return b if a.value else FALSE
    if isinstance(b, Num): return a if b.value else FALSE
    return a if a == b else FALSE if a == negated(b) else call('and', a, b)


def either(
    a, # A condition on numbers
    b # Another
):
    "Build the condition that at least one holds."
    return negated(both(negated(a), negated(b)))


def choice(
    c, # A condition on numbers
    a, # Value if it holds
    b # Value if not
):
    "Build the choice of `a` or `b`, with common factors outside; it may become `min` or `max`."
    if isinstance(c, Num): return a if c.value else b
    if a == b: return a
    if c.name in ('gt', 'ge'): return choice(call('lt' if c.name == 'gt' else 'le', *c.args[::-1]), a, b)
    if c.name in ('ne', 'is_there'): return choice(negated(c), b, a)
    is_truth = {a, b} == {YES, NO} or b == NO and isinstance(a, Call) and a.name in OPPOSITE
    if is_truth: return negated(c) if a == NO else c if a == YES else both(c, a)
    is_nested = isinstance(b, Call) and b.name == 'case' and b.args[1] == a # `a if c else (a if d else e)`
    if is_nested: return choice(either(c, b.args[0]), a, b.args[2])
    is_twice = isinstance(a, Call) and a.name == 'case' and a.args[2] == b # `(a if d else b) if c else b`
    if is_twice: return choice(both(c, a.args[0]), a.args[1], b)
    if not (a.scalar and b.scalar): return call('case', c, a, b)
    extreme = _extreme_in_power(c, a, b) or _extreme(c, a, b)
    if extreme: return extreme
    differ = _differences(a, b)
    if len(differ) == 1 and differ != {(a, b)}: # the choice is inside
        (x, y), = differ
        return _one_for_two(a, b, (x, y), choice(c, x, y))
    no_positive = all(is_negative(x) or x == ZERO for x in (a, b))
    if no_positive: return neg(choice(c, neg(a), neg(b)))
    shared, a, b = factor_out(a, b)
    return mul(shared, choice(c, a, b)) if shared != ONE else call('case', c, a, b)


def _has_same_form(a, b) -> bool:
    "Do two expressions differ in their subexpressions only?"
    if type(a) is not type(b): return False
    if isinstance(a, Add): return [c for c, _ in a.terms] == [c for c, _ in b.terms]
    if isinstance(a, Mul): return len(a.factors) == len(b.factors)
    return isinstance(a, Call) and a.name == b.name and len(a.args) == len(b.args)


def _differences(a, b) -> set:
    "Return the pairs of corresponding subexpressions that differ"
    if a == b: return set()
    if not _has_same_form(a, b): return {(a, b)}
    return set().union(*map(_differences, subexpressions(a), subexpressions(b)))


def _one_for_two(a, b, pair, new):
    "Return `a` and `b` with `new` instead of the only subexpressions that differ"
    if (a, b) == pair: return new
    if a == b: return a
    inside = [_one_for_two(x, y, pair, new) for x, y in zip(subexpressions(a), subexpressions(b))]
    if isinstance(a, Add): return add(*(scaled(c, x) for (c, _), x in zip(a.terms, inside)))
    if isinstance(a, Mul): return mul(*(power(x, n) for x, n in zip(inside[::2], inside[1::2])))
    return choice(*inside) if a.name == 'case' else call(a.name, *inside)


def _extreme(c, a, b):
    "Return a choice as a multiple of the `min` or `max` of the compared sides, or None"
    if c.name not in ('lt', 'le'): return None
    small, large = c.args
    for name, mine, theirs in (('min', small, large), ('max', large, small)):
        for e, side, other, side_of_other in ((a, mine, b, theirs), (b, theirs, a, mine)):
            if side == ZERO: continue
            times = div(e, side)
            # May be 0 in the other case
            by_names = any(divides(f) and symbols(f[0]) for f in factors_of(times))
            if mul(times, side_of_other) == other and times != ZERO and not by_names:
                return mul(times, _first_or_last(name, mine, theirs))


def _extreme_in_power(c, a, b):
    "Something over, or by a root of, the smaller or larger side of a comparison, if the choice is that"
    shared, *rests = factor_out(a, b)
    if ZERO in rests: return None
    factors = [f for e in rests for f in factors_of(e)]
    is_below = all(map(divides, factors))
    is_root = all(x == Num(HALF) for _, x in factors)
    if not is_below and not is_root: return None
    extreme = _extreme(c, *(power(e, Num(-1 if is_below else 2)) for e in rests))
    return extreme and mul(shared, power(extreme, Num(-1 if is_below else HALF)))


def _first_or_last(name, a, b):
    "The smaller or larger of two numbers: no dimension is smaller than one"
    number, other = sorted((a, b), key=lambda x: not isinstance(x, Num))
    is_known = is_size(other) and isinstance(number, Num) and number.value <= 1
    if is_known: return other if name == 'max' else number
    return call(name, number, other)


