"""The mathematics of fastai's and torch's algorithms.

First come steps and statistics, then the parts of which longer rules are made, then those rules. A rule either makes
an `update`, which other steppers may change before `apply_update` takes it, or is a `…_step` that does all of it.
"""
import math
from numbers import Real

import torch
import torch.nn.functional as F

from optimcb.stepper import once, weights_by
from optimcb.wrapping import DECAY, part

__all__ = ['apply_update', 'grad_update', 'sgd_step', 'weight_decay', 'l2_reg', 'average_grad', 'lazy_average_grad', 'avg_update', 'momentum_step',
           'nesterov_update', 'average_sqr_grad', 'rms_update', 'rms_prop_step', 'average_update', 'lazy_average_update', 'average_center', 'center_sqr_avg',
           'eps_in_root', 'step_stat', 'debias', 'debias_grad_avg', 'debias_sqr_avg', 'debias_eps', 'adam_step', 'yogi_sqr_grad',
           'start_avgs', 'max_sqr_avg', 'use_sqr_max', 'sum_sqr_grad', 'decay_lr', 'adadelta_update', 'max_abs_grad',
           'adamax_update', 'nadam_mom', 'nadam_schedule', 'nadam_avg', 'rectification', 'radam_update', 'radam_step', 'qhadam_avgs',
           'qhadam_step', 'larc_layer_lr', 'larc_update', 'larc_step', 'trust_ratio', 'lamb_step', 'slow_start', 'lookahead_step']


# Steps and decay

@part('apply')
def apply_update(p,
    lr, # Learning rate
    update, # What to step against
    **kwargs):
    "Step `p` against `update`."
    p.data.add_(update, alpha=-lr)


def direction(p,
    grad_avg=None, # State: average of gradients, if there is one
    update=None # This step's update, if there is one
):
    "What there is to step against: the update, or else the average of the gradients, or else the gradient."
    return p.grad.data if update is None and grad_avg is None else grad_avg if update is None else update


def grad_update(p, **kwargs):
    "The gradient as it is."
    return {'update': p.grad.data.clone()}


def sgd_step(p,
    lr, # Learning rate
    **kwargs):
    "Step against the gradient (Robbins & Monro 1951, eq. 6)."
    apply_update(p, lr, p.grad.data)
sgd_step.parts = [grad_update, apply_update]


@part('decay', DECAY)
def weight_decay(p,
    lr, # Learning rate
    wd=0., # Weight decay, a share of the weight per unit of `lr`
    do_wd=True, # State: is this parameter decayed?
    **kwargs):
    "Decay the weights themselves, by `lr*wd` (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101, alg. 1 line 9)."
    if do_wd and wd != 0: p.data.mul_(1 - lr*wd)


@part('penalty', DECAY)
def l2_reg(p,
    lr=None, # Not used; part of fastai's signature
    wd=0., # Coefficient of the penalty `wd/2 * p**2`
    do_wd=True, # State: is this parameter decayed?
    **kwargs):
    "Add the gradient of an L2 penalty to the gradient, for this step (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101, alg. 1 line 6)."
    if do_wd and wd != 0: p.grad = p.grad.data.add(p.data, alpha=wd)


# Momentum

def _is_torchs(dampening) -> bool: return isinstance(dampening, Real) and not isinstance(dampening, bool)


def newest_weight(
    mom, # Coefficient of the past, 0 to 1
    dampening # True for a mean, False for a sum, or torch's number
):
    "The weight of the newest value in an exponential average."
    if _is_torchs(dampening): return 1 - dampening if mom != 0 else 1.
    return 1-mom if dampening else 1.


def exp_avg(
    avg, # The average so far, which is changed; None: it starts from zero, or with torch's dampening from `x`
    x, # The newest value
    mom, # Coefficient of the past, 0 to 1
    dampening=True # Weigh the value by `1-mom`, which makes it a mean? A number as in torch: by `1-dampening`
):
    "Exponentially weighted mean, or sum, with a new value taken in."
    if avg is None and _is_torchs(dampening): return x.clone()
    return (torch.zeros_like(x) if avg is None else avg).mul_(mom).add_(x, alpha=newest_weight(mom, dampening))


def average_grad(p,
    mom=0.9, # Coefficient of the past, 0 to 1
    dampening=False, # Weigh the gradient by `1-mom`, which makes it a mean? A number as in torch: by `1-dampening`
    grad_avg=None, # State: the average
    **kwargs):
    """Exponentially weighted sum, or mean, of the gradients, in `grad_avg` (Polyak 1964; Kingma & Ba 2015, alg. 1).

    `torch.optim.SGD` starts from the first gradient, whatever its `dampening`, a number that weighs the later ones."""
    return {'grad_avg': exp_avg(grad_avg, p.grad.data, mom, dampening)}


def lazy_average_grad(p,
    mom=0.9, # Coefficient of the past, 0 to 1
    dampening=False, # As in `average_grad`
    grad_avg=None, # State: the average, if there is momentum
    **kwargs):
    """Do what `average_grad` does where there is momentum (Polyak 1964; as in torch).

    While `mom` is 0, nothing is kept, and for this step `grad_avg` is the gradient."""
    if mom == 0: return once(grad_avg=p.grad.data.clone())
    return average_grad(p, mom, dampening, grad_avg)


def avg_update(p,
    grad_avg, # State: average of gradients
    **kwargs):
    "The average of the gradients."
    return {'update': grad_avg.clone()}


def momentum_step(p,
    lr, # Learning rate
    grad_avg, # State: average of gradients
    **kwargs):
    "Step against the average of the gradients."
    apply_update(p, lr, grad_avg)
momentum_step.parts = [avg_update, apply_update]


def nesterov_update(p,
    mom, # Coefficient of the past, 0 to 1
    grad_avg, # State: sum, or mean, of gradients
    dampening=False, # Is it a mean, in which a gradient is weighed by `1-mom`?
    nesterov=True, # Look ahead? Groups that have it False step against the average
    **kwargs):
    "The gradient, and what momentum will be left of the sum: the step looks ahead (Sutskever et al. 2013, eq. 3-4)."
    if not nesterov: return avg_update(p, grad_avg)
    is_mean = dampening and not _is_torchs(dampening)
    return {'update': (p.grad.data * (1-mom) if is_mean else p.grad.data) + mom*grad_avg}


# Division by a root mean square

def average_sqr_grad(p,
    sqr_mom=0.99, # Coefficient of the past, 0 to 1
    dampening=True, # Weigh the square by `1-sqr_mom`, which makes it a mean?
    sqr_avg=None, # State: the average
    **kwargs):
    "Exponentially weighted mean, or sum, of the squared gradients, in `sqr_avg` (Tieleman & Hinton 2012, lecture 6.5)."
    if sqr_avg is None: sqr_avg = torch.zeros_like(p.grad.data)
    sqr_avg.mul_(sqr_mom).addcmul_(p.grad.data, p.grad.data, value=1-sqr_mom if dampening else 1.)
    return {'sqr_avg': sqr_avg}


def _over_rms(p, sqr_avg, eps, grad_avg):
    "Numerator and denominator of a step that divides by a root mean square"
    return direction(p, grad_avg), sqr_avg.sqrt().add_(eps)


def rms_update(p,
    sqr_avg, # State: average of squared gradients
    eps=1e-8, # Added to the root
    grad_avg=None, # State: average of gradients, if there is one
    **kwargs):
    "The gradient, or its average, over the root of the average square."
    num, denom = _over_rms(p, sqr_avg, eps, grad_avg)
    return {'update': num / denom}


def rms_prop_step(p,
    lr, # Learning rate
    sqr_avg, # State: average of squared gradients
    eps=1e-8, # Added to the root
    grad_avg=None, # State: average of gradients, if there is one
    **kwargs):
    "Step against the gradient, or its average, over the root of the average square (Tieleman & Hinton 2012, lecture 6.5)."
    p.data.addcdiv_(*_over_rms(p, sqr_avg, eps, grad_avg), value=-lr)
rms_prop_step.parts = [rms_update, apply_update]


def average_update(p,
    mom, # Coefficient of the past, 0 to 1
    update, # The step's own update
    dampening=False, # Weigh the update by `1-mom`, which makes it a mean?
    update_avg=None, # State: the average
    **kwargs):
    "Momentum of the updates, where `average_grad` has that of the gradients: `torch.optim.RMSprop` divides first."
    update_avg = exp_avg(update_avg, update, mom, dampening)
    return {'update_avg': update_avg, 'update': update_avg.clone()}


def lazy_average_update(p,
    mom, # Coefficient of the past, 0 to 1
    update, # The step's own update
    dampening=False, # As in `average_update`
    update_avg=None, # State: the average, if there is momentum
    **kwargs):
    """Do what `average_update` does where there is momentum (Polyak 1964; as in torch).

    While `mom` is 0, nothing is kept, and the update stays as it is."""
    if mom != 0: return average_update(p, mom, update, dampening, update_avg)


def average_center(p,
    sqr_mom, # Coefficient of the past, 0 to 1: that of the squares
    grad_center=None, # State: mean of the gradients
    centered=True, # Groups that have it False keep no mean
    **kwargs):
    "Mean of the gradients over the window of the squares, in `grad_center`."
    if not centered: return once(grad_center=torch.zeros_like(p.grad.data))
    return {'grad_center': exp_avg(grad_center, p.grad.data, sqr_mom)}


def center_sqr_avg(p,
    sqr_avg, # State: mean of squared gradients
    grad_center, # State: mean of gradients
    **kwargs):
    "For this step, `sqr_avg` is the variance of the gradients (Graves 2013, https://arxiv.org/abs/1308.0850, eq. 38-41)."
    return once(sqr_avg=sqr_avg.addcmul(grad_center, grad_center, value=-1).clamp_(min=0))


def eps_in_root(p,
    sqr_avg, # State: average of squared gradients
    eps=1e-8, # Added to the average
    **kwargs):
    "For this step, `eps` is inside the root, not beside it."
    return once(sqr_avg=sqr_avg + eps, eps=0.)


# Bias correction and Adam

def step_stat(p,
    step=0, # State: steps done
    **kwargs):
    "Count the steps of each parameter, in `step`."
    return {'step': step + 1}


def debias(
    mom, # Coefficient of the past, 0 to 1
    damp, # Weight of the newest value
    step # Number of values
):
    "The sum of the weights of an exponential average that started from zero (Kingma & Ba 2015, sec. 3)."
    return damp * (1 - mom**step) / (1 - mom)


def debias_grad_avg(p,
    mom, # Coefficient of the past, 0 to 1
    step, # State: steps done
    grad_avg, # State: mean of gradients
    **kwargs):
    "For this step, `grad_avg` is corrected for its start from zero."
    return once(grad_avg=grad_avg / debias(mom, 1-mom, step))


def debias_sqr_avg(p,
    sqr_mom, # Coefficient of the past, 0 to 1
    step, # State: steps done
    sqr_avg, # State: mean of squared gradients
    **kwargs):
    "For this step, `sqr_avg` is corrected for its start from zero."
    return once(sqr_avg=sqr_avg / debias(sqr_mom, 1-sqr_mom, step))


def debias_eps(p,
    sqr_mom, # Coefficient of the past of `sqr_avg`, 0 to 1
    step, # State: steps done
    eps=1e-8, # Added to the root
    **kwargs):
    "For this step, `eps` is as if it were added to the root before its correction, as `torch.optim.RAdam` has it (Kingma & Ba 2015, end of sec. 2)."
    return once(eps=eps / math.sqrt(debias(sqr_mom, 1-sqr_mom, step)))


def adam_step(p,
    lr, # Learning rate
    mom, # Coefficient of the past of `grad_avg`, 0 to 1
    step, # State: steps done
    sqr_mom, # Coefficient of the past of `sqr_avg`, 0 to 1
    grad_avg, # State: mean of gradients
    sqr_avg, # State: mean of squared gradients
    eps=1e-5, # Added to the root
    **kwargs):
    """RMSProp's step with both means debiased (Kingma & Ba 2015, https://arxiv.org/abs/1412.6980, alg. 1).

    Does in one call what `debias_grad_avg`, `debias_sqr_avg`, `rms_update` and `apply_update` do in separate ones."""
    rms_prop_step(p, lr / debias(mom, 1-mom, step), debias_sqr_avg(p, sqr_mom, step, sqr_avg)['sqr_avg'], eps, grad_avg)
adam_step.parts = [debias_grad_avg, debias_sqr_avg, rms_update, apply_update]


# Other second moments

def yogi_sqr_grad(p,
    sqr_mom=0.999, # Coefficient of the past, 0 to 1
    sqr_avg=None, # State: the estimate
    **kwargs):
    "An average of squared gradients that moves by at most the newest square (Zaheer et al. 2018, alg. 2)."
    sqr = p.grad.data.pow(2)
    if sqr_avg is None: sqr_avg = torch.zeros_like(sqr)
    sqr_avg.addcmul_((sqr_avg - sqr).sign(), sqr, value=sqr_mom-1)
    return {'sqr_avg': sqr_avg}


def start_avgs(p,
    init_avg=0., # Where both averages start; published code of Yogi has 1e-6
    grad_avg=None, # State: average of gradients
    sqr_avg=None, # State: average of squared gradients
    **kwargs):
    "Start both averages from `init_avg`; comes before them."
    if sqr_avg is None and grad_avg is None:
        return {k: torch.full_like(p.grad.data, init_avg) for k in ('grad_avg', 'sqr_avg')}


def max_sqr_avg(p,
    sqr_avg, # State: mean of squared gradients
    sqr_max=None, # State: the largest so far
    amsgrad=True, # Groups that have it False keep none: for each step it is `sqr_avg`
    **kwargs):
    "Keep the largest `sqr_avg` so far, in `sqr_max` (Reddi et al. 2018, https://arxiv.org/abs/1904.09237, alg. 2)."
    if not amsgrad: return once(sqr_max=sqr_avg.clone())
    return {'sqr_max': sqr_avg.clone() if sqr_max is None else torch.maximum(sqr_max, sqr_avg)}


def use_sqr_max(p,
    sqr_max, # State: the largest `sqr_avg` so far
    **kwargs):
    "For this step, `sqr_avg` is `sqr_max`."
    return once(sqr_avg=sqr_max)


def sum_sqr_grad(p,
    init_sum=0., # Where the sum starts
    sqr_avg=None, # State: the sum
    **kwargs):
    "Sum of the squared gradients, in `sqr_avg` (Duchi et al. 2011, fig. 1)."
    if sqr_avg is None: sqr_avg = torch.full_like(p.grad.data, init_sum)
    return {'sqr_avg': sqr_avg.addcmul_(p.grad.data, p.grad.data)}


def decay_lr(p,
    lr, # Learning rate of the first step
    step, # State: steps done
    lr_decay=0., # Decay of the learning rate per step, from 0
    **kwargs):
    "For this step, `lr` is `lr / (1 + (step-1)*lr_decay)`."
    return once(lr=lr / (1 + (step-1)*lr_decay))


def adadelta_update(p,
    sqr_mom, # Coefficient of the past, 0 to 1
    sqr_avg, # State: mean of squared gradients
    eps=1e-6, # Added to both means, inside the root
    delta_avg=None, # State: mean of squared updates
    **kwargs):
    "The gradient, scaled from the size of gradients to that of updates (Zeiler 2012, https://arxiv.org/abs/1212.5701, alg. 1)."
    if delta_avg is None: delta_avg = torch.zeros_like(sqr_avg)
    update = (delta_avg + eps).sqrt().div_((sqr_avg + eps).sqrt()).mul_(p.grad.data)
    delta_avg.mul_(sqr_mom).addcmul_(update, update, value=1-sqr_mom)
    return {'delta_avg': delta_avg, 'update': update}


def max_abs_grad(p,
    sqr_mom, # Decay of the past, 0 to 1
    eps=1e-8, # Added to the size of the gradient
    grad_max=None, # State: the maximum
    **kwargs):
    "Decaying maximum of the gradient's size, in `grad_max` (Kingma & Ba 2015, alg. 2)."
    if grad_max is None: grad_max = torch.zeros_like(p.grad.data)
    return {'grad_max': torch.maximum(grad_max * sqr_mom, p.grad.data.abs() + eps)}


def adamax_update(p,
    grad_avg, # State: mean of gradients
    grad_max, # State: decaying maximum of the gradient's size
    **kwargs):
    "The average gradient over the decaying maximum (Kingma & Ba 2015, alg. 2)."
    return {'update': grad_avg / grad_max}


# Variants of Adam

def nadam_mom(
    mom, # Momentum that is approached, 0 to 1
    step, # Number of the step
    mom_decay # How fast it is approached
):
    "NAdam's momentum of a step (Dozat 2016, sec. 3.2)."
    return mom * (1 - 0.5 * 0.96**(step*mom_decay))


def nadam_schedule(p,
    mom, # Momentum that is approached, 0 to 1
    step, # State: steps done
    mom_decay=4e-3, # How fast it is approached
    mom_prod=1., # State: product of the momenta so far
    **kwargs):
    "Keep the product of NAdam's momenta, in `mom_prod`."
    return {'mom_prod': mom_prod * nadam_mom(mom, step, mom_decay)}


def nadam_avg(p,
    mom, # Momentum that is approached, 0 to 1
    step, # State: steps done
    mom_decay, # How fast it is approached
    mom_prod, # State: product of the momenta so far
    grad_avg, # State: mean of gradients
    **kwargs):
    "For this step, `grad_avg` is debiased and one step ahead (Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ, alg. 2)."
    now, ahead = (nadam_mom(mom, s, mom_decay) for s in (step, step+1))
    return once(grad_avg=(1-now)/(1-mom_prod) * p.grad.data + ahead/(1-mom_prod*ahead) * grad_avg)


def rectification(
    sqr_mom, # Coefficient of the past, 0 to 1
    step # Number of the step
):
    "RAdam's correction of the step for the variance of `sqr_avg`, or None while that is too large (Liu et al. 2020, alg. 2, from 5 on as in its code)."
    r_inf = 2/(1-sqr_mom) - 1
    r = r_inf - 2*step*sqr_mom**step/(1-sqr_mom**step)
    return math.sqrt(((r-4)*(r-2)*r_inf) / ((r_inf-4)*(r_inf-2)*r)) if r > 5 else None


def _rectified(p, mom, step, sqr_mom, grad_avg, sqr_avg, eps, beta):
    "Of a rectified step the correction, the debiasing, and numerator and denominator; without correction at the start there is no denominator"
    scale, debias1 = rectification(sqr_mom, step), debias(mom, 1-mom, step)
    if scale is None: return 1., debias1, grad_avg, None
    num, denom = _over_rms(p, debias_sqr_avg(p, sqr_mom, step, sqr_avg)['sqr_avg'], eps, grad_avg)
    return scale, debias1, num, F.softplus(denom, beta) if beta else denom


def radam_update(p,
    mom, # Coefficient of the past of `grad_avg`, 0 to 1
    step, # State: steps done
    sqr_mom, # Coefficient of the past of `sqr_avg`, 0 to 1
    grad_avg, # State: mean of gradients
    sqr_avg, # State: mean of squared gradients
    eps=1e-5, # Added to the root
    beta=0., # Sharpness of the softplus of the root (SAdam, https://arxiv.org/abs/1908.00700); 0: none
    **kwargs):
    "Adam's update, rectified, or momentum's at the start (Liu et al. 2020, https://arxiv.org/abs/1908.03265, alg. 2)."
    scale, debias1, num, denom = _rectified(p, mom, step, sqr_mom, grad_avg, sqr_avg, eps, beta)
    return {'update': (num if denom is None else num / denom) * (scale/debias1)}


def radam_step(p,
    lr, # Learning rate
    mom, # Coefficient of the past of `grad_avg`, 0 to 1
    step, # State: steps done
    sqr_mom, # Coefficient of the past of `sqr_avg`, 0 to 1
    grad_avg, # State: mean of gradients
    sqr_avg, # State: mean of squared gradients
    eps=1e-5, # Added to the root
    beta=0., # Sharpness of the softplus of the root (SAdam, https://arxiv.org/abs/1908.00700); 0: none
    **kwargs):
    "Adam's step, rectified, or momentum's at the start (Liu et al. 2020, https://arxiv.org/abs/1908.03265, alg. 2)."
    scale, debias1, num, denom = _rectified(p, mom, step, sqr_mom, grad_avg, sqr_avg, eps, beta)
    if denom is None: apply_update(p, lr/debias1, num)
    else: p.data.addcdiv_(num, denom, value=-lr*scale/debias1)
radam_step.parts = [radam_update, apply_update]


def qhadam_avgs(p,
    mom, # Coefficient of the past of `grad_avg`, 0 to 1
    sqr_mom, # Coefficient of the past of `sqr_avg`, 0 to 1
    sqr_avg, # State: mean of squared gradients
    nu_1, # Share of the mean of the gradients, the rest being the newest
    nu_2, # Share of the mean of the squares, the rest being the newest
    step, # State: steps done
    grad_avg, # State: mean of gradients
    **kwargs):
    "For this step, both means are debiased, and the newest gradient mixed into them (Ma & Yarats 2019, https://arxiv.org/abs/1810.06801, alg. 2)."
    return once(grad_avg=(1-nu_1)*p.grad.data + nu_1*(grad_avg / debias(mom, 1-mom, step)),
                sqr_avg=(1-nu_2)*p.grad.data**2 + nu_2*(sqr_avg / debias(sqr_mom, 1-sqr_mom, step)))


def qhadam_step(p,
    lr, # Learning rate
    mom, # Coefficient of the past of `grad_avg`, 0 to 1
    sqr_mom, # Coefficient of the past of `sqr_avg`, 0 to 1
    sqr_avg, # State: mean of squared gradients
    nu_1, # Share of the mean of the gradients, the rest being the newest
    nu_2, # Share of the mean of the squares, the rest being the newest
    step, # State: steps done
    grad_avg, # State: mean of gradients
    eps=1e-8, # Added to the root
    **kwargs):
    "Adam's step with the newest gradient mixed into both means (Ma & Yarats 2019, https://arxiv.org/abs/1810.06801, alg. 2)."
    rms_prop_step(p, lr, eps=eps, **qhadam_avgs(p, mom, sqr_mom, sqr_avg, nu_1, nu_2, step, grad_avg))
qhadam_step.parts = [qhadam_avgs, rms_update, apply_update]


# A learning rate for each tensor

def precise(
    x # A tensor
):
    "`x`, if need be in float32, for sums over a tensor of 16-bit numbers."
    return x.to(torch.promote_types(x.dtype, torch.float32))


def norm(
    x # A tensor
):
    "The Euclidean norm of a whole tensor."
    return torch.linalg.vector_norm(precise(x))


def rms(
    x # A tensor
):
    "The root mean square of a whole tensor."
    return precise(x).pow(2).mean().sqrt()


@part(kind='trust ratio')
def larc_layer_lr(p,
    lr, # Learning rate
    trust_coeff=0.02, # How far a step may go, as a share of the tensor's norm
    wd=0., # Weight decay, which makes the step longer
    eps=1e-8, # Added to the norm of the gradient
    clip=True, # LARC, which goes no faster than `lr`? Else LARS
    **kwargs):
    """For this step, `local_lr` is in proportion to the norm of the tensor over that of its gradient.

    A tensor of zeros stays as it is (You et al. 2017, https://arxiv.org/abs/1708.03888, eq. 6)."""
    p_norm, g_norm = norm(p.data), norm(p.grad.data)
    local_lr = lr*trust_coeff * p_norm / (g_norm + p_norm*wd + eps)
    return once(local_lr=torch.where(local_lr < lr, local_lr, lr) if clip else local_lr)


def larc_update(p,
    lr, # Learning rate, in the place of which `local_lr` comes
    local_lr, # This step's learning rate for this tensor
    grad_avg=None, # State: average of gradients, if there is one
    **kwargs):
    "The gradient, or its average, for a step by `local_lr`."
    return once(lr=local_lr, update=direction(p, grad_avg).clone())


def larc_step(p,
    local_lr, # This step's learning rate for this tensor
    grad_avg=None, # State: average of gradients, if there is one
    **kwargs):
    "Step against the gradient, or its average, by `local_lr`."
    apply_update(p, local_lr, direction(p, grad_avg))
larc_step.parts = [larc_update, apply_update]


@part('length', 'trust ratio')
def trust_ratio(p,
    lr, # Learning rate
    update, # This step's update
    max_trust=10., # Largest ratio
    **kwargs):
    "For this step, `lr` is in proportion to the norm of the tensor over that of its update (You et al. 2020, https://arxiv.org/abs/1904.00962, alg. 2)."
    p_rms, u_rms = rms(p.data), rms(update)
    ratio = p_rms / u_rms
    scaled = torch.where(ratio > max_trust, lr*max_trust, lr*ratio)
    return once(lr=torch.where((p_rms == 0) | (u_rms == 0), lr, scaled))


def lamb_step(p,
    lr, # Learning rate
    mom, # Coefficient of the past of `grad_avg`, 0 to 1
    step, # State: steps done
    sqr_mom, # Coefficient of the past of `sqr_avg`, 0 to 1
    grad_avg, # State: mean of gradients
    sqr_avg, # State: mean of squared gradients
    eps=1e-6, # Added to the root
    **kwargs):
    """Adam's step by a trust ratio (You et al. 2020, https://arxiv.org/abs/1904.00962, alg. 2).

    Does in one call what `debias_grad_avg`, `debias_sqr_avg`, `rms_update`, `trust_ratio` and `apply_update` do in separate ones."""
    debiased = debias_grad_avg(p, mom, step, grad_avg) | debias_sqr_avg(p, sqr_mom, step, sqr_avg)
    update = rms_update(p, eps=eps, **debiased)['update']
    apply_update(p, trust_ratio(p, lr, update)['lr'], update)
lamb_step.parts = [debias_grad_avg, debias_sqr_avg, rms_update, trust_ratio, apply_update]


# Slow weights

K, ALPHA = 6, 0.5 # of Lookahead: fast steps for one slow step, and its length
SLOW = 'set of slow weights' # what it keeps


@part('first')
def slow_start(p,
    slow_avg=None, # State: the slow weights
    **kwargs):
    "Keep a copy of the weights from before the first step, in `slow_avg`; comes first."
    if slow_avg is None: return {'slow_avg': p.data.clone()}


@part('last', SLOW)
@weights_by(lambda p, slow_avg: slow_avg)
def lookahead_step(p,
    slow_avg, # State: the slow weights
    count=0, # State: fast steps done
    k=K, # Fast steps for one slow step
    alpha=ALPHA, # Length of the slow step, a share of the way, 0 to 1
    **kwargs):
    "Every `k` steps, move the slow weights towards the weights and go on from there; comes last (Zhang et al. 2019, https://arxiv.org/abs/1907.08610, alg. 1)."
    count += 1
    if count % k == 0:
        slow_avg.add_(p.data - slow_avg, alpha=alpha)
        p.data.copy_(slow_avg)
    return {'count': count}
