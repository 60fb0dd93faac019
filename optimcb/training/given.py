"Check what is wrapped: SAM, Lookahead and the like take an `Optimizer` that runs its steppers itself."
from functools import partial

import torch

from optimcb.optimizer import runs_steppers

__all__ = ['check_runs_steppers']


def check_runs_steppers(
    opt, # Some optimizer, as it was given to `wrapper`
    wrapper:str, # Name of what takes it
    does:str # What that does with it
) -> None:
    "Raise `TypeError` if it isn't an `Optimizer` without a step of its own."
    if runs_steppers(opt): return
    if callable(opt) and not isinstance(opt, torch.optim.Optimizer): # an algorithm, a class, a partial of one
        made = opt.func if isinstance(opt, partial) and not hasattr(opt, '__name__') else opt
        name = getattr(made, '__name__', type(made).__name__)
        raise TypeError(f"{wrapper} {does} an optimizer, but {name} makes one. Call it first: "
                        f"`{wrapper}({name}(model.parameters(), lr=…))`.")
    if not isinstance(opt, torch.optim.Optimizer):
        raise TypeError(f"{wrapper} {does} an optimizer, but is given {opt!r:.80} ({type(opt).__name__}).")
    raise TypeError(f"{wrapper} {does} an Optimizer made of steppers, but {type(opt).__name__} has a step "
                    "of its own. Put its steppers in an Optimizer.")
