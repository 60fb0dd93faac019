"""Decide from a stepper's code whether it may run once for many parameters.

A recording serves many parameters, so a stepper is recorded only if running it once is equivalent to running
it for each parameter. It must not print, count, draw random numbers, or write to outside objects. A stepper
that uses unreadable code is called for each parameter.
"""
from collections.abc import Iterator
from types import CodeType

from optimcb._compat.bytecode import has_branches, instructions, is_in_place, returns_something
from optimcb.composition.stepper import Stepper, strings
from optimcb.tracing.code_reader import CodeReader
from optimcb.tracing.code_walk import is_written
from optimcb.tracing.objects import is_inert
from optimcb.tracing.purity_tables import Impure

__all__ = ['asks_type', 'branches', 'impurities', 'impurity', 'may_act', 'value_impurity']


def asks_type(
    stepper:Stepper # A stepper
) -> bool:
    "May it test the type of a tensor, or whether it is the parameter itself?"
    return _read(stepper).asks_type


def impurity(
    stepper:Stepper # A stepper
) -> str|None:
    "Return why a stepper must run for each parameter, or None."
    if stepper.is_ours and stepper.f is stepper.innermost: return None
    return value_impurity(stepper.f, stepper.label)


def impurities(
    composition # Its steppers
) -> Iterator[str]:
    "Yield a sentence for each stepper that must run for each parameter."
    for s in composition.steppers:
        why = impurity(s)
        if why: yield f"stepper `{s}` must be called for each parameter: {why}."


def value_impurity(
    o, # An object that a stepper uses, such as a hyper-parameter
    name:str # Its name in the stepper
) -> str|None:
    "Return why using it once isn't equivalent to using it for each parameter, or None."
    if is_inert(o): return None
    try: CodeReader().read(o, name)
    except Impure as e: return str(e)


def branches(
    stepper:Stepper # A stepper
) -> bool:
    "Does it, or a function that it names, have branches?"
    return any(map(has_branches, _read(stepper).codes))


def may_act(
    stepper:Stepper # A stepper
) -> bool:
    "Does some branch of it, or of a function that it names, return something or write in place?"
    return any(map(_acts, _read(stepper).codes))


def _read(stepper) -> CodeReader:
    "Read a stepper's code and that of the functions that it names, as far as possible"
    reader = CodeReader()
    try: reader.read(stepper.f, stepper.label)
    except Impure: pass
    return reader


def _acts(code:CodeType) -> bool:
    if any(map(is_written, code.co_names)) or 'out' in strings(code) or returns_something(code): return True
    return any(is_in_place(i) or i.opname in ('STORE_ATTR', 'STORE_SUBSCR') for i in instructions(code))
