"""Recipes of rules that find their own step size. Use `lr=1`; schedules multiply it.

`lr` may differ between groups, and 0 pauses a group. The state `d` is the same for all parameters.
"""
import math
from functools import partial

from optimcb.algorithm import algorithm
from optimcb.steppers import *
from optimcb.steppers.lists import mean_grad

__all__ = ['Prodigy', 'DAdaptAdam', 'DAdaptSGD']


@algorithm
def Prodigy(
    mom=0.9, # Coefficient of past gradients (β1), 0 to 1
    sqr_mom=0.999, # Coefficient of past squares (β2), 0 to 1
    eps=1e-8, # Added to the root, scaled by the step size
    d0=1e-6, # Initial estimate of the distance
    d_coef=1., # Factor of the estimate, the only number to tune
    d_mom=0., # Coefficient of past estimates (β3), 0 to 1; 0: the root of `sqr_mom`
    growth_rate=math.inf, # Largest factor by which the estimate grows in a step; 1.02 acts as a warm-up
    wd=0., # Weight decay
    decouple_wd=True, # Decay the weights, or add an L2 penalty to the gradient?
    bias_correction=False, # Correct the averages for their start from zero?
    safeguard_warmup=False # Leave `lr` out of the denominator? For schedules that start low
):
    """Adam that finds its own step size: start with `lr=1`
    (Mishchenko & Defazio 2024, https://arxiv.org/abs/2306.06101; as in
    https://github.com/konstmish/prodigy)."""
    rate = [partial(sync_d, shared=('d', 'd_max', 'd_numerator')), lr_by_d,
            *([debias_lr] if bias_correction else [])]
    estimate = [keep_start, *rate, partial(prodigy_d, safeguard_warmup=safeguard_warmup)]
    steps = [mean_grad, average_sqr_grad, eps_by_d, rms_update, apply_update]
    return [*estimate, weight_decay, *steps] if decouple_wd else [l2_reg, *estimate, *steps]


@algorithm
def DAdaptAdam(
    mom=0.9, # Coefficient of past gradients (β1), 0 to 1
    sqr_mom=0.999, # Coefficient of past squares (β2), 0 to 1
    eps=1e-8, # Added to the root
    d0=1e-6, # Initial estimate of the distance
    growth_rate=math.inf, # Largest factor by which the estimate grows in a step; 1.02 acts as a warm-up
    layer_scale=1., # Factor of a group's steps
    wd=0., # Weight decay
    decouple_wd=False, # Decay the weights, or add an L2 penalty to the gradient?
    bias_correction=False # Correct the averages for their start from zero?
):
    """Adam that finds its own step size: start with `lr=1`
    (Defazio & Mishchenko 2023, https://arxiv.org/abs/2301.07733; as in their code, 3.2)."""
    rate = [sync_d, lr_by_d, *([debias_lr] if bias_correction else [])]
    steps = [dadapt_adam_d, average_sqr_grad, lr_in_grad, mean_grad, rms_update, apply_update]
    return [*rate, weight_decay, *steps] if decouple_wd else [l2_reg, *rate, *steps]


@algorithm
def DAdaptSGD(
    mom=0., # Weight of the current parameter value, 0 to 1
    d0=1e-6, # Initial estimate of the distance
    growth_rate=math.inf, # Largest factor by which the estimate grows in a step; 1.02 acts as a warm-up
    wd=0. # Weight decay, an L2 penalty
):
    """Dual averaging that finds its own step size: start with `lr=1`
    (Defazio & Mishchenko 2023, https://arxiv.org/abs/2301.07733; as in their code, 3.2)."""
    share = partial(sync_d, shared=('d', 'd_numerator', 'first_norm'))
    return [l2_reg, keep_start, share, keep_first_norm, lr_by_d, dadapt_sgd_d, dual_update, whole_step,
            apply_update]
