"""Values that a stepper works out and loses, such as by a missing `return` in one branch.

Most are found in the code, in branches that no step takes as well. Whether a function that a stepper calls
last has an effect is only known from a rehearsal: it may write into the parameter.
"""
import os
from collections.abc import Iterator

from optimcb._compat.bytecode import (
    discarded,
    exits,
    is_arithmetic,
    is_in_place,
    loaded_names,
)
from optimcb._compat.operands import Operands, is_call
from optimcb.composition.pipeline import Composition, meant_to_return
from optimcb.composition.stepper import Stepper, code_of
from optimcb.tracing.rehearsal import Effect
from optimcb.tracing.tracer import FUNCTIONS

__all__ = ['lost_in_code', 'lost_in_steps', 'may_lose', 'what_it_lacks']


OTHERS = {k for o in (list, dict, set) for k in dir(o)} # methods that may change what isn't a tensor
MAKES_DICT = frozenset({'dict', 'once', 'stop'})


def lost_in_code(
    composition:Composition, # Its steppers
    there # Names that have a value
) -> Iterator[tuple[Stepper, str]]:
    "Yield steppers that lose what they work out, and a sentence about each."
    for s in composition.steppers:
        code = _code(s)
        if code is None: continue
        operands = Operands(code)
        found = [d for d in discarded(code) if _is_value(operands, d.made)]
        if found: yield s, _sentence(composition, s, there, found)


def may_lose(
    stepper:Stepper # A stepper
) -> list:
    "Return what it may lose, if it ends with that wherever it returns None: results of calls and of `+=`."
    code = _code(stepper)
    if code is None: return []
    operands = Operands(code)
    last = [d for d in discarded(code) if d.exit is not None and not d.is_shared]
    found = [d for d in last if is_in_place(d.made) or is_call(d.made) and not operands.leaves_with(d.made)]
    handlers = {d.exit for d in last if d.made.opname in ('POP_EXCEPT', 'POP_TOP')} # `with` has one, too
    return found if exits(code) <= {d.exit for d in found} | handlers else []


def lost_in_steps(
    composition:Composition, # Its steppers
    effects:list[Effect], # What they did in rehearsed steps
    there # Names that have a value
) -> Iterator[str]:
    "Yield a sentence for each stepper that did something in vain in some of the steps, but not in all."
    for s in composition.steppers:
        own = [e for e in effects if e.stepper.f is s.f]
        idle = [e for e in own if not e.returns and not e.writes]
        found = may_lose(s) if idle and len(idle) < len(own) else []
        if not any(e.computes for e in idle): found = [d for d in found if is_in_place(d.made)]
        if found: yield _sentence(composition, s, there, found)


def _code(stepper): return None if stepper.is_ours else code_of(stepper.f)


def _sentence(composition, s, there, found) -> str:
    lines = ' and '.join(str(n) for n in dict.fromkeys(d.line for d in found))
    where = f"{os.path.basename(code_of(s.f).co_filename)}:{lines}"
    lacks = what_it_lacks(composition, s, there, next((d.name for d in found if d.name in s.names), None))
    return (f"stepper `{s}` loses what it works out at {where}: there, it neither returns it nor changes "
            f"anything in place. {lacks}")


def what_it_lacks(
    composition:Composition, # The steppers
    s:Stepper, # One of them, which has no effect, or not always
    there, # Names that have a value
    argument:str|None=None # An argument that it assigns a result to, which is lost
) -> str:
    "Say what to write in it."
    if s.first in s.assigned:
        return f"`{s.first} = …` makes another tensor: write `{s.first}.data.copy_(…)`."
    name = s.new_name(argument) if argument else meant_to_return(composition, s, there)
    if name: return f"Did you forget `return {{'{name}': …}}`?"
    return "Did you forget to change `p.data` in place, or to return a dict?"


def _is_value(operands, made) -> bool:
    "Does an instruction only make a value?"
    if is_arithmetic(made) or made.opname in ('BUILD_MAP', 'BUILD_CONST_KEY_MAP'): return True
    if not is_call(made): return False
    f, _, keywords = operands.call(made)
    if f is None or 'out' in keywords or loaded_names(f): return False
    if f.argval in MAKES_DICT: return True
    is_torchs = operands.every[max(operands.places[f.offset] - 1, 0)].argval == 'torch'
    is_known = f.argval in FUNCTIONS and not f.argval.endswith('_')
    return is_known and (is_torchs or f.argval not in OTHERS)
