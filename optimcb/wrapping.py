"""Parts that go with any rule: where each belongs in a list of steppers, and how it is put there.

The steppers of a rule work from the gradient to an `update`, which `apply_update` takes to the weights. A part says at which place of that way it belongs.
"""
import inspect
from collections.abc import Callable
from functools import partial

from optimcb.stepper import Stepper

__all__ = ['PLACES', 'kind_of', 'of_directions', 'of_signs', 'part', 'place_of', 'wrapped']

PLACES = { # by name, what belongs there; in the order of a step
    'gate': 'what may end a step before it begins',
    'first': 'what comes before everything else',
    'gradient': 'what changes the gradient',
    'penalty': "what decays the weights by their gradient, wherever the rule's own decay was",
    'decay': "what decays the weights, in the place of the rule's own decay",
    'update': 'what changes the update',
    'length': 'what changes the length of the step, when the update is as it will be',
    'apply': 'what takes the update to the weights',
    'last': 'what comes after everything else'}
DECAY = 'decay' # the kind of which a part takes the place of the rule's own


def part(
    place:str|None=None, # One of `PLACES`; None: where the rule has it
    kind:str|None=None, # What it does, in a word, if there can be one in a list that does
    against:str|None=None, # Kind that makes no sense beside it
    scales:str|None=None # If it only multiplies gradients by positive numbers: 'tensors', by one each, or 'elements'
) -> Callable:
    "Let a stepper know where it belongs: `@part('update')`. A part of several steppers is a list of them. Raises `ValueError`."
    if place is not None and place not in PLACES: raise ValueError(f"there is no place {place!r}. There are {', '.join(PLACES)}.")
    def mark(f):
        f.place, f.kind, f.against, f.scales = place, kind, against, scales
        return f
    return mark


def of_signs(
    f:Callable # A stepper
) -> Callable:
    "Let a stepper say that it looks at nothing but signs, of gradients or of averages that others make: what scales gradients alone is lost on it."
    f.blind_to = ('tensors', 'elements')
    return f


def of_directions(
    f:Callable # A stepper
) -> Callable:
    "Let a stepper say that the length of a gradient is nothing to it, only its direction: what scales whole gradients is lost on it."
    f.blind_to = ('tensors',)
    return f


def _of(f, name): return None if f is None else getattr(Stepper(f).innermost, name, None)


def place_of(
    f:Callable|None # A stepper
) -> str|None:
    "The place where a stepper belongs, if it says."
    return _of(f, 'place')


def kind_of(
    f:Callable|None # A stepper
) -> str|None:
    "What a stepper does, if only one in a list can. fastai's decay is known by its name; one of another number, as there is in ASGD's rule, isn't meant."
    if f is not None and Stepper(f).new_name('wd') != 'wd': return None
    return _of(f, 'kind') or (DECAY if _of(f, '__name__') in ('weight_decay', 'l2_reg') else None)


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
        if decays and decayed: raise ValueError(f"`{Stepper(decayed)}` and `{Stepper(decays[0])}` both decay the weights. Leave one of them out.")
        decayed = decays[0] if decays else decayed
        cbs = _put(cbs, new, decays)
    return cbs


# What makes no sense

def _check(f, cbs):
    s, there = Stepper(f), [Stepper(o) for o in cbs if o is not None]
    place, kind = place_of(f), kind_of(f)
    if place is None or place == 'apply':
        raise ValueError(f"stepper `{s}` doesn't say where it belongs. Say where: `insert(…, before=…)`, or decorate it with `@part('…')`."
                         + f" If it makes steppers, call it: `{s}()`."*(not _of(f, 'place') and not s.is_ours))
    if kind == DECAY: return
    for o in there:
        if o.innermost is s.innermost and o.names == s.names: raise ValueError(f"`{o}` is there already. Change its options, or `remove` it first.")
        if kind and kind_of(o.f) == kind:
            raise ValueError(f"`{s}` can't be put beside `{o}`: there can be one {kind} only. `remove` the other one first.")
        if kind and kind == _of(o.f, 'against') or kind_of(o.f) and kind_of(o.f) == _of(f, 'against'):
            raise ValueError(f"`{s}` makes no sense beside `{o}`. `remove` one of them.")
    for i, o in enumerate(there):
        if _of(f, 'scales') in getattr(o.innermost, 'blind_to', ()) and not _averaged(o, there[:i]):
            raise ValueError(f"`{s}` would do nothing: it makes gradients smaller, but `{o}` looks at nothing but their "
                             f"{'signs' if 'elements' in o.innermost.blind_to else 'direction'}. Leave it out.")


def _averaged(s, before) -> bool:
    "Does an earlier stepper make an average that this one looks at, or an update?"
    return any((k.endswith('avg') or k == 'update') and k in o.mentions for k in s.names for o in before)


# Putting in

def _put(cbs, new, decays) -> list:
    at = {k: [f for f in new if place_of(f) == k] for k in PLACES}
    if decays:
        own = [i for i, f in enumerate(cbs) if kind_of(f) == DECAY]
        cbs = [f for i, f in enumerate(cbs) if i not in own]
        if at['penalty']: cbs[(i := _head(cbs)):i] = at['penalty']
        if at['decay']: cbs[(i := own[0] if own else _head(cbs)):i] = at['decay']
    if at['update'] or at['length']:
        cbs = _with_update(cbs, (at['update'] + at['length'])[0])
        end = next((i for i, f in enumerate(cbs) if place_of(f) == 'apply'), _tail(cbs))
        i = end
        while i and place_of(cbs[i-1]) == 'length': i -= 1
        cbs = [*cbs[:i], *at['update'], *cbs[i:end], *at['length'], *cbs[end:]]
    head, gates = _head(cbs), sum(place_of(f) == 'gate' for f in cbs)
    return [*cbs[:gates], *at['gate'], *at['first'], *cbs[gates:head], *at['gradient'], *cbs[head:], *at['last']]


def _head(cbs) -> int:
    "Where a rule begins: after what comes first, and what changes gradients"
    return max((i + 1 for i, f in enumerate(cbs) if place_of(f) in ('gate', 'first', 'gradient')), default=0)


def _tail(cbs) -> int:
    "Where a rule ends"
    return next((i for i, f in enumerate(cbs) if place_of(f) == 'last'), len(cbs))


def _with_update(cbs, wanted) -> list:
    "Steppers that make an update and apply it, in the place of those that step at once"
    steps = [i for i, f in enumerate(cbs) if _of(f, 'parts')]
    applied = [i for i, f in enumerate(cbs) if place_of(f) == 'apply']
    if len(steps) + len(applied) > 1:
        there = ', '.join(f'`{Stepper(cbs[i])}`' for i in sorted(steps + applied))
        raise ValueError(f"`{Stepper(wanted)}` changes the update, but there is more than one: {there}. Say where: `insert(…, before=…)`.")
    if applied: return cbs
    if steps: return [*cbs[:steps[0]], *_taken_apart(cbs[steps[0]]), *cbs[steps[0]+1:]]
    return _taken_back(cbs, wanted)


def _taken_apart(step) -> list:
    "The steppers that do one after the other what a step does in one call, with what its defaults and partials fix"
    given = {p.name: p.default for p in inspect.signature(step).parameters.values() if p.default is not p.empty and p.default is not None}
    def fixed(f):
        differs = {k: given[k] for k, p in inspect.signature(f).parameters.items() if k in given and given[k] != p.default}
        return partial(f, **differs) if differs else f
    return [fixed(f) for f in _of(step, 'parts')]


def _taken_back(cbs, wanted) -> list:
    "Steppers around somebody's own step, which make an update of what it did. Decay before it stays outside"
    from optimcb.steppers import apply_update
    from optimcb.steppers.parts import note_weights, take_back
    there = [Stepper(f) for f in cbs if f is not None]
    if any('update' in s.mentions for s in there if 'update' not in s.required): return cbs # somebody else will apply it
    start, end = _head(cbs), _tail(cbs)
    while start < end and kind_of(cbs[start]) == DECAY: start += 1
    if not _steps(cbs):
        raise ValueError(f"`{Stepper(wanted)}` changes the update, but nothing makes one or steps: {', '.join(s.label for s in there)}. "
                         "Put a rule there, which ends in `apply_update`.")
    return [*cbs[:start], note_weights, *cbs[start:end], take_back, apply_update, *cbs[end:]]


def _steps(cbs) -> bool:
    "Do these steppers step, as far as can be told?"
    from optimcb.checks import steps_at_all
    return steps_at_all(cbs)
