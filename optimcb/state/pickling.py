"Attributes of an optimizer for pickles and wrappers."

__all__ = ['adopt_state', 'picklable', 'renewed']


# Attributes that are made again when needed; a scheduler puts `step` into the instance
NOT_PICKLED = frozenset({'step', '_composition', '_runner', '_in_backward', '_put_in', '_warned_unread',
                         '_zeroed'})
RENAMED = {'_said_of': '_pending_masks'} # attributes in pickles of earlier versions


def picklable(
    opt # Optimizer
) -> dict:
    "Return all attributes except hooks, as in torch, and those that are recomputed when needed."
    return {k: v for k, v in _attributes(opt).items() if not k.endswith('_hooks')}


def renewed(
    state:dict # Attributes from a pickle, perhaps of an earlier version
) -> dict:
    "Return the attributes by their current names."
    return {RENAMED.get(k, k): v for k, v in state.items()}


def adopt_state(
    wrapper, # Optimizer that wraps another one
    opt, # Optimizer to wrap, stored in `.opt`
    called:str # Name of the wrapper
) -> None:
    "Give `wrapper` the parameters, hyper-parameters and state of `opt`, but its own engine."
    wrapper.__dict__.update(_attributes(opt))
    if wrapper._choice is not None: wrapper._choice = wrapper._choice.copy()
    wrapper.opt, wrapper.called = opt, f'{called} of {opt._title}'


def _attributes(opt) -> dict:
    attributes = {**opt.__dict__, 'state': opt.state} # which waits for a GPU
    return {k: v for k, v in attributes.items() if k not in NOT_PICKLED}
