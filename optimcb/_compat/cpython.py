"""Code that depends on CPython: reference counts, garbage collection, and frames.

`tests/compat/test_cpython.py` tests all of it on each supported Python.
"""
import dis
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

__all__ = ['ANYWHERE', 'caller_outside', 'ends_by_raise', 'frame_above', 'frames_above', 'module_of',
    'place_of', 'references', 'stacklevel_outside', 'without_collection']


# References

def references(
    get:Callable # Returns an object
) -> int:
    "Count the references to an object, except that of the call."
    return sys.getrefcount(get()) - 1


@contextmanager
def without_collection():
    """Collect no garbage in a `with` block that makes many objects, all of which are kept.

    Their number would start collections, which look at all objects of the process."""
    was_on = gc.isenabled()
    gc.disable()
    try: yield
    finally:
        if was_on: gc.enable()


# Frames

def frame_above(
    calls:int # How many calls up: 1 is the caller of the function that asks
) -> FrameType:
    "The frame so many calls above the function that asks. Raises `ValueError` if there are fewer."
    return sys._getframe(calls + 1)


def frames_above() -> Iterator[FrameType]:
    "The frames of the callers of the function that asks, innermost first."
    return _upwards(sys._getframe(1).f_back) # here, as a generator's caller is whatever runs it


def _upwards(frame):
    while frame:
        yield frame
        frame = frame.f_back


def caller_outside(
    folders:tuple # Folders to skip
) -> FrameType|None:
    "The frame of the innermost caller whose code lies outside of `folders`."
    return next((o for o in frames_above() if not o.f_code.co_filename.startswith(folders)), None)


def stacklevel_outside(
    is_inside:Callable # Of a frame: is it one to pass over?
) -> int:
    """The `stacklevel` with which the function that asks warns at the innermost caller that isn't inside.

    It is that of the outermost caller if all are."""
    frames = list(frames_above())
    return next((level for level, o in enumerate(frames, 1) if not is_inside(o)), len(frames))


def module_of(
    frame:FrameType # A frame
) -> str:
    "Name of the module whose code it runs; empty if that has none."
    return frame.f_globals.get('__name__') or ''


ANYWHERE = 10**6 # stands for an unknown column


def place_of(
    frame:FrameType # A frame
) -> tuple[tuple[int, int], tuple[int, int]]:
    "Return line and column of the current instruction's start and end; before Python 3.11, its whole line."
    if hasattr(frame.f_code, 'co_positions'):
        first, last, left, right = list(frame.f_code.co_positions())[frame.f_lasti//2]
        if None not in (first, last, left, right): return (first, left), (last, right)
    return (frame.f_lineno, ANYWHERE), (frame.f_lineno, 0)


def ends_by_raise(
    tb:TracebackType # A frame's part of a traceback
) -> bool:
    "Did the frame end by a `raise` statement?"
    return dis.opname[tb.tb_frame.f_code.co_code[tb.tb_lasti]] == 'RAISE_VARARGS'
