"""Tracers: steppers run on them instead of tensors, and each operation is recorded.

A `Tracer` stands for one tensor of all parameters of a bucket at once. Python's operators are here, torch's
functions and methods are in `torch_api` and `reductions`, and `install` adds them to tracers. Each call
appends to the trace. `typed_tracers` has tracers that claim to be tensors.
"""
from numbers import Number

import numpy as np
import torch
from torch import Tensor

from optimcb.tracing.advice import ELEMENTWISE, INSTEAD, instead_of_branch, instead_of_number
from optimcb.tracing.ir import FLOATS, LOW, PER_ELEMENT, PER_PARAMETER, Extent
from optimcb.tracing.opaque import OpaqueTensor
from optimcb.tracing.purity import value_impurity

__all__ = ['FUNCTIONS', 'TRACERS', 'Tracer', 'as_tracer', 'trace_of']


TRACERS = set() # types of tracers; each class adds itself
FUNCTIONS = {} # torch's functions and methods for tracers, by name; filled by `install_functions`
OPERANDS = Number, np.bool_, Tensor # operands of operators besides tracers
NOT_FROM_P = ("it writes into a tensor that doesn't come from `p`",
              "Make it with `torch.zeros_like(p)` or the like.")
IN_A_SET = "it looks a tensor up in a dict or set", "Return what belongs to a parameter as its state."
ONLY_EAGER = "Only the eager engine knows numbers: use `torch.where` to choose, and keep numbers as tensors."


def _is_operand(o): return type(o) in TRACERS or isinstance(o, OPERANDS)


class Tracer:
    """A tensor of symbols, which records operations. Unsupported ones raise `Untraceable`.

    A `buffer` is memory of a parameter or a state: values that are written to 16-bit memory and read again
    are rounded, while other 16-bit values are computed in float32. `exact` is the operand before that
    rounding, `born` the node that filled a new state with a number.
    """
    __slots__ = ('trace', 'id', 'dtype', 'extent', 'buffer', 'exact', 'born')
    __array_priority__, __array_ufunc__ = 1000, None # NumPy's scalars leave operators to us

    def __init__(self,
        trace, # The `Trace` that records operations
        id:int, # Its current operand
        dtype:torch.dtype, # Its dtype
        extent:Extent, # Per element or per parameter
        buffer:bool=False # Is it memory of a parameter or state?
    ):
        self.trace, self.id, self.dtype, self.extent, self.buffer, self.exact, self.born = (
            trace, id, dtype, extent, buffer, None, None)

    def __init_subclass__(cls): TRACERS.add(cls)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        name = func.__name__
        f = FUNCTIONS.get(name)
        if f is None: trace_of(*args).fail(f"it calls `{name}`", INSTEAD.get(name, ELEMENTWISE))
        return _call_function(f, name, args, kwargs or {})

    def by_torch(self, f, args, kwargs): return self.trace.call(f, args, kwargs)

    # Writing

    def write(self, new:'Tracer') -> 'Tracer':
        "Take the values of `new`, cast to this tracer's dtype."
        if new.extent is PER_ELEMENT and self.extent is not PER_ELEMENT:
            self.trace.fail("it writes a tensor into one number")
        if new.dtype is not self.dtype and not torch.can_cast(new.dtype, self.dtype):
            self.trace.fail(f"it writes {new.dtype} into {self.dtype}")
        self.id = self.trace.cast(new, self.dtype)
        if self.buffer and self.dtype in LOW:
            self.exact = self.id
            self.id = self.trace.emit('cast', self.dtype, self.extent, self.id)
        return self

    def unrounded(self) -> 'Tracer':
        "Return the input for an in-place operation, which rounds only once, at its end."
        if self.exact is None: return self
        return self.trace.tracer_type(self.trace, self.exact, self.dtype, self.extent)

    # Operators. They return NotImplemented for operands that are neither tensors nor numbers

    def _apply(self, name, other):
        return self.trace.apply(name, (self, other)) if _is_operand(other) else NotImplemented

    def _apply_reflected(self, name, other):
        return self.trace.apply(name, (other, self)) if _is_operand(other) else NotImplemented

    def _apply_in_place(self, name, other):
        if not _is_operand(other): return NotImplemented
        return self.write(self.trace.apply(name, (self.unrounded(), other)))

    def _call(self, name, *operands):
        "Call an operator that is a function of `torch_api`"
        return FUNCTIONS[name](*operands) if all(map(_is_operand, operands)) else NotImplemented

    def __add__(self, other): return self._apply('add', other)
    def __radd__(self, other): return self._apply_reflected('add', other)
    def __iadd__(self, other): return self._apply_in_place('add', other)
    def __sub__(self, other): return self._apply('sub', other)
    def __rsub__(self, other): return self._apply_reflected('sub', other)
    def __isub__(self, other): return self._apply_in_place('sub', other)
    def __mul__(self, other): return self._apply('mul', other)
    def __rmul__(self, other): return self._apply_reflected('mul', other)
    def __imul__(self, other): return self._apply_in_place('mul', other)
    def __truediv__(self, other): return self._apply('div', other)
    def __rtruediv__(self, other): return self._apply_reflected('div', other)
    def __itruediv__(self, other): return self._apply_in_place('div', other)
    def __pow__(self, other): return self._call('pow', self, other)
    def __rpow__(self, other): return self._call('pow', other, self)
    def __ipow__(self, other): return self._call('pow_', self, other)
    def __lt__(self, other): return self._apply('lt', other)
    def __le__(self, other): return self._apply('le', other)
    def __gt__(self, other): return self._apply('gt', other)
    def __ge__(self, other): return self._apply('ge', other)
    def __eq__(self, other): return self._apply('eq', other)
    def __ne__(self, other): return self._apply('ne', other)
    def __and__(self, other): return self._call('bitwise_and', self, other)
    def __or__(self, other): return self._call('bitwise_or', self, other)
    def __xor__(self, other): return self._call('bitwise_xor', self, other)
    def __iand__(self, other): return self._call('bitwise_and_', self, other)
    def __ior__(self, other): return self._call('bitwise_or_', self, other)
    def __ixor__(self, other): return self._call('bitwise_xor_', self, other)
    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__ # they commute
    def __neg__(self): return self.trace.apply('neg', (self,))
    def __abs__(self): return self.trace.apply('abs', (self,))
    def __invert__(self): return FUNCTIONS['bitwise_not'](self)
    def __pos__(self): return self

    # Attributes of a tensor. Parameters that differ in those that are read get separate buckets

    def _look(self, name):
        t = self.trace
        if self.extent is not PER_ELEMENT:
            return getattr(torch.empty((), dtype=self.dtype, device=t.example.device), name)
        t.looked.add(name)
        return t.shown[name] if name in t.shown else getattr(t.example, name)

    shape = property(lambda self: self._look('shape'))
    ndim = property(lambda self: self._look('ndim'))
    device = property(lambda self: self.trace.example.device)
    is_cuda = property(lambda self: self.trace.example.is_cuda)
    is_cpu = property(lambda self: self.trace.example.is_cpu)
    is_xpu = property(lambda self: self.trace.example.is_xpu)
    is_mps = property(lambda self: self.trace.example.is_mps)
    is_meta = property(lambda self: self.trace.example.is_meta)
    nbytes = property(lambda self: self.numel()*self.itemsize)
    is_param = property(lambda self: self is self.trace.param) # does it stand for the parameter's memory?
    requires_grad = property(lambda self: self is self.trace.param and self._look('requires_grad'))
    is_sparse = is_sparse_csr = is_quantized = is_nested = is_mkldnn = property(lambda self: False)
    itemsize = property(lambda self: self.dtype.itemsize)
    layout = property(lambda self: torch.strided)
    def size(self, dim=None): return self.shape if dim is None else self.shape[dim]
    def dim(self): return self.ndim
    def numel(self): return self.shape.numel()
    def __len__(self): return len(self.shape) and self.shape[0]
    def element_size(self): return self.dtype.itemsize
    def is_floating_point(self): return self.dtype in FLOATS
    def is_complex(self): return False
    def get_device(self): return self.trace.example.get_device()
    nelement, ndimension = numel, dim

    def stride(self, dim=None):
        if not self.is_param:
            self._real("it asks how a tensor that is not the parameter lies in memory", "Ask the parameter.")
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
    def data(self, new): # `p.data -= x` assigns the object that it has written into
        if new is not self:
            self.trace.fail("it gives a tensor other memory", "Write into what it has: `p.data.copy_(…)`.")

    @property
    def grad(self):
        return self.trace.grad if self is self.trace.param else None
    @grad.setter
    def grad(self, new):
        if self is not self.trace.param:
            self.trace.fail("it gives a gradient to a tensor that is no parameter")
        self.trace.grad = new if new is None else as_tracer(self.trace, new)

    # Operations that can't be recorded

    def _real(self, what, instead=ONLY_EAGER): self.trace.fail(what, instead)

    def __bool__(self): self._real("it branches on a tensor's value", instead_of_branch())
    def __float__(self): self._real("it makes a number of a tensor", instead_of_number())
    __int__ = __index__ = __complex__ = item = tolist = numpy = __float__
    def __array__(self, *args, **kwargs): self._real("it makes an array of a tensor")
    def __iter__(self): self._real("it goes through the elements of a tensor")
    def __getitem__(self, i): self._real("it takes elements out of a tensor")
    def __setitem__(self, i, v):
        self._real("it sets elements of a tensor", "Choose with `torch.where(condition, a, b)`.")
    def __hash__(self): self._real(*IN_A_SET)
    def __repr__(self): return f"<tracer of a tensor of {self.dtype}, {self.extent}>"
    def __getattr__(self, name):
        if name.startswith('__'): raise AttributeError(name)
        if hasattr(Tensor, name): self._real(f"it uses `{name}` of a tensor", INSTEAD.get(name, ELEMENTWISE))
        if self is not self.trace.param: raise AttributeError(name)
        self.trace.looked.add(name)
        self.trace.asks_own = True
        found = getattr(self.trace.example, name) # an attribute that a user added to the parameter
        if isinstance(found, Tensor): self._real(f"it uses `{name}`, a tensor of the parameter")
        why = value_impurity(found, name)
        if why: self._real(why, "The parameter has it as an attribute.")
        return found


TRACERS.add(Tracer)


def trace_of(
    *args # Arguments, some of them tracers or lists of tracers
):
    "Return the trace of the first tracer among `args`."
    for o in args:
        if isinstance(o, (list, tuple)) and o: return trace_of(*o)
        if type(o) in TRACERS: return o.trace
    raise TypeError("a tracer is used where it can't be.")


def as_tracer(
    trace, # The `Trace` to record it in
    x # A tracer, a number, or a tensor of one number
) -> Tracer:
    "Return `x` as a tracer."
    if type(x) in TRACERS: return x
    if isinstance(x, Tensor) and type(x) is not OpaqueTensor: return trace.external(x)
    return trace.tracer_type(trace, trace.operand(x), trace.common([x]), PER_PARAMETER)


def _call_function(f, name, args, kwargs):
    "Call `f`, which replaces torch's function `name`, with arguments that it must accept"
    first = args[0] if args else None
    writes = name.endswith('_') and not name.endswith('__')
    if writes and isinstance(first, Tensor) and type(first) not in TRACERS:
        trace_of(*args, *kwargs.values()).fail(*NOT_FROM_P)
    out = kwargs.pop('out', None)
    if out is not None and type(out) not in TRACERS: trace_of(*args).fail(*NOT_FROM_P)
    try: res = f(*args, **kwargs)
    except TypeError as e:
        if 'argument' not in str(e): raise
        why = str(e).split(') ', 1)[-1]
        what = f"it calls `{name}` with arguments that only tensors take ({why})"
        trace_of(*args, *kwargs.values()).fail(what)
    if out is None: return res
    if res.extent is not out.extent:
        out.trace.fail("its `out` is of another shape than the result: torch resizes it")
    return out.write(res)
