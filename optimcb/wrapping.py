"""Parts that go with any rule: where each belongs in a list of steppers, and how it is put there.

The steppers of a rule work from the gradient to an `update`, which `apply_update` takes to the weights. A part says at which place of that way it belongs.
"""
from optimcb.stepper import PLACES, part
from optimcb.steppers import apply_update

__all__ = ['PLACES', 'part', 'wrapped']

def wrapped(
    cbs:list, # Steppers of a rule
    *parts # Steppers that have a place, or lists of them
) -> list:
    "`cbs` with `parts`, one after the other, where they belong."
    for o in parts:
        at = {k: [f for f in (o if isinstance(o, (list, tuple)) else [o]) if _place(f) == k] for k in PLACES}
        head = sum(1 for f in cbs if _place(f) in ('first', 'gradient'))
        i = cbs.index(apply_update) if at['update'] else len(cbs)
        cbs = [*at['first'], *cbs[:head], *at['gradient'], *cbs[head:i], *at['update'], *cbs[i:], *at['last']]
    return cbs


def _place(f):
    while hasattr(f, 'func'): f = f.func
    return getattr(f, 'place', None)
