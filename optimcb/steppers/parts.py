"""The mathematics of parts for any rule, which change gradients, updates, weights or whole steps.

`Adam.wrap(clip_norm, cautious)` inserts them at their places.
"""
from numbers import Real

import torch

from optimcb._compat.renamed import old_names
from optimcb.composition.calls import by_torch
from optimcb.composition.results import once, stop
from optimcb.composition.roles import DECAY, part
from optimcb.composition.traits import stepper
from optimcb.steppers.moving_average import exp_avg
from optimcb.steppers.norms import at_least_float32, norm, rms
from optimcb.steppers.shapes import is_matrix

__all__ = ['accumulate', 'add_noise', 'agc', 'cautious', 'centralize', 'clip_norm', 'clip_tensor_norm',
           'clip_update', 'clip_update_norm', 'clip_update_rms', 'clip_value', 'decay_toward', 'decay_update',
           'full_decay', 'grokfast', 'maximize', 'skip_nonfinite', 'zero_nonfinite']


# Whole steps

@stepper(needs_dense_grad=True)
@part('gate', 'gradient accumulation')
def accumulate(p,
    accum=4, # Number of gradients per step
    accum_sum=None, # State: sum of the gradients since the last step, in float32 at least
    accum_count=0, # State: number of accumulated gradients
    **kwargs):
    """Accumulate `accum` gradients, then step by their mean.

    In the calls of `step` between, nothing else changes, not even counts. Each parameter counts its own
    gradients, which must be zeroed after each call. Sparse gradients become dense, as later ones may have
    other rows."""
    if accum_count + 1 < accum:
        grad = at_least_float32(p.grad.data)
        return stop(accum_sum=grad.clone() if accum_count == 0 else accum_sum.add_(grad),
                    accum_count=accum_count + 1)
    if accum_count: p.grad = ((accum_sum + p.grad.data) / (accum_count + 1)).to(p.grad.dtype)
    return {'accum_count': 0}


@stepper(skips_nonfinite=True)
@part('gate', 'way with gradients that are not finite')
def skip_nonfinite(p, **kwargs):
    """Skip the step of all parameters if any gradient is infinite or NaN; not even counts change.

    On a GPU this doesn't synchronize: the kernels decide."""


# Gradients, for this step

@stepper(flips_grad=True)
@part('first')
def maximize(p,
    maximize=True, # Maximize? Groups with False minimize
    **kwargs):
    """Maximize the objective, like `maximize=True` of `torch.optim`: later steppers see the negative
    gradient."""
    if maximize: p.grad = -p.grad.data


@stepper
@part('gradient', 'way with gradients that are not finite')
def zero_nonfinite(p, **kwargs):
    "Replace infinite and NaN elements of a gradient by 0."
    p.grad = torch.where(torch.isfinite(p.grad.data), p.grad.data, 0.)


@stepper
@part('gradient', scales='elements')
def clip_value(p,
    max_grad=1., # Largest magnitude of an element
    **kwargs):
    "Clip each element of a gradient to `max_grad`, as in `torch.nn.utils.clip_grad_value_`."
    p.grad = p.grad.data.clamp(-max_grad, max_grad)


def _shorter(x, length, most): return x * (most / (length + 1e-6)).clamp(max=1.).to(x.dtype)


@stepper
@part('gradient', scales='tensors')
def clip_tensor_norm(p,
    max_tensor_norm=1., # Largest norm of a tensor
    **kwargs):
    "Clip the norm of each gradient to `max_tensor_norm`, separately for each tensor."
    p.grad = _shorter(p.grad.data, norm(p.grad.data), max_tensor_norm)


@stepper
@part('gradient', scales='tensors')
def clip_norm(p,
    max_norm=1., # Largest norm of all gradients together
    **kwargs):
    """Clip the norm of all gradients together to `max_norm`, as in `torch.nn.utils.clip_grad_norm_`.

    (Pascanu et al. 2013, https://arxiv.org/abs/1211.5063, alg. 1.)"""
    total = yield at_least_float32(p.grad.data).pow(2).sum()
    p.grad = _shorter(p.grad.data, total**0.5, max_norm)


def _unit_norm(x):
    "The norm of each row of a matrix, of each filter of a convolution, or of a vector"
    if not is_matrix(x): return norm(x)
    return torch.linalg.vector_norm(at_least_float32(x), dim=tuple(range(1, x.ndim)), keepdim=True)


@by_torch(batched=True)
def clipped_units(
    grad, # A gradient
    p, # Its weights
    share, # Largest norm of a unit's gradient, relative to that of its weights
    eps # Smallest norm of the weights
):
    """Clip the norm of each unit's gradient.

    A unit is a row of a matrix, a filter of a convolution, or a whole tensor with fewer dimensions."""
    most, norm = _unit_norm(p).clamp(min=eps) * share, _unit_norm(grad)
    return torch.where(norm > most, grad * (most / norm.clamp(min=1e-6)), grad).to(grad.dtype)


@stepper
@part('gradient', scales='elements')
def agc(p,
    agc_clip=0.01, # Largest norm, relative to that of the weights
    agc_eps=1e-3, # Smallest norm of the weights
    **kwargs):
    """Clip the norm of each unit's gradient relative to that of its weights (adaptive gradient clipping)
    (Brock et al. 2021, https://arxiv.org/abs/2102.06171, eq. 3)."""
    p.grad = clipped_units(p.grad.data, p.data, agc_clip, agc_eps)


@by_torch(batched=True)
def centered_units(
    grad # A gradient
):
    """A gradient without the mean of each row of a matrix, of each filter of a convolution; a tensor with
    fewer dimensions stays as it is."""
    if not is_matrix(grad): return grad.clone()
    mean = at_least_float32(grad).mean(dim=tuple(range(1, grad.ndim)), keepdim=True)
    return (grad - mean).to(grad.dtype)


@stepper
@part('gradient')
def centralize(p, **kwargs):
    "Subtract its mean from each unit's gradient (Yong et al. 2020, https://arxiv.org/abs/2004.01461, eq. 1)."
    p.grad = centered_units(p.grad.data)


@stepper
@part('gradient')
def grokfast(p,
    grok_mom=0.98, # Coefficient of past gradients, 0 to 1
    grok_gain=2., # Weight of their mean
    grok_avg=None, # State: mean of the gradients, which starts from the first one
    **kwargs):
    """Add the weighted mean of past gradients, their slow component, to a gradient
    (Lee et al. 2024, https://arxiv.org/abs/2405.20233, its EMA filter)."""
    grok_avg = p.grad.data.clone() if grok_avg is None else exp_avg(grok_avg, p.grad.data, grok_mom)
    p.grad = p.grad.data.add(grok_avg, alpha=grok_gain)
    return {'grok_avg': grok_avg}


@stepper(draws=True)
@part('gradient')
def add_noise(p,
    noise=0.01, # Variance of the noise in the first step
    noise_decay=0.55, # Power with which the variance falls
    noise_step=0, # State: steps done
    **kwargs):
    """Add Gaussian noise of variance `noise / (1 + t)**noise_decay` to a gradient
    (Neelakantan et al. 2015, https://arxiv.org/abs/1511.06807, sec. 3).

    The noise comes from torch's generator, in the order of the parameters, so the eager engine runs the whole
    composition."""
    p.grad = p.grad.data.add(torch.randn_like(p.grad.data),
                             alpha=(noise / (1 + noise_step)**noise_decay)**0.5)
    return {'noise_step': noise_step + 1}


# Decay

@stepper
@part('decay', DECAY)
def full_decay(p,
    lr, # Learning rate
    wd=0., # Weight decay per step, relative to the weight
    max_lr=0., # Largest learning rate of the schedule; 0: the decay has no schedule
    do_wd=True, # State: is this parameter decayed?
    **kwargs):
    """Decay the weights by `wd`, independent of the learning rate, or by `wd * lr/max_lr`.

    The latter follows the schedule of `lr` (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101,
    alg. 2 line 12, whose schedule multiplier is `lr/max_lr`)."""
    if do_wd and wd != 0: p.data.mul_(1 - (wd*lr/max_lr if max_lr != 0 else wd))


@stepper
@part('penalty', DECAY)
def decay_toward(p,
    wd=0., # Coefficient of the penalty `wd/2 * (p - anchor)**2`
    do_wd=True, # State: is this parameter decayed?
    anchor=None, # State: the weights to decay toward; default: those before the first step
    **kwargs):
    """Add the gradient of an L2 penalty on the distance from `anchor` to the gradient
    (L2-SP; Li et al. 2018, https://arxiv.org/abs/1802.01483, sec. 3.1).

    To use other weights than the initial ones, put them into the state before the first step:
    `opt.state[p]['anchor'] = …`."""
    if not do_wd: return None
    if anchor is None: anchor = p.data.clone()
    if wd != 0: p.grad = p.grad.data.add(p.data - anchor, alpha=wd)
    return {'anchor': anchor}


@stepper
@part('update', DECAY)
def decay_update(p,
    update, # This step's update
    wd=0., # Weight decay
    do_wd=True, # State: is this parameter decayed?
    **kwargs):
    """Add the decayed weights to the update, before a trust ratio or an average
    (You et al. 2020, https://arxiv.org/abs/1904.00962, alg. 2).

    NovoGrad decays in this way, too (Ginsburg et al. 2019, https://arxiv.org/abs/1905.11286, alg. 1)."""
    if do_wd and wd != 0: return {'update': update.add(p.data, alpha=wd)}


# Updates

@stepper
@part('update')
def cautious(p,
    update, # This step's update
    **kwargs):
    """Zero the elements of an update that disagree in sign with the gradient, and scale up the rest
    (Liang et al. 2024, https://arxiv.org/abs/2411.16085, alg. 1; mask as in code)."""
    mask = (update * p.grad.data > 0).to(torch.promote_types(update.dtype, torch.float32))
    return {'update': update * (mask / mask.mean().clamp(min=1e-3)).to(update.dtype)}


@stepper
@part('update')
def clip_update(p,
    update, # This step's update
    max_update=1., # Largest magnitude of an element
    **kwargs):
    "Clip each element of an update to `max_update`."
    return {'update': update.clamp(-max_update, max_update)}


@stepper
@part('update')
def clip_update_norm(p,
    update, # This step's update
    max_update_norm=1., # Largest norm of a tensor
    **kwargs):
    "Clip the norm of each update to `max_update_norm`."
    return {'update': _shorter(update, norm(update), max_update_norm)}


@stepper
@part('update')
def clip_update_rms(p,
    update, # This step's update
    max_update_rms=1., # Largest root mean square
    **kwargs):
    """Clip the root mean square of each update to `max_update_rms`
    (Shazeer & Stern 2018, https://arxiv.org/abs/1804.04235, sec. 6)."""
    return {'update': update / (rms(update) / max_update_rms).clamp(min=1.).to(update.dtype)}


# An update from a user's own step

@stepper
def note_weights(p, **kwargs):
    "Keep the weights in `before`, for this step; comes before steppers that change them."
    return once(before=p.data.clone())


@stepper
def undo_step(p,
    lr, # Learning rate
    before, # The weights before the step
    **kwargs):
    """Undo all changes of the weights since `note_weights`, and make them the `update`, divided by `lr`."""
    update = (before - p.data) / ((lr or 1.) if isinstance(lr, Real) else torch.where(lr != 0, lr, 1.))
    p.data.copy_(before)
    return {'update': update}


__getattr__ = old_names('steppers')
