"Exponential moving averages, and the correction for their start from zero."
from numbers import Real

import torch

__all__ = ['debias']


def is_torch_dampening(
    dampening # True for a mean, False for a sum, or torch's number
) -> bool:
    "Is `dampening` a number, as in `torch.optim.SGD`?"
    return isinstance(dampening, Real) and not isinstance(dampening, bool)


def newest_weight(
    mom, # Coefficient of past values, 0 to 1
    dampening # True for a mean, False for a sum, or torch's number
):
    "Return the weight of the newest value in an exponential moving average."
    if is_torch_dampening(dampening): return 1 - dampening if mom != 0 else 1.
    return 1-mom if dampening else 1.


def exp_avg(
    avg, # Average so far, updated in place; None starts from zero, or from `x` with torch's dampening
    x, # The newest value
    mom, # Coefficient of past values, 0 to 1
    dampening=True # Weight the value by `1-mom`, for a mean? A number means `1-dampening`, as in torch
):
    "Update an exponential moving average, or sum, with a new value."
    if avg is None and is_torch_dampening(dampening): return x.clone()
    if avg is None: avg = torch.zeros_like(x)
    return avg.mul_(mom).add_(x, alpha=newest_weight(mom, dampening))


def debias(
    mom, # Coefficient of past values, 0 to 1
    damp, # Weight of the newest value
    step # Number of values
):
    "Return the sum of weights of an exponential average that started from zero (Kingma & Ba 2015, sec. 3)."
    return damp * (1 - mom**step) / (1 - mom)
