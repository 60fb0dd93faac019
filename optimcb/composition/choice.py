"The options that choose an algorithm's steppers, and choose again when parameter groups change them."
import pickle
from itertools import repeat
from numbers import Real

import numpy as np
from fastcore.foundation import L
from torch import Tensor

from optimcb._compat.renamed import current_label
from optimcb.composition.pipeline import Composition
from optimcb.hypers.torch_names import from_torch
from optimcb.hypers.values import NOT_HYPERS, numbers

__all__ = ['Choice']


class Choice:
    """The options that chose the steppers of an optimizer.

    A number counts as off if it is 0 in all groups, a flag as on if it is on in some group. A flag in which
    groups differ becomes a hyper-parameter of each group, if a stepper reads it."""
    def __init__(self,
        algorithm, # The `Algorithm` that lists the steppers
        options:dict # Its options, and `maximize`: the values for groups without their own
    ):
        self.algorithm, self.options = algorithm, options
        self.names = frozenset(algorithm.choosing) # the options that are numbers
        self.flags = algorithm.flags | {'maximize'}
        self.edits = () # edits of the optimizer's steppers since
        self.ignored = {} # by name, values that choose no steppers, such as those of fastai's schedules
        self.chosen, self.labels = {}, [] # by name, is it on; and the labels of the chosen steppers
        self.reads, self.watched = None, () # names that steppers read, and options that no stepper reads

    # Choosing

    def steppers(self,
        groups:list # A dict for each group, with the options that it sets itself
    ) -> list:
        "List the steppers for all groups. Raises `TypeError` for flags on which all groups must agree."
        options = {k: numbers(v) for k, v in self.options.items()}
        for k in self.names: options[k] = _one(self._numbers(k, groups))
        for k in self.flags: options[k] = next(filter(None, self._values(k, groups)), False)
        cbs = self._listed(options)
        composition = Composition(cbs)
        for k in self.flags - composition.reads:
            if len({*map(bool, self._values(k, groups))}) < 2: continue
            off = Composition(self._listed({**options, k: False}))
            if off.labels != composition.labels: raise TypeError(self._must_agree(k, composition))
        self.chosen = {k: _is_on(options[k]) for k in self.names | self.flags}
        self.labels = composition.untapped
        return cbs

    def _listed(self, options) -> list:
        return self.algorithm.edited(self.algorithm.steppers(**options), self.edits)

    def again(self,
        labels:list, # The labels of the optimizer's steppers
        groups:list # Its parameter groups
    ) -> list:
        """List the steppers that the groups' current options choose.

        Raises `ValueError` if the steppers were set by hand since, and the errors of `steppers`."""
        if labels == self.labels: return self.steppers(groups)
        name, options = self.algorithm.__name__, (*self.names, *self.flags)
        asked = ' and '.join(f'`{k}`' for k in options if any(_is_on(dict.get(g, k)) for g in groups))
        raise ValueError(f"{asked} of a group asks {name} for other steppers, but they were set by hand: "
                         f"{', '.join(labels)}. "
                         "Add the steppers that it needs, or set it before you change the steppers.")

    def asks(self,
        groups:list, # The parameter groups as they are now
        reads:frozenset # Names that the steppers read
    ) -> bool:
        "Do the groups' options choose other steppers? Called in each step, so the loop over groups is C."
        if reads is not self.reads: self.reads, self.watched = reads, tuple((self.names | self.flags) - reads)
        for k in self.watched:
            values = map(dict.get, groups, repeat(k))
            if (False in values if self.chosen[k] else any(values)) and self._asks(k, groups): return True
        return False

    def _asks(self, k, groups) -> bool:
        values = [(i, dict.get(g, k)) for i, g in enumerate(groups)]
        if k in self.flags: return any(v is not None and _is_on(v) != self.chosen[k] for _, v in values)
        return any(_is_on(v) and not self._is_ignored(k, i, v) for i, v in values) != self.chosen[k]

    def differing_flags(self,
        groups:list, # The parameter groups
        reads:frozenset # Names that the steppers read
    ) -> dict:
        "Return the flags in which groups differ, each with one value per group."
        found = {k: self._values(k, groups) for k in self.flags & reads}
        def differ(values): return any(v != values[0] or not isinstance(v, bool) for v in values)
        return {k: values for k, values in found.items() if differ(values) or k == 'maximize' and any(values)}

    def _values(self, k, groups) -> list:
        given = [numbers(dict.get(g, k)) for g in groups]
        return [self.options[k] if v is None else v for v in given] or [self.options[k]]

    def _numbers(self, k, groups) -> list:
        return [0. if self._is_ignored(k, i, v) else v for i, v in enumerate(self._values(k, groups))]

    def _must_agree(self, k, composition) -> str:
        name = self.algorithm.__name__
        return (f"`{k}` chooses the steppers of {name} for all groups, and none of "
                f"{', '.join(composition.labels)} "
                f"reads it. Give it to the optimizer, `{name}(…, {k}=…)`; or, if groups are to differ, give "
                "each its own: "
                f"`route(some=(partial({name}, {k}=True), rule), rest=partial({name}, {k}=False))`.")

    # Values that choose no steppers

    def ignore(self,
        names, # Names; those that aren't numeric options are passed over
        groups:list # The parameter groups
    ):
        "Let the groups' current values of these options choose no steppers."
        for k in self.names & {*names}: self.ignored[k] = [dict.get(g, k) for g in groups]

    def _is_ignored(self, k, i, v) -> bool:
        known = self.ignored.get(k, ())
        return i < len(known) and v == known[i]

    # Groups and states from elsewhere

    def flags_of(self,
        values:dict # Options of a group
    ) -> dict:
        "Return the flags among a group's options. Raises `TypeError` for a flag that is neither on nor off."
        return {k: self.algorithm.flag(k, v) for k, v in values.items() if k in self.flags}

    def steppers_of(self,
        sd:dict, # A state dict: ours, fastai's, or that of a torch optimizer
        composition:Composition # The current steppers
    ) -> list|None:
        """List the steppers that a state dict was saved with, if other options choose them.

        Returns None if they are the current steppers, or if no options choose them."""
        groups = sd.get('param_groups', sd.get('hypers'))
        if not isinstance(groups, (list, L)): return None # `unpack` says what is wrong
        if not all(hasattr(g, 'keys') for g in groups): return None
        known = composition.reads | self.names
        groups = [{k: v for k, v in g.items() if k not in NOT_HYPERS} for g in groups]
        new = self.copy(ignored={})
        try:
            if not {'steppers', 'hypers'} & sd.keys(): groups = [from_torch(g, known) for g in groups]
            groups = [{**g, **self.flags_of(g)} for g in groups]
            if composition.untapped != self.labels or not new.asks(groups, composition.reads): return None
            cbs = new.steppers(groups)
        except (TypeError, ValueError): return None
        if not new._made(sd, composition): return None
        self.__dict__.update(new.__dict__)
        return cbs

    def _made(self, sd, composition) -> bool:
        """Was the state dict saved with these steppers?

        Those of fastai and ours may hold numbers that chose no steppers"""
        if 'steppers' in sd: return self.labels == [current_label(k) for k in sd['steppers']]
        if 'hypers' not in sd: return True
        states = sd['state'].values() if isinstance(sd['state'], dict) else sd['state']
        made = {k for s in states for k in s}
        return not made <= composition.makes

    # Copies

    def copy(self, **changes) -> 'Choice':
        "Return a copy with some attributes changed."
        new = Choice(self.algorithm, self.options)
        new.__dict__.update({**self.__dict__, 'ignored': dict(self.ignored), **changes})
        return new

    def __deepcopy__(self, memo): return self.copy()

    def __reduce__(self):
        "Pickle as None if a recipe or an edit can't be pickled: the steppers then stay as chosen"
        left_out = 'algorithm', 'options', 'reads', 'watched'
        changes = {k: v for k, v in self.__dict__.items() if k not in left_out}
        try: pickle.dumps((self.algorithm, self.options, changes))
        except Exception: return _nothing, ()
        return _copied, (self.algorithm, self.options, changes)


def _nothing(): return None
def _copied(algorithm, options, changes): return Choice(algorithm, options).copy(**changes)


def _is_on(v) -> bool:
    if isinstance(v, Tensor): v = numbers(v)
    if isinstance(v, tuple): return any(map(_is_on, v))
    return bool(v) if isinstance(v, (Real, np.bool_)) else v is not None


def _one(values):
    "Return one value if all are equal, else a tuple of all"
    return values[0] if all(v == values[0] for v in values) else tuple(values)
