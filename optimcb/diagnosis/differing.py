"Compare two outcomes of a stepper: find what they have in common, or the more general one."
from optimcb.diagnosis.algebra import factor_out, mul, neg
from optimcb.diagnosis.choices import choice, negated
from optimcb.diagnosis.expressions import Call, Num, Sym, call, is_negative, symbols
from optimcb.diagnosis.outcomes import Line, Outcome, flat_lines
from optimcb.diagnosis.reading import SWAPPED
from optimcb.diagnosis.rewriting import common, unknown

__all__ = ['NoNumber', 'all_unknown', 'general_outcome', 'in_common', 'nothing_known', 'number_chosen',
           'where', 'written']


class NoNumber(Exception):
    "Two expressions differ in more than numbers."


def number_chosen(
    condition, # Condition
    a, # Expression where it holds
    b # Expression where it does not
):
    "Choose between two numbers by a condition. Raises `NoNumber` if one of them is a tensor."
    if not (a.scalar and b.scalar): raise NoNumber
    return choice(condition, a, b)


def written(
    outcome:Outcome # An outcome
) -> list:
    "List the names that an outcome writes without a condition."
    return [o.name for o in (*outcome.items, *outcome.numbers) if isinstance(o, Line)]


def all_unknown(
    a:Outcome, # One of them
    b:Outcome, # The other one
    also:list # Further expressions that unknown values depend on
) -> Outcome:
    "Merge two outcomes, with `f(…)` of the names that they depend on for all values."
    names = {**a.names, **b.names}
    seen = [o.e for o in names.values()]
    items = tuple(o._replace(e=unknown(*seen, also=also)) for o in names.values())
    return Outcome(items, (), a.ends if a.ends == b.ends else unknown(*seen, also=also))


def in_common(
    a:Outcome, # One of them
    b:Outcome, # The other one
    also:list # Further expressions that unknown values depend on
) -> Outcome:
    "Merge two outcomes with the same lines, with `f(…)` for numbers that differ."
    def differ(x, y):
        if not (x.scalar and y.scalar): return unknown(x, y, also=also)
        shared, x, y = factor_out(x, y)
        f, is_subtracted = unknown(x, y, also=also), is_negative(x) or is_negative(y)
        return mul(shared, neg(f) if is_subtracted else f) # `p - f(…)*grad`, not `p + f(…)*grad`
    def lines(xs, ys): return tuple(x._replace(e=common(x.e, y.e, differ)) for x, y in zip(xs, ys))
    return Outcome(lines(a.items, b.items), lines(a.numbers, b.numbers), a.ends)


def nothing_known(
    outcome:Outcome, # An outcome
    condition # Condition on which they also depend
) -> Outcome:
    "Replace the values in an outcome by `f(…)` of the names that they depend on."
    def lines(items): return tuple(o._replace(e=unknown(o.e, also=[condition])) for o in items)
    return Outcome(lines(flat_lines(outcome.items)), lines(outcome.numbers), outcome.ends)


def where(
    outcome:Outcome, # An outcome
    condition, # A condition
    answer:bool # Does it hold?
) -> Outcome:
    "Restrict an outcome to a known answer of a condition."
    new = {condition: Num(answer), negated(condition): Num(not answer)}
    new |= {call(SWAPPED[c.name], *c.args[::-1]): holds for c, holds in new.items() if c.name in SWAPPED}
    def taken(items):
        for o in items:
            if isinstance(o, Line): yield o
            elif isinstance(o.condition, Num): yield from taken(o.yes if o.condition.value else o.no)
            else: yield o._replace(yes=tuple(taken(o.yes)), no=tuple(taken(o.no)))
    res = outcome.changed(new)
    return res._replace(items=tuple(taken(res.items)))


def general_outcome(
    condition:Call, # A comparison
    yes:Outcome, # Where it holds
    no:Outcome # Where it does not
) -> Outcome|None:
    "Return the more general outcome, if the other is its special case for the compared value."
    if condition.name not in ('eq', 'ne'): return None
    name, value = sorted(condition.args, key=lambda x: not isinstance(x, Sym))
    if not isinstance(name, Sym) or name.name in symbols(value): return None
    special, general = (yes, no) if condition.name == 'eq' else (no, yes)
    if not general.names: return None
    def there(outcome): return _completed(outcome.changed({name: value}), general)
    return general if there(special) == there(general) else None


def _completed(outcome, other) -> Outcome:
    "Add lines that only the other outcome has, as lines that leave names unchanged"
    def completed(lines, others):
        known = {o.name: o for o in lines if isinstance(o, Line)}
        has_blocks = len(known) < len(lines)
        if has_blocks or not known.keys() <= {getattr(o, 'name', None) for o in others}: return lines
        return tuple(known.get(o.name, o._replace(e=Sym(o.name, o.e.scalar))) for o in others)
    items, numbers = (completed(getattr(outcome, k), getattr(other, k)) for k in ('items', 'numbers'))
    return Outcome(items, numbers, outcome.ends)
