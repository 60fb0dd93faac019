"The engine that defines what the others must give: it calls the steppers on each parameter in turn."
import torch
from torch import Tensor

__all__ = ['step']


def step(
    composition, # `Composition` to run
    work:list # `(p, state, hypers)` of each parameter that has a gradient
) -> None:
    """Run the composition on each parameter. What steppers do to a gradient is undone after the parameter's step.

    A complex parameter is seen as a real one with a last dimension of 2, as in torch."""
    if composition.sums_over_all: return _together(composition, work)
    for p, state, hypers in work:
        real, grad = _opened(p, composition)
        try:
            for _ in composition.run(real, state, hypers): raise TypeError("a stepper that yields must be a generator function, or a partial of one.")
        finally: real.grad = grad


def _opened(p, composition) -> tuple[Tensor, Tensor]:
    "What the steppers see of `p`, with a gradient that they may change, and the gradient to put back"
    real, grad = (torch.view_as_real(p.data), torch.view_as_real(p.grad)) if p.is_complex() else (p, p.grad)
    if composition.spares_grads: real.grad = grad
    else:
        with torch.set_grad_enabled(grad.requires_grad): real.grad = grad.clone() # steppers may differentiate it again
    return real, grad


def _together(composition, work):
    "All parameters, from sum to sum; what a step yields is summed in float32 at least"
    opened = [_opened(p, composition) for p, *_ in work]
    try:
        waiting = [(composition.run(real, state, hypers), None) for (real, _), (_, state, hypers) in zip(opened, work)]
        while waiting:
            yielded = []
            for run, total in waiting:
                try: yielded.append((run, run.send(total)))
                except StopIteration: pass
            waiting = _summed(yielded)
    finally:
        for real, grad in opened: real.grad = grad


def _summed(yielded) -> list:
    "What each step is sent, in the type and on the device of what it yielded"
    tensors = [x for _, x in yielded if isinstance(x, Tensor)]
    if not tensors: return [(run, sum(x for _, x in yielded)) for run, _ in yielded]
    dtype = torch.float32
    for x in tensors: dtype = torch.promote_types(dtype, x.dtype)
    total = torch.stack([torch.as_tensor(x, dtype=dtype).to(tensors[0].device) for _, x in yielded]).sum()
    return [(run, total.to(x.device, torch.promote_types(x.dtype, torch.float32)) if isinstance(x, Tensor) else total) for run, x in yielded]
