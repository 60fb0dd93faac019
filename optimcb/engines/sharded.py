"Step DTensor parameters shard by shard."
import sys
from collections import defaultdict
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from optimcb._compat.dtensors import is_dtensor, local, on_all, shard_of, unsharded
from optimcb.engines.frozen import track
from optimcb.tracing.program import Unsupported

__all__ = ['Shards', 'agree']


def agree(
    failure:Exception|None, # Why this process can't run its kernel, or None
    shardings:Iterable # How parameters are sharded
) -> Exception|None:
    "Return a failure if any process has one, as processes would wait for each other otherwise."
    for sharding in shardings:
        mesh = sharding.mesh
        failed = torch.tensor(float(failure is not None), device=mesh.device_type)
        for i in range(mesh.ndim): dist.all_reduce(failed, dist.ReduceOp.MAX, group=mesh.get_group(i))
        if failed.item() and not failure: failure = Unsupported("another process can't run its kernel.")
    return failure


class Shards:
    """An engine's view of an optimizer: `param_groups` with shards instead of DTensors, their `state`, and
    `tracked` ones."""
    def __init__(self):
        self.state, self.shards, self.tracked = defaultdict(dict), {}, set()
        self.param_groups, self.sharded = [], []

    def open(self,
        opt # Optimizer
    ):
        "Return the view for the current optimizer, or the optimizer itself if it has no DTensors."
        self.opt, self.sharded = opt, []
        if 'torch.distributed.tensor' not in sys.modules: return opt
        params = [p for g in opt.param_groups for p in g['params']]
        if not any(map(is_dtensor, params)): return opt
        for gone in self.shards.keys() - set(params): self.state.pop(self.shards.pop(gone), None)
        self.param_groups = [{**g, 'params': [self._shard(p) for p in g['params']]} for g in opt.param_groups]
        track(params, opt.tracked)
        self.tracked = {self.shards.get(p, p) for p in opt.tracked}
        return self

    def _shard(self, p):
        "Return the engine's parameter for `p`"
        state, new, q = self.opt.state[p], shard_of(p), self.shards.get(p)
        # the eager engine steps it, in all processes
        if new is p or not all(self._fits(v, p) for v in state.values()):
            if self.state.get(p) is not state: self.state[p] = state
            return p
        # else keep the known shard
        if q is None or q.data_ptr() != new.data_ptr() or q.shape != new.shape:
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
        "Is this state sharded like the parameter, or one number in all processes?"
        if not isinstance(v, Tensor): return True
        if not is_dtensor(v): return v.dim() == 0
        if v.shape == p.shape and v.placements == p.placements: return True
        return v.dim() == 0 and all(o.is_replicate() for o in v.placements)

    def of_optimizer(self,
        shards:list # The engine's parameters
    ) -> list[dict]:
        "Return their states in the optimizer, if these differ. Doesn't wait for a GPU."
        states = self.opt.__dict__['state'] if self.sharded else {}
        return [states[q._unsharded] for q in shards if hasattr(q, '_unsharded')] if states else []

    def original(self,
        p, # A parameter, or its shard
        state:dict # Its state
    ) -> tuple:
        "Return the optimizer's parameter and state."
        if not self.sharded: return p, state
        return unsharded(p), self.opt.state[unsharded(p)]

    def close(self,
        stepped:list # Parameters and shards that kernels have stepped; others have their state already
    ) -> list:
        """Put new state into the DTensors' state, and drop the shards' gradients.

        Returns the optimizer's parameters for `stepped`. Doesn't wait for a GPU."""
        if not self.sharded: return stepped
        states, ids = self.opt.__dict__['state'], set(map(id, stepped))
        for p, q in self.sharded:
            q.grad, state = None, states[p]
            for k, v in self.state[q].items() if id(q) in ids else ():
                old = state.get(k)
                if not isinstance(v, Tensor): state[k] = v
                elif not is_dtensor(old) or old._local_tensor is not v:
                    if v.shape == q.shape:
                        new = type(p.data).from_local(v, p.device_mesh, p.placements, run_check=False,
                                                      shape=p.shape, stride=p.stride())
                    else: new = on_all(v, p)
                    state[k] = new
        return list(map(unsharded, stepped))
