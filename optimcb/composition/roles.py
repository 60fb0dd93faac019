"The place of a stepper in a step, and the kind of stepper."
from collections.abc import Callable

from optimcb._compat.boundary import F
from optimcb.composition.stepper import name_of
from optimcb.composition.traits import has_traits, traits_of

__all__ = ['PLACES', 'kind_of', 'of_directions', 'of_signs', 'part', 'place_of']


PLACES = { # what belongs to each place, in the order of a step
    'gate': 'what may end a step before it begins',
    'first': 'what comes before everything else',
    'gradient': 'what changes the gradient',
    'penalty': "what decays the weights by their gradient, wherever the rule's own decay was",
    'decay': "what decays the weights, in the place of the rule's own decay",
    'update': 'what changes the update',
    'length': 'what changes the length of the step, when the update is as it will be',
    'apply': 'what takes the update to the weights',
    'last': 'what comes after everything else'}
DECAY = 'decay' # the kind of steppers that replace the rule's own decay


def part(
    place:str|None=None, # One of `PLACES`; None: where the rule has it
    kind:str|None=None, # Its kind, in a word, if a list may have only one stepper of it
    against:str|None=None, # A kind that it can't be combined with
    scales:str|None=None # Does it only multiply gradients by positive numbers: 'tensors', or 'elements'?
) -> Callable[[F], F]:
    """Declare where a stepper belongs: `@part('update')`. A part may also be a list of such steppers.

    Raises `ValueError` for an unknown place."""
    if place is not None and place not in PLACES:
        raise ValueError(f"there is no place {place!r}. There are {', '.join(PLACES)}.")
    return has_traits(place=place, kind=kind, against=against, scales=scales)


def of_signs(
    f:F # A stepper
) -> F:
    """Declare that a stepper uses only the signs of gradients, or of averages of them.

    Scaling gradients then changes nothing."""
    return has_traits(blind_to=('tensors', 'elements'))(f)


def of_directions(
    f:F # A stepper
) -> F:
    """Declare that a stepper uses only the direction of a gradient, not its norm.

    Scaling whole gradients then changes nothing."""
    return has_traits(blind_to=('tensors',))(f)


def place_of(
    f:Callable|None # A stepper
) -> str|None:
    "Return the place that a stepper declares, or None."
    return traits_of(f).place


def kind_of(
    f:Callable|None # A stepper
) -> str|None:
    "Return the kind that a stepper declares, or None. fastai's decay is recognized by its name."
    if f is None: return None
    return traits_of(f).kind or (DECAY if name_of(f) in ('weight_decay', 'l2_reg') else None)
