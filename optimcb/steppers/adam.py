"Division by a root mean square, bias correction, and the rules of the Adam family."
import math

import torch
import torch.nn.functional as F

from optimcb.composition.results import once
from optimcb.composition.traits import stepper
from optimcb.steppers.moving_average import debias, exp_avg
from optimcb.steppers.sgd import apply_update, descent_direction

__all__ = ['nadam_mom', 'rectification', 'average_sqr_grad', 'rms_update', 'rms_prop_step', 'average_center',
           'center_sqr_avg', 'eps_in_root', 'step_stat', 'debias_grad_avg', 'debias_sqr_avg', 'debias_eps',
           'adam_step', 'nadam_schedule', 'nadam_avg', 'radam_update', 'radam_step', 'qhadam_avgs',
           'qhadam_step']


# Division by a root mean square

def over_rms(p, sqr_avg, eps, grad_avg):
    "Return numerator and denominator of a step that divides by a root mean square"
    return descent_direction(p, grad_avg), sqr_avg.sqrt().add_(eps)


@stepper
def average_sqr_grad(p,
    sqr_mom=0.99, # Coefficient of past values, 0 to 1
    dampening=True, # Weight the square by `1-sqr_mom`, for a mean?
    sqr_avg=None, # State: the average
    **kwargs):
    """Keep the exponential moving average, or sum, of squared gradients, in `sqr_avg`
    (Tieleman & Hinton 2012, lecture 6.5)."""
    if sqr_avg is None: sqr_avg = torch.zeros_like(p.grad.data)
    sqr_avg.mul_(sqr_mom).addcmul_(p.grad.data, p.grad.data, value=1-sqr_mom if dampening else 1.)
    return {'sqr_avg': sqr_avg}


@stepper
def rms_update(p,
    sqr_avg, # State: average of squared gradients
    eps=1e-8, # Added to the root
    grad_avg=None, # State: average of gradients, if any
    **kwargs):
    "Divide the gradient, or its average, by the root of the average square."
    num, denom = over_rms(p, sqr_avg, eps, grad_avg)
    return {'update': num / denom}


@stepper(unfused=(rms_update, apply_update))
def rms_prop_step(p,
    lr, # Learning rate
    sqr_avg, # State: average of squared gradients
    eps=1e-8, # Added to the root
    grad_avg=None, # State: average of gradients, if any
    **kwargs):
    """Step against the gradient, or its average, divided by the root of the average square
    (Tieleman & Hinton 2012, lecture 6.5)."""
    p.data.addcdiv_(*over_rms(p, sqr_avg, eps, grad_avg), value=-lr)


@stepper
def average_center(p,
    sqr_mom, # Coefficient of past values, 0 to 1: that of the squares
    grad_center=None, # State: mean of the gradients
    centered=True, # Groups with False keep no mean
    **kwargs):
    "Average the gradients with the coefficient of the squares, in `grad_center`."
    if not centered: return once(grad_center=torch.zeros_like(p.grad.data))
    return {'grad_center': exp_avg(grad_center, p.grad.data, sqr_mom)}


@stepper
def center_sqr_avg(p,
    sqr_avg, # State: mean of squared gradients
    grad_center, # State: mean of gradients
    **kwargs):
    """Replace `sqr_avg` by the variance of the gradients, for this step
    (Graves 2013, https://arxiv.org/abs/1308.0850, eq. 38-41)."""
    return once(sqr_avg=sqr_avg.addcmul(grad_center, grad_center, value=-1).clamp_(min=0))


@stepper
def eps_in_root(p,
    sqr_avg, # State: average of squared gradients
    eps=1e-8, # Added to the average
    **kwargs):
    "Add `eps` inside the root instead of beside it, for this step."
    return once(sqr_avg=sqr_avg + eps, eps=0.)


# Bias correction and Adam

@stepper
def step_stat(p,
    step=0, # State: steps done
    **kwargs):
    "Count the steps of each parameter, in `step`."
    return {'step': step + 1}


@stepper
def debias_grad_avg(p,
    mom, # Coefficient of past values, 0 to 1
    step, # State: steps done
    grad_avg, # State: mean of gradients
    **kwargs):
    "Correct `grad_avg` for its start from zero, for this step."
    return once(grad_avg=grad_avg / debias(mom, 1-mom, step))


@stepper
def debias_sqr_avg(p,
    sqr_mom, # Coefficient of past values, 0 to 1
    step, # State: steps done
    sqr_avg, # State: mean of squared gradients
    **kwargs):
    "Correct `sqr_avg` for its start from zero, for this step."
    return once(sqr_avg=sqr_avg / debias(sqr_mom, 1-sqr_mom, step))


@stepper
def debias_eps(p,
    sqr_mom, # Coefficient of past values in `sqr_avg`, 0 to 1
    step, # State: steps done
    eps=1e-8, # Added to the root
    **kwargs):
    """Scale `eps` as if it were added to the root before its correction, as in `torch.optim.RAdam`, for this
    step (Kingma & Ba 2015, end of sec. 2)."""
    return once(eps=eps / math.sqrt(debias(sqr_mom, 1-sqr_mom, step)))


@stepper(unfused=(debias_grad_avg, debias_sqr_avg, rms_update, apply_update))
def adam_step(p,
    lr, # Learning rate
    mom, # Coefficient of past values in `grad_avg`, 0 to 1
    step, # State: steps done
    sqr_mom, # Coefficient of past values in `sqr_avg`, 0 to 1
    grad_avg, # State: mean of gradients
    sqr_avg, # State: mean of squared gradients
    eps=1e-5, # Added to the root
    **kwargs):
    """Step like RMSProp with debiased means (Kingma & Ba 2015, https://arxiv.org/abs/1412.6980, alg. 1).

    Fuses `debias_grad_avg`, `debias_sqr_avg`, `rms_update` and `apply_update` in one call."""
    debiased = debias_sqr_avg(p, sqr_mom, step, sqr_avg)['sqr_avg']
    rms_prop_step(p, lr / debias(mom, 1-mom, step), debiased, eps, grad_avg)


# Variants of Adam

def nadam_mom(
    mom, # Momentum that is approached, 0 to 1
    step, # Number of the step
    mom_decay # How fast it is approached
):
    "Return NAdam's momentum for a step (Dozat 2016, sec. 3.2)."
    return mom * (1 - 0.5 * 0.96**(step*mom_decay))


@stepper
def nadam_schedule(p,
    mom, # Momentum that is approached, 0 to 1
    step, # State: steps done
    mom_decay=4e-3, # How fast it is approached
    mom_prod=1., # State: product of the momenta so far
    **kwargs):
    "Keep the product of NAdam's momenta, in `mom_prod`."
    return {'mom_prod': mom_prod * nadam_mom(mom, step, mom_decay)}


@stepper
def nadam_avg(p,
    mom, # Momentum that is approached, 0 to 1
    step, # State: steps done
    mom_decay, # How fast it is approached
    mom_prod, # State: product of the momenta so far
    grad_avg, # State: mean of gradients
    **kwargs):
    """Debias `grad_avg` and look one step ahead with it, for this step
    (Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ, alg. 2)."""
    now, ahead = (nadam_mom(mom, s, mom_decay) for s in (step, step+1))
    return once(grad_avg=(1-now)/(1-mom_prod) * p.grad.data + ahead/(1-mom_prod*ahead) * grad_avg)


def rectification(
    sqr_mom, # Coefficient of past values, 0 to 1
    step # Number of the step
):
    """Return RAdam's correction of the step for the variance of `sqr_avg`, or None while that is too large
    (Liu et al. 2020, alg. 2, from 5 on as in its code)."""
    r_inf = 2/(1-sqr_mom) - 1
    r = r_inf - 2*step*sqr_mom**step/(1-sqr_mom**step)
    return math.sqrt(((r-4)*(r-2)*r_inf) / ((r_inf-4)*(r_inf-2)*r)) if r > 5 else None


def _rectified(p, mom, step, sqr_mom, grad_avg, sqr_avg, eps, beta):
    "Return a rectified step's correction, debiasing, numerator and denominator, which is None at the start"
    scale, debias1 = rectification(sqr_mom, step), debias(mom, 1-mom, step)
    if scale is None: return 1., debias1, grad_avg, None
    num, denom = over_rms(p, debias_sqr_avg(p, sqr_mom, step, sqr_avg)['sqr_avg'], eps, grad_avg)
    return scale, debias1, num, F.softplus(denom, beta) if beta else denom


@stepper
def radam_update(p,
    mom, # Coefficient of past values in `grad_avg`, 0 to 1
    step, # State: steps done
    sqr_mom, # Coefficient of past values in `sqr_avg`, 0 to 1
    grad_avg, # State: mean of gradients
    sqr_avg, # State: mean of squared gradients
    eps=1e-5, # Added to the root
    beta=0., # Sharpness of the softplus of the root (SAdam, https://arxiv.org/abs/1908.00700); 0: none
    **kwargs):
    """Use Adam's rectified update, or that of momentum at the start
    (Liu et al. 2020, https://arxiv.org/abs/1908.03265, alg. 2)."""
    scale, debias1, num, denom = _rectified(p, mom, step, sqr_mom, grad_avg, sqr_avg, eps, beta)
    return {'update': (num if denom is None else num / denom) * (scale/debias1)}


@stepper(unfused=(radam_update, apply_update))
def radam_step(p,
    lr, # Learning rate
    mom, # Coefficient of past values in `grad_avg`, 0 to 1
    step, # State: steps done
    sqr_mom, # Coefficient of past values in `sqr_avg`, 0 to 1
    grad_avg, # State: mean of gradients
    sqr_avg, # State: mean of squared gradients
    eps=1e-5, # Added to the root
    beta=0., # Sharpness of the softplus of the root (SAdam, https://arxiv.org/abs/1908.00700); 0: none
    **kwargs):
    """Make Adam's rectified step, or that of momentum at the start
    (Liu et al. 2020, https://arxiv.org/abs/1908.03265, alg. 2)."""
    scale, debias1, num, denom = _rectified(p, mom, step, sqr_mom, grad_avg, sqr_avg, eps, beta)
    if denom is None: apply_update(p, lr/debias1, num)
    else: p.data.addcdiv_(num, denom, value=-lr*scale/debias1)


@stepper
def qhadam_avgs(p,
    mom, # Coefficient of past values in `grad_avg`, 0 to 1
    sqr_mom, # Coefficient of past values in `sqr_avg`, 0 to 1
    sqr_avg, # State: mean of squared gradients
    nu_1, # Weight of the mean gradient; the newest gradient has the rest
    nu_2, # Weight of the mean square; the newest square has the rest
    step, # State: steps done
    grad_avg, # State: mean of gradients
    **kwargs):
    """Debias both means and mix the newest gradient into them, for this step
    (Ma & Yarats 2019, https://arxiv.org/abs/1810.06801, alg. 2)."""
    return once(grad_avg=(1-nu_1)*p.grad.data + nu_1*(grad_avg / debias(mom, 1-mom, step)),
                sqr_avg=(1-nu_2)*p.grad.data**2 + nu_2*(sqr_avg / debias(sqr_mom, 1-sqr_mom, step)))


@stepper(unfused=(qhadam_avgs, rms_update, apply_update))
def qhadam_step(p,
    lr, # Learning rate
    mom, # Coefficient of past values in `grad_avg`, 0 to 1
    sqr_mom, # Coefficient of past values in `sqr_avg`, 0 to 1
    sqr_avg, # State: mean of squared gradients
    nu_1, # Weight of the mean gradient; the newest gradient has the rest
    nu_2, # Weight of the mean square; the newest square has the rest
    step, # State: steps done
    grad_avg, # State: mean of gradients
    eps=1e-8, # Added to the root
    **kwargs):
    """Step like Adam, with the newest gradient mixed into both means
    (Ma & Yarats 2019, https://arxiv.org/abs/1810.06801, alg. 2)."""
    rms_prop_step(p, lr, eps=eps, **qhadam_avgs(p, mom, sqr_mom, sqr_avg, nu_1, nu_2, step, grad_avg))
