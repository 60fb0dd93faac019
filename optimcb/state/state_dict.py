"State dicts in torch's layout plus fastai's keys, always as copies."
from torch import Tensor

from optimcb._compat.dtensors import is_dtensor
from optimcb._compat.renamed import current_label
from optimcb.composition.storage import convert_state, names_stored
from optimcb.hypers.torch_names import from_torch
from optimcb.hypers.values import NOT_HYPERS, check
from optimcb.state.copies import ParamStates, copied, is_note, kept_states, shape_of
from optimcb.state.matching import check_groups, check_shapes, in_torchs_shape, usable_state
from optimcb.state.param_names import by_name, has_names_for_indices, names_of
from optimcb.state.torch_optim import from_torch_optim

__all__ = ['pack', 'unpack']


# Saving

def pack(
    opt, # Optimizer to save
    device=None # Device for copies of tensors; default: their own
) -> dict:
    "Return the state dict of `opt`."
    all_params = [p for g in opt.param_groups for p in g['params']]
    params = {id(p): p for p in all_params} # a duplicate has one index, as in torch
    indices, params = {k: i for i, k in enumerate(params)}, list(params.values())
    groups = []
    for g in opt.param_groups:
        own = copied({k: v for k, v in g.items() if k != 'params'}, device)
        groups.append({**own, 'params': [indices[id(p)] for p in g['params']]})
    states, routes = kept_states(opt, params, device), opt.composition.routes
    if routes: states = [_route_to_number(routes, s) for s in states]
    notes = {k: copied(v, device) for k, v in opt.state.items() if is_note(k)}
    rules = _rules(opt)
    return dict(
        state=ParamStates({**dict(enumerate(states)), **notes}),
        param_groups=groups,
        hypers=[copied(dict(h), device) for h in opt.hypers],
        steppers=opt.composition.untapped,
        shapes=list(map(shape_of, all_params)),
        **({'rules': rules} if rules else {}))


def _rules(opt) -> dict|None: return {k: repr(d) for k, d in opt.composition.masks.items()} or None


def _route_to_number(routes, state) -> dict:
    "Replace a route by its number: torch's flat state dicts hold no strings."
    return {**state, 'route': routes.index(state['route'])} if state.get('route') in routes else state


# Loading

def unpack(
    opt, # Optimizer that loads `sd`
    sd:dict # A state dict: ours, fastai's, or that of a torch optimizer
) -> tuple[list[dict], set, dict]:
    """Read a state dict for `opt`. Raises `ValueError` if it doesn't fit.

    Returns copies: each group's keys, the names of its hyper-parameters, and each parameter's state."""
    sd = from_torch_optim(opt, in_torchs_shape(opt, sd))
    sd = by_name(opt, sd, sd.get('names_here') or names_of(opt))
    if 'steppers' in sd: sd = {**sd, 'steppers': [current_label(k) for k in sd['steppers']]}
    check_groups(opt, sd)
    params = [p for g in opt.param_groups for p in g['params']]
    ids = [i for g in sd['param_groups'] for i in g['params']]
    saved = [sd['state'].get(i, {}) for i in ids]
    keep = usable_state(opt, saved, sd)
    check_shapes(params, saved, sd.get('shapes'), ids)
    if opt.composition.masks: keep, saved = _saved_masks(opt, sd, keep, saved)
    states, stored_there = {}, names_stored(sd.get('steppers', ()))
    for i, p, s in zip(ids, params, saved):
        device = getattr(p, 'device', None)
        new = {k: _placed(copied(v, device), p, i) for k, v in s.items() if k in keep}
        states[p] = {**_own_marks(opt, p, s, sd), **new}
        convert_state(states[p], p, opt.composition.stores, stored_there)
    groups = _groups(opt, sd)
    return groups, {k for h in sd.get('hypers', []) for k in h}, {**states, **copied(sd['notes'])}


def _groups(opt, sd) -> list[dict]:
    "Copy each group's hyper-parameters by our names. Raises `ValueError` for invalid values."
    groups = []
    for g, mine in zip(sd['param_groups'], opt.param_groups):
        hypers = copied({k: v for k, v in g.items() if k not in NOT_HYPERS})
        groups.append({**_brought_names(g, mine), **hypers})
    if not {'steppers', 'hypers'} & set(sd): groups = [from_torch(g, opt.composition.reads) for g in groups]
    for g in groups:
        for k, v in g.items(): check(k, v)
    return groups


def _own_marks(opt, p, saved, sd) -> dict:
    "Return flags of `p`, such as `do_wd`, that a state dict doesn't cover: torch's, or one without `p`."
    mine = opt.state.get(p, {}) if not saved or 'hypers' not in sd else {}
    return {k: mine[k] for k in opt._keep_on_clear if k in mine}


def _saved_masks(opt, sd, keep, saved) -> tuple[set, list]:
    "Reuse saved masks if steppers and rules match; else drop them, so that rules are evaluated again."
    matches = sd.get('steppers') == opt.composition.untapped and sd.get('rules') == _rules(opt)
    if not matches: return keep - opt.composition.masks.keys(), saved
    routes = opt.composition.routes
    def named(s):
        i = s.get('route')
        return {**s, 'route': routes[i]} if isinstance(i, int) and i < len(routes) else s
    return keep, [named(s) for s in saved]


def _brought_names(saved, mine) -> dict:
    "Return the parameters' names, if only the state dict has them."
    is_new = 'param_names' in saved and 'param_names' not in mine and not has_names_for_indices(saved)
    return {'param_names': list(saved['param_names'])} if is_new else {}


def _placed(v, p, i):
    """Shard a state over the processes like its parameter.

    Raises `ValueError` for a sharded state of an unsharded parameter."""
    if not isinstance(v, Tensor) or v.shape != getattr(p, 'shape', None): return v
    ours, theirs = is_dtensor(p), is_dtensor(v)
    if theirs and not ours:
        raise ValueError(f"the state dict has a sharded state for parameter {i}, which is not sharded. "
                         "Save it whole, with `get_optimizer_state_dict(…, "
                         "options=StateDictOptions(full_state_dict=True))` "
                         "of `torch.distributed.checkpoint.state_dict`.")
    if not ours or theirs and (v.device_mesh, v.placements) == (p.device_mesh, p.placements): return v
    if theirs: return v.redistribute(p.device_mesh, p.placements)
    from torch.distributed.tensor import distribute_tensor
    return distribute_tensor(v, p.device_mesh, p.placements, src_data_rank=None) # every process has all of it
