"Learning rates per tensor: LARC, LARS, LAMB."
import torch

from optimcb.composition.results import once
from optimcb.composition.roles import part
from optimcb.composition.traits import stepper
from optimcb.steppers.adam import debias_grad_avg, debias_sqr_avg, rms_update
from optimcb.steppers.norms import norm, rms
from optimcb.steppers.sgd import apply_update, descent_direction

__all__ = ['larc_layer_lr', 'larc_update', 'larc_step', 'trust_ratio', 'lamb_step']


@stepper
@part(kind='trust ratio')
def larc_layer_lr(p,
    lr, # Learning rate
    trust_coeff=0.02, # Size of a step relative to the norm of the tensor
    wd=0., # Weight decay, which makes the step longer
    eps=1e-8, # Added to the norm of the gradient
    clip=True, # Limit the learning rate to `lr` (LARC)? Else LARS
    **kwargs):
    """Compute a learning rate proportional to the tensor's norm over its gradient's, in `local_lr`.

    It lasts for this step. A tensor of zeros stays unchanged
    (You et al. 2017, https://arxiv.org/abs/1708.03888, eq. 6)."""
    p_norm, g_norm = norm(p.data), norm(p.grad.data)
    local_lr = lr*trust_coeff * p_norm / (g_norm + p_norm*wd + eps)
    return once(local_lr=torch.where(local_lr < lr, local_lr, lr) if clip else local_lr)


@stepper
def larc_update(p,
    lr, # Learning rate, which `local_lr` replaces
    local_lr, # This step's learning rate for this tensor
    grad_avg=None, # State: average of gradients, if any
    **kwargs):
    "Use the gradient, or its average, as an update for a step by `local_lr`."
    return once(lr=local_lr, update=descent_direction(p, grad_avg).clone())


@stepper(unfused=(larc_update, apply_update))
def larc_step(p,
    local_lr, # This step's learning rate for this tensor
    grad_avg=None, # State: average of gradients, if any
    **kwargs):
    "Step against the gradient, or its average, by `local_lr`."
    apply_update(p, local_lr, descent_direction(p, grad_avg))


@stepper
@part('length', 'trust ratio')
def trust_ratio(p,
    lr, # Learning rate
    update, # This step's update
    max_trust=10., # Largest ratio
    **kwargs):
    """Multiply `lr` by the norm of the tensor over that of its update, for this step
    (You et al. 2020, https://arxiv.org/abs/1904.00962, alg. 2)."""
    p_rms, u_rms = rms(p.data), rms(update)
    ratio = p_rms / u_rms
    scaled = torch.where(ratio > max_trust, lr*max_trust, lr*ratio)
    return once(lr=torch.where((p_rms == 0) | (u_rms == 0), lr, scaled))


@stepper(unfused=(debias_grad_avg, debias_sqr_avg, rms_update, trust_ratio, apply_update))
def lamb_step(p,
    lr, # Learning rate
    mom, # Coefficient of past values in `grad_avg`, 0 to 1
    step, # State: steps done
    sqr_mom, # Coefficient of past values in `sqr_avg`, 0 to 1
    grad_avg, # State: mean of gradients
    sqr_avg, # State: mean of squared gradients
    eps=1e-6, # Added to the root
    **kwargs):
    """Step like Adam, scaled by a trust ratio (You et al. 2020, https://arxiv.org/abs/1904.00962, alg. 2).

    Fuses `debias_grad_avg`, `debias_sqr_avg`, `rms_update`, `trust_ratio` and `apply_update` in one call."""
    debiased = debias_grad_avg(p, mom, step, grad_avg) | debias_sqr_avg(p, sqr_mom, step, sqr_avg)
    update = rms_update(p, eps=eps, **debiased)['update']
    apply_update(p, trust_ratio(p, lr, update)['lr'], update)
