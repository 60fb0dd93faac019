"Sums over whole tensors, in float32 at least."
import torch


def at_least_float32(
    x # A tensor
):
    "Return `x`, in float32 if its dtype has fewer bits, to sum tensors of 16-bit numbers."
    return x.to(torch.promote_types(x.dtype, torch.float32))


def norm(
    x # A tensor
):
    "Return the Euclidean norm of a whole tensor."
    return torch.linalg.vector_norm(at_least_float32(x))


def rms(
    x # A tensor
):
    "Return the root mean square of a whole tensor."
    return at_least_float32(x).pow(2).mean().sqrt()
