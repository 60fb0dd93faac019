"""Find the outside objects that steppers read besides their arguments: globals, closures, defaults.

A recording can be replayed while these are unchanged, which is checked by looking up each name again and
comparing objects by identity. So only immutable objects are allowed: functions, modules, numbers and the
like, but no lists, tensors, or objects with attributes. Steppers that read others are recorded in each step.
"""
import builtins
import math
import operator
from collections.abc import Iterator
from functools import partial
from types import (
    BuiltinFunctionType,
    CodeType,
    EllipsisType,
    FunctionType,
    MethodDescriptorType,
    ModuleType,
    NoneType,
)

import numpy as np
import torch

from optimcb._compat.bytecode import catches_errors
from optimcb.composition.rules import Rule
from optimcb.composition.stepper import InRoute, only, renamed
from optimcb.tracing.code_reader import CodeReader
from optimcb.tracing.purity_tables import OURS, UNKNOWN, Impure
from optimcb.tracing.tracer import FUNCTIONS

__all__ = ['Outside', 'outside_of']


SCALARS = frozenset({NoneType, bool, int, float, complex, str, bytes, EllipsisType, torch.dtype, torch.device,
                     torch.layout, torch.memory_format, range, slice, CodeType})
SEQUENCES = frozenset({tuple, frozenset, torch.Size})
PARTIALS = frozenset({partial, renamed, only})
STABLE = frozenset({'torch', 'math', 'numpy', 'operator', 'itertools', 'functools', 'optimcb', 'builtins'})
# Builtins that depend only on the values of their arguments, and use the operators of these. Not `sum`,
# which adds floats more exactly than `+` does
BUILTINS = frozenset({
    'abs', 'all', 'any', 'divmod', 'iter', 'len', 'max', 'min', 'next', 'pow', 'round', 'sorted'})
TYPES = (bool, dict, enumerate, filter, float, frozenset, int, list, map, partial, range, reversed, set,
         slice, str, tuple, zip, torch.Size, torch.finfo, torch.iinfo)
# Functions whose results for numbers differ from those of operators
NOT_AS_OPERATORS = frozenset({operator.is_, operator.is_not, math.prod, getattr(math, 'sumprod', None)})


class Outside:
    "The outside objects that some steppers read, as they were when the code was read."
    def __init__(self):
        self.names = [] # `(dict, name, object)`; `UNKNOWN` for a missing name
        self.cells = [] # `(cell, object)`
        self.functions = [] # `(function, code, defaults, defaults of keywords)`
        self.dtype = torch.get_default_dtype()

    def is_same(self) -> bool:
        "Is everything unchanged?"
        if torch.get_default_dtype() is not self.dtype: return False
        for d, k, o in self.names:
            if d.get(k, UNKNOWN) is not o: return False
        for f, code, defaults, keywords in self.functions:
            if f.__code__ is not code or f.__defaults__ is not defaults: return False
            if f.__kwdefaults__ is not keywords: return False
        try: return all(cell.cell_contents is o for cell, o in self.cells)
        except ValueError: return False # one is empty now

    def add(self,
        reader:CodeReader # What it has read
    ):
        "Take in what one stepper looks at."
        self.names += [o for o in reader.loaded if not _is_stable(*o)]
        self.cells += reader.cells
        for f in reader.functions:
            self.functions.append((f, f.__code__, f.__defaults__, f.__kwdefaults__))
            self.names += [(f.__kwdefaults__, k, v) for k, v in (f.__kwdefaults__ or {}).items()]
        for o in reader.seen.values():
            if type(o) in PARTIALS: self.names += [(o.keywords, k, v) for k, v in o.keywords.items()]


def outside_of(
    composition # Its steppers
) -> Outside|None:
    "Return the outside objects that steppers read; None if some are unknown, or may change in place."
    res = Outside()
    for s in composition.steppers:
        if s.is_ours and s.f is s.innermost: continue # reads nothing outside
        reader = CodeReader()
        try: reader.read(s.f, s.label)
        except Impure: return None
        if not _is_clear(reader): return None
        res.add(reader)
    return res


def _is_clear(reader) -> bool:
    "Does the code use numbers only by value, and read only objects that can't change in place?"
    if reader.asks_type or reader.asks_class or reader.asks_module or reader.tells_numbers: return False
    if any(o is UNKNOWN for _, o in reader.cells): return False
    if any(_top(k) not in STABLE for k in reader.imports): return False
    if not all(_is_constant(o) for o in reader.owners): return False
    if any(catches_errors(c) for f in reader.functions for c in _codes(f.__code__)): return False
    return all(_is_fixed(o, reader.functions) for o in reader.seen.values())


def _codes(code) -> Iterator[CodeType]:
    "Yield the code of a function, and of the functions inside it"
    yield code
    for c in code.co_consts:
        if isinstance(c, CodeType): yield from _codes(c)


def _is_fixed(o, read) -> bool:
    "Is this object immutable, or a function whose code was `read`?"
    if _is_constant(o) or type(o) in PARTIALS: return True # the arguments of partials are checked, too
    if isinstance(o, (Rule, InRoute)): return _is_ours(type(o).__module__)
    if isinstance(o, FunctionType):
        if hasattr(o, 'inferred_outputs') or any(o is f for f in read): return True
        return _is_ours(o.__module__) or _is_torchs(o)
    if isinstance(o, BuiltinFunctionType): return _is_of_values(o)
    if isinstance(o, ModuleType): return _top(o.__name__) in STABLE
    if isinstance(o, type): return _is_plain_type(o)
    return isinstance(o, MethodDescriptorType) and getattr(o, '__objclass__', None) in TYPES


def _is_constant(o) -> bool:
    if type(o) in SCALARS or isinstance(o, np.generic): return True
    return type(o) in SEQUENCES and all(map(_is_constant, o))


def _is_of_values(f) -> bool:
    "Does a function written in C depend only on the values of its arguments?"
    owner, module = f.__self__, _top(f.__module__)
    if owner is builtins: return f.__name__ in BUILTINS
    if _is_constant(owner) and owner is not None: return True # a method
    if module in ('math', '_operator'): return f not in NOT_AS_OPERATORS
    return module == '_functools' and f.__name__ == 'reduce' or _is_torchs(f)


def _is_torchs(f) -> bool:
    "Is it one of torch's functions that tracers support?"
    module = f.__module__ or getattr(getattr(f, '__self__', None), '__module__', None)
    return f.__name__ in FUNCTIONS and _top(module) == 'torch'


def _is_plain_type(cls) -> bool:
    if cls in TYPES or issubclass(cls, np.generic) or _is_ours(cls.__module__): return True
    return cls.__module__ == 'itertools' or cls.__module__ == 'builtins' and issubclass(cls, Exception)


def _is_stable(names, k, o) -> bool:
    "Is this a name of a stable module that is unlikely to be reassigned?"
    if _top(names.get('__name__')) not in STABLE: return False
    return callable(o) or isinstance(o, ModuleType)


def _is_ours(module) -> bool: return isinstance(module, str) and module.startswith(OURS)
def _top(module) -> str: return module.partition('.')[0] if isinstance(module, str) else ''
