"""Frozen parameters: a step leaves them and their state alone, whatever lies in their `.grad`.

A parameter is frozen if it has required gradients and doesn't now. A plain tensor, which never did, is
stepped by whatever `.grad` it is given."""
from collections.abc import Iterable

from torch import Tensor

__all__ = ['grad_of', 'is_frozen', 'track']


def track(
    params:Iterable, # Parameters, as they are now
    tracked:set # Takes those that require gradients
) -> None:
    "Note which parameters require gradients, so that they count as frozen when they don't."
    tracked.update(p for p in params if getattr(p, 'requires_grad', False))


def is_frozen(
    p, # A parameter
    tracked:set # Parameters that have required gradients
) -> bool:
    "Has this parameter required gradients, and doesn't now?"
    return not getattr(p, 'requires_grad', False) and p in tracked


def grad_of(
    p, # A parameter
    tracked:set # Parameters that have required gradients
) -> Tensor|None:
    "The gradient to step this parameter by, or None if it has none or is frozen."
    grad = getattr(p, 'grad', None)
    return None if grad is None or is_frozen(p, tracked) else grad
