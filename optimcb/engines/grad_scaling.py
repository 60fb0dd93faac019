"""Support for `torch.amp.GradScaler`: scaled gradients, and skipped steps.

On the CPU, the host knows immediately whether to skip a step. On a GPU it would have to synchronize, so
kernels read the flag themselves, and change nothing if it is set. The host updates its counters as if the
step were taken, and checks the flag at the next step, when it has long been computed."""
import torch
from torch import Tensor

from optimcb._compat.dtensors import gather, is_dtensor

__all__ = ['NOT_SCALED', 'PendingSkip', 'SCALER_ATTRIBUTES', 'Scaling', 'scaling_of']


class Scaling:
    """The scale and the skip flag of a GradScaler for one step.

    `scale` and `found` are numbers if the host knows them, else tensors on a device."""
    def __init__(self,
        scale:Tensor|float|None=None, # Factor of the gradients; None: they aren't scaled
        found:Tensor|float=0. # Nonzero if a gradient is infinite or NaN
    ):
        self.scale, self.found = _known(scale), _known(found)

    @property
    def skip_on_device(self) -> bool:
        "Does only the device know whether to skip the step?"
        return isinstance(self.found, Tensor)

    def or_nonfinite(self,
        grads:list[Tensor] # All gradients
    ) -> 'Scaling':
        "Return this scaling, with a step that is also skipped if a gradient is infinite or NaN."
        if isinstance(self.found, float) and self.found: return self
        finite = _finite(grads)
        if not finite: return self
        device = next((x.device for x in finite if not x.is_cpu), finite[0].device)
        found = 1. - torch.stack([x.to(device, non_blocking=True) for x in finite]).all().float()
        if self.skip_on_device: found = torch.maximum(found, self.found.to(device, non_blocking=True))
        return Scaling(self.scale, found)

    def unscaled(self, grad:Tensor) -> Tensor:
        "Return the unscaled gradient."
        scale = self.scale.to(grad.device) if isinstance(self.scale, Tensor) else self.scale
        return (grad / scale).to(grad.dtype)

    def skips(self) -> bool:
        "Must the step be skipped? Synchronizes with the device."
        if self.skip_on_device: self.found = self.found.item()
        return bool(self.found)


def _as_numbers(grad) -> Tensor:
    "Return the numbers of a gradient, which may be sparse or complex"
    if grad.layout is torch.sparse_coo: return grad.coalesce().values()
    return torch.view_as_real(grad) if grad.is_complex() else grad


def _finite(grads) -> list[Tensor]:
    "Return for each gradient, or group of gradients, whether all elements are finite"
    grads = list(map(_as_numbers, grads))
    grads = [g for g in grads if g.numel()]
    # a sum over processes propagates NaN, a maximum may not
    sharded = [gather((g*0).sum()) == 0 for g in grads if is_dtensor(g)]
    groups = {}
    for g in grads:
        if not is_dtensor(g): groups.setdefault((g.device, g.dtype), []).append(g)
    plain = [torch.stack(torch._foreach_norm(gs, torch.inf)).isfinite().all() for gs in groups.values()]
    return plain + sharded


def _known(x):
    x = gather(x)
    return x.item() if isinstance(x, Tensor) and x.is_cpu else x


NOT_SCALED = Scaling()
# attributes that a GradScaler sets on an optimizer for a step
SCALER_ATTRIBUTES = frozenset({'grad_scale', 'found_inf'})


def scaling_of(
    opt # Optimizer
) -> Scaling:
    "Return the GradScaler's data for an optimizer's next step."
    if not opt.__dict__.keys() & SCALER_ATTRIBUTES: return NOT_SCALED
    return Scaling(getattr(opt, 'grad_scale', None), getattr(opt, 'found_inf', 0.))


class PendingSkip:
    "A step that the device may have skipped."
    def __init__(self,
        found:Tensor # Flag on the device
    ):
        self.found = found.to('cpu', non_blocking=True) # in pinned memory
        self.event = torch.cuda.current_stream(found.device).record_event() if found.is_cuda else None
        self.steps = []

    def note(self,
        states:list, # States of parameters
        made:set, # Names that the step has added to them
        numbers:dict # Old values of numbers in them
    ):
        "Note the counters that the host has updated."
        self.steps.append((states, made, numbers))

    def settle(self) -> bool:
        "Wait for the flag; if the step was skipped, restore the counters. Returns whether it was."
        if self.event: self.event.synchronize()
        skipped = bool(self.found.item())
        for states, made, numbers in self.steps if skipped else ():
            for s in states:
                for k in made: s.pop(k, None)
                s.update(numbers)
        return skipped
