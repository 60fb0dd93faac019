"Lists of steppers that several recipes share."
from functools import partial

import numpy as np

from optimcb.steppers.adam import average_sqr_grad
from optimcb.steppers.second_moments import max_sqr_avg, use_sqr_max
from optimcb.steppers.sgd import (
    average_grad,
    average_update,
    l2_reg,
    lazy_average_grad,
    lazy_average_update,
    weight_decay,
)

mean_grad = partial(average_grad, dampening=True)
LAZY = { # by stepper, its variant that keeps no state for groups without momentum
    average_grad: lazy_average_grad,
    average_update: lazy_average_update}


def decay_of(
    decouple_wd:bool # Decay the weights, or add an L2 penalty to the gradient?
):
    "Return the stepper that decays."
    return weight_decay if decouple_wd else l2_reg


def adam_avgs(
    decouple_wd:bool, # Decay the weights, or add an L2 penalty to the gradient?
    sqr=average_sqr_grad # The second moment
) -> list:
    "List the steppers of decay, first and second moment."
    return [decay_of(decouple_wd), mean_grad, sqr]


def largest(
    amsgrad:bool # Divide by the largest mean square so far?
) -> list:
    "List the steppers that AMSGrad adds to Adam."
    return [max_sqr_avg, use_sqr_max] if amsgrad else []


def momentum(
    average, # Stepper that averages gradients, or updates
    mom # Coefficient of past values: a number, or one per group
) -> list:
    "List the averaging stepper if some group has momentum; the lazy one if another group has none."
    if not np.any(mom): return []
    if np.all(mom): return [average]
    if isinstance(average, partial): return [partial(LAZY[average.func], **average.keywords)]
    return [LAZY[average]]
