"""Recipes of the Adam family.

Defaults are those of the paper or of the authors' code. Where the two differ, the recipe follows the paper,
and its docstring says so.
"""
from functools import partial

from optimcb.algorithm import algorithm
from optimcb.composition.stepper import renamed
from optimcb.steppers import *
from optimcb.steppers.lists import adam_avgs, decay_of, largest, mean_grad

__all__ = ['AdaBelief', 'Adan', 'ADOPT', 'LaProp', 'AdEMAMix', 'NovoGrad', 'AdaBound', 'AdaMod', 'DiffGrad',
           'PAdam', 'StableAdamW', 'MARS']

mean_update = partial(average_update, dampening=True)
adam_update = [debias_grad_avg, debias_sqr_avg, rms_update]


@algorithm
def AdaBelief(
    mom=0.9, # Coefficient of past gradients (β1), 0 to 1
    sqr_mom=0.999, # Coefficient of past squares (β2), 0 to 1
    eps=1e-16, # Added to the mean of the squares in each step, and again to the root
    wd=0., # Weight decay
    decouple_wd=True, # Decay the weights, or add an L2 penalty to the gradient?
    amsgrad=False, # Divide by the largest mean so far?
    rectify=False # Rectify the step, as in RAdam? On by default in the authors' code, but not in the paper
):
    """Adam that divides by the deviation of gradients from their mean
    (Zhuang et al. 2020, https://arxiv.org/abs/2010.07468)."""
    return [*adam_avgs(decouple_wd, average_sqr_deviation), *largest(amsgrad), step_stat, *adam_update,
            *([rectify_update] if rectify else []), apply_update]


@algorithm
def Adan(
    mom=0.98, # Coefficient of past gradients (β1; 1-β1 in the paper), 0 to 1
    diff_mom=0.92, # Coefficient of past differences of gradients (β2; 1-β2 in the paper), 0 to 1
    sqr_mom=0.99, # Coefficient of past squares (β3; 1-β3 in the paper), 0 to 1
    eps=1e-8, # Added to the root
    wd=0., # Weight decay
    proximal=True # Decay by a proximal step after the update? Else before it, as in AdamW
):
    """Adam with Nesterov's momentum, estimated from differences of gradients
    (Xie et al. 2022, https://arxiv.org/abs/2208.06677; debiased as in its code)."""
    debias_diff = renamed(debias_grad_avg, grad_avg='diff_avg', mom='diff_mom')
    mix = renamed(mix_grad_avgs, slow_grad_avg='diff_avg', slow_weight='diff_mom')
    return [*([] if proximal else [weight_decay]), diff_of_grads, keep_grad, mean_grad, average_diff,
            look_ahead_grad, average_sqr_grad, step_stat, debias_grad_avg, debias_diff, mix, debias_sqr_avg,
            rms_update, apply_update, *([proximal_decay] if proximal else [])]


@algorithm
def ADOPT(
    mom=0.9, # Coefficient of past updates (β1), 0 to 1
    sqr_mom=0.9999, # Coefficient of past squares (β2), 0 to 1
    eps=1e-6, # Smallest divisor
    wd=0., # Weight decay
    decouple_wd=True, # Decay the weights, or add an L2 penalty to the gradient?
    clip=True # Clip the averaged values at `(step-1)**clip_power`?
):
    """Adam that divides by previous squares only, before averaging; the first step only initializes them
    (Taniguchi et al. 2024, https://arxiv.org/abs/2411.02853)."""
    return [step_stat, rest_at_first, decay_of(decouple_wd), past_rms_update,
            *([clip_by_step] if clip else []), start_sqr_avg, average_sqr_grad, mean_update, apply_update]


@algorithm
def LaProp(
    mom=0.9, # Coefficient of past updates (β1), 0 to 1
    sqr_mom=0.999, # Coefficient of past squares (β2), 0 to 1
    eps=1e-15, # Added to the root
    wd=0., # Weight decay
    decouple_wd=True, # Decay the weights, or add an L2 penalty to the gradient?
    amsgrad=False # Divide by the largest mean square so far?
):
    """Adam that divides before averaging
    (Ziyin et al. 2020, https://arxiv.org/abs/2002.04839; its code weighs past updates by their `lr`)."""
    return [decay_of(decouple_wd), average_sqr_grad, *largest(amsgrad), step_stat, debias_sqr_avg, rms_update,
            mean_update, debias_update, apply_update]


@algorithm
def AdEMAMix(
    mom=0.9, # Coefficient of past gradients (β1), 0 to 1
    sqr_mom=0.999, # Coefficient of past squares (β2), 0 to 1
    slow_mom=0.9999, # Coefficient of past gradients in the slow mean (β3), 0 to 1
    slow_weight=2., # Weight of the slow mean (α)
    slow_mom_warmup=0, # Number of steps in which the slow mean's half-life grows from that of `mom`
    slow_weight_warmup=0, # Number of steps in which its weight grows from 0
    eps=1e-8, # Added to the root
    wd=0., # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    """Adam with a second, slow mean of the gradients
    (Pagliardini et al. 2024, https://arxiv.org/abs/2409.03137)."""
    slow_mean = renamed(mean_grad, grad_avg='slow_grad_avg', mom='slow_mom')
    return [*adam_avgs(decouple_wd), step_stat, slow_schedule, slow_mean, debias_grad_avg, debias_sqr_avg,
            mix_grad_avgs, rms_update, apply_update]


@algorithm
def NovoGrad(
    mom=0.95, # Coefficient of past updates (β1), 0 to 1
    sqr_mom=0.98, # Coefficient of past squared norms (β2), 0 to 1
    eps=1e-8, # Added to the root
    wd=0., # Weight decay
    decouple_wd=False, # Decay the weights, or, as in the paper, add the decay to the averaged values?
    dampening=False # Average the updates, instead of summing them?
):
    """Momentum of gradients that are divided by a running mean of their tensor's norm
    (Ginsburg et al. 2019, https://arxiv.org/abs/1905.11286)."""
    return [*([weight_decay] if decouple_wd else []), average_sqr_norm,
            renamed(rms_update, sqr_avg='sqr_norm_avg'), *([] if decouple_wd else [decay_update]),
            mean_update if dampening else average_update, apply_update]


@algorithm
def AdaBound(
    mom=0.9, # Coefficient of past gradients (β1), 0 to 1
    sqr_mom=0.999, # Coefficient of past squares (β2), 0 to 1
    final_rate=100., # Final learning rate divided by `lr`: 0.1/0.001 in the paper
    gamma=1e-3, # Speed at which the bounds converge
    eps=1e-8, # Added to the root, before its correction
    wd=0., # Weight decay
    decouple_wd=True, # Decay the weights, or add an L2 penalty to the gradient?
    amsbound=False # AMSBound: divide by the largest mean square so far?
):
    """Adam whose learning rates converge to that of SGD
    (Luo et al. 2019, https://arxiv.org/abs/1902.09843; debiased, and not divided by the step's root, as in
    its code)."""
    return [*adam_avgs(decouple_wd), *largest(amsbound), step_stat, debias_eps, debias_sqr_avg, rms_rate,
            renamed(debias_grad_avg, grad_avg='rate'), bound_rate, rate_update, apply_update]


@algorithm
def AdaMod(
    mom=0.9, # Coefficient of past gradients (β1), 0 to 1
    sqr_mom=0.999, # Coefficient of past squares (β2), 0 to 1
    rate_mom=0.999, # Coefficient of past learning rates (β3), 0 to 1
    eps=1e-8, # Added to the root
    wd=0., # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    """Adam whose learning rates are bounded by their running mean
    (Ding et al. 2019, https://arxiv.org/abs/1910.12249; its code debiases them, not the gradient)."""
    return [*adam_avgs(decouple_wd), step_stat, debias_grad_avg, debias_sqr_avg, rms_rate, average_rate,
            bound_by_average, rate_update, apply_update]


@algorithm
def DiffGrad(
    mom=0.9, # Coefficient of past gradients (β1), 0 to 1
    sqr_mom=0.999, # Coefficient of past squares (β2), 0 to 1
    eps=1e-8, # Added to the root
    wd=0., # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    """Adam with smaller steps where the gradient hardly changes
    (Dubey et al. 2019, https://arxiv.org/abs/1909.11015; its code adds `eps` before it debiases)."""
    return [*adam_avgs(decouple_wd), partial(diff_of_grads, from_zero=True), keep_grad, step_stat,
            *adam_update, friction_update, apply_update]


@algorithm
def PAdam(
    mom=0.9, # Coefficient of past gradients (β1), 0 to 1
    sqr_mom=0.999, # Coefficient of past squares (β2), 0 to 1
    power=0.125, # Power of the mean square: 1/2 for Adam, 0 for momentum
    eps=1e-8, # Added to the root, before the power
    wd=0., # Weight decay
    decouple_wd=True, # Decay the weights, or add an L2 penalty to the gradient?
    amsgrad=True # Divide by the largest mean square so far?
):
    """Partially adaptive AMSGrad, between Adam and momentum
    (Chen et al. 2018, https://arxiv.org/abs/1806.06763; its code debiases, as Adam does)."""
    return [*adam_avgs(decouple_wd), *largest(amsgrad), power_update, apply_update]


@algorithm
def StableAdamW(
    mom=0.9, # Coefficient of past gradients (β1), 0 to 1
    sqr_mom=0.99, # Coefficient of past squares (β2), 0 to 1
    eps=1e-6, # Added to the root
    wd=0.01, # Weight decay
    decouple_wd=True # Decay the weights, by the step's own `lr`, or add an L2 penalty to the gradient?
):
    """AdamW that takes smaller steps for tensors whose gradient is large compared to its mean square
    (Wortsman et al. 2023, https://arxiv.org/abs/2304.13013, alg. 2)."""
    return [*([] if decouple_wd else [l2_reg]), mean_grad, average_sqr_grad, step_stat, *adam_update,
            clip_lr_by_rms, *([weight_decay] if decouple_wd else []), apply_update]


@algorithm
def MARS(
    mom=0.95, # Coefficient of past gradients (β1), 0 to 1
    sqr_mom=0.99, # Coefficient of past squares (β2), 0 to 1
    gamma=0.025, # Weight of the added difference to the previous gradient
    eps=1e-8, # Added to the root
    wd=0., # Weight decay
    decouple_wd=True, # Decay the weights, or add an L2 penalty to the gradient?
    amsgrad=False # Divide by the largest mean square so far?
):
    """AdamW on variance-reduced gradients
    (Yuan et al. 2024, https://arxiv.org/abs/2411.10438; its code uses plain AdamW for tensors that aren't
    matrices)."""
    return [decay_of(decouple_wd), partial(diff_of_grads, from_zero=True), keep_grad, mars_grad, mean_grad,
            average_sqr_grad, *largest(amsgrad), step_stat, *adam_update, apply_update]
