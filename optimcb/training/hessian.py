"Estimates of the Hessian's diagonal, for steppers that divide by a curvature which they are given."
from collections.abc import Iterable

import torch
from torch import Tensor

from optimcb._boundary import entry
from optimcb.composition.errors import not_so
from optimcb.engines.frozen import grad_of
from optimcb.steppers.moving_average import exp_avg

__all__ = ['hutchinson', 'update_hessian']


NO_READER = "no stepper reads `hess_avg`: {}. Put `newton_update` in, as `Sophia` has it."


@entry
@torch.no_grad()
def update_hessian(
    opt, # Optimizer with a stepper that reads `hess_avg`
    estimates:Iterable|None=None, # Of each parameter an estimate, or None; default: `scale` times the squared gradients that are there
    scale=1. # Factor of the squared gradients: the size of the batch, where the loss is a mean
):
    """Let `hess_avg`, in the state, take in a new estimate of the Hessian's diagonal, every ten steps or so, between two steps.

    Squared gradients are an estimate (Gauss-Newton-Bartlett's) if the loss is of labels that were drawn from what the model gives:
    `update_hessian(opt, scale=len(x))` after its `backward`, then `zero_grad`. Another one is `hutchinson`'s.
    Estimates are of the Hessian of what `backward` was called on: where that is maximized, their sign is turned, as that of the gradients is.
    The mean's coefficient is `sqr_mom`. Raises `ValueError`, and changes nothing, if nobody reads it or an estimate doesn't fit.
    Source: Liu et al. 2024, https://arxiv.org/abs/2305.14342, alg. 1-3.
    """
    if 'hess_avg' not in opt.composition.reads: raise ValueError(NO_READER.format(not_so(opt.composition.labels)))
    params = [(p, h) for ps, h in zip(opt.param_lists, opt.hypers) for p in ps]
    found = [_squared(p, grad_of(p, opt.tracked), scale) for p, _ in params] if estimates is None else list(estimates)
    if len(found) != len(params): raise ValueError(f"there are {len(found)} estimates for {len(params)} parameters. Pass one, or None, for each.")
    for i, (e, (p, _)) in enumerate(zip(found, params)):
        if e is not None and e.shape != p.shape: raise ValueError(f"estimate {i} is of shape {tuple(e.shape)}, but its parameter of {tuple(p.shape)}.")
    for e, (p, h) in zip(found, params):
        if e is None: continue
        state, grad = opt.state[p], e.to(p.device, p.dtype)
        if estimates is not None and _is_maximized(opt, p, h): grad = -grad
        state.update(hess_avg=exp_avg(state.get('hess_avg'), grad, h['sqr_mom']))


def _is_maximized(opt, p, hypers) -> bool:
    "Does a step turn the gradient of `p` round?"
    said = {**opt._said.get(p, {}), **opt.state.get(p, {})}
    return any(hypers.get(s.new_name('maximize'), True) and s.applies(said) for s in opt.composition.flips_grad)


def _squared(p, grad, scale):
    if grad is None: return None
    if grad.is_sparse or p.is_complex(): raise ValueError("squared gradients are an estimate for dense, real parameters only. Pass `estimates`.")
    return scale * grad**2


@entry
def hutchinson(
    loss:Tensor, # A number that depends on `params`; its graph is kept
    params:Iterable # Tensors
) -> list[Tensor|None]:
    """An estimate of the diagonal of the Hessian of `loss`, by one random vector of signs; None for what is frozen, or what it doesn't depend on twice.

    `update_hessian(opt, hutchinson(loss, model.parameters()))`, before `loss.backward()`.
    Source: Hutchinson 1989; Liu et al. 2024, https://arxiv.org/abs/2305.14342, alg. 1.
    """
    params = list(params)
    trained = [p for p in params if p.requires_grad]
    found = iter(_products(loss, trained) if trained else ())
    return [next(found) if p.requires_grad else None for p in params]


def _products(loss, params):
    grads = torch.autograd.grad(loss, params, create_graph=True, allow_unused=True)
    signs = [None if g is None else torch.randint_like(g, 2)*2 - 1 for g in grads]
    pairs = [(g, s) for g, s in zip(grads, signs) if g is not None and g.requires_grad]
    if not pairs: return [None]*len(params)
    products = torch.autograd.grad([g for g, _ in pairs], params, [s for _, s in pairs], retain_graph=True, allow_unused=True)
    return [None if s is None or h is None else s*h for s, h in zip(signs, products)]
