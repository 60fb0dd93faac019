"""Parts that can be combined with any algorithm, in the order of a step: `Adam.wrap(clip_norm, cautious)`.

`optimcb.catalog.parts()` tabulates them with their places, hyper-parameters and costs."""
from textwrap import shorten

from optimcb.algorithms import schedule_free
from optimcb.routing.schedules import scheduled
from optimcb.steppers import (
    accumulate,
    add_noise,
    agc,
    cautious,
    centralize,
    clip_norm,
    clip_tensor_norm,
    clip_update,
    clip_update_norm,
    clip_update_rms,
    clip_value,
    decay_toward,
    decay_update,
    ema_weights,
    full_decay,
    grokfast,
    l2_reg,
    maximize,
    rms_lr,
    skip_nonfinite,
    swa_weights,
    trust_ratio,
    weight_decay,
    zero_nonfinite,
)
from optimcb.training.lookahead import look_ahead
from optimcb.training.storage import stored

__all__ = [
    'accumulate', 'skip_nonfinite', # may end a step before it begins
    'rms_lr', 'maximize', 'look_ahead', 'schedule_free', 'scheduled', 'stored', # around everything else
    'add_noise', 'agc', 'centralize', 'clip_norm', 'clip_tensor_norm', 'clip_value', # the gradient
    'grokfast', 'zero_nonfinite',
    'l2_reg', 'decay_toward', 'weight_decay', 'full_decay', # decay
    'cautious', 'clip_update', 'clip_update_norm', 'clip_update_rms', 'decay_update', # the update
    'trust_ratio',
    'ema_weights', 'swa_weights'] # averages of the weights


def _line(name) -> str:
    first = globals()[name].__doc__.splitlines()[0]
    return f"{name:<16}  {shorten(first, 88, placeholder=' …')}"


__doc__ += '\n\n    ' + '\n    '.join(map(_line, __all__))


def __dir__(): return __all__
