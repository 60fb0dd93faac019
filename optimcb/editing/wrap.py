"""Insert parts, which work with any rule, at their places in a list of steppers.

The steppers of a rule turn the gradient into an `update`, which `apply_update` subtracts from the weights.
Each part declares its place along this way; `Places` cuts a list of steppers at these places.
"""
import inspect
from functools import partial

from optimcb._compat.boundary import entry
from optimcb.composition.identity import is_redefined
from optimcb.composition.roles import DECAY, PLACES, kind_of, place_of
from optimcb.composition.stepper import InRoute, Stepper, name_of, only, renamed
from optimcb.composition.traits import traits_of
from optimcb.diagnosis.checks import steps_at_all
from optimcb.steppers import apply_update
from optimcb.steppers.parts import note_weights, undo_step

__all__ = ['Places', 'wrapped']


@entry
def wrapped(
    cbs:list, # Steppers of a rule
    *parts # Steppers with a place, partials of them, or lists of them
) -> list:
    """Insert `parts`, one after the other, at their places in `cbs`. Returns a new list.

    Parts that change updates come before `apply_update`. For these, a fused step is split into its steppers;
    a user's own step is undone, and the change of the weights becomes the update. Raises `ValueError` for
    parts that don't fit `cbs`."""
    decay = None
    for o in parts:
        new = list(o) if isinstance(o, (list, tuple)) else [o]
        for f in new: _check(f, cbs)
        decays = [f for f in new if kind_of(f) == DECAY]
        for f in decays:
            if decay:
                raise ValueError(f"`{Stepper(decay)}` and `{Stepper(f)}` both decay the weights. Leave one "
                                 "of them out.")
            decay = f
        cbs = _put(cbs, new, bool(decays))
    return cbs


# Places

class Places:
    """A list of steppers, cut into one piece per place, so that a part is inserted by appending to a piece.

    Only `update` and `length` have one piece for each stepper that applies an update."""
    def __init__(self,
        cbs:list # Steppers
    ):
        n_gates = sum(place_of(f) == 'gate' for f in cbs)
        after_hypers = _after(cbs, lambda f: traits_of(f).sets_hyper)
        cuts = {'gate': [n_gates], 'last': [len(cbs)]}
        cuts['first'] = [after_hypers or n_gates] # gradient steppers read hyper-parameters, too
        cuts['gradient'] = cuts['penalty'] = cuts['decay'] = [self.head(cbs)]
        applied = [i for i, f in enumerate(cbs) if place_of(f) == 'apply']
        cuts['length'] = applied or [self.tail(cbs)]
        cuts['update'] = [self._before_length(cbs, i) for i in cuts['length']]

        self.pieces, self.at, done = [], {k: [] for k in cuts}, 0
        ends = [(i, k) for k in PLACES for i in cuts.get(k, ())]
        for end, k in sorted(ends, key=lambda o: o[0]): # at one index, in the order of places
            self.pieces.append(cbs[done:end])
            self.at[k].append(self.pieces[-1])
            done = end
        self.applied = [cbs[i] for i in applied] or [None] # one for each `update` and `length`

    @staticmethod
    def head(
        cbs:list # Steppers
    ) -> int:
        "Return the index where the rule begins, after steppers that come first or change gradients."
        return _after(cbs, lambda f: place_of(f) in ('gate', 'first', 'gradient') or traits_of(f).sets_hyper)

    @staticmethod
    def tail(
        cbs:list # Steppers
    ) -> int:
        "Return the index where the rule ends."
        return next((i for i, f in enumerate(cbs) if place_of(f) == 'last'), len(cbs))

    @staticmethod
    def _before_length(cbs, end) -> int:
        while end and place_of(cbs[end-1]) == 'length': end -= 1
        return end

    @property
    def steppers(self) -> list:
        "The list of steppers, with all inserted parts."
        return [f for piece in self.pieces for f in piece]

    def put(self,
        f # Stepper with a place
    ):
        "Insert a part at its place, for all parameters."
        for piece in self.at[place_of(f)]: piece.append(f)

    def put_beside_each_update(self,
        f, # Stepper whose place is `update` or `length`
        own:list # The rule's own decay
    ):
        "Insert a part at each stepper that applies an update, for the parameters of that stepper."
        for piece, there in zip(self.at[place_of(f)], self.applied): piece.append(_fitted(f, there, own))


def _after(cbs, holds) -> int:
    "Return the index after the last stepper for which `holds` is true, or 0."
    return max((i + 1 for i, f in enumerate(cbs) if holds(f)), default=0)


def _put(cbs, new, decays) -> list:
    "Insert one part, of one stepper or several, into `cbs`."
    own = _own_decays(cbs) if decays else []
    decay = next((f for k in ('decay', 'penalty') for f in new if place_of(f) == k), None)
    cbs = [f for f in cbs if not _is_in(f, own)] if decay is None else _with_decay(cbs, own, decay)
    by_update = [f for k in ('update', 'length') for f in new if place_of(f) == k]
    if by_update: cbs = _with_update(cbs, by_update[0])
    places = Places(cbs)
    for f in new:
        if place_of(f) in ('update', 'length'): places.put_beside_each_update(f, own)
        elif place_of(f) not in ('decay', 'penalty'): places.put(f)
    return places.steppers


# Parts that don't fit

def _check(f, cbs):
    "Raise `ValueError` if a part has no place, or doesn't fit the steppers in `cbs`."
    s, there = Stepper(f), [Stepper(o) for o in cbs if o is not None]
    if place_of(f) in (None, 'apply'): raise ValueError(_without_place(s))
    if kind_of(f) == DECAY: return
    for o in there: _check_pair(s, o)
    for i, o in enumerate(there):
        blind_to = o.traits.blind_to
        if traits_of(f).scales not in blind_to or _averaged(o, there[:i]): continue
        only_sees = 'signs' if 'elements' in blind_to else 'direction'
        raise ValueError(f"`{s}` would do nothing: it makes gradients smaller, but `{o}` depends on their "
                         f"{only_sees} only. Leave it out.")


def _without_place(s) -> str:
    "Word the error for a stepper without a place."
    message = (f"stepper `{s}` doesn't say where it belongs. Say where: `insert(…, before=…)`, "
               "or decorate it with `@part('…')`.")
    is_factory = not traits_of(s.f).place and not s.is_ours and inspect.isroutine(s.innermost)
    return message + f" If it makes steppers, call it: `{s}()`." if is_factory else message


def _check_pair(s, there):
    "Raise `ValueError` if stepper `s` can't be combined with `there`."
    if there.innermost is s.innermost and there.names == s.names:
        raise ValueError(f"`{there}` is there already. Change its options, or `remove` it first.")
    if is_redefined(s, there):
        name = name_of(s.f)
        raise ValueError(f"`{there}` is there already, as it was before. `replace({name}, {name})` puts the "
                         "new one in its place.")
    kind, other = kind_of(s.f), kind_of(there.f)
    if kind and kind == other:
        raise ValueError(f"`{s}` can't be put beside `{there}`: there can be one {kind} only. `remove` the "
                         "other one first.")
    excludes = kind and kind == traits_of(there.f).against or other and other == traits_of(s.f).against
    if excludes: raise ValueError(f"`{s}` makes no sense beside `{there}`. `remove` one of them.")


def _averaged(s, before) -> bool:
    "Does stepper `s` read an average or an update from a stepper before it?"
    read = [k for k in s.names if k.endswith('avg') or k == 'update']
    return any(k in o.mentions for k in read for o in before)


# Decay

def _own_decays(cbs) -> list:
    "List the rule's own decay steppers: those with `wd`, or else those with a coefficient of another name."
    found = [f for f in cbs if kind_of(f) == DECAY]
    return [f for f in found if Stepper(f).new_name('wd').endswith('wd')] or found


def _with_decay(cbs, own, decay) -> list:
    """Replace the rule's own decay by `decay`, for the same parameters and with the same coefficient's name.

    A penalty changes gradients, so it comes before the rule, and so does decay if the rule has none."""
    is_penalty = place_of(decay) == 'penalty'
    kept, early, done = [], [], []
    for f in cbs:
        if not _is_in(f, own): kept.append(f)
        elif _masks_of(f) not in done:
            done.append(_masks_of(f))
            (early if is_penalty else kept).append(_masked(_named_as(decay, f), Stepper(f).masks))
    places = Places(kept)
    for f in early if own else [decay]: places.put(f)
    return places.steppers


# The names and the parameters of another stepper

def _fitted(f, there, own):
    "Restrict `f` to the parameters of `there`; a decay takes names and parameters of the rule's own decay."
    masks = _masks_of(there)
    replaced = own if kind_of(f) == DECAY else []
    decay = next((o for o in replaced if _masks_of(o)[:len(masks)] == masks), None)
    like = there if decay is None else decay
    return _masked(_named_as(f, decay), Stepper(like).masks if like is not None else ())


def _is_in(f, fs) -> bool: return any(f is o for o in fs)


def _masks_of(f) -> list:
    "Return the masks of a stepper in a form that can be compared."
    return [(o.mark, getattr(o, 'name', True)) for o in Stepper(f).masks] if f is not None else []


def _named_as(f, other):
    "Rename hyper-parameters and state of `f` as they are renamed in `other`."
    if other is None: return f
    new, s = Stepper(other).new_name, Stepper(f)
    names = {k: new(k) for k in sorted(s.mentions.union(s.names)) if new(k) != k}
    return renamed(f, **names) if names else f


def _masked(f, masks):
    "Restrict `f` to parameters that match all rules."
    for o in reversed(masks): f = only(f, o)
    return f


# Steps without an update

def _with_update(cbs, wanted) -> list:
    "Rewrite steps to compute an `update` first and then apply it, so that `wanted` can change it."
    steps = [i for i, f in enumerate(cbs) if traits_of(f).unfused]
    applied = [i for i, f in enumerate(cbs) if place_of(f) == 'apply']
    there = [cbs[i] for i in sorted(steps + applied)]
    _check_updates(there, wanted)
    if not there: return _update_from_weights(cbs, wanted)
    return [o for i, f in enumerate(cbs) for o in (_unfused(f) if i in steps else [f])]


def _check_updates(there, wanted):
    "Raise `ValueError` unless there is one update for `wanted` to change, or one in each route."
    routes = [o for f in there for o in Stepper(f).masks if isinstance(o, InRoute)]
    taken = [o.name for o in routes]
    one_in_each = taken and len(taken) == len(there) == len(set(taken))
    if one_in_each:
        lacking = [k for k in getattr(routes[0].decider, 'values', ()) if k not in taken]
        if lacking:
            raise ValueError(f"`{Stepper(wanted)}` changes the update, but route `{lacking[0]}` makes none. "
                             "Say where: `insert(only(…), before=…)`.")
    elif len(there) > 1:
        names = ', '.join(f'`{Stepper(f)}`' for f in there)
        raise ValueError(f"`{Stepper(wanted)}` changes the update, but there is more than one: {names}. "
                         "Say where: `insert(…, before=…)`.")


def _unfused(step) -> list:
    "Split a fused step into its steppers, with its defaults and the options that partials fix."
    s, ps = Stepper(step), inspect.signature(step).parameters
    given = {}
    for k in inspect.signature(s.innermost).parameters:
        value = ps[s.new_name(k)].default if s.new_name(k) in ps else None
        if value is not None and value is not inspect.Parameter.empty: given[k] = value

    def fixed(f):
        own = inspect.signature(f).parameters
        differs = {k: given[k] for k, p in own.items() if k in given and given[k] != p.default}
        return _masked(_named_as(partial(f, **differs) if differs else f, step), s.masks)

    return [fixed(f) for f in traits_of(step).unfused]


def _update_from_weights(cbs, wanted) -> list:
    "Turn the change of the weights by a user's own step into an update. Decay before it is not included."
    there = [Stepper(f) for f in cbs if f is not None]
    reads_update = any('update' in s.mentions for s in there if 'update' not in s.required)
    if reads_update: return cbs # another stepper will apply it
    start, end = Places.head(cbs), Places.tail(cbs)
    while start < end and kind_of(cbs[start]) == DECAY: start += 1
    if not steps_at_all(cbs):
        raise ValueError(f"`{Stepper(wanted)}` changes the update, but nothing makes one or steps: "
                         f"{', '.join(s.label for s in there)}. Put a rule there, which ends in "
                         "`apply_update`.")
    return [*cbs[:start], note_weights, *cbs[start:end], undo_step, apply_update, *cbs[end:]]
