"Restore an optimizer from a state dict, or clear its state."
from fastcore.foundation import L

from optimcb.engines.masks import set_pending_masks
from optimcb.state.eval_weights import forget
from optimcb.state.state_dict import is_note, unpack

__all__ = ['clear_state', 'hooked', 'restore']


def clear_state(
    opt # Optimizer
) -> None:
    "Clear the state: see `Optimizer.clear_state`."
    forget(opt)
    if opt.composition.masks: set_pending_masks(opt)
    def kept(state): return {k: state[k] for k in opt._keep_on_clear if k in state}
    _replace_state(opt, {p: s if is_note(p) else kept(s) for p, s in opt.state.items()})
    opt.forget_runner()


def restore(
    opt, # Optimizer
    sd:dict # State dict of an optimizer: ours, fastai's, or torch's
) -> None:
    "Load a state dict, without hooks (see `Optimizer.load_state_dict`), or raise `ValueError` unchanged."
    cbs, choice = opt.cbs, opt._choice and opt._choice.copy()
    if choice is not None:
        chosen = opt._choice.steppers_of(sd, opt.composition)
        if chosen is not None: opt.cbs = L(chosen)
    try: groups, hyper_names, states = unpack(opt, sd)
    except BaseException:
        opt.cbs, opt._choice = cbs, choice
        raise
    forget(opt)
    if opt.composition.masks: set_pending_masks(opt)
    for g, new in zip(opt.param_groups, groups): g.update(new)
    if any('param_names' in g for g in groups): opt._names_brought = True
    opt.hyper_names |= hyper_names
    _replace_state(opt, states)
    # in the saved optimizer, these values chose no steppers
    if choice is not None: opt._choice.ignore(opt._choice.names, opt.param_groups)
    opt.forget_runner()


def _replace_state(opt, states):
    "Replace all state, except empty ones, which torch's checkpoints create for parameters without state"
    opt.state.clear()
    opt.state.update({p: s for p, s in states.items() if s or is_note(p)})


def hooked(
    hooks:dict, # Functions of an optimizer and a state dict, which may return another one
    opt, # Optimizer
    sd:dict # State dict
) -> dict:
    "Return a state dict after torch's hooks have run."
    for hook in hooks.values():
        new = hook(opt, sd)
        if new is not None: sd = new
    return sd
