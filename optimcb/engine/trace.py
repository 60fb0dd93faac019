"""Recording a step: steppers run on a stand-in for tensors, and what they do to it is written down.

A `Value` stands for one tensor of every parameter at once. Torch's operations on it, as methods, operators or
functions, append to its `Trace`: a list of nodes `(operation, type, one per element?, *operands)`. An operand is the
index of a node, or `~k` for the number `slots[k]`, so that the nodes are the same whatever the numbers are.
"""
import math
import sys
from numbers import Number

import numpy as np
import torch
from torch import Tensor

from optimcb.composition import Composition
from optimcb.engine.ops import OPS

__all__ = ['Trace', 'Untraceable', 'Value']

LOW = frozenset({torch.float16, torch.bfloat16})
FLOATS = LOW | {torch.float32, torch.float64}
DTYPES = FLOATS | {torch.bool, torch.int64}


class Untraceable(Exception):
    "A stepper does what its stand-in can't do. `what` is that, `instead` what to write."
    def __init__(self,
        what:str, # What the stepper does
        instead:str='Only the eager engine can do it.' # What to write
    ):
        super().__init__(what, instead)
        self.what, self.instead = what, instead


class Trace:
    "What one step does to tensors, as `nodes`, and the numbers that it takes, as `slots`."
    def __init__(self,
        example, # A parameter that the step is recorded for
        looked:set # Takes the names of the attributes of `example` that the steppers look at
    ):
        self.example, self.looked = example, looked
        self.nodes, self.index, self.slots, self.externals, self.versions = [], {}, [], [], []
        self.no_dims = example.dim() == 0
        self.failure = None
        self.param = None

    def fail(self, what, *instead):
        "Raise `Untraceable`, and remember it: a stepper might catch it."
        if self.failure is None:
            self.failure, frame = Untraceable(what, *instead), sys._getframe()
            while frame and frame.f_code is not Composition.run.__code__: frame = frame.f_back
            if frame: self.failure.stepper = frame.f_locals.get('stepper')
        raise self.failure

    def emit(self, *node) -> int:
        "Index of `node`, which is appended if it isn't there."
        i = self.index.setdefault(node, len(self.nodes))
        if i == len(self.nodes): self.nodes.append(node)
        return i

    def slot(self, number) -> int:
        "Operand for a number."
        self.slots.append(number)
        return -len(self.slots)

    def load(self, name, dtype, each=True) -> 'Value':
        "Stand-in for what lies in memory under `name`."
        return Value(self, self.emit('load', dtype, each, name), dtype, each, buffer=True)

    def operand(self, o) -> int:
        "What stands for `o`, a `Value`, a number, or a tensor of one number, in a node."
        if isinstance(o, Value): return o.id
        if isinstance(o, Number) and not isinstance(o, complex): return self.slot(o)
        if isinstance(o, Tensor): return self.external(o).id
        self.fail(f"it computes with {type(o).__name__}", "Use numbers, and tensors that come from `p`.")

    def external(self, tensor) -> 'Value':
        "Stand-in for a real tensor, which must be one number."
        if tensor.dim() or tensor.dtype not in DTYPES:
            self.fail(f"it computes with a tensor of shape {tuple(tensor.shape)} that doesn't come from `p`", "Make it with `torch.zeros_like(p)` or the like.")
        k = next((k for k, known in enumerate(self.externals) if known is tensor), len(self.externals))
        if k == len(self.externals):
            self.externals.append(tensor)
            self.versions.append(tensor._version)
        return Value(self, self.emit('external', tensor.dtype, False, k), tensor.dtype, False)

    def apply(self, name, operands) -> 'Value':
        "The operation `name` on `operands`, by torch's rules for types."
        args, dtype, each, mixed = [], None, False, False
        for o in operands:
            if type(o) in STANDS:
                args.append(o.id)
                if o.dtype is not dtype: dtype, mixed = o.dtype, dtype is not None
                if o.each: each = True
                if o.trace is not self: self.fail("it keeps a tensor of another parameter or an earlier step", "Return it as state.")
            elif type(o) is float:
                self.slots.append(o)
                args.append(-len(self.slots))
            else:
                args.append(self.operand(o))
                if isinstance(o, Tensor): mixed = True
        result = dtype
        if mixed or dtype not in FLOATS or name in ASKS:
            gives = OPS[name].gives
            dtype = self.common(operands[name == 'where':])
            if dtype not in DTYPES: self.fail(f"it makes a tensor of {dtype}")
            if gives == 'float' and dtype not in FLOATS: dtype = torch.get_default_dtype()
            result = torch.bool if gives == 'bool' else dtype
        node = (name, dtype, each, *args)
        nodes = self.nodes
        id = self.index.setdefault(node, len(nodes))
        if id == len(nodes): nodes.append(node)
        return Value(self, id, result, each)

    def common(self, operands) -> torch.dtype:
        "torch's type for an operation on `operands`."
        kinds = tuple((o.dtype, o.each and not self.no_dims) if type(o) in STANDS else
                      (o.dtype, False) if isinstance(o, Tensor) else
                      bool if isinstance(o, (bool, np.bool_)) else int if isinstance(o, (int, np.integer)) else float for o in operands)
        default = torch.get_default_dtype()
        if (kinds, default) not in COMMON: COMMON[kinds, default] = _common(kinds)
        return COMMON[kinds, default]

    def cast(self, x:'Value', dtype) -> int:
        "Operand for `x` in another type, rounded if that is narrower."
        return x.id if x.dtype is dtype and x.id >= 0 else self.emit('cast', dtype, x.each, x.id)

    def reduce(self, name, x:'Value', dtype) -> 'Value':
        "All elements of `x` in one number."
        return Value(self, self.emit(name, dtype, False, x.id), dtype, False) if x.each else Value(self, x.id, x.dtype, False)

    def total(self, x, round) -> 'Value':
        "The sum of `x`, one number of each parameter, over all parameters; the `round`th that is asked for."
        if x.each: self.fail("it yields a tensor, not one number of each parameter", "Yield a sum: `total = yield x.sum()`.")
        dtype = torch.promote_types(x.dtype, torch.float32)
        return Value(self, self.emit('total', dtype, False, x.id, round), dtype, False)


ASKS = frozenset(o for o in OPS if OPS[o].gives == 'bool' or o == 'where')
COMMON = {}


def _common(kinds):
    one = {bool: True, int: 1, float: 1.}
    res = [one[k] if k in one else torch.empty((1,)*k[1], dtype=k[0], device='meta') for k in kinds]
    acc = res[0]
    for o in res[1:]: acc = torch.empty_like(acc, dtype=torch.result_type(acc, o)) if isinstance(acc, Tensor) and acc.dim() else _joined(acc, o)
    return acc.dtype if isinstance(acc, Tensor) else torch.result_type(torch.empty((), dtype=torch.bool), acc)


def _joined(a, b):
    "Something of the type and rank that `a` and `b` have together"
    dims = max(getattr(a, 'ndim', 0), getattr(b, 'ndim', 0))
    if not isinstance(a, Tensor) and not isinstance(b, Tensor): return a + b
    return torch.empty((1,)*dims, dtype=torch.result_type(a, b), device='meta')


class Value:
    """Stands for a tensor. What it can't do raises `Untraceable`.

    `each` tells a tensor of the parameter's shape from one number for each parameter. `buffer` is memory of a
    parameter or a state: in 16 bits, what is written there and read again is rounded, as memory does; otherwise
    16-bit numbers are computed with in float32.
    """
    __slots__ = ('trace', 'id', 'dtype', 'each', 'buffer', 'exact', 'born')
    __array_priority__, __array_ufunc__ = 1000, None # NumPy's numbers leave operators to us

    def __init__(self,
        trace:Trace, # Where operations are written down
        id:int, # Operand that it is now
        dtype:torch.dtype, # Its type
        each:bool, # One number for each element, or one for each parameter?
        buffer:bool=False # Is it memory of a parameter or state?
    ):
        self.trace, self.id, self.dtype, self.each, self.buffer, self.exact, self.born = trace, id, dtype, each, buffer, None, None

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        name = func.__name__
        f = FUNCTIONS.get(name)
        if f is None: _trace(*args).fail(f"it calls `{name}`", INSTEAD.get(name, KNOWN))
        return _spelled(f, name, args, kwargs or {})

    def write(self, new:'Value') -> 'Value':
        "Take the values of `new`, in my own type."
        if new.each and not self.each: self.trace.fail("it writes a tensor into one number")
        if new.dtype is not self.dtype and not torch.can_cast(new.dtype, self.dtype): self.trace.fail(f"it writes {new.dtype} into {self.dtype}")
        self.id = self.trace.cast(new, self.dtype)
        if self.buffer and self.dtype in LOW:
            self.exact = self.id
            self.id = self.trace.emit('cast', self.dtype, self.each, self.id)
        return self

    def unrounded(self) -> 'Value':
        "What an operation in place goes on from: it rounds once, when it is done."
        return Value(self.trace, self.exact, self.dtype, self.each)

    # What a tensor tells of itself. Parameters are told apart by what is looked at.

    def _look(self, name):
        t = self.trace
        if not self.each: return getattr(torch.empty((), dtype=self.dtype, device=t.example.device), name)
        t.looked.add(name)
        return getattr(t.example, name)

    shape = property(lambda self: self._look('shape'))
    ndim = property(lambda self: self._look('ndim'))
    device = property(lambda self: self.trace.example.device)
    is_cuda = property(lambda self: self.trace.example.is_cuda)
    is_cpu = property(lambda self: self.trace.example.is_cpu)
    requires_grad = property(lambda self: self is self.trace.param and self._look('requires_grad'))
    is_sparse = property(lambda self: False)
    itemsize = property(lambda self: self.dtype.itemsize)
    layout = property(lambda self: torch.strided)
    def size(self, dim=None): return self.shape if dim is None else self.shape[dim]
    def dim(self): return self.ndim
    def numel(self): return math.prod(self.shape)
    def __len__(self): return len(self.shape) and self.shape[0]
    def element_size(self): return self.dtype.itemsize
    def is_floating_point(self): return self.dtype in FLOATS
    def is_complex(self): return False
    nelement = numel

    # Memory

    data = property(lambda self: self, lambda self, new: self.trace.fail("it gives a tensor other memory", "Write into what it has: `p.data.copy_(…)`."))

    @property
    def grad(self):
        return self.trace.grad if self is self.trace.param else None
    @grad.setter
    def grad(self, new):
        if self is not self.trace.param: self.trace.fail("it gives a gradient to a tensor that is no parameter")
        self.trace.grad = new if new is None else _value(self.trace, new)

    # What can't be recorded

    def _real(self, what, instead="Only the eager engine knows numbers: use `torch.where` to choose, and keep numbers as tensors."):
        self.trace.fail(what, instead)

    def __bool__(self): self._real("it branches on a tensor's value", "Choose with `torch.where(condition, a, b)`.")
    def __float__(self): self._real("it makes a number of a tensor")
    __int__ = __index__ = __complex__ = item = tolist = numpy = __float__
    def __array__(self, *args, **kwargs): self._real("it makes an array of a tensor")
    def __iter__(self): self._real("it goes through the elements of a tensor")
    def __getitem__(self, i): self._real("it takes elements out of a tensor")
    def __setitem__(self, i, v): self._real("it sets elements of a tensor", "Choose with `torch.where(condition, a, b)`.")
    def __hash__(self): self._real("it looks a tensor up in a dict or set", "Return what belongs to a parameter as its state.")
    def __repr__(self): return f"<stand-in for a tensor of {self.dtype}, {'an element each' if self.each else 'one number'}>"
    def __getattr__(self, name):
        if name.startswith('__'): raise AttributeError(name)
        if hasattr(Tensor, name): self._real(f"it uses `{name}` of a tensor", INSTEAD.get(name, KNOWN))
        if self is not self.trace.param: raise AttributeError(name)
        self.trace.looked.add(name)
        found = getattr(self.trace.example, name) # an attribute that somebody gave to the parameter
        if isinstance(found, Tensor): self._real(f"it uses `{name}`, a tensor of the parameter")
        return found


class Typed(Value):
    "A stand-in that says that it is a tensor; for steppers that ask. Code in C must not see it."
    __slots__ = ()
    __class__ = property(lambda self: torch.nn.Parameter if self is self.trace.param else Tensor)
    _is_param = property(lambda self: self is self.trace.param)


STANDS = frozenset({Value, Typed})

KNOWN = "Use operations on the elements of one tensor, or its sum, mean, norm, max or min."
INSTEAD = {
    **dict.fromkeys(['view', 'reshape', 'flatten', 'ravel'], "Sums and norms of a tensor need no `view`."),
    **dict.fromkeys(['randn_like', 'rand_like', 'normal_', 'uniform_', 'bernoulli', 'bernoulli_', 'dropout'],
                    "Random numbers are drawn by the eager engine only."),
    **dict.fromkeys(['median', 'sort', 'topk', 'quantile', 'kthvalue', 'argmax', 'argmin'], "Only the eager engine can do it."),
    **dict.fromkeys(['dot', 'vdot', 'inner'], "Write `(a*b).sum()`."),
    **dict.fromkeys(['matmul', 'mm', 'mv', '__matmul__', 'bmm'], "Products of matrices are done by the eager engine only."),
}


def _trace(*args) -> Trace:
    "The trace of the first stand-in among `args`."
    for o in args:
        if isinstance(o, (list, tuple)) and o: return _trace(*o)
        if type(o) in STANDS: return o.trace
    raise TypeError("a stand-in for a tensor is used where it can't be.")


def _value(trace, x) -> Value:
    "`x` as a stand-in."
    if type(x) in STANDS: return x
    if isinstance(x, Tensor): return trace.external(x)
    return Value(trace, trace.operand(x), trace.common([x]), False)


def _spelled(f, name, args, kwargs):
    "Call `f`, which has the arguments that we can do"
    if isinstance(args[0] if args else None, Tensor) and name.endswith('_') and not name.endswith('__'):
        _trace(*args, *kwargs.values()).fail("it writes into a tensor that doesn't come from `p`", "Make it with `torch.zeros_like(p)` or the like.")
    if kwargs.get('out', 0) is None: del kwargs['out']
    try: return f(*args, **kwargs)
    except TypeError as e:
        if 'argument' not in str(e): raise
        _trace(*args, *kwargs.values()).fail(f"it calls `{name}` with arguments that only tensors take ({str(e).split(') ', 1)[-1]})")


# How torch spells the operations

def _apply(name, *operands):
    for o in operands:
        if type(o) in STANDS: return o.trace.apply(name, operands)
    raise TypeError("a stand-in for a tensor is used where it can't be.")


def _plain(name):
    def f(x, other): return _apply(name, x, other)
    return f


def _unary(name):
    def f(x): return x.trace.apply(name, (x,))
    return f


def add(x, other, *, alpha=None): return _apply('add', x, other) if alpha is None else _apply('add_alpha', x, other, alpha)
def sub(x, other, *, alpha=None): return _apply('sub', x, other) if alpha is None else _apply('sub_alpha', x, other, alpha)
def rsub(x, other, *, alpha=None): return sub(other, x, alpha=alpha)
def mul(x, other): return _apply('mul', x, other)


def div(x, other, *, rounding_mode=None):
    if rounding_mode == 'floor': _trace(x, other).fail("it divides with `rounding_mode='floor'`", "Write `(a/b).floor()`.")
    res = _apply('div', x, other)
    return _apply('trunc', res) if rounding_mode else res


def addcmul(x, a, b, *, value=1): return _apply('addcmul', x, a, b, value)
def addcdiv(x, a, b, *, value=1): return _apply('addcdiv', x, a, b, value)
def lerp(x, end, weight):
    if x.dtype is not getattr(end, 'dtype', None): _trace(x, end).fail("it interpolates between types, which torch refuses")
    return _apply('lerp', x, end, weight)


def pow_(x, exponent):
    "torch has kernels of its own for some exponents."
    if type(exponent) in STANDS or not isinstance(exponent, Number): return _apply('pow', x, exponent)
    if exponent == 2: return _apply('square', x)
    if exponent == 3: return _apply('cube', x)
    if exponent in (0.5, -0.5) and x.dtype is not torch.float16: return _apply('sqrt' if exponent > 0 else 'rsqrt', x)
    if exponent == -1: return _apply('reciprocal', x)
    if exponent == -2: return _apply('reciprocal', _apply('square', x))
    return _apply('pow', x, exponent)


def clamp(x, min=None, max=None):
    if min is not None: x = _apply('clamp_min', x, min)
    return x if max is None else _apply('clamp_max', x, max)


def where(condition, x, other): return _apply('where', condition, x, other)
def masked_fill(x, mask, value): return _like(where(mask, value, x), x)
def relu(x, inplace=False): return _inside(x, clamp(x, 0), inplace)
def softplus(x, beta=1., threshold=20.): return _apply('softplus', x, beta, threshold)
def hardtanh(x, min_val=-1., max_val=1., inplace=False): return _inside(x, clamp(x, min_val, max_val), inplace)
def softshrink(x, lambd=0.5): return where(x > lambd, x - lambd, where(x < -lambd, x + lambd, x*0))
def hardshrink(x, lambd=0.5): return where((x >= -lambd) & (x <= lambd), 0., x)
def silu(x, inplace=False): return _inside(x, x * _apply('sigmoid', x), inplace)
def leaky_relu(x, negative_slope=0.01, inplace=False): return _inside(x, where(x > 0, x, x*negative_slope), inplace)
def logit(x, eps=None): return _apply('log', *(lambda c: (c/(1-c),))(x if eps is None else clamp(x, eps, 1-eps)))
def heaviside(x, values): return where(x == 0, values, _like(x > 0, x))
def isinf(x): return _apply('eq', _apply('abs', x), math.inf)
def isposinf(x): return _apply('eq', x, math.inf)
def isneginf(x): return _apply('eq', x, -math.inf)
def signbit(x): return _apply('copysign', _like(x == x, x)*0 + 1, x) < 0


def nan_to_num(x, nan=0., posinf=None, neginf=None):
    top = torch.finfo(x.dtype).max
    x = where(_apply('isnan', x), 0. if nan is None else nan, x)
    x = where(isposinf(x), top if posinf is None else posinf, x)
    return where(isneginf(x), -top if neginf is None else neginf, x)


def _logic(name, c):
    def f(x, other):
        if x.dtype is not torch.bool or getattr(other, 'dtype', torch.bool) is not torch.bool: x.trace.fail(f"it uses `{c}` on numbers", "Compare first.")
        return _apply(name, x, other)
    return f


def invert(x):
    if x.dtype is not torch.bool: x.trace.fail("it uses `~` on numbers", "Compare first.")
    return _apply('logical_not', x)


def _like(x, as_) -> Value:
    return Value(x.trace, x.trace.cast(x, as_.dtype), as_.dtype, x.each)


def _inside(x, new, inplace): return x.write(new) if inplace else new


# Types and copies

def to(x, *args, dtype=None, device=None, non_blocking=False, copy=False, memory_format=None):
    for o in args:
        if isinstance(o, torch.dtype): dtype = o
        elif type(o) in STANDS: dtype = o.dtype
        elif isinstance(o, Tensor): dtype, device = o.dtype, o.device
        elif isinstance(o, (str, torch.device)): device = o
    if device is not None and torch.device(device) != x.device and torch.device(device).type != x.device.type: x.trace.fail(f"it moves a tensor to {device}")
    if dtype is None or dtype is x.dtype and dtype not in LOW: return clone(x) if copy else x
    if dtype not in DTYPES: x.trace.fail(f"it makes a tensor of {dtype}")
    if dtype is x.dtype:
        if not x.buffer: x.id = x.trace.emit('cast', dtype, x.each, x.id) # here rounding was asked for
        return x
    return Value(x.trace, x.trace.cast(x, dtype), dtype, x.each)


def type_as(x, other): return to(x, other)
def clone(x, *, memory_format=None): return Value(x.trace, x.id, x.dtype, x.each, buffer=True)
def same(x, *args, **kwargs): return x
def copy_(x, src, non_blocking=False): return x.write(_value(x.trace, src))
def fill_(x, value): return x.write(_value(x.trace, value))
def zero_(x): return x.write(_value(x.trace, 0.))


def full_like(x, fill_value, *, dtype=None, device=None, requires_grad=False, memory_format=None, layout=None, pin_memory=False):
    dtype = dtype or x.dtype
    if dtype not in DTYPES: x.trace.fail(f"it makes a tensor of {dtype}")
    if type(fill_value) in STANDS: return Value(x.trace, x.trace.cast(fill_value, dtype), dtype, x.each, buffer=True)
    new = Value(x.trace, x.trace.emit('cast', dtype, x.each, x.trace.slot(fill_value)), dtype, x.each, buffer=True)
    new.born = new.id
    return new


def zeros_like(x, **kwargs): return full_like(x, 0., **kwargs)
def ones_like(x, **kwargs): return full_like(x, 1., **kwargs)


def new_full(x, size, fill_value, **kwargs):
    size = torch.Size([size] if isinstance(size, int) else size)
    if size == x.shape: return full_like(x, fill_value, **kwargs)
    if not size: return full_like(Value(x.trace, x.id, x.dtype, False), fill_value, **kwargs)
    x.trace.fail(f"it makes a tensor of shape {tuple(size)}", "Make state in the shape of `p`, or a single number.")


def _size(size): return size[0] if len(size) == 1 and isinstance(size[0], (tuple, list)) else size
def new_zeros(x, *size, **kwargs): return new_full(x, _size(size), 0., **kwargs)
def new_ones(x, *size, **kwargs): return new_full(x, _size(size), 1., **kwargs)
def new_tensor(x, data, **kwargs): return new_full(x, (), data, **kwargs)


# Sums and the like over one tensor

PARTLY = "it reduces some dimensions of a tensor", "Reduce the whole of it, or leave such tensors to the eager engine."


def _whole(x, dim, keepdim=False):
    if keepdim and x.ndim or dim is not None and dim != () and (isinstance(dim, int) or len(dim) != x.ndim) and not (isinstance(dim, int) and x.ndim == 1):
        x.trace.fail(*PARTLY)


def _wide(x, dtype=None):
    "The type of a sum"
    if dtype is not None: x = to(x, dtype)
    return x if x.dtype in FLOATS else Value(x.trace, x.trace.cast(x, torch.int64), torch.int64, x.each)


def sum_(x, dim=None, keepdim=False, *, dtype=None):
    _whole(x, dim, keepdim)
    x = _wide(x, dtype)
    return x.trace.reduce('sum', x, x.dtype)


def count(x): return Value(x.trace, x.trace.emit('numel', x.dtype, False), x.dtype, False) if x.each else 1


def mean(x, dim=None, keepdim=False, *, dtype=None):
    if dtype is not None: x = to(x, dtype)
    if x.dtype not in FLOATS: x.trace.fail(f"it takes the mean of {x.dtype}, which torch has none of", "Make it floats first: `x.float()`.")
    return sum_(x, dim, keepdim) / count(x)


def var(x, dim=None, unbiased=True, *, correction=None, keepdim=False):
    if isinstance(dim, bool): dim, unbiased = None, dim
    correction = int(unbiased) if correction is None else correction
    return sum_(pow_(x - mean(x, dim, keepdim), 2)) / (count(x) - correction)


def std(x, *args, **kwargs): return _apply('sqrt', var(x, *args, **kwargs))


def _extreme(name):
    def f(x, dim=None, keepdim=False):
        _whole(x, dim, keepdim)
        return where(any_(_apply('isnan', x)), math.nan, x.trace.reduce(name, x, x.dtype)) if x.dtype in FLOATS else x.trace.reduce(name, x, x.dtype)
    return f


amax, amin = _extreme('amax'), _extreme('amin')


def _two(pair, reduced):
    "`max(x, other)` is one thing, `max(x)` another"
    def f(x, other=None, **kwargs):
        if type(other) in STANDS: return _apply(pair, x, other)
        if other is not None or kwargs: _trace(x).fail(*PARTLY)
        return reduced(x)
    return f


def any_(x, dim=None, keepdim=False):
    _whole(x, dim, keepdim)
    return x.trace.reduce('amax', x != 0, torch.bool)


def all_(x, dim=None, keepdim=False):
    _whole(x, dim, keepdim)
    return x.trace.reduce('amin', x != 0, torch.bool)


def count_nonzero(x, dim=None): return sum_(x != 0, dim)


def norm(x, p='fro', dim=None, keepdim=False, out=None, dtype=None):
    if dtype is not None: x = to(x, dtype)
    _whole(x, dim, keepdim)
    if x.dtype not in FLOATS: x.trace.fail(f"it takes the norm of {x.dtype}, which torch has none of", "Make it floats first: `x.float()`.")
    if p is None or p == 'fro' or p == 2: return _apply('sqrt', sum_(pow_(x, 2)))
    if p == 1: return sum_(_apply('abs', x))
    if p == math.inf: return amax(_apply('abs', x))
    if p == -math.inf: return amin(_apply('abs', x))
    if p == 0: return _like(sum_(x != 0), x)
    if not isinstance(p, Number): x.trace.fail(f"it takes a norm of order {p!r}")
    return pow_(sum_(pow_(_apply('abs', x), p)), 1/p)


def vector_norm(x, ord=2, dim=None, keepdim=False, *, dtype=None): return norm(x, ord, dim, keepdim, dtype=dtype)
def dist(x, other, p=2): return norm(x - other, p)


def _functions() -> dict:
    "Our function for each name that torch has."
    one = [o for o in OPS if o not in ('eq', 'ne') and OPS[o].text.count('{1}') == 0 and o not in ('cast', 'cube')]
    two = ['maximum', 'minimum', 'fmax', 'fmin', 'clamp_min', 'clamp_max', 'hypot', 'copysign', 'atan2',
           'eq', 'ne', 'lt', 'le', 'gt', 'ge', 'logical_and', 'logical_or', 'logical_xor']
    res = {**{o: _unary(o) for o in one}, **{o: _plain(o) for o in two}}
    for f in (add, sub, rsub, mul, div, addcmul, addcdiv, lerp, clamp, where, masked_fill, relu, softplus, hardtanh, softshrink, hardshrink, silu,
              leaky_relu, logit, heaviside, isinf, isposinf, isneginf, signbit, nan_to_num, to, type_as, clone, full_like, zeros_like, ones_like, new_full,
              new_zeros, new_ones, new_tensor, mean, var, std, count_nonzero, norm, dist, copy_, fill_, zero_): res[f.__name__] = f
    res.update({'amax': amax, 'amin': amin, 'sum': sum_, 'any': any_, 'all': all_, 'pow': pow_, 'linalg_vector_norm': vector_norm,
                'linalg_norm': vector_norm, 'empty_like': zeros_like,
                'max': _two('maximum', amax), 'min': _two('minimum', amin), 'new_empty': new_zeros, 'bitwise_not': invert,
                'bitwise_and': _logic('logical_and', '&'), 'bitwise_or': _logic('logical_or', '|'), 'bitwise_xor': _logic('logical_xor', '^')})
    alias = dict(absolute='abs', negative='neg', subtract='sub', multiply='mul', divide='div', true_divide='div', sgn='sign', clip='clamp', fix='trunc',
                 not_equal='ne', less='lt', less_equal='le', greater='gt', greater_equal='ge', arctan2='atan2', threshold_='relu_',
                 special_expit='sigmoid', special_expm1='expm1', special_log1p='log1p', special_erf='erf', special_erfc='erfc', special_exp2='exp2',
                 special_logit='logit', special_round='round')
    alias.update({o[0] + o[3:]: o for o in one if o.startswith('arc')})
    res.update({k: res[v] for k, v in alias.items() if v in res})
    for k in list(res):
        if not k.endswith('_') and hasattr(Tensor, k + '_'): res[k + '_'] = _inplace(res[k])
    res.update(dict.fromkeys(('detach', 'detach_', 'contiguous', 'requires_grad_', 'positive', 'conj', 'resolve_conj', 'resolve_neg', 'view_as'), same))
    res.update({k: (lambda x, _dtype=d, **kw: to(x, _dtype)) for k, d in
                dict(float=torch.float32, double=torch.float64, half=torch.float16, bfloat16=torch.bfloat16, bool=torch.bool, long=torch.int64).items()})
    res.update({k: (lambda x, _k=k: getattr(x, _k)()) for k in ('numel', 'is_floating_point', 'is_complex')})
    res['result_type'] = lambda a, b: _trace(a, b).common([a, b])
    return res


def _inplace(f):
    def g(x, *args, **kwargs): return x.write(f(x if x.exact is None else x.unrounded(), *args, **kwargs))
    return g


FUNCTIONS = _functions()


def _reflected(f):
    def g(self, other): return f(other, self)
    return g


def _known(f):
    "Operators leave to the other operand what is neither tensor nor number"
    def g(self, other):
        return f(self, other) if type(other) in STANDS or isinstance(other, (Number, Tensor)) else NotImplemented
    return g


def _dress():
    "Give `Value` its methods and operators."
    for k, f in FUNCTIONS.items():
        if hasattr(Tensor, k) and k not in vars(Value): setattr(Value, k, f)
    for k in ('add', 'sub', 'mul', 'pow', 'div'):
        python = {'div': 'truediv'}.get(k, k)
        setattr(Value, f'__{python}__', _known(FUNCTIONS[k]))
        setattr(Value, f'__r{python}__', _known(_reflected(FUNCTIONS[k])))
        setattr(Value, f'__i{python}__', _known(FUNCTIONS[k + '_']))
    for k, name in {'and': 'bitwise_and', 'or': 'bitwise_or', 'xor': 'bitwise_xor', **{k: k for k in ('lt', 'le', 'gt', 'ge', 'eq', 'ne')}}.items():
        setattr(Value, f'__{k}__', _known(FUNCTIONS[name]))
    for k in ('and', 'or', 'xor'): setattr(Value, f'__i{k}__', _known(FUNCTIONS[f'bitwise_{k}_']))
    Value.__neg__, Value.__abs__, Value.__invert__, Value.__pos__ = FUNCTIONS['neg'], FUNCTIONS['abs'], invert, same


_dress()
