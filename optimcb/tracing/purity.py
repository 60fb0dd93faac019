"""What a stepper's code tells before it is run.

A recording is made once for many parameters, so a stepper is recorded only if running it once does what running it for
each parameter would. It must not print, count, draw random numbers, or write to what lies outside of it. Its code is
read to its end: the functions that it calls, the objects outside of it that it uses, and their methods that it may
call. What can't be read may do anything, so that a stepper that uses it is called for each parameter.
"""
import builtins
import dis
import enum
import inspect
import re
import sys
from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Iterator as Iterating
from functools import cached_property, partial
from numbers import Number
from operator import attrgetter, methodcaller
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    SimpleNamespace,
    WrapperDescriptorType,
)

import numpy as np
import torch
from torch import Tensor

from optimcb.composition.stepper import Stepper, code_of, strings

__all__ = ['asks_type', 'branches', 'impurity', 'may_act', 'refusals', 'why_not']


ACT = {'print': 'prints', 'id': 'asks which object it was given', 'open': 'opens a file', 'input': 'asks for input',
       'setattr': 'sets attributes', 'delattr': 'sets attributes', 'exec': 'runs other code', 'eval': 'runs other code',
       'compile': 'runs other code', '__import__': 'imports a module by name', 'vars': 'asks for attributes',
       'globals': 'looks names up', 'locals': 'looks names up', 'breakpoint': 'stops in a debugger'}
MODULES = {'random': 'draws random numbers', 'secrets': 'draws random numbers', 'uuid': 'draws random numbers',
           'time': 'asks for the time', 'datetime': 'asks for the time', 'logging': 'logs', 'pdb': 'stops in a debugger',
           'os': 'asks the system', 'threading': 'knows of threads'}
DRAWN = "it uses `{}`, which is another number for each parameter"
DRAW = frozenset({'random', 'rand', 'randn', 'randint', 'randperm', 'normal', 'uniform', 'gauss', 'choice', 'shuffle',
                  'time', 'perf_counter', 'monotonic', 'default_rng', 'RandomState', 'Generator'})
RANDOM = DRAW | {'randn_like', 'rand_like', 'randint_like', 'normal_', 'uniform_', 'bernoulli', 'bernoulli_',
                 'multinomial', 'dropout', 'svd_lowrank', 'pca_lowrank'}
SEED = frozenset({'seed', 'manual_seed', 'manual_seed_all', 'set_rng_state', 'set_rng_state_all', 'fork_rng',
                  'set_state'})
PURE = frozenset({ # modules of which what is called gives the same each time, but for the names above
    'builtins', 'torch', 'numpy', 'scipy', 'math', 'cmath', 'operator', '_operator', 'itertools', 'functools', '_functools',
    'collections', '_collections', 'statistics', '_statistics', 'fractions', 'decimal', '_decimal', 'numbers', 'enum',
    'copy', 're', 'string', 'typing', 'types', 'abc', '_abc', 'dataclasses', 'contextlib', 'bisect', '_bisect', 'heapq',
    '_heapq', 'warnings', '_warnings', 'inspect'})
OURS = ('optimcb.composition', 'optimcb.steppers')
OWN = frozenset({'grad', 'data'}) # attributes of `p` that may be set
CONTAINERS = (dict, list, set, deque, np.ndarray)
CHANGE = frozenset({ # methods of containers, and functions, that change them
    'append', 'appendleft', 'extend', 'extendleft', 'insert', 'add', 'update', 'setdefault', 'pop', 'popleft', 'popitem',
    'remove', 'discard', 'clear', 'sort', 'reverse', 'rotate', 'fill', 'put', 'itemset', 'resize', 'partition',
    'difference_update', 'intersection_update', 'symmetric_difference_update', '__setitem__', '__delitem__', '__iadd__',
    '__ior__', 'move_to_end', 'subtract'})
CHANGE_BY = frozenset({
    'setitem', 'delitem', 'iadd', 'ior', 'iconcat', 'heappush', 'heappop', 'heapify', 'heapreplace', 'heappushpop',
    'insort', 'insort_left', 'insort_right', 'copyto', 'place', 'putmask', 'fill_diagonal'})
INERT = (type(None), type(NotImplemented), Number, str, bytes, type(...), slice, range, CodeType, re.Pattern,
         enum.Enum, np.generic, np.dtype, Tensor, torch.dtype, torch.device, torch.layout, torch.memory_format,
         torch.finfo, torch.iinfo, torch.Size, type(sys.float_info), type(namedtuple('Pair', 'a').a))
ELEMENTS = (list, tuple, set, frozenset, deque)
BY_NAME = {id(o) for o in (getattr, attrgetter, methodcaller)}
IN_C = (BuiltinFunctionType, MethodDescriptorType, WrapperDescriptorType, MethodWrapperType, ClassMethodDescriptorType,
        np.ufunc)
MADE_IN_C = (object, int, float, complex, str, bytes, tuple, frozenset, dict, list, set, deque, np.ndarray, BaseException,
             Exception, SimpleNamespace, type, partial, MappingProxyType, OrderedDict)
CALL_BACK = ('torch', 'numpy', 'scipy') # libraries whose classes call methods of those that inherit from them
RARELY = frozenset({ # what nothing calls without naming it, or only to print, copy or end an object
    '__repr__', '__str__', '__reduce__', '__reduce_ex__', '__getstate__', '__setstate__', '__getnewargs__', '__copy__',
    '__deepcopy__', '__del__', '__dir__', '__sizeof__', '__init_subclass__', '__class_getitem__', '__subclasshook__',
    '__init__', '__new__', '__post_init__', '__set_name__', '__doc__', '__module__', '__dict__', '__weakref__',
    '__annotations__', '__slots__', '__qualname__', '__name__', '__class__', '__firstlineno__', '__static_attributes__',
    '__abstractmethods__', '__orig_bases__', '__parameters__', '__dataclass_fields__', '__dataclass_params__',
    '__match_args__', '__annotate__', '__annotate_func__', '__annotations_cache__', '__delattr__', '__setattr__',
    '__replace__', '__setitem__', '__delitem__'})
TELLING = frozenset({'dtype', 'device', 'layout', 'shape', 'ndim', '__class__', 'requires_grad'}) # none is a tensor
ASK = frozenset({'isinstance', 'is_tensor', 'type', '__class__', 'requires_grad', 'is_leaf'})
NOISE = frozenset({'CACHE', 'EXTENDED_ARG', 'PUSH_NULL', 'PRECALL', 'NOP'})
LOADS_OUTSIDE = frozenset({'LOAD_GLOBAL', 'LOAD_NAME', 'LOAD_FROM_DICT_OR_GLOBALS'})
LOADS_FREE = ('LOAD_DEREF', 'LOAD_CLOSURE', 'LOAD_CLASSDEREF', 'LOAD_FROM_DICT_OR_DEREF')
LOADS_ATTR = frozenset({'LOAD_ATTR', 'LOAD_METHOD', 'LOAD_SUPER_ATTR'})
UNKNOWN = object() # what a name means that isn't known before the code runs
LEGACY = type(torch.FloatTensor) # which looks into memory that a stand-in doesn't have


def asks_type(
    stepper:Stepper # A stepper
) -> bool:
    "May it ask of what type a tensor is, or whether it is the parameter itself?"
    reading = _Reading()
    try: reading.read(stepper.f, stepper.label)
    except _Impure: pass
    return reading.asks_type


def why_not(
    stepper:Stepper # A stepper
) -> str|None:
    "Why it must be run for each parameter, or None."
    if stepper.is_ours and stepper.f is stepper.innermost: return None
    return impurity(stepper.f, stepper.label)


def impurity(
    o, # Something that a stepper uses, such as a hyper-parameter
    name:str # What it is called there
) -> str|None:
    "Why using it once may be something else than using it for each parameter, or None."
    if _is_inert(o): return None
    try: _Reading().read(o, name)
    except _Impure as e: return str(e)


def refusals(
    composition # Its steppers
) -> Iterating[str]:
    "A sentence for each stepper that must be run for each parameter."
    for s in composition.steppers:
        why = why_not(s)
        if why: yield f"stepper `{s}` must be called for each parameter: {why}."


def branches(
    stepper:Stepper # A stepper
) -> bool:
    "Does it, or a function that it names, do one thing or another?"
    return any('JUMP' in i.opname and 'IF' in i.opname for code in _codes(stepper) for i in dis.get_instructions(code))


def may_act(
    stepper:Stepper # A stepper
) -> bool:
    "Does it, or a function that it names, return something or write in place, in some branch?"
    return any(map(_acts, _codes(stepper)))


def _codes(stepper) -> list[CodeType]:
    "The code of a stepper and of the functions that it names, as far as it can be read"
    reading = _Reading()
    try: reading.read(stepper.f, stepper.label)
    except _Impure: pass
    return reading.codes


def _acts(code) -> bool:
    in_place = any(k.endswith('_') and not k.endswith('__') for k in code.co_names) # `add_`, but not `__init__`
    if in_place or 'out' in strings(code): return True
    last = None
    for i in dis.get_instructions(code):
        returned = i if i.opname == 'RETURN_CONST' else last if i.opname == 'RETURN_VALUE' else None
        if returned is not None and (returned.argval is not None or returned.opname not in ('LOAD_CONST', 'RETURN_CONST')): return True
        augmented = i.opname.startswith('INPLACE') or i.opname == 'BINARY_OP' and i.argrepr.endswith('=')
        if augmented or i.opname in ('STORE_ATTR', 'STORE_SUBSCR'): return True
        last = i
    return False


class _Impure(Exception):
    "Running this once is something else than running it for each parameter."


class _Reading:
    "All code that a stepper may run, and what lies outside of it."
    def __init__(self):
        self.seen = {} # by id, what was met
        self.names = set() # attributes that the code reads of objects that are not known
        self.objects = [] # of which any method may be called, with what they are called
        self.members = defaultdict(set) # by id of an object, the names that were looked up in it
        self.held, self.tensors = {}, [] # containers by name; names of tensors
        self.changes = set() # names of what may change a container
        self.in_place = False # may a container be changed under another name?
        self.writes = False # may a tensor be written into under another name?
        self.asks_type = False # `isinstance` or the like
        self.asks_class, self.looks_up = False, False # `type`; is something looked up in a set or dict?
        self.stepper = None
        self.codes = [] # code that was met

    def read(self, o, name):
        "Read all that `o` may run. Raises `_Impure`."
        self.stepper = code_of(o) if callable(o) else None
        self.value(o, name)
        while todo := [(o, n, k) for o, n in self.objects for k in self._names_of(o) - self.members[id(o)]]:
            for o, n, k in todo:
                self.members[id(o)].add(k)
                self._member(o, k, n)
        if '__dict__' in self.names and self.objects: raise _Impure("it reads `__dict__`")
        if self.asks_class and (self.looks_up or any(isinstance(o, (dict, set)) for o in self.held.values())):
            raise _Impure("it may look a type up: ask with `isinstance`, or compare")
        for name, o in self.held.items():
            changed = any(hasattr(o, k) or k in CHANGE_BY or k == '[]' for k in self.changes)
            if changed or self.in_place: raise _Impure(f"it may change `{name}`, which lies outside of it")
        if self.tensors and (self.writes or self.in_place):
            raise _Impure(f"it may write into `{self.tensors[0]}`, which lies outside of it")

    # What lies outside

    def value(self, o, name):
        "Something outside, called `name`, that may be used in any way."
        if id(o) in self.seen: return
        self.seen[id(o)] = o
        if isinstance(o, Tensor): self.tensors.append(name)
        if _is_inert(o): return
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
        if hasattr(f, 'foreseen'): # what torch runs it runs for each parameter
            drawn = RANDOM.intersection(getattr(getattr(f.__wrapped__, '__code__', None), 'co_names', ()))
            if not drawn: return
            raise _Impure(f"it calls `{f.__name__}`, which uses `{min(drawn)}`: engines call it in another order")
        elif not module.startswith(OURS) and not self._is_known(f.__name__, module):
            free = zip(f.__code__.co_freevars, f.__closure__ or ())
            known = {k: cell.cell_contents for k, cell in free if _is_bound(cell)}
            ps = inspect.signature(f, follow_wrapped=False).parameters.values()
            known |= {p.name: p.default for p in ps if p.default is not p.empty}
            self._code(f.__code__, f.__globals__, known)

    def _is_known(self, name, module) -> bool:
        "Does a function or class of this module give the same each time? Raises `_Impure` if it is known not to"
        top = _top(module)
        if top in MODULES: raise _Impure(f"it uses `{name}`, which {MODULES[top]}")
        if name in RANDOM and top in PURE: raise _Impure(DRAWN.format(name))
        if name in SEED and top in PURE: raise _Impure(f"it calls `{name}`, which sets random numbers")
        if name in CHANGE_BY: self.changes.add(name)
        return top in PURE

    def _in_c(self, f, name):
        "A function without code to read, or a method of such a type"
        owner = getattr(f, '__self__', None)
        if f.__name__ in ACT and owner is builtins: raise _Impure(f"it {ACT[f.__name__]}")
        if isinstance(f, np.ufunc): return
        if owner is None or isinstance(owner, (ModuleType, type)):
            module = getattr(f, '__module__', None) or getattr(getattr(f, '__objclass__', owner), '__module__', None)
            if self._is_known(f.__name__, module): return
            raise _Impure(f"it calls `{name}`, which may give something else each time")
        else:
            if f.__name__ in CHANGE: self.changes.add(f.__name__)
            self.value(owner, name)

    def _class(self, cls, name):
        if type(cls) is LEGACY: raise _Impure(f"it asks for `{name}`: ask for `p.dtype` instead")
        if _is_of(cls, OURS) or self._is_known(cls.__name__, cls.__module__): return
        if not all(c in MADE_IN_C or _is_python(c) for c in cls.__mro__):
            raise _Impure(f"it uses `{name}`, which may give something else each time")
        self.objects.append((cls, name))
        for k in ('__init__', '__new__', '__post_init__'): self._member(cls, k, name)

    def _object(self, o, name):
        "An object, in any way"
        top = _top(type(o).__module__)
        if top in MODULES: raise _Impure(f"it uses `{name}`, which {MODULES[top]}")
        if not all(c in MADE_IN_C or _is_python(c) and not _is_of(c, CALL_BACK) for c in type(o).__mro__):
            raise _Impure(f"it uses `{name}`, a {type(o).__name__}, which may give something else each time")
        if isinstance(o, partial):
            for v in (o.func, *o.args, *o.keywords.values()):
                if isinstance(v, str): self._named(v) # `partial(getattr, o, 'name')`
                self.value(v, name)
        if isinstance(o, CONTAINERS): self.held[name] = o
        if isinstance(o, frozenset): self.looks_up = True
        if isinstance(o, (dict, MappingProxyType)): elements = *o, *o.values()
        else: elements = o if isinstance(o, ELEMENTS) else ()
        for v in elements: self.value(v, name)
        if type(o) not in MADE_IN_C[1:] or isinstance(o, SimpleNamespace): self.objects.append((o, name))

    def _names_of(self, o) -> set:
        "Names of an object that may be used: those that the code names, and what Python calls by itself"
        if isinstance(o, ModuleType): return self.names
        classes = [c for c in (o if isinstance(o, type) else type(o)).__mro__ if c not in MADE_IN_C]
        return self.names | {k for c in classes for k in vars(c) if k[:2] == k[-2:] == '__' and k not in RARELY}

    def _member(self, o, k, name):
        "What `k` may be of an object: its own, and that of each of its classes"
        if k in (own := _own(o)): self.value(own[k], f'{name}.{k}')
        if isinstance(o, ModuleType): return
        for c in (o if isinstance(o, type) else type(o)).__mro__:
            v = vars(c).get(k)
            if isinstance(v, MemberDescriptorType) and not isinstance(o, type): v = getattr(o, k, None) # of `__slots__`
            if c in MADE_IN_C or isinstance(v, (GetSetDescriptorType, MemberDescriptorType)): continue
            self.value(v, f'{name}.{k}')

    def attribute(self, o, name, k):
        "`o.k` of something known, if that is no matter of methods."
        if isinstance(o, ModuleType): return vars(o)[k] if k in vars(o) else getattr(o, k, UNKNOWN)
        if isinstance(o, Tensor) and _is_written(k): raise _Impure(f"it writes into `{name}`")
        if _is_inert(o): return UNKNOWN
        self._named(k)
        is_of_class = any(k in vars(c) or '__getattribute__' in vars(c) for c in type(o).__mro__ if c not in MADE_IN_C)
        if k in _own(o) and not is_of_class: return _own(o)[k]
        self.value(o, name)
        return UNKNOWN

    def _named(self, k):
        "An attribute of what isn't known"
        if k in DRAW: raise _Impure(DRAWN.format(k))
        self.names.add(k)
        if k in ('get', 'setdefault'): self.looks_up = True
        if k in CHANGE or k in CHANGE_BY: self.changes.add(k)

    # Code

    def _code(self, code, outside, known):
        "Read the code of a function. `known` tells what names mean that are no globals"
        self.codes.append(code)
        known, every = dict(known), list(dis.get_instructions(code))
        is_stepper = code is self.stepper # which is given a parameter and what belongs to it, nothing else
        aliases = set() if is_stepper else set(code.co_varnames[:code.co_argcount + code.co_kwonlyargcount])
        inside = outside.get('__builtins__', builtins)
        inside = inside if isinstance(inside, dict) else vars(inside)
        means, imported = {}, None # by offset, what was loaded; a module
        o, name, root = UNKNOWN, '', () # what was loaded last; the local names that it comes from
        ins = [i for i in every if i.opname not in NOISE]
        for last, i in zip([None, *ins], ins):
            op, k = i.opname, i.argval
            if op in LOADS_ATTR:
                if k in ASK or k == 'grad' and name == 'data': self.asks_type = True # `p.data` has no gradient
                if o is UNKNOWN: self._named(k)
                if _is_written(k) and aliases.intersection(root): self.writes = True
                o, name = UNKNOWN if o is UNKNOWN else self.attribute(o, name, k), k
                if o is not UNKNOWN: means[i.offset] = o
                continue
            if o is not UNKNOWN: self._used(o, name)
            o, root = UNKNOWN, _loaded(i)
            if op in LOADS_OUTSIDE and k[0] != '@': o = outside.get(k, inside.get(k, UNKNOWN)) # `@` is pytest's
            name = k
            if op == 'IMPORT_NAME': imported = means[i.offset] = _imported(k)
            if op == 'IMPORT_FROM': means[i.offset] = vars(imported).get(k, imported)
            for n in root:
                if o is not UNKNOWN: self._used(o, name)
                o, name = known.get(n, UNKNOWN), n
            if o is not UNKNOWN: means[i.offset] = o
            before = means.get(last.offset, UNKNOWN) if last else UNKNOWN
            for n in _stored(i):
                if last.opname == 'IMPORT_NAME': known[n] = _imported(last.argval.partition('.')[0])
                if last.opname == 'IMPORT_FROM': known[n] = before
                if isinstance(before, (*CONTAINERS, Tensor)): aliases.add(n)
                if n in aliases and _is_in_place(last): self.in_place = True
            self._effect(i, last, before, code)
            if op == 'IS_OP' and not _is_told(every, i, means): raise _Impure(_identity(every, i, means))
        for c in code.co_consts:
            if isinstance(c, CodeType): self._code(c, outside, known)
            if isinstance(c, str) and c.isidentifier() and BY_NAME & self.seen.keys(): self._named(c)

    def _used(self, o, name):
        "Something outside that is used in another way than for an attribute"
        if o is issubclass: raise _Impure("it asks for a type: ask with `isinstance`")
        if getattr(o, '__name__', None) in ASK: self.asks_type = True
        if o is type: self.asks_class = True
        self.value(o, name)

    def _effect(self, i, last, before, code):
        "What an instruction changes. `last` is the one before it, `before` what that means"
        op, k = i.opname, i.argval
        is_free = op in ('STORE_DEREF', 'DELETE_DEREF') and k in code.co_freevars
        if is_free or op in ('STORE_GLOBAL', 'DELETE_GLOBAL'):
            raise _Impure(f"it sets `{k}`, which lies outside of it")
        if op in ('STORE_ATTR', 'DELETE_ATTR') and (k not in OWN or before is not UNKNOWN):
            makes = code.co_name in ('__init__', '__post_init__') # a new object
            if not makes or _loaded(last)[-1:] != code.co_varnames[:1]: raise _Impure(f"it sets the attribute `{k}`")
        if op in ('STORE_SUBSCR', 'DELETE_SUBSCR', 'STORE_SLICE'):
            self.changes.add('[]')
            self.names |= {'__setitem__', '__delitem__'}
        if op == 'MATCH_CLASS': self.asks_type = True
        is_set = op == 'LOAD_CONST' and isinstance(k, frozenset)
        if is_set or op == 'CONTAINS_OP' and last.opname in ('BUILD_SET', 'SET_UPDATE'): self.looks_up = True


def _is_inert(o) -> bool:
    "Does whatever is done with this give the same each time?"
    if isinstance(o, (Tensor, enum.Enum)): return True
    return isinstance(o, INERT) and _top(type(o).__module__) in {*PURE, 'sys', 'optimcb'}


def _top(module) -> str: return module.partition('.')[0] if isinstance(module, str) else ''
def _is_of(cls, modules) -> bool: return isinstance(cls.__module__, str) and cls.__module__.startswith(modules)
def _is_written(k) -> bool: return k.endswith('_') and not k.endswith('__') # as `add_` writes


def _is_python(cls) -> bool:
    "Is there code to read of this class?"
    in_c = (MethodDescriptorType, WrapperDescriptorType, ClassMethodDescriptorType)
    return not any(isinstance(v, in_c) and v.__objclass__ is cls for v in vars(cls).values())


def _own(o) -> dict:
    "The attributes of an object, but for those of its class"
    try: return object.__getattribute__(o, '__dict__')
    except AttributeError: return {}


def _is_bound(cell) -> bool:
    try: return cell.cell_contents is not UNKNOWN
    except ValueError: return False


def _imported(name) -> ModuleType:
    if name not in sys.modules: raise _Impure(f"it imports `{name}`, which nobody has so far")
    return sys.modules[name]


def _loaded(i) -> tuple:
    "The local names that an instruction loads; some load two at once"
    names = i.argval if isinstance(i.argval, tuple) else (i.argval,)
    if 'LOAD_FAST' in i.opname: return names[1:] if i.opname.startswith('STORE') else names
    return names if i.opname.startswith(LOADS_FREE) else ()


def _stored(i) -> tuple:
    "The local names that an instruction stores"
    if not i.opname.startswith(('STORE_FAST', 'STORE_DEREF', 'STORE_NAME')): return ()
    return (i.argval,) if isinstance(i.argval, str) else i.argval[:1] if 'LOAD' in i.opname else i.argval


def _is_in_place(i) -> bool:
    "Is this `+=` or the like?"
    return i.opname.startswith('INPLACE') or i.opname == 'BINARY_OP' and i.argrepr.endswith('=')


# What `is` compares

def _operands(every, i) -> list:
    "The instructions that have put the operands of `i` on the stack, the second one first; one if it did both"
    at, found = every.index(i) - 1, []
    while at >= 0 and len(found) < 2:
        found.append(every[at])
        missing = 1
        while at >= 0 and missing > 0:
            o = every[at]
            if o.opcode in dis.hasjrel or o.opcode in dis.hasjabs: return found
            arg = o.arg if o.opcode >= dis.HAVE_ARGUMENT else None
            missing -= dis.stack_effect(o.opcode, arg, jump=False)
            at -= 1
        if missing < 0: return found
        while at >= 0 and every[at].opname in NOISE - {'PUSH_NULL'}: at -= 1
    return found


def _is_told(every, i, means) -> bool:
    "Is one of the operands of `is` no tensor, and no class of tensors? Then it is the same for a stand-in."
    return any(_tells(o, means) for o in _operands(every, i))


def _tells(i, means) -> bool:
    if i.opname.startswith(('LOAD_CONST', 'LOAD_SMALL_INT', 'LOAD_COMMON_CONSTANT')): return True
    if i.offset in means: return not isinstance(means[i.offset], Tensor) and not _is_tensors(means[i.offset])
    return i.opname in LOADS_ATTR and i.argval in TELLING or 'self' in _loaded(i) # an object that has the method


def _is_tensors(o) -> bool: return isinstance(o, type) and issubclass(o, Tensor)


def _identity(every, i, means) -> str:
    asked = [means[o.offset].__name__ for o in _operands(every, i) if _is_tensors(means.get(o.offset))]
    if not asked: return "it asks whether this is that object"
    return f"it asks whether a type is `{asked[0]}`: ask with `isinstance`"
