"Check that a state dict fits an optimizer, by form, shapes and steppers, before anything is loaded."
from fastcore.foundation import L
from torch import Tensor

from optimcb._compat.warn import warn
from optimcb.state.copies import is_note, shape_of
from optimcb.state.eval_weights import TRAINED
from optimcb.state.param_names import listed

__all__ = ['check_groups', 'check_shapes', 'in_torchs_shape', 'usable_state']


def in_torchs_shape(
    opt, # Optimizer that loads `sd`
    sd:dict # A state dict: ours, fastai's or torch's
) -> dict:
    """Convert a state dict to torch's layout: `param_groups`, `{index: state}`, `notes` without a parameter.

    Raises `ValueError` for anything but a state dict."""
    groups, states = sd.get('param_groups', sd.get('hypers')), sd.get('state')
    if groups is None or states is None:
        of_learner = (" Is it of `Learner.save`? Pass what is under 'opt', "
                      "as `torch.load(…)['opt']`, to `load_state_dict`.")
        hint = of_learner if 'opt' in sd else ''
        raise _no_state_dict(f"it has {sorted(map(str, sd))}, not `state` and `param_groups` (torch) or "
                             f"`hypers` (fastai).{hint}")
    if not _are_groups(groups, 'param_groups' in sd):
        raise _no_state_dict("its parameter groups are no dicts with `params`.")
    if isinstance(states, (list, L)): states = dict(enumerate(states))
    if 'param_groups' not in sd: groups = _with_indices(opt, groups)
    if not isinstance(states, dict): raise _no_state_dict("a parameter's state in it is no dict.")
    ids = {i for g in groups for i in g['params']}
    notes = {k: v for k, v in states.items() if is_note(k) and k not in ids}
    states = {k: s for k, s in states.items() if k not in notes}
    if not all(isinstance(s, dict) for s in states.values()):
        raise _no_state_dict("a parameter's state in it is no dict.")
    return {**sd, 'param_groups': list(groups), 'state': states, 'notes': {**sd.get('notes', {}), **notes}}


def _no_state_dict(why) -> ValueError: return ValueError(f"not an optimizer's state dict: {why}")


def _are_groups(groups, of_torch) -> bool:
    if not isinstance(groups, (list, tuple, L)): return False
    def is_group(g):
        return hasattr(g, 'keys') and (not of_torch or isinstance(g.get('params'), (list, tuple)))
    return all(map(is_group, groups))


def _with_indices(opt, groups) -> list[dict]:
    "Add parameter indices to fastai's groups, whose state dicts list a state for each parameter in order."
    if len(groups) != len(opt.param_groups):
        raise _misfit(f"{len(groups)} parameter groups", len(opt.param_groups))
    ids = iter(range(sum(len(g['params']) for g in opt.param_groups)))
    return [{**h, 'params': [next(ids) for _ in g['params']]} for h, g in zip(groups, opt.param_groups)]


def check_groups(
    opt, # Optimizer that loads `sd`
    sd:dict # A state dict in torch's layout
):
    "Raise `ValueError` if the groups don't match, or if there is state for parameters without a group."
    groups, lists = sd['param_groups'], [g['params'] for g in opt.param_groups]
    if len(groups) != len(lists): raise _misfit(f"{len(groups)} parameter groups", len(lists))
    for i, (g, ps) in enumerate(zip(groups, lists)):
        if len(g['params']) != len(ps): raise _misfit(f"{len(g['params'])} parameters in group {i}", len(ps))
    ids = {i for g in groups for i in g['params']}
    if not set(sd['state']) <= ids:
        raise _misfit(f"state for {len(sd['state'])} parameters", sum(map(len, lists)))


def check_shapes(
    params:list, # Parameters
    saved:list, # State of each in a state dict
    shapes:list|None, # Shape of each in the state dict, if it has them
    ids:list # Index or name of each in the state dict
):
    """Raise `ValueError` if a parameter has a different shape in the state dict.

    Ours records shapes; in others, state with as many dimensions as its parameter must have its shape."""
    for i, (p, s) in enumerate(zip(params, saved)):
        mine = shape_of(p)
        tensors = [v for v in s.values() if isinstance(v, Tensor)]
        if shapes: theirs = [list(shapes[i])]
        else: theirs = [list(v.shape) for v in tensors if mine and v.dim() == len(mine)]
        for shape in theirs:
            if shape != mine: raise _misfit(f"shape {shape} for parameter {ids[i]}", mine)


def _misfit(theirs, mine) -> ValueError:
    return ValueError(f"the state dict has {theirs}, but the optimizer has {mine}: "
                      "they are of different models or splitters.")


def usable_state(
    opt, # Optimizer that loads `sd`
    saved:list, # State of each parameter
    sd:dict # A state dict in torch's layout
) -> set:
    """Return the names of state that `opt` can use.

    Warns about the rest if the state dict comes from other steppers. Raises `ValueError` if `opt` can use no
    state, and the state dict doesn't name its steppers."""
    mine, theirs = opt.composition, sd.get('steppers')
    there = {k for s in saved for k in s}
    if getattr(opt, '_own_step', None): return there # it knows which state it reads
    decays = any('wd' not in g or g['wd'] != 0 for g in sd['param_groups'])
    difference = None if theirs is None else _difference(theirs, mine.untapped, decays)
    if difference == '': return there
    keep = {k for k in there if k in mine.reads or k in opt._keep_on_clear or k == TRAINED}
    tensors = {k for s in saved for k, v in s.items() if isinstance(v, Tensor) and v.dim()}
    if theirs is None and tensors <= keep: return there
    if theirs is None and not tensors & keep:
        raise ValueError(f"the state dict is of another optimizer, with state {listed(there)}, "
                         f"which these steppers don't read: {', '.join(mine.labels)}.")
    lacks = _missing_state(opt, saved)
    warn(f"the state dict is of other steppers ({sd.get('of', '')}{difference or 'unknown'}). Taken: "
         f"{listed(keep)}; left: {listed(there - keep)}; not there, and started afresh: {listed(lacks)}.")
    return keep


def _missing_state(opt, saved) -> set:
    "Return the names of state that the steppers keep but some parameter lacks, though it has other state."
    mine = opt.composition
    kept = {k for s in mine.steppers for k in s.mentions if k in s.names} - set(opt.hypers[0])
    started = [s for s in saved if s.keys() - set(opt._keep_on_clear)]
    return {k for s in started for k in kept - s.keys()} - mine.masks.keys()


ADVICE = { # by stepper, how to add it
    'l2_reg': "`decouple_wd=False`",
    'weight_decay': "`decouple_wd=True`",
    'debias_eps': "`insert` it before `adam_step` or `radam_step`"}


def _difference(theirs, mine, decays) -> str:
    "Describe the difference between two lists of labels. Decay steppers only count if weights are decayed."
    theirs, mine = ([k for k in ks if decays or k not in ('l2_reg', 'weight_decay')] for ks in (theirs, mine))
    if theirs == mine: return ''
    only_theirs, only_mine = [k for k in theirs if k not in mine], [k for k in mine if k not in theirs]
    if not only_theirs and not only_mine: return f"in another order: {', '.join(theirs)}"
    notes = []
    if only_theirs: notes.append(f"theirs alone: {', '.join(only_theirs)}")
    if only_mine: notes.append(f"ours alone: {', '.join(only_mine)}")
    if ADVICE.keys() >= {*only_theirs}: notes += [f"to have `{k}`: {ADVICE[k]}" for k in only_theirs]
    return '; '.join(notes)
