"""Read all code that a stepper may run, and the objects outside it that the code uses.

The reader follows functions that the stepper calls, outside objects that it uses, and methods of those that
it may call. Code that can't be read counts as impure. Reading runs none of that code.
"""
import builtins
import inspect
from functools import cached_property, partial
from types import (
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from optimcb.composition.calls import without_explanation
from optimcb.composition.stepper import code_of
from optimcb.tracing.code_walk import CodeWalk, is_written
from optimcb.tracing.findings import Findings
from optimcb.tracing.objects import (
    attributes_of,
    elements_of,
    is_a,
    is_bound,
    is_in,
    is_inert,
    is_known_module,
    is_made_up,
    is_of,
    is_readable,
    slot_of,
    top_module,
)
from optimcb.tracing.purity_tables import (
    ACT,
    BY_NAME,
    CALL_BACK,
    CONTAINERS,
    DRAWN,
    IMPLICIT,
    IN_C,
    LEGACY,
    MADE,
    MADE_IN_C,
    MODULES,
    OURS,
    PURE,
    RANDOM,
    RARELY,
    SEED,
    SHARES,
    SHOWN,
    UNKNOWN,
    WITHOUT_CODE,
    Impure,
)

__all__ = ['CodeReader']


DIFFERS = "it uses `{}`, which may give something else each time"
SHOWS_ITSELF = ('dataclasses', 'reprlib') # modules with a decorator of `__repr__`
# Beginnings of the names of functions that set something for all
SETTERS = 'set_default_', 'set_num_', 'set_flush_', 'set_float32_', 'set_printoptions', 'seterr', 'setcontext'
ASKING = (isinstance, type, torch.is_tensor)


class CodeReader(Findings):
    "The code that a stepper may run, and the outside objects that it uses."
    def read(self, o, name):
        "Read all that `o` may run. Raises `Impure`."
        self.stepper = code_of(o) if callable(o) else None
        self.value(o, name)
        while todo := [(o, n, k) for o, n in self.objects for k in self._names_of(o) - self.members[id(o)]]:
            for o, n, k in todo:
                self.members[id(o)].add(k)
                self._member(o, k, n)
        self.check_changes()

    # Outside objects

    def value(self, o, name):
        "Read an outside object, called `name`, that may be used in any way."
        if id(o) in self.seen: return
        self.seen[id(o)] = o
        if is_a(o, (Tensor, np.ndarray)): self.memory.append(name)
        if is_a(o, Tensor): self._tensor(o, name)
        elif is_a(o, str) and '%' in o: self.special |= SHOWN
        elif is_inert(o): return
        elif is_a(o, FunctionType): self._function(o)
        elif is_a(o, MethodType):
            self.value(o.__func__, name)
            self.value(o.__self__, name)
        elif is_a(o, IN_C): self._in_c(o, name)
        elif is_a(o, type): self._class(o, name)
        elif is_a(o, ModuleType): self._module(o, name)
        elif is_a(o, (staticmethod, classmethod)): self.value(o.__func__, name)
        elif is_a(o, property): self.value(o.fget, name)
        elif is_a(o, cached_property): self.value(o.func, name)
        elif type(o).__name__ == '_lru_cache_wrapper': self.value(o.__wrapped__, name)
        else: self._object(o, name)

    def _tensor(self, o, name):
        with torch._C.DisableTorchFunctionSubclass(): has_hooks = bool(o._backward_hooks)
        if has_hooks: raise Impure(f"it uses `{name}`, which has hooks")
        if type(o) not in (Tensor, Parameter) or attributes_of(o): self.objects.append((o, name))

    def _function(self, f):
        module = f.__module__ or ''
        home = f.__globals__.get('__name__') or '' # where it is defined, whatever it passes for
        is_ours = home.startswith(OURS) and module.startswith(OURS)
        if is_ours: self.codes.append(without_explanation(f).__code__)
        if home.startswith(OURS) and hasattr(f, 'inferred_outputs'): self._by_torch(f)
        elif is_ours: return
        elif home in SHOWS_ITSELF and hasattr(f, '__wrapped__'): self.value(f.__wrapped__, f.__name__)
        elif top_module(home) in PURE and self._is_known(f.__name__, module):
            if top_module(home) in CALL_BACK: return
            for k, v in self._closure(f).items(): self.value(v, k) # what it is made to call
        else:
            self.functions.append(f)
            known = self._closure(f)
            self.cells += [(cell, known.get(k, UNKNOWN)) for k, cell in _free(f)]
            ps = inspect.signature(f, follow_wrapped=False).parameters.values()
            known |= {p.name: p.default for p in ps if p.default is not p.empty}
            self.code(f.__code__, f.__globals__, known)

    def _by_torch(self, f):
        "Read a function that torch runs for each parameter anyway"
        drawn = RANDOM.intersection(getattr(getattr(f.__wrapped__, '__code__', None), 'co_names', ()))
        if not drawn: return
        uses = f"it calls `{f.__name__}`, which uses `{min(drawn)}`"
        raise Impure(f"{uses}: engines call it in another order")

    def _closure(self, f) -> dict:
        "The free variables of a function that have a value"
        return {k: cell.cell_contents for k, cell in _free(f) if is_bound(cell)}

    def _is_known(self, name, module) -> bool:
        "Is the module known to be pure for this function or class? Raises `Impure` if known to be impure"
        top = top_module(module)
        if top in MODULES: raise Impure(f"it uses `{name}`, which {MODULES[top]}")
        if top not in PURE: return False
        if name in RANDOM: raise Impure(DRAWN.format(name))
        if name in SEED: raise Impure(f"it calls `{name}`, which sets random numbers")
        if name.startswith(SETTERS): raise Impure(f"it calls `{name}`, which sets something for all")
        if top == 'torch' and is_written(name): self.writes = True
        self.called(name)
        return True

    def _module(self, o, name):
        "Read a module, which may have code of its own for its attributes"
        self.objects.append((o, name))
        if not is_known_module(o) and not is_readable(type(o)): raise Impure(DIFFERS.format(name))

    def _in_c(self, f, name):
        "Read a function without Python code, or a method of such a type"
        owner = getattr(f, '__self__', None)
        if f.__name__ in ACT and owner is builtins: raise Impure(f"it {ACT[f.__name__]}")
        if is_a(f, np.ufunc):
            if is_made_up(f): raise Impure(DIFFERS.format(name))
        elif owner is None or is_a(owner, (ModuleType, type)):
            of = getattr(f, '__objclass__', owner)
            module = getattr(f, '__module__', None) or getattr(of, '__module__', None)
            if not self._is_known(f.__name__, module):
                raise Impure(f"it calls `{name}`, which may give something else each time")
        else:
            self.called(f.__name__)
            self.value(owner, name)

    def _class(self, cls, name):
        if type(cls) is LEGACY: raise Impure(f"it asks for `{name}`: ask for `p.dtype` instead")
        if is_of(cls, OURS) or self._is_known(cls.__name__, cls.__module__): return
        if not is_readable(cls) or not is_readable(type(cls)): raise Impure(DIFFERS.format(name))
        self.objects.append((cls, name))
        for k in (*MADE, '__del__'): self._member(cls, k, name)

    def _object(self, o, name):
        "Read an object that may be used in any way"
        classes, top = type(o).__mro__, top_module(type(o).__module__)
        if top in MODULES: raise Impure(f"it uses `{name}`, which {MODULES[top]}")
        if not is_readable(type(o)) or any(is_of(c, CALL_BACK) and not is_in(c, MADE_IN_C) for c in classes):
            raise Impure(f"it uses `{name}`, a {type(o).__name__}, which may give something else each time")
        if is_a(o, partial): self._partial(o, name)
        plain = (*MADE_IN_C, *WITHOUT_CODE)
        if any(top_module(c.__module__) in PURE and not is_in(c, plain) for c in classes): # it isn't read
            for v in attributes_of(o).values(): self.value(v, name)
        if is_a(o, CONTAINERS): self.held[name] = o
        if is_a(o, frozenset): self.looks_up = True
        for v in elements_of(o): self.value(v, name)
        if not is_in(type(o), MADE_IN_C[1:]) or is_a(o, SimpleNamespace): self.objects.append((o, name))

    def _partial(self, o, name):
        given = (*o.args, *o.keywords.values())
        for v in given:
            if is_a(v, str): self.named(v) # `partial(getattr, o, 'name')`
        if id(o.func) in BY_NAME and not any(is_a(v, str) for v in given): self.by_any_name = True
        for v in (o.func, *given): self.value(v, name)

    def _names_of(self, o) -> set:
        "Return the members that may be used: those that the code names, and special methods"
        if is_a(o, ModuleType) and is_known_module(o): return self.names
        classes = self.classes(o)
        names = {k for c in classes for k in vars(c)}
        if is_a(o, ModuleType): names.add('__getattr__')
        if self.by_any_name: names |= attributes_of(o).keys()
        else: names = {k for k in names if k[:2] == k[-2:] == '__' or k in IMPLICIT}
        if self.matches: names |= {k for c in classes for k in vars(c).get('__match_args__', ())}
        return self.names | names - (RARELY - self.special)

    def _member(self, o, k, name):
        "Read what `k` may be for an object: its own attribute, and that of each of its classes"
        own, name = attributes_of(o), f'{name}.{k}'
        if k in own: self.value(own[k], name)
        for c in self.classes(o):
            v = vars(c).get(k)
            if is_a(v, MemberDescriptorType) and not is_a(o, type): v = slot_of(o, v)
            if not is_a(v, (GetSetDescriptorType, MemberDescriptorType)): self.value(v, name)

    def attribute(self, o, name, k):
        "Read attribute `k` of a known object."
        own = attributes_of(o)
        if is_a(o, ModuleType):
            self.loaded.append((own, k, own.get(k, UNKNOWN)))
            self.asks_module |= k not in own
            if is_known_module(o): return own[k] if k in own else getattr(o, k, UNKNOWN)
        else: self.owners.append(o)
        if is_a(o, Tensor) and is_written(k): raise Impure(f"it writes into `{name}`")
        if is_a(o, type) and is_written(k): self.writes = True # as in `torch.Tensor.add_(x, 1)`
        if not is_inert(o) or k in own: self.named(k)
        else:
            self.called(k)
            if k not in SHARES: return UNKNOWN
        classes = [vars(c) for c in type(o).__mro__ if not is_in(c, MADE_IN_C)]
        is_of_class = any(k in names or '__getattribute__' in names for names in classes)
        if k in own and not is_of_class: return own[k]
        self.value(o, name)
        return UNKNOWN

    # Code

    def code(self, code:CodeType, outside:dict, known:dict, aliases:frozenset=frozenset()):
        "Read the code of a function. `known` has the values of names that aren't globals"
        self.codes.append(code)
        CodeWalk(self, code, outside, known, aliases).walk()

    def used(self, o, name):
        "Read an outside object that is used other than for an attribute"
        if o is issubclass: raise Impure("it asks for a type: ask with `isinstance`")
        if any(o is f for f in ASKING): self.asks_type = True
        if o is type: self.asks_class = True
        self.value(o, name)


def _free(f) -> list: return list(zip(f.__code__.co_freevars, f.__closure__ or ()))
