"""Parts that go with any rule: where each belongs in a list of steppers, and how it is put there.

The steppers of a rule work from the gradient to an `update`, which `apply_update` takes to the weights. A part says at which place of that way it belongs.
"""
from collections.abc import Callable

__all__ = ['PLACES', 'part', 'wrapped']

PLACES = ('first', 'gradient', 'update', 'last') # before everything, on gradients, on what is about to be applied, after everything


def part(
    place:str, # One of `PLACES`
    kind:str|None=None # What it does, in a word, if there can be one in a list that does
) -> Callable:
    "Let a stepper know where it belongs: `@part('update')`. A part of several steppers is a list of them."
    if place not in PLACES: raise ValueError(f"there is no place {place!r}. There are {', '.join(PLACES)}.")
    def mark(f):
        f.place, f.kind = place, kind
        return f
    return mark


def wrapped(
    cbs:list, # Steppers of a rule
    *parts # Steppers that have a place, or lists of them
) -> list:
    "`cbs` with `parts`, one after the other, where they belong."
    from optimcb.steppers import apply_update  # whose parts say where they belong
    for o in parts:
        at = {k: [f for f in (o if isinstance(o, (list, tuple)) else [o]) if _place(f) == k] for k in PLACES}
        head = sum(1 for f in cbs if _place(f) in ('first', 'gradient'))
        i = cbs.index(apply_update) if at['update'] else len(cbs)
        cbs = [*at['first'], *cbs[:head], *at['gradient'], *cbs[head:i], *at['update'], *cbs[i:], *at['last']]
    return cbs


def _place(f):
    while hasattr(f, 'func'): f = f.func
    return getattr(f, 'place', None)
