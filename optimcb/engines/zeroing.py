"""Zero gradients: by list calls, or in the step that reads them.

With `zero_in_step`, kernels store zeros into a gradient in the pass that reads it last, and a list call after
the step zeroes the others. These gradients and their versions are noted, so that the following `zero_grad()`
skips them. If it isn't certain that one is zero, it isn't noted: zeroing it again is always correct."""
import weakref
from operator import is_

import torch
from torch import Tensor

from optimcb.engines.frozen import grad_of
from optimcb.tracing.bucket import is_dense, sharing

__all__ = ['Zeroed', 'may_store_zeros', 'zero', 'zero_read', 'zeroed_by_kernels']


requires_grad, version, layout = (getattr(Tensor, k).__get__ for k in ('requires_grad', '_version', 'layout'))
is_cpu, dtype = Tensor.is_cpu.__get__, Tensor.dtype.__get__


def zero(
    grads:list[Tensor] # Gradients of any kind, some perhaps twice
) -> None:
    """Fill gradients with zeros, in place, by one list call for each device and dtype.

    Gradients in a graph are detached from it. Sparse ones and other subclasses are zeroed one by one."""
    for g in grads if any(map(requires_grad, grads)) else ():
        if g.grad_fn is None: g.requires_grad_(False)
        else: g.detach_()
    if not _are_plain(grads):
        plain = [_are_plain([g]) for g in grads]
        for g, is_plain in zip(grads, plain):
            if not is_plain: g.zero_()
        grads = [g for g, is_plain in zip(grads, plain) if is_plain]
    for same in _by_kind(grads): torch._foreach_zero_(same)


def _are_plain(grads) -> bool:
    "Are these plain dense tensors, without a pending negation or conjugation?"
    if {*map(type, grads)} != {Tensor} or {*map(layout, grads)} != {torch.strided}: return False
    return not (any(map(Tensor.is_neg, grads)) or any(map(Tensor.is_conj, grads)))


def _by_kind(grads):
    "Group gradients by device and dtype"
    if all(map(is_cpu, grads)) and len({*map(dtype, grads)}) == 1: return [grads]
    lists = {}
    for g in grads: lists.setdefault((g.device, g.dtype), []).append(g)
    return lists.values()


class Zeroed:
    "Gradients that are zero while they are the same tensors at the same versions. Keeps none alive."
    def __init__(self,
        grads:list[Tensor] # Gradients that have just been zeroed
    ):
        self.refs, self.versions = list(map(weakref.ref, grads)), list(map(version, grads))

    def others(self,
        grads:list[Tensor] # Current gradients
    ) -> list[Tensor]:
        "Return the gradients that somebody may have changed since kernels zeroed them."
        noted = [r() for r in self.refs]
        if len(grads) == len(noted) and all(map(is_, grads, noted)):
            if list(map(version, grads)) == self.versions: return []
        known = dict(zip(map(id, noted), self.versions))
        return [g for g in grads if id(g) not in known or g._version != known[id(g)]]


# In a step

def may_store_zeros(
    plan, # Plan, with the gradients of the current step
    scaling # Scale and skip flag of a GradScaler
) -> bool:
    """May kernels store zeros into the gradients of a plan?

    They may not if the device may skip the step, or if a gradient requires a gradient, is a shard, or shares
    memory with another gradient, a parameter or a state: those are left to `zero_grad`."""
    if scaling.skip_on_device or plan.shardings or any(map(requires_grad, plan.grads)): return False
    ptrs, apart = plan.apart
    if ptrs is not plan.grad_ptrs or plan.odd: # else they haven't moved
        states = [t for b in plan.buckets for ts in b.tensors.values() for t in ts]
        apart = not sharing(list(enumerate([*plan.grads, *plan.flat, *states])))
        plan.apart = plan.grad_ptrs, apart
    return apart


def zeroed_by_kernels(
    plan, # Plan, with the gradients of the last step
    programs:list # The program of each bucket
) -> list[Tensor]:
    "List the gradients that kernels have zeroed. Where they read a copy, they zeroed only that."
    res, first, odd = [], 0, set(plan.odd)
    for b, program in zip(plan.buckets, programs):
        places = range(first, first := first + len(b.places))
        if program.zeroes: res += [plan.grads[i] for i in places if i not in odd]
    return res


def zero_read(
    opt, # Optimizer after a step
    runner # Its runner
) -> Zeroed|None:
    """Zero the gradients that a step has read and kernels haven't zeroed; return all zeroed ones.

    Returns None if the step was or may have been skipped, or was captured by a CUDA graph."""
    by_kernels, runner.zeroed = runner.zeroed, []
    torch.autograd.graph.increment_version(by_kernels)
    if runner.scaling.skip_on_device or runner.scaling.found: return None
    plan = runner.plan
    if plan is not None and plan.zeroes and not plan.eager and len(by_kernels) == len(plan.flat):
        return _noted(by_kernels)
    there = set(map(id, by_kernels))
    read = [g for ps in opt.param_groups for p in ps['params'] if (g := grad_of(p, opt.tracked)) is not None]
    rest = [g for g in read if id(g) not in there and _is_simple(g)]
    zero(rest)
    there.update(map(id, rest))
    return _noted([g for g in read if id(g) in there])


def _noted(grads):
    "Return zeroed gradients, or None if a CUDA graph captures the step"
    if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing(): return None
    return Zeroed(grads)


def _is_simple(g) -> bool:
    "Would `zero_grad` only fill this gradient with zeros, without detaching it?"
    return _are_plain([g]) and not (g.requires_grad or g.is_inference()) and is_dense(g)
