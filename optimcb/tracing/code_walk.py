"Walk through a function's bytecode to find what it loads from outside and what it changes."
import builtins
import sys
from numbers import Number
from types import CodeType, ModuleType

from torch import Tensor

from optimcb._compat.cpython import (
    LOADS_ATTR,
    LOADS_OUTSIDE,
    NOISE,
    instructions,
    is_constant,
    is_in_place,
    loaded_names,
    operands_of,
    stored_names,
)
from optimcb.tracing.purity_tables import ASK, BY_NAME, CONTAINERS, OWN, TELLING, UNKNOWN, Impure

__all__ = ['CodeWalk', 'is_written']


class CodeWalk:
    """A walk through the code of a function, which reports its findings to a reader.

    `means` has the known objects that instructions load, by offset. `aliases` are local names that may refer
    to outside objects.
    """
    def __init__(self,
        reader, # The `CodeReader` to report to
        code:CodeType, # Code of the function
        outside:dict, # Its globals
        known:dict # Values of free variables and defaults, by name
    ):
        self.reader, self.code, self.outside, self.known = reader, code, outside, dict(known)
        self.every, self.means, self.imported = instructions(code), {}, None
        is_stepper = code is reader.stepper # its arguments all belong to one parameter
        arguments = code.co_varnames[:code.co_argcount + code.co_kwonlyargcount]
        self.aliases = set() if is_stepper else set(arguments)
        inside = outside.get('__builtins__', builtins)
        self.inside = inside if isinstance(inside, dict) else vars(inside)

    def walk(self):
        "Walk through all instructions, and the functions that they define. Raises `Impure`."
        o, name, root = UNKNOWN, '', () # the last loaded object, and the local names that it comes from
        ins = [i for i in self.every if i.opname not in NOISE]
        for last, i in zip([None, *ins], ins):
            if i.opname in LOADS_ATTR:
                o, name = self._attribute(i, o, name, root), i.argval
                continue
            if o is not UNKNOWN: self.reader.used(o, name)
            root = loaded_names(i)
            o, name = self._loaded(i, root)
            before = self.means.get(last.offset, UNKNOWN) if last else UNKNOWN
            self._store(i, last, before)
            self._effect(i, last, before)
            if i.opname == 'IS_OP': self._identity(i)
        self._constants()

    def _attribute(self, i, o, name, root):
        "Return the attribute of the object that was loaded last, if known"
        k, reader = i.argval, self.reader
        if k in ASK or k == 'grad' and name == 'data': reader.asks_type = True # `p.data` has no gradient
        if o is UNKNOWN: reader.named(k)
        if is_written(k) and self.aliases.intersection(root): reader.writes = True
        if o is not UNKNOWN: o = reader.attribute(o, name, k)
        if o is not UNKNOWN: self.means[i.offset] = o
        return o

    def _loaded(self, i, root) -> tuple:
        "Return the object that an instruction loads, if known, and its name"
        o, name = UNKNOWN, i.argval
        if i.opname in LOADS_OUTSIDE and name[0] != '@': # `@` is pytest's
            o = self.outside.get(name, self.inside.get(name, UNKNOWN))
            self.reader.loaded.append((self.outside, name, self.outside.get(name, UNKNOWN)))
        if i.opname == 'IMPORT_NAME':
            self.reader.imports.append(name)
            self.imported = self.means[i.offset] = _imported(name)
        if i.opname == 'IMPORT_FROM': self.means[i.offset] = vars(self.imported).get(name, self.imported)
        for n in root:
            if o is not UNKNOWN: self.reader.used(o, name)
            o, name = self.known.get(n, UNKNOWN), n
        if o is not UNKNOWN: self.means[i.offset] = o
        return o, name

    def _identity(self, i):
        "Two objects are told apart"
        if not _is_told(self.every, i, self.means): raise Impure(_identity(self.every, i, self.means))
        ins = operands_of(self.every, i)
        told = [i.argval if is_constant(i) else self.means.get(i.offset, UNKNOWN) for i in ins]
        if any(o is None or isinstance(o, bool) for o in told): return
        self.reader.tells_numbers |= any(isinstance(o, Number) for o in told)

    def _store(self, i, last, before):
        "Note local names that an instruction sets. `last` is the previous instruction, `before` its object"
        for n in stored_names(i):
            if last.opname == 'IMPORT_NAME': self.known[n] = _imported(last.argval.partition('.')[0])
            if last.opname == 'IMPORT_FROM': self.known[n] = before
            if isinstance(before, (*CONTAINERS, Tensor)): self.aliases.add(n)
            if n in self.aliases and is_in_place(last): self.reader.in_place = True

    def _effect(self, i, last, before):
        "Note what an instruction changes. `last` is the previous instruction, `before` its object"
        op, k, code = i.opname, i.argval, self.code
        is_free = op in ('STORE_DEREF', 'DELETE_DEREF') and k in code.co_freevars
        if is_free or op in ('STORE_GLOBAL', 'DELETE_GLOBAL'):
            raise Impure(f"it sets `{k}`, which lies outside of it")
        if op in ('STORE_ATTR', 'DELETE_ATTR') and (k not in OWN or before is not UNKNOWN):
            makes = code.co_name in ('__init__', '__post_init__') # a new object
            if not makes or loaded_names(last)[-1:] != code.co_varnames[:1]:
                raise Impure(f"it sets the attribute `{k}`")
        if op in ('STORE_SUBSCR', 'DELETE_SUBSCR', 'STORE_SLICE'):
            self.reader.changes.add('[]')
            self.reader.names |= {'__setitem__', '__delitem__'}
        if op == 'MATCH_CLASS': self.reader.asks_type = True
        is_set = op == 'LOAD_CONST' and isinstance(k, frozenset)
        if is_set or op == 'CONTAINS_OP' and last.opname in ('BUILD_SET', 'SET_UPDATE'):
            self.reader.looks_up = True

    def _constants(self):
        "Read functions that are defined in the code, and names that it may look up"
        by_name = BY_NAME & self.reader.seen.keys()
        for c in self.code.co_consts:
            if isinstance(c, CodeType): self.reader.code(c, self.outside, self.known)
            if isinstance(c, str) and c.isidentifier() and by_name: self.reader.named(c)


def is_written(
    name:str # Name of a method
) -> bool:
    "Does a method of this name write into its object, like `add_`?"
    return name.endswith('_') and not name.endswith('__')


def _imported(name) -> ModuleType:
    if name not in sys.modules: raise Impure(f"it imports `{name}`, which nobody has so far")
    return sys.modules[name]


def _is_told(every, i, means) -> bool:
    "Is some operand of `is` neither a tensor nor a tensor class? Then tracers give the same result."
    return any(_tells(o, means) for o in operands_of(every, i))


def _tells(i, means) -> bool:
    if is_constant(i): return True
    if i.offset in means: return not isinstance(means[i.offset], Tensor) and not _is_tensors(means[i.offset])
    if 'self' in loaded_names(i): return True # an object that has the method
    return i.opname in LOADS_ATTR and i.argval in TELLING


def _is_tensors(o) -> bool: return isinstance(o, type) and issubclass(o, Tensor)


def _identity(every, i, means) -> str:
    asked = [means[o.offset].__name__ for o in operands_of(every, i) if _is_tensors(means.get(o.offset))]
    if not asked: return "it asks whether this is that object"
    return f"it asks whether a type is `{asked[0]}`: ask with `isinstance`"
