"Hyper-parameters as functions of the step."
import inspect
import math
from collections.abc import Callable
from functools import partial

from optimcb._compat.boundary import entry
from optimcb.composition.stepper import renamed
from optimcb.steppers import count_steps, schedule

__all__ = ['scheduled', 'warmup', 'cosine_decay', 'inverse_sqrt']


@entry
def scheduled(
    **functions # By hyper-parameter, a function of the step (from 1 on), or of the step and the value
) -> list:
    """Schedule hyper-parameters as functions of the step.

    Returns a part for any algorithm: `Adam.wrap(scheduled(lr=warmup(100)))`.

    A function of the step returns a factor for the hyper-parameter, which schedulers and `set_hyper` may
    still set. A function of the step and the value returns the new value. Each parameter counts its own
    steps, in state `lr_count`, so one that is unfrozen later starts from 1. For schedules over the whole
    training, use `torch.optim.lr_scheduler` or fastai's `ParamScheduler`.

    Raises `TypeError` for other functions."""
    if not functions:
        raise TypeError("`scheduled` needs functions by the names of hyper-parameters, as "
                        "`scheduled(lr=warmup(100))`.")
    steppers = []
    for k, f in functions.items():
        scheduler = partial(schedule, of_step=f, takes_value=_takes_value(k, f))
        steppers.append(renamed(count_steps, count=f'{k}_count'))
        steppers.append(renamed(scheduler, hyper=k, count=f'{k}_count'))
    return steppers


def _takes_value(name, f) -> bool:
    "Does `f` take the step and the value, or the step alone? Raises `TypeError` for other arguments."
    if not callable(f):
        raise TypeError(f"`{name}` must be a function of the step, but is {f!r:.80} ({type(f).__name__}).")
    try: ps = inspect.signature(f).parameters.values()
    except ValueError: return False # a builtin without a signature
    positional = [p for p in ps if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p.name for p in positional if p.default is p.empty]
    if len(required) > 2:
        raise TypeError(f"the function for `{name}` must take the step, or the step and the value, "
                        f"but takes {', '.join(required)}.")
    return len(required) == 2


class _OfStep(partial):
    "A function of the step whose name shows its options."
    @property
    def __name__(self):
        options = ', '.join(f'{k}={v}' for k, v in self.keywords.items())
        return f"{self.func.__name__[1:]}({options})"

    def __repr__(self): return self.__name__


def _warmup(step, steps): return min(1., step / steps)


def _cosine_decay(step, steps, end, warm):
    if step < warm: return step / warm
    return end + (1-end) * (1 + math.cos(math.pi * min(1., (step-warm) / (steps-warm)))) / 2


def _inverse_sqrt(step, warm): return min(step / warm, math.sqrt(warm / step))


@entry
def warmup(
    steps:int # Number of steps until the factor is 1
) -> Callable:
    "Return a factor that rises linearly from 0 to 1 and stays there."
    return _OfStep(_warmup, steps=_at_least_1('steps', steps))


@entry
def cosine_decay(
    steps:int, # Number of steps until the factor is `end`, where it stays
    end:float=0., # Final value
    warm:int=0 # Number of warm-up steps, in which the factor rises linearly from 0 to 1
) -> Callable:
    "Return a factor that falls from 1 along a cosine (Loshchilov & Hutter 2017, arxiv.org/abs/1608.03983)."
    if not 0 <= warm < steps:
        raise ValueError(f"`warm` must be at least 0 and less than `steps`, {steps}, but is {warm}.")
    return _OfStep(_cosine_decay, steps=steps, end=end, warm=warm)


@entry
def inverse_sqrt(
    warm:int # Number of warm-up steps, in which the factor rises linearly from 0 to 1
) -> Callable:
    """Return a factor that rises linearly to 1, then falls as the inverse square root of the step.

    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, sec. 5.3."""
    return _OfStep(_inverse_sqrt, warm=_at_least_1('warm', warm))


def _at_least_1(name, n):
    if n >= 1: return n
    raise ValueError(f"`{name}` must be at least 1, but is {n}.")
