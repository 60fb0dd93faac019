"""Special cases for code around an optimizer: subclasses, schedulers, GradScaler, accelerate, fastai
callbacks, and torch's ZeRO."""
import sys
from collections.abc import Callable
from inspect import unwrap
from types import CodeType

import torch
from torch.optim.lr_scheduler import OneCycleLR

from optimcb._compat.cpython import frames_above, module_of
from optimcb._compat.warn import calling_frame

__all__ = ['asked_by_fastai', 'asked_by_grad_scaler', 'made_by_zero', 'one_cycle_is_over', 'own_step_of',
           'zero_refusal']


BETWEEN = 'optimcb.', 'torch._dynamo.' # modules between who asks for a property and what answers


def own_step_of(
    cls:type, # `Optimizer` or a subclass
    ours:Callable # `Optimizer.step`
) -> str|None:
    "Return the name of the class whose `step` never calls `ours`, as by `super().step`, or None."
    for c in cls.__mro__:
        if 'step' not in vars(c): continue
        step = unwrap(vars(c)['step'])
        if step is unwrap(ours): return None
        if not _calls_step_of(step, {'super', *(o.__name__ for o in cls.__mro__)}): return c.__name__


def _calls_step_of(step, names) -> bool:
    "Does a method call `step` on an object with one of these names?"
    todo, found = [getattr(step, '__code__', None)], set()
    while todo:
        code = todo.pop()
        if code is None: continue
        found.update(code.co_names)
        todo += [o for o in code.co_consts if isinstance(o, CodeType)]
    return 'step' in found and not found.isdisjoint(names)


def asked_by_grad_scaler(
    opt, # Optimizer
    ours:Callable # `Optimizer.step`
) -> bool:
    """Is the caller torch's GradScaler, and is the optimizer stepped by `ours`?

    Others who ask, like Lightning, want to know whether nobody else may unscale and clip gradients: they may.
    A wrapper with a step of its own would not unscale. Nor would accelerate's, which it puts into the
    instance to see whether GradScaler calls it."""
    modules = map(module_of, frames_above())
    asks = next(k for k in modules if not k.startswith(BETWEEN)) # the property's caller
    step = getattr(opt.step, '__func__', opt.step)
    return asks == torch.amp.GradScaler.__module__ and unwrap(step) is unwrap(ours) and 'cbs' in opt.__dict__


def asked_by_fastai() -> bool:
    """Is a fastai callback setting a hyper-parameter?

    One-cycle schedules set `mom`, which does nothing without momentum."""
    return module_of(calling_frame()).startswith('fastai.callback')


def one_cycle_is_over() -> bool:
    """Does torch's `OneCycleLR` write what comes after its last step?

    A loop steps it once more than it has values. A linear cycle then goes beyond its end, below 0 perhaps."""
    schedulers = [o.f_locals.get('self') for o in frames_above() if module_of(o) == OneCycleLR.__module__]
    return any(isinstance(o, OneCycleLR) and o.last_epoch >= o.total_steps for o in schedulers)


def made_by_zero() -> bool:
    """Is torch's `ZeroRedundancyOptimizer` creating this optimizer?

    Then the optimizer gets only some of the parameters, perhaps none."""
    zero = sys.modules.get('torch.distributed.optim.zero_redundancy_optimizer')
    makes = zero and getattr(zero.ZeroRedundancyOptimizer, '_init_local_optimizer', None)
    return bool(makes) and any(o.f_code is makes.__code__ for o in frames_above())


def zero_refusal(
    steppers:list # Steppers that need all parameters
) -> str:
    "Explain why `ZeroRedundancyOptimizer` can't run some steppers, and what to do instead."
    names = ' and '.join(f'`{s}`' for s in steppers)
    return (f"`ZeroRedundancyOptimizer` gives each process some of the parameters only, but {names} yields "
            "what is to be summed "
            "over all of them, or needs all of them. Leave it out, and call "
            "`torch.nn.utils.clip_grad_norm_` or the like before "
            "`step`; or shard with `torch.distributed.fsdp.fully_shard`.")
