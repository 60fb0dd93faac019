"Matrices for the dimensions of a tensor, packed into one flat state."
import math

import torch

from optimcb.composition.calls import of_shape
from optimcb.steppers.norms import at_least_float32

# `has_matrix` says for each dimension of a tensor whether it has a matrix; large dimensions have none.


def shape_of(
    x # A tensor
) -> tuple:
    "Return the shape of a tensor, or (1,) for a scalar."
    return tuple(x.shape) or (1,)


@of_shape
def dims_with_matrix(
    p, # A tensor
    max_dim # Size of the largest dimension that has a matrix
) -> tuple:
    "Say for each dimension whether it has a matrix: its size is at most `max_dim`."
    return tuple(0 < d <= max_dim and p.numel() > 0 for d in shape_of(p))


def _unfolded(x, i): return x.movedim(i, 0).flatten(1) if x.ndim > 1 else x.reshape(-1, 1)


def pack(
    x, # The tensor whose dimensions they are of
    matrices # A matrix, or a diagonal, for each dimension
):
    "Pack matrices into one vector."
    return torch.cat([m.reshape(-1) for m in matrices]) if matrices else at_least_float32(x).new_zeros(0)


def unpack(
    flat, # Result of `pack`
    x, # The tensor whose dimensions they are of
    has_matrix, # By dimension, has it a matrix?
    diagonal=False # Return a diagonal for dimensions without a matrix? Else None
) -> list:
    "Return the matrix of each dimension, or for a large dimension its diagonal or None."
    shapes = [(d, d) if used else (d,) if diagonal else (0,) for d, used in zip(shape_of(x), has_matrix)]
    pieces = flat.split([math.prod(s) for s in shapes])
    return [m.view(s) if s != (0,) or diagonal else None for m, s in zip(pieces, shapes)]


def gram_matrices(
    x, # A tensor
    has_matrix, # By dimension, has it a matrix?
    diagonal=False # Include the diagonal for dimensions without a matrix?
) -> list:
    "Return the Gram matrix of each dimension, or its diagonal."
    x = at_least_float32(x).reshape(shape_of(x))
    slices = [(_unfolded(x, i), used) for i, used in enumerate(has_matrix)]
    return [m @ m.T if used else m.pow(2).sum(1) for m, used in slices if used or diagonal]


def multiply_dims(
    x, # A tensor
    matrices # For each dimension a matrix, a diagonal, or None
):
    "Multiply `x` by a matrix in each dimension, except where it is None."
    res = at_least_float32(x).reshape(shape_of(x))
    for m in matrices: # each one takes the first dimension and puts it last
        if m is None: res = res.movedim(0, -1)
        elif m.dim() == 1: res = res.movedim(0, -1) * m
        else: res = torch.tensordot(res, m, dims=[[0], [0]])
    return res.reshape(x.shape).to(x.dtype, copy=True, memory_format=torch.contiguous_format)


def eigh_or_nan(
    m # A symmetric matrix
) -> list:
    """Return eigenvalues and eigenvectors of `m`, or NaN if it isn't finite, for which torch raises.

    So a gradient that isn't finite affects only its own parameter, as in other rules."""
    ok = m.isfinite().all()
    return [torch.where(ok, x, math.nan) for x in torch.linalg.eigh(torch.where(ok, m, 0.))]
