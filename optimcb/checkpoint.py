"State dicts: torch's shape with fastai's keys beside it, always copies, checked whole before anything is loaded."
import warnings
from collections import OrderedDict
from copy import deepcopy

import numpy as np
from fastcore.foundation import L
from torch import Tensor

from optimcb.hypers import NOT_HYPERS, check, from_torch

__all__ = ['ParamStates', 'is_note', 'copied', 'pack', 'unpack']


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


def pack(
    opt # Optimizer to save
) -> dict:
    "The state dict of `opt`."
    groups, places, params = [], {}, []
    tapped = {k for s in opt.composition.steppers for k in s.taps} # what people look at is not needed to go on
    for g in opt.param_groups:
        for p in g['params']:
            if places.setdefault(id(p), len(params)) == len(params): params.append(p) # a parameter that is there twice is one, as in torch
        groups.append({**copied({k: v for k, v in g.items() if k != 'params'}), 'params': [places[id(p)] for p in g['params']]})
    states = [{k: v for k, v in opt.state.get(p, {}).items() if k.partition('.')[0] not in tapped} for p in params]
    states = {**dict(enumerate(states)), **{k: v for k, v in opt.state.items() if is_note(k)}}
    return dict(state=ParamStates({k: copied(s) for k, s in states.items()}), param_groups=groups,
                hypers=[copied(dict(h)) for h in opt.hypers], steppers=opt.composition.untapped,
                shapes=[_shape(p) for g in opt.param_groups for p in g['params']])


def unpack(
    opt, # Optimizer that is to go on from `sd`
    sd:dict # A state dict, ours or fastai's
) -> tuple[list[dict], set, dict]:
    "Each group's keys, the names of the hyper-parameters among them, and each parameter's state, all of them copies; raises `ValueError`."
    lists = [g['params'] for g in opt.param_groups]
    params = [p for ps in lists for p in ps]
    if 'state' not in sd or not {'param_groups', 'hypers'} & set(sd):
        raise ValueError(f"not an optimizer's state dict: it has {sorted(map(str, sd))}, not `state` and `param_groups` (torch) or `hypers` (fastai).")
    groups = list(sd.get('param_groups', sd.get('hypers')))
    if not all(hasattr(g, 'keys') and ('params' in g or 'param_groups' not in sd) for g in groups):
        raise ValueError("not an optimizer's state dict: its parameter groups are no dicts with `params`.")
    if len(groups) != len(lists): raise ValueError(_other(f"{len(groups)} parameter groups", len(lists)))
    ids = list(range(len(params)))
    if 'param_groups' in sd:
        for i, (g, ps) in enumerate(zip(groups, lists)):
            if len(g['params']) != len(ps): raise ValueError(_other(f"{len(g['params'])} parameters in group {i}", len(ps)))
        ids = [i for g in groups for i in g['params']]
    saved = dict(enumerate(sd['state'])) if isinstance(sd['state'], (list, L)) else sd['state']
    notes = {k: copied(v) for k, v in saved.items() if is_note(k)}
    saved = {k: v for k, v in saved.items() if k not in notes}
    if not set(saved) <= set(ids): raise ValueError(_other(f"state for {len(saved)} parameters", len(params)))
    saved = [saved.get(i, {}) for i in ids]
    if not all(isinstance(s, dict) for s in saved): raise ValueError("not an optimizer's state dict: a parameter's state in it is no dict.")
    _check_shapes(params, saved, sd.get('shapes'))
    keep = _taken(opt, saved, sd)
    states = {p: {k: _placed(copied(v, getattr(p, 'device', None)), p, i) for k, v in s.items() if k in keep} for i, (p, s) in enumerate(zip(params, saved))}
    groups = [{**_names(g, mine), **copied({k: v for k, v in dict(g).items() if k not in NOT_HYPERS})} for g, mine in zip(groups, opt.param_groups)]
    if not {'steppers', 'hypers'} & set(sd): groups = [from_torch(g, opt.composition.reads) for g in groups]
    for g in groups:
        for k, v in g.items(): check(k, v)
    return groups, {k for h in sd.get('hypers', []) for k in h}, {**states, **notes}


def _names(saved, mine):
    "The parameters' names, if only the checkpoint has them"
    return {'param_names': list(saved['param_names'])} if 'param_names' in saved and 'param_names' not in mine else {}


def _check_shapes(params, saved, shapes):
    "Ours record the parameters' shapes; in others' a state with as many dimensions as its parameter must have its shape"
    for i, (p, s) in enumerate(zip(params, saved)):
        mine = _shape(p)
        theirs = ([list(shapes[i])] if shapes else
                  [list(v.shape) for v in s.values() if isinstance(v, Tensor) and mine and v.dim() == len(mine)])
        for shape in theirs:
            if shape != mine: raise ValueError(_other(f"shape {shape} for parameter {i}", mine))


def _placed(v, p, i):
    "A state, over the processes as its parameter is: what is saved whole is cut up, what is cut up otherwise goes from one to another"
    if not isinstance(v, Tensor) or v.shape != getattr(p, 'shape', None): return v
    ours, theirs = (hasattr(type(t), 'full_tensor') for t in (p, v))
    if theirs and not ours:
        raise ValueError(f"the state dict has a sharded state for parameter {i}, which is not sharded. Save it whole, with `get_optimizer_state_dict(…, "
                         "options=StateDictOptions(full_state_dict=True))` of `torch.distributed.checkpoint.state_dict`.")
    if not ours or theirs and (v.device_mesh, v.placements) == (p.device_mesh, p.placements): return v
    if theirs: return v.redistribute(p.device_mesh, p.placements)
    from torch.distributed.tensor import distribute_tensor
    return distribute_tensor(v, p.device_mesh, p.placements, src_data_rank=None) # every process has it whole


def _shape(p) -> list: return list(getattr(p, 'shape', ()))
def _other(theirs, mine): return f"the state dict has {theirs}, but the optimizer has {mine}: they are of different models or splitters."


def _taken(opt, saved, sd) -> set:
    "Names of the state that `opt` can use. Says what it leaves, if `sd` is of other steppers; raises `ValueError` if it is of none that we know"
    mine, theirs = opt.composition, sd.get('steppers')
    there = {k for s in saved for k in s}
    if theirs is not None and list(theirs) == mine.untapped: return there
    keep = {k for k in there if k in mine.reads or k in opt._keep_on_clear}
    tensors = {k for s in saved for k, v in s.items() if isinstance(v, Tensor) and v.dim()}
    if theirs is None and tensors <= keep: return there
    if theirs is None and not tensors & keep:
        raise ValueError(f"the state dict is of another optimizer, with state {_list(there)}, which these steppers don't read: {', '.join(mine.labels)}.")
    kept = {k for s in mine.steppers for k in s.mentions if k in s.names}
    lacks = kept - there - set(opt.hypers[0]) if there - set(opt._keep_on_clear) else set()
    warnings.warn(f"the state dict is of other steppers ({', '.join(theirs or ['unknown'])}). Taken: {_list(keep)}; left: {_list(there - keep)}; "
                  f"not there, and started afresh: {_list(lacks)}.", stacklevel=4)
    return keep


def _list(names): return ', '.join(sorted(names)) or 'nothing'
