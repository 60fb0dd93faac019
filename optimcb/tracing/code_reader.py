"""Read all code that a stepper may run, and the objects outside it that the code uses.

The reader follows functions that the stepper calls, outside objects that it uses, and methods of those that
it may call. Code that can't be read counts as impure.
"""
import builtins
import enum
import inspect
from collections import defaultdict
from functools import cached_property, partial
from types import (
    ClassMethodDescriptorType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    SimpleNamespace,
    WrapperDescriptorType,
)

import numpy as np
from torch import Tensor

from optimcb.composition.stepper import code_of
from optimcb.tracing.code_walk import CodeWalk, is_written
from optimcb.tracing.purity_tables import (
    ACT,
    ASK,
    CALL_BACK,
    CHANGE,
    CHANGE_BY,
    CONTAINERS,
    DRAW,
    DRAWN,
    ELEMENTS,
    IN_C,
    INERT,
    LEGACY,
    MADE_IN_C,
    MODULES,
    OURS,
    PURE,
    RANDOM,
    RARELY,
    SEED,
    UNKNOWN,
    Impure,
)

__all__ = ['CodeReader', 'is_inert']


class CodeReader:
    "The code that a stepper may run, and the outside objects that it uses."
    def __init__(self):
        self.seen = {} # objects that were read, by id
        self.names = set() # attributes that the code reads from unknown objects
        self.objects = [] # objects of which any method may be called, with their names
        self.members = defaultdict(set) # by id of an object, the names that were read from it
        self.held, self.tensors = {}, [] # containers by name, and names of tensors
        self.changes = set() # names of methods that may change a container
        self.in_place = False # may a container be changed through another name?
        self.writes = False # may a tensor be written to through another name?
        self.asks_type = False # does it use `isinstance` or the like?
        self.asks_class, self.looks_up = False, False # does it use `type`; is a set or dict looked up?
        self.stepper = None
        self.codes, self.functions = [], [] # code objects and functions that were read
        # what was read from outside: `(dict, name, object)` of modules, `(cell, object)` of closures
        self.loaded, self.cells = [], []
        self.owners, self.imports = [], [] # other objects whose attributes were read; imported modules
        self.tells_numbers = False # does it compare a number by `is`?
        self.asks_module = False # does a module's `__getattr__` work an attribute out?

    def read(self, o, name):
        "Read all that `o` may run. Raises `Impure`."
        self.stepper = code_of(o) if callable(o) else None
        self.value(o, name)
        while todo := [(o, n, k) for o, n in self.objects for k in self._names_of(o) - self.members[id(o)]]:
            for o, n, k in todo:
                self.members[id(o)].add(k)
                self._member(o, k, n)
        if '__dict__' in self.names and self.objects: raise Impure("it reads `__dict__`")
        if self.asks_class and (self.looks_up or any(isinstance(o, (dict, set)) for o in self.held.values())):
            raise Impure("it may look a type up: ask with `isinstance`, or compare")
        for name, o in self.held.items():
            changed = any(hasattr(o, k) or k in CHANGE_BY or k == '[]' for k in self.changes)
            if changed or self.in_place: raise Impure(f"it may change `{name}`, which lies outside of it")
        if self.tensors and (self.writes or self.in_place):
            raise Impure(f"it may write into `{self.tensors[0]}`, which lies outside of it")

    # Outside objects

    def value(self, o, name):
        "Read an outside object, called `name`, that may be used in any way."
        if id(o) in self.seen: return
        self.seen[id(o)] = o
        if isinstance(o, Tensor): self.tensors.append(name)
        if is_inert(o): return
        if isinstance(o, FunctionType): self._function(o)
        elif isinstance(o, MethodType):
            self.value(o.__func__, name)
            self.value(o.__self__, name)
        elif isinstance(o, IN_C): self._in_c(o, name)
        elif isinstance(o, type): self._class(o, name)
        elif isinstance(o, ModuleType): self.objects.append((o, name))
        elif isinstance(o, (staticmethod, classmethod)): self.value(o.__func__, name)
        elif isinstance(o, property): self.value(o.fget, name)
        elif isinstance(o, cached_property): self.value(o.func, name)
        elif type(o).__name__ == '_lru_cache_wrapper': self.value(o.__wrapped__, name)
        else: self._object(o, name)

    def _function(self, f):
        module = f.__module__ or ''
        if module.startswith(OURS): self.codes.append(getattr(f, 'in_steps', f).__code__)
        if hasattr(f, 'inferred_outputs'): # torch runs it for each parameter anyway
            drawn = RANDOM.intersection(getattr(getattr(f.__wrapped__, '__code__', None), 'co_names', ()))
            if not drawn: return
            uses = f"it calls `{f.__name__}`, which uses `{min(drawn)}`"
            raise Impure(f"{uses}: engines call it in another order")
        elif not module.startswith(OURS) and not self._is_known(f.__name__, module):
            self.functions.append(f)
            free = list(zip(f.__code__.co_freevars, f.__closure__ or ()))
            known = {k: cell.cell_contents for k, cell in free if _is_bound(cell)}
            self.cells += [(cell, known.get(k, UNKNOWN)) for k, cell in free]
            ps = inspect.signature(f, follow_wrapped=False).parameters.values()
            known |= {p.name: p.default for p in ps if p.default is not p.empty}
            self.code(f.__code__, f.__globals__, known)

    def _is_known(self, name, module) -> bool:
        "Is the module known to be pure for this function or class? Raises `Impure` if known to be impure"
        top = _top(module)
        if top in MODULES: raise Impure(f"it uses `{name}`, which {MODULES[top]}")
        if name in RANDOM and top in PURE: raise Impure(DRAWN.format(name))
        if name in SEED and top in PURE: raise Impure(f"it calls `{name}`, which sets random numbers")
        if name in CHANGE_BY: self.changes.add(name)
        return top in PURE

    def _in_c(self, f, name):
        "Read a function without Python code, or a method of such a type"
        owner = getattr(f, '__self__', None)
        if f.__name__ in ACT and owner is builtins: raise Impure(f"it {ACT[f.__name__]}")
        if isinstance(f, np.ufunc): return
        if owner is None or isinstance(owner, (ModuleType, type)):
            of = getattr(f, '__objclass__', owner)
            module = getattr(f, '__module__', None) or getattr(of, '__module__', None)
            if self._is_known(f.__name__, module): return
            raise Impure(f"it calls `{name}`, which may give something else each time")
        else:
            if f.__name__ in CHANGE: self.changes.add(f.__name__)
            self.value(owner, name)

    def _class(self, cls, name):
        if type(cls) is LEGACY: raise Impure(f"it asks for `{name}`: ask for `p.dtype` instead")
        if _is_of(cls, OURS) or self._is_known(cls.__name__, cls.__module__): return
        if not all(c in MADE_IN_C or _is_python(c) for c in cls.__mro__):
            raise Impure(f"it uses `{name}`, which may give something else each time")
        if not all(c in MADE_IN_C or _top(c.__module__) in PURE for c in type(cls).__mro__):
            raise Impure(f"it uses `{name}`, whose metaclass may give something else each time")
        self.objects.append((cls, name))
        for k in ('__init__', '__new__', '__post_init__'): self._member(cls, k, name)

    def _object(self, o, name):
        "Read an object that may be used in any way"
        top = _top(type(o).__module__)
        if top in MODULES: raise Impure(f"it uses `{name}`, which {MODULES[top]}")
        if not all(c in MADE_IN_C or _is_python(c) and not _is_of(c, CALL_BACK) for c in type(o).__mro__):
            raise Impure(f"it uses `{name}`, a {type(o).__name__}, which may give something else each time")
        if isinstance(o, partial):
            for v in (o.func, *o.args, *o.keywords.values()):
                if isinstance(v, str): self.named(v) # `partial(getattr, o, 'name')`
                self.value(v, name)
        if isinstance(o, CONTAINERS): self.held[name] = o
        if isinstance(o, frozenset): self.looks_up = True
        if isinstance(o, (dict, MappingProxyType)): elements = *o, *o.values()
        else: elements = o if isinstance(o, ELEMENTS) else ()
        for v in elements: self.value(v, name)
        if type(o) not in MADE_IN_C[1:] or isinstance(o, SimpleNamespace): self.objects.append((o, name))

    def _names_of(self, o) -> set:
        "Return the members that may be used: those that the code names, and special methods"
        if isinstance(o, ModuleType): return self.names
        classes = [c for c in (o if isinstance(o, type) else type(o)).__mro__ if c not in MADE_IN_C]
        special = {k for c in classes for k in vars(c) if k[:2] == k[-2:] == '__'}
        return self.names | special - RARELY

    def _member(self, o, k, name):
        "Yield what `k` may be for an object: its own attribute, and that of each of its classes"
        if k in (own := _own(o)): self.value(own[k], f'{name}.{k}')
        if isinstance(o, ModuleType): return
        for c in (o if isinstance(o, type) else type(o)).__mro__:
            v = vars(c).get(k)
            if isinstance(v, MemberDescriptorType) and not isinstance(o, type):
                v = getattr(o, k, None) # an attribute in `__slots__`
            if c in MADE_IN_C or isinstance(v, (GetSetDescriptorType, MemberDescriptorType)): continue
            self.value(v, f'{name}.{k}')

    def attribute(self, o, name, k):
        "Read attribute `k` of a known object."
        if isinstance(o, ModuleType):
            self.loaded.append((vars(o), k, vars(o).get(k, UNKNOWN)))
            self.asks_module |= k not in vars(o)
            if k not in vars(o) and '__getattr__' in vars(o) and _top(o.__name__) not in PURE:
                raise Impure(f"it uses `{name}.{k}`, which may be something else each time")
            return vars(o)[k] if k in vars(o) else getattr(o, k, UNKNOWN)
        self.owners.append(o)
        if isinstance(o, Tensor) and is_written(k): raise Impure(f"it writes into `{name}`")
        if is_inert(o): return UNKNOWN
        self.named(k)
        classes = [vars(c) for c in type(o).__mro__ if c not in MADE_IN_C]
        is_of_class = any(k in names or '__getattribute__' in names for names in classes)
        if k in _own(o) and not is_of_class: return _own(o)[k]
        self.value(o, name)
        return UNKNOWN

    def named(self, k):
        "Note an attribute of an unknown object"
        if k in DRAW: raise Impure(DRAWN.format(k))
        self.names.add(k)
        if k in ('get', 'setdefault'): self.looks_up = True
        if k in CHANGE or k in CHANGE_BY: self.changes.add(k)

    # Code

    def code(self, code, outside, known):
        "Read the code of a function. `known` has the values of names that aren't globals"
        self.codes.append(code)
        CodeWalk(self, code, outside, known).walk()

    def used(self, o, name):
        "Read an outside object that is used other than for an attribute"
        if o is issubclass: raise Impure("it asks for a type: ask with `isinstance`")
        if getattr(o, '__name__', None) in ASK: self.asks_type = True
        if o is type: self.asks_class = True
        self.value(o, name)


def is_inert(
    o # Anything
) -> bool:
    "Do all uses of the object give the same result each time?"
    if isinstance(o, (Tensor, enum.Enum)): return True
    return isinstance(o, INERT) and _top(type(o).__module__) in {*PURE, 'sys', 'optimcb'}


def _top(module) -> str: return module.partition('.')[0] if isinstance(module, str) else ''
def _is_of(cls, modules) -> bool:
    return isinstance(cls.__module__, str) and cls.__module__.startswith(modules)



def _is_python(cls) -> bool:
    "Is the class written in Python?"
    in_c = (MethodDescriptorType, WrapperDescriptorType, ClassMethodDescriptorType)
    return not any(isinstance(v, in_c) and v.__objclass__ is cls for v in vars(cls).values())


def _own(o) -> dict:
    "Return the attributes of an object without those of its class"
    try: return object.__getattribute__(o, '__dict__')
    except AttributeError: return {}


def _is_bound(cell) -> bool:
    try: return cell.cell_contents is not UNKNOWN
    except ValueError: return False
