"Copies of an optimizer's state, in types that load without this library."
from collections import OrderedDict
from collections.abc import Iterable
from copy import deepcopy

import numpy as np
from fastcore.foundation import L
from torch import Tensor

__all__ = ['ParamStates', 'copied', 'is_note', 'kept_states', 'ours', 'shape_of']


class ParamStates(dict):
    """torch's `{index: state}`, which also compares equal to fastai's list of states.

    It is saved as an `OrderedDict`, which loads without this library."""
    def __eq__(self, other):
        if isinstance(other, (list, L)): return list(self.values()) == list(other)
        return dict.__eq__(self, other)
    def __ne__(self, other): return not self == other
    __hash__ = None
    def __reduce__(self): return OrderedDict, (), None, None, iter(self.items())


def is_note(
    k # A key of an optimizer's state
) -> bool:
    "Is a key of `state` not a parameter? torch, too, allows such state of the whole optimizer."
    return isinstance(k, str)


IMMUTABLE = frozenset({float, int, bool, str, type(None)})


def copied(
    o, # A tensor, number, or container of them
    device=None # Device for copies of tensors; default: their own
):
    """Copy `o` deeply.

    NumPy numbers and fastcore lists become types that `torch.load(weights_only=True)` reads."""
    if type(o) is Tensor and device is None and not o.requires_grad: return o.clone() # the quickest of them
    if isinstance(o, Tensor): return o.detach().to(device or o.device, copy=True)
    if type(o) in IMMUTABLE: return o
    if isinstance(o, np.generic): return o.item()
    if isinstance(o, dict): return {k: copied(v, device) for k, v in o.items()}
    if isinstance(o, (list, L)): return [copied(v, device) for v in o]
    if type(o) is tuple: return tuple(copied(v, device) for v in o)
    return deepcopy(o)


def kept_states(
    opt, # Optimizer
    params:Iterable, # Some of its parameters
    device=None # Device for copies of tensors; default: their own
) -> list[dict]:
    "Copy the states of parameters, without the records of taps, which training doesn't need."
    tapped, states = {k for s in opt.composition.steppers for k in s.taps}, opt.state
    def is_kept(k): return not tapped or k.partition('.')[0] not in tapped
    return [{k: copied(v, device) for k, v in states.get(p, {}).items() if is_kept(k)} for p in params]


def ours(
    opt # An object that should be an `Optimizer`
):
    "Return `opt` if it has steppers, else raise `TypeError`."
    if hasattr(opt, 'composition'): return opt
    raise TypeError(f"{type(opt).__name__} is no optimcb `Optimizer`. If it wraps one, pass that, "
                    "as `opt.optimizer` of accelerate's.")


def shape_of(
    p # A parameter, or an object without a shape
) -> list:
    "Return the shape of a parameter, as a list of numbers."
    return list(getattr(p, 'shape', ()))
