"Exponential moving averages, and the correction for their start from zero."
from numbers import Real

import torch

__all__ = ['debias']


def is_torch_dampening(
    dampening # True for a mean, False for a sum, or torch's number
) -> bool:
    "Is `dampening` a number, as that of `torch.optim.SGD`?"
    return isinstance(dampening, Real) and not isinstance(dampening, bool)


def newest_weight(
    mom, # Coefficient of the past, 0 to 1
    dampening # True for a mean, False for a sum, or torch's number
):
    "The weight of the newest value in an exponential average."
    if is_torch_dampening(dampening): return 1 - dampening if mom != 0 else 1.
    return 1-mom if dampening else 1.


def exp_avg(
    avg, # The average so far, which is changed; None: it starts from zero, or with torch's dampening from `x`
    x, # The newest value
    mom, # Coefficient of the past, 0 to 1
    dampening=True # Weigh the value by `1-mom`, which makes it a mean? A number as in torch: by `1-dampening`
):
    "Update an exponentially weighted mean, or sum, by a new value."
    if avg is None and is_torch_dampening(dampening): return x.clone()
    if avg is None: avg = torch.zeros_like(x)
    return avg.mul_(mom).add_(x, alpha=newest_weight(mom, dampening))


def debias(
    mom, # Coefficient of the past, 0 to 1
    damp, # Weight of the newest value
    step # Number of values
):
    "The sum of the weights of an exponential average that started from zero (Kingma & Ba 2015, sec. 3)."
    return damp * (1 - mom**step) / (1 - mom)
