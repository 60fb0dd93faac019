"""Frozen parameters, which a step skips, whatever their `.grad` holds.

A parameter is frozen if it required gradients before and doesn't now. A plain tensor, which never did, is
stepped by its `.grad`."""
from collections.abc import Iterable
from itertools import compress, repeat

from torch import Tensor

__all__ = ['grad_of', 'is_frozen', 'track']


def track(
    params:Iterable, # Parameters
    tracked:set # Set to add those to that require gradients
) -> None:
    "Note which parameters require gradients, so that they count as frozen once they don't."
    params = list(params)
    requires_grad = map(getattr, params, repeat('requires_grad'), repeat(False)) # a loop in C
    tracked.update(compress(params, requires_grad))


def is_frozen(
    p, # A parameter
    tracked:set # Parameters that have required gradients
) -> bool:
    "Did this parameter require gradients before, and doesn't now?"
    return not getattr(p, 'requires_grad', False) and p in tracked


def grad_of(
    p, # A parameter
    tracked:set # Parameters that have required gradients
) -> Tensor|None:
    "Return the gradient to step this parameter by, or None if it has none or is frozen."
    grad = getattr(p, 'grad', None)
    return None if grad is None or is_frozen(p, tracked) else grad
