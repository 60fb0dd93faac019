"Warnings that point to the line of the user's code that caused them."
import os
import warnings
from types import FrameType

import torch

from optimcb._compat.cpython import caller_outside, frames_above, module_of, stacklevel_outside

__all__ = ['CompositionWarning', 'calling_frame', 'warn']

INSIDE = os.path.dirname(os.path.dirname(__file__)), os.path.dirname(torch.__file__)
# packages that call the library on behalf of users
BETWEEN = frozenset({'fastai', 'fastcore', 'collections', 'contextlib'})


class CompositionWarning(UserWarning):
    """A composition runs, but probably doesn't do what is intended.

    `Optimizer(…, check=False)` or a filter of `warnings` turns it off."""


def calling_frame() -> FrameType:
    "Return the frame that called the library: the first one outside of it and of torch."
    return caller_outside(INSIDE) or [*frames_above()][-1]


def _is_inside(frame) -> bool:
    package = module_of(frame).partition('.')[0]
    return frame.f_code.co_filename.startswith(INSIDE) or package in BETWEEN


def warn(
    message:str, # Text of the warning
    category:type=UserWarning # Class of the warning
):
    "Warn at the line that called, outside of the library, torch and fastai."
    warnings.warn(message, category, stacklevel=stacklevel_outside(_is_inside))
