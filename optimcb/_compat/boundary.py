"""The entry points of the library: `torch.compile` doesn't trace them, and errors point to the user's call.

Errors that the library raises on purpose, and those raised in a user's stepper or other function, are shown
without the library's own frames. Other errors are shown with all frames, and so is every error if
`OPTIMCB_FULL_TRACEBACK=1`.
"""
import contextlib
import os
import sys
from collections.abc import Callable
from functools import wraps
from types import TracebackType
from typing import TypeVar

import fastcore
import numpy
import torch

from optimcb._compat.cpython import ends_by_raise, frames_above, module_of

__all__ = ['F', 'entry', 'opaque', 'refuse_tracing']

F = TypeVar('F', bound=Callable) # lets editors see the signature of a function that is decorated

DYNAMO = 'torch._dynamo' # takes a second to import; compiled code has already imported it
OURS = os.path.dirname(os.path.dirname(__file__)) + os.sep
PACKAGES = [os.path.dirname(o.__file__) + os.sep for o in (fastcore, numpy, torch)]
BELOW = *PACKAGES, contextlib.__file__ # files that the library calls
EVAL_FRAME = os.path.join(os.path.dirname(torch.__file__), '_dynamo', 'eval_frame.py') # in `_untraced`


def entry(
    f:F # A public function or method
) -> F:
    """Keep `torch.compile` from tracing `f` and the functions it calls; raise errors at the call of `f`.

    Errors are shown without the library's frames."""
    @wraps(f)
    def call(*args, **kwargs):
        __tracebackhide__ = True # for IPython and pytest
        try: return (_untraced(f) if DYNAMO in sys.modules else f)(*args, **kwargs)
        except Exception as e:
            inner = e.__traceback__.tb_next
            frames = None if os.environ.get('OPTIMCB_FULL_TRACEBACK') else _frames_of_user(inner)
            if frames is None:
                frames = [t for t in _listed(inner) if _file(t) != EVAL_FRAME]
                if len(frames) == len(_listed(inner)): raise
            if not frames: e.__suppress_context__ = True # it was raised on purpose
            raise e.with_traceback(_linked(frames)) # noqa: B904  (what it came from stays as it is)
    return opaque(call)


# torch.compile

def opaque(
    f:F # A short function; the functions that it calls may still be compiled
) -> F:
    "Keep `torch.compile` from tracing `f`. Returns `f` itself."
    f._torchdynamo_disable = True
    return f


UNTRACED = {} # what `torch.compile` may come to itself: it warns of functions with a cache


@opaque
def _untraced(f) -> Callable:
    if f not in UNTRACED: UNTRACED[f] = torch.compiler.disable(f)
    return UNTRACED[f]


def refuse_tracing(
    what:str, # Name of the attribute that was read, for the error
    instead:str # Advice for functions that must be a single graph
):
    """Keep `param_groups` out of a graph. Raises `Unsupported` under `torch.compile`.

    When a compiled function reads an optimizer's `param_groups`, the compiler reads all groups and writes
    `capturable` into each, which fails unless they are plain dicts. `Unsupported` makes it break the graph
    instead."""
    if DYNAMO not in sys.modules or torch._guards.TracingContext.try_get() is None: return
    if any(module_of(o) == f'{DYNAMO}.variables.optimizer' for o in frames_above()):
        raise sys.modules[f'{DYNAMO}.exc'].Unsupported(f"{what} can't be part of a graph. {instead}")


# Tracebacks

def _frames_of_user(tb) -> list|None:
    "List the frames of user code; None if an error is neither raised on purpose nor in user code."
    frames = _listed(tb)
    if not frames: return None # the call itself is wrong
    is_ours = [_file(t).startswith(OURS) for t in reversed(frames)]
    called = is_ours.index(True) if True in is_ours else len(frames) # frames since the library's last
    if not called: return [t for t in frames if not _is_inside(t)] if ends_by_raise(frames[-1]) else None
    if all(map(_is_inside, frames[-called:])): return None
    return [t for t in frames[:-called] if not _is_inside(t)] + frames[-called:]


def _listed(tb) -> list:
    frames = []
    while tb: frames, tb = [*frames, tb], tb.tb_next
    return frames


def _file(tb) -> str: return tb.tb_frame.f_code.co_filename
def _is_inside(tb) -> bool: return _file(tb).startswith((OURS, *BELOW))


def _linked(frames) -> TracebackType|None:
    "Link frames into a traceback."
    tb = None
    for t in reversed(frames): tb = TracebackType(tb, t.tb_frame, t.tb_lasti, t.tb_lineno)
    return tb
