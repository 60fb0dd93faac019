"""Tracers that claim to be tensors, for steppers that ask: `isinstance(p, Parameter)`, `type(p) is Tensor`.

They are made only for such steppers, as C code of torch must not see them.
"""
import torch
from torch import Tensor

from optimcb.tracing.tracer import Tracer

__all__ = ['TypedParamTracer', 'TypedTracer']


class _Passing(type):
    "A metaclass for classes that compare equal to tensor classes, for steppers that test `type(p)`"
    def __eq__(cls, other): return other is cls or other is cls.passes_for
    __hash__ = type.__hash__
    def __instancecheck__(cls, o): return isinstance(o, cls.passes_for)
    __name__ = property(lambda cls: cls.passes_for.__name__)


class TypedTracer(Tracer, metaclass=_Passing):
    "A tracer that claims to be a tensor."
    __slots__ = ()
    passes_for = Tensor
    __class__ = property(lambda self: Tensor)
    _is_param = False


class TypedParamTracer(TypedTracer):
    "A tracer that claims to be a parameter."
    __slots__ = ()
    passes_for = torch.nn.Parameter
    __class__ = property(lambda self: torch.nn.Parameter)
    _is_param = True
    is_leaf = property(lambda self: self._look('is_leaf'))

    @property
    def data(self): return TypedDataTracer(self)
    @data.setter
    def data(self, new): Tracer.data.fset(self, self if getattr(new, 'owner', None) is self else new)


class TypedDataTracer(TypedTracer):
    "The `.data` of a parameter, a separate tensor that neither requires nor has a gradient."
    __slots__ = ('owner',)
    is_param, is_leaf = True, True
    def __init__(self, owner):
        self.owner, self.trace = owner, owner.trace
        self.dtype, self.extent, self.buffer = owner.dtype, owner.extent, owner.buffer

    def _of_owner(name):
        return property(lambda self: getattr(self.owner, name), lambda self, v: setattr(self.owner, name, v))
    id, exact, born = map(_of_owner, ('id', 'exact', 'born'))
