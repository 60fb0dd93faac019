"Walk through a function's bytecode to find what it loads from outside and what it changes."
import builtins
import inspect
import math
import sys
from numbers import Number
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType

import numpy as np
import torch
from torch import Tensor

from optimcb._compat.bytecode import (
    LOADS_ATTR,
    LOADS_OUTSIDE,
    NOISE,
    is_arithmetic,
    is_constant,
    is_in_place,
    is_shown,
    is_subscript,
    loaded_names,
    stored_names,
)
from optimcb._compat.operands import Operands, is_call
from optimcb.composition.stepper import strings
from optimcb.tracing.objects import can_change, has_parts, is_a, top_module
from optimcb.tracing.ops import OPS
from optimcb.tracing.purity_tables import (
    ASK,
    BY_NAME,
    MADE,
    OWN,
    SHOWN,
    TELLING,
    UNKNOWN,
    Impure,
)

__all__ = ['CodeWalk', 'is_written']


# Instructions that only move what is on the stack
MOVES = frozenset({'SWAP', 'ROT_TWO', 'ROT_THREE', 'ROT_FOUR', 'ROT_N', 'COPY', 'DUP_TOP', 'DUP_TOP_TWO',
                   'TO_BOOL'})
# Methods whose results share no memory with their object
FRESH = {k for o in OPS.values() for k in (o.name, *o.aliases)} | {
    'clone', 'copy', 'item', 'tolist', 'sum', 'mean', 'norm', 'var', 'std', 'numel', 'dim', 'size', 'count',
    'index'}


class CodeWalk:
    """A walk through the code of a function, which reports its findings to a reader.

    `means` has the known objects that instructions load, by offset. `outside_names` are local names that may
    refer to (parts of) outside objects. `aliases` has those, too, that may refer to (parts of) arguments of a
    function that a stepper calls, which may be outside objects.
    """
    def __init__(self,
        reader, # The `CodeReader` to report to
        code:CodeType, # Code of the function
        outside:dict, # Its globals
        known:dict, # Values of free variables and defaults, by name
        aliases:frozenset=frozenset() # Free variables that may refer to outside objects
    ):
        self.reader, self.code, self.outside, self.known = reader, code, outside, dict(known)
        self.operands, self.means, self.imported = Operands(code), {}, None
        # where outside objects are loaded that have parts, or that can be changed themselves
        self.parts, self.wholes = set(), set()
        self.asks_calls = False # does it matter with what something is called?
        self.by_known_name = set() # where `getattr` and the like are called with a name that is a constant
        is_stepper = code is reader.stepper # its arguments all belong to one parameter
        arguments = code.co_varnames[:code.co_argcount + code.co_kwonlyargcount]
        self.outside_names = set(aliases)
        self.aliases = set(aliases) if is_stepper else {*aliases, *arguments}
        inside = outside.get('__builtins__', builtins)
        self.inside = inside if isinstance(inside, dict) else vars(inside)

    def walk(self):
        "Walk through all instructions, and the functions that they define. Raises `Impure`."
        o, name, hands_out = UNKNOWN, '', self.reader.hands_out # the last loaded object
        ins = [i for i in self.operands.every if i.opname not in NOISE]
        for last, i in zip([None, *ins], ins):
            if i.opname in LOADS_ATTR:
                o, name = self._attribute(i, o, name), i.argval
                continue
            if o is not UNKNOWN: self.reader.used(o, name)
            o, name = self._loaded(i)
            before = self.means.get(last.offset, UNKNOWN) if last else UNKNOWN
            self._store(i, last, before)
            self._change(i, last, before)
            self._special(i, last)
            if i.opname == 'IS_OP': self._identity(i)
            if self.asks_calls and is_call(i): self._call(i)
        self._constants()
        if self.reader.hands_out != hands_out: self.walk() # results of calls are met otherwise

    # What is loaded

    def _attribute(self, i, o, name):
        "Return the attribute of the object that was loaded last, if known"
        k, reader = i.argval, self.reader
        if k in ASK or k == 'grad' and name == 'data': reader.asks_type = True # `p.data` has no gradient
        makes = self.code.co_name in MADE
        if k == '__setattr__' and makes: return UNKNOWN # a new object
        if k == '__init__' and not makes: raise Impure("it calls `__init__`")
        if is_written(k) and self._is_outside(i, self.aliases): reader.writes = True
        if o is UNKNOWN: reader.named(k)
        else: o = reader.attribute(o, name, k)
        self._note(i, o)
        return o

    def _note(self, i, o):
        "Note the object that an instruction loads, if known"
        if o is UNKNOWN: return
        self.means[i.offset] = o
        if has_parts(o): self.parts.add(i.offset)
        if can_change(o): self.wholes.add(i.offset)
        self.asks_calls |= o is hash or id(o) in BY_NAME or _is_numpys(o)

    def _loaded(self, i) -> tuple:
        "Return the object that an instruction loads, if known, and its name"
        o, name = UNKNOWN, i.argval
        if i.opname in LOADS_OUTSIDE and name[0] != '@': # `@` is pytest's
            o = self.outside.get(name, self.inside.get(name, UNKNOWN))
            self.reader.loaded.append((self.outside, name, self.outside.get(name, UNKNOWN)))
        if i.opname == 'IMPORT_NAME':
            self.reader.imports.append(name)
            self.imported = _imported(name)
            self._note(i, self.imported)
        if i.opname == 'IMPORT_FROM': self._note(i, vars(self.imported).get(name, self.imported))
        for n in loaded_names(i):
            if o is not UNKNOWN: self.reader.used(o, name)
            o, name = self.known.get(n, UNKNOWN), n
        self._note(i, o)
        return o, name

    def _identity(self, i):
        "Two objects are told apart"
        operands = self.operands.of(i)
        if not any(_tells(o, self.means) for o in operands): raise Impure(_identity(operands, self.means))
        told = [o.argval if is_constant(o) else self.means.get(o.offset, UNKNOWN) for o in operands]
        if any(o is None or isinstance(o, bool) for o in told): return
        self.reader.tells_numbers |= any(isinstance(o, Number) for o in told)

    # What is changed

    def _store(self, i, last, before):
        "Note local names that an instruction sets. `last` is the previous instruction, `before` its object"
        for operand, n in enumerate(stored_names(i), 1):
            if last.opname == 'IMPORT_NAME': self.known[n] = _imported(last.argval.partition('.')[0])
            if last.opname == 'IMPORT_FROM': self.known[n] = before
            for names in (self.aliases, self.outside_names):
                if self._is_outside(i, names, operand): names.add(n)
                elif not self.operands.jumps and n not in self.code.co_cellvars:
                    names.discard(n) # it is something else from here on

    def _change(self, i, last, before):
        "Note what an instruction changes. `last` is the previous instruction, `before` its object"
        op, k, code = i.opname, i.argval, self.code
        is_free = op in ('STORE_DEREF', 'DELETE_DEREF') and k in code.co_freevars
        if is_free or op in ('STORE_GLOBAL', 'DELETE_GLOBAL'):
            raise Impure(f"it sets `{k}`, which lies outside of it")
        if op in ('STORE_ATTR', 'DELETE_ATTR'):
            makes = code.co_name in MADE # a new object
            if makes and loaded_names(last)[-1:] == code.co_varnames[:1]: return
            is_outside = before is not UNKNOWN or self._is_outside(i, self.outside_names)
            if k not in OWN or is_outside: raise Impure(f"it sets the attribute `{k}`")
            self.reader.sets.add(k)
            if self._is_outside(i, self.aliases): self.reader.writes = True
        if is_in_place(i) and self._is_outside(i, self.aliases, 2):
            of_attribute = self.operands.of(i)[-1].opname in LOADS_ATTR # as in `p.data *= 2`
            if of_attribute: self.reader.writes = True
            else: self.reader.in_place = True
        if op == 'RETURN_VALUE' and self._is_outside(i, self.outside_names): self.reader.hands_out = True
        if op in ('STORE_SUBSCR', 'DELETE_SUBSCR', 'STORE_SLICE'):
            self.reader.changes.add('[]')
            self.reader.names |= {'__setitem__', '__delitem__'}
            if self._is_outside(i, self.aliases, 3 if op == 'STORE_SLICE' else 2): self.reader.writes = True

    def _is_outside(self, i, names, operand=1) -> bool:
        """May an operand, counted from the last, be (a part of) something outside that can be changed?

        Local names among `names` are."""
        if not (names or self.parts or self.wholes or self.reader.hands_out): return False
        pushers = [*self.operands.of(i, operand)[operand-1:], *self.operands.branches(i)]
        todo, met = [(o, True) for o in pushers], set()
        while todo:
            o, is_whole = todo.pop()
            if o.offset in met: continue
            met.add(o.offset)
            if names.intersection(loaded_names(o)) or o.offset in self.parts: return True
            if is_whole and o.offset in self.wholes: return True
            if is_call(o) and self.reader.hands_out: return True
            todo += [(before, is_whole and o.opname in MOVES) for before in self._came_from(o)]
        return False

    def _came_from(self, i) -> list:
        "The instructions that push what the result of this one may be, or be a part of"
        operands = self.operands
        if is_call(i):
            f, args, _ = operands.call(i)
            if f is None or f.argval in FRESH: return []
            is_method = f.opname in LOADS_ATTR and f.offset not in self.means
            return [f] if is_method else [o for o in (f, *args) if o is not None]
        if is_arithmetic(i) or is_constant(i): return []
        if i.opname == 'BINARY_SLICE': return operands.of(i, 3)[2:]
        if is_in_place(i) or is_subscript(i): return operands.of(i)[1:]
        if i.opname.startswith('BUILD'): return operands.of(i, i.arg)
        if i.opname in MOVES or stored_names(i):
            first = operands.before(i, MOVES)
            if is_in_place(first): return operands.of(first)[1:] # as in `x.data *= y`
            return [o for span in operands.spans(i, 3) for o in span]
        return [*operands.of(i, 1), *operands.branches(i)]

    # What is used unasked

    def _special(self, i, last):
        "Note special methods and names that an instruction uses. `last` is the previous instruction"
        op, k, reader = i.opname, i.argval, self.reader
        if op == 'LOAD_BUILD_CLASS': raise Impure("it defines a class")
        if is_shown(i): reader.special |= SHOWN
        if op == 'MATCH_CLASS':
            reader.asks_type = reader.matches = True
            reader.names |= set(last.argval) # in `case Class(name=…)`
        is_set = op == 'LOAD_CONST' and isinstance(k, frozenset)
        is_in_set = op == 'CONTAINS_OP' and last.opname in ('BUILD_SET', 'SET_UPDATE')
        if is_set or is_in_set: reader.looks_up = True

    def _call(self, i):
        "Note a name that is looked up by `getattr` or the like, and where a function of arrays writes to"
        f, args, keywords = self.operands.call(i)
        o = self.means.get(f.offset, UNKNOWN) if f is not None else UNKNOWN
        if o is hash and self.code.co_name != '__hash__':
            raise Impure("it asks for a hash, which may be an address")
        if id(o) in BY_NAME:
            owner, names = (args[:1], args[1:2]) if o is getattr or o is hasattr else ([], args)
            modules = [self.means.get(n.offset) for n in owner if n]
            of_torch = any(o is torch or o is math for o in modules) # whatever they have is known
            if of_torch or all(n and is_constant(n) for n in names): self.by_known_name.add(f.offset)
        if _out_place(o) < len(args) - len(keywords): self.reader.gives_out = True

    def _constants(self):
        "Read functions that are defined in the code, and names that it may look up"
        by_name = BY_NAME & self.reader.seen.keys()
        lookups = {at for at, o in self.means.items() if id(o) in BY_NAME}
        if lookups - self.by_known_name: self.reader.by_any_name = True
        if any('%' in c for c in self.code.co_consts if isinstance(c, str)): self.reader.special |= SHOWN
        if 'out' in strings(self.code): self.reader.gives_out = True
        for c in self.code.co_consts:
            if isinstance(c, CodeType):
                self.reader.code(c, self.outside, self.known, self.aliases.intersection(c.co_freevars))
            if isinstance(c, str) and c.isidentifier() and by_name:
                self.reader.named(c)
                self.reader.writes |= is_written(c)


def is_written(
    name:str # Name of a method
) -> bool:
    "Does a method of this name write into its object, like `add_`?"
    return name.endswith('_') and not name.endswith('__')


def _imported(name) -> ModuleType:
    if name not in sys.modules: raise Impure(f"it imports `{name}`, which nobody has so far")
    return sys.modules[name]


def _is_numpys(f) -> bool:
    if is_a(f, np.ufunc): return True
    return is_a(f, (FunctionType, BuiltinFunctionType, type(np.sum))) and top_module(f.__module__) == 'numpy'


def _out_place(f) -> float:
    "Place of the argument that a function of arrays writes its result to"
    if is_a(f, np.ufunc): return f.nin
    if not _is_numpys(f): return math.inf
    try: return list(inspect.signature(f).parameters).index('out')
    except (TypeError, ValueError): return math.inf # it has none, or can't be asked


def _tells(i, means) -> bool:
    if is_constant(i): return True
    if i.offset in means: return not isinstance(means[i.offset], Tensor) and not _is_tensors(means[i.offset])
    if 'self' in loaded_names(i): return True # an object that has the method
    return i.opname in LOADS_ATTR and i.argval in TELLING


def _is_tensors(o) -> bool: return isinstance(o, type) and issubclass(o, Tensor)


def _identity(operands, means) -> str:
    asked = [means[o.offset].__name__ for o in operands if _is_tensors(means.get(o.offset))]
    if not asked: return "it asks whether this is that object"
    return f"it asks whether a type is `{asked[0]}`: ask with `isinstance`"
