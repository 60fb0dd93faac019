"""Who is alike: parameters that one recording holds for, and whether they still are what they were.

Parameters are alike if they are of one group, type and device, with the same kinds of state and the same numbers
among it. Whatever a kernel must not touch is left to the eager engine. What is checked in each step is checked in a
few passes over lists, in half a microsecond a parameter.
"""
from itertools import cycle, repeat
from operator import is_

import torch
from torch import Tensor

from optimcb._tensors import spread_of
from optimcb.engines.arena import Arena
from optimcb.engines.frozen import grad_of, track
from optimcb.tracing.bucket import Bucket, Changed, fit, is_plain, key_of, sharing

__all__ = ['Plan']


data_ptr, numel, stride, dtype_of, is_neg = Tensor.data_ptr, Tensor.numel, Tensor.stride, Tensor.dtype.__get__, Tensor.is_neg
requires_grad = Tensor.requires_grad.__get__


SOME = 64 # states in an arena whose addresses are looked at in a step, in turn: somebody may have given one other memory, and keep the old


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
            known.setdefault(key, Bucket(key, i, p)).add(k, p, opt.state[p])
        self.alike = list(known.values())
        self.spreads = list(dict.fromkeys(o for _, p, *_ in work if (o := spread_of(p)))) # also of what is eager here: processes must agree
        self._note(opt, grads)

    def _note(self, opt, grads):
        "What must stay as it is"
        for a in self.alike: a.note()
        self.values = list(opt.state.values())
        self.flat = [p for a in self.alike for p in a.params]
        states = [t for a in self.alike for k in a.kinds if not k.extent.is_opaque for t in a.tensors[k.name]]
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
