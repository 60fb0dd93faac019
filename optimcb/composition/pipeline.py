"""The meaning of a list of steppers: which names are hyper-parameters, which are state, and which values
each stepper sees.

This module is independent of engines: they pass `Composition.run` a parameter, or a tracer in its place.
"""
from collections.abc import Iterator
from itertools import chain, product
from numbers import Number, Real
from types import GeneratorType

import torch
from torch import Tensor

from optimcb.composition.errors import MissingName, WrongReturn
from optimcb.composition.results import ONE_STEP, once, stop
from optimcb.composition.stepper import Stepper
from optimcb.composition.storage import stores_of
from optimcb.hypers.values import RANGES

__all__ = ['Composition', 'meant_to_return']


class Composition:
    """A list of steppers, and the properties that an optimizer derives from it.

    Names and numbers:

    - `reads`: the names that some stepper may read; `reads_all`: may some stepper read any name?
    - `makes`: the names in some stepper's code, which may be state that it returns.
    - `defaults`: the steppers' default hyper-parameters: fastai's `.defaults`, where the last stepper wins,
      and numbers in signatures on which the steppers agree.
    - `assumed`: the latter alone. While such a number has its default value, state of the same name takes
      precedence.

    Flags: `sums_over_all` (some stepper yields a value to be summed over all parameters), `skips_nonfinite`
    (some stepper skips the step if a gradient is infinite or NaN), `spares_grads` (no stepper writes into a
    gradient). Lists of the steppers that need all parameters (`needs_all`), draw random numbers (`draws`),
    negate gradients to maximize (`flips_grad`), or need all rows of a sparse gradient (`needs_dense_grad`).

    `stores`: the state that is stored in another type than steppers compute it in.

    `masks`: by name, the state that says which parameters a stepper is called for, and the rule behind it.

    Raises `ValueError` for a tap that would overwrite another value, and for an unknown route.
    """
    def __init__(self,
        cbs # Callables; each `None` is skipped
    ):
        self.cbs = tuple(cbs)
        self.steppers = [Stepper(f) for f in self.cbs if f is not None]
        self.reads = frozenset().union(*map(_reads, self.steppers))
        self.makes = frozenset().union(*(s.mentions for s in self.steppers))
        self.masks = _masks(self.steppers)
        self.stores = stores_of(self.steppers)
        self._check_taps()
        self.reads_all = any(s.reads_all for s in self.steppers)
        self.sums_over_all = any(s.sums_over_all for s in self.steppers)
        skip = [s for s in self.steppers if s.traits.skips_nonfinite]
        self.skips_nonfinite = bool(skip)
        self.needs_dense_grad = [s for s in self.steppers if s.traits.needs_dense_grad]
        self.draws = [s for s in self.steppers if s.traits.draws]
        self.flips_grad = [s for s in self.steppers if s.traits.flips_grad]
        self.needs_all = [s for s in self.steppers if s.sums_over_all] + skip
        self.spares_grads = all(s.is_ours for s in self.steppers)
        declared = {k: v for s in self.steppers for k, v in s.declared.items()}
        self.assumed = {k: v for k, v in _agreed_numbers(self.steppers).items() if k not in declared}
        self.defaults = {**self.assumed, **declared}

    def _check_taps(self):
        known = {k: s for s in self.steppers if not s.taps for k in (*s.names, *s.mentions)}
        for s in self.steppers:
            for k in s.taps:
                whose = f'of `{known[k]}`' if k in known else 'which lives for one step'
                if k in known or k in ONE_STEP:
                    raise ValueError(f"`{s}` would overwrite `{k}`, {whose}. Record under another name.")
                known[k] = s

    @property
    def routes(self) -> tuple:
        "The names of the routes, if any."
        return self.masks['route'].values if 'route' in self.masks else ()

    @property
    def variants(self) -> list[dict]:
        "The combinations of values that masks may take: each route, with each rule true or false."
        known = {k: list(d.values) for k, d in self.masks.items()}
        rules = [k for k in known if k != 'route']
        if len(rules) > 3: # too many combinations: only one rule at a time is false
            all_hold = dict.fromkeys(rules, True)
            rows = [all_hold, *(all_hold | {k: False} for k in rules)]
            return [r | {'route': v} for r in rows for v in known['route']] if 'route' in known else rows
        return [dict(zip(known, vs)) for vs in product(*known.values())]

    @property
    def labels(self) -> list[str]:
        "The steppers' names, with the arguments that partials fix."
        return [s.label for s in self.steppers]

    @property
    def untapped(self) -> list[str]:
        "The labels of all steppers but taps, which only record."
        return [s.label for s in self.steppers if not s.taps]

    def is_default(self,
        name:str, # Name of a hyper-parameter
        value # Its value
    ) -> bool:
        "Does a hyper-parameter still have the default from the steppers' signatures?"
        if name not in self.assumed: return False
        is_number = type(value) is float or isinstance(value, Real)
        return is_number and value == self.assumed[name]

    def run(self,
        p, # The parameter, with its `.grad`
        state:dict, # Its state, updated with the steppers' results
        hypers:dict, # The hyper-parameters of its group
        observer=None # Called before and after each stepper; may replace its arguments and results
    ) -> Iterator:
        """Step `p` while the iterator is consumed: each stepper sees the results of the steppers before it.

        A name is looked up first among the values that this step's steppers returned with `once`, then among
        hyper-parameters that were set, then in the state, then among default hyper-parameters. A stepper that
        returns `stop(…)` ends the step. A value that a stepper yields is passed on; send back its sum over
        all parameters. Raises `MissingName` if a stepper needs an unknown name, `WrongReturn` if it returns
        something else than a dict, None or one of its arguments.
        """
        default = [k for k in self.assumed if k in hypers and self.is_default(k, hypers[k])]
        is_set = {k: v for k, v in hypers.items() if k not in default} if default else hypers
        values = {**hypers, **state, **is_set}
        for stepper in self.steppers:
            if stepper.masks and not self._applies(stepper, values): continue
            # what is stored is the state, not a value of the same name that lives for this step
            seen = {**values, **state} if stepper.traits.stores else values
            try:
                given = seen if observer is None else observer.enter(stepper, p, seen)
                new = stepper(p, given)
                if isinstance(new, GeneratorType): new = yield from self._shares(stepper, new, values)
                if observer is not None: new = observer.leave(stepper, p, given, new)
            except Exception as e:
                lacking = [k for k in _asked(stepper, e) if k not in values]
                if lacking:
                    raise MissingName(_fact(stepper, lacking), self, stepper, lacking, values) from None
                if not hasattr(e, 'stepper'): # for the message that users see
                    e.stepper = stepper
                    _say_numbers(e, stepper, {k: values.get(k) for k in stepper.names if k in hypers})
                raise
            if not isinstance(new, dict):
                if new is None or _in_place(new, p, values): continue
                raise WrongReturn(_lost(self, stepper, new, values))
            for name, value in new.items():
                if isinstance(new, once) or name in ONE_STEP: values[name] = value
                else:
                    state[name] = value
                    if name not in is_set: values[name] = value
            if isinstance(new, stop): return

    def _shares(self, stepper, steps, values) -> Iterator:
        "Yield a stepper's shares of sums, which must be numbers or tensors. Returns what it returns"
        total = None
        while True:
            try: share = steps.send(total)
            except StopIteration as e: return e.value
            if share is None or isinstance(share, (dict, str, tuple, list, set)):
                raise WrongReturn(_no_share(self, stepper, share, values))
            total = yield share

    def wants_dense_grad(self,
        values:dict # State and hyper-parameters of a parameter
    ) -> bool:
        "Does a stepper that is called for this parameter need all rows of a sparse gradient?"
        for s in self.needs_dense_grad:
            if all(w.mark in values for w in s.masks) and s.applies(values): return True
        return False

    def _applies(self, stepper, values):
        try: return stepper.applies(values)
        except KeyError as e:
            raise MissingName(f"stepper `{stepper}` is for some parameters only, and the state of this one "
                              f"has no `{e.args[0]}`, which says whether it is one of them. "
                              "An `Optimizer` puts it there.") from None


def _reads(stepper) -> frozenset:
    "Return the names that a stepper may read, masks included"
    return stepper.mentions.union(stepper.names, (w.mark for w in stepper.masks))


def _agreed_numbers(steppers) -> dict:
    "Return the numbers in signatures on which steppers agree, except names of state (`step` of `step_stat`)"
    numbers = {}
    for s in steppers:
        for k, v in s.numbers.items(): numbers.setdefault(k, set()).add(v)
    returned = {k for s in steppers for k in s.numbers if k in s.mentions}
    return {k: min(vs) for k, vs in numbers.items() if len(vs) == 1 and k not in returned}


def _masks(steppers) -> dict:
    "Map the name of each mask to its rule or routes"
    found = {}
    for s in steppers:
        for w in s.masks:
            known = found.setdefault(w.mark, w.decider)
            if known is None: found[w.mark] = w.decider
            elif w.decider is not None and known != w.decider:
                raise ValueError(f"`{s}` and another stepper have different rules of the same name, "
                                 f"`{w.mark}`. "
                                 + (NESTED if w.mark == 'route' else UNNAMED))
    for s in steppers:
        for w in s.masks: _check_route(s, w, found[w.mark])
    return found


NESTED = "Routes can't be inside of routes, or beside others: list all of them in one `route`."
UNNAMED = "Give the functions, or models, in them names of their own."


def _check_route(stepper, where, decider):
    is_there = decider is not None and (where.mark != 'route' or where.name in decider.values)
    if is_there: return
    has = 'There are no routes' if decider is None else f"There are {', '.join(decider.values)}"
    raise ValueError(f"`{stepper}` is only for a route `{where!r}`, which isn't there. "
                     f"{has}: `route` makes them.")


def _in_place(new, p, values) -> bool:
    "Is `new` the parameter, its gradient or its state, as in-place operations return?"
    if isinstance(new, (Number, str, tuple)): return False # nothing writes into these
    given = (p, getattr(p, 'grad', None), *values.values())
    if any(new is o for o in given): return True
    if not isinstance(new, Tensor): return False
    return any(isinstance(o, Tensor) and torch._C._is_alias_of(new, o) for o in given)


def _fact(stepper, names) -> str:
    listed = ', '.join(f'`{k}`' for k in names)
    return (f"stepper `{stepper}` needs {listed}, which is no hyper-parameter, "
            "and no stepper before it made it.")


def _lost(composition, stepper, new, values) -> str:
    "Word the error for a stepper that returns `new`, which is not a dict"
    is_tensor = isinstance(new, Tensor) or hasattr(type(new), 'by_torch') # or a tracer
    what = 'a tensor' if is_tensor else f'a value of type `{type(new).__name__}`'
    name = meant_to_return(composition, stepper, values) or 'name'
    return (f"stepper `{stepper}` returns {what}, which would be lost. A stepper returns a dict of what it "
            f"makes, as in `return {{'{name}': …}}`, or None if it changes `p` in place.")


def _no_share(composition, stepper, share, values) -> str:
    "Word the error for a stepper that yields `share`, which can't be summed"
    what = 'nothing' if share is None else f'a value of type `{type(share).__name__}`'
    name = meant_to_return(composition, stepper, values) or 'name'
    return (f"stepper `{stepper}` yields {what}. `return` the dict of what it makes, as in "
            f"`return {{'{name}': …}}`, or `yield` its parameter's share of a sum over all parameters, as in "
            "`total = yield p.grad.square().sum()`.")


NOT_MADE = RANGES.keys() | {'do_wd', 'force_train'} # names that users set


def meant_to_return(
    composition:Composition, # The steppers
    stepper:Stepper, # One of them, which doesn't return a dict
    there # Names that have a value already
) -> str|None:
    "Guess the name of a stepper's result: one that it assigns to, or takes, or that a later stepper takes."
    taken = [k for k in stepper.names if k not in NOT_MADE]
    here = next((i for i, s in enumerate(composition.steppers) if s.f is stepper.f), 0)
    later = [k for s in composition.steppers[here+1:] for k in s.names if k not in NOT_MADE]
    guesses = chain((k for k in taken if k in stepper.assigned), (k for k in taken if k in ONE_STEP),
                    (k for k in taken if k in later), (k for k in later if k not in there))
    return next(guesses, None)


def _say_numbers(error, stepper, hypers):
    "Add to an error what stepper and which hyper-parameters it comes from, if numbers are its reason"
    if type(error) not in FROM_NUMBERS or not error.args: return
    has_none = any(isinstance(v, (str, type(None))) for v in hypers.values())
    is_reason = has_none or not isinstance(error, TypeError)
    if isinstance(error, ValueError): is_reason = str(error).startswith('math domain error')
    shown = {k: v if isinstance(v, Real) else repr(v) for k, v in hypers.items()}
    told = ', '.join(f'{k}={v}' for k, v in shown.items() if isinstance(hypers[k], (Real, str, type(None))))
    if is_reason and told: error.args = (f"{error.args[-1]}, in stepper `{stepper}` with {told}",)


FROM_NUMBERS = ZeroDivisionError, OverflowError, ValueError, TypeError


def _asked(stepper, error) -> tuple:
    "Return the names whose lack may have caused the error"
    if not isinstance(error, (TypeError, KeyError)): return ()
    key = error.args[0] if isinstance(error, KeyError) and error.args else None
    looked_up = stepper.takes_all and key is not None and key in stepper.mentions
    return (*stepper.required, key) if looked_up else stepper.required
