"Names and types that decide whether code is pure."
import abc
import re
import sys
import typing
from collections import OrderedDict, deque, namedtuple
from decimal import Decimal
from functools import partial
from operator import attrgetter, methodcaller
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    CodeType,
    MappingProxyType,
    MethodDescriptorType,
    MethodWrapperType,
    ModuleType,
    SimpleNamespace,
    WrapperDescriptorType,
)

import numpy as np
import torch
from torch import Tensor

__all__ = ['ACT', 'ANY_NAME', 'ASK', 'BY_NAME', 'CALLS', 'CALL_BACK', 'CHANGE', 'CHANGE_BY', 'CONTAINERS',
    'DRAW', 'DRAWN', 'ELEMENTS', 'IMPLICIT', 'INERT', 'INSIDES', 'IN_C', 'MADE', 'MADE_IN_C', 'MODULES',
    'OURS', 'OWN', 'PURE', 'RANDOM', 'RARELY', 'SEED', 'SHARES', 'SHOWN', 'TELLING', 'UNKNOWN',
    'WITHOUT_CODE', 'Impure']


class Impure(Exception):
    "Running the code once is not equivalent to running it for each parameter."


ACT = {'print': 'prints', 'id': 'asks which object it was given', 'open': 'opens a file',
    'input': 'asks for input', 'setattr': 'sets attributes', 'delattr': 'sets attributes',
    'exec': 'runs other code', 'eval': 'runs other code', 'compile': 'runs other code',
    '__import__': 'imports a module by name', 'vars': 'asks for attributes', 'globals': 'looks names up',
    'locals': 'looks names up', 'breakpoint': 'stops in a debugger'}
MODULES = {'random': 'draws random numbers', 'secrets': 'draws random numbers',
    'uuid': 'draws random numbers', 'time': 'asks for the time', 'datetime': 'asks for the time',
    'logging': 'logs', 'pdb': 'stops in a debugger', 'os': 'asks the system',
    'threading': 'knows of threads'}
DRAWN = "it uses `{}`, which is another number for each parameter"
DRAW = frozenset({'random', 'rand', 'randn', 'randint', 'randperm', 'normal', 'uniform', 'gauss', 'choice',
    'shuffle', 'time', 'perf_counter', 'monotonic', 'default_rng', 'RandomState', 'Generator', 'cache_info'})
RANDOM = DRAW | {'randn_like', 'rand_like', 'randint_like', 'normal_', 'uniform_', 'bernoulli', 'bernoulli_',
                 'multinomial', 'dropout', 'svd_lowrank', 'pca_lowrank', 'samples'}
SEED = frozenset({'seed', 'manual_seed', 'manual_seed_all', 'set_rng_state', 'set_rng_state_all', 'fork_rng',
                  'set_state'})
# Modules whose functions are pure, except for the names above
PURE = frozenset({
    'builtins', 'torch', 'numpy', 'scipy', 'math', 'cmath', 'operator', '_operator', 'itertools', 'functools',
    '_functools', 'collections', '_collections', 'statistics', '_statistics', 'fractions', 'decimal',
    '_decimal', 'numbers', 'enum', 'copy', 're', 'string', 'typing', 'types', 'abc', '_abc', 'dataclasses',
    'contextlib', 'bisect', '_bisect', 'heapq', '_heapq', 'warnings', '_warnings'})
OURS = ('optimcb.composition', 'optimcb.steppers')
OWN = frozenset({'grad', 'data'}) # attributes of `p` that may be set
CONTAINERS = (dict, list, set, deque, np.ndarray)
# Methods of containers, and functions, that change them
CHANGE = frozenset({
    'append', 'appendleft', 'extend', 'extendleft', 'insert', 'add', 'update', 'setdefault', 'pop', 'popleft',
    'popitem', 'remove', 'discard', 'clear', 'sort', 'reverse', 'rotate', 'fill', 'put', 'itemset', 'resize',
    'partition', 'difference_update', 'intersection_update', 'symmetric_difference_update', '__setitem__',
    '__delitem__', '__iadd__', '__ior__', 'move_to_end', 'subtract'})
CHANGE_BY = frozenset({'setitem', 'delitem', 'iadd', 'ior', 'iconcat', 'heappush', 'heappop', 'heapify',
    'heapreplace', 'heappushpop', 'insort', 'insort_left', 'insort_right', 'copyto', 'place', 'putmask',
    'fill_diagonal', 'at'})
# Methods and functions by which the memory or the gradient of a tensor is written without a written name
SHARES = frozenset({'numpy', 'asarray', 'untyped_storage', 'storage', 'backward'})
INERT = (type(None), type(NotImplemented), int, float, complex, Decimal, str, bytes, type(...),
    slice, range, CodeType, re.Pattern, np.generic, np.dtype, Tensor, torch.dtype, torch.device, torch.layout,
    torch.memory_format, torch.finfo, torch.iinfo, torch.Size, type(sys.float_info),
    type(namedtuple('Pair', 'a').a))
ELEMENTS = (list, tuple, set, frozenset, deque)
BY_NAME = {id(o) for o in (getattr, hasattr, attrgetter, methodcaller)}
IN_C = (BuiltinFunctionType, MethodDescriptorType, WrapperDescriptorType, MethodWrapperType,
    ClassMethodDescriptorType, np.ufunc)
MADE_IN_C = (object, int, float, complex, str, bytes, tuple, frozenset, dict, list, set, deque, np.ndarray,
    BaseException, Exception, SimpleNamespace, type, partial, MappingProxyType, OrderedDict, ModuleType)
WITHOUT_CODE = (abc.ABC, typing.Generic, typing.Protocol) # base classes that do nothing to objects
CALL_BACK = ('torch', 'numpy', 'scipy') # libraries whose classes call methods of subclasses
# Attributes by which other objects are reached or changed
INSIDES = frozenset({'__dict__', '__globals__', '__closure__', 'cell_contents', '__kwdefaults__',
    '__builtins__', 'f_globals', 'f_locals', 'f_builtins', 'f_back', '__setattr__', '__delattr__',
    '__subclasses__'})

# Special methods and other names that Python and its library use unasked
MADE = frozenset({'__init__', '__new__', '__post_init__'})
SUBCLASSED = frozenset({'__init_subclass__', '__set_name__', '__mro_entries__', '__prepare__'})
SHOWN = frozenset({'__repr__', '__str__'})
COPIED = MADE | {'__copy__', '__deepcopy__', '__reduce__', '__reduce_ex__', '__getstate__', '__setstate__',
    '__getnewargs__', '__getnewargs_ex__', '__replace__'}
# By the name of a function or method, those that it uses
CALLS = {
    **dict.fromkeys(('str', 'repr', 'ascii', 'format', 'format_map', 'substitute', 'safe_substitute'), SHOWN),
    **dict.fromkeys(('copy', 'deepcopy', 'replace', 'asdict', 'astuple'), COPIED),
    **dict.fromkeys(('type', 'new_class'), MADE | SUBCLASSED), '__class__': MADE, 'dir': {'__dir__'}}
ANY_NAME = frozenset({'format', 'format_map', '__getattribute__'}) # they use attributes named in a string
IMPLICIT = frozenset({'keys', 'get', 'as_integer_ratio', '_missing_'}) # always used, like special methods
# Special names that are only used where the code asks for it, as above
RARELY = SHOWN | COPIED | SUBCLASSED | {
    '__del__', '__dir__', '__sizeof__', '__doc__', '__module__', '__dict__', '__weakref__', '__annotations__',
    '__slots__', '__qualname__', '__name__', '__firstlineno__', '__static_attributes__',
    '__abstractmethods__', '__orig_bases__', '__parameters__', '__dataclass_fields__',
    '__dataclass_params__', '__match_args__', '__annotate__', '__annotate_func__', '__annotations_cache__',
    '__delattr__', '__setattr__', '__setitem__', '__delitem__'}

# Attributes that aren't tensors
TELLING = frozenset({'dtype', 'device', 'layout', 'shape', 'ndim', '__class__', 'requires_grad'})
ASK = frozenset({'isinstance', 'is_tensor', 'type', '__class__', 'requires_grad', 'is_leaf'})
UNKNOWN = object() # value of a name that is unknown before the code runs
LEGACY = type(torch.FloatTensor) # its instances read memory that a tracer doesn't have
