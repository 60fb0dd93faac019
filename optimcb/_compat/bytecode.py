"""What a function does, read off its bytecode: names of instructions, which depend on CPython.

`tests/compat/test_cpython.py` tests all of it on each supported Python.
"""
import dis
import inspect
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType
from typing import NamedTuple

__all__ = ['LOADS_ATTR', 'LOADS_OUTSIDE', 'NOISE', 'Discarded', 'assigned_arguments', 'branches_on_values',
    'catches_errors', 'discarded', 'exits', 'has_branches', 'instructions', 'is_arithmetic', 'is_constant',
    'is_in_place', 'is_shown', 'is_subscript', 'loaded_names', 'returns_something', 'stored_names',
    'uses_kwargs']


# Names of instructions

# Instructions that leave a `with`, and load what is returned
LEAVES = frozenset({'LOAD_CONST', 'DUP_TOP', 'COPY', 'POP_BLOCK', 'CALL', 'CALL_FUNCTION', 'POP_TOP'})
NOISE = frozenset({'CACHE', 'EXTENDED_ARG', 'PUSH_NULL', 'PRECALL', 'NOP'})
LOADS_OUTSIDE = frozenset({'LOAD_GLOBAL', 'LOAD_NAME', 'LOAD_FROM_DICT_OR_GLOBALS'})
LOADS_FREE = ('LOAD_DEREF', 'LOAD_CLOSURE', 'LOAD_CLASSDEREF', 'LOAD_FROM_DICT_OR_DEREF')
LOADS_ATTR = frozenset({'LOAD_ATTR', 'LOAD_METHOD', 'LOAD_SUPER_ATTR'})
LOADS_CONSTANT = ('LOAD_CONST', 'LOAD_SMALL_INT', 'LOAD_COMMON_CONSTANT')


@lru_cache(64) # a stepper's code is asked many questions when an optimizer is made
def instructions(
    code:CodeType # Code of a function
) -> tuple[dis.Instruction, ...]:
    "Return the instructions of a function."
    return tuple(dis.get_instructions(code))


def is_constant(
    i:dis.Instruction # An instruction
) -> bool:
    "Does it load a constant?"
    return i.opname.startswith(LOADS_CONSTANT)


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


def _names(i) -> tuple: return i.argval if isinstance(i.argval, tuple) else (i.argval,)


def is_in_place(
    i:dis.Instruction # An instruction
) -> bool:
    "Is it `+=` or the like?"
    return i.opname.startswith('INPLACE') or i.opname == 'BINARY_OP' and i.argrepr.endswith('=')


def is_subscript(
    i:dis.Instruction # An instruction
) -> bool:
    "Does it load an element or a slice?"
    return i.opname in ('BINARY_SUBSCR', 'BINARY_SLICE') or i.opname == 'BINARY_OP' and i.argrepr == '[]'


def is_arithmetic(
    i:dis.Instruction # An instruction
) -> bool:
    "Does it make a new value of operands, as `a*b`, `-a` and `a < b` do?"
    if is_in_place(i) or is_subscript(i): return False
    return i.opname.startswith(('BINARY_', 'UNARY_', 'COMPARE_OP'))


def is_shown(
    i:dis.Instruction # An instruction
) -> bool:
    "Does it make text of something, as `f'{x}'` does?"
    return i.opname.startswith(('FORMAT', 'CONVERT_VALUE'))


# What a function does

def has_branches(
    code:CodeType # Code of a function
) -> bool:
    "Does it have branches?"
    return any('JUMP' in i.opname and 'IF' in i.opname for i in instructions(code))


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
    return any(i.opname == 'POP_EXCEPT' for i in instructions(code))


def returns_something(
    code:CodeType # Code of a function
) -> bool:
    "Does some branch return anything but None?"
    last = None
    for i in instructions(code):
        returned = i if i.opname == 'RETURN_CONST' else last if i.opname == 'RETURN_VALUE' else None
        if returned is not None:
            is_none = returned.opname in ('LOAD_CONST', 'RETURN_CONST') and returned.argval is None
            if not is_none: return True
        last = i
    return False


class Discarded(NamedTuple):
    "A value that a function makes, and that nothing can read afterwards."
    made: dis.Instruction # What makes it
    name: str|None # The local name that it is stored in
    line: int # In the file
    exit: int|None # Offset of the instruction that returns None, if nothing is done before that
    is_shared: bool # Do other branches lead there, too?


def discarded(
    code:CodeType # Code of a function
) -> Iterator[Discarded]:
    "Yield what is discarded by statements that are an expression, and in local names that are set last."
    every = [i for i in instructions(code) if i.opname not in NOISE]
    targets = {i.argval for i in every if i.opcode in dis.hasjrel or i.opcode in dis.hasjabs}
    lines = [(start, line) for start, line in dis.findlinestarts(code) if line]
    for n, (made, i) in enumerate(zip(every, every[1:]), 1):
        names = stored_names(i) if i.opname == 'STORE_FAST' else ()
        if not names and (i.opname != 'POP_TOP' or i.offset in targets): continue
        passed = _way_to_none(every, n + 1)
        if names and (not passed or names[0].startswith('_')): continue
        line = max((o for o in lines if o[0] <= made.offset), default=(0, code.co_firstlineno))[1]
        name, leaves_by = next(iter(names), None), passed[-1] if passed else None
        yield Discarded(made, name, line, leaves_by, not targets.isdisjoint(passed))


def exits(
    code:CodeType # Code of a function
) -> set[int]:
    "Return the offsets of the instructions that return None."
    every = [i for i in instructions(code) if i.opname not in NOISE]
    returns = [n for n, i in enumerate(every) if i.opname in ('RETURN_CONST', 'RETURN_VALUE')]
    return {every[n].offset for n in returns if _way_to_none(every, n)}


def _way_to_none(every, n) -> list:
    "Return offsets from the instruction at `n` to one that returns None, if it only leaves a `with` before"
    passed = []
    while n < len(every) and len(passed) < len(every):
        i = every[n]
        passed.append(i.offset)
        if i.opname.startswith('RETURN'):
            value = i if i.opname == 'RETURN_CONST' else every[n-1]
            is_none = value.opname in ('RETURN_CONST', 'LOAD_CONST') and value.argval is None
            return passed if is_none else []
        if i.opname in ('JUMP_FORWARD', 'JUMP_ABSOLUTE'): n = sum(o.offset < i.argval for o in every)
        elif i.opname in LEAVES: n += 1
        else: break
    return []


def assigned_arguments(
    code:CodeType # Code of a function
) -> Iterator[str]:
    "Return the arguments that the function assigns to."
    args = code.co_varnames[:code.co_argcount + code.co_kwonlyargcount]
    for i in instructions(code):
        if i.opname.startswith('STORE_FAST'): yield from (k for k in stored_names(i) if k in args)


@lru_cache(1000)
def uses_kwargs(
    code:CodeType # Code of a function with `**kwargs`
) -> bool:
    "Does it use its `**kwargs`?"
    before = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & inspect.CO_VARARGS)
    name = code.co_varnames[before]
    return any('LOAD' in i.opname and name in _names(i) for i in instructions(code))
