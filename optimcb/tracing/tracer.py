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

from optimcb.composition.pipeline import Composition
from optimcb.tracing.advice import instead_of_branch, instead_of_number
from optimcb.tracing.opaque import DO_IT, HOLE, Call, Foreign, Surprise, foreseen, like, listed
from optimcb.tracing.ops import OPS
from optimcb.tracing.purity import impurity

__all__ = ['DTYPES', 'FLOATS', 'FUNCTIONS', 'LOW', 'STANDS', 'Trace', 'Typed', 'TypedParam', 'Untraceable',
           'Value', 'as_value', 'trace_of']


LOW = frozenset({torch.float16, torch.bfloat16})
FLOATS = LOW | {torch.float32, torch.float64}
DTYPES = FLOATS | {torch.bool, torch.int64}
FUNCTIONS = {} # by torch's names for them; filled by `spelling`


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
        looked:set, # Takes the names of what steppers look at of `example`, `stride()` among them
        typed:bool=False # Should stand-ins say that they are tensors?
    ):
        self.example, self.looked, self.kind = example, looked, Typed if typed else Value
        self.nodes, self.index, self.slots, self.externals, self.versions = [], {}, [], [], []
        self.no_dims = example.dim() == 0
        self.failure = None
        self.param = None
        self.no_calls = None # why no function of torch's can be called

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

    def operand(self, o) -> int:
        "What stands for `o`, a `Value`, a number, or a tensor of one number, in a node."
        if isinstance(o, Value): return o.id
        if isinstance(o, np.bool_): o = bool(o) # which NumPy doesn't call a number
        if isinstance(o, Number) and not isinstance(o, complex): return self.slot(o)
        if type(o) is Foreign: o.refuse()
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
        return self.kind(self, self.emit('external', tensor.dtype, False, k), tensor.dtype, False)

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
        return self.kind(self, id, result, each)

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
        return self.kind(self, self.emit(name, dtype, False, x.id), dtype, False) if x.each else self.kind(self, x.id, x.dtype, False)

    def call(self, f, args, kwargs):
        "Stand-ins for what `f`, which `by_torch` has marked, returns."
        name = getattr(f, '__name__', type(f).__name__)
        if self.no_calls: self.fail(f"it calls `{name}`, but {self.no_calls}")
        self.looked.add('shape')
        p, holes, given = self.example, [], []
        def handed(o):
            if isinstance(o, (bool, str, type(None), torch.dtype, torch.device, tuple)): return o
            stands = type(o) is Foreign or type(o) in STANDS
            if stands and o.trace is not self: self.fail("it keeps a tensor of another parameter or an earlier step", "Return it as state.")
            if type(o) is Foreign: holes.append(o.id)
            elif type(o) in STANDS: holes.append(self.cast(o, o.dtype))
            elif isinstance(o, (Number, Tensor)): holes.append(self.operand(o))
            else: self.fail(f"it hands {type(o).__name__} to `{name}`", "Hand it tensors, numbers and strings.")
            given.append((o.shape, None, o.dtype) if type(o) is Foreign else (p.shape, p.stride(), o.dtype) if getattr(o, 'each', False) else
                         ((), None, o.dtype) if hasattr(o, 'dtype') and not isinstance(o, Number) else int(o) if hasattr(o, '__index__') else float(o))
            return HOLE
        call = Call.of(f, [handed(o) for o in args], {k: handed(o) for k, o in kwargs.items()})
        try: out = foreseen(call, given, p.device)
        except Surprise as e: self.fail(f"it calls `{name}`, which {e.args[0]}", *e.args[1:])
        id = self.emit('call', None, None, *holes, call)
        def result(k, o):
            each = True if o.shape == p.shape else None if o.shape else False
            if o.dtype not in DTYPES: self.fail(f"it calls `{name}`, which makes a tensor of {o.dtype}")
            i = self.emit('result', o.dtype, each, id, k)
            return Foreign(self, i, o.dtype, o.shape) if each is None else self.kind(self, i, o.dtype, each, buffer=True)
        return like(out, [result(k, o) for k, o in enumerate(listed(out))])

    def total(self, x, round) -> 'Value':
        "The sum of `x`, one number of each parameter, over all parameters; the `round`th that is asked for."
        if x.each: self.fail("it yields a tensor, not one number of each parameter", "Yield a sum: `total = yield x.sum()`.")
        dtype = torch.promote_types(x.dtype, torch.float32)
        return self.kind(self, self.emit('total', dtype, False, x.id, round), dtype, False)


ASKS = frozenset(o for o in OPS if OPS[o].gives == 'bool' or o == 'where')
COMMON = {}


def _common(kinds):
    one = {bool: True, int: 1, float: 1.}
    res = [one[k] if k in one else torch.empty((1,)*k[1], dtype=k[0], device='meta') for k in kinds]
    acc = res[0]
    for o in res[1:]: acc = _joined(acc, o)
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
        if f is None: trace_of(*args).fail(f"it calls `{name}`", INSTEAD.get(name, KNOWN))
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

    def by_torch(self, f, args, kwargs): return self.trace.call(f, args, kwargs)

    def unrounded(self) -> 'Value':
        "What an operation in place goes on from: it rounds once, when it is done."
        return self.trace.kind(self.trace, self.exact, self.dtype, self.each)

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
    is_xpu = property(lambda self: self.trace.example.is_xpu)
    is_mps = property(lambda self: self.trace.example.is_mps)
    is_meta = property(lambda self: self.trace.example.is_meta)
    nbytes = property(lambda self: self.numel()*self.itemsize)
    is_param = property(lambda self: self is self.trace.param) # its memory is the parameter's
    requires_grad = property(lambda self: self is self.trace.param and self._look('requires_grad'))
    is_sparse = is_sparse_csr = is_quantized = is_nested = is_mkldnn = property(lambda self: False)
    itemsize = property(lambda self: self.dtype.itemsize)
    layout = property(lambda self: torch.strided)
    def size(self, dim=None): return self.shape if dim is None else self.shape[dim]
    def dim(self): return self.ndim
    def numel(self): return math.prod(self.shape)
    def __len__(self): return len(self.shape) and self.shape[0]
    def element_size(self): return self.dtype.itemsize
    def is_floating_point(self): return self.dtype in FLOATS
    def is_complex(self): return False
    def get_device(self): return self.trace.example.get_device()
    nelement, ndimension = numel, dim

    def stride(self, dim=None):
        if not self.is_param: self._real("it asks how a tensor that is not the parameter lies in memory", "Ask the parameter.")
        self.trace.looked.add('stride()')
        return self.trace.example.stride() if dim is None else self.trace.example.stride(dim)

    def is_contiguous(self, memory_format=torch.contiguous_format):
        self.stride()
        self.trace.looked.add('shape')
        return self.trace.example.is_contiguous(memory_format=memory_format)

    # Memory

    @property
    def data(self): return self
    @data.setter
    def data(self, new): # `p.data -= x` sets what it has written into
        if new is not self: self.trace.fail("it gives a tensor other memory", "Write into what it has: `p.data.copy_(…)`.")

    @property
    def grad(self):
        return self.trace.grad if self is self.trace.param else None
    @grad.setter
    def grad(self, new):
        if self is not self.trace.param: self.trace.fail("it gives a gradient to a tensor that is no parameter")
        self.trace.grad = new if new is None else as_value(self.trace, new)

    # What can't be recorded

    def _real(self, what, instead="Only the eager engine knows numbers: use `torch.where` to choose, and keep numbers as tensors."):
        self.trace.fail(what, instead)

    def __bool__(self): self._real("it branches on a tensor's value", instead_of_branch())
    def __float__(self): self._real("it makes a number of a tensor", instead_of_number())
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
        why = impurity(found, name)
        if why: self._real(why, "The parameter has it as an attribute.")
        return found


class _Passing(type):
    "Classes that pass for those of tensors, for steppers that ask for `type(p)`"
    def __eq__(cls, other): return other is cls or other is cls.passes_for
    __hash__ = type.__hash__
    def __instancecheck__(cls, o): return isinstance(o, cls.passes_for)
    __name__ = property(lambda cls: cls.passes_for.__name__)


class Typed(Value, metaclass=_Passing):
    "A stand-in that says that it is a tensor; for steppers that ask. Code in C must not see it."
    __slots__ = ()
    passes_for = Tensor
    __class__ = property(lambda self: Tensor)
    _is_param = False


class TypedParam(Typed):
    "A stand-in that says that it is a parameter."
    __slots__ = ()
    passes_for = torch.nn.Parameter
    __class__ = property(lambda self: torch.nn.Parameter)
    _is_param = True
    is_leaf = property(lambda self: self._look('is_leaf'))

    @property
    def data(self): return TypedData(self)
    @data.setter
    def data(self, new): Value.data.fset(self, self if getattr(new, 'owner', None) is self else new)


class TypedData(Typed):
    "The memory of a parameter, which is a tensor of its own: it requires no gradient, and has none."
    __slots__ = ('owner',)
    is_param, is_leaf = True, True
    def __init__(self, owner):
        self.owner, self.trace = owner, owner.trace
        self.dtype, self.each, self.buffer = owner.dtype, owner.each, owner.buffer

    def _of_owner(name): return property(lambda self: getattr(self.owner, name), lambda self, v: setattr(self.owner, name, v))
    id, exact, born = map(_of_owner, ('id', 'exact', 'born'))


STANDS = frozenset({Value, Typed, TypedParam, TypedData})

WRITES = "it writes into a tensor that doesn't come from `p`", "Make it with `torch.zeros_like(p)` or the like."
KNOWN = "Use operations on the elements of one tensor, or its sum, mean, norm, max or min."
INSTEAD = {
    **dict.fromkeys(['view', 'reshape', 'flatten', 'ravel'], "Sums and norms of a tensor need no `view`."),
    **dict.fromkeys(['randn_like', 'rand_like', 'normal_', 'uniform_', 'bernoulli', 'bernoulli_', 'dropout'],
                    "Random numbers are drawn by the eager engine only."),
    **dict.fromkeys(['median', 'sort', 'topk', 'quantile', 'kthvalue', 'argmax', 'argmin'], "Only the eager engine can do it."),
    **dict.fromkeys(['dot', 'vdot', 'inner'], "Write `(a*b).sum()`."),
    **dict.fromkeys(['new', 'resize_as_', 'resize_'], "Make state with `torch.zeros_like(p)`."),
    **dict.fromkeys(['matmul', 'mm', 'mv', '__matmul__', 'bmm'], DO_IT),
}


def trace_of(
    *args # Some of them stand-ins, or lists of them
) -> Trace:
    "The trace of the first stand-in among `args`."
    for o in args:
        if isinstance(o, (list, tuple)) and o: return trace_of(*o)
        if type(o) in STANDS: return o.trace
    raise TypeError("a stand-in for a tensor is used where it can't be.")


def as_value(
    trace:Trace, # Where it is written down
    x # A stand-in, a number, or a tensor of one number
) -> Value:
    "`x` as a stand-in."
    if type(x) in STANDS: return x
    if isinstance(x, Tensor) and type(x) is not Foreign: return trace.external(x)
    return trace.kind(trace, trace.operand(x), trace.common([x]), False)


def _spelled(f, name, args, kwargs):
    "Call `f`, which has the arguments that we can do"
    first = args[0] if args else None
    if isinstance(first, Tensor) and type(first) not in STANDS and name.endswith('_') and not name.endswith('__'):
        trace_of(*args, *kwargs.values()).fail(*WRITES)
    out = kwargs.pop('out', None)
    if out is not None and type(out) not in STANDS: trace_of(*args).fail(*WRITES)
    try: res = f(*args, **kwargs)
    except TypeError as e:
        if 'argument' not in str(e): raise
        trace_of(*args, *kwargs.values()).fail(f"it calls `{name}` with arguments that only tensors take ({str(e).split(') ', 1)[-1]})")
    if out is None: return res
    if res.each != out.each: out.trace.fail("its `out` is of another shape than the result: torch resizes it")
    return out.write(res)
