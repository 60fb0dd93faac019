"The ascent step of sharpness-aware minimization."
import torch

from optimcb.composition.traits import stepper
from optimcb.steppers.norms import at_least_float32

__all__ = ['ascend']


@stepper
def ascend(p,
    sam_rho=0.05, # Norm of the ascent over all parameters
    sam_eta=0.01, # Added to the magnitude of a weight, if `adaptive`
    adaptive=False, # Move larger weights further (ASAM)?
    sam_weights=None, # State: the weights before the ascent
    **kwargs):
    """Move up along the gradient, towards the largest loss nearby; keep the weights in `sam_weights`.

    Nothing moves if some gradient isn't finite
    (Foret et al. 2021, https://arxiv.org/abs/2010.01412, alg. 1; ASAM: Kwon et al. 2021,
    https://arxiv.org/abs/2102.11600, alg. 1)."""
    grad = at_least_float32(p.grad.data)
    size = at_least_float32(p.data).abs().add(sam_eta) if adaptive else 1.
    norm = (yield (grad * size).pow(2).sum()).sqrt()
    old = p.data.clone() if sam_weights is None else sam_weights.copy_(p.data)
    up = grad * size * size * (sam_rho / (norm + 1e-12))
    p.data.add_(torch.where(torch.isfinite(norm), up, 0.).to(p.dtype))
    return {'sam_weights': old}
