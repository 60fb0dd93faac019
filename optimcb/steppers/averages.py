"""Weights that are averaged while others are trained: means of the weights, and schedule-free steps.

Each is a part that goes with any rule. `Optimizer.eval` puts the averages into the model,
`Optimizer.train` takes them out.
"""
import torch

from optimcb._renamed import old_names
from optimcb.composition.results import once
from optimcb.composition.roles import part
from optimcb.composition.traits import stepper, weights_by
from optimcb.steppers.lookahead import SLOW
from optimcb.steppers.norms import at_least_float32

__all__ = ['ema_weights', 'swa_weights', 'schedule_free_warmup', 'schedule_free_weight',
           'schedule_free_start', 'schedule_free_step']

FREE = 'average that steps without a schedule work with' # which `schedule_free` is


# Means of the weights

def _is_due(count, start, every): return count > start and count % every == 0


def _moved(avg, p, share):
    """Move `avg` a share of the way to the weights. It starts from them, in float32 at least"""
    return at_least_float32(p.data).clone() if avg is None else avg.lerp_(at_least_float32(p.data), share)


@stepper
@part('last', against=FREE)
@weights_by(lambda p, ema_avg: ema_avg)
def ema_weights(p,
    ema_mom=0.999, # Coefficient of the past, 0 to 1
    ema_start=0, # Steps before the first weights that are averaged
    ema_every=1, # Average the weights of every so many steps, at least 1
    ema_count=0, # State: steps done
    ema_avg=None, # State: the average
    **kwargs):
    """Exponentially weighted mean of the weights, in `ema_avg`
    (Polyak & Juditsky 1992; Tarvainen & Valpola 2017, https://arxiv.org/abs/1703.01780).

    It starts from the weights of the first step that counts, as `torch.optim.swa_utils` has it, so nothing
    is to be debiased."""
    count = ema_count + 1
    if not _is_due(count, ema_start, ema_every): return {'ema_count': count}
    return {'ema_count': count, 'ema_avg': _moved(ema_avg, p, 1 - ema_mom)}


@stepper
@part('last', against=FREE)
@weights_by(lambda p, swa_avg: swa_avg)
def swa_weights(p,
    swa_start=0, # Steps before the first weights that are averaged
    swa_every=1, # Average the weights of every so many steps, at least 1
    swa_count=0, # State: steps done
    swa_number=0, # State: weights averaged
    swa_avg=None, # State: the mean
    **kwargs):
    """Mean of the weights of some steps, in `swa_avg`
    (Izmailov et al. 2018, https://arxiv.org/abs/1803.05407, alg. 1)."""
    count = swa_count + 1
    if not _is_due(count, swa_start, swa_every): return {'swa_count': count}
    return {'swa_count': count, 'swa_number': swa_number + 1,
            'swa_avg': _moved(swa_avg, p, 1 / (swa_number+1))}


# Schedule-free

FREE_MOM = 0.9 # how near to the average gradients are taken


@stepper
@part('first')
def schedule_free_warmup(p,
    lr, # Learning rate
    warm_steps=0, # Steps in which `lr` grows to what it is
    free_count=None, # State: steps done
    **kwargs):
    """Warm `lr` up as schedule-free does, for this step
    (Defazio et al. 2024, https://arxiv.org/abs/2405.15682, alg. 1)."""
    if (free_count or 0) < warm_steps: return once(lr=lr * ((free_count or 0)+1) / warm_steps)


@stepper
@part('first')
def schedule_free_weight(p,
    lr, # Learning rate
    lr_power=2., # Power of the largest `lr` so far in the weight of a step
    step_power=0., # Power of the number of the step in its weight
    free_count=0, # State: steps done
    free_lr=0., # State: the largest `lr` so far
    free_sum=0., # State: sum of the steps' weights
    **kwargs):
    """Work out the share of this step in the average of all, in `free_share`
    (Defazio et al. 2024, https://arxiv.org/abs/2405.15682, sec. 4, and code)."""
    count, top = free_count + 1, max(lr.item() if isinstance(lr, torch.Tensor) else lr, free_lr)
    weight = count**step_power * top**lr_power
    total = free_sum + weight
    return {'free_count': count, 'free_lr': top, 'free_sum': total,
            'free_share': weight/total if total else 0.}


@stepper
@part('first', FREE)
def schedule_free_start(p,
    free_mom=FREE_MOM, # How near to the average gradients are taken (β), more than 0 to 1
    **kwargs):
    """Keep the weights where the gradient was taken, in `free_y`, for this step; comes before they change
    (Defazio et al. 2024, alg. 1).

    Raises `ValueError` for a `free_mom` of 0, which would forget the average."""
    if not free_mom > 0:
        raise ValueError("schedule-free works its average out of the weights, which takes a momentum of "
                         f"more than 0, but it is {free_mom}.")
    return once(free_y=p.data.clone())


def _free_average(p, free_z, free_y_mom): return p + (1 - 1/free_y_mom)*(free_z - p)


@stepper
@part('last', SLOW)
@weights_by(_free_average)
def schedule_free_step(p,
    free_y, # Where the gradient was taken
    free_share, # State: share of this step in the average
    free_mom=FREE_MOM, # How near to the average gradients are taken (β), more than 0 to 1
    free_z=None, # State: the weights that make the rule's steps
    free_y_mom=None, # State: `free_mom` of the step before
    **kwargs):
    """Let `free_z` do the rule's step, and the weights be between it and its average
    (Defazio et al. 2024, https://arxiv.org/abs/2405.15682, eq. 3-5).

    The average is not kept, but worked out: in training, the weights are the paper's y."""
    z = free_y.clone() if free_z is None else free_z
    average = _free_average(free_y, z, free_mom if free_y_mom is None else free_y_mom)
    z.add_(p.data - free_y)
    average = average.lerp(z, free_share)
    p.data.copy_(z.lerp(average, free_mom))
    return {'free_z': z, 'free_y_mom': free_mom}


__getattr__ = old_names('steppers')
