"""The intermediate representation: the types that a recorded step consists of.

A step is a list of nodes and a list of outputs. Both tell by an extent how many values a tensor has for each
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
    """How many values a tensor has for each parameter: one per element, one, or those of another shape.

    Extents are interned: equal ones are the same object, so that comparing and hashing them is quick.
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
        "Whether the tensor has a shape that is neither the parameter's nor `()`."
        return self.name == 'opaque'

    @property
    def without_shape(self) -> 'Extent':
        "The extent of a node: programs hold for opaque tensors of any shape."
        return OPAQUE if self.is_opaque else self


PER_ELEMENT = Extent('per element')
PER_PARAMETER = Extent('per parameter')
OPAQUE = Extent('opaque')


def opaque(
    shape # Neither the parameter's nor `()`
) -> Extent:
    "The extent of a tensor of this shape."
    return Extent('opaque', tuple(shape))


def extent_of(
    t:Tensor, # A tensor that belongs to a parameter
    p:Tensor # The parameter
) -> Extent:
    "The extent of a tensor beside a parameter."
    if t.shape == p.shape: return PER_ELEMENT
    return opaque(t.shape) if t.dim() else PER_PARAMETER


LEAVES = frozenset({'load', 'external', 'numel', 'zero'})


class Node(NamedTuple):
    """One operation.

    A trace keeps nodes as flat tuples `(op, dtype, extent, *args)`, which are hashed in each step; `Node.of`
    gives them names.
    """
    op: str
    dtype: torch.dtype # Type that it computes in
    extent: Extent # Of the result. Of a call: opaque
    args: tuple # Operands: indices of nodes, or `~k` for the number in slot `k`. Of a leaf: its column

    @classmethod
    def of(cls,
        entry:tuple # As a trace keeps it
    ) -> 'Node':
        "The node of a trace's entry."
        return cls(entry[0], entry[1], entry[2], entry[3:])

    @property
    def result_dtype(self) -> torch.dtype:
        "Type of the result."
        return torch.bool if self.op in OPS and OPS[self.op].gives == 'bool' else self.dtype

    @property
    def operands(self) -> tuple:
        "`args` but for the round of a total, the function of a call, and the position of a result."
        return self.args[:-1] if self.op in ('total', 'call', 'result') else self.args

    @property
    def inputs(self) -> list[int]:
        "Indices of the nodes that it reads."
        return [] if self.op in LEAVES else [a for a in self.operands if a >= 0]

    def with_operands(self,
        f # Gives another operand for each
    ) -> 'Node':
        "The node with `f` of its operands."
        if self.op in LEAVES: return self
        count = len(self.operands)
        return self._replace(args=(*map(f, self.args[:count]), *self.args[count:]))


class StateKind(NamedTuple):
    "A tensor among the state, as far as a recording depends on it."
    name: str
    dtype: torch.dtype
    extent: Extent


class Output(NamedTuple):
    "A tensor that a step leaves changed."
    name: str # `.p`, or a state
    value: int # Operand
    dtype: torch.dtype
    extent: Extent
    is_new: bool # Does the step make it?
    born: int|None # Node that filled it with a number at first; None if there is none


class FreshState(NamedTuple):
    "State that a step makes."
    dtype: torch.dtype
    extent: Extent
    slot: int|None # Of the number that it starts from; None: it is only written


class Store(NamedTuple):
    "A value that a kernel writes to memory."
    name: str|int # Column
    value: int # Operand
    dtype: torch.dtype
    extent: Extent
