"""Find initial values of state with which the first step follows the formula of later steps.

If a stepper does `avg = grad` without state, and `avg = mom*avg + grad` with it, the initial value is 0."""
from itertools import product

from optimcb.diagnosis.algebra import sub
from optimcb.diagnosis.expressions import ONE, ZERO, Num, Sym, symbols
from optimcb.diagnosis.outcomes import NOWHERE, UNSEEN, Line, Outcome, Tree
from optimcb.diagnosis.rewriting import substituted

__all__ = ['first_values']


def first_values(
    present:Tree|Outcome, # What the stepper does if the state exists
    absent:Tree|Outcome, # What it does if the state doesn't exist yet
    merged:tuple[Outcome, Outcome], # Both, with merged branches
    names:list[str], # Names of the state
    known:dict, # Known initial values, by name
    hypers:dict # Hyper-parameters, on which initial values may depend
) -> dict|None:
    """Find initial values of state with which the first step is the same as later ones.

    Returns None if there are none."""
    later, first = (o.names for o in merged)
    def candidates(name):
        if name in known: return [known[name]]
        found = [ZERO, ONE]
        if name in first: found.append(first[name].e)
        if name in first and name in later:
            found.append(sub(first[name].e, substituted(later[name].e, _all_as({name: ZERO}))))
        return [e for e in dict.fromkeys(found) if symbols(e) <= hypers.keys() and e.scalar]
    for values in product(*map(candidates, names)):
        start = dict(zip(names, values))
        if _is_same(absent, present, start): return start


def _is_same(absent, present, start) -> bool:
    "Does a stepper do the same without state as with state of these initial values?"
    if absent is NOWHERE or absent is UNSEEN or present is NOWHERE: return True
    if isinstance(present, Tree):
        c = substituted(present.condition, _all_as(start))
        if isinstance(c, Num): return _is_same(absent, present.yes if c.value else present.no, start)
        if not isinstance(absent, Tree) or absent.condition != c: return False
        return _is_same(absent.yes, present.yes, start) and _is_same(absent.no, present.no, start)
    if not isinstance(absent, Outcome) or not isinstance(present, Outcome): return False
    return _without_same(present.changed(_all_as(start)), start) == _without_same(absent, start)


def _without_same(outcome, start) -> Outcome:
    "Remove lines that only assign the initial value"
    def stays(o): return isinstance(o, Line) and o.name in start and o.e == start[o.name]
    def others(lines): return tuple(o for o in lines if not stays(o))
    return outcome._replace(items=others(outcome.items), numbers=others(outcome.numbers))


def _all_as(new) -> dict: return {Sym(k, scalar): e for k, e in new.items() for scalar in (True, False)}
