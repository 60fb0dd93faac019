"""Plans: group an optimizer's parameters into buckets, choose those that have a gradient in each step, and
check that nothing else has changed.

Parameters share a bucket if one recording is valid for all of them: those of one group, dtype and device,
with the same kinds of state and the same numbers in it. Whatever a kernel must not touch is left to the
eager engine. A plan also knows parameters that have no gradient now: if other ones have a gradient in the
next step, it only chooses anew. The checks of each step are one pass in C (`one_pass`), or else a few passes
over lists."""
from operator import is_

import numpy as np
import torch
from torch import Tensor

from optimcb._compat.dtensors import sharding_of
from optimcb.engines.addresses import Memory
from optimcb.engines.c_compiler import CantBuild
from optimcb.engines.frozen import is_frozen, track
from optimcb.engines.one_pass import OTHERS, SAME, OnePass
from optimcb.tracing.bucket import Bucket, Changed, Noted, fit, is_plain, key_of, sharing

__all__ = ['LEFT', 'STEPPED', 'UNKNOWN', 'Plan']


dtype_of, requires_grad = Tensor.dtype.__get__, Tensor.requires_grad.__get__

# The role of a parameter. UNKNOWN: if its gradient comes or goes, another plan is made. With a gradient, the
# eager engine steps one that is LEFT, and kernels one that is STEPPED.
UNKNOWN, LEFT, STEPPED = range(3)
MISSES = 3 # looks in a row that found a change where Python found none, until Python does without them
SEEN = frozenset({'shape', 'ndim', 'stride()', 'requires_grad', 'dtype', 'device'}) # what a look compares


class Plan:
    """The parameters of an optimizer, as its steps need them.

    What is known of each parameter is kept by its place among `params`: its `roles` and `states`, the
    tensors of these in `noted`, and in `memory` where they lie. `known` are the buckets of all parameters
    that kernels can step, and `bucket_of` has the indices of theirs.

    Of those that have a gradient in the present step, `buckets` are traced, `order` has their places and
    `flat` them, one bucket after the other; `grads` and `grad_ptrs` have their gradients and the addresses of
    these. `eager` lists what is left to the eager engine: parameter, state and index of the group.
    `launches` are known for this choice, by their programs. `shardings` tells how parameters are sharded.

    `one_pass` looks at all of it in C, from the third step on; None where it can't. If kernels `zero` the
    gradients, those were found `apart` from all other memory, at their addresses."""
    zeroes, apart = False, (None, False)

    def __init__(self,
        opt, # Optimizer
        composition, # Its composition
        refusals # What is left to the eager engine, and what steppers look at
    ):
        self.composition, self.refusals, self.all_states = composition, refusals, opt.state
        self.params = [p for g in opt.param_groups for p in g['params']]
        track(self.params, opt.tracked)
        self.are_tensors = [p for p in self.params if isinstance(p, Tensor)]
        self.require_grad = list(map(requires_grad, self.are_tensors))
        grads = [getattr(p, 'grad', None) for p in self.params]
        shardings = [sharding_of(p) for p, g in zip(self.params, grads) if g is not None] # eager ones, too
        self.shardings = list(dict.fromkeys(filter(None, shardings)))
        self._fill_buckets(list(self._work(opt, grads)))
        self._note_tensors()
        self.one_pass, self.misses, self.has_moved = None, 0, False
        self._choose(np.array([g is not None for g in grads], bool))
        self._take(grads)

    # Who can be stepped

    def _work(self, opt, grads):
        """Yield place, parameter, gradient, state and group of each parameter that can be stepped now, or
        when it gets a gradient"""
        groups = [i for i, g in enumerate(opt.param_groups) for _ in g['params']]
        masks = self.composition.masks.keys()
        for k, (p, grad, i) in enumerate(zip(self.params, grads, groups)):
            if is_frozen(p, opt.tracked): continue
            may_get_one = getattr(p, 'requires_grad', False) and not self.shardings # processes must agree
            if grad is not None: yield k, p, grad, self.all_states[p], i
            elif may_get_one and p in self.all_states and self.all_states[p].keys() >= masks:
                yield k, p, None, self.all_states[p], i

    def _fill_buckets(self, work):
        "Put parameters into buckets; leave those to the eager engine that kernels can't step"
        fits = {k: fit(p, grad, state) for k, p, grad, state, _ in work}
        shared = _sharing_memory(work, fits)
        if shared: # those without a gradient are in nobody's way
            work = [o for o in work if o[2] is not None or o[0] not in shared]
            shared = _sharing_memory(work, fits)
        n, indices, kinds = len(self.params), {}, {}
        self.roles, self.states, self.known = np.zeros(n, np.int64), [None]*n, []
        self.bucket_of, self.left = np.full(n, -1), {}
        self.maybe = set() # of those that are left, the places of those that may fit another time
        for k, p, grad, state, i in work:
            can = None if k in shared else fits[k]
            key = can and key_of(i, can, p, p.dtype if grad is None else grad.dtype, self.refusals)
            if can and not self.refusals.why(key):
                if key not in indices:
                    indices[key] = len(self.known)
                    self.known.append(bucket := Bucket(key, i, p))
                    bucket.kind = kinds.setdefault(bucket.kind, bucket.kind)
                self.roles[k], self.states[k], self.bucket_of[k] = STEPPED, state, indices[key]
            elif grad is not None:
                self.roles[k], self.left[k] = UNKNOWN if k in shared else LEFT, (p, state, i)
                if not can and k not in shared and isinstance(p, Tensor): self.maybe.add(k)

    def _note_tensors(self):
        "Note, of parameters that kernels can step, all that must not change"
        n = len(self.params)
        self.places = np.flatnonzero(self.roles == STEPPED)
        self.stepped = [self.params[k] for k in self.places.tolist()]
        self.layouts = list(map(_layout, self.stepped))
        self.values = list(self.all_states.values())
        tensors, in_memory = {}, {'.p': list(zip(self.places.tolist(), self.stepped))}
        for k in self.places.tolist():
            for name, _, extent in self.known[self.bucket_of[k]].kinds:
                t = self.states[k][name]
                if name not in tensors: tensors[name] = [None]*n
                tensors[name][k] = t
                if not extent.is_opaque: in_memory.setdefault(name, []).append((k, t))
        self.noted, self.memory = Noted(self.params, self.states, tensors), Memory(n, in_memory)

    # Who is stepped now

    def _choose(self, present):
        """Let the present step be one of the parameters that are `present`, since they have a gradient.

        Those that stay behind keep their numbers: a bucket whose parameters aren't all present is split, and
        buckets that have come to the same numbers are joined."""
        self.present = None # until all is noted: an interrupt may break it off
        first_of = {}
        joined = np.array([first_of.setdefault(b.identity(), i) for i, b in enumerate(self.known)], np.int64)
        codes = 2*joined[self.bucket_of[self.places]] + present[self.places]
        codes, firsts, bucket_of = np.unique(codes, return_index=True, return_inverse=True)
        known, are_present = [self.known[i] for i in codes >> 1], codes & 1
        for i in np.flatnonzero(np.diff(codes >> 1) == 0): known[i] = known[i].split_off()
        by_bucket, end = self.places[np.argsort(bucket_of, kind='stable')].tolist(), 0
        for b, is_present, n in zip(known, are_present, np.bincount(bucket_of).tolist()):
            if is_present: b.choose(by_bucket[end:end+n], self.noted)
            elif b.places: b.choose([], self.noted)
            end += n
        self.known, self.bucket_of[self.places] = known, bucket_of
        self.buckets = [known[i] for i in np.argsort(firsts) if are_present[i]]
        self.order = np.array([k for b in self.buckets for k in b.places], np.int64)
        self.flat = [self.params[k] for b in self.buckets for k in b.places]
        self.eager = [o for k, o in self.left.items() if present[k]]
        self.may_fit = [self.left[k] for k in self.maybe if present[k]]
        self.launches, self._grads, self.grad_ptrs, self.odd = {}, None, None, []
        self.must_take, self.apart = True, (None, False)
        if self.one_pass: self.one_pass.note_buckets(self)
        self.present = present

    # One look

    def is_unchanged(self,
        opt, # Optimizer
        composition # Its composition
    ) -> bool:
        """Tell by one look that all but the gradients is as it was, and note those.

        False means that this can't be told so, and that Python must look, by `refresh`."""
        if self.one_pass is None or not self._is_of(opt, composition): return False
        must_take, self.must_take = self.must_take, True # until all is noted: an interrupt may break it off
        try: found = self.one_pass.look(opt.param_groups, self.all_states, self.known)
        except Changed:
            self.one_pass, self.misses = None, self.misses + 1
            return False
        if found == OTHERS or must_take: self._choose_again(self.one_pass.present)
        self.has_moved = self._rest_has_changed()
        if self.has_moved: return False
        if found != SAME or must_take: self.grad_ptrs = self.one_pass.ordered_grad_ptrs
        self.misses, self.must_take, self._grads = 0, False, None
        return True

    def _is_of(self, opt, composition) -> bool:
        "Is it a plan of this composition and the optimizer's dict of states, and wholly noted?"
        return composition is self.composition and opt.state is self.all_states and self.present is not None

    def put(self,
        numbers:list # For each bucket, a part of its parameters' state, by name
    ):
        "Put numbers that a step has made into the states."
        if self.one_pass: return self.one_pass.put(numbers)
        for b, new in zip(self.buckets, numbers):
            for s in b.states if new else (): s.update(new)

    def bump_versions(self,
        stepped:list # What the optimizer has in the place of `flat`
    ):
        "Tell autograd that parameters were written into."
        if self.one_pass: self.one_pass.bump_versions()
        else: torch.autograd.graph.increment_version(stepped)

    def _rest_has_changed(self) -> bool:
        "Has what a look at the parameters doesn't see changed?"
        if self.memory.state_has_moved(self.one_pass): return True
        return not self.refusals.looked <= SEEN and self._look_differs() or self._fits_now()

    def _begin_to_look(self):
        "Note for the next steps what a look compares, if that is possible"
        opaque = any(k.extent.is_opaque for b in self.known for k in b.kinds)
        are_tensors = len(self.are_tensors) == len(self.params)
        if not self.stepped or not are_tensors or self.shardings or opaque: return
        if self.odd or self.misses >= MISSES: return
        try: self.one_pass = OnePass(self)
        except CantBuild: self.misses = MISSES

    def _fits_now(self) -> bool:
        "Can kernels step a parameter that was left to the eager engine, since its gradient is dense, say?"
        return any(fit(p, p.grad, state) for p, state, _ in self.may_fit)

    # Python's passes

    def refresh(self,
        opt, # Optimizer
        composition # Its composition
    ):
        "Check that nothing has changed except gradients, which may be others. Raises `Changed`."
        if self.has_moved or not self._is_of(opt, composition): raise Changed # a look has seen something move
        params = [p for g in opt.param_groups for p in g['params']]
        if len(params) != len(self.params) or not all(map(is_, params, self.params)): raise Changed
        values = opt.state.values()
        if len(values) != len(self.values) or not all(map(is_, values, self.values)): raise Changed
        if self.refrozen() or list(map(_layout, self.stepped)) != self.layouts: raise Changed
        grads = [getattr(p, 'grad', None) for p in params]
        self._choose_again(np.array([g is not None for g in grads], bool))
        for b in self.buckets: b.check()
        if self.memory.state_has_moved() or self._fits_now(): raise Changed
        if self.refusals.looked and self._look_differs(): raise Changed
        self._take(grads)
        self._begin_to_look()

    def _choose_again(self, present):
        "Choose, if others are present than before. Raises `Changed` if one isn't known"
        differs = present != self.present
        if not differs.any(): return
        if self.shardings or (self.roles[differs] == UNKNOWN).any(): raise Changed
        self._choose(present)

    def _look_differs(self) -> bool:
        "Has an attribute that steppers read changed?"
        look = self.refusals.look
        return any(look(p) != b.key[-1] for b in self.buckets for p in b.params)

    def refrozen(self) -> bool:
        "Has a parameter been frozen or unfrozen?"
        return list(map(requires_grad, self.are_tensors)) != self.require_grad

    def _take(self, grads):
        "Note this step's gradients and their addresses. Raises `Changed` if one is of another kind"
        grads = [grads[k] for k in self.order]
        if not all(map(is_plain, grads)): raise Changed
        if list(map(dtype_of, grads)) != [b.grad_dtype for b in self.buckets for _ in b.places]:
            raise Changed
        if any(g.shape != p.shape for g, p in zip(grads, self.flat)): raise Changed
        self.odd = [i for i, (g, p) in enumerate(zip(grads, self.flat)) if g.stride() != p.stride()]
        for i in self.odd: # as its parameter lies in memory
            p = self.flat[i]
            copy = torch.empty_strided(p.shape, p.stride(), dtype=grads[i].dtype, device=p.device)
            grads[i] = copy.copy_(grads[i])
        ptrs = np.array(list(map(Tensor.data_ptr, grads)), np.int64)
        self._grads, self.must_take = grads, True
        # else it stays the same array, which tells that nothing moved
        if self.odd or not np.array_equal(ptrs, self.grad_ptrs): self.grad_ptrs = ptrs

    @property
    def grads(self) -> list:
        "The gradients of the present step, laid out as their parameters, in the order of `flat`."
        if self._grads is None: self._grads = [p.grad for p in self.flat]
        return self._grads

    def release(self):
        "Drop the references to gradients, so that they can be freed."
        self._grads = None


def _sharing_memory(work, fits) -> set:
    "Return the places of parameters that share memory, or whose state does, with others"
    tensors = []
    for k, p, _, state, _ in work:
        found = (p, *state.values()) if fits[k] else (p,)
        tensors += [(k, t) for t in found if isinstance(t, Tensor) and (fits[k] or is_plain(t))]
    return sharing(tensors)


def _layout(p) -> tuple: return p.data_ptr(), p.shape, p.stride(), p.is_neg()
