"Steps, decay and momentum."
from optimcb.composition.results import once
from optimcb.composition.roles import DECAY, part
from optimcb.composition.traits import stepper
from optimcb.steppers.moving_average import exp_avg, is_torch_dampening

__all__ = ['apply_update', 'grad_update', 'sgd_step', 'weight_decay', 'l2_reg', 'average_grad',
           'lazy_average_grad', 'avg_update', 'momentum_step', 'nesterov_update', 'average_update',
           'lazy_average_update']


# Steps and decay

def descent_direction(p,
    grad_avg=None, # State: average of gradients, if any
    update=None # This step's update, if any
):
    "Return the update, or else the average of the gradients, or else the gradient."
    if update is not None: return update
    return p.grad.data if grad_avg is None else grad_avg


@stepper
@part('apply')
def apply_update(p,
    lr, # Learning rate
    update, # Direction to step against
    **kwargs):
    "Step `p` against `update`."
    p.data.add_(update, alpha=-lr)


@stepper
def grad_update(p, **kwargs):
    "Use the gradient as the update."
    return {'update': p.grad.data.clone()}


@stepper(unfused=(grad_update, apply_update))
def sgd_step(p,
    lr, # Learning rate
    **kwargs):
    "Step against the gradient (Robbins & Monro 1951, eq. 6)."
    apply_update(p, lr, p.grad.data)


@stepper
@part('decay', DECAY)
def weight_decay(p,
    lr, # Learning rate
    wd=0., # Weight decay per unit of `lr`, relative to the weight
    do_wd=True, # State: is this parameter decayed?
    **kwargs):
    """Decay the weights themselves, by `lr*wd`
    (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101, alg. 1 line 9)."""
    if do_wd and wd != 0: p.data.mul_(1 - lr*wd)


@stepper
@part('penalty', DECAY)
def l2_reg(p,
    lr=None, # Not used; part of fastai's signature
    wd=0., # Coefficient of the penalty `wd/2 * p**2`
    do_wd=True, # State: is this parameter decayed?
    **kwargs):
    """Add the gradient of an L2 penalty to the gradient, for this step
    (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101, alg. 1 line 6)."""
    if do_wd and wd != 0: p.grad = p.grad.data.add(p.data, alpha=wd)


@stepper
def average_grad(p,
    mom=0.9, # Coefficient of past values, 0 to 1
    dampening=False, # Weight the gradient by `1-mom`, for a mean? A number means `1-dampening`, as in torch
    grad_avg=None, # State: the average
    **kwargs):
    """Sum, or average, the gradients with exponential weights, in `grad_avg`
    (Polyak 1964; Kingma & Ba 2015, alg. 1).

    With a number, the average starts from the first gradient, as in `torch.optim.SGD`, and `dampening` only
    affects later ones."""
    return {'grad_avg': exp_avg(grad_avg, p.grad.data, mom, dampening)}


@stepper
def lazy_average_grad(p,
    mom=0.9, # Coefficient of past values, 0 to 1
    dampening=False, # As in `average_grad`
    grad_avg=None, # State: the average, if there is momentum
    **kwargs):
    """Average gradients like `average_grad`, but only with momentum (Polyak 1964; as in torch).

    While `mom` is 0, no state is kept, and `grad_avg` is the gradient, for this step."""
    if mom == 0: return once(grad_avg=p.grad.data.clone())
    return average_grad(p, mom, dampening, grad_avg)


@stepper
def avg_update(p,
    grad_avg, # State: average of gradients
    **kwargs):
    "Use the average of the gradients as the update."
    return {'update': grad_avg.clone()}


@stepper(unfused=(avg_update, apply_update))
def momentum_step(p,
    lr, # Learning rate
    grad_avg, # State: average of gradients
    **kwargs):
    "Step against the average of the gradients."
    apply_update(p, lr, grad_avg)


@stepper
def nesterov_update(p,
    mom, # Coefficient of past values, 0 to 1
    grad_avg, # State: sum, or mean, of gradients
    dampening=False, # Is it a mean, with weight `1-mom` for a new gradient?
    nesterov=True, # Look ahead? Groups with False step against the average
    **kwargs):
    """Look ahead: add the next step's momentum to the gradient
    (Sutskever et al. 2013, eq. 3-4)."""
    if not nesterov: return avg_update(p, grad_avg)
    is_mean = dampening and not is_torch_dampening(dampening)
    return {'update': (p.grad.data * (1-mom) if is_mean else p.grad.data) + mom*grad_avg}


@stepper
def average_update(p,
    mom, # Coefficient of past values, 0 to 1
    update, # The step's own update
    dampening=False, # Weight the update by `1-mom`, for a mean?
    update_avg=None, # State: the average
    **kwargs):
    """Average the updates instead of the gradients, as in `torch.optim.RMSprop`."""
    update_avg = exp_avg(update_avg, update, mom, dampening)
    return {'update_avg': update_avg, 'update': update_avg.clone()}


@stepper
def lazy_average_update(p,
    mom, # Coefficient of past values, 0 to 1
    update, # The step's own update
    dampening=False, # As in `average_update`
    update_avg=None, # State: the average, if there is momentum
    **kwargs):
    """Average updates like `average_update`, but only with momentum (Polyak 1964; as in torch).

    While `mom` is 0, no state is kept, and the update stays unchanged."""
    if mom != 0: return average_update(p, mom, update, dampening, update_avg)
