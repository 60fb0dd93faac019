"Second moments other than the mean square."
import torch

from optimcb.composition.results import once
from optimcb.composition.traits import stepper

__all__ = ['yogi_sqr_grad', 'start_avgs', 'max_sqr_avg', 'use_sqr_max', 'sum_sqr_grad', 'decay_lr',
           'adadelta_update', 'max_abs_grad', 'adamax_update']


# Other second moments

@stepper
def yogi_sqr_grad(p,
    sqr_mom=0.999, # Coefficient of past values, 0 to 1
    sqr_avg=None, # State: the estimate
    **kwargs):
    "Average squared gradients, with changes of at most the newest square (Zaheer et al. 2018, alg. 2)."
    sqr = p.grad.data.pow(2)
    if sqr_avg is None: sqr_avg = torch.zeros_like(sqr)
    sqr_avg.addcmul_((sqr_avg - sqr).sign(), sqr, value=sqr_mom-1)
    return {'sqr_avg': sqr_avg}


@stepper
def start_avgs(p,
    init_avg=0., # Initial value of both averages; 1e-6 in published code of Yogi
    grad_avg=None, # State: average of gradients
    sqr_avg=None, # State: average of squared gradients
    **kwargs):
    "Initialize both averages with `init_avg`; comes before them."
    if sqr_avg is None and grad_avg is None:
        return {k: torch.full_like(p.grad.data, init_avg) for k in ('grad_avg', 'sqr_avg')}


@stepper
def max_sqr_avg(p,
    sqr_avg, # State: mean of squared gradients
    sqr_max=None, # State: the largest so far
    amsgrad=True, # Groups with False keep none, and use `sqr_avg` instead
    **kwargs):
    """Keep the largest `sqr_avg` so far, in `sqr_max`
    (Reddi et al. 2018, https://arxiv.org/abs/1904.09237, alg. 2)."""
    if not amsgrad: return once(sqr_max=sqr_avg.clone())
    return {'sqr_max': sqr_avg.clone() if sqr_max is None else torch.maximum(sqr_max, sqr_avg)}


@stepper
def use_sqr_max(p,
    sqr_max, # State: the largest `sqr_avg` so far
    **kwargs):
    "Use `sqr_max` as `sqr_avg`, for this step."
    return once(sqr_avg=sqr_max)


@stepper
def sum_sqr_grad(p,
    init_sum=0., # Initial value of the sum
    sqr_avg=None, # State: the sum
    **kwargs):
    "Sum the squared gradients, in `sqr_avg` (Duchi et al. 2011, fig. 1)."
    if sqr_avg is None: sqr_avg = torch.full_like(p.grad.data, init_sum)
    return {'sqr_avg': sqr_avg.addcmul_(p.grad.data, p.grad.data)}


@stepper
def decay_lr(p,
    lr, # Learning rate of the first step
    step, # State: steps done
    lr_decay=0., # Decay of the learning rate per step, at least 0
    **kwargs):
    "Divide `lr` by `1 + (step-1)*lr_decay`, for this step."
    return once(lr=lr / (1 + (step-1)*lr_decay))


@stepper
def adadelta_update(p,
    sqr_mom, # Coefficient of past values, 0 to 1
    sqr_avg, # State: mean of squared gradients
    eps=1e-6, # Added to both means, inside the root
    delta_avg=None, # State: mean of squared updates
    **kwargs):
    """Scale the gradient by the root mean square of past updates over that of gradients
    (Zeiler 2012, https://arxiv.org/abs/1212.5701, alg. 1)."""
    if delta_avg is None: delta_avg = torch.zeros_like(sqr_avg)
    update = (delta_avg + eps).sqrt().div_((sqr_avg + eps).sqrt()).mul_(p.grad.data)
    delta_avg.mul_(sqr_mom).addcmul_(update, update, value=1-sqr_mom)
    return {'delta_avg': delta_avg, 'update': update}


@stepper
def max_abs_grad(p,
    sqr_mom, # Decay of the past, 0 to 1
    eps=1e-8, # Added to the magnitude of the gradient
    grad_max=None, # State: the maximum
    **kwargs):
    "Keep a decaying maximum of the gradient's magnitude, in `grad_max` (Kingma & Ba 2015, alg. 2)."
    if grad_max is None: grad_max = torch.zeros_like(p.grad.data)
    return {'grad_max': torch.maximum(grad_max * sqr_mom, p.grad.data.abs() + eps)}


@stepper
def adamax_update(p,
    grad_avg, # State: mean of gradients
    grad_max, # State: decaying maximum of the gradient's magnitude
    **kwargs):
    "Divide the average gradient by the decaying maximum (Kingma & Ba 2015, alg. 2)."
    return {'update': grad_avg / grad_max}
