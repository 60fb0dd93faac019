"Values of hyper-parameters: valid ranges, and one value per group."
import math
from collections.abc import Iterator
from numbers import Real

import numpy as np
import torch
from fastcore.basics import even_mults
from fastcore.foundation import L
from torch import Tensor

__all__ = ['ALWAYS_WELCOME', 'NOT_NEGATIVE', 'RANGES', 'check', 'check_tensors', 'hypers_of', 'own',
    'numbers', 'per_group']


NOT_NEGATIVE = (0, math.inf) # at least, less than; None: any larger number, infinity too
RANGES = dict(
    lr=NOT_NEGATIVE, wd=NOT_NEGATIVE, eps=NOT_NEGATIVE,
    mom=(0, 1), sqr_mom=(0, 1), diff_mom=(0, 1), slow_mom=(0, 1), rate_mom=(0, 1),
    d_mom=(0, 1), ema_mom=(0, 1), grok_mom=(0, 1), growth_rate=(1, None), refresh_steps=(1, None),
    accum=(1, None), ema_every=(1, None),
    swa_every=(1, None))
ROUNDING = 1e-12 # below the least value: schedulers that end at 0, as `LinearLR`, may miss it by that much

# names that no stepper has, but that users may try
LONG_NAMES = dict(beta1=('mom',), beta2=('sqr_mom',), learning_rate=('lr',), epsilon=('eps',))

# fastai passes and schedules these, whether or not a stepper reads them
ALWAYS_WELCOME = frozenset({'lr', 'mom'})

NOT_HYPERS = frozenset({'params', 'param_names'})


def check(
    name:str, # Name of a hyper-parameter
    value, # Its value for one group
    within:tuple|None=None # Smallest value, and an exclusive upper limit; default: those of `RANGES`
):
    """Return `value` if it is valid for `name`: within the range of a common name, and never NaN.

    Raises `TypeError` for anything but a number, `ValueError` for a number out of range. A tensor of one
    number counts as a number."""
    if isinstance(value, np.ndarray) and value.ndim == 0: value = value.item()
    within = RANGES.get(name, within)
    if not isinstance(value, Real):
        if not within: return value
        if isinstance(value, Tensor): return _check_tensor(name, value, within)
        hint = f" `scheduled({name}=…)` makes it a function of the step." if callable(value) else ''
        raise TypeError(f"`{name}` must be a number, but is {value!r} ({type(value).__name__}).{hint}")
    if math.isnan(value): raise ValueError(f"`{name}` is NaN. Set it to a number.")
    least, limit = within or (None, None)
    if within and not (least - ROUNDING <= value and (limit is None or value < limit)):
        below = '' if limit is None else ' and finite' if limit == math.inf else f' and less than {limit}'
        raise ValueError(f"`{name}` must be at least {least}{below}, but is {value}.")
    return value


def _check_tensor(name, value, within):
    "Return a tensor if it is a single real number without gradient"
    if value.numel() != 1 or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"`{name}` must be one number, but is a tensor of shape {tuple(value.shape)} and "
                        f"{value.dtype}. "
                        "Pass a tensor without dimensions, or a list with one for each group.")
    if value.requires_grad:
        raise ValueError(f"`{name}` is a tensor that requires a gradient, but no step is differentiated. "
                         f"Pass `{name}.detach()`.")
    # not checked on a device, which would have to synchronize
    if type(value) is Tensor and value.device.type == 'cpu': check(name, value.item(), within)
    return value


def check_tensors(
    hypers:dict # Hyper-parameters of one group
) -> None:
    """Raise `ValueError` for a tensor on a CPU that was filled in place with what its name doesn't allow.

    It is called where a step reads the tensors anyway, as nothing tells when they are written."""
    for k, v in hypers.items():
        if type(v) is Tensor: check(k, v)


def own(
    name:str, # Name of a hyper-parameter
    value # Its value
):
    """Return a value that no other group shares: copy a tensor of one number.

    For real hyper-parameters, the copy has no dimensions and a floating-point dtype."""
    if not isinstance(value, Tensor) or value.numel() != 1 or value.requires_grad: return value
    value = value.clone()
    if name not in RANGES: return value
    return value.reshape(()) if value.is_floating_point() else value.reshape(()).to(torch.get_default_dtype())


def hypers_of(
    groups:list, # Parameter groups
    names:set # Names of hyper-parameters
) -> list[dict]:
    "Return the hyper-parameters of each group."
    names = names - NOT_HYPERS
    return [{k: v for k, v in g.items() if k in names} for g in groups]


def numbers(
    v # A value, or a list or tuple of values
):
    "Turn tensors into plain numbers, so that steppers can be chosen by them; several become a tuple."
    if isinstance(v, (list, tuple)): return tuple(map(numbers, v))
    return v.item() if isinstance(v, Tensor) and v.numel() == 1 and not v.is_meta else v


def per_group(
    name:str, # Name of a hyper-parameter
    value, # One value, one per group, `slice(first, last)`, or `slice(last)`: a tenth for the other groups
    n:int # Number of groups
) -> list:
    """Return checked values, one per group, by fastai's rules for discriminative learning rates.

    Raises `ValueError` if the number of values is not the number of groups.
    """
    if isinstance(value, slice):
        if value.stop is None:
            raise ValueError(f"`{name}` is {value}: a slice of hyper-parameters needs an end, as in "
                             "slice(1e-3).")
        if value.start: value = even_mults(value.start, value.stop, n)
        else: value = [value.stop/10]*(n-1) + [value.stop]
    has_no_end = isinstance(value, Iterator) # it may be endless
    is_one = value is None or has_no_end or getattr(value, 'ndim', None) == 0
    values = [value] if is_one else list(L(value, use_list=None))
    if len(values) == 1: values = values*n
    if len(values) != n:
        raise ValueError(f"`{name}` has {len(values)} values, but there are {n} parameter groups. "
                         "Pass one value, or one for each group.")
    return [own(name, check(name, v)) for v in values]
