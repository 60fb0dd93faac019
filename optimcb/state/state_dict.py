"State dicts: torch's shape with fastai's keys beside it, always copies. Groups, shapes of parameters and values are checked before anything is loaded."
from collections import OrderedDict
from copy import deepcopy

import numpy as np
from fastcore.foundation import L
from torch import Tensor

from optimcb._boundary import entry
from optimcb._renamed import current_label
from optimcb._tensors import is_dtensor
from optimcb.hypers.torch_names import from_torch
from optimcb.hypers.values import NOT_HYPERS, check
from optimcb.state.eval_weights import TRAINED
from optimcb.warn import warn

__all__ = ['ParamStates', 'by_name', 'copied', 'in_torchs_shape', 'is_note', 'named_state', 'names_of',
           'ours', 'pack', 'unpack']


class ParamStates(dict):
    "torch's `{index: state}`, which also equals fastai's list of states. It is saved as an `OrderedDict`, which loads anywhere."
    def __eq__(self, other): return list(self.values()) == list(other) if isinstance(other, (list, L)) else dict.__eq__(self, other)
    def __ne__(self, other): return not self == other
    __hash__ = None
    def __reduce__(self): return OrderedDict, (), None, None, iter(self.items())


def is_note(
    k # A key of an optimizer's state
) -> bool:
    "Is what it stands for of the whole optimizer? torch, too, saves what people put there under a name."
    return isinstance(k, str)


def copied(
    o, # A tensor, number, or container of them
    device=None # Where copies of tensors go; default: where they are
):
    "A deep copy of `o`, with types that `torch.load(weights_only=True)` reads in the place of NumPy's numbers and fastcore's lists."
    if isinstance(o, Tensor): return o.detach().to(device or o.device, copy=True)
    if isinstance(o, np.generic): return o.item()
    if isinstance(o, dict): return {k: copied(v, device) for k, v in o.items()}
    if isinstance(o, (list, L)): return [copied(v, device) for v in o]
    if type(o) is tuple: return tuple(copied(v, device) for v in o)
    return deepcopy(o)


def ours(
    opt # What should be an `Optimizer`
):
    "`opt`, which has steppers. Raises `TypeError` if it has none."
    if hasattr(opt, 'composition'): return opt
    raise TypeError(f"{type(opt).__name__} is no optimcb `Optimizer`. If it wraps one, pass that, as `opt.optimizer` of accelerate's.")


def pack(
    opt, # Optimizer to save
    device=None # Where copies of tensors go; default: where they are
) -> dict:
    "The state dict of `opt`."
    groups, places, params = [], {}, []
    for g in opt.param_groups:
        for p in g['params']:
            if places.setdefault(id(p), len(params)) == len(params): params.append(p) # a parameter that is there twice is one, as in torch
        groups.append({**copied({k: v for k, v in g.items() if k != 'params'}, device), 'params': [places[id(p)] for p in g['params']]})
    notes = {k: copied(v, device) for k, v in opt.state.items() if is_note(k)}
    return dict(state=ParamStates({**{i: _rules_to(opt, _kept(opt, p, device)) for i, p in enumerate(params)}, **notes}), param_groups=groups,
                hypers=[copied(dict(h), device) for h in opt.hypers], steppers=opt.composition.untapped,
                shapes=[_shape(p) for g in opt.param_groups for p in g['params']], **({'rules': _rules(opt)} if opt.composition.marks else {}))


def _kept(opt, p, device=None) -> dict:
    "A copy of the state of `p`, without what people look at, which is not needed to go on"
    tapped = {k for s in opt.composition.steppers for k in s.taps}
    return copied({k: v for k, v in opt.state.get(p, {}).items() if k.partition('.')[0] not in tapped}, device)


# Names of parameters

def names_of(
    opt, # Optimizer
    model=None # Model that has the parameters; default: the names that `opt` was made with
) -> list[list[str]]|None:
    "The names of each group's parameters, or None if they have none. Raises `ValueError` for a parameter that is not in `model`."
    if model is None: return _named(opt.param_groups)
    known = {id(p): k for k, p in model.named_parameters()}
    for i, p in enumerate(p for g in opt.param_groups for p in g['params']):
        if id(p) not in known: raise ValueError(f"parameter {i} of the optimizer, of shape {_shape(p)}, is not in the model: it can't be named after it.")
    return [[known[id(p)] for p in g['params']] for g in opt.param_groups]


@entry
def named_state(
    opt, # Optimizer
    model=None # Model that has the parameters; default: the names that `opt` was made with
) -> dict[str, dict]:
    "A copy of the state of each parameter, by its name. Raises `ValueError` if it has none, or has another one's, and `TypeError` for no `Optimizer`."
    names = names_of(ours(opt), model)
    if names is None: raise ValueError("the parameters have no names. Pass `model`, or make the optimizer of `model.named_parameters()`.")
    pairs = [(k, p) for g, ks in zip(opt.param_groups, names) for k, p in zip(ks, g['params'])]
    if len(dict(pairs)) < len({id(p) for _, p in pairs}): raise ValueError("several parameters have the same name. Pass `model`, whose names differ.")
    return {k: _kept(opt, p) for k, p in pairs}


def by_name(
    opt, # Optimizer that is to go on from `sd`
    sd:dict, # A state dict in torch's shape
    names:list|None # Names of each group's parameters in `opt`
) -> dict:
    """`sd` with the groups and the parameters that `opt` has, found by name where both sides have names; else as it is.

    What is on one side only is said in one warning. If no name is on both it is the order that counts, as in torch; that is said, too."""
    theirs = _named(sd['param_groups'])
    if not (names and theirs) or names == theirs: return sd
    mine = [[_plain(k) for k in ks] for ks in names]
    flat = [k for ks in mine for k in ks]
    saved = {_plain(k): (g, i) for g, ks in zip(sd['param_groups'], theirs) for k, i in zip(ks, g['params'])}
    if len({*flat}) < len(flat) or len(saved) < sum(map(len, theirs)):
        warn("several parameters have the same name: the state dict goes by the order.")
        return sd
    if saved.keys().isdisjoint(flat):
        if not all(map(_by_id, sd['param_groups'])): warn(f"the state dict has other names, as `{next(iter(saved))}` and `{flat[0]}`: it goes by the order.")
        return sd
    said = [f'{what}: {_list(ks)}.' for what, ks in (('Not there, and started afresh', {*flat} - {*saved}), ('Left', {*saved} - {*flat})) if ks]
    groups = [_regrouped(opt, i, ks, mine, saved, said) for i, ks in enumerate(mine)]
    if said: warn(f"the state dict is loaded by the parameters' names. {' '.join(said)}")
    state = {k: sd['state'].get(saved[k][1], {}) for k in flat if k in saved}
    shapes = {**{k: _shape(p) for ks, g in zip(mine, opt.param_groups) for k, p in zip(ks, g['params'])}, **dict(zip(saved, sd.get('shapes') or ()))}
    return {**sd, 'param_groups': groups, 'state': state, 'shapes': [shapes[k] for k in flat] if sd.get('shapes') else None}


def _regrouped(opt, i, ks, mine, saved, said) -> dict:
    "Group `i` as the state dict has it. If other parameters are together there, it keeps what it has of its own. Adds to what is `said`"
    there = [saved[k][0] for k in ks if k in saved]
    if not there: return {'params': ks}
    new = {k: v for k, v in there[0].items() if k not in NOT_HYPERS}
    if any({k: v for k, v in g.items() if k not in NOT_HYPERS} != new for g in there):
        said.append(f"Group {i} is of several groups there, and has the hyper-parameters of the first parameter's.")
    if any(saved[k][0] is there[0] for other in mine if other is not ks for k in other if k in saved): # which is split here
        g = opt.param_groups[i]
        own = {k: g[k] for k, v in new.items() if k in opt.hyper_names and k in g.keys() & opt.defaults.keys() and g[k] != opt.defaults[k] and g[k] != v}
        if own: said.append(f"Group {i} is a part of one there, and keeps its own {_list(own)}: set what should be as it is there.")
        new.update(own)
    return {**new, 'params': ks}


def _named(groups) -> list[list[str]]|None:
    "Names of each group's parameters"
    names = [g['params'] if _by_id(g) else g.get('param_names') for g in groups]
    return [list(ks) for ks in names] if all(ks is not None and len(ks) == len(g['params']) for ks, g in zip(names, groups)) else None


def _by_id(group) -> bool: return all(isinstance(k, str) for k in group['params']) # `torch.distributed.checkpoint` has names in the place of indices
def _plain(name) -> str: return name.replace('_orig_mod.', '').removeprefix('module.') # as it was before `torch.compile` and data parallelism


# Loading

def unpack(
    opt, # Optimizer that is to go on from `sd`
    sd:dict # A state dict: ours, fastai's, or of an optimizer of torch
) -> tuple[list[dict], set, dict]:
    "Each group's keys, the names of the hyper-parameters among them, and each parameter's state, all of them copies; raises `ValueError`."
    from optimcb.state.torch_optim import from_torch_optim  # which is made of recipes, and those of optimizers
    lists = [g['params'] for g in opt.param_groups]
    params = [p for ps in lists for p in ps]
    sd = by_name(opt, from_torch_optim(opt, in_torchs_shape(opt, sd)), sd.get('names_here') or names_of(opt))
    if 'steppers' in sd: sd = {**sd, 'steppers': [current_label(k) for k in sd['steppers']]}
    groups = sd['param_groups']
    if len(groups) != len(lists): raise ValueError(_other(f"{len(groups)} parameter groups", len(lists)))
    for i, (g, ps) in enumerate(zip(groups, lists)):
        if len(g['params']) != len(ps): raise ValueError(_other(f"{len(g['params'])} parameters in group {i}", len(ps)))
    ids = [i for g in groups for i in g['params']]
    if not set(sd['state']) <= set(ids): raise ValueError(_other(f"state for {len(sd['state'])} parameters", len(params)))
    saved = [sd['state'].get(i, {}) for i in ids]
    keep = _taken(opt, saved, sd)
    _check_shapes(params, saved, sd.get('shapes'), ids)
    if opt.composition.marks: keep, saved = _rules_from(opt, sd, keep, saved)
    states = {p: {**_marks(opt, p, s, sd), **{k: _placed(copied(v, getattr(p, 'device', None)), p, i) for k, v in s.items() if k in keep}}
              for i, p, s in zip(ids, params, saved)}
    groups = [{**_brought(g, mine), **copied({k: v for k, v in g.items() if k not in NOT_HYPERS})} for g, mine in zip(groups, opt.param_groups)]
    if not {'steppers', 'hypers'} & set(sd): groups = [from_torch(g, opt.composition.reads) for g in groups]
    for g in groups:
        for k, v in g.items(): check(k, v)
    return groups, {k for h in sd.get('hypers', []) for k in h}, {**states, **copied(sd['notes'])}


def _marks(opt, p, saved, sd) -> dict:
    "What was said of `p` before it had a state, as `do_wd`, if the state dict says nothing of it, or is torch's, which can't"
    mine = opt.state.get(p, {}) if not saved or 'hypers' not in sd else {}
    return {k: mine[k] for k in opt._keep_on_clear if k in mine}


def _rules(opt) -> dict|None: return {k: repr(d) for k, d in opt.composition.marks.items()} or None


def _rules_from(opt, sd, keep, saved) -> tuple[set, list]:
    "What rules have said is taken if they are as ours; else ours say it again. Routes are saved by their numbers: torch's flat state dicts hold no strings"
    if sd.get('steppers') != opt.composition.untapped or sd.get('rules') != _rules(opt): return keep - opt.composition.marks.keys(), saved
    routes = opt.composition.routes
    return keep, [{**s, 'route': routes[s['route']]} if isinstance(s.get('route'), int) and s['route'] < len(routes) else s for s in saved]


def _rules_to(opt, state) -> dict:
    return {**state, 'route': opt.composition.routes.index(state['route'])} if state.get('route') in opt.composition.routes else state


def _brought(saved, mine) -> dict:
    "The parameters' names, if only the checkpoint has them"
    return {'param_names': list(saved['param_names'])} if 'param_names' in saved and 'param_names' not in mine and not _by_id(saved) else {}


def in_torchs_shape(
    opt, # Optimizer that is to go on from `sd`
    sd:dict # A state dict: ours, fastai's or torch's
) -> dict:
    "`sd` with `param_groups` and `{index: state}`, and what isn't of a parameter in `notes`; raises `ValueError` if it is no state dict."
    groups, states = sd.get('param_groups', sd.get('hypers')), sd.get('state')
    if groups is None or states is None: wrong = f"it has {sorted(map(str, sd))}, not `state` and `param_groups` (torch) or `hypers` (fastai)." + (
        " Is it of `Learner.save`? Pass what is under 'opt', as `torch.load(…)['opt']`, to `load_state_dict`." if 'opt' in sd else '')
    elif not _are_groups(groups, 'param_groups' in sd): wrong = "its parameter groups are no dicts with `params`."
    else:
        if isinstance(states, (list, L)): states = dict(enumerate(states))
        if 'param_groups' not in sd: # fastai's have one state for each parameter, in order
            if len(groups) != len(opt.param_groups): raise ValueError(_other(f"{len(groups)} parameter groups", len(opt.param_groups)))
            ids = iter(range(sum(len(g['params']) for g in opt.param_groups)))
            groups = [{**h, 'params': [next(ids) for _ in g['params']]} for h, g in zip(groups, opt.param_groups)]
        ids = {i for g in groups for i in g['params']}
        notes = {k: v for k, v in states.items() if is_note(k) and k not in ids} if isinstance(states, dict) else {}
        if isinstance(states, dict) and all(isinstance(s, dict) for k, s in states.items() if k not in notes):
            states = {k: s for k, s in states.items() if k not in notes}
            return {**sd, 'param_groups': list(groups), 'state': states, 'notes': {**sd.get('notes', {}), **notes}}
        wrong = "a parameter's state in it is no dict."
    raise ValueError(f"not an optimizer's state dict: {wrong}")


def _are_groups(groups, of_torch):
    return isinstance(groups, (list, tuple, L)) and all(hasattr(g, 'keys') and (not of_torch or isinstance(g.get('params'), (list, tuple))) for g in groups)


def _placed(v, p, i):
    "A state, over the processes as its parameter is: what is saved whole is cut up, what is cut up otherwise goes from one to another"
    if not isinstance(v, Tensor) or v.shape != getattr(p, 'shape', None): return v
    ours, theirs = is_dtensor(p), is_dtensor(v)
    if theirs and not ours:
        raise ValueError(f"the state dict has a sharded state for parameter {i}, which is not sharded. Save it whole, with `get_optimizer_state_dict(…, "
                         "options=StateDictOptions(full_state_dict=True))` of `torch.distributed.checkpoint.state_dict`.")
    if not ours or theirs and (v.device_mesh, v.placements) == (p.device_mesh, p.placements): return v
    if theirs: return v.redistribute(p.device_mesh, p.placements)
    from torch.distributed.tensor import distribute_tensor
    return distribute_tensor(v, p.device_mesh, p.placements, src_data_rank=None) # every process has it whole


def _check_shapes(params, saved, shapes, ids):
    "Ours record the parameters' shapes; in others' a state with as many dimensions as its parameter must have its shape"
    for i, (p, s) in enumerate(zip(params, saved)):
        mine = _shape(p)
        theirs = ([list(shapes[i])] if shapes else
                  [list(v.shape) for v in s.values() if isinstance(v, Tensor) and mine and v.dim() == len(mine)])
        for shape in theirs:
            if shape != mine: raise ValueError(_other(f"shape {shape} for parameter {ids[i]}", mine))


def _shape(p) -> list: return list(getattr(p, 'shape', ()))
def _other(theirs, mine): return f"the state dict has {theirs}, but the optimizer has {mine}: they are of different models or splitters."


def _taken(opt, saved, sd) -> set:
    "Names of the state that `opt` can use. Says what it leaves, if `sd` is of other steppers; raises `ValueError` if it is of none that we know"
    mine, theirs = opt.composition, sd.get('steppers')
    there = {k for s in saved for k in s}
    if getattr(opt, '_own_step', None): return there # it knows what it reads
    alone = None if theirs is None else _differ(theirs, mine.untapped, any('wd' not in g or g['wd'] != 0 for g in sd['param_groups']))
    if alone == '': return there
    keep = {k for k in there if k in mine.reads or k in opt._keep_on_clear or k == TRAINED}
    tensors = {k for s in saved for k, v in s.items() if isinstance(v, Tensor) and v.dim()}
    if theirs is None and tensors <= keep: return there
    if theirs is None and not tensors & keep:
        raise ValueError(f"the state dict is of another optimizer, with state {_list(there)}, which these steppers don't read: {', '.join(mine.labels)}.")
    kept = {k for s in mine.steppers for k in s.mentions if k in s.names} - set(opt.hypers[0])
    lacks = {k for s in saved if s.keys() - set(opt._keep_on_clear) for k in kept - s.keys()} - mine.marks.keys()
    warn(f"the state dict is of other steppers ({sd.get('of', '')}{alone or 'unknown'}). Taken: {_list(keep)}; left: {_list(there - keep)}; "
         f"not there, and started afresh: {_list(lacks)}.")
    return keep


TO_HAVE = dict(l2_reg="`decouple_wd=False`", weight_decay="`decouple_wd=True`", debias_eps="`insert` it before `adam_step` or `radam_step`")


def _differ(theirs, mine, decays) -> str:
    "In which steppers, by their labels, and how ours could be as theirs. Nothing is decayed if not `decays`"
    theirs, mine = ([k for k in ks if decays or k not in ('l2_reg', 'weight_decay')] for ks in (theirs, mine))
    if theirs == mine: return ''
    alone, ours_alone = [k for k in theirs if k not in mine], [k for k in mine if k not in theirs]
    if not alone and not ours_alone: return f"in another order: {', '.join(theirs)}"
    said = [f"{whose} alone: {', '.join(ks)}" for whose, ks in (('theirs', alone), ('ours', ours_alone)) if ks]
    return '; '.join(said + [f"to have `{k}`: {TO_HAVE[k]}" for k in alone if TO_HAVE.keys() >= {*alone}])


def _list(names): return ', '.join(sorted(names)) or 'nothing'
