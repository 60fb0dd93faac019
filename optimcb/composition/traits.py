"Traits: what a stepper declares besides its signature, in one record, set by one decorator."
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import overload

from optimcb._compat.boundary import F
from optimcb.composition.calls import explains_calls
from optimcb.composition.signatures import hyper_defaults, innermost

__all__ = ['NO_TRAITS', 'Traits', 'has_traits', 'stepper', 'traits_of', 'weights_by']


@dataclass(frozen=True)
class Traits:
    "Traits of a stepper, with the defaults that hold for functions without traits."
    place: str|None = None # Where it belongs in a step: one of `roles.PLACES`; None: where the rule has it
    kind: str|None = None # Its kind, in a word, if a list may have only one stepper of it
    against: str|None = None # A kind that it can't be combined with
    scales: str|None = None # Does it only multiply gradients by positive numbers: 'tensors', or 'elements'?
    blind_to: tuple = () # Values of `scales` that don't affect it
    unfused: tuple = () # The steppers that give the same result, one after the other
    eval_weights: Callable|None = None # Takes a parameter and names of state; returns weights to evaluate
    taps: tuple = () # Names of state that it records for users, and that no stepper reads
    draws: bool = False # Does it draw random numbers?
    needs_dense_grad: bool = False # Does it need all rows of a sparse gradient?
    skips_nonfinite: bool = False # Is the step skipped, for all parameters, if a gradient is infinite or NaN?
    sets_hyper: bool = False # Does it replace a hyper-parameter for the rest of the step?
    flips_grad: bool = False # Does it change the sign of gradients, to maximize?
    stores: str|None = None # The state, by its name in the signature, that it stores as its `format` says
    note: Callable|None = None # Takes a parameter and names of options; returns a line for `explain`


NO_TRAITS = Traits()
NAMES = frozenset(o.name for o in fields(Traits))


def has_traits(
    **traits # Fields of `Traits`
) -> Callable[[F], F]:
    """Add traits to a function: `@has_traits(draws=True)`.

    Raises `TypeError` for names that aren't fields."""
    unknown = traits.keys() - NAMES
    if unknown:
        raise TypeError(f"a stepper has no trait `{min(unknown)}`. It may have {', '.join(sorted(NAMES))}.")
    def give(f):
        f.traits = replace(_own(f), **traits)
        return f
    return give


@overload
def stepper(f: F) -> F: ...
@overload
def stepper(**traits) -> Callable[[F], F]: ...
def stepper(
    f:Callable|None=None, # A function of a parameter, then names of hyper-parameters and state
    **traits # Fields of `Traits`
) -> Callable:
    """Declare a stepper of this library: give it traits, and let wrong calls explain themselves.

    A call with options instead of a parameter raises an error that says what to write."""
    if f is None: return lambda f: stepper(f, **traits)
    new = explains_calls(has_traits(**traits)(f))
    new.defaults = hyper_defaults(f) # where fastai's steppers have them
    return new


def weights_by(
    weights:Callable # Takes a parameter and names of its state; returns the weights to evaluate it with
) -> Callable[[F], F]:
    "Declare which weights `Optimizer.eval` uses to evaluate a model."
    return has_traits(eval_weights=weights)


def traits_of(
    f:Callable|None # A stepper, or partials of one
) -> Traits:
    "Return the traits of a stepper, which are those of the function inside all partials."
    return _own(innermost(f))


def _own(f) -> Traits:
    found = getattr(f, 'traits', None) # a user's object may have another attribute of this name
    return found if isinstance(found, Traits) else NO_TRAITS
