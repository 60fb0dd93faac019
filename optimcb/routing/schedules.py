"Hyper-parameters as functions of the step."
import inspect
import math
from collections.abc import Callable
from functools import partial

from optimcb._boundary import entry
from optimcb.composition.stepper import renamed
from optimcb.steppers import count_steps, schedule

__all__ = ['scheduled', 'warmup', 'cosine_decay', 'inverse_sqrt']


# Hyper-parameters that are functions of the step

@entry
def scheduled(
    **functions # By name of a hyper-parameter, a function of the step, 1 in the first one, or of the step and the value
) -> list:
    """Steppers that make hyper-parameters functions of the step, as a part for any rule: `Adam.wrap(scheduled(lr=warmup(100)))`.

    A function of the step returns what the hyper-parameter is multiplied by, so that schedulers and `set_hyper` go on to mean something. One of two
    arguments, the step and the value, returns the value. Each parameter counts its own steps, in state `lr_count`: one that is unfrozen
    late starts from 1. (What goes by the whole training is for `torch.optim.lr_scheduler` or fastai's `ParamScheduler`.)

    Raises `TypeError` for what is no such function."""
    if not functions: raise TypeError("`scheduled` needs functions by the names of hyper-parameters, as `scheduled(lr=warmup(100))`.")
    return [o for k, f in functions.items() for o in (
        renamed(count_steps, count=f'{k}_count'), renamed(partial(schedule, of_step=f, takes_value=_takes_value(k, f)), hyper=k, count=f'{k}_count'))]


def _takes_value(name, f) -> bool:
    if not callable(f): raise TypeError(f"`{name}` must be a function of the step, but is {f!r:.80} ({type(f).__name__}).")
    try: ps = [p for p in inspect.signature(f).parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
    except ValueError: return False # a builtin that keeps its signature to itself
    if len(ps) > 2: raise TypeError(f"the function for `{name}` must take the step, or the step and the value, but takes {', '.join(p.name for p in ps)}.")
    return len(ps) == 2


class _OfStep(partial):
    "A function of the step, with a name"
    __name__ = property(lambda self: f"{self.func.__name__[1:]}({', '.join(f'{k}={v}' for k, v in self.keywords.items())})")
    def __repr__(self): return self.__name__


def _warmup(step, steps): return min(1., step / steps)


def _cosine_decay(step, steps, end, warm):
    if step < warm: return step / warm
    return end + (1-end) * (1 + math.cos(math.pi * min(1., (step-warm) / (steps-warm)))) / 2


def _inverse_sqrt(step, warm): return min(step / warm, math.sqrt(warm / step))


def warmup(
    steps:int # Until it is 1
) -> Callable:
    "A factor that goes up from 0 to 1 in a line, and stays."
    return _OfStep(_warmup, steps=_at_least_1('steps', steps))


def cosine_decay(
    steps:int, # Until the end is reached, where it stays
    end:float=0., # Where it ends
    warm:int=0 # Steps, the first of them, in which it goes up from 0 to 1
) -> Callable:
    "A factor that goes down from 1 as a cosine (Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983, eq. 5)."
    if not 0 <= warm < steps: raise ValueError(f"`warm` must be at least 0 and less than `steps`, {steps}, but is {warm}.")
    return _OfStep(_cosine_decay, steps=steps, end=end, warm=warm)


def inverse_sqrt(
    warm:int # Steps, the first of them, in which it goes up from 0 to 1
) -> Callable:
    "A factor that goes up to 1 in a line, and down as one over the root of the step (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, sec. 5.3)."
    return _OfStep(_inverse_sqrt, warm=_at_least_1('warm', warm))


def _at_least_1(name, n):
    if n >= 1: return n
    raise ValueError(f"`{name}` must be at least 1, but is {n}.")
