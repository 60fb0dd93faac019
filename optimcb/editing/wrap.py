"""Parts that go with any rule: where each belongs in a list of steppers, and how it is put there.

The steppers of a rule work from the gradient to an `update`, which `apply_update` takes to the weights. A part says at which place of that way it belongs.
"""
import inspect
from functools import partial

from optimcb._boundary import entry
from optimcb.composition.roles import DECAY, PLACES, kind_of, place_of
from optimcb.composition.stepper import InRoute, Stepper, is_redefined, name_of, only, renamed
from optimcb.composition.traits import traits_of

__all__ = ['wrapped']


@entry
def wrapped(
    cbs:list, # Steppers of a rule
    *parts # Steppers that have a place, partials of them, or lists of several
) -> list:
    """`cbs` with `parts`, one after the other, where they belong.

    What changes updates comes before `apply_update`: a step that does all in one call is taken apart, or, if it isn't the library's, what it did
    is taken back and becomes the update. Raises `ValueError` for parts that make no sense there."""
    decayed = None
    for o in parts:
        new = list(o) if isinstance(o, (list, tuple)) else [o]
        for f in new: _check(f, cbs)
        decays = [f for f in new if kind_of(f) == DECAY]
        for f in decays:
            if decayed: raise ValueError(f"`{Stepper(decayed)}` and `{Stepper(f)}` both decay the weights. Leave one of them out.")
            decayed = f
        cbs = _put(cbs, new, decays)
    return cbs


# What makes no sense

def _check(f, cbs):
    s, there = Stepper(f), [Stepper(o) for o in cbs if o is not None]
    place, kind = place_of(f), kind_of(f)
    if place is None or place == 'apply':
        raise ValueError(f"stepper `{s}` doesn't say where it belongs. Say where: `insert(…, before=…)`, or decorate it with `@part('…')`."
                         + f" If it makes steppers, call it: `{s}()`."*(not traits_of(f).place and not s.is_ours and inspect.isroutine(s.innermost)))
    if kind == DECAY: return
    for o in there:
        if o.innermost is s.innermost and o.names == s.names: raise ValueError(f"`{o}` is there already. Change its options, or `remove` it first.")
        if is_redefined(s, o):
            name = name_of(f)
            raise ValueError(f"`{o}` is there already, as it was before. `replace({name}, {name})` puts the new one in its place.")
        if kind and kind_of(o.f) == kind:
            raise ValueError(f"`{s}` can't be put beside `{o}`: there can be one {kind} only. `remove` the other one first.")
        if kind and kind == o.traits.against or kind_of(o.f) and kind_of(o.f) == s.traits.against:
            raise ValueError(f"`{s}` makes no sense beside `{o}`. `remove` one of them.")
    for i, o in enumerate(there):
        if s.traits.scales in o.traits.blind_to and not _averaged(o, there[:i]):
            raise ValueError(f"`{s}` would do nothing: it makes gradients smaller, but `{o}` looks at nothing but their "
                             f"{'signs' if 'elements' in o.traits.blind_to else 'direction'}. Leave it out.")


def _averaged(s, before) -> bool:
    "Does an earlier stepper make an average that this one looks at, or an update?"
    return any((k.endswith('avg') or k == 'update') and k in o.mentions for k in s.names for o in before)


# Putting in

def _put(cbs, new, decays) -> list:
    at = {k: [f for f in new if place_of(f) == k] for k in PLACES}
    own = _own_decays(cbs) if decays else []
    if at['decay'] + at['penalty']: cbs = _in_place_of(own, cbs, (at['decay'] + at['penalty'])[0])
    else: cbs = [f for f in cbs if not _is_in(f, own)]
    if at['update'] or at['length']:
        cbs = _with_update(cbs, (at['update'] + at['length'])[0])
        for end in [i for i, f in enumerate(cbs) if place_of(f) == 'apply'][::-1] or [_tail(cbs)]:
            i = end
            while i and place_of(cbs[i-1]) == 'length': i -= 1
            there = cbs[end] if end < len(cbs) and place_of(cbs[end]) == 'apply' else None
            update, length = ([_put_like(f, there, own) for f in at[k]] for k in ('update', 'length'))
            cbs = [*cbs[:i], *update, *cbs[i:end], *length, *cbs[end:]]
    head, gates = _head(cbs), sum(place_of(f) == 'gate' for f in cbs)
    start = max((i + 1 for i, f in enumerate(cbs) if traits_of(f).sets_hyper), default=gates) # what comes first reads hyper-parameters, too
    return [*cbs[:gates], *at['gate'], *cbs[gates:start], *at['first'], *cbs[start:head], *at['gradient'], *cbs[head:], *at['last']]


def _head(cbs) -> int:
    "Where a rule begins: after what comes first, and what changes gradients"
    return max((i + 1 for i, f in enumerate(cbs) if place_of(f) in ('gate', 'first', 'gradient') or traits_of(f).sets_hyper), default=0)


def _tail(cbs) -> int:
    "Where a rule ends"
    return next((i for i, f in enumerate(cbs) if place_of(f) == 'last'), len(cbs))


def _is_in(f, fs): return any(f is o for o in fs)


def _own_decays(cbs) -> list:
    "What decays the weights, but for what decays them by a coefficient of another kind beside that"
    found = [f for f in cbs if kind_of(f) == DECAY]
    return [f for f in found if Stepper(f).new_name('wd').endswith('wd')] or found


def _in_place_of(own, cbs, decay) -> list:
    "`cbs` with `decay` in the place of each of their own, for the same parameters and by a coefficient of the same name"
    res, early, there = [], [], []
    for f in cbs:
        if not _is_in(f, own): res.append(f)
        elif _where(f) not in there:
            there.append(_where(f))
            masks = Stepper(f).masks
            late = place_of(decay) == 'penalty'
            (early if late else res).append(_masked(_named_as(decay, f), masks))
    if not own: early = [decay]
    head = _head(res)
    return [*res[:head], *early, *res[head:]]


def _where(f) -> list: return [(o.mark, getattr(o, 'name', True)) for o in Stepper(f).masks] if f is not None else []


def _put_like(f, there, own):
    "A stepper for the parameters of `there`; if it decays, for those of their own decay, by the names that it had"
    where = _where(there)
    decay = next((o for o in own if _where(o)[:len(where)] == where), None) if kind_of(f) == DECAY else None
    like = there if decay is None else decay
    return _masked(_named_as(f, decay), Stepper(like).masks if like is not None else ())


def _named_as(f, other):
    "A stepper that has the names which another one has for the same things"
    if other is None: return f
    new, s = Stepper(other).new_name, Stepper(f)
    names = {k: new(k) for k in sorted(s.mentions.union(s.names)) if new(k) != k}
    return renamed(f, **names) if names else f


def _masked(f, masks):
    "A stepper for the parameters of some rules"
    for o in reversed(masks): f = only(f, o)
    return f


def _with_update(cbs, wanted) -> list:
    "Steppers that make an update and apply it, in the place of those that step at once"
    steps = [i for i, f in enumerate(cbs) if traits_of(f).unfused]
    applied = [i for i, f in enumerate(cbs) if place_of(f) == 'apply']
    routes = [o for i in steps + applied for o in Stepper(cbs[i]).masks if isinstance(o, InRoute)]
    taken = [o.name for o in routes]
    if len(taken) == len(steps) + len(applied) == len(set(taken)) > 0: # one in each route
        lacking = [k for k in getattr(routes[0].decider, 'values', ()) if k not in taken]
        if lacking: raise ValueError(f"`{Stepper(wanted)}` changes the update, but route `{lacking[0]}` makes none. Say where: `insert(only(…), before=…)`.")
    elif len(steps) + len(applied) > 1:
        there = ', '.join(f'`{Stepper(cbs[i])}`' for i in sorted(steps + applied))
        raise ValueError(f"`{Stepper(wanted)}` changes the update, but there is more than one: {there}. Say where: `insert(…, before=…)`.")
    if steps or applied: return [o for i, f in enumerate(cbs) for o in (_taken_apart(f) if i in steps else [f])]
    return _taken_back(cbs, wanted)


def _taken_apart(step) -> list:
    "The steppers that do one after the other what a step does in one call, with what its defaults and partials fix"
    s, ps = Stepper(step), inspect.signature(step).parameters
    given = {k: ps[s.new_name(k)].default for k in inspect.signature(s.innermost).parameters if s.new_name(k) in ps}
    given = {k: v for k, v in given.items() if v is not inspect.Parameter.empty and v is not None}
    def fixed(f):
        differs = {k: given[k] for k, p in inspect.signature(f).parameters.items() if k in given and given[k] != p.default}
        return _masked(_named_as(partial(f, **differs) if differs else f, step), s.masks)
    return [fixed(f) for f in s.traits.unfused]


def _taken_back(cbs, wanted) -> list:
    "Steppers around somebody's own step, which make an update of what it did. Decay before it stays outside"
    from optimcb.steppers import apply_update
    from optimcb.steppers.parts import note_weights, undo_step
    there = [Stepper(f) for f in cbs if f is not None]
    if any('update' in s.mentions for s in there if 'update' not in s.required): return cbs # somebody else will apply it
    start, end = _head(cbs), _tail(cbs)
    while start < end and kind_of(cbs[start]) == DECAY: start += 1
    if not _steps(cbs):
        raise ValueError(f"`{Stepper(wanted)}` changes the update, but nothing makes one or steps: {', '.join(s.label for s in there)}. "
                         "Put a rule there, which ends in `apply_update`.")
    return [*cbs[:start], note_weights, *cbs[start:end], undo_step, apply_update, *cbs[end:]]


def _steps(cbs) -> bool:
    "Do these steppers step, as far as can be told?"
    from optimcb.diagnosis.checks import steps_at_all
    return steps_at_all(cbs)
