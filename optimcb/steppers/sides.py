"A matrix for each dimension of a tensor, packed into one flat state."
import math

import torch

from optimcb.steppers.formulas import precise

# A matrix for each dimension

def _shape(x): return tuple(x.shape) or (1,)
def _sides(p, max_dim): return tuple(0 < d <= max_dim and p.numel() > 0 for d in _shape(p))
def _unfolded(x, i): return x.movedim(i, 0).flatten(1) if x.ndim > 1 else x.reshape(-1, 1)
def _packed(x, matrices): return torch.cat([m.reshape(-1) for m in matrices]) if matrices else precise(x).new_zeros(0)


def _unpacked(flat, x, sides, diagonal=False):
    "The matrix of each dimension of `x` that are packed in `flat`; of a dimension that is too large its diagonal, or None"
    kinds = [(d, d) if used else (d,) if diagonal else (0,) for d, used in zip(_shape(x), sides)]
    parts = flat.split([math.prod(k) for k in kinds])
    return [m.view(k) if k != (0,) or diagonal else None for m, k in zip(parts, kinds)]


def _grams(x, sides, diagonal=False):
    "Of each dimension, the products of all slices with each other; of one that is too large those with themselves, or nothing"
    x = precise(x).reshape(_shape(x))
    slices = [(_unfolded(x, i), used) for i, used in enumerate(sides)]
    return [m @ m.T if used else m.pow(2).sum(1) for m, used in slices if used or diagonal]


def _along(x, matrices):
    "`x`, multiplied in each dimension by a matrix, or where it is None by nothing"
    res = precise(x).reshape(_shape(x))
    for m in matrices: # each one takes the first dimension and puts it last
        if m is None: res = res.movedim(0, -1)
        elif m.dim() == 1: res = res.movedim(0, -1) * m
        else: res = torch.tensordot(res, m, dims=[[0], [0]])
    return res.reshape(x.shape).to(x.dtype, copy=True, memory_format=torch.contiguous_format)


def _eigen(m):
    "Eigenvalues and eigenvectors of `m`; NaN where torch raises, for a matrix that isn't finite: what a gradient spoils are its own weights, as elsewhere"
    ok = m.isfinite().all()
    return [torch.where(ok, x, math.nan) for x in torch.linalg.eigh(torch.where(ok, m, 0.))]
