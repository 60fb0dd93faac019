"""Gradients that were scaled so that 16 bits hold them, and steps that are not to be taken: what
`torch.amp.GradScaler` says.

On the CPU the host knows at once. On a GPU it would have to wait, so kernels are told where it says
whether to skip: they then leave all as it was. The host counts on as if the step were taken, and finds out
when it next needs to know: at the next step, when that is long done."""
import torch
from torch import Tensor

from optimcb._tensors import gather, is_dtensor

__all__ = ['NOT_SCALED', 'PendingSkip', 'SCALER_ATTRIBUTES', 'Scaling', 'scaling_of']


class Scaling:
    """What a GradScaler says of a step.

    `scale` and `found` are numbers where the host knows them, else tensors on a device."""
    def __init__(self,
        scale:Tensor|float|None=None, # What the gradients were multiplied by; None: nothing
        found:Tensor|float=0. # Not 0 if a gradient is infinite or NaN
    ):
        self.scale, self.found = _known(scale), _known(found)

    @property
    def skip_on_device(self) -> bool:
        "Does only the device know whether to skip the step?"
        return isinstance(self.found, Tensor)

    def or_nonfinite(self,
        grads:list[Tensor] # All gradients
    ) -> 'Scaling':
        "The same, but that a step is skipped if one of these is infinite or NaN, too."
        if isinstance(self.found, float) and self.found: return self
        finite = _finite(grads)
        if not finite: return self
        device = next((x.device for x in finite if not x.is_cpu), finite[0].device)
        found = 1. - torch.stack([x.to(device) for x in finite]).all().float()
        if self.skip_on_device: found = torch.maximum(found, self.found.to(device))
        return Scaling(self.scale, found)

    def unscaled(self, grad:Tensor) -> Tensor:
        "The gradient as it should be."
        scale = self.scale.to(grad.device) if isinstance(self.scale, Tensor) else self.scale
        return (grad / scale).to(grad.dtype)

    def skips(self) -> bool:
        "Is the step to be skipped? Waits for a device, then it is known."
        if self.skip_on_device: self.found = self.found.item()
        return bool(self.found)


def _as_numbers(grad) -> Tensor:
    "Return the numbers of a gradient, which may be sparse or complex"
    if grad.layout is torch.sparse_coo: return grad.coalesce().values()
    return torch.view_as_real(grad) if grad.is_complex() else grad


def _finite(grads) -> list[Tensor]:
    "Of each gradient, or group of them, whether all of its elements are finite"
    grads = list(map(_as_numbers, grads))
    grads = [g for g in grads if g.numel()]
    # a sum over processes keeps a NaN, a maximum may not
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
# those that a GradScaler gives to an optimizer for a step
SCALER_ATTRIBUTES = frozenset({'grad_scale', 'found_inf'})


def scaling_of(
    opt # Optimizer
) -> Scaling:
    "Return what a GradScaler says of an optimizer's next step."
    if not opt.__dict__.keys() & SCALER_ATTRIBUTES: return NOT_SCALED
    return Scaling(getattr(opt, 'grad_scale', None), getattr(opt, 'found_inf', 0.))


class PendingSkip:
    "A step that a device may have skipped."
    def __init__(self,
        found:Tensor # Where the device says so
    ):
        self.found = found.to('cpu', non_blocking=True) # in pinned memory
        self.event = torch.cuda.current_stream(found.device).record_event() if found.is_cuda else None
        self.steps = []

    def note(self,
        states:list, # States of parameters
        made:set, # Names that the step has put into them
        numbers:dict # What is no tensor among them, as it was
    ):
        "Note what the host has counted."
        self.steps.append((states, made, numbers))

    def settle(self) -> bool:
        "Wait until the device knows; if it skipped the step, take back what was counted. Was it skipped?"
        if self.event: self.event.synchronize()
        skipped = bool(self.found.item())
        for states, made, numbers in self.steps if skipped else ():
            for s in states:
                for k in made: s.pop(k, None)
                s.update(numbers)
        return skipped
