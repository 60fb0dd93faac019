"Formulas on numbers and tensors that several steppers share."
import math
from numbers import Real

import torch

__all__ = ['debias', 'nadam_mom', 'rectification']


def direction(p,
    grad_avg=None, # State: average of gradients, if there is one
    update=None # This step's update, if there is one
):
    "What there is to step against: the update, or else the average of the gradients, or else the gradient."
    return p.grad.data if update is None and grad_avg is None else grad_avg if update is None else update


# Momentum

def _is_torchs(dampening) -> bool: return isinstance(dampening, Real) and not isinstance(dampening, bool)


def newest_weight(
    mom, # Coefficient of the past, 0 to 1
    dampening # True for a mean, False for a sum, or torch's number
):
    "The weight of the newest value in an exponential average."
    if _is_torchs(dampening): return 1 - dampening if mom != 0 else 1.
    return 1-mom if dampening else 1.


def exp_avg(
    avg, # The average so far, which is changed; None: it starts from zero, or with torch's dampening from `x`
    x, # The newest value
    mom, # Coefficient of the past, 0 to 1
    dampening=True # Weigh the value by `1-mom`, which makes it a mean? A number as in torch: by `1-dampening`
):
    "Exponentially weighted mean, or sum, with a new value taken in."
    if avg is None and _is_torchs(dampening): return x.clone()
    return (torch.zeros_like(x) if avg is None else avg).mul_(mom).add_(x, alpha=newest_weight(mom, dampening))


def _over_rms(p, sqr_avg, eps, grad_avg):
    "Numerator and denominator of a step that divides by a root mean square"
    return direction(p, grad_avg), sqr_avg.sqrt().add_(eps)


def debias(
    mom, # Coefficient of the past, 0 to 1
    damp, # Weight of the newest value
    step # Number of values
):
    "The sum of the weights of an exponential average that started from zero (Kingma & Ba 2015, sec. 3)."
    return damp * (1 - mom**step) / (1 - mom)


# Variants of Adam

def nadam_mom(
    mom, # Momentum that is approached, 0 to 1
    step, # Number of the step
    mom_decay # How fast it is approached
):
    "NAdam's momentum of a step (Dozat 2016, sec. 3.2)."
    return mom * (1 - 0.5 * 0.96**(step*mom_decay))


def rectification(
    sqr_mom, # Coefficient of the past, 0 to 1
    step # Number of the step
):
    "RAdam's correction of the step for the variance of `sqr_avg`, or None while that is too large (Liu et al. 2020, alg. 2, from 5 on as in its code)."
    r_inf = 2/(1-sqr_mom) - 1
    r = r_inf - 2*step*sqr_mom**step/(1-sqr_mom**step)
    return math.sqrt(((r-4)*(r-2)*r_inf) / ((r_inf-4)*(r_inf-2)*r)) if r > 5 else None


# A learning rate for each tensor

def precise(
    x # A tensor
):
    "`x`, if need be in float32, for sums over a tensor of 16-bit numbers."
    return x.to(torch.promote_types(x.dtype, torch.float32))


def norm(
    x # A tensor
):
    "The Euclidean norm of a whole tensor."
    return torch.linalg.vector_norm(precise(x))


def rms(
    x # A tensor
):
    "The root mean square of a whole tensor."
    return precise(x).pow(2).mean().sqrt()
