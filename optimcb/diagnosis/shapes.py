"""Symbolic shapes of parameters, and rehearsals of parameters of other shapes.

The dimensions of a shape are symbolic numbers, such as `p.shape[0]`, so arithmetic and decisions with them
are recorded like those with other numbers. If a stepper takes plain numbers out of a shape, by `int` or a
loop for example, rehearsals of several shapes differ, which shows it."""
from collections.abc import Callable, Iterator
from copy import copy
from itertools import count, groupby

import torch

from optimcb._compat.dtensors import unsharded
from optimcb.diagnosis.expressions import NUMEL, Sym, call, number
from optimcb.diagnosis.symbolic import Decisions, Symbolic, plain, symbolic
from optimcb.tracing.rehearsal import Rehearsal

__all__ = ['NDIM', 'OF_SHAPE', 'SHAPE', 'Shape', 'named_shape', 'of_other_shapes']


NDIM, SHAPE = Sym('p.ndim'), Sym('p.shape')
OF_SHAPE = 'shape', 'ndim', 'stride()' # attributes of a parameter that depend on its shape
# For an algorithm without parameters: two of each number of dimensions, tall and wide
SHAPES = (3, 5), (5, 3), (3,), (5,), (3, 4, 5), (5, 2, 3), (2, 3, 4, 5), (5, 4, 3, 2)


class Shape(tuple):
    "A shape, or a slice of one, of symbolic numbers; `e` is its own expression."
    def __new__(cls, numbers, e):
        res = super().__new__(cls, numbers)
        res.e = e
        return res

    def __getitem__(self, i):
        if not isinstance(i, slice):
            is_last = self.e == SHAPE and i < 0
            return self._number(int(i)) if is_last else super().__getitem__(int(i))
        places = range(len(self))[i]
        is_last = self.e == SHAPE and i.start is not None and i.start < 0
        numbers = [self._number(k - len(self)*is_last) if self.e == SHAPE else self[k] for k in places]
        return Shape(numbers, Sym(f'{self.e.name}[{_text(i)}]'))

    def _number(self, i): return symbolic(int(super().__getitem__(i)), Sym(f'p.shape[{i}]'))

    def numel(self) -> Symbolic:
        "Return the number of elements, as a symbolic number."
        e = NUMEL if self.e == SHAPE else call('prod', self.e)
        return symbolic(self.plain.numel(), e)

    def computed(self, f, args):
        "Return the tuple that a function of the shape computes, with its expression."
        with Decisions().listen(): value = f(torch.empty(tuple(self.plain), device='meta'), *args)
        e = call(f.__name__, Sym('p', False), *(getattr(a, 'e', None) or number(a) for a in args))
        return _Computed(value, e, f.__module__)

    @property
    def plain(self) -> torch.Size:
        "The shape in plain numbers."
        return torch.Size(map(int, self))

    # Comparing shapes is not recorded as a decision: torch and this library do it all the time
    def __eq__(self, other):
        if not isinstance(other, tuple): return False
        return tuple(self.plain) == tuple(plain(o) if isinstance(o, Symbolic) else o for o in other)

    def __ne__(self, other): return not self == other
    def __hash__(self): return hash(self.plain)
    def __repr__(self): return repr(tuple(self.plain))


class _Computed(tuple):
    "A tuple that a function of a shape computed, with its expression `e` and the function's module."
    def __new__(cls, values, e, module):
        res = super().__new__(cls, values)
        res.e, res.module = e, module
        return res


def _text(s) -> str:
    "Return the Python text of a slice"
    ends = (s.start, s.stop) if s.step is None else (s.start, s.stop, s.step)
    return ':'.join('' if o is None else str(int(o)) for o in ends)


def named_shape(
    example # A parameter
) -> dict:
    "Return attributes of a parameter for steppers, with symbolic numbers instead of its shape."
    example = unsharded(example)
    numbers = [symbolic(n, Sym(f'p.shape[{i}]')) for i, n in enumerate(example.shape)]
    return dict(shape=Shape(numbers, SHAPE), ndim=symbolic(example.dim(), NDIM))


# Other shapes

def of_other_shapes(
    rehearsal:Rehearsal, # A rehearsal that hasn't begun
    params:list, # Parameters of the formula; empty: any parameters
    asks_dims:Callable # Do steppers ask for the number of dimensions? Then a scalar is rehearsed, too
) -> Iterator[Rehearsal]:
    "Yield rehearsals of parameters of other shapes: two of each number of dimensions."
    has_shape_of_its_own = any(kind.extent.is_opaque for kind in rehearsal.kinds.values())
    if has_shape_of_its_own: return # state of the user's, which fits no other shape
    if not params:
        for shape in SHAPES: yield rehearsal.like(_of_shape(rehearsal.example, shape))
        if asks_dims(): yield rehearsal.like(_of_shape(rehearsal.example, ()))
    for _, same in groupby(sorted(params, key=lambda p: p.dim()), key=lambda p: p.dim()):
        p = next(same)
        if p.shape != rehearsal.example.shape: yield rehearsal.like(p)
        yield rehearsal.like(_of_shape(p, _other_shape(p)))


def _other_shape(p):
    "Return a small shape with as many dimensions, all of other sizes, and tall if `p` is wide"
    is_wide = p.dim() and p.shape[0] < p.shape[-1]
    for first in count(3):
        shape = range(first, first + p.dim())[::-1 if is_wide else 1]
        if all(n != old for n, old in zip(shape, p.shape)): return tuple(shape)


def _of_shape(p, shape):
    "Return a parameter of another shape like `p`, with the attributes that users gave to it"
    res = torch.nn.Parameter(torch.empty(shape, dtype=p.dtype, device=p.device), p.requires_grad)
    res.__dict__.update(copy(p.__dict__))
    return res
