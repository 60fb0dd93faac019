"""Plans: group an optimizer's parameters into buckets, and check that nothing has changed.

Parameters share a bucket if one recording is valid for all of them: those of one group, dtype and device,
with the same kinds of state and the same numbers in it. Whatever a kernel must not touch is left to the
eager engine. The checks of each step are one pass in C (`one_pass`), or else a few passes over lists."""
from bisect import bisect
from itertools import cycle, repeat
from operator import is_

import torch
from torch import Tensor

from optimcb._compat.dtensors import sharding_of
from optimcb.engines.arena import Arena
from optimcb.engines.c_compiler import CantBuild
from optimcb.engines.frozen import grad_of, track
from optimcb.engines.one_pass import Addresses, OnePass
from optimcb.tracing.bucket import Bucket, Changed, fit, is_plain, key_of, sharing

__all__ = ['Plan']


data_ptr, numel, stride, is_neg = Tensor.data_ptr, Tensor.numel, Tensor.stride, Tensor.is_neg
dtype_of, requires_grad = Tensor.dtype.__get__, Tensor.requires_grad.__get__

# States in arenas whose addresses are checked in one step, in turn: one may have been given other memory
IN_TURN = 64
MISSES = 3 # looks in a row that found a change where Python found none, until Python does without them
SEEN = frozenset({'shape', 'ndim', 'stride()', 'requires_grad', 'dtype', 'device'}) # what a look compares


class Plan:
    """The parameters that have a gradient, in buckets, and the addresses of their memory.

    `buckets` are traced, `eager` lists what is left to the eager engine: parameter, state and index of the
    group. `flat` has the parameters of all buckets, one after the other; `grads` and `grad_ptrs` have the
    gradients of the present step and their addresses. `launches` are known for this plan, by their
    programs. `shardings` tells how parameters are sharded. `one_pass` looks at all of it in C, from the
    third step on; None where it can't. If kernels `zero` the gradients, those were found
    `apart` from all other memory, at their addresses."""
    zeroes, apart = False, (None, False)

    def __init__(self,
        opt, # Optimizer
        composition, # Its composition
        refusals # What is left to the eager engine, and what steppers look at
    ):
        self.composition, self.refusals, self.states, self.launches = composition, refusals, opt.state, {}
        self.params = [p for g in opt.param_groups for p in g['params']]
        track(self.params, opt.tracked)
        grads = [getattr(p, 'grad', None) for p in self.params]
        self.missing = list(map(is_, grads, repeat(None)))
        self.tensors = [p for p in self.params if isinstance(p, Tensor)]
        self.require_grad = list(map(requires_grad, self.tensors))
        groups = [i for i, g in enumerate(opt.param_groups) for _ in g['params']]
        work = [(k, p, grad, i) for k, (p, grad, i) in enumerate(zip(self.params, grads, groups))
                if grad_of(p, opt.tracked) is not None]
        self._fill_buckets(work, opt.state)
        # also of what is left to the eager engine: processes must agree
        shardings = [sharding_of(p) for _, p, *_ in work]
        self.shardings = list(dict.fromkeys(filter(None, shardings)))
        self._note(opt, grads)

    def _fill_buckets(self, work, states):
        "Put parameters into buckets; leave those to the eager engine that kernels can't step"
        fits = {k: fit(p, grad, states[p]) for k, p, grad, _ in work}
        shared = _sharing_memory(work, states, fits)
        known, self.eager, self.maybe = {}, [], [] # `maybe` are those that may fit another time
        for k, p, grad, i in work:
            can = None if k in shared else fits[k]
            key = can and key_of(i, can, p, grad.dtype, self.refusals)
            if can and not self.refusals.why(key):
                known.setdefault(key, Bucket(key, i, p)).add(k, p, states[p])
                continue
            self.eager.append((p, states[p], i))
            if not can and k not in shared and isinstance(p, Tensor): self.maybe.append(self.eager[-1])
        self.buckets = list(known.values())

    def _note(self, opt, grads):
        "Note everything that must not change"
        for b in self.buckets: b.note()
        self.values = list(opt.state.values())
        self.flat = [p for b in self.buckets for p in b.params]
        names = [(b, name) for b in self.buckets for name, _, extent in b.kinds if not extent.is_opaque]
        states = [t for b, name in names for t in b.tensors[name]]
        self.arenas, self.others = _arenas(states)
        self.fixed = self.flat + self.others
        self.fixed_ptrs, self.sizes = list(map(data_ptr, self.fixed)), list(map(numel, self.flat))
        there = {id(t) for t in self.others}
        self.inside = [t for t in states if id(t) not in there]
        parts = [self.inside[i:i+IN_TURN] for i in range(0, len(self.inside), IN_TURN)]
        self.turns = cycle([(part, list(map(data_ptr, part))) for part in parts] or [([], [])])
        self.strides = list(map(stride, self.flat))
        self.many = [i for i, p in enumerate(self.flat) if p.dim() > 1]
        self.many_params = [self.flat[i] for i in self.many]
        self.many_strides = [self.strides[i] for i in self.many]
        self.order = [k for b in self.buckets for k in b.places]
        self.in_order = self.order == list(range(len(self.params)))
        self.dtypes = [b.grad_dtype for b in self.buckets for _ in b.params]
        self.grad_ids, self.grad_ptrs, self.odd = None, None, []
        self.one_pass, self.misses, self.has_moved = None, 0, False
        self.must_take = True # the addresses of gradients from the next look, though it finds none moved
        opaque = any(k.extent.is_opaque for b in self.buckets for k in b.kinds)
        are_tensors = len(self.tensors) == len(self.params)
        self.looks = bool(self.buckets) and are_tensors and not self.shardings and not opaque
        self._take(grads)

    # One look

    def is_unchanged(self,
        opt, # Optimizer
        composition # Its composition
    ) -> bool:
        """Tell by one look that all but the gradients is as it was, and note those.

        False means that this can't be told so, and that Python must look, by `refresh`."""
        if self.one_pass is None or composition is not self.composition or opt.state is not self.states:
            return False
        must_take, self.must_take = self.must_take, True # until all is noted: an interrupt may break it off
        try: ptrs = self.one_pass.look(opt.param_groups, self.states)
        except Changed:
            self.one_pass, self.misses = None, self.misses + 1
            return False
        self.has_moved = self._rest_has_changed()
        if self.has_moved: return False
        if ptrs is None and must_take: ptrs = self.one_pass.grad_ptrs
        if ptrs is not None: self.grad_ptrs = ptrs
        self.misses, self.grad_ids, self.must_take, self._grads = 0, None, False, None
        return True

    def put(self, states, name, value):
        "Put one value into many states."
        if self.one_pass: self.one_pass.put(states, name, value)
        else:
            for s in states: s[name] = value

    def _rest_has_changed(self) -> bool:
        "Has what a look at the parameters doesn't see changed?"
        if any(arena.storages != n for arena, n in self.arenas): return True
        others, inside = self.addresses
        if others and others.have_moved(self.one_pass): return True
        if inside and inside.have_moved(self.one_pass, next(self.firsts), IN_TURN): return True
        return not self.refusals.looked <= SEEN and self._look_differs() or self._fits_now()

    def _begin_to_look(self):
        "Note for the next steps what a look compares, if that is possible"
        if not self.looks or self.odd or self.misses >= MISSES: return
        try: one_pass = OnePass(self)
        except CantBuild:
            self.looks = False
            return
        self.addresses = [Addresses(ts) if ts else None for ts in (self.others, self.inside)]
        self.firsts = cycle(range(0, max(1, len(self.inside)), IN_TURN))
        self.one_pass = one_pass # when all of it is there

    def _fits_now(self) -> bool:
        "Can kernels step a parameter that was left to the eager engine, since its gradient is dense, say?"
        return any(fit(p, p.grad, state) for p, state, _ in self.maybe)

    # Python's passes

    def refresh(self,
        opt, # Optimizer
        composition # Its composition
    ):
        "Check that nothing has changed except gradients, which may be new tensors. Raises `Changed`."
        if self.has_moved: raise Changed # a look has found that; the passes look at some of it in turn
        if composition is not self.composition or opt.state is not self.states: raise Changed
        params = [p for g in opt.param_groups for p in g['params']]
        if len(params) != len(self.params) or not all(map(is_, params, self.params)): raise Changed
        values = opt.state.values()
        if len(values) != len(self.values) or not all(map(is_, values, self.values)): raise Changed
        grads = [getattr(p, 'grad', None) for p in params] if self.eager else [p.grad for p in params]
        if list(map(is_, grads, repeat(None))) != self.missing or self.refrozen(): raise Changed
        for b in self.buckets: b.check()
        if any(arena.storages != n for arena, n in self.arenas): raise Changed
        part, ptrs = next(self.turns)
        if list(map(data_ptr, part)) != ptrs or list(map(numel, self.flat)) != self.sizes: raise Changed
        if self.refusals.looked and self._look_differs(): raise Changed
        if list(map(data_ptr, self.fixed)) != self.fixed_ptrs: raise Changed
        if list(map(stride, self.many_params)) != self.many_strides: raise Changed
        if self._fits_now(): raise Changed
        self._take(grads)
        self._begin_to_look()

    def _look_differs(self) -> bool:
        "Has an attribute that steppers read changed?"
        look = self.refusals.look
        return any(look(p) != b.key[-1] for b in self.buckets for p in b.params)

    def refrozen(self) -> bool:
        "Has a parameter been frozen or unfrozen?"
        return list(map(requires_grad, self.tensors)) != self.require_grad

    def _take(self, grads):
        "Note this step's gradients and their addresses. New tensors must be like the old ones"
        if not self.in_order: grads = [grads[k] for k in self.order]
        try: ptrs, ids = list(map(data_ptr, grads)), list(map(id, grads))
        except RuntimeError: raise Changed from None # a gradient without storage: it is sparse now
        unmoved = isinstance(self.grad_ptrs, list) and ptrs == self.grad_ptrs # a look notes an array
        same = ids == self.grad_ids and unmoved and not self.odd
        if not same or [grads[i].stride() for i in self.many] != self.many_strides:
            strides = list(map(stride, grads))
            if list(map(dtype_of, grads)) != self.dtypes or any(map(is_neg, grads)): raise Changed
            if set(map(type, grads)) != {Tensor} and not all(map(is_plain, grads)): raise Changed
            self.odd = []
            if strides != self.strides:
                self.odd = [i for i, (s, t) in enumerate(zip(strides, self.strides)) if s != t]
            if any(grads[i].shape != self.flat[i].shape for i in self.odd): raise Changed
        for i in self.odd: # as its parameter lies in memory
            p = self.flat[i]
            copy = torch.empty_strided(p.shape, p.stride(), dtype=grads[i].dtype, device=p.device)
            grads[i] = copy.copy_(grads[i])
            ptrs[i] = grads[i].data_ptr()
        self._grads, self.grad_ids, self.must_take = grads, ids, True
        # else it stays the same list, which tells that nothing moved
        if not unmoved or self.odd: self.grad_ptrs = ptrs

    @property
    def grads(self) -> list:
        "The gradients of the present step, laid out as their parameters, in the order of `flat`."
        if self._grads is None: self._grads = [p.grad for p in self.flat]
        return self._grads

    def release(self):
        "Drop the references to gradients, so that they can be freed."
        self._grads = None


def _sharing_memory(work, states, fits) -> set:
    "Return the places of parameters that share memory, or whose state does, with others"
    tensors = []
    for k, p, *_ in work:
        found = (p, *states[p].values()) if fits[k] else (p,)
        tensors += [(k, t) for t in found if isinstance(t, Tensor) and (fits[k] or is_plain(t))]
    return sharing(tensors)


def _arenas(states) -> tuple[list, list]:
    "Return the arenas whose storages are all among `states`, with their counts; and the other states"
    arenas = sorted(Arena.all(), key=lambda arena: arena.span.start)
    starts, inside, where = [arena.span.start for arena in arenas], [set() for _ in arenas], []
    for t in states:
        ptr = t.data_ptr()
        i = bisect(starts, ptr) - 1
        where.append(i if i >= 0 and ptr in arenas[i].span else None)
        if where[-1] is not None: inside[i].add(id(t))
    whole = {i for i, found in enumerate(inside) if found and len(found) == arenas[i].storages}
    found = [(arenas[i], len(inside[i])) for i in sorted(whole)]
    return found, [t for t, i in zip(states, where) if i not in whole]
