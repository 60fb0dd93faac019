"Bounds on learning rates per element: AdaBound and AdaMod."
import torch

from optimcb.composition.results import once
from optimcb.composition.traits import stepper
from optimcb.steppers.moving_average import exp_avg
from optimcb.steppers.norms import at_least_float32

__all__ = ['rms_rate', 'bound_rate', 'average_rate', 'bound_by_average', 'rate_update']


@stepper
def rms_rate(p,
    sqr_avg, # State: mean of squared gradients
    eps=1e-8, # Added to the root
    **kwargs):
    """Compute Adam's factor of `lr` for each element, in `rate`, for this step
    (Luo et al. 2019, https://arxiv.org/abs/1902.09843, alg. 2)."""
    return once(rate=1 / at_least_float32(sqr_avg).sqrt().add_(eps))


@stepper
def bound_rate(p,
    step, # State: steps done
    rate, # Factor of `lr`
    final_rate=100., # Final factor of `lr`: SGD's learning rate divided by `lr`
    gamma=1e-3, # Speed at which the bounds converge
    **kwargs):
    """Clip `rate` between bounds that converge to `final_rate`, for this step
    (Luo et al. 2019, https://arxiv.org/abs/1902.09843)."""
    return once(rate=rate.clamp(final_rate * (1 - 1/(gamma*step + 1)), final_rate * (1 + 1/(gamma*step))))


@stepper
def average_rate(p,
    lr, # Learning rate
    rate, # Factor of `lr`
    rate_mom=0.999, # Coefficient of past learning rates, 0 to 1
    rate_avg=None, # State: the mean
    **kwargs):
    """Average each element's learning rate, `lr*rate`, in `rate_avg`
    (Ding et al. 2019, https://arxiv.org/abs/1910.12249, alg. 1)."""
    return {'rate_avg': exp_avg(rate_avg, rate * lr, rate_mom)}


@stepper
def bound_by_average(p,
    lr, # Learning rate
    rate, # Factor of `lr`
    rate_avg, # State: mean of learning rates
    **kwargs):
    """Bound the learning rate by its mean, by lowering `rate`, for this step
    (Ding et al. 2019, https://arxiv.org/abs/1910.12249, alg. 1)."""
    return once(rate=torch.fmin(rate, rate_avg / lr)) # avoids NaN from 0/0 if `lr` has been 0 so far


@stepper
def rate_update(p,
    rate, # Factor of `lr`
    grad_avg, # State: mean of gradients
    **kwargs):
    """Multiply each element of the average gradient by its own rate
    (Luo et al. 2019, https://arxiv.org/abs/1902.09843, alg. 2)."""
    return {'update': rate * grad_avg}
