"Sharded parameters: the shard of a DTensor, its sharding, and the tensor gathered from all processes."
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ['Sharding', 'columns_of', 'gather', 'gather_numbers', 'is_dtensor', 'local', 'on_all',
           'on_gathered', 'put_columns', 'shard_of', 'sharding_of', 'unsharded']


class Sharding(NamedTuple):
    "The placement of a DTensor on the processes of a mesh."
    mesh: Any
    placements: tuple

    def reduce(self,
        table:Tensor, # Rows are tensors, columns are reductions; takes the results of all processes
        ops:list # Names of the reductions in `torch.distributed.ReduceOp`
    ):
        "Reduce over the processes that hold other shards. Doesn't wait for a GPU."
        for i, placement in enumerate(self.placements):
            if placement.is_replicate(): continue # not `is_shard`, which misses shards of shards
            for op in dict.fromkeys(ops):
                columns = [j for j, o in enumerate(ops) if o == op]
                part = columns_of(table, columns)
                dist.all_reduce(part, getattr(dist.ReduceOp, op), group=self.mesh.get_group(i))
                put_columns(table, columns, part)


def columns_of(
    table:Tensor, # Two dimensions
    columns:list[int] # Indices of some columns
) -> Tensor:
    "Copy some columns. An index that is a list would be sent to a GPU, and waited for."
    return torch.stack([table[:, j] for j in columns], 1)


def put_columns(
    table:Tensor, # Two dimensions
    columns:list[int], # Indices of some columns
    part:Tensor # Takes their place
):
    "Put back what `columns_of` has copied."
    for j, x in zip(columns, part.unbind(1)): table[:, j] = x


def is_dtensor(
    x # Anything
) -> bool:
    "Is it a DTensor? Avoids loading `torch.distributed.tensor`, which is slow."
    return hasattr(type(x), 'full_tensor')


def shard_of(
    p # A parameter
):
    """Return this process's shard of a DTensor, with its gradient, sharing memory.

    Any other parameter is returned itself."""
    if not is_dtensor(p) or any(o.is_partial() for o in p.placements): return p
    q, g = p._local_tensor.detach(), p.grad
    q._unsharded = p
    if is_dtensor(g) and g.placements != p.placements: g = g.redistribute(p.device_mesh, p.placements)
    q.grad = local(g)
    return q


def local(
    x # Anything
):
    "Return the local tensor of a DTensor, or anything else unchanged."
    return x._local_tensor if is_dtensor(x) else x


def unsharded(
    p:Tensor # A parameter, as an engine sees it
) -> Tensor:
    "Return the parameter that `p` is a shard of, or `p` if it isn't a shard."
    return getattr(p, '_unsharded', p)


def sharding_of(
    p:Tensor # A parameter, as an engine sees it
) -> Sharding|None:
    "Return the sharding of the parameter that `p` is a shard of, or None if it isn't a shard."
    p = getattr(p, '_unsharded', None)
    return None if p is None else Sharding(p.device_mesh, p.placements)


def gather(
    x # A tensor, perhaps a DTensor
):
    "Gather a DTensor from all processes into a plain tensor; return anything else unchanged."
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
    x # A tensor to combine it with
) -> Tensor:
    "Return `total` as a DTensor on the processes of `x`, if `x` is a DTensor."
    if not is_dtensor(x): return total
    from torch.distributed.tensor import DTensor, Replicate
    return DTensor.from_local(total, x.device_mesh, [Replicate()]*x.device_mesh.ndim, run_check=False)


def on_gathered(
    f, # A function of tensors and numbers that returns a tensor, or a tuple of them
    args:tuple, # Its arguments, some of them DTensors with the same sharding
    kwargs:dict # Arguments by name
):
    """Call `f` with gathered tensors, in each process.

    A result with the shape of a DTensor argument is sharded like it, a single number is replicated, and
    other results are plain tensors."""
    like = next((o for o in (*args, *kwargs.values()) if is_dtensor(o) and o.dim()), None)
    res = f(*map(gather, args), **{k: gather(v) for k, v in kwargs.items()})
    if like is None or not isinstance(res, (Tensor, tuple)): return res
    return _sharded_as(like, res) if isinstance(res, Tensor) else tuple(_sharded_as(like, x) for x in res)


def _sharded_as(like, x):
    "Return `x`, which every process holds in full, as a DTensor if its shape fits `like`"
    if x.dim() and x.shape != like.shape: return x
    from torch.distributed.tensor import DTensor, Replicate
    replicated = DTensor.from_local(x, like.device_mesh, [Replicate()]*like.device_mesh.ndim, run_check=False)
    return replicated.redistribute(like.device_mesh, like.placements) if x.dim() else replicated
