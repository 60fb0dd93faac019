"Which state is stored in another type than steppers compute it in."
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optimcb.composition.signatures import keywords_fixed

__all__ = ['Stored', 'convert_state', 'names_stored', 'stores_of']


class Stored(NamedTuple):
    "Some state that a stepper stores."
    name: str
    dtype: torch.dtype # That it is stored in
    stepper: Any # The `Stepper` that stores it, perhaps for some parameters only

    def holds_for(self,
        state:dict # State of a parameter
    ) -> bool:
        "Is it stored so for this parameter?"
        marks = [w.mark for w in self.stepper.masks]
        return all(k in state for k in marks) and (not marks or self.stepper.applies(state))


def stores_of(
    steppers:list # `Stepper`s
) -> list[Stored]:
    "List the state that steppers store. Raises `ValueError` if two store one name, for all parameters."
    found = []
    for s in steppers:
        if not s.traits.stores: continue
        name, format = s.new_name(s.traits.stores), keywords_fixed(s.f).get('format', 'bfloat16')
        if any(o.name == name and not (o.stepper.masks or s.masks) for o in found):
            raise ValueError(f"`{name}` is stored twice. Leave one `stored` out.")
        found.append(Stored(name, getattr(torch, format), s))
    return found


def names_stored(
    labels:Iterable[str] # Labels of the steppers in a state dict
) -> set[str]:
    "Return the names of state that these steppers store."
    found = (re.match(r'encode_state\(.*kept→(\w+)\)', label) for label in labels)
    return {m[1] for m in found if m}


def convert_state(
    state:dict, # State of a parameter
    p, # The parameter
    stores:list[Stored], # How it is to be stored
    before:Iterable[str]=() # Names that were stored before: unless they still are, they get the parameter's
) -> None:
    "Bring the state of a parameter to the types that it is stored in."
    wanted = dict.fromkeys(before, getattr(p, 'dtype', None))
    wanted |= {o.name: o.dtype for o in stores if o.holds_for(state)}
    for name, dtype in wanted.items():
        v = state.get(name)
        if isinstance(v, Tensor) and v.is_floating_point(): state[name] = v.to(dtype)
