"Questions about DTensors: what lies here, what the whole is, and how it is sharded."
from typing import Any, NamedTuple

import torch.distributed as dist
from torch import Tensor

__all__ = ['Spread', 'is_dtensor', 'local', 'on_all', 'on_wholes', 'shard_of', 'spread_of', 'whole',
           'whole_of']


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
