"Estimate the diagonal of the Hessian, for steppers that divide by `hess_avg`."
from collections.abc import Iterable

import torch
from torch import Tensor

from optimcb._compat.boundary import entry
from optimcb.composition.errors import not_so
from optimcb.engines.frozen import grad_of
from optimcb.steppers.moving_average import exp_avg

__all__ = ['hutchinson', 'update_hessian']


NO_READER = "no stepper reads `hess_avg`: {}. Put `newton_update` in, as `Sophia` has it."

ZEROED = ("the step with `zero_in_step` has zeroed the gradients, whose squares would be the estimate. "
          "Call `update_hessian` between `backward` and `step`.")


@entry
@torch.no_grad()
def update_hessian(
    opt, # Optimizer with a stepper that reads `hess_avg`
    estimates:Iterable|None=None, # A tensor or None per parameter; default: `scale` times squared gradients
    scale=1. # Factor of the squared gradients: the batch size, if the loss is a mean
):
    """Update `hess_avg`, a moving average in the state, with an estimate of the Hessian's diagonal.

    Call it between two steps, about every ten steps. Squared gradients are the Gauss-Newton-Bartlett estimate
    if the loss uses labels drawn from the model's output: after its `backward`, call `update_hessian(opt,
    scale=len(x))`, then `zero_grad`. `hutchinson` gives another estimate. Estimates belong to the loss on
    which `backward` was called; if it is maximized, their sign is flipped like that of the gradients. The
    coefficient of the average is `sqr_mom`. Raises `ValueError`, without changing anything, if no stepper
    reads `hess_avg` or an estimate doesn't fit.
    Source: Liu et al. 2024, https://arxiv.org/abs/2305.14342, alg. 1-3.
    """
    if 'hess_avg' not in opt.composition.reads:
        raise ValueError(NO_READER.format(not_so(opt.composition.labels)))
    params = [(p, h) for ps, h in zip(opt.param_lists, opt.hypers) for p in ps]
    if estimates is None and _are_zeroed(opt, [p.grad for p, _ in params if p.grad is not None]):
        raise ValueError(ZEROED)
    if estimates is None: found = [_squared(p, grad_of(p, opt.tracked), scale) for p, _ in params]
    else: found = list(estimates)
    if len(found) != len(params):
        raise ValueError(f"there are {len(found)} estimates for {len(params)} parameters. Pass one, or "
                         "None, for each.")
    for i, (e, (p, _)) in enumerate(zip(found, params)):
        if e is None or e.shape == p.shape: continue
        raise ValueError(f"estimate {i} is of shape {tuple(e.shape)}, but its parameter of {tuple(p.shape)}.")
    for e, (p, h) in zip(found, params):
        if e is None: continue
        state, grad = opt.state[p], e.to(p.device, p.dtype)
        if estimates is not None and _is_maximized(opt, p, h): grad = -grad
        state.update(hess_avg=exp_avg(state.get('hess_avg'), grad, h['sqr_mom']))


def _are_zeroed(opt, grads) -> bool:
    "Has a step zeroed some gradients, which are zeros still?"
    zeroed = opt.__dict__.get('_zeroed')
    return bool(zeroed) and len(zeroed.others(grads)) < len(grads)


def _is_maximized(opt, p, hypers) -> bool:
    "Does a step flip the sign of the gradient of `p`?"
    values = {**opt.pending_masks.get(p, {}), **opt.state.get(p, {})}
    flips = opt.composition.flips_grad
    return any(hypers.get(s.new_name('maximize'), True) and s.applies(values) for s in flips)


def _squared(p, grad, scale):
    "Return the scaled square of the gradient, or None without a gradient."
    if grad is None: return None
    if grad.is_sparse or p.is_complex():
        raise ValueError("squared gradients are an estimate for dense, real parameters only. Pass "
                         "`estimates`.")
    return scale * grad**2


@entry
def hutchinson(
    loss:Tensor, # Scalar loss that depends on `params`; its graph is kept
    params:Iterable # Tensors
) -> list[Tensor|None]:
    """Estimate the diagonal of the Hessian of `loss` with one random vector of signs.

    Returns a tensor per parameter, or None where it is frozen or the loss has no second derivative by it.
    Call `update_hessian(opt, hutchinson(loss, model.parameters()))` before `loss.backward()`.
    Source: Hutchinson 1989; Liu et al. 2024, https://arxiv.org/abs/2305.14342, alg. 1.
    """
    params = list(params)
    trained = [p for p in params if p.requires_grad]
    found = iter(_products(loss, trained) if trained else ())
    return [next(found) if p.requires_grad else None for p in params]


def _products(loss, params):
    "List Hessian-vector products with random signs, times these signs."
    grads = torch.autograd.grad(loss, params, create_graph=True, allow_unused=True)
    signs = [None if g is None else torch.randint_like(g, 2)*2 - 1 for g in grads]
    pairs = [(g, s) for g, s in zip(grads, signs) if g is not None and g.requires_grad]
    if not pairs: return [None]*len(params)
    products = torch.autograd.grad([g for g, _ in pairs], params, [s for _, s in pairs], retain_graph=True,
                                   allow_unused=True)
    return [None if s is None or h is None else s*h for s, h in zip(signs, products)]
