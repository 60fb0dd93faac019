"""Masks: which steppers act on which parameter, as decided by rules and routes.

A mask is state of a parameter, under the name of its rule. Until a parameter's first step its masks are
pending, and stored outside the state: torch assumes that an optimizer with some state has all of it."""
from collections.abc import Iterable

import torch
from torch import Tensor

from optimcb.engines.frozen import grad_of

__all__ = ['can_step', 'changed_rules', 'fill_masks', 'masks_of', 'set_pending_masks']


def can_step(
    p # A parameter
) -> bool:
    """Can the parameter be stepped?

    Parameters of lazy layers have no shape yet, and integers, as in quantized layers, have no gradient."""
    if not isinstance(p, Tensor) or torch.nn.parameter.is_lazy(p): return False
    return p.is_floating_point() or p.is_complex()


def changed_rules(
    old, # A composition
    new # Its replacement
) -> set:
    "Return the names of masks that have another meaning, or none, in `new`."
    return {k for k in old.masks if new.masks.get(k) != old.masks[k]}


def masks_of(
    opt, # Optimizer
    composition, # Its composition, or a new one
    target=None # Target of the current step, with `param_groups` and `tracked`; None: check all parameters
) -> dict:
    """Return the masks of each parameter, by its id: from its state or group, or else from the rules.

    With a target, return only those of stepped parameters whose state lacks masks. Raises `ValueError` for an
    unknown route."""
    rules, routes = composition.masks, composition.routes
    stale = changed_rules(opt.composition, composition)
    res, names, tests = {}, None, {}
    for g in (target or opt).param_groups:
        in_group = {} if target else g
        for p in g['params']:
            state = opt.__dict__['state'].get(p, {}) if isinstance(p, Tensor) else {} # doesn't wait for a GPU
            if routes and 'route' not in stale and 'route' in state: _check_route(routes, state['route'])
            if not (can_step(p) if target is None else _lacks_masks(p, state, rules, opt.tracked)): continue
            known = {**opt.pending_masks.get(p, {}), **in_group, **state}
            masks = {k: v for k, v in known.items() if k in rules and k not in stale}
            for k in rules.keys() - masks.keys():
                if k not in tests: tests[k] = rules[k].test()
                if names is None: names = _names_by_id(opt.param_groups)
                masks[k] = tests[k](p, names.get(id(p)))
            if routes: _check_route(routes, masks['route'])
            res[id(p)] = masks
    return res


def fill_masks(
    opt, # Optimizer
    target # Target of the current step, with `param_groups`: the optimizer, or one of its parameters
) -> None:
    "Add missing masks to the state of parameters in the current step. Raises `ValueError`."
    found = masks_of(opt, opt.composition, target)
    if not found: return
    for p in _params(target):
        if id(p) in found: opt.state[p].update(found[id(p)])


def set_pending_masks(
    opt # Optimizer
) -> None:
    "Evaluate the masks of all parameters before their first step. Raises `ValueError` before any change."
    composition = opt.composition
    found = masks_of(opt, composition)
    pending = {p: found[id(p)] for p in _params(opt) if id(p) in found}
    for g in opt.param_groups:
        for k in composition.masks.keys() & g.keys(): del g[k] # the parameters' masks have it now
    opt.pending_masks.clear()
    opt.pending_masks.update(pending)


def _lacks_masks(p, state, rules, tracked) -> bool:
    "Does a parameter in the current step lack a mask in its state?"
    return not state.keys() >= rules.keys() and grad_of(p, tracked) is not None


def _check_route(routes, route):
    if route not in routes:
        raise ValueError(f"a parameter is in route {route!r}, but there are {', '.join(routes)}.")


def _params(target) -> Iterable: return (p for g in target.param_groups for p in g['params'])


def _names_by_id(groups) -> dict:
    return {id(p): name for g in groups for p, name in zip(g['params'], g.get('param_names', ()))}
