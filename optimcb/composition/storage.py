"Which state is stored in another type than steppers compute it in."
import re
from collections.abc import Iterable

import torch
from torch import Tensor

from optimcb.composition.signatures import keywords_fixed

__all__ = ['convert_state', 'names_stored', 'stores_of']


def stores_of(
    steppers:list # `Stepper`s
) -> dict[str, torch.dtype]:
    "Return the dtypes that state is stored in, by name. Raises `ValueError` if a name is stored twice."
    found = {}
    for s in steppers:
        if not s.traits.stores: continue
        name = s.new_name(s.traits.stores)
        if name in found: raise ValueError(f"`{name}` is stored twice. Leave one `stored` out.")
        found[name] = getattr(torch, keywords_fixed(s.f).get('format', 'bfloat16'))
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
    stores:dict, # By name, the dtypes that it is to be stored in
    before:Iterable[str]=() # Names that were stored before: unless they still are, they get the parameter's
) -> None:
    "Bring the state of a parameter to the types that it is stored in."
    for name, dtype in {**dict.fromkeys(before, getattr(p, 'dtype', None)), **stores}.items():
        v = state.get(name)
        if isinstance(v, Tensor) and v.is_floating_point(): state[name] = v.to(dtype)
