"Copies of an optimizer's state, with types that load anywhere."
from collections import OrderedDict
from collections.abc import Iterable
from copy import deepcopy

import numpy as np
from fastcore.foundation import L
from torch import Tensor

__all__ = ['ParamStates', 'copied', 'is_note', 'kept_states', 'ours', 'shape_of']


class ParamStates(dict):
    """torch's `{index: state}`, which also equals fastai's list of states.

    It is saved as an `OrderedDict`, which loads anywhere."""
    def __eq__(self, other):
        if isinstance(other, (list, L)): return list(self.values()) == list(other)
        return dict.__eq__(self, other)
    def __ne__(self, other): return not self == other
    __hash__ = None
    def __reduce__(self): return OrderedDict, (), None, None, iter(self.items())


def is_note(
    k # A key of an optimizer's state
) -> bool:
    "Does a key stand for something of the whole optimizer? torch, too, saves state under other keys."
    return isinstance(k, str)


IMMUTABLE = frozenset({float, int, bool, str, type(None)})


def copied(
    o, # A tensor, number, or container of them
    device=None # Device for copies of tensors; default: their own
):
    """Copy `o` deeply.

    NumPy's numbers and fastcore's lists become types that `torch.load(weights_only=True)` reads."""
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
    "Copy the states of parameters, without what taps record, which isn't needed to go on."
    tapped, states = {k for s in opt.composition.steppers for k in s.taps}, opt.state
    def is_kept(k): return not tapped or k.partition('.')[0] not in tapped
    return [{k: copied(v, device) for k, v in states.get(p, {}).items() if is_kept(k)} for p in params]


def ours(
    opt # What should be an `Optimizer`
):
    "Return `opt`, if it has steppers. Raises `TypeError` if not."
    if hasattr(opt, 'composition'): return opt
    raise TypeError(f"{type(opt).__name__} is no optimcb `Optimizer`. If it wraps one, pass that, "
                    "as `opt.optimizer` of accelerate's.")


def shape_of(
    p # A parameter, or an object without a shape
) -> list:
    "Return the shape of a parameter, as a list of numbers."
    return list(getattr(p, 'shape', ()))
