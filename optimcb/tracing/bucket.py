"Parameters that one recording holds for: a bucket, and what keeps a parameter out of every bucket."
from numbers import Number
from operator import is_, itemgetter
from typing import NamedTuple

import torch
from torch import Tensor

from optimcb._compat.dtensors import is_dtensor, sharding_of, unsharded
from optimcb.tracing.ir import DTYPES, FLOATS, PER_ELEMENT, StateKind, extent_of

__all__ = ['Bucket', 'Changed', 'Noted', 'constant', 'fit', 'is_dense', 'is_plain', 'key_of', 'misfit',
           'sharing']


PLAIN_TYPES = frozenset({Tensor, torch.nn.Parameter}) # dispatch as `Tensor` does
is_functorch_wrapped = torch._C._functorch.is_functorch_wrapped_tensor


class Changed(Exception):
    "A plan doesn't hold any more."


class Noted(NamedTuple):
    "What is known of an optimizer's parameters, by their places among them all."
    params: list
    states: list # Of each its state; None for those that kernels don't step
    tensors: dict # By name of state, of each its tensor, or None


class Bucket:
    """Parameters that one recording holds for: those of one key, with the same numbers among their state.

    `kinds` are the `StateKind`s of tensors among their state, `numbers` the rest of it. `kind` is what they
    have in common besides numbers and group; `forms` belongs to what replays recordings. `places` are those
    of the parameters that the present step steps, `params` these, with `states` and `tensors` of these by
    name.
    """
    def __init__(self,
        key:tuple, # Their common properties, from `key_of`
        group:int, # Index of their group
        example:Tensor # One of them
    ):
        self.key, self.group, self.example = key, group, example
        self.kinds, self.numbers, self.grad_dtype = key[1], dict(key[2]), key[5]
        self.kind, self.forms = (key[1], *key[3:], is_dtensor(unsharded(example))), None
        self._identity = None
        self.choose([], Noted([], [], {}))

    def choose(self,
        places:list, # Of parameters
        noted:Noted # What is known of all of them
    ):
        "Let these be the parameters of the present step."
        self.places, self.noted, self._params, self._states, self._tensors = places, noted, None, None, None

    def split_off(self) -> 'Bucket':
        "Return a bucket of the same key without parameters, whose numbers go on by themselves."
        res = object.__new__(Bucket)
        res.__dict__ = {**self.__dict__, 'numbers': dict(self.numbers)}
        res.choose([], self.noted)
        return res

    @property
    def params(self) -> list:
        "The parameters of the present step."
        if self._params is None: self._params = [self.noted.params[k] for k in self.places]
        return self._params

    @property
    def states(self) -> list:
        "Their states."
        if self._states is None: self._states = [self.noted.states[k] for k in self.places]
        return self._states

    @property
    def tensors(self) -> dict:
        "The tensors in these, by name."
        if self._tensors is None:
            self._tensors = {k.name: [self.noted.tensors[k.name][i] for i in self.places] for k in self.kinds}
        return self._tensors

    def note_tensors(self,
        name:str, # Name of state
        tensors:list # Of each of the present parameters, what it is from now on
    ):
        "Note that a step has replaced tensors."
        self.tensors[name] = tensors
        for k, t in zip(self.places, tensors): self.noted.tensors[name][k] = t

    def put(self,
        numbers:dict # Some of the state from now on, by name
    ):
        "Note that a step has made other numbers."
        self.numbers.update(numbers)
        self._identity = None

    def identity(self) -> tuple:
        "What is equal for buckets that can be one: numbers of other types are other numbers."
        if self._identity is None:
            values = self.numbers.values()
            self._identity = id(self.kind), self.group, *self.numbers, *map(type, values), *values
        return self._identity

    def check(self):
        "Raise `Changed` if the state was changed from outside."
        states = self.states
        size = len(self.kinds) + len(self.numbers)
        if list(map(len, states)).count(size) != len(states): raise Changed
        try:
            for name, tensors in self.tensors.items():
                if not all(map(is_, map(itemgetter(name), states), tensors)): raise Changed
            for name, value in self.numbers.items():
                if list(map(itemgetter(name), states)).count(value) != len(states): raise Changed
        except (KeyError, RuntimeError, ValueError):
            raise Changed from None # a name is gone, or a number is a tensor now


def _kinds(p, state) -> tuple|None:
    "The kinds of the tensors among `state`, and the rest of it as pairs; None if a kernel must not have it"
    kinds, numbers = [], []
    for name, v in state.items():
        if isinstance(v, Tensor):
            extent = extent_of(v, p)
            if v.dtype not in DTYPES or v.device != p.device or not is_plain(v): return None
            if extent is PER_ELEMENT and v.stride() != p.stride():
                new = torch.empty_strided(p.shape, p.stride(), dtype=v.dtype, device=v.device)
                v = state[name] = new.copy_(v)
            kinds.append(StateKind(name, v.dtype, extent))
        elif constant(v): numbers.append((name, v))
        else: return None
    return tuple(kinds), tuple(numbers)


def constant(
    v # Some state
) -> bool:
    "Is this state that compares and copies as numbers do?"
    if isinstance(v, (tuple, frozenset)): return all(map(constant, v))
    return v is None or isinstance(v, (Number, str)) and v == v


def is_plain(
    t # A tensor
) -> bool:
    "Is this a plain tensor in memory, whose address may be passed to a kernel?"
    kind = type(t)
    if kind not in PLAIN_TYPES and kind.__torch_dispatch__ is not Tensor.__torch_dispatch__: return False
    if t.layout is not torch.strided or t.is_neg() or t.is_conj() or t.is_meta: return False
    return not is_functorch_wrapped(t)


def is_dense(
    t:Tensor # A tensor
) -> bool:
    "Does it fill its memory, with no place twice?"
    if t.is_contiguous(): return True
    expected = 1
    for s, n in sorted(zip(t.stride(), t.shape)):
        if n == 1: continue
        if s != expected: return False
        expected *= n
    return True


def _span(t) -> int:
    "Number of elements from the first to the last one in memory, with gaps"
    if t.is_contiguous(): return t.numel()
    return 1 + sum((n - 1)*s for n, s in zip(t.shape, t.stride())) if t.numel() else 0


def sharing(
    tensors:list # Pairs of an owner and a tensor
) -> set:
    "The owners that share memory with another tensor."
    spans = sorted((at := t.data_ptr(), at + _span(t)*t.element_size(), k) for k, t in tensors)
    found, end, last = set(), 0, None
    for start, stop, k in spans:
        if start < end: found |= {k, last}
        if stop > end: end, last = stop, k
    return found


def misfit(
    p, # A parameter
    g:Tensor|None=None # Its gradient, if it has one
) -> str|None:
    "Why no kernel can have this parameter, or None."
    if not isinstance(p, Tensor): return "it isn't a tensor"
    for what, t in (('it', p), ('its gradient', g)):
        if t is None: continue
        if t.dtype not in FLOATS: return f"{what} is of {t.dtype}"
        if not is_plain(t): return f"{what} isn't a plain tensor in memory"
    if not is_dense(p): return "it has gaps in its memory, or elements that share it"
    if p.numel() == 0 and not sharding_of(p):
        return "it is empty" # an empty shard takes part in sums like the others
    if g is not None and (g.shape != p.shape or g.device != p.device):
        return "its gradient is of another shape or on another device"


def fit(
    p, # A parameter
    g:Tensor|None, # Its gradient, if it has one
    state:dict # Its state
) -> tuple|None:
    "Kinds of state, and its numbers, if a kernel can have this parameter."
    return None if misfit(p, g) else _kinds(p, state)


def key_of(
    group:int, # Index of its group
    fit:tuple, # Kinds of state and its numbers, from `fit`
    p:Tensor, # A parameter
    grad_dtype:torch.dtype, # The type of its gradient
    runner # Knows which attributes the steppers read
) -> tuple:
    "Return a bucket's common properties: group, state, dtypes, device, attributes that steppers read."
    return group, *fit, p.dtype, p.dim() == 0, grad_dtype, p.device, runner.look(p)
