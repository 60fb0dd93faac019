"SOAP: Adam in the eigenbasis of Shampoo."
import torch

from optimcb._compat.renamed import old_names
from optimcb.composition.calls import by_torch
from optimcb.composition.results import once
from optimcb.composition.traits import stepper
from optimcb.steppers.kronecker import (
    dims_with_matrix,
    eigh_or_nan,
    gram_matrices,
    multiply_dims,
    pack,
    unpack,
)
from optimcb.steppers.shapes import is_matrix

__all__ = ['average_grams', 'refresh_bases', 'project_grad', 'project_back']


# SOAP: Adam in a basis whose axes are the directions in which gradients vary most

@by_torch(batched=True)
def mixed_grams(x, grams, weight, has_matrix):
    "Return a weighted mean of `grams` and the Gram matrices of `x`."
    return grams.lerp(pack(x, gram_matrices(x, has_matrix)), weight)


@by_torch(batched=True)
def first_grams(x, weight, has_matrix):
    "Return the weighted Gram matrices of `x`, for a mean that starts from zero."
    return pack(x, gram_matrices(x, has_matrix)) * weight


@by_torch(batched=True)
def eigenbases(x, grams, has_matrix):
    "Return the eigenvectors of each Gram matrix, largest eigenvalues first."
    return pack(x, [eigh_or_nan(m)[1].flip(1) for m in unpack(grams, x, has_matrix) if m is not None])


@by_torch(batched=True)
def refreshed(grad_avg, sqr_avg, grams, bases, has_matrix):
    """Take a step of orthogonal iteration.

    Returns the new bases, the average in these bases, and the squares in their order."""
    old, new, sqr_avg = unpack(bases, sqr_avg, has_matrix), [], sqr_avg.clone()
    for i, (gram, q) in enumerate(zip(unpack(grams, sqr_avg, has_matrix), old)):
        if gram is None:
            new.append(None)
            continue
        product = gram @ q
        order = (q * product).sum(0).argsort(descending=True)
        sqr_avg = sqr_avg.index_select(i, order)
        new.append(torch.linalg.qr(product[:, order])[0])
    grad_avg = multiply_dims(multiply_dims(grad_avg, [q if q is None else q.T for q in old]), new)
    return pack(sqr_avg, [q for q in new if q is not None]), grad_avg, sqr_avg


@by_torch(batched=True)
def rotate(x, bases, has_matrix, back):
    "Rotate `x` into `bases`, or back."
    return multiply_dims(x, [q if q is None or not back else q.T for q in unpack(bases, x, has_matrix)])


@stepper
def refresh_bases(p,
    step, # State: steps done
    refresh_steps=10, # Number of steps between refreshes
    max_dim=10000, # Larger dimensions are not rotated
    grams=None, # State: means of past Gram matrices
    bases=None, # State: the bases
    grad_avg=None, # State: mean of gradients, in the bases
    sqr_avg=None, # State: mean of squared gradients, in the bases
    **kwargs):
    """Track the eigenbases of past gradients, one for each dimension, in `bases`.

    A step of orthogonal iteration every `refresh_steps` steps, which takes `grad_avg` and `sqr_avg` along.
    Comes before `average_grams` (Vyas et al. 2024, https://arxiv.org/abs/2409.11321, alg. 4)."""
    if not is_matrix(p) or grams is None: return None
    if bases is None: return {'bases': eigenbases(p.grad.data, grams, dims_with_matrix(p, max_dim))}
    if (step-2) % refresh_steps == 0:
        bases, grad_avg, sqr_avg = refreshed(grad_avg, sqr_avg, grams, bases, dims_with_matrix(p, max_dim))
        return {'bases': bases, 'grad_avg': grad_avg, 'sqr_avg': sqr_avg}


@stepper(needs_dense_grad=True)
def average_grams(p,
    sqr_mom, # Coefficient of past values, 0 to 1
    max_dim=10000, # Larger dimensions have none
    grams=None, # State: the means
    **kwargs):
    """Average the Gram matrices of gradients, for each dimension of a matrix or kernel, in `grams`
    (Vyas et al. 2024, alg. 3)."""
    if not is_matrix(p): return None
    g = p.grad.data
    has_matrix = dims_with_matrix(p, max_dim)
    if grams is None: return {'grams': first_grams(g, 1-sqr_mom, has_matrix)}
    return {'grams': mixed_grams(g, grams, 1-sqr_mom, has_matrix)}


@stepper
def project_grad(p,
    lr, # Learning rate
    step, # State: steps done
    max_dim=10000, # Larger dimensions are not rotated
    bases=None, # State: the bases
    **kwargs):
    """Rotate the gradient into `bases`, for this step.

    The first step only collects statistics: its gradient counts as zero, its `lr` is 0, and `step` doesn't
    count it (Vyas et al. 2024; as in the authors' code, https://github.com/nikhilvyas/SOAP)."""
    if step == 1 or is_matrix(p) and bases is None:
        p.grad = torch.zeros_like(p.grad.data)
        return once(lr=0*lr)
    if is_matrix(p): p.grad = rotate(p.grad.data, bases, dims_with_matrix(p, max_dim), False)
    return once(step=step-1)


@stepper
def project_back(p,
    update, # This step's update, in the bases
    max_dim=10000, # Larger dimensions are not rotated
    bases=None, # State: the bases
    **kwargs):
    """Rotate the update from `bases` back to the parameter's axes
    (Vyas et al. 2024, https://arxiv.org/abs/2409.11321, alg. 3)."""
    if is_matrix(p) and bases is not None:
        return {'update': rotate(update, bases, dims_with_matrix(p, max_dim), True)}


__getattr__ = old_names('steppers')
