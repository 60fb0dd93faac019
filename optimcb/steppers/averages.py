"""Averages of the weights during training: EMA, SWA, and schedule-free steps.

Each is a part for any algorithm. `Optimizer.eval` puts the averages into the model, `train` puts the
trained weights back.
"""
import torch

from optimcb._compat.renamed import old_names
from optimcb.composition.results import once
from optimcb.composition.roles import part
from optimcb.composition.traits import stepper, weights_by
from optimcb.steppers.lookahead import SLOW
from optimcb.steppers.norms import at_least_float32

__all__ = ['ema_weights', 'swa_weights', 'schedule_free_warmup', 'schedule_free_weight',
           'schedule_free_start', 'schedule_free_step']

FREE = 'average that steps without a schedule work with' # the kind of `schedule_free`


# Means of the weights

def _is_due(count, start, every): return count > start and count % every == 0


def _moved(avg, p, share):
    """Move `avg` a fraction of the way to the weights. It starts as a copy, in float32 at least"""
    return at_least_float32(p.data).clone() if avg is None else avg.lerp_(at_least_float32(p.data), share)


@stepper
@part('last', against=FREE)
@weights_by(lambda p, ema_avg: ema_avg)
def ema_weights(p,
    ema_mom=0.999, # Coefficient of past values, 0 to 1
    ema_start=0, # Number of steps before averaging starts
    ema_every=1, # Number of steps between averaged weights, at least 1
    ema_count=0, # State: steps done
    ema_avg=None, # State: the average
    **kwargs):
    """Keep an exponential moving average of the weights, in `ema_avg`
    (Polyak & Juditsky 1992; Tarvainen & Valpola 2017, https://arxiv.org/abs/1703.01780).

    It starts from the weights of the first averaged step, as in `torch.optim.swa_utils`, so it needs no
    debiasing."""
    count = ema_count + 1
    if not _is_due(count, ema_start, ema_every): return {'ema_count': count}
    return {'ema_count': count, 'ema_avg': _moved(ema_avg, p, 1 - ema_mom)}


@stepper
@part('last', against=FREE)
@weights_by(lambda p, swa_avg: swa_avg)
def swa_weights(p,
    swa_start=0, # Number of steps before averaging starts
    swa_every=1, # Number of steps between averaged weights, at least 1
    swa_count=0, # State: steps done
    swa_number=0, # State: weights averaged
    swa_avg=None, # State: the mean
    **kwargs):
    """Keep the mean of the weights of selected steps, in `swa_avg`
    (Izmailov et al. 2018, https://arxiv.org/abs/1803.05407, alg. 1)."""
    count = swa_count + 1
    if not _is_due(count, swa_start, swa_every): return {'swa_count': count}
    return {'swa_count': count, 'swa_number': swa_number + 1,
            'swa_avg': _moved(swa_avg, p, 1 / (swa_number+1))}


# Schedule-free

FREE_MOM = 0.9 # how near to the average weights gradients are taken


@stepper
@part('first')
def schedule_free_warmup(p,
    lr, # Learning rate
    warm_steps=0, # Number of steps in which `lr` grows to its full value
    free_count=None, # State: steps done
    **kwargs):
    """Warm `lr` up as in schedule-free training, for this step
    (Defazio et al. 2024, https://arxiv.org/abs/2405.15682, alg. 1)."""
    if (free_count or 0) < warm_steps: return once(lr=lr * ((free_count or 0)+1) / warm_steps)


@stepper
@part('first')
def schedule_free_weight(p,
    lr, # Learning rate
    lr_power=2., # Power of the largest `lr` so far in the weight of a step
    step_power=0., # Power of the step number in the weight of a step
    free_count=0, # State: steps done
    free_lr=0., # State: the largest `lr` so far
    free_sum=0., # State: sum of the steps' weights
    **kwargs):
    """Compute the share of this step in the average of all, in `free_share`
    (Defazio et al. 2024, https://arxiv.org/abs/2405.15682, sec. 4, and code)."""
    count, top = free_count + 1, max(lr.item() if isinstance(lr, torch.Tensor) else lr, free_lr)
    weight = count**step_power * top**lr_power
    total = free_sum + weight
    return {'free_count': count, 'free_lr': top, 'free_sum': total,
            'free_share': weight/total if total else 0.}


@stepper
@part('first', FREE)
def schedule_free_start(p,
    free_mom=FREE_MOM, # How near to the average weights gradients are taken (β), more than 0 to 1
    **kwargs):
    """Keep the weights at which the gradient was taken, in `free_y`, for this step; comes before changes
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
    free_y, # Weights at which the gradient was taken
    free_share, # State: share of this step in the average
    free_mom=FREE_MOM, # How near to the average weights gradients are taken (β), more than 0 to 1
    free_z=None, # State: the weights that the rule steps
    free_y_mom=None, # State: `free_mom` of the previous step
    **kwargs):
    """Apply the rule's step to `free_z`, and set the weights between it and its average
    (Defazio et al. 2024, https://arxiv.org/abs/2405.15682, eq. 3-5).

    The average isn't stored but computed: during training, the weights are the paper's y."""
    z = free_y.clone() if free_z is None else free_z
    average = _free_average(free_y, z, free_mom if free_y_mom is None else free_y_mom)
    z.add_(p.data - free_y)
    average = average.lerp(z, free_share)
    p.data.copy_(z.lerp(average, free_mom))
    return {'free_z': z, 'free_y_mom': free_mom}


__getattr__ = old_names('steppers')
