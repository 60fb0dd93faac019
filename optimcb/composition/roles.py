"Where a stepper belongs in a step, and what kind of thing it does."
from collections.abc import Callable

from optimcb.composition.stepper import name_of
from optimcb.composition.traits import has_traits, traits_of

__all__ = ['PLACES', 'kind_of', 'of_directions', 'of_signs', 'part', 'place_of']


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
DECAY = 'decay' # the kind of steppers that take the place of the rule's own decay


def part(
    place:str|None=None, # One of `PLACES`; None: where the rule has it
    kind:str|None=None, # What it does, in a word, if there can be one in a list that does
    against:str|None=None, # Kind that makes no sense beside it
    scales:str|None=None # Does it only multiply gradients by positive numbers: 'tensors', or 'elements'?
) -> Callable:
    """Let a stepper know where it belongs: `@part('update')`. A part of several steppers is a list of them.

    Raises `ValueError` for a place that isn't there."""
    if place is not None and place not in PLACES:
        raise ValueError(f"there is no place {place!r}. There are {', '.join(PLACES)}.")
    return has_traits(place=place, kind=kind, against=against, scales=scales)


def of_signs(
    f:Callable # A stepper
) -> Callable:
    """Let a stepper say that it looks at signs only, of gradients or of averages that others make.

    Scaling gradients then changes nothing."""
    return has_traits(blind_to=('tensors', 'elements'))(f)


def of_directions(
    f:Callable # A stepper
) -> Callable:
    """Let a stepper say that it looks at the direction of a gradient only, not at its length.

    Scaling whole gradients then changes nothing."""
    return has_traits(blind_to=('tensors',))(f)


def place_of(
    f:Callable|None # A stepper
) -> str|None:
    "The place where a stepper belongs, if it says."
    return traits_of(f).place


def kind_of(
    f:Callable|None # A stepper
) -> str|None:
    "What a stepper does, if only one in a list can. fastai's decay is known by its name."
    if f is None: return None
    return traits_of(f).kind or (DECAY if name_of(f) in ('weight_decay', 'l2_reg') else None)
