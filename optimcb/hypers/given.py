"Check parameters and groups, in any form that torch and fastai accept, and translate them to our names."
import inspect
from collections.abc import Iterator
from itertools import repeat
from numbers import Real
from operator import attrgetter

import torch
from fastcore.foundation import L
from torch import Tensor

from optimcb.hypers.torch_names import from_torch, without_flags
from optimcb.hypers.values import ALWAYS_WELCOME, NOT_HYPERS, check, own

__all__ = ['NAMES_FOR_ALL', 'NO_PARAMS', 'as_groups', 'check_names', 'check_params',
           'checked_group', 'may_be_empty', 'name_group', 'without_group_flags']


NO_PARAMS = ("`params` is empty: there is nothing to optimize. "
             "Is it a generator that was used up, or is the whole model frozen?")
NAMES_FOR_ALL = ("some parameters have names and some have not. "
                 "Pass (name, tensor) pairs for all of them, or for none.")


# Parameters

def as_groups(
    params # A tensor, tensors, pairs with names, dicts with `params`, or lists of them
) -> list[dict]:
    "Return `params` as torch's group dicts. Raises `TypeError` and `ValueError`."
    if isinstance(params, torch.nn.Module) and not isinstance(params, torch.nn.ParameterList):
        raise TypeError("`params` is a model. Pass its parameters: `model.parameters()`.")
    if inspect.isroutine(params): raise TypeError("`params` is a function. Call it: `model.parameters()`.")
    _check_order(params)
    params = L(params)
    if not params or all(isinstance(ps, (L, list)) and not ps for ps in params): raise ValueError(NO_PARAMS)
    if isinstance(params[0], dict): return list(params)
    if isinstance(params[0], (L, list)): return [{'params': ps} for ps in params]
    return [{'params': params}]


def may_be_empty(
    groups:list # Groups from the user
) -> bool:
    """Can the groups be empty because other processes hold all their parameters?

    An exhausted iterator is a mistake in any case."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return distributed and not any(isinstance(g['params'], Iterator) for g in groups)


def _split_names(params) -> tuple[list, list|None]:
    """Return tensors and their names, or None without names.

    Raises `TypeError` and `ValueError`."""
    _check_order(params)
    params = list(L(params))
    named = [isinstance(p, tuple) for p in params]
    for p in params:
        if isinstance(p, tuple) and not (len(p) == 2 and isinstance(p[0], str)):
            raise TypeError(f"a pair must be (name, tensor), not {p!r:.80}.")
    if any(named) and not all(named): raise ValueError(NAMES_FOR_ALL)
    return ([p for _, p in params], [name for name, _ in params]) if any(named) else (params, None)


def name_group(
    group:dict # New group; its `params` may be (name, tensor) pairs
) -> None:
    "Split pairs into `params` and `param_names`. Raises `TypeError` and `ValueError`."
    group['params'], names = _split_names(group['params'])
    if names: group['param_names'] = names


def check_names(
    opt, # Optimizer
    group:dict # New group
) -> None:
    "Raise `ValueError` if only some parameters have names; just drop names that no user gave."
    if 'param_names' not in group and opt.__dict__.pop('_names_brought', False):
        for g in opt.param_groups: g.pop('param_names', None)
    have_names = map(dict.__contains__, opt.param_groups, repeat('param_names')) # asked for each group: in C
    if ('param_names' not in group) in have_names: raise ValueError(NAMES_FOR_ALL)


def check_params(
    params:list, # Parameters of a new group
    others:Iterator # Parameters of the other groups
) -> None:
    "Raise `TypeError` for anything but tensors, `ValueError` for duplicates and tensors that aren't leaves."
    seen = set(map(id, others)) # asked for each group: a loop in C
    are_tensors = all(issubclass(kind, Tensor) for kind in set(map(type, params)))
    are_leaves = are_tensors and all(map(attrgetter('is_leaf'), params))
    if are_leaves and len({*seen, *map(id, params)}) == len(seen) + len(params): return
    for i, p in enumerate(params):
        if not isinstance(p, Tensor):
            # fastai's documentation creates optimizers of numbers, which never have a gradient
            if isinstance(p, Real): continue
            raise TypeError(f"only tensors can be optimized, but parameter {i} is {p!r:.80} "
                            f"({type(p).__name__}).")
        if not (p.is_leaf or p.retains_grad):
            raise ValueError(f"parameter {i}, of shape {tuple(p.shape)}, is no leaf: "
                             "it was computed from other tensors. "
                             "Optimize those, or `p.detach()`.")
        if id(p) in seen:
            raise ValueError(f"parameter {i} of the group is there twice, and would be stepped twice. "
                             "Put it in one group only.")
        seen.add(id(p))


def _check_order(params):
    if isinstance(params, (set, frozenset)):
        raise TypeError("parameters are given in a set, whose order changes from run to run. Pass a list.")


# Hyper-parameters of a group

def checked_group(
    opt, # Optimizer; learns new hyper-parameters' names, and warns of those that no stepper reads
    group:dict # `params`, and hyper-parameters by our names or torch's
) -> dict:
    "Return `group` with checked hyper-parameters by our names. Raises `TypeError` and `ValueError`."
    if not isinstance(group, dict):
        raise TypeError(f"a parameter group must be a dict with `params`, not {group!r:.80} "
                        f"({type(group).__name__}).")
    if 'params' not in group:
        raise ValueError(f"a parameter group needs `params`, but this one has {sorted(group)}.")
    composition, choice = opt.composition, opt._choice
    if choice is not None: group = choice.algorithm.ours(group)
    values = from_torch({k: v for k, v in group.items() if k not in NOT_HYPERS}, opt._names)
    flags = {} if choice is None else choice.flags_of(values)
    values = without_group_flags(opt, {k: v for k, v in values.items() if k not in flags})
    known = composition.reads | ALWAYS_WELCOME | opt.hyper_names
    opt._warn_slips(values, is_new=True)
    opt.hyper_names.update(k for k in values if k in known)
    return {**{k: group[k] for k in NOT_HYPERS if k in group},
            **{k: own(k, check(k, v)) if k in known else v for k, v in values.items()},
            **{k: v for k, v in flags.items() if v != choice.options[k]}}


def without_group_flags(
    opt, # Optimizer
    group:dict # Hyper-parameters of a group, by our names
) -> dict:
    """Return `group` without torch's non-numeric options.

    Raises `TypeError` for options that the steppers don't support, `ValueError` for an engine."""
    if opt._own_step: return group
    values, engine = without_flags(group, opt.composition, opt.engine)
    if engine != opt.engine:
        raise ValueError(f"a group can't have an engine of its own. Pass engine='{engine}' to the optimizer.")
    return values
