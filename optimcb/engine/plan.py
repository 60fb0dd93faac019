"""Who is alike: parameters that one recording holds for, and whether they still are what they were.

Parameters are alike if they are of one group, type and device, with the same kinds of state and the same numbers
among it. Whatever a kernel must not touch is left to the eager engine. What is checked in each step is checked in a
few passes over lists, in half a microsecond a parameter.
"""
from itertools import cycle, repeat
from numbers import Number
from operator import is_, itemgetter

import torch
from torch import Tensor

from optimcb.engine.frozen import grad_of, track
from optimcb.engine.memory import Arena
from optimcb.engine.shards import spread_of
from optimcb.engine.trace import DTYPES, FLOATS

__all__ = ['Alike', 'Changed', 'Plan', 'constant', 'fit', 'is_plain', 'key_of', 'misfit', 'sharing']

data_ptr, numel, stride, dtype_of, is_neg = Tensor.data_ptr, Tensor.numel, Tensor.stride, Tensor.dtype.__get__, Tensor.is_neg
requires_grad = Tensor.requires_grad.__get__


SOME = 64 # states in an arena whose addresses are looked at in a step, in turn: somebody may have given one other memory, and keep the old


class Changed(Exception):
    "A plan doesn't hold any more."


class Alike:
    "Parameters that one recording holds for."
    def __init__(self,
        key:tuple, # What they have in common: group, kinds and numbers of the state, types, device, and what steppers look at
        group:int, # Index of their group
        example:Tensor # One of them
    ):
        self.key, self.group, self.example = key, group, example
        self.kinds, self.numbers, self.grad_dtype = key[1], dict(key[2]), key[5] # `(name, dtype, each)` of tensors; the rest of the state
        self.params, self.states, self.places = [], [], []

    def add(self, place, p, state):
        "Take in a parameter, which is at `place` among all."
        self.places.append(place)
        self.params.append(p)
        self.states.append(state)

    def note(self):
        "Note what must stay as it is."
        self.tensors = {name: [s[name] for s in self.states] for name, _, _ in self.kinds}
        self.size = len(self.kinds) + len(self.numbers)

    def check(self):
        "Raise `Changed` if somebody has changed the state."
        states = self.states
        if list(map(len, states)).count(self.size) != len(states): raise Changed
        try:
            for name, tensors in self.tensors.items():
                if not all(map(is_, map(itemgetter(name), states), tensors)): raise Changed
            for name, value in self.numbers.items():
                if list(map(itemgetter(name), states)).count(value) != len(states): raise Changed
        except (KeyError, RuntimeError, ValueError): raise Changed from None # a name is gone, or a tensor where a number was


def _kinds(p, state) -> tuple|None:
    """The tensors among `state` as `(name, dtype, each)`, and the rest of it as pairs; None if a kernel must not have it. `each` is a shape where it is
    another than the parameter's"""
    kinds, numbers = [], []
    for name, v in state.items():
        if isinstance(v, Tensor):
            each = v.shape == p.shape or v.dim() and tuple(v.shape)
            if v.dtype not in DTYPES or v.device != p.device or not is_plain(v): return None
            if each is True and v.stride() != p.stride():
                v = state[name] = torch.empty_strided(p.shape, p.stride(), dtype=v.dtype, device=v.device).copy_(v)
            kinds.append((name, v.dtype, each or False))
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
    "Is this a tensor of numbers in memory, one of the addresses of which may be handed to a kernel?"
    return (type(t).__torch_dispatch__ is Tensor.__torch_dispatch__ and t.layout is torch.strided and not t.is_meta and not t.is_neg() and not t.is_conj()
            and not torch._C._functorch.is_functorch_wrapped_tensor(t))


def _dense(t) -> bool:
    "Does it fill its memory, with no place twice?"
    if t.is_contiguous(): return True
    expected = 1
    for s, n in sorted(zip(t.stride(), t.shape)):
        if n == 1: continue
        if s != expected: return False
        expected *= n
    return True


def sharing(
    tensors:list # Pairs of an owner and a tensor
) -> set:
    "The owners that share memory with another tensor."
    ends = [1 + sum((n - 1)*s for n, s in zip(t.shape, t.stride())) if t.numel() else 0 for _, t in tensors] # gaps counted
    spans = sorted((t.data_ptr(), t.data_ptr() + end*t.element_size(), k) for end, (k, t) in zip(ends, tensors))
    found, end, last = set(), 0, None
    for start, stop, k in spans:
        if start < end: found |= {k, last}
        if stop > end: end, last = stop, k
    return found


class Plan:
    """The parameters that have a gradient, told apart by who is alike, and where their memory is.

    `alike` are those that are traced, `eager` the work that is left to the eager engine. Of the parameters in `alike`,
    one after the other, there are lists: `flat`, and for the present step `grads` and their addresses, `grad_ptrs`.
    `launches` is for what is prepared for them. `spreads` tells how parameters are spread over processes.
    """
    def __init__(self,
        opt, # Optimizer
        composition, # Its composition
        runner # Knows what is refused, and what steppers look at
    ):
        self.composition, self.runner, self.states, self.launches = composition, runner, opt.state, {}
        self.params = [p for g in opt.param_groups for p in g['params']]
        track(self.params, opt.tracked)
        grads = [getattr(p, 'grad', None) for p in self.params]
        self.missing = list(map(is_, grads, repeat(None)))
        self.tensors = [p for p in self.params if isinstance(p, Tensor)]
        self.require_grad = list(map(requires_grad, self.tensors))
        groups = [i for i, g in enumerate(opt.param_groups) for _ in g['params']]
        work = [(k, *o) for k, o in enumerate(zip(self.params, grads, groups)) if grad_of(o[0], opt.tracked) is not None]
        fits = {k: fit(p, g, opt.state[p]) for k, p, g, _ in work}
        tensors = [(k, t) for k, p, _, _ in work for t in ((p, *opt.state[p].values()) if fits[k] else (p,)) if isinstance(t, Tensor)]
        shared = sharing([(k, t) for k, t in tensors if fits[k] or is_plain(t)])
        known, self.eager, self.maybe = {}, [], [] # `maybe` are those that may fit another time
        for k, p, g, i in work:
            can = None if k in shared else fits[k]
            key = can and key_of(i, can, p, g.dtype, runner)
            if not can or runner.refusal(key):
                self.eager.append((p, opt.state[p], i))
                if not can and k not in shared and isinstance(p, Tensor): self.maybe.append(self.eager[-1])
                continue
            known.setdefault(key, Alike(key, i, p)).add(k, p, opt.state[p])
        self.alike = list(known.values())
        self.spreads = list(dict.fromkeys(o for _, p, *_ in work if (o := spread_of(p)))) # also of what is eager here: processes must agree
        self._note(opt, grads)

    def _note(self, opt, grads):
        "What must stay as it is"
        for a in self.alike: a.note()
        self.values = list(opt.state.values())
        self.flat = [p for a in self.alike for p in a.params]
        states = [t for a in self.alike for name, _, each in a.kinds if isinstance(each, bool) for t in a.tensors[name]]
        self.arenas, others = _arenas(states)
        self.fixed = self.flat + others
        self.fixed_ptrs, self.sizes = list(map(data_ptr, self.fixed)), list(map(numel, self.flat))
        there = {id(t) for t in others}
        inside = [t for t in states if id(t) not in there]
        parts = [inside[i:i+SOME] for i in range(0, len(inside), SOME)]
        self.turns = cycle([(part, list(map(data_ptr, part))) for part in parts] or [([], [])])
        self.strides = list(map(stride, self.flat))
        self.many = [i for i, p in enumerate(self.flat) if p.dim() > 1]
        self.many_params, self.many_strides = [self.flat[i] for i in self.many], [self.strides[i] for i in self.many]
        self.order = [k for a in self.alike for k in a.places]
        self.in_order = self.order == list(range(len(self.params)))
        self.dtypes = [a.key[5] for a in self.alike for _ in a.params]
        self.grad_ids, self.grad_ptrs, self.odd = None, None, []
        self._take(grads)

    def refresh(self,
        opt, # Optimizer
        composition # Its composition
    ):
        "See that all is as it was, but for gradients, which may be new tensors. Raises `Changed`."
        if composition is not self.composition or opt.state is not self.states: raise Changed
        params = [p for g in opt.param_groups for p in g['params']]
        if len(params) != len(self.params) or not all(map(is_, params, self.params)): raise Changed
        values = opt.state.values()
        if len(values) != len(self.values) or not all(map(is_, values, self.values)): raise Changed
        grads = [getattr(p, 'grad', None) for p in params] if self.eager else [p.grad for p in params]
        if list(map(is_, grads, repeat(None))) != self.missing or self.refrozen(): raise Changed
        for a in self.alike: a.check()
        if any(arena.storages != n for arena, n in self.arenas): raise Changed
        part, ptrs = next(self.turns)
        if list(map(data_ptr, part)) != ptrs or list(map(numel, self.flat)) != self.sizes: raise Changed
        if self.runner.looked and any(self.runner.look(p) != a.key[-1] for a in self.alike for p in a.params): raise Changed
        if list(map(data_ptr, self.fixed)) != self.fixed_ptrs or list(map(stride, self.many_params)) != self.many_strides: raise Changed
        if self.maybe and any(fit(p, p.grad, state) for p, state, _ in self.maybe): raise Changed # a gradient is dense again, say
        self._take(grads)

    def refrozen(self) -> bool:
        "Has a parameter been frozen or unfrozen?"
        return list(map(requires_grad, self.tensors)) != self.require_grad

    def _take(self, grads):
        "Note where this step's gradients are. New tensors must be what the old ones were"
        if not self.in_order: grads = [grads[k] for k in self.order]
        try: ptrs, ids = list(map(data_ptr, grads)), list(map(id, grads))
        except RuntimeError: raise Changed from None # a gradient without storage: it is sparse now
        if ids != self.grad_ids or ptrs != self.grad_ptrs or self.odd or [grads[i].stride() for i in self.many] != self.many_strides:
            strides = list(map(stride, grads))
            if list(map(dtype_of, grads)) != self.dtypes or any(map(is_neg, grads)): raise Changed
            if set(map(type, grads)) != {Tensor} and not all(map(is_plain, grads)): raise Changed
            self.odd = [] if strides == self.strides else [i for i, (s, t) in enumerate(zip(strides, self.strides)) if s != t]
            if any(grads[i].shape != self.flat[i].shape for i in self.odd): raise Changed
        for i in self.odd: # as its parameter lies in memory
            p = self.flat[i]
            grads[i] = torch.empty_strided(p.shape, p.stride(), dtype=grads[i].dtype, device=p.device).copy_(grads[i])
            ptrs[i] = grads[i].data_ptr()
        self.grads, self.grad_ids = grads, ids
        if ptrs != self.grad_ptrs: self.grad_ptrs = ptrs # else it stays the same list, which tells that nothing moved

    def release(self):
        "Let gradients go: nobody else may want them any more."
        self.grads = None


def _arenas(states) -> tuple[list, list]:
    "The arenas all of whose storages are among `states`, with their number; and the other states"
    arenas, others = [], states
    for arena in Arena.all():
        inside = {id(t) for t in others if t.data_ptr() in arena.span}
        if inside and len(inside) == arena.storages:
            arenas.append((arena, len(inside)))
            others = [t for t in others if id(t) not in inside]
    return arenas, others


def misfit(
    p, # A parameter
    g:Tensor|None=None # Its gradient, if it has one
) -> str|None:
    "Why no kernel can have this parameter, or None."
    if not isinstance(p, Tensor): return "it is no tensor"
    for what, t in (('it', p), ('its gradient', g)):
        if t is None: continue
        if t.dtype not in FLOATS: return f"{what} is of {t.dtype}"
        if not is_plain(t): return f"{what} is no plain tensor in memory"
    if not _dense(p): return "it has gaps in its memory, or elements that share it"
    if p.numel() == 0 and not spread_of(p): return "it is empty" # an empty shard is asked for sums like the others
    if g is not None and (g.shape != p.shape or g.device != p.device): return "its gradient is of another shape or on another device"


def fit(
    p, # A parameter
    g:Tensor|None, # Its gradient, if it has one
    state:dict # Its state
) -> tuple|None:
    "Kinds of state, and its numbers, if a kernel can have this parameter."
    return None if misfit(p, g) else _kinds(p, state)


def key_of(
    group:int, # Index of its group
    fit:tuple, # What `fit` says
    p:Tensor, # A parameter
    grad_dtype:torch.dtype, # The type of its gradient
    runner # Knows what steppers look at
) -> tuple:
    "What parameters must have in common to be alike."
    return group, *fit, p.dtype, p.dim() == 0, grad_dtype, p.device, runner.look(p)
