"""Code that depends on CPython: reference counts, frames, and names of bytecode instructions.

`tests/compat/test_cpython.py` tests all of it on each supported Python.
"""
import dis
import inspect
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import CodeType, FrameType, TracebackType

__all__ = ['ANYWHERE', 'LOADS_ATTR', 'LOADS_OUTSIDE', 'NOISE', 'assigned_arguments', 'branches_on_values',
    'caller_outside', 'catches_errors', 'discarded_lines', 'ends_by_raise', 'frame_above', 'frames_above',
    'has_branches', 'instructions', 'is_constant', 'is_in_place', 'loaded_names', 'module_of', 'operands_of',
    'place_of', 'references', 'returns_something', 'stacklevel_outside', 'stored_names', 'uses_kwargs']


# References

def references(
    get:Callable # Returns an object
) -> int:
    "Count the references to an object, except that of the call."
    return sys.getrefcount(get()) - 1


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


# Bytecode: names of instructions

NOISE = frozenset({'CACHE', 'EXTENDED_ARG', 'PUSH_NULL', 'PRECALL', 'NOP'})
LOADS_OUTSIDE = frozenset({'LOAD_GLOBAL', 'LOAD_NAME', 'LOAD_FROM_DICT_OR_GLOBALS'})
LOADS_FREE = ('LOAD_DEREF', 'LOAD_CLOSURE', 'LOAD_CLASSDEREF', 'LOAD_FROM_DICT_OR_DEREF')
LOADS_ATTR = frozenset({'LOAD_ATTR', 'LOAD_METHOD', 'LOAD_SUPER_ATTR'})
LOADS_CONSTANT = ('LOAD_CONST', 'LOAD_SMALL_INT', 'LOAD_COMMON_CONSTANT')


def instructions(
    code:CodeType # Code of a function
) -> list[dis.Instruction]:
    "List the instructions of a function."
    return list(dis.get_instructions(code))


def is_constant(
    i:dis.Instruction # An instruction
) -> bool:
    "Does it load a constant?"
    return i.opname.startswith(LOADS_CONSTANT)


def _names(i) -> tuple: return i.argval if isinstance(i.argval, tuple) else (i.argval,)


def loaded_names(
    i:dis.Instruction # An instruction
) -> tuple:
    "Return the local names that it loads; since Python 3.13, some load two, or store one and load another."
    if 'LOAD_FAST' in i.opname: return _names(i)[1:] if i.opname.startswith('STORE') else _names(i)
    return _names(i) if i.opname.startswith(LOADS_FREE) else ()


def stored_names(
    i:dis.Instruction # An instruction
) -> tuple:
    "Return the local names that it stores."
    if not i.opname.startswith(('STORE_FAST', 'STORE_DEREF', 'STORE_NAME')): return ()
    return _names(i)[:1] if 'LOAD' in i.opname else _names(i)


def is_in_place(
    i:dis.Instruction # An instruction
) -> bool:
    "Is it `+=` or the like?"
    return i.opname.startswith('INPLACE') or i.opname == 'BINARY_OP' and i.argrepr.endswith('=')


def operands_of(
    every:list[dis.Instruction], # The instructions of a function
    i:dis.Instruction # One of them, which takes two operands
) -> list[dis.Instruction]:
    "Return the instructions that push the operands of `i`, the second first; only one if it pushes both."
    at, found = every.index(i) - 1, []
    while at >= 0 and len(found) < 2:
        found.append(every[at])
        missing = 1
        while at >= 0 and missing > 0:
            o = every[at]
            if o.opcode in dis.hasjrel or o.opcode in dis.hasjabs: return found
            arg = o.arg if o.opcode >= dis.HAVE_ARGUMENT else None
            missing -= dis.stack_effect(o.opcode, arg, jump=False)
            at -= 1
        if missing < 0: return found
        while at >= 0 and every[at].opname in NOISE - {'PUSH_NULL'}: at -= 1
    return found


# Bytecode: what a function does

def has_branches(
    code:CodeType # Code of a function
) -> bool:
    "Does it have branches?"
    return any('JUMP' in i.opname and 'IF' in i.opname for i in dis.get_instructions(code))


def branches_on_values(
    code:CodeType # Code of a function
) -> bool:
    "Does it have branches other than tests for None? The instructions for those differ between Pythons."
    every = instructions(code)
    for n, i in enumerate(every):
        if 'JUMP' not in i.opname or '_IF_' not in i.opname or 'NONE' in i.opname: continue
        test = every[max(n-2, 0):n]
        is_none = [o.opname for o in test] == ['LOAD_CONST', 'IS_OP'] and test[0].argval is None # Python 3.10
        if not is_none: return True
    return False


def catches_errors(
    code:CodeType # Code of a function
) -> bool:
    "Does it catch errors, or does it have a `with`, which may?"
    return any(i.opname == 'POP_EXCEPT' for i in dis.get_instructions(code))


def discarded_lines(
    code:CodeType # Code of a function
) -> list[int]:
    "Return the lines in the file with arithmetic whose result is discarded, as in the statement `a + b`."
    every = [i for i in dis.get_instructions(code) if i.opname not in NOISE]
    starts = [(at, line) for at, line in dis.findlinestarts(code) if line]
    made = [i for i, after in zip(every, every[1:]) if _is_arithmetic(i) and after.opname == 'POP_TOP']
    return [max((o for o in starts if o[0] <= i.offset), default=(0, code.co_firstlineno))[1] for i in made]


def _is_arithmetic(i) -> bool:
    looks_up = i.opname.startswith(('BINARY_SUBSCR', 'BINARY_SLICE'))
    return i.opname.startswith(('BINARY_', 'UNARY_')) and not looks_up and not is_in_place(i)


def returns_something(
    code:CodeType # Code of a function
) -> bool:
    "Does some branch return anything but None?"
    last = None
    for i in dis.get_instructions(code):
        returned = i if i.opname == 'RETURN_CONST' else last if i.opname == 'RETURN_VALUE' else None
        if returned is not None:
            is_none = returned.opname in ('LOAD_CONST', 'RETURN_CONST') and returned.argval is None
            if not is_none: return True
        last = i
    return False


def assigned_arguments(
    code:CodeType # Code of a function
) -> Iterator[str]:
    "Return the arguments that the function assigns to."
    args = code.co_varnames[:code.co_argcount + code.co_kwonlyargcount]
    for i in dis.get_instructions(code):
        if i.opname.startswith('STORE_FAST'): yield from (k for k in stored_names(i) if k in args)


@lru_cache(1000)
def uses_kwargs(
    code:CodeType # Code of a function with `**kwargs`
) -> bool:
    "Does it use its `**kwargs`?"
    before = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & inspect.CO_VARARGS)
    name = code.co_varnames[before]
    return any('LOAD' in i.opname and name in _names(i) for i in dis.get_instructions(code))
