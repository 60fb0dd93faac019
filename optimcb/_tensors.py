"Sharded parameters: the shard of a DTensor, its sharding, and the tensor gathered from all processes."
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ['Sharding', 'gather', 'gather_numbers', 'is_dtensor', 'local', 'on_all', 'on_gathered', 'shard_of',
           'sharding_of', 'unsharded']


class Sharding(NamedTuple):
    "Placement of a DTensor on the processes of a mesh."
    mesh: Any
    placements: tuple

    def reduce(self,
        table:Tensor, # Rows are tensors, columns are reductions; takes the results of all processes
        ops:list # Names of the reductions in `torch.distributed.ReduceOp`
    ):
        "Reduce over the processes that have other shards."
        for i, placement in enumerate(self.placements):
            if placement.is_replicate(): continue # `is_shard` doesn't know of shards of shards
            for op in dict.fromkeys(ops):
                columns = [j for j, o in enumerate(ops) if o == op]
                part = table[:, columns].contiguous()
                dist.all_reduce(part, getattr(dist.ReduceOp, op), group=self.mesh.get_group(i))
                table[:, columns] = part


def is_dtensor(
    x # Anything
) -> bool:
    "Is it a DTensor? Asking doesn't load `torch.distributed.tensor`, which takes its time."
    return hasattr(type(x), 'full_tensor')


def shard_of(
    p # A parameter
):
    """Return the shard of a DTensor in this process, with its gradient, and in the same memory; another
    parameter itself."""
    if not is_dtensor(p) or any(o.is_partial() for o in p.placements): return p
    q, g = p._local_tensor.detach(), p.grad
    q._unsharded = p
    if is_dtensor(g) and g.placements != p.placements: g = g.redistribute(p.device_mesh, p.placements)
    q.grad = local(g)
    return q


def local(
    x # Anything
):
    "Return the local tensor of a DTensor; anything else itself."
    return x._local_tensor if is_dtensor(x) else x


def unsharded(
    p:Tensor # A parameter, as an engine sees it
) -> Tensor:
    "Return the parameter that `p` is a shard of, or `p` if it is none."
    return getattr(p, '_unsharded', p)


def sharding_of(
    p:Tensor # A parameter, as an engine sees it
) -> Sharding|None:
    "Return the sharding of the parameter that `p` is a shard of; None if it is none."
    p = getattr(p, '_unsharded', None)
    return None if p is None else Sharding(p.device_mesh, p.placements)


def gather(
    x # A tensor, perhaps a DTensor
):
    "Return a DTensor as a tensor, gathered from all processes; anything else itself."
    return x.full_tensor() if is_dtensor(x) else x


def gather_numbers(
    found:list # Tensors of one number, perhaps DTensors, numbers, and None
) -> Tensor:
    """Return numbers as one tensor in float32, on the device of the first tensor; NaN for None.

    DTensors are gathered now, for what reads the result later may be one process."""
    found = [gather(x) for x in found]
    first = next((x for x in found if isinstance(x, Tensor)), None)
    if first is None: return torch.tensor([torch.nan if x is None else float(x) for x in found])
    nan = torch.full((), torch.nan, device=first.device)
    def on_device(x):
        if x is None: return nan
        return x.to(first.device, torch.float32) if isinstance(x, Tensor) else nan + x
    return torch.stack([on_device(x) for x in found])


def on_all(
    total:Tensor, # The same number in all processes
    x # A tensor that it is used with
) -> Tensor:
    "Return `total` as a DTensor on the processes of `x`, if that is one."
    if not is_dtensor(x): return total
    from torch.distributed.tensor import DTensor, Replicate
    return DTensor.from_local(total, x.device_mesh, [Replicate()]*x.device_mesh.ndim, run_check=False)


def on_gathered(
    f, # A function of tensors and numbers that returns a tensor, or a tuple of them
    args:tuple, # Its arguments, some of them DTensors with the same sharding
    kwargs:dict # Arguments by name
):
    """Call `f` with gathered tensors, in each process.

    A result with the shape of a DTensor is sharded as it is, one number is replicated, others are plain
    tensors."""
    like = next((o for o in (*args, *kwargs.values()) if is_dtensor(o) and o.dim()), None)
    res = f(*map(gather, args), **{k: gather(v) for k, v in kwargs.items()})
    if like is None or not isinstance(res, (Tensor, tuple)): return res
    return _sharded_as(like, res) if isinstance(res, Tensor) else tuple(_sharded_as(like, x) for x in res)


def _sharded_as(like, x):
    "Return `x`, which all processes have, as a DTensor, where it goes with `like`"
    if x.dim() and x.shape != like.shape: return x
    from torch.distributed.tensor import DTensor, Replicate
    replicated = DTensor.from_local(x, like.device_mesh, [Replicate()]*like.device_mesh.ndim, run_check=False)
    return replicated.redistribute(like.device_mesh, like.placements) if x.dim() else replicated
