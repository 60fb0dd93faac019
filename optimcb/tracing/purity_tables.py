"Names and types that decide whether code is pure."
import enum
import re
import sys
from collections import OrderedDict, deque, namedtuple
from functools import partial
from numbers import Number
from operator import attrgetter, methodcaller
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    CodeType,
    MappingProxyType,
    MethodDescriptorType,
    MethodWrapperType,
    SimpleNamespace,
    WrapperDescriptorType,
)

import numpy as np
import torch
from torch import Tensor

__all__ = ['ACT', 'ASK', 'BY_NAME', 'CALL_BACK', 'CHANGE', 'CHANGE_BY', 'CONTAINERS', 'DRAW', 'DRAWN',
    'ELEMENTS', 'IN_C', 'INERT', 'MADE_IN_C', 'MODULES', 'OURS', 'OWN', 'PURE', 'RANDOM', 'RARELY',
    'SEED', 'TELLING', 'UNKNOWN', 'Impure']


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
    'shuffle', 'time', 'perf_counter', 'monotonic', 'default_rng', 'RandomState', 'Generator'})
RANDOM = DRAW | {'randn_like', 'rand_like', 'randint_like', 'normal_', 'uniform_', 'bernoulli', 'bernoulli_',
                 'multinomial', 'dropout', 'svd_lowrank', 'pca_lowrank'}
SEED = frozenset({'seed', 'manual_seed', 'manual_seed_all', 'set_rng_state', 'set_rng_state_all', 'fork_rng',
                  'set_state'})
# Modules whose functions are pure, except for the names above
PURE = frozenset({
    'builtins', 'torch', 'numpy', 'scipy', 'math', 'cmath', 'operator', '_operator', 'itertools', 'functools',
    '_functools', 'collections', '_collections', 'statistics', '_statistics', 'fractions', 'decimal',
    '_decimal', 'numbers', 'enum', 'copy', 're', 'string', 'typing', 'types', 'abc', '_abc', 'dataclasses',
    'contextlib', 'bisect', '_bisect', 'heapq', '_heapq', 'warnings', '_warnings', 'inspect'})
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
    'fill_diagonal'})
INERT = (type(None), type(NotImplemented), Number, str, bytes, type(...), slice, range, CodeType, re.Pattern,
    enum.Enum, np.generic, np.dtype, Tensor, torch.dtype, torch.device, torch.layout, torch.memory_format,
    torch.finfo, torch.iinfo, torch.Size, type(sys.float_info), type(namedtuple('Pair', 'a').a))
ELEMENTS = (list, tuple, set, frozenset, deque)
BY_NAME = {id(o) for o in (getattr, attrgetter, methodcaller)}
IN_C = (BuiltinFunctionType, MethodDescriptorType, WrapperDescriptorType, MethodWrapperType,
    ClassMethodDescriptorType, np.ufunc)
MADE_IN_C = (object, int, float, complex, str, bytes, tuple, frozenset, dict, list, set, deque, np.ndarray,
    BaseException, Exception, SimpleNamespace, type, partial, MappingProxyType, OrderedDict)
CALL_BACK = ('torch', 'numpy', 'scipy') # libraries whose classes call methods of subclasses
# Members that are only called by name, or to print, copy or delete an object
RARELY = frozenset({
    '__repr__', '__str__', '__reduce__', '__reduce_ex__', '__getstate__', '__setstate__', '__getnewargs__',
    '__copy__', '__deepcopy__', '__del__', '__dir__', '__sizeof__', '__init_subclass__', '__class_getitem__',
    '__subclasshook__', '__init__', '__new__', '__post_init__', '__set_name__', '__doc__', '__module__',
    '__dict__', '__weakref__', '__annotations__', '__slots__', '__qualname__', '__name__', '__class__',
    '__firstlineno__', '__static_attributes__', '__abstractmethods__', '__orig_bases__', '__parameters__',
    '__dataclass_fields__', '__dataclass_params__', '__match_args__', '__annotate__', '__annotate_func__',
    '__annotations_cache__', '__delattr__', '__setattr__', '__replace__', '__setitem__', '__delitem__'})
# Attributes that aren't tensors
TELLING = frozenset({'dtype', 'device', 'layout', 'shape', 'ndim', '__class__', 'requires_grad'})
ASK = frozenset({'isinstance', 'is_tensor', 'type', '__class__', 'requires_grad', 'is_leaf'})
UNKNOWN = object() # value of a name that is unknown before the code runs
LEGACY = type(torch.FloatTensor) # its instances read memory that a tracer doesn't have
