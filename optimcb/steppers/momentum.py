"""The mathematics of rules based on signs, momentum, averages of weights, norms, or a given curvature.

Each computes an `update` for `apply_update`. If a sum already includes the learning rate, `whole_step` comes
before `apply_update`.
"""
import math

import torch

from optimcb.composition.results import once
from optimcb.composition.roles import of_directions, of_signs, part
from optimcb.composition.traits import stepper
from optimcb.steppers.norms import norm, rms
from optimcb.steppers.sgd import descent_direction
from optimcb.steppers.shapes import is_matrix

__all__ = ['sign_update', 'mixed_update', 'rms_lr', 'mean_of_avgs', 'whole_step', 'rprop_update', 'asgd_lr',
           'average_weights', 'keep_start', 'eps_in_lr', 'dual_sums', 'over_cube_root', 'dual_update',
           'norm_ratio', 'shrink_by_lr', 'keep_bound', 'bound_norm', 'newton_update']


# Signs and mixtures

@stepper
@of_signs
def sign_update(p,
    update=None, # This step's update, if any
    grad_avg=None, # State: average of gradients, if any
    **kwargs):
    """Take the sign of the update, or else of the average gradient, or else of the gradient
    (Bernstein et al. 2018, https://arxiv.org/abs/1802.04434, alg. 1)."""
    return {'update': descent_direction(p, grad_avg, update).sign()}


@stepper
def mixed_update(p,
    nu, # Weight of the average, 0 to 1; the newest gradient has the rest
    grad_avg=None, # State: mean of gradients
    **kwargs):
    "Mix the newest gradient with the average (Ma & Yarats 2019, https://arxiv.org/abs/1810.06801, eq. 4)."
    new = (1-nu) * p.grad.data
    return {'update': new if grad_avg is None else new + nu*grad_avg}


@stepper
@part('first')
def rms_lr(p,
    lr, # Learning rate
    wd=0., # Weight decay
    **kwargs):
    """Multiply `lr` by the root mean square of the tensor, for this step
    (Su 2023, https://github.com/bojone/tiger).

    Biases and scales, tensors of one dimension, have half of `lr`, and no decay. A tensor of zeros stays
    as it is. Comes before the decay."""
    return once(lr=lr * rms(p.data)) if is_matrix(p) else once(lr=0.5*lr, wd=0.)


@stepper
def mean_of_avgs(p,
    grad_avg, # State: sum of gradients
    slow_avg, # State: sum of gradients with a longer memory
    **kwargs):
    """Take the mean of the gradient, its sum, and a slow sum
    (Lucas et al. 2019, https://arxiv.org/abs/1804.00325, eq. 3)."""
    return {'update': (p.grad.data + grad_avg + slow_avg) / 3}


@stepper
def whole_step(p,
    lr, # Learning rate, included in the update
    **kwargs):
    "Set `lr` to 1, for this step, as the update includes it already."
    return once(lr=1.)


# Step sizes per element, and averaged weights

@stepper
@of_signs
def rprop_update(p,
    lr, # Initial step size
    eta_minus=0.5, # Factor of a step size after the gradient has changed its sign
    eta_plus=1.2, # Factor of a step size after the gradient has kept its sign
    min_step=1e-6, # Smallest step size
    max_step=50., # Largest step size
    prev_grad=None, # State: the previous gradient, 0 after a change of sign
    step_size=None, # State: the step size of each element
    **kwargs):
    """Step along the gradient's sign, with a step size per element
    (Riedmiller & Braun 1993; as in torch, without backtracking)."""
    g = p.grad.data
    if step_size is None: prev_grad, step_size = torch.zeros_like(g), torch.full_like(g, lr)
    agrees = g*prev_grad
    smaller = torch.where(agrees < 0, step_size*eta_minus, step_size)
    step_size = torch.where(agrees > 0, step_size*eta_plus, smaller).clamp(min_step, max_step)
    g = torch.where(agrees < 0, 0., g)
    return {'prev_grad': g, 'step_size': step_size, 'update': g.sign()*step_size}


@stepper
def asgd_lr(p,
    lr, # Learning rate of the first step
    step, # State: steps done
    lambd=1e-4, # Decay of the weights, and of `lr`
    power=0.75, # Power with which `lr` falls
    **kwargs):
    "Let `lr` fall as torch's `eta`, for this step (Bottou 2010; Polyak & Juditsky 1992)."
    return once(lr=lr / (1 + lambd*lr*(step-1))**power)


@stepper
def average_weights(p,
    step, # State: steps done
    t0=1e6, # Number of steps before averaging starts
    ax=None, # State: the average
    **kwargs):
    """Average the weights since step `t0`, in `ax`, which until then is a copy; comes last
    (Polyak & Juditsky 1992, https://doi.org/10.1137/0330046)."""
    mu = 1 / max(1, step-1-t0)
    return {'ax': p.data.clone() if ax is None or mu == 1 else ax + mu*(p.data - ax)}


# Dual averaging: every step starts again from the initial weights

@stepper
def keep_start(p,
    p_start=None, # State: the weights before the first step
    **kwargs):
    "Copy the weights before the first step, in `p_start`; comes first."
    if p_start is None: return {'p_start': p.data.clone()}


@stepper
def eps_in_lr(p,
    lr, # Learning rate
    eps, # Added to it
    **kwargs):
    """Add `eps` to `lr`, unless `lr` is 0, for this step
    (the code of Defazio & Jelassi 2021, https://github.com/facebookresearch/madgrad)."""
    return once(lr=lr + eps*(lr != 0))


@stepper
def dual_sums(p,
    lr, # Learning rate
    step, # State: steps done
    grad_sum=None, # State: the sum of gradients
    sqr_sum=None, # State: the sum of their squares
    **kwargs):
    """Sum gradients and their squares, weighted by `lr` times the root of the step
    (Defazio & Jelassi 2021, https://arxiv.org/abs/2101.11075, alg. 1)."""
    g, weight = p.grad.data, lr * math.sqrt(step)
    if grad_sum is None: grad_sum, sqr_sum = torch.zeros_like(g), torch.zeros_like(g)
    return {'grad_sum': grad_sum.add_(g, alpha=weight), 'sqr_sum': sqr_sum.addcmul_(g, g, value=weight)}


@stepper
def over_cube_root(p,
    grad_sum, # State: the sum of gradients
    sqr_sum, # State: the sum of their squares
    eps=1e-6, # Added to the root
    **kwargs):
    """Divide the sum of the gradients by the cube root of the sum of their squares
    (Defazio & Jelassi 2021, https://arxiv.org/abs/2101.11075, alg. 1)."""
    root = sqr_sum.pow(1/3) + eps
    return {'update': torch.where(root == 0, 0., grad_sum / root)}


@stepper
def dual_update(p,
    mom, # Weight of the current parameter value, 0 to 1
    update, # Preconditioned sum of gradients
    p_start, # State: the weights before the first step
    **kwargs):
    """Update from the weights towards the initial weights minus `update`, for `whole_step`
    (Defazio & Jelassi 2021, https://arxiv.org/abs/2101.11075, alg. 1)."""
    return {'update': (1-mom) * (p.data - p_start + update)}


# Norms

@stepper
@of_directions
def norm_ratio(p, **kwargs):
    """Scale the gradient to the norm of the tensor, unless either norm is 0
    (Bernstein et al. 2020, https://arxiv.org/abs/2002.03432, alg. 1)."""
    p_norm, g_norm = norm(p.data), norm(p.grad.data)
    return {'update': p.grad.data * torch.where((p_norm > 0) & (g_norm > 0), p_norm/g_norm, 1.)}


@stepper
def shrink_by_lr(p,
    lr, # Learning rate
    **kwargs):
    """Divide the weights, and for this step `lr`, by `sqrt(1 + lr**2)`
    (Bernstein et al. 2020, https://arxiv.org/abs/2002.03432, alg. 1)."""
    shrink = (1 + lr*lr)**-0.5
    p.data.mul_(shrink)
    return once(lr=lr*shrink)


@stepper
def keep_bound(p,
    p_bound=2., # Largest norm, as a multiple of the first
    norm_bound=None, # State: largest norm
    **kwargs):
    "Keep `p_bound` times the initial norm, in `norm_bound`; comes first."
    if norm_bound is None: return {'norm_bound': p_bound * norm(p.data)}


@stepper
def bound_norm(p,
    norm_bound, # State: largest norm
    **kwargs):
    """Scale a tensor down to the norm `norm_bound` if it is larger; comes last
    (the code of Bernstein et al. 2020, https://github.com/jxbz/fromage)."""
    p_norm = norm(p.data)
    p.data.mul_(torch.where(p_norm > norm_bound, norm_bound/p_norm, 1.))


# A given curvature

@stepper
def newton_update(p,
    grad_avg, # State: mean of gradients
    rho=0.04, # Factor of the curvature in the divisor: smaller values clip more
    eps=1e-12, # Smallest divisor
    sqr_mom=0.99, # Coefficient of past values in `hess_avg`, 0 to 1, for `update_hessian`
    hess_avg=None, # State: mean of the estimates of the Hessian's diagonal, from `update_hessian`
    **kwargs):
    """Divide the average gradient by the curvature; clip to 1 where that is small, negative or unknown
    (Liu et al. 2024, https://arxiv.org/abs/2305.14342, alg. 3)."""
    if hess_avg is None: hess_avg = torch.zeros_like(grad_avg)
    return {'hess_avg': hess_avg, 'update': (grad_avg / (rho*hess_avg).clamp(min=eps)).clamp(-1, 1)}
