"""The mathematics of the Adam family: other second moments, differences of gradients, bounds on quotients.

Most of these rules are Adam's steppers with one of these steppers before, between or after them; each rule
ends in an `update` for `apply_update`.
"""
import math

import torch

from optimcb._compat.renamed import old_names
from optimcb.composition.results import once
from optimcb.composition.roles import DECAY, part
from optimcb.composition.traits import stepper
from optimcb.steppers.adam import debias_grad_avg, rectification
from optimcb.steppers.moving_average import exp_avg
from optimcb.steppers.norms import at_least_float32, norm

__all__ = ['average_sqr_deviation', 'rectify_update', 'diff_of_grads', 'keep_grad', 'average_diff',
           'look_ahead_grad', 'mix_grad_avgs', 'proximal_decay', 'rest_at_first', 'past_rms_update',
           'start_sqr_avg', 'clip_by_step', 'debias_update', 'slow_schedule', 'average_sqr_norm',
           'friction_update', 'power_update', 'clip_lr_by_rms', 'mars_grad']


# AdaBelief

@stepper
def average_sqr_deviation(p,
    grad_avg, # State: mean of gradients
    sqr_mom=0.999, # Coefficient of past values, 0 to 1
    eps=1e-16, # Added to the mean in each step
    sqr_avg=None, # State: the mean
    **kwargs):
    """Average the squared deviations of gradients from their mean, in `sqr_avg`
    (Zhuang et al. 2020, https://arxiv.org/abs/2010.07468, alg. 2)."""
    return {'sqr_avg': exp_avg(sqr_avg, (p.grad.data - grad_avg).pow(2), sqr_mom).add_(eps)}


@stepper
def rectify_update(p,
    sqr_mom, # Coefficient of past values in `sqr_avg`, 0 to 1
    step, # State: steps done
    update, # This step's update
    grad_avg, # Mean of gradients, debiased
    **kwargs):
    """Rectify the update; at the start, replace it by the mean of the gradients
    (Liu et al. 2020, https://arxiv.org/abs/1908.03265, alg. 2)."""
    scale = rectification(sqr_mom, step)
    return {'update': grad_avg.clone() if scale is None else update * scale}


# Differences of gradients: Adan, diffGrad, MARS

@stepper
def diff_of_grads(p,
    from_zero=False, # Is the gradient before the first one zero? Else equal to the first
    last_grad=None, # State: the previous gradient
    **kwargs):
    """Subtract the previous gradient, in `grad_diff`, for this step; needs `keep_grad` afterwards
    (Xie et al. 2022, https://arxiv.org/abs/2208.06677, alg. 1)."""
    if last_grad is None:
        return once(grad_diff=p.grad.data.clone() if from_zero else torch.zeros_like(p.grad.data))
    return once(grad_diff=p.grad.data - last_grad)


@stepper
def keep_grad(p, **kwargs):
    """Keep the gradient for the next step, in `last_grad`
    (Xie et al. 2022, https://arxiv.org/abs/2208.06677, alg. 1)."""
    return {'last_grad': p.grad.data.clone()}


@stepper
def average_diff(p,
    grad_diff, # This step's difference of gradients
    diff_mom=0.92, # Coefficient of past differences, 0 to 1
    diff_avg=None, # State: the mean
    **kwargs):
    """Average the differences of gradients, in `diff_avg`
    (Xie et al. 2022, https://arxiv.org/abs/2208.06677, alg. 1)."""
    return {'diff_avg': exp_avg(diff_avg, grad_diff, diff_mom)}


@stepper
def look_ahead_grad(p,
    grad_diff, # This step's difference of gradients
    diff_mom=0.92, # How far to look ahead, 0 to 1
    **kwargs):
    """Replace the gradient by an estimate at Nesterov's look-ahead point, for this step
    (Xie et al. 2022, https://arxiv.org/abs/2208.06677, alg. 1)."""
    p.grad = p.grad.data.add(grad_diff, alpha=diff_mom)


@stepper
def mix_grad_avgs(p,
    grad_avg, # State: mean of gradients
    slow_grad_avg, # State: another mean
    slow_weight, # Weight of the other one
    **kwargs):
    """Add a second, weighted mean to `grad_avg`, for this step
    (Pagliardini et al. 2024, https://arxiv.org/abs/2409.03137, sec. 3)."""
    return once(grad_avg=grad_avg.add(slow_grad_avg, alpha=slow_weight))


@stepper
@part(kind=DECAY)
def proximal_decay(p,
    lr, # Learning rate
    wd=0., # Weight decay
    do_wd=True, # State: is this parameter decayed?
    **kwargs):
    """Decay by a proximal step, which divides the weights by `1 + lr*wd`; comes last
    (Xie et al. 2022, https://arxiv.org/abs/2208.06677, alg. 1)."""
    if do_wd and wd != 0: p.data.div_(1 + lr*wd)


# ADOPT and LaProp: divide first, then average

@stepper
def rest_at_first(p,
    lr, # Learning rate
    step, # State: steps done, this one included
    **kwargs):
    """Set `lr` to 0 in the first step, which only initializes the averages
    (Taniguchi et al. 2024, https://arxiv.org/abs/2411.02853)."""
    if step == 1: return once(lr=0*lr)


@stepper
def past_rms_update(p,
    eps=1e-6, # Smallest divisor
    sqr_avg=None, # State: mean of the previous squared gradients
    **kwargs):
    """Divide the gradient by the root mean square of previous ones; the first update is zero
    (Taniguchi et al. 2024, https://arxiv.org/abs/2411.02853)."""
    if sqr_avg is None: return {'update': torch.zeros_like(p.grad.data)}
    return {'update': p.grad.data / sqr_avg.sqrt().clamp_(min=eps)}


@stepper
def start_sqr_avg(p,
    sqr_avg=None, # State: mean of squared gradients
    **kwargs):
    """Initialize the mean square with the first square; comes before the average
    (Taniguchi et al. 2024, https://arxiv.org/abs/2411.02853)."""
    if sqr_avg is None: return {'sqr_avg': p.grad.data.pow(2)}


@stepper
def clip_by_step(p,
    step, # State: steps done, this one included
    update, # This step's update
    clip_power=0.25, # Power of the limit
    **kwargs):
    """Clip the update at the number of previous steps to the power of `clip_power`
    (Taniguchi et al. 2024, https://arxiv.org/abs/2411.02853)."""
    limit = (step-1)**clip_power
    return {'update': update.clamp(-limit, limit)}


@stepper
def debias_update(p,
    mom, # Coefficient of past values, 0 to 1
    step, # State: steps done
    update, # Mean of updates
    **kwargs):
    """Correct the mean of updates for its start from zero
    (Ziyin et al. 2020, https://arxiv.org/abs/2002.04839)."""
    return {'update': debias_grad_avg(p, mom, step, update)['grad_avg']}


# AdEMAMix

def _half_life(mom):
    "Return the number of steps in which a gradient's weight halves, times a constant"
    return 1/math.log(mom) if mom > 0 else 0.


@stepper
def slow_schedule(p,
    step, # State: steps done
    mom, # Coefficient of past gradients, from which `slow_mom` starts
    slow_mom=0.9999, # Final coefficient of the slow mean
    slow_weight=2., # Final weight of the slow mean
    slow_mom_warmup=0, # Number of steps in which the half-life of the slow mean grows
    slow_weight_warmup=0, # Number of steps in which its weight grows from 0
    **kwargs):
    """Warm up `slow_mom` and `slow_weight`, for this step
    (Pagliardini et al. 2024, https://arxiv.org/abs/2409.03137, sec. 3)."""
    if step < slow_mom_warmup:
        grown = step/slow_mom_warmup * (_half_life(slow_mom) - _half_life(mom))
        slow_mom = math.exp(1 / (_half_life(mom) + grown))
    if step < slow_weight_warmup: slow_weight = slow_weight * step/slow_weight_warmup
    return once(slow_mom=slow_mom, slow_weight=slow_weight)


# NovoGrad

@stepper
def average_sqr_norm(p,
    sqr_mom=0.98, # Coefficient of past values, 0 to 1
    sqr_norm_avg=None, # State: the mean
    **kwargs):
    """Average the gradients' squared norms, from the first nonzero one on, in `sqr_norm_avg`
    (Ginsburg et al. 2019, https://arxiv.org/abs/1905.11286, alg. 1, and code)."""
    sqr_norm = at_least_float32(p.grad.data).pow(2).sum()
    if sqr_norm_avg is None: return {'sqr_norm_avg': sqr_norm}
    average = exp_avg(sqr_norm_avg.clone(), sqr_norm, sqr_mom)
    return {'sqr_norm_avg': torch.where(sqr_norm_avg == 0, sqr_norm, average)}


# Other denominators and factors

@stepper
def friction_update(p,
    update, # This step's update
    grad_diff, # This step's difference of gradients
    **kwargs):
    """Shrink the update, at most to half, where the gradient hardly changes
    (Dubey et al. 2019, https://arxiv.org/abs/1909.11015)."""
    return {'update': update * grad_diff.abs().sigmoid()}


@stepper
def power_update(p,
    sqr_avg, # State: mean of squared gradients
    grad_avg, # State: mean of gradients
    eps=1e-8, # Added to the root
    power=0.125, # Power of the mean square: 1/2 for Adam's root, 0 for momentum
    **kwargs):
    """Divide the average gradient by a power of the average square
    (Chen et al. 2018, https://arxiv.org/abs/1806.06763, alg. 1)."""
    root = sqr_avg.sqrt().add_(eps)
    quick = isinstance(power, float) and power == 0.125 # three roots instead of a library call
    return {'update': grad_avg / (root.sqrt().sqrt() if quick else root.pow(2*power))}


@stepper
def clip_lr_by_rms(p,
    lr, # Learning rate
    sqr_avg, # Mean of squared gradients, debiased
    eps=1e-6, # Least root
    **kwargs):
    """Lower `lr` of a tensor whose gradient is large compared to its mean square, for this step
    (Wortsman et al. 2023, https://arxiv.org/abs/2304.13013, alg. 2)."""
    sqr = at_least_float32(p.grad.data).pow(2) / at_least_float32(sqr_avg).clamp(min=eps**2)
    return once(lr=lr / sqr.mean().sqrt().clamp(min=1))


@stepper
def mars_grad(p,
    mom, # Coefficient of past gradients, 0 to 1
    grad_diff, # This step's difference of gradients
    gamma=0.025, # Weight of the added difference
    **kwargs):
    """Reduce the variance of the gradient and clip its norm at 1, for this step
    (Yuan et al. 2024, https://arxiv.org/abs/2411.10438)."""
    grad = p.grad.data.add(grad_diff, alpha=gamma * mom/(1-mom))
    p.grad = (grad / norm(grad).clamp(min=1)).to(grad.dtype)


__getattr__ = old_names('steppers')
