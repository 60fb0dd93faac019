"The engine that defines what the others must give: it calls the steppers on each parameter in turn."

import torch

__all__ = ['step']


def step(
    composition, # `Composition` to run
    work:list # `(p, state, hypers)` of each parameter that has a gradient
) -> None:
    """Run the composition on each parameter. What steppers do to a gradient is undone after the parameter's step.

    A complex parameter is seen as a real one with a last dimension of 2, as in torch."""
    for p, state, hypers in work:
        real, grad = (torch.view_as_real(p.data), torch.view_as_real(p.grad)) if p.is_complex() else (p, p.grad)
        if composition.spares_grads: real.grad = grad
        else:
            with torch.set_grad_enabled(grad.requires_grad): real.grad = grad.clone() # steppers may differentiate it again
        try: composition.run(real, state, hypers)
        finally: real.grad = grad
