"Muon: set all singular values of the update to one."
import math

import torch

from optimcb._compat.renamed import old_names
from optimcb.composition.calls import by_torch
from optimcb.composition.results import once
from optimcb.composition.traits import stepper
from optimcb.steppers.adam import average_sqr_grad, debias_grad_avg, debias_sqr_avg, rms_update
from optimcb.steppers.precision import product_dtype
from optimcb.steppers.sgd import descent_direction
from optimcb.steppers.shapes import is_matrix, is_stack, rows_and_columns

__all__ = ['scale_vector_lr', 'orthogonal_update', 'vector_update', 'spectral_lr', 'match_rms_lr']


KERNEL_NDIM = 4 # as in the author's code: three dimensions are a stack of matrices, four a kernel
NEWTON_SCHULZ = 3.4445, -4.7750, 2.0315 # coefficients of an odd polynomial of degree 5, steep at zero


def orthogonalized_batch(x, steps, eps, a, b, c, exact, pairs, stacked=False, bfloat16=False):
    "`orthogonalized` of several tensors of the same shape, which are stacked."
    if not x.numel(): return x.clone()
    dtype, _ = product_dtype(x.dtype, x.device.type, exact, bfloat16)
    m = x.flatten(0, -3) if stacked else x.flatten(2)
    tall = m.shape[-2] > m.shape[-1]
    if tall: m = m.mT
    m = m.to(dtype, copy=True, memory_format=torch.contiguous_format)
    m.div_(m.norm(dim=(-2, -1), keepdim=True).clamp(min=eps))
    product, added = torch.bmm, torch.baddbmm
    twice = steps//2 if pairs and m.shape[-1] >= 2*m.shape[-2] else 0
    for i in range(steps - twice):
        gram = product(m, m.mT)
        factor = added(gram, gram, gram, beta=b, alpha=c)
        if i < twice: # the next gram matrix is the square of the factor times this one: all three go together
            factor.diagonal(dim1=-2, dim2=-1).add_(a)
            gram = product(product(factor, gram), factor)
            m = product(added(factor, added(gram, gram, gram, beta=b, alpha=c), factor, beta=a), m)
        else: m = added(m, factor, m, beta=a)
    res = (m.mT if tall else m).reshape(x.shape)
    return res.to(x.dtype, memory_format=torch.contiguous_format).contiguous()


@by_torch(batched=orthogonalized_batch)
def orthogonalized(
    x, # A tensor of two or more dimensions: a matrix of the first by all others, or a stack of matrices
    steps, # Number of times to apply the polynomial
    eps, # Smallest norm to divide by
    a, b, c, # Coefficients of the polynomial
    exact, # Compute in the type of `x`, float32 at least? Else in bfloat16, or float32 where that is faster
    pairs, # Apply it twice at a time where that takes fewer operations? In bfloat16 it rounds more often
    stacked=False, # Is it a stack of matrices, those of the last two dimensions?
    bfloat16=False # Compute in bfloat16, also where float32 is faster?
):
    "Return the matrix, or each one, with the singular vectors of `x` and singular values about one."
    return orthogonalized_batch(x[None], steps, eps, a, b, c, exact, pairs, stacked, bfloat16)[0]


@stepper
def scale_vector_lr(p,
    lr, # Learning rate
    vector_lr=0.015, # Learning rate of parameters with fewer than two dimensions, relative to `lr`
    **kwargs):
    """Scale `lr` of parameters that aren't matrices, which Adam steps, for this step
    (Jordan 2024). Comes before the decay."""
    if not is_matrix(p): return once(lr=lr*vector_lr)


def _type_in_words(p, exact=False, bfloat16=False) -> str|None:
    "The type that `orthogonal_update` iterates in, and why"
    if not is_matrix(p): return None
    dtype, why = product_dtype(p.dtype, p.device.type, exact, bfloat16)
    return f"iterates in {str(dtype)[6:]}, {why}"


@stepper(needs_dense_grad=True, note=_type_in_words)
def orthogonal_update(p,
    eps=1e-7, # Smallest norm that is divided by
    ns_steps=5, # Steps of Newton and Schulz's iteration
    exact=False, # Iterate in the parameter's type, float32 at least? Else in bfloat16, or what is faster
    pairs=True, # Take two steps at a time with long matrices, to be quicker? Else round as `torch.optim.Muon`
    coeffs=NEWTON_SCHULZ, # Three coefficients of the iteration
    kernel_ndim=KERNEL_NDIM, # Dimensions from which on a tensor is a kernel, and not a stack of matrices
    bfloat16=False, # Iterate in bfloat16, also where float32 is faster?
    grad_avg=None, # State: average of gradients, if there is one
    update=None, # This step's update, if there is one already
    **kwargs):
    """Orthogonalize the update, or else the average gradient, or else the gradient
    (Jordan 2024, https://kellerjordan.github.io/posts/muon/).

    A convolution's kernel is a matrix of outputs by all else; each matrix of a stack, of experts' weights
    say, is one by itself. What has fewer than two dimensions is left to `vector_update`. The iteration is in
    bfloat16, or in float32 where that is faster."""
    if not is_matrix(p): return None
    x, stacked = descent_direction(p, grad_avg, update), is_stack(p, kernel_ndim)
    return {'update': orthogonalized(x, ns_steps, eps, *coeffs, exact, pairs, stacked, bfloat16)}


@stepper
def vector_update(p,
    mom, # Coefficient of past values in `grad_avg`, 0 to 1
    step, # State: steps done
    grad_avg, # State: mean of gradients
    sqr_mom=0.95, # Coefficient of past values in `sqr_avg`, 0 to 1
    eps=1e-7, # Added to the root
    sqr_avg=None, # State: mean of squared gradients
    **kwargs):
    """Make Adam's update for parameters that aren't matrices
    (Kingma & Ba 2015, https://arxiv.org/abs/1412.6980, alg. 1); others stay as they are."""
    if is_matrix(p): return None
    sqr_avg = average_sqr_grad(p, sqr_mom, sqr_avg=sqr_avg)['sqr_avg']
    debiased = debias_grad_avg(p, mom, step, grad_avg) | debias_sqr_avg(p, sqr_mom, step, sqr_avg)
    return {'sqr_avg': sqr_avg, **rms_update(p, eps=eps, **debiased)}


@stepper
def spectral_lr(p,
    lr, # Learning rate
    kernel_ndim=KERNEL_NDIM, # Least number of dimensions of a kernel; fewer are a stack of matrices
    **kwargs):
    """Multiply `lr` of a matrix with more rows than columns by the root of their ratio, for this step
    (Jordan 2024).

    Rows and columns are those of the matrix that a kernel is made into; the author's code takes the last
    two dimensions of the kernel, which are alike."""
    if not is_matrix(p): return None
    rows, columns = rows_and_columns(p, kernel_ndim)
    return once(lr=lr * math.sqrt(max(1, rows/columns)))


@stepper
def match_rms_lr(p,
    lr, # Learning rate
    kernel_ndim=KERNEL_NDIM, # Least number of dimensions of a kernel; fewer are a stack of matrices
    **kwargs):
    """Scale `lr` of a matrix so that Muon's update is as large as Adam's, for this step
    (Liu et al. 2025, https://arxiv.org/abs/2502.16982, eq. 4)."""
    if is_matrix(p): return once(lr=lr * 0.2*math.sqrt(max(rows_and_columns(p, kernel_ndim))))


__getattr__ = old_names('steppers')
