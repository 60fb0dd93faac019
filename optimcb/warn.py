"Warnings that point to the line of the user's code that caused them."
import os
import sys
import warnings
from types import FrameType

import torch

__all__ = ['CompositionWarning', 'calling_frame', 'warn']

INSIDE = os.path.dirname(__file__), os.path.dirname(torch.__file__)
# packages that call the library on behalf of users
BETWEEN = frozenset({'fastai', 'fastcore', 'collections', 'contextlib'})


class CompositionWarning(UserWarning):
    """A composition runs, but probably doesn't do what is intended.

    `Optimizer(…, check=False)` or a filter of `warnings` turns it off."""


def calling_frame() -> FrameType:
    "Return the frame that called the library: the innermost one outside this library and torch."
    frame = sys._getframe(1)
    while frame.f_back and frame.f_code.co_filename.startswith(INSIDE): frame = frame.f_back
    return frame


def _is_inside(frame) -> bool:
    package = frame.f_globals.get('__name__', '').partition('.')[0]
    return frame.f_code.co_filename.startswith(INSIDE) or package in BETWEEN


def warn(
    message:str, # Text of the warning
    category:type=UserWarning # Class of the warning
):
    "Warn at the line that called, outside this library, torch and fastai."
    frame, level = sys._getframe(1), 2
    while frame.f_back and _is_inside(frame): frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
