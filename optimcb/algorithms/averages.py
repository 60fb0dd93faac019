"""Recipes that average the weights.

Validate with the average, between `opt.eval()` and `opt.train()` or in `with opt.averaged():`."""
from optimcb.algorithm import algorithm
from optimcb.composition.stepper import renamed
from optimcb.editing.wrap import wrapped
from optimcb.steppers import *
from optimcb.steppers.lists import decay_of

__all__ = ['ScheduleFreeSGD', 'ScheduleFreeAdamW', 'schedule_free']


def schedule_free(
    mom:str='free_mom' # Name of the hyper-parameter for how near to the average weights gradients are taken
) -> list:
    """List the steppers of schedule-free training, a part for any algorithm without momentum
    (Defazio et al. 2024, https://arxiv.org/abs/2405.15682)."""
    start, step = schedule_free_start, schedule_free_step
    if mom != 'free_mom': start, step = (renamed(f, free_mom=mom) for f in (start, step))
    return [schedule_free_warmup, schedule_free_weight, start, step]


@algorithm
def ScheduleFreeSGD(
    mom=0.9, # How near to the average weights gradients are taken (β), more than 0 to 1
    wd=0., # Weight decay
    warm_steps=0, # Number of steps in which `lr` grows to its full value
    lr_power=2., # Power of the largest `lr` so far in the weight of a step
    step_power=0., # Power of the step number in the weight of a step
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient? Both are the same here
):
    """Schedule-free SGD, with an average of the weights
    (Defazio et al. 2024, https://arxiv.org/abs/2405.15682); needs `eval()` and `train()`."""
    return wrapped([decay_of(decouple_wd), sgd_step], schedule_free('mom'))


@algorithm
def ScheduleFreeAdamW(
    mom=0.9, # How near to the average weights gradients are taken (β1), more than 0 to 1
    sqr_mom=0.999, # Coefficient of past squares (β2), 0 to 1
    eps=1e-8, # Added to the root
    wd=0., # Weight decay, of the weights at which the gradient is taken
    warm_steps=0, # Number of steps in which `lr` grows to its full value
    lr_power=2., # Power of the largest `lr` so far in the weight of a step
    step_power=0., # Power of the step number in the weight of a step
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    """Schedule-free Adam, with an average of the weights
    (Defazio et al. 2024, https://arxiv.org/abs/2405.15682, alg. 1); needs `eval()` and `train()`."""
    rule = [decay_of(decouple_wd), average_sqr_grad, step_stat, debias_sqr_avg, rms_update, apply_update]
    return wrapped(rule, schedule_free('mom'))
