"""Where the operands of a function's instructions come from, found by what each does to the stack.

`tests/compat/test_cpython.py` tests all of it on each supported Python.
"""
import dis
from functools import cached_property
from types import CodeType

from optimcb._compat.bytecode import NOISE, instructions, is_constant

__all__ = ['Operands', 'is_call']


BEFORE_CALLS = frozenset({'CACHE', 'EXTENDED_ARG', 'PRECALL', 'KW_NAMES'}) # between arguments and their call


def is_call(
    i:dis.Instruction # An instruction
) -> bool:
    "Does it call something, with arguments that are written one by one?"
    return i.opname in ('CALL', 'CALL_KW', 'CALL_FUNCTION', 'CALL_FUNCTION_KW', 'CALL_METHOD')


class Operands:
    "The instructions of a function, and where their operands come from."
    def __init__(self,
        code:CodeType # Code of the function
    ):
        self.code, self.every = code, instructions(code)
        self.places = {i.offset: n for n, i in enumerate(self.every)}

    @cached_property
    def jumps(self) -> list[dis.Instruction]:
        "The instructions that may jump."
        return [i for i in self.every if i.opcode in dis.hasjrel or i.opcode in dis.hasjabs]

    @cached_property
    def effects(self) -> list[int|None]:
        "By how much each instruction changes the height of the stack; None if it may jump."
        jumps = {i.offset for i in self.jumps}
        return [None if i.offset in jumps else _effect(i) for i in self.every]

    def spans(self,
        i:dis.Instruction, # One of the instructions
        count:int # How many operands it takes
    ) -> list[tuple[dis.Instruction, ...]]:
        """The instructions that make each operand, the last operand first; the last of them pushes it.

        An instruction that pushes more than one is in each of them. What lies before a branch is missing."""
        at, found = self.places[i.offset] - 1, []
        while at >= 0 and self.every[at].opname in BEFORE_CALLS: at -= 1
        while at >= 0 and len(found) < count:
            end, missing = at, 1
            while at >= 0 and missing > 0:
                effect = self.effects[at]
                if effect is None: return [*found, self.every[min(at+1, end):end+1]]
                missing -= effect
                at -= 1
            if missing <= 0: found += [self.every[at+1:end+1], *[(self.every[at+1],)]*-missing]
            while at >= 0 and self.every[at].opname in NOISE: at -= 1
        return found

    def of(self,
        i:dis.Instruction, # One of the instructions
        count:int=2 # How many operands it takes
    ) -> list[dis.Instruction]:
        "The instructions that push its operands, the last operand first, as far as they are found."
        return [span[-1] for span in self.spans(i, count)]

    def before(self,
        i:dis.Instruction, # One of the instructions
        skipped:frozenset # Names of instructions
    ) -> dis.Instruction:
        "The last instruction before it that is none of those."
        at = self.places[i.offset] - 1
        while at > 0 and self.every[at].opname in skipped | NOISE: at -= 1
        return self.every[at]

    def branches(self,
        i:dis.Instruction # One of the instructions
    ) -> list[dis.Instruction]:
        "The instructions before jumps to it: they may push its last operand, as in `x = a if b else c`."
        jumps = [o for o in self.jumps if o.argval == i.offset and self.places[o.offset]]
        return [self.every[self.places[o.offset]-1] for o in jumps]

    def call(self,
        i:dis.Instruction # A call among the instructions
    ) -> tuple[dis.Instruction|None, list, tuple]:
        """The instructions that load what is called and its arguments, and the names of the last ones.

        What isn't found is None."""
        has_names = i.opname.endswith('_KW') # on the stack; Python 3.11 and 3.12 have an instruction for them
        count = i.arg + 1 + has_names
        found = self.of(i, count)[::-1]
        f, *args = [None]*(count - len(found)) + found[-count:]
        if has_names: return f, args[:-1], args[-1].argval
        at = self.places[i.offset] - 1
        while self.every[at].opname in BEFORE_CALLS - {'KW_NAMES'}: at -= 1
        is_named = self.every[at].opname == 'KW_NAMES'
        return f, args, self.code.co_consts[self.every[at].arg] if is_named else ()


    def leaves_with(self,
        i:dis.Instruction # A call among the instructions
    ) -> bool:
        "Is it the end of a `with` block, which calls `__exit__` with None three times?"
        f, args, _ = self.call(i)
        is_before_311 = bool(args) and args[-1] is not None and args[-1].opname == 'DUP_TOP'
        return is_before_311 or f is not None and is_constant(f)


def _effect(i) -> int:
    "By how much an instruction changes the height of the stack"
    if i.opname.startswith('STORE_FAST_LOAD_FAST'): return 1 # it stores one name before, which it takes
    return dis.stack_effect(i.opcode, i.arg if i.opcode >= dis.HAVE_ARGUMENT else None, jump=False)
