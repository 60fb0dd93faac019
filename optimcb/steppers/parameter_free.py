"""The mathematics of rules that find their own step size `d`, an estimate of the distance to the solution.

`d` is computed from sums over all parameters, and equal for all of them. It is multiplied by `lr`, which
should be 1.
"""
import math
from collections.abc import Iterator

import torch

from optimcb._compat.renamed import old_names
from optimcb.composition.results import once
from optimcb.composition.traits import stepper
from optimcb.steppers.moving_average import debias
from optimcb.steppers.norms import at_least_float32

__all__ = ['sync_d', 'lr_by_d', 'debias_lr', 'prodigy_d', 'eps_by_d', 'dadapt_adam_d', 'lr_in_grad',
           'keep_first_norm', 'dadapt_sgd_d']


# State that is equal for all parameters

def _latest(turn) -> Iterator:
    """Find the largest `turn` of all parameters, and whether all have it.

    Only sums are available, so parameters below the mean are left out until the rest, which always includes
    the largest, are equal."""
    here, n, total, squares = 1, (yield 1), (yield turn), (yield turn**2)
    same = n*squares == total**2
    while n*squares != total**2:
        here = int(here and n*turn >= total) # those below the mean are out
        n, total, squares = (yield here), (yield here*turn), (yield here*turn**2)
    return total // n, same


@stepper
def sync_d(p,
    shared=('d', 'd_numerator'), # Names of state that must be equal for all parameters
    d0=1e-6, # Initial value of `d`
    turn=0, # State: steps of the optimizer that this parameter knows of
    d=None, # State: the estimate
    d_max=None, # State: the largest estimate so far
    d_numerator=None, # State: numerator of the estimate
    first_norm=None): # State: norm of the first gradients
    """Copy shared state from parameters of the latest step to late ones; comes first.

    Late parameters are new, or had no gradient for a while."""
    latest, same = yield from _latest(turn)
    own = {'d': d, 'd_max': d_max, 'd_numerator': d_numerator, 'first_norm': first_norm}
    starts = {'d': d0, 'd_max': d0}
    wide, here = torch.promote_types(p.dtype, torch.float32), float(turn == latest)
    if turn == 0: own = {k: p.data.new_full((), starts.get(k, 0.), dtype=wide) for k in shared}
    for k in () if same else shared: # means over elements, so that scalar parameters yield the same sums
        total = yield torch.ones_like(p.data, dtype=wide).mul_(own[k]).mul_(here).sum()
        count = yield torch.ones_like(p.data, dtype=wide).mul_(here).sum()
        own[k] = here*own[k] + (1-here)*(total/count)
    return {**{k: own[k] for k in shared}, 'turn': latest + 1}


@stepper
def lr_by_d(p,
    lr, # Learning rate relative to the estimated one
    d, # State: the estimate
    **kwargs):
    "Multiply `lr` by `d`, for this step (Defazio & Mishchenko 2023, https://arxiv.org/abs/2301.07733)."
    return once(lr=lr*d)


@stepper
def debias_lr(p,
    lr, # Learning rate
    mom, # Coefficient of past values in `grad_avg`, 0 to 1
    sqr_mom, # Coefficient of past values in `sqr_avg`, 0 to 1
    turn, # State: steps of the optimizer
    **kwargs):
    "Correct `lr` for the start of both averages from zero, for this step (Kingma & Ba 2015, end of sec. 2)."
    return once(lr=lr * math.sqrt(debias(sqr_mom, 1-sqr_mom, turn)) / debias(mom, 1-mom, turn))


def _grown(d, d_hat, growth_rate): return torch.maximum(d, torch.minimum(d_hat, d*growth_rate))


# Prodigy

@stepper
def prodigy_d(p,
    lr, # Learning rate, with `d` in it
    p_start, # State: the weights before the first step
    d, # State: the estimate
    d_max, # State: the largest estimate so far
    d_numerator, # State: numerator of the estimate
    sqr_mom, # Coefficient of past values in `sqr_avg`, 0 to 1
    d0=1e-6, # Initial value of `d`
    d_mom=0., # Coefficient of past estimates, 0 to 1; 0: the root of `sqr_mom`
    d_coef=1., # Factor of the estimate
    growth_rate=math.inf, # Largest factor by which `d` grows in a step
    safeguard_warmup=False, # Leave `lr` out of the estimate's denominator, for warm-ups?
    grad_sum=None): # State: decaying sum of gradients
    """Update the estimate `d`, and multiply the gradient by the old one, for this step
    (Mishchenko & Defazio 2024, https://arxiv.org/abs/2306.06101, alg. 4).

    While all gradients are 0, `d` stays."""
    beta, g, scale = d_mom or math.sqrt(sqr_mom), at_least_float32(p.grad.data), d/d0
    moved = at_least_float32(p_start) - at_least_float32(p.data)
    numerator = beta*d_numerator + (yield (scale*lr*g * moved).sum())
    if grad_sum is None: grad_sum = torch.zeros_like(g)
    grad_sum = beta*grad_sum + scale*(d if safeguard_warmup else lr) * g
    size = yield grad_sum.abs().sum()
    d_hat = d_coef*numerator / size
    largest = torch.maximum(d_max, d_hat)
    is_start = d <= d0*(1 + 1e-6) # `sync_d` may be off by a rounding error
    started = torch.where(is_start, torch.maximum(d, d_hat), d)
    new = {'d': torch.minimum(largest, started*growth_rate), 'd_max': largest, 'd_numerator': numerator}
    p.grad = (p.grad.data * scale).to(p.grad.dtype)
    old = {'d': d, 'd_max': d_max, 'd_numerator': d_numerator}
    return {'grad_sum': grad_sum, **{k: torch.where(size > 0, v, old[k]) for k, v in new.items()}}


@stepper
def eps_by_d(p,
    eps, # Added to the root
    d, # State: the estimate
    d0=1e-6, # Where it started
    **kwargs):
    """Scale `eps` by `d`, like the gradients, for this step
    (Mishchenko & Defazio 2024, https://arxiv.org/abs/2306.06101, alg. 4)."""
    return once(eps=eps * (d/d0))


# D-Adaptation

@stepper
def dadapt_adam_d(p,
    lr, # Learning rate, with `d` in it
    d, # State: the estimate
    d_numerator, # State: numerator of the estimate
    sqr_mom, # Coefficient of past values in `sqr_avg`, 0 to 1
    eps=1e-8, # Added to the root
    growth_rate=math.inf, # Largest factor by which `d` grows in a step
    layer_scale=1., # Factor of this group's steps
    sqr_avg=None, # State: mean of squared gradients, before this step
    grad_sum=None): # State: decaying sum of gradients
    """Update the estimate `d` for Adam's steps
    (Defazio & Mishchenko 2023, https://arxiv.org/abs/2301.07733; numerator of their code)."""
    beta, g = math.sqrt(sqr_mom), at_least_float32(p.grad.data)
    if grad_sum is None: grad_sum = torch.zeros_like(g)
    root = at_least_float32(sqr_avg).sqrt() + eps if sqr_avg is not None else 1.
    numerator = beta*d_numerator + (1-beta) * (yield (layer_scale*lr*g * grad_sum/root).sum())
    grad_sum = beta*grad_sum + (1-beta)*lr * g
    size = yield (layer_scale*grad_sum).abs().sum()
    new = _grown(d, numerator / ((1-beta)*size), growth_rate)
    return {'grad_sum': grad_sum, 'd': torch.where(size > 0, new, d),
            'd_numerator': torch.where(size > 0, numerator, d_numerator)}


@stepper
def lr_in_grad(p,
    lr, # Learning rate, with `d` in it
    d0=1e-6, # Unit of `lr`, which avoids tiny numbers
    layer_scale=1., # Factor of this group's steps
    **kwargs):
    "Multiply the gradient by `lr`, for this step, so that averages remember it."
    p.grad = (p.grad.data * (layer_scale*lr/d0)).to(p.grad.dtype)
    return once(lr=d0)


@stepper
def keep_first_norm(p,
    lr, # Learning rate: groups with 0 are left out
    turn, # State: steps of the optimizer
    first_norm): # State: that norm
    "Keep the norm of all gradients of the optimizer's first step, in `first_norm`; 1 if they were 0."
    if turn == 1:
        total = yield (at_least_float32(p.grad.data) * (lr > 0)).pow(2).sum()
        return {'first_norm': torch.where(total > 0, total.sqrt(), 1.)}


@stepper
def dadapt_sgd_d(p,
    lr, # Learning rate, with `d` in it
    first_norm, # State: norm of the first gradients
    d, # State: the estimate
    d_numerator, # State: numerator of the estimate
    growth_rate=math.inf, # Largest factor by which `d` grows in a step
    grad_sum=None): # State: the sum of gradients
    """Update the estimate `d`, and sum gradients for `dual_update`
    (Defazio & Mishchenko 2023, https://arxiv.org/abs/2301.07733; numerator of their code)."""
    lr, g = lr/first_norm, at_least_float32(p.grad.data)
    if grad_sum is None: grad_sum = torch.zeros_like(g)
    numerator = d_numerator + (yield (lr*g * grad_sum).sum())
    grad_sum = grad_sum + lr*g
    size = yield grad_sum.pow(2).sum()
    new = _grown(d, 2*numerator / size.sqrt(), growth_rate)
    return {'grad_sum': grad_sum, 'd': torch.where(size > 0, new, d), 'd_numerator': numerator,
            'update': grad_sum.clone()}


__getattr__ = old_names('steppers')
