"""Parameters that are spread over processes, as DTensors (`fully_shard`, `distribute_tensor`): engines work on the shards that lie here.

Elements are stepped where they are. What is asked of a whole parameter, its size or a sum over it, is asked of all processes: one collective for
all parameters of a launch, where a pass ends with sums.
"""
import sys
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from optimcb.engine.frozen import track
from optimcb.engine.program import Unsupported

__all__ = ['Shards', 'Spread', 'agreed', 'is_dtensor', 'local', 'on_all', 'on_wholes', 'shard_of', 'spread_of', 'whole', 'whole_of']

ALL = {'sum': 'SUM', 'amax': 'MAX', 'amin': 'MIN'} # what becomes of the processes' sums, by the name of the reduction


class Spread(NamedTuple):
    "How a DTensor lies on the processes."
    mesh: Any
    placements: tuple

    def gather(self,
        table:Tensor, # Of each tensor, what each reduction came to in this process; takes what it comes to in all of them
        ops:list # The names of the reductions
    ):
        "Reduce over the processes that have other parts."
        for i in [i for i, o in enumerate(self.placements) if not o.is_replicate()]: # `is_shard` doesn't know of shards of shards
            for op in dict.fromkeys(ops):
                columns = [j for j, o in enumerate(ops) if o == op]
                part = table[:, columns].contiguous()
                dist.all_reduce(part, getattr(dist.ReduceOp, ALL[op]), group=self.mesh.get_group(i))
                table[:, columns] = part


def agreed(
    failure:Exception|None, # Why this process can't do what all have to do in the same way, if it can't
    spreads:Iterable # How parameters are spread over processes
) -> Exception|None:
    "The failure, if one process has one: else they would wait for each other."
    for spread in spreads:
        failed = torch.tensor(float(failure is not None), device=spread.mesh.device_type)
        for i in range(spread.mesh.ndim): dist.all_reduce(failed, dist.ReduceOp.MAX, group=spread.mesh.get_group(i))
        if failed.item() and not failure: failure = Unsupported("another process can't run its kernel.")
    return failure


def is_dtensor(
    x # Anything
) -> bool:
    "Is it a DTensor? To ask doesn't load what they are made of, which takes its time."
    return hasattr(type(x), 'full_tensor')


def shard_of(
    p # A parameter
):
    "What lies here of a DTensor; another parameter itself. It shares memory with the parameter, and has its gradient."
    if not is_dtensor(p) or any(o.is_partial() for o in p.placements): return p
    q, g = p._local_tensor.detach(), p.grad
    q._whole = p
    if is_dtensor(g) and g.placements != p.placements: g = g.redistribute(p.device_mesh, p.placements)
    q.grad = local(g)
    return q


def local(
    x # Anything
):
    "What lies here of a DTensor; another thing itself."
    return x._local_tensor if is_dtensor(x) else x


def whole(
    p:Tensor # A parameter, as an engine sees it
) -> Tensor:
    "The parameter that it is a shard of, if it is one."
    return getattr(p, '_whole', p)


def spread_of(
    p:Tensor # A parameter, as an engine sees it
) -> Spread|None:
    "How the parameter that it is a shard of is spread over processes, if it is one."
    p = getattr(p, '_whole', None)
    return None if p is None else Spread(p.device_mesh, p.placements)


def whole_of(
    x # A tensor, perhaps a DTensor
):
    "`x`, with what other processes have of it."
    return x.full_tensor() if is_dtensor(x) else x


def on_all(
    total:Tensor, # The same number in all processes
    x # What it goes together with
) -> Tensor:
    "`total` as a DTensor on the processes that `x` is on, if that is one."
    if not is_dtensor(x): return total
    from torch.distributed.tensor import DTensor, Replicate
    return DTensor.from_local(total, x.device_mesh, [Replicate()]*x.device_mesh.ndim, run_check=False)


class Shards:
    "An optimizer as an engine sees it: `param_groups`, with shards in the place of DTensors, their `state`, and those that are `tracked`."
    def __init__(self):
        self.state, self.shards, self.param_groups, self.sharded, self.tracked = defaultdict(dict), {}, [], [], set()

    def open(self,
        opt # Optimizer
    ):
        "The optimizer as it is now; the optimizer itself, if it has no DTensors."
        self.opt, self.sharded = opt, []
        if 'torch.distributed.tensor' not in sys.modules or not any(is_dtensor(p) for g in opt.param_groups for p in g['params']): return opt
        params = [p for g in opt.param_groups for p in g['params']]
        for gone in self.shards.keys() - set(params): self.state.pop(self.shards.pop(gone), None)
        self.param_groups = [{**g, 'params': [self._shard(p) for p in g['params']]} for g in opt.param_groups]
        track(params, opt.tracked)
        self.tracked = {self.shards.get(p, p) for p in opt.tracked}
        return self

    def _shard(self, p):
        "What the engine has in the place of `p`"
        state, new, q = self.opt.state[p], shard_of(p), self.shards.get(p)
        if new is p or not all(self._fits(v, p) for v in state.values()): # then it is left to the eager engine, in all processes
            if self.state.get(p) is not state: self.state[p] = state
            return p
        if q is None or q.data_ptr() != new.data_ptr() or q.shape != new.shape: # else the one that is known goes on
            self.state.pop(q, None)
            q = self.shards[p] = new
        q.grad = new.grad
        q.requires_grad_(p.requires_grad)
        mine = {k: local(v) for k, v in state.items()}
        known = self.state[q]
        if known.keys() != mine.keys() or any(known[k] is not v for k, v in mine.items()):
            known.clear()
            known.update(mine)
        self.sharded.append((p, q))
        return q

    def _fits(self, v, p) -> bool:
        "Is this state one that lies as the parameter, or one number in all processes?"
        if not isinstance(v, Tensor): return True
        if not is_dtensor(v): return v.dim() == 0
        return v.dim() == 0 and all(o.is_replicate() for o in v.placements) or v.shape == p.shape and v.placements == p.placements

    def of_optimizer(self,
        shards:list # Parameters, as the engine sees them
    ) -> list[dict]:
        "Their states in the optimizer, where these are others. Nothing waits for a GPU."
        states = self.opt.__dict__['state'] if self.sharded else {}
        return [states[q._whole] for q in shards if hasattr(q, '_whole')] if states else []

    def close(self,
        stepped:list # Parameters that kernels have stepped; of others, the eager engine has the state
    ):
        "Give the DTensors their new state, and forget the gradients. Nothing waits for a GPU."
        states, stepped = self.opt.__dict__['state'], set(map(id, stepped))
        for p, q in self.sharded:
            q.grad, state = None, states[p]
            for k, v in self.state[q].items() if id(q) in stepped else ():
                old = state.get(k)
                if not isinstance(v, Tensor): state[k] = v
                elif not is_dtensor(old) or old._local_tensor is not v:
                    if v.shape == q.shape: new = type(p.data).from_local(v, p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride())
                    else: new = on_all(v, p)
                    state[k] = new


def on_wholes(
    f, # A function of tensors and numbers that returns a tensor, or a tuple of them
    args:tuple, # What it is handed: some DTensors, alike
    kwargs:dict # And by name
):
    "What `f` makes of whole tensors, in each process. A result with the shape of a DTensor is spread like it, one number is there for all, others are plain."
    like = next((o for o in (*args, *kwargs.values()) if is_dtensor(o) and o.dim()), None)
    res = f(*map(whole_of, args), **{k: whole_of(v) for k, v in kwargs.items()})
    if like is None or not isinstance(res, (Tensor, tuple)): return res
    return _spread_as(like, res) if isinstance(res, Tensor) else tuple(_spread_as(like, x) for x in res)


def _spread_as(like, x):
    "`x`, which all processes have, as a DTensor, where it goes with `like`"
    if x.dim() and x.shape != like.shape: return x
    from torch.distributed.tensor import DTensor, Replicate
    spread = DTensor.from_local(x, like.device_mesh, [Replicate()]*like.device_mesh.ndim, run_check=False)
    return spread.redistribute(like.device_mesh, like.placements) if x.dim() else spread
