"Shampoo: inverse roots of summed gradient products."
from optimcb.composition.calls import by_torch
from optimcb.composition.traits import stepper
from optimcb.steppers.kronecker import (
    dims_with_matrix,
    eigh_or_nan,
    gram_matrices,
    multiply_dims,
    pack,
    shape_of,
    unpack,
)
from optimcb.steppers.norms import at_least_float32

__all__ = ['sum_grams', 'inverse_roots', 'shampoo_update']


# Shampoo: inverse roots of summed Gram matrices of gradients

@by_torch(batched=True)
def started_grams(x, has_matrix, eps):
    "Return `eps` times the identity for each dimension."
    x = x.reshape(shape_of(x))
    starts = [at_least_float32(x).new_ones(d) * eps for d in x.shape]
    return pack(x, [o.diag() if used else o for o, used in zip(starts, has_matrix)])


@by_torch(batched=True)
def added_grams(x, grams, has_matrix):
    "Add the Gram matrices of `x` to `grams`."
    return grams + pack(x, gram_matrices(x, has_matrix, diagonal=True))


@by_torch(batched=True)
def roots_of(x, grams, has_matrix, eps):
    """Return each Gram matrix to the power of -1/2 over the number of dimensions.

    Eigenvalues are at least `eps`."""
    power = -1 / (2*len(shape_of(x)))
    def root(m):
        if m.dim() == 1: return m.clamp(min=eps).pow(power)
        values, vectors = eigh_or_nan(m)
        return (vectors * values.clamp(min=eps).pow(power)) @ vectors.T
    return pack(x, [root(m) for m in unpack(grams, x, has_matrix, diagonal=True)])


@by_torch(batched=True)
def preconditioned(x, roots, has_matrix):
    "Multiply `x` by the root of each dimension."
    return multiply_dims(x, unpack(roots, x, has_matrix, diagonal=True))


@stepper(needs_dense_grad=True)
def sum_grams(p,
    eps=1e-4, # Initial value of their diagonals
    max_dim=1200, # Larger dimensions have only the diagonal
    grams=None, # State: the sums
    **kwargs):
    """Sum the Gram matrices of gradients, one per dimension, in `grams`
    (Gupta et al. 2018, https://arxiv.org/abs/1802.09568, alg. 2)."""
    g = p.grad.data
    has_matrix = dims_with_matrix(p, max_dim)
    if grams is None: grams = started_grams(g, has_matrix, eps)
    return {'grams': added_grams(g, grams, has_matrix)}


@stepper
def inverse_roots(p,
    grams, # State: sums of Gram matrices
    step, # State: steps done
    eps=1e-4, # Smallest eigenvalue
    max_dim=1200, # Larger dimensions have only the diagonal
    refresh_steps=1, # Number of steps between computations of the roots, which are expensive
    roots=None, # State: the roots
    **kwargs):
    """Compute inverse roots of `grams` in the first and every `refresh_steps`-th step after it, in `roots`
    (Gupta et al. 2018, https://arxiv.org/abs/1802.09568)."""
    if roots is None or (step-1) % refresh_steps == 0:
        return {'roots': roots_of(p.grad.data, grams, dims_with_matrix(p, max_dim), eps)}


@stepper
def shampoo_update(p,
    roots, # State: inverse roots
    max_dim=1200, # Larger dimensions have only the diagonal
    **kwargs):
    """Multiply the gradient by the root of each dimension
    (Gupta et al. 2018, https://arxiv.org/abs/1802.09568, alg. 2)."""
    return {'update': preconditioned(p.grad.data, roots, dims_with_matrix(p, max_dim))}
