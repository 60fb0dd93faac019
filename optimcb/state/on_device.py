"Numbers on the device: what follows from them is worked out there, so that a CUDA graph needs no new ones."
import torch
from torch import Tensor

from optimcb.engines.captures import is_capturing

__all__ = ['fill_hyper', 'put_on_device']


def put_on_device(
    opt # Optimizer, with `param_groups` and `state`
) -> None:
    """Make tensors of the numbers in the state, as the count of steps; move tensors among hyper-parameters.

    They are of float64, so that nothing is computed with fewer digits than by Python."""
    if is_capturing(): return # a step that needs this is refused
    for g in opt.param_groups:
        for p in g['params']:
            state = opt.state.get(p, {})
            for k, v in state.items():
                if type(v) in (int, float): state[k] = torch.full((), v, dtype=torch.float64, device=p.device)
        devices = {p.device for p in g['params']}
        for k, v in list(g.items()) if len(devices) == 1 else ():
            if isinstance(v, Tensor) and not v.dim(): g[k] = v.to(*devices)


def fill_hyper(
    hypers, # Hyper-parameters of a group
    k:str, # One of them
    v # Its new value
) -> bool:
    "Write a number into a hyper-parameter that is a tensor, where kernels find it. Returns whether it is."
    old = hypers.get(k)
    can = isinstance(old, Tensor) and not old.dim() and isinstance(v, (int, float))
    if can: old.fill_(v)
    return can
