"Parameter names, by which state is shown, and loaded if the order or the groups differ."
from torch import Tensor

from optimcb._compat.boundary import entry
from optimcb._compat.warn import warn
from optimcb.hypers.values import NOT_HYPERS
from optimcb.state.copies import kept_states, ours, shape_of

__all__ = ['by_name', 'has_names_for_indices', 'listed', 'named_state', 'names_of']


def names_of(
    opt, # Optimizer
    model=None # Model to take names from; default: the names that `opt` was made with
) -> list[list[str]]|None:
    """Return the names of each group's parameters, or None without names.

    Raises `ValueError` for a parameter that is not in `model`."""
    if model is None: return _group_names(opt.param_groups)
    known = {id(p): k for k, p in model.named_parameters()}
    for i, p in enumerate(p for g in opt.param_groups for p in g['params']):
        if id(p) in known: continue
        raise ValueError(f"parameter {i} of the optimizer, of shape {shape_of(p)}, is not in the model: "
                         "it can't be named after it.")
    return [[known[id(p)] for p in g['params']] for g in opt.param_groups]


@entry
def named_state(
    opt, # Optimizer
    model=None # Model to take names from; default: the names that `opt` was made with
) -> dict[str, dict[str, Tensor]]:
    """Return a copy of each parameter's state, by parameter name.

    Raises `ValueError` for missing or duplicate names, `TypeError` for other optimizers."""
    names = names_of(ours(opt), model)
    if names is None:
        raise ValueError("the parameters have no names. Pass `model`, or make the optimizer of "
                         "`model.named_parameters()`.")
    pairs = [(k, p) for g, ks in zip(opt.param_groups, names) for k, p in zip(ks, g['params'])]
    if len(dict(pairs)) < len({id(p) for _, p in pairs}):
        raise ValueError("several parameters have the same name. Pass `model`, whose names differ.")
    return dict(zip([k for k, _ in pairs], kept_states(opt, [p for _, p in pairs])))


def by_name(
    opt, # Optimizer that loads `sd`
    sd:dict, # A state dict in torch's layout
    names:list|None # Names of each group's parameters in `opt`
) -> dict:
    """Rearrange a state dict to the groups and parameters of `opt`, matched by name if both have names.

    One warning lists the names that only one side has. If they have no name in common, parameters are
    matched by order, as in torch, with a warning."""
    theirs = _group_names(sd['param_groups'])
    if not (names and theirs) or names == theirs: return sd
    mine = [[_plain(k) for k in ks] for ks in names]
    flat = [k for ks in mine for k in ks]
    saved = {_plain(k): (g, i) for g, ks in zip(sd['param_groups'], theirs) for k, i in zip(ks, g['params'])}
    if len({*flat}) < len(flat) or len(saved) < sum(map(len, theirs)):
        warn("several parameters have the same name: the state dict goes by the order.")
        return sd
    if saved.keys().isdisjoint(flat):
        if not all(map(has_names_for_indices, sd['param_groups'])):
            warn(f"the state dict has other names, as `{next(iter(saved))}` and `{flat[0]}`: it goes by the "
                 "order.")
        return sd

    notes = [] # for the warning
    missing, left = {*flat} - {*saved}, {*saved} - {*flat}
    if missing: notes.append(f"Not there, and started afresh: {listed(missing)}.")
    if left: notes.append(f"Left: {listed(left)}.")
    groups = [_regrouped(opt, i, ks, mine, saved, notes) for i, ks in enumerate(mine)]
    if notes: warn(f"the state dict is loaded by the parameters' names. {' '.join(notes)}")
    state = {k: sd['state'].get(saved[k][1], {}) for k in flat if k in saved}
    return {**sd, 'param_groups': groups, 'state': state, 'shapes': _shapes(opt, sd, mine, saved)}


def _shapes(opt, sd, mine, saved) -> list|None:
    "List the shapes in the order of the parameters of `opt`: the saved ones, or else the parameters' own."
    if not sd.get('shapes'): return None
    shapes = {k: shape_of(p) for ks, g in zip(mine, opt.param_groups) for k, p in zip(ks, g['params'])}
    shapes.update(zip(saved, sd['shapes']))
    return [shapes[k] for ks in mine for k in ks]


def _regrouped(opt, i, ks, mine, saved, notes) -> dict:
    """Assemble group `i` from the saved groups that contain its parameters. Adds to `notes`.

    If it is part of a saved group, it keeps the hyper-parameters that were set to other values than the
    default."""
    there = [saved[k][0] for k in ks if k in saved]
    if not there: return {'params': ks}
    new = _hypers(there[0])
    if any(_hypers(g) != new for g in there):
        notes.append(f"Group {i} is of several groups there, and has the hyper-parameters of the first "
                     "parameter's.")
    in_others = [k for other in mine if other is not ks for k in other if k in saved]
    is_split = any(saved[k][0] is there[0] for k in in_others)
    if is_split:
        own = _own_hypers(opt, opt.param_groups[i], new)
        if own:
            notes.append(f"Group {i} is a part of one there, and keeps its own {listed(own)}: "
                         "set those that should match it.")
        new.update(own)
    return {**new, 'params': ks}


def _hypers(group) -> dict: return {k: v for k, v in group.items() if k not in NOT_HYPERS}


def _own_hypers(opt, group, saved) -> dict:
    "Return a group's hyper-parameters that differ from both the defaults and the saved values."
    known = [k for k in saved if k in opt.hyper_names and k in group.keys() & opt.defaults.keys()]
    return {k: group[k] for k in known if group[k] != opt.defaults[k] and group[k] != saved[k]}


def _group_names(groups) -> list[list[str]]|None:
    "Return the names of each group's parameters, or None if a group has none."
    names = [g['params'] if has_names_for_indices(g) else g.get('param_names') for g in groups]
    are_there = all(ks is not None and len(ks) == len(g['params']) for ks, g in zip(names, groups))
    return [list(ks) for ks in names] if are_there else None


def has_names_for_indices(
    group:dict # Group of a state dict
) -> bool:
    "Does a group list its parameters by name, as in state dicts of `torch.distributed.checkpoint`?"
    return all(isinstance(k, str) for k in group['params'])


def _plain(name) -> str:
    "Return a name without the prefixes of `torch.compile` and data parallelism."
    return name.replace('_orig_mod.', '').removeprefix('module.')


def listed(
    names # Strings
) -> str:
    "Return names in alphabetical order, for a message."
    return ', '.join(sorted(names)) or 'nothing'
