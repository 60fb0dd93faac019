"""What a stepper's code tells before it is run.

A recording is made once for many parameters, so a stepper is recorded only if running it once does what running it
for each parameter would: it must not print, count, draw random numbers, or write to what lies outside of it.
"""
import dis
import inspect
from collections import deque
from collections.abc import Iterator as Iterating
from collections.abc import MutableMapping, MutableSequence, MutableSet
from numbers import Number
from types import CodeType, ModuleType

import numpy as np
from torch import Tensor

from optimcb.stepper import Stepper, code_of

__all__ = ['asks_type', 'refusals', 'why_not']

CONTAINERS = (MutableMapping, MutableSequence, MutableSet, deque, np.ndarray)
CHANGE = frozenset({'append', 'appendleft', 'extend', 'insert', 'add', 'update', 'setdefault', 'pop', 'popleft', 'popitem', 'remove', 'discard', 'clear',
                    'write'})
ACT = {'print': 'prints', 'id': 'asks which object it was given', 'next': 'takes from an iterator',
       'open': 'opens a file', 'input': 'asks for input', 'setattr': 'sets attributes',
       'exec': 'runs other code', 'eval': 'runs other code', 'vars': 'asks for attributes',
       'breakpoint': 'stops in a debugger', 'set_trace': 'stops in a debugger'}
DRAW = frozenset({'random', 'rand', 'randn', 'randint', 'randperm', 'normal', 'uniform', 'gauss', 'choice', 'shuffle', 'time', 'perf_counter', 'monotonic'})
RANDOM = DRAW | {'randn_like', 'rand_like', 'randint_like', 'normal_', 'uniform_', 'bernoulli', 'bernoulli_', 'multinomial', 'dropout', 'svd_lowrank',
                 'pca_lowrank'}
OWN = frozenset({'grad', 'data'}) # attributes of `p` that may be set


def asks_type(
    stepper:Stepper # A stepper
) -> bool:
    "May it ask whether it was given a tensor?"
    return any({'isinstance', 'is_tensor', 'issubclass'} & set(code.co_names) for code, _ in _codes(stepper.f))


def why_not(
    stepper:Stepper # A stepper
) -> str|None:
    "Why it must be run for each parameter, or None."
    if stepper.is_ours: return None
    for code, known in _codes(stepper.f):
        for f in filter(_is_by_torch, known.values()):
            drawn = RANDOM.intersection(getattr(getattr(f.__wrapped__, '__code__', None), 'co_names', ()))
            if drawn: return f"it calls `{f.__name__}`, which uses `{min(drawn)}`: engines call it in another order"
        for name in code.co_names:
            if name in ACT: return f"it {ACT[name]}"
            if name in DRAW: return f"it uses `{name}`, which is another number for each parameter"
        instructions = list(dis.get_instructions(code))
        for last, i in zip([None, *instructions], instructions):
            if i.opname == 'LOAD_GLOBAL' and i.argval == 'type': return "it asks for a type"
            if i.opname == 'IS_OP' and last and not last.opname.startswith('LOAD_CONST'): return "it asks whether this is that object"
            method = i.opname == 'LOAD_METHOD' or i.opname == 'LOAD_ATTR' and 'NULL|self' in i.argrepr
            owner = known.get(last.argval) if method and last and isinstance(last.argval, str) else None
            if method and isinstance(owner, Tensor) and i.argval.endswith('_'): return f"it writes into `{last.argval}`"
            if owner is not None and _may_change(owner): return f"it calls `{last.argval}.{i.argval}`"
            outside = i.opname in ('STORE_GLOBAL', 'DELETE_GLOBAL') or i.opname == 'STORE_DEREF' and i.argval in code.co_freevars
            if outside: return f"it sets `{i.argval}`, which lies outside of it"
            if i.opname == 'STORE_ATTR' and i.argval not in OWN: return f"it sets the attribute `{i.argval}`"
        held = [n for n, o in known.items() if isinstance(o, CONTAINERS)]
        changes = CHANGE.intersection(code.co_names) or any(i.opname in ('STORE_SUBSCR', 'DELETE_SUBSCR') for i in instructions)
        if held and changes: return f"it may change `{held[0]}`, which lies outside of it"


def refusals(
    composition # Its steppers
) -> Iterating[str]:
    "A sentence for each stepper that must be run for each parameter."
    for s in composition.steppers:
        why = why_not(s)
        if why: yield f"stepper `{s}` must be called for each parameter: {why}."


def _codes(f) -> Iterating[tuple[CodeType, dict]]:
    "The code of a stepper and of the functions that it names, and what their names mean"
    todo, seen = [(code_of(f), f)], set()
    while todo:
        code, f = todo.pop()
        if code is None or code in seen: continue
        seen.add(code)
        known = _meant(code, *_names(f))
        yield code, known
        todo += [(c, f) for c in code.co_consts if isinstance(c, CodeType)]
        named = [o for k in known for o in _inside(known[k]) if not _is_by_torch(o)] # what torch runs it runs for each parameter
        todo += [(g.__code__, g) for g in named if (inspect.isfunction(g) or inspect.ismethod(g)) and (g.__module__ or '').partition('.')[0] not in KNOWN]


def _is_by_torch(o) -> bool: return inspect.isfunction(o) and hasattr(o, 'foreseen')


KNOWN = frozenset({'torch', 'numpy'}) # what these do is known


def _meant(code, outside, own, held) -> dict:
    "What names in a function mean: those that it loads from outside, attributes of modules and of its own object, and defaults"
    known, last = {n: outside[n] for n in code.co_freevars if n in outside} | held, None
    for i in dis.get_instructions(code):
        name = i.argval
        if i.opname in ('LOAD_GLOBAL', 'LOAD_NAME') and name in outside and name[0] != '@': known[name] = outside[name] # `@` is pytest's
        elif i.opname in ('LOAD_ATTR', 'LOAD_METHOD'):
            owner = known.get(last.argval) if last is not None and isinstance(last.argval, str) else None
            if isinstance(owner, ModuleType): known.setdefault(name, getattr(owner, name, None))
            elif owner is not None and name in getattr(owner, '__dict__', ()): known.setdefault(name, vars(owner)[name])
            elif name in own: known[name] = own[name]
        last = i
    return known


def _inside(o) -> list: return [*o.values()] if isinstance(o, dict) else [*o] if isinstance(o, (list, tuple)) else [o]


def _may_change(o) -> bool:
    "Is this an object of somebody's own, which a method may change?"
    known = isinstance(o, (ModuleType, type, Tensor, Number, str, tuple, *CONTAINERS)) or inspect.isroutine(o)
    return not known and (hasattr(o, '__dict__') or isinstance(o, (Iterating, np.random.Generator, np.random.RandomState)))


def _names(f) -> tuple[dict, dict, dict]:
    "Globals and what a function closes over, the attributes of the object that it belongs to, and defaults that can be changed"
    while hasattr(f, 'func'): f = f.func
    f = inspect.unwrap(f)
    known, own = {}, {}
    owner = getattr(f, '__self__', None if inspect.isroutine(f) else f)
    if owner is not None and not isinstance(owner, ModuleType): own.update({k: getattr(owner, k) for k in dir(owner) if not k.startswith('__')})
    f = getattr(f, '__func__', f) if inspect.isroutine(f) else type(f).__call__
    known.update(getattr(f, '__globals__', {}))
    for name, cell in zip(getattr(getattr(f, '__code__', None), 'co_freevars', ()), getattr(f, '__closure__', None) or ()):
        try: known[name] = cell.cell_contents
        except ValueError: pass # not yet bound
    held = inspect.signature(f).parameters.values() if inspect.isfunction(f) else ()
    return known, own, {p.name: p.default for p in held if isinstance(p.default, CONTAINERS)}
