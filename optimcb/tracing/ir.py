"""The intermediate representation: the types of a recorded step.

A step is a list of nodes and a list of outputs. The extent of each says how many values a tensor has per
parameter.
"""
from typing import NamedTuple

import torch
from torch import Tensor

from optimcb.tracing.ops import OPS

__all__ = ['DTYPES', 'FLOATS', 'LEAVES', 'LOW', 'OPAQUE', 'PER_ELEMENT', 'PER_PARAMETER', 'Extent',
    'FreshState', 'Node', 'Output', 'StateKind', 'Store', 'extent_of', 'opaque']


LOW = frozenset({torch.float16, torch.bfloat16})
FLOATS = LOW | {torch.float32, torch.float64}
DTYPES = FLOATS | {torch.bool, torch.int64}


class Extent:
    """The number of values of a tensor per parameter: one per element, one, or those of another shape.

    Extents are interned: equal ones are the same object, which makes comparing and hashing fast.
    """
    __slots__ = ('name', 'shape')
    _known = {}

    def __new__(cls,
        name:str, # 'per element', 'per parameter' or 'opaque'
        shape:tuple|None=None # Shape of an opaque tensor, if it matters
    ):
        self = super().__new__(cls)
        self.name, self.shape = name, shape
        return cls._known.setdefault((name, shape), self)

    def __reduce__(self): return Extent, (self.name, self.shape)
    def __repr__(self): return self.name if self.shape is None else f'{self.name} {self.shape}'

    @property
    def is_opaque(self) -> bool:
        "Is the tensor's shape neither the parameter's nor `()`?"
        return self.name == 'opaque'

    @property
    def without_shape(self) -> 'Extent':
        "The extent for a node, without a shape: programs work for opaque tensors of any shape."
        return OPAQUE if self.is_opaque else self


PER_ELEMENT = Extent('per element')
PER_PARAMETER = Extent('per parameter')
OPAQUE = Extent('opaque')


def opaque(
    shape # A shape other than the parameter's and `()`
) -> Extent:
    "Return the extent of an opaque tensor of this shape."
    return Extent('opaque', tuple(shape))


def extent_of(
    t:Tensor, # A tensor that belongs to a parameter
    p:Tensor # The parameter
) -> Extent:
    "Return the extent of a tensor that belongs to a parameter."
    if t.shape == p.shape: return PER_ELEMENT
    return opaque(t.shape) if t.dim() else PER_PARAMETER


LEAVES = frozenset({'load', 'external', 'numel', 'zero'})


class Node(NamedTuple):
    """One operation.

    A trace stores nodes as flat tuples `(op, dtype, extent, *args)`, which are hashed when they are made;
    `Node.of` adds field names.
    """
    op: str
    dtype: torch.dtype # Dtype that it computes in
    extent: Extent # Extent of the result; opaque for a call
    args: tuple # Operands: indices of nodes, or `~k` for the number in slot `k`; for a leaf, its column

    @classmethod
    def of(cls,
        entry:tuple # A node as stored in a trace
    ) -> 'Node':
        "Return the node of a trace's entry."
        return cls(entry[0], entry[1], entry[2], entry[3:])

    @property
    def result_dtype(self) -> torch.dtype:
        "The dtype of the result."
        return torch.bool if self.op in OPS and OPS[self.op].gives == 'bool' else self.dtype

    @property
    def operands(self) -> tuple:
        "The `args`, without the round of a total, the function of a call, and the position of a result."
        return self.args[:-1] if self.op in ('total', 'call', 'result') else self.args

    @property
    def inputs(self) -> list[int]:
        "The indices of nodes that it reads."
        return [] if self.op in LEAVES else [a for a in self.operands if a >= 0]

    def with_operands(self,
        f # Function from an operand to its replacement
    ) -> 'Node':
        "Return the node with `f` applied to its operands."
        if self.op in LEAVES: return self
        count = len(self.operands)
        return self._replace(args=(*map(f, self.args[:count]), *self.args[count:]))


class StateKind(NamedTuple):
    "The properties of a state tensor that a recording depends on."
    name: str
    dtype: torch.dtype
    extent: Extent


class Output(NamedTuple):
    "A tensor that a step changes."
    name: str # `.p`, or the name of a state
    value: int # Operand
    dtype: torch.dtype
    extent: Extent
    is_new: bool # Does the step create it?
    born: int|None # Node that first filled it with a number, or None


class FreshState(NamedTuple):
    "State that a step creates."
    dtype: torch.dtype
    extent: Extent
    slot: int|None # Slot of its initial number; None: it is only written


class Store(NamedTuple):
    "A value that a kernel writes to memory."
    name: str|int # Column
    value: int # Operand
    dtype: torch.dtype
    extent: Extent
