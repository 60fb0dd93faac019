"""Whether a stepper may be run once for many parameters, read off its code before it is run.

A recording is made once for many parameters, so a stepper is recorded only if running it once does what
running it for each parameter would. It must not print, count, draw random numbers, or write to what lies
outside of it. A stepper that uses code which can't be read is called for each parameter.
"""
from collections.abc import Iterator
from types import CodeType

from optimcb._cpython import has_branches, instructions, is_in_place, returns_something
from optimcb.composition.stepper import Stepper, strings
from optimcb.tracing.code_reader import CodeReader, is_inert
from optimcb.tracing.code_walk import is_written
from optimcb.tracing.purity_tables import Impure

__all__ = ['asks_type', 'branches', 'impurities', 'impurity', 'may_act', 'value_impurity']


def asks_type(
    stepper:Stepper # A stepper
) -> bool:
    "May it ask for the type of a tensor, or whether it is the parameter itself?"
    return _read(stepper).asks_type


def impurity(
    stepper:Stepper # A stepper
) -> str|None:
    "Say why it must be run for each parameter; None if it need not be."
    if stepper.is_ours and stepper.f is stepper.innermost: return None
    return value_impurity(stepper.f, stepper.label)


def impurities(
    composition # Its steppers
) -> Iterator[str]:
    "A sentence for each stepper that must be run for each parameter."
    for s in composition.steppers:
        why = impurity(s)
        if why: yield f"stepper `{s}` must be called for each parameter: {why}."


def value_impurity(
    o, # An object that a stepper uses, such as a hyper-parameter
    name:str # Its name there
) -> str|None:
    "Say why using it once may be something else than using it for each parameter; None if it is the same."
    if is_inert(o): return None
    try: CodeReader().read(o, name)
    except Impure as e: return str(e)


def branches(
    stepper:Stepper # A stepper
) -> bool:
    "Does it, or a function that it names, do one thing or another?"
    return any(map(has_branches, _read(stepper).codes))


def may_act(
    stepper:Stepper # A stepper
) -> bool:
    "Does it, or a function that it names, return something or write in place, in some branch?"
    return any(map(_acts, _read(stepper).codes))


def _read(stepper) -> CodeReader:
    "A stepper's code and that of the functions that it names, as far as it can be read"
    reader = CodeReader()
    try: reader.read(stepper.f, stepper.label)
    except Impure: pass
    return reader


def _acts(code:CodeType) -> bool:
    if any(map(is_written, code.co_names)) or 'out' in strings(code) or returns_something(code): return True
    return any(is_in_place(i) or i.opname in ('STORE_ATTR', 'STORE_SUBSCR') for i in instructions(code))
