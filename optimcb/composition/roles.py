"Where a stepper belongs in a step, and what kind of thing it does."
from collections.abc import Callable

from optimcb.composition.stepper import innermost

__all__ = ['PLACES', 'kind_of', 'of_directions', 'of_signs', 'part', 'place_of', 'trait']


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


def trait(
    f:Callable|None, # A stepper
    name:str # Name of a trait, such as `place` or `scales`
):
    "Return a trait of the function inside of all partials, or None if it has none."
    return None if f is None else getattr(innermost(f), name, None)


def place_of(
    f:Callable|None # A stepper
) -> str|None:
    "The place where a stepper belongs, if it says."
    return trait(f, 'place')


def kind_of(
    f:Callable|None # A stepper
) -> str|None:
    "What a stepper does, if only one in a list can. fastai's decay is known by its name."
    return trait(f, 'kind') or (DECAY if trait(f, '__name__') in ('weight_decay', 'l2_reg') else None)
