"""The mathematics of rules that see a parameter as a matrix: by its singular values, its rows and columns, or the directions that its gradients take.

What is done to whole matrices are functions for torch, pure ones; the steppers around them are as everywhere. A function here that takes `sides` works
on a matrix for each dimension of a tensor. These are kept in one flat state, one after the other, so that a tensor may have any number of dimensions.
`sides` tells of each dimension whether it has a matrix, or is too large for one.
"""
import math

import torch

from optimcb.stepper import by_torch, once
from optimcb.steppers.classic import average_sqr_grad, debias_grad_avg, debias_sqr_avg, direction, precise, rms, rms_update, sum_sqr_grad

__all__ = ['slow_vectors', 'orthogonal_update', 'vector_update', 'spectral_lr', 'match_rms_lr', 'sum_grams', 'inverse_roots', 'shampoo_update',
           'average_grams', 'refresh_bases', 'turn_grad', 'turn_back', 'param_rms', 'relative_lr', 'scale_lr', 'lr_in_update',
           'factored_sqr_grad', 'factored_update', 'cover_sqr_grad', 'keep_cover']


# Muon: all singular values of the update are made one

NEWTON_SCHULZ = 3.4445, -4.7750, 2.0315 # how an odd polynomial of degree 5 weighs its powers so that it is steepest at zero


KERNEL_NDIM = 4 # as the author has it: three dimensions are a stack, four a kernel


def _is_stack(p, kernel_ndim): return 2 < p.ndim < kernel_ndim


@by_torch
def orthogonalized(
    x, # A tensor of two dimensions or more, seen as a matrix of its first dimension by the others, or as a stack of matrices
    steps, # How often the polynomial is applied
    eps, # Smallest norm that is divided by
    a, b, c, # Coefficients of the polynomial
    exact, # Compute in the type of `x`, float32 at least? Else in bfloat16
    pairs, # Apply it twice at a time where that takes fewer operations? In bfloat16 it rounds more often
    stacked=False # Is it a stack of matrices, those of the last two dimensions?
):
    "The matrix, or each of them, with the singular vectors of `x`, and singular values about one."
    if not x.numel(): return x.clone()
    dtype = torch.promote_types(x.dtype, torch.float32) if exact else torch.bfloat16
    m = x.flatten(0, -3) if stacked else x.flatten(1)
    m = m.to(dtype, copy=True, memory_format=torch.contiguous_format)
    added = torch.baddbmm if stacked else torch.addmm
    tall = m.shape[-2] > m.shape[-1]
    if tall: m = m.mT
    norm = m.norm(dim=(-2, -1), keepdim=True) if stacked else m.norm()
    m.div_(norm.clamp(min=eps))
    twice = steps//2 if pairs and m.shape[-1] >= 2*m.shape[-2] else 0
    for i in range(steps - twice):
        gram = m @ m.mT
        factor = added(gram, gram, gram, beta=b, alpha=c)
        if i < twice: # the next gram matrix is the square of the factor times this one: all three go together
            factor.diagonal(dim1=-2, dim2=-1).add_(a)
            gram = factor @ gram @ factor
            m = added(factor, added(gram, gram, gram, beta=b, alpha=c), factor, beta=a) @ m
        else: m = added(m, factor, m, beta=a)
    return (m.mT if tall else m).reshape(x.shape).to(x.dtype)


def slow_vectors(p,
    lr, # Learning rate
    vector_lr=0.015, # Learning rate of parameters with fewer than two dimensions, a share of `lr`
    **kwargs):
    "For this step, `lr` of a parameter that is no matrix is a share of it, as for Adam beside Muon (Jordan 2024). Comes before the decay."
    if p.ndim < 2: return once(lr=lr*vector_lr)


def orthogonal_update(p,
    eps=1e-7, # Smallest norm that is divided by
    ns_steps=5, # Steps of Newton and Schulz's iteration
    exact=False, # Iterate in the parameter's type, float32 at least? Else in bfloat16
    pairs=True, # Take two steps at a time with long matrices, which is quicker? Else it rounds as `torch.optim.Muon`
    coeffs=NEWTON_SCHULZ, # Three coefficients of the iteration
    kernel_ndim=KERNEL_NDIM, # Dimensions from which on a tensor is a kernel, and not a stack of matrices
    grad_avg=None, # State: average of gradients, if there is one
    update=None, # This step's update, if there is one already
    **kwargs):
    """The update, or the average of the gradients, or the gradient, with all singular values about one (Jordan 2024, https://kellerjordan.github.io/posts/muon/).

    A convolution's kernel is a matrix of outputs by all else; each matrix of a stack, of experts' weights say, is one by
    itself. What has fewer than two dimensions is left to `vector_update`."""
    if p.ndim < 2: return None
    x, stacked = direction(p, grad_avg, update), _is_stack(p, kernel_ndim)
    return {'update': orthogonalized(x, ns_steps, eps, *coeffs, exact, pairs, stacked)}
orthogonal_update.whole = True


def vector_update(p,
    mom, # Coefficient of the past of `grad_avg`, 0 to 1
    step, # State: steps done
    grad_avg, # State: mean of gradients
    sqr_mom=0.95, # Coefficient of the past of `sqr_avg`, 0 to 1
    eps=1e-7, # Added to the root
    sqr_avg=None, # State: mean of squared gradients
    **kwargs):
    "Adam's update for a parameter that is no matrix (Kingma & Ba 2015, https://arxiv.org/abs/1412.6980, alg. 1); others stay as they are."
    if p.ndim >= 2: return None
    sqr_avg = average_sqr_grad(p, sqr_mom, sqr_avg=sqr_avg)['sqr_avg']
    debiased = debias_grad_avg(p, mom, step, grad_avg) | debias_sqr_avg(p, sqr_mom, step, sqr_avg)
    return {'sqr_avg': sqr_avg, **rms_update(p, eps=eps, **debiased)}


def _rows_and_columns(p, kernel_ndim):
    "Those of the matrix that a tensor is made into, or of each matrix of a stack"
    rows, columns = p.shape[-2:] if _is_stack(p, kernel_ndim) else (p.shape[0], math.prod(p.shape[1:]))
    return max(1, rows), max(1, columns)


def spectral_lr(p,
    lr, # Learning rate
    kernel_ndim=KERNEL_NDIM, # Dimensions from which on a tensor is a kernel, and not a stack of matrices
    **kwargs):
    """For this step, `lr` of a matrix with more rows than columns is larger, by the root of their ratio (Jordan 2024).

    Rows and columns are those of the matrix that a kernel is made into; the author's code takes the last two dimensions of the kernel, which are alike."""
    if p.ndim < 2: return None
    rows, columns = _rows_and_columns(p, kernel_ndim)
    return once(lr=lr * math.sqrt(max(1, rows/columns)))


def match_rms_lr(p,
    lr, # Learning rate
    kernel_ndim=KERNEL_NDIM, # Dimensions from which on a tensor is a kernel, and not a stack of matrices
    **kwargs):
    "For this step, `lr` of a matrix is such that Muon's update is as large as Adam's (Liu et al. 2025, https://arxiv.org/abs/2502.16982, eq. 4)."
    if p.ndim >= 2: return once(lr=lr * 0.2*math.sqrt(max(_rows_and_columns(p, kernel_ndim))))


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


# Shampoo: roots of the sums of gradients times themselves

@by_torch
def started_grams(x, sides, eps):
    "`eps` times the identity, for each dimension."
    x = x.reshape(_shape(x))
    starts = [precise(x).new_ones(d) * eps for d in x.shape]
    return _packed(x, [o.diag() if used else o for o, used in zip(starts, sides)])


@by_torch
def added_grams(x, grams, sides):
    "`grams` and those of `x`."
    return grams + _packed(x, _grams(x, sides, diagonal=True))


@by_torch
def roots_of(x, grams, sides, eps):
    "Of each dimension, the gram matrix to the power of -1/2 over the number of dimensions; no eigenvalue is taken to be smaller than `eps`."
    power = -1 / (2*len(_shape(x)))
    def root(m):
        if m.dim() == 1: return m.clamp(min=eps).pow(power)
        values, vectors = _eigen(m)
        return (vectors * values.clamp(min=eps).pow(power)) @ vectors.T
    return _packed(x, [root(m) for m in _unpacked(grams, x, sides, diagonal=True)])


@by_torch
def preconditioned(x, roots, sides):
    "`x`, multiplied by the root of each dimension."
    return _along(x, _unpacked(roots, x, sides, diagonal=True))


def sum_grams(p,
    eps=1e-4, # Where their diagonals start
    max_dim=1200, # Dimensions that are larger have the diagonal only
    grams=None, # State: the sums
    **kwargs):
    "Sum of the products of gradients with themselves, a matrix for each dimension, in `grams` (Gupta et al. 2018, https://arxiv.org/abs/1802.09568, alg. 2)."
    g = p.grad.data
    return {'grams': added_grams(g, started_grams(g, _sides(p, max_dim), eps) if grams is None else grams, _sides(p, max_dim))}
sum_grams.whole = True


def inverse_roots(p,
    grams, # State: sums of gradients times themselves
    step, # State: steps done
    eps=1e-4, # Smallest eigenvalue
    max_dim=1200, # Dimensions that are larger have the diagonal only
    refresh_steps=1, # Steps from one computation of the roots to the next, which are the expensive part
    roots=None, # State: the roots
    **kwargs):
    "Inverse roots of `grams`, in the first step and every `refresh_steps` steps after it, in `roots` (Gupta et al. 2018, https://arxiv.org/abs/1802.09568)."
    if roots is None or (step-1) % refresh_steps == 0: return {'roots': roots_of(p.grad.data, grams, _sides(p, max_dim), eps)}


def shampoo_update(p,
    roots, # State: inverse roots
    max_dim=1200, # Dimensions that are larger have the diagonal only
    **kwargs):
    "The gradient, multiplied by the root of each dimension (Gupta et al. 2018, https://arxiv.org/abs/1802.09568, alg. 2)."
    return {'update': preconditioned(p.grad.data, roots, _sides(p, max_dim))}


# SOAP: Adam where gradients vary most along the axes

@by_torch
def mixed_grams(x, grams, weight, sides):
    "A mean of `grams` and those of `x`."
    return grams.lerp(_packed(x, _grams(x, sides)), weight)


@by_torch
def first_grams(x, weight, sides):
    "The gram matrices of `x`, weighed: a mean that starts from zero."
    return _packed(x, _grams(x, sides)) * weight


@by_torch
def bases_of(x, grams, sides):
    "Eigenvectors of each gram matrix, those of the largest eigenvalues first."
    return _packed(x, [_eigen(m)[1].flip(1) for m in _unpacked(grams, x, sides) if m is not None])


@by_torch
def refreshed(grad_avg, sqr_avg, grams, bases, sides):
    "The bases after a step of orthogonal iteration, the average in them, and the squares in the order of the new ones."
    old, new, sqr_avg = _unpacked(bases, sqr_avg, sides), [], sqr_avg.clone()
    for i, (gram, q) in enumerate(zip(_unpacked(grams, sqr_avg, sides), old)):
        if gram is None:
            new.append(None)
            continue
        product = gram @ q
        order = (q * product).sum(0).argsort(descending=True)
        sqr_avg = sqr_avg.index_select(i, order)
        new.append(torch.linalg.qr(product[:, order])[0])
    grad_avg = _along(_along(grad_avg, [q if q is None else q.T for q in old]), new)
    return _packed(sqr_avg, [q for q in new if q is not None]), grad_avg, sqr_avg


@by_torch
def turned(x, bases, sides, back):
    "`x` in `bases`, or from there back to where it came from."
    return _along(x, [q if q is None or not back else q.T for q in _unpacked(bases, x, sides)])


def refresh_bases(p,
    step, # State: steps done
    refresh_steps=10, # Steps from one refreshing to the next
    max_dim=10000, # Dimensions that are larger stay as they are
    grams=None, # State: mean of past gradients times themselves
    bases=None, # State: the bases
    grad_avg=None, # State: mean of gradients, in the bases
    sqr_avg=None, # State: mean of squared gradients, in the bases
    **kwargs):
    """Orthogonal bases along which past gradients vary most, one for each dimension of a matrix or kernel, in `bases`. Comes before `average_grams`.

    They follow every `refresh_steps` steps, and take `grad_avg` and `sqr_avg` along (Vyas et al. 2024, https://arxiv.org/abs/2409.11321, alg. 4)."""
    if p.ndim < 2 or grams is None: return None
    if bases is None: return {'bases': bases_of(p.grad.data, grams, _sides(p, max_dim))}
    if (step-2) % refresh_steps == 0:
        bases, grad_avg, sqr_avg = refreshed(grad_avg, sqr_avg, grams, bases, _sides(p, max_dim))
        return {'bases': bases, 'grad_avg': grad_avg, 'sqr_avg': sqr_avg}


def average_grams(p,
    sqr_mom, # Coefficient of the past, 0 to 1
    max_dim=10000, # Dimensions that are larger have none
    grams=None, # State: the means
    **kwargs):
    "Mean of the products of gradients with themselves, for each dimension of a matrix or kernel, in `grams` (Vyas et al. 2024, alg. 3)."
    if p.ndim < 2: return None
    g = p.grad.data
    return {'grams': first_grams(g, 1-sqr_mom, _sides(p, max_dim)) if grams is None else mixed_grams(g, grams, 1-sqr_mom, _sides(p, max_dim))}
average_grams.whole = True


def turn_grad(p,
    lr, # Learning rate
    step, # State: steps done
    max_dim=10000, # Dimensions that are larger stay as they are
    bases=None, # State: the bases
    **kwargs):
    """For this step, the gradient is in `bases`, and `step` doesn't count the first step, which only looks where to go: its gradient counts
    as zero, and its `lr` is 0 (Vyas et al. 2024; as in the authors' code, https://github.com/nikhilvyas/SOAP)."""
    if step == 1 or p.ndim > 1 and bases is None:
        p.grad = torch.zeros_like(p.grad.data)
        return once(lr=0*lr)
    if p.ndim > 1: p.grad = turned(p.grad.data, bases, _sides(p, max_dim), False)
    return once(step=step-1)


def turn_back(p,
    update, # This step's update, in the bases
    max_dim=10000, # Dimensions that are larger stay as they are
    bases=None, # State: the bases
    **kwargs):
    "The update, from `bases` back to where the parameter is (Vyas et al. 2024, https://arxiv.org/abs/2409.11321, alg. 3)."
    if p.ndim > 1 and bases is not None: return {'update': turned(update, bases, _sides(p, max_dim), True)}


# Adafactor: a mean square for each row and column

@by_torch
def mean_sqrs(x):
    "Mean of the squares of each row, and of each column."
    sqr = precise(x).pow(2)
    return sqr.mean(-1, keepdim=True), sqr.mean(-2, keepdim=True)


@by_torch
def mixed(a, b, weight):
    "A mean of `a` and `b`, that of `b` weighed by `weight`."
    return a.lerp(b, weight)


@by_torch
def over_factored(x, row_avg, col_avg, eps):
    "`x` over the root of the product of a mean square for its row and one for its column."
    rows, columns = row_avg + eps, col_avg + eps
    return (precise(x) * (rows / rows.mean(-2, keepdim=True)).rsqrt() * columns.rsqrt()).to(x.dtype)


def param_rms(p,
    min_rms=1e-3, # The smallest: from there on a parameter that starts from zero can grow
    **kwargs):
    "The root mean square of the weights, in `p_rms`, for this step (Shazeer & Stern 2018, https://arxiv.org/abs/1804.04235, alg. 4). Comes before the decay."
    return once(p_rms=rms(p.data).clamp(min=min_rms))


def relative_lr(p,
    lr, # Largest learning rate
    step, # State: steps done
    relative_step=True, # Groups that have it False keep their `lr`
    warmup_init=False, # Let the largest learning rate grow with the steps, by a ten-thousandth of `lr` each?
    **kwargs):
    "For this step, `lr` is at most one over the root of the number of steps (Shazeer & Stern 2018, https://arxiv.org/abs/1804.04235, alg. 6 and sec. 9)."
    if not relative_step: return None
    return once(lr=min(lr*1e-4*step if warmup_init else lr, 1/math.sqrt(step)))


def scale_lr(p,
    lr, # Learning rate, a share of the weights' size
    p_rms, # The weights' size
    scale_parameter=True, # Groups that have it False keep their `lr`
    **kwargs):
    "For this step, `lr` is in proportion to the size of the weights (Shazeer & Stern 2018, https://arxiv.org/abs/1804.04235, alg. 4)."
    if scale_parameter: return once(lr=lr*p_rms)


def lr_in_update(p,
    lr, # Learning rate
    update, # This step's update
    **kwargs):
    "For this step, `lr` is in the update, so that an average of updates remembers it."
    return once(lr=1., update=update*lr)


def factored_sqr_grad(p,
    step, # State: steps done
    decay_power=0.8, # How fast the past comes to count: its coefficient is `1 - step**-decay_power`
    row_avg=None, # State: mean of the squares of each row
    col_avg=None, # State: mean of the squares of each column
    sqr_avg=None, # State: mean square, of a parameter with fewer than two dimensions
    **kwargs):
    """Mean of squared gradients of each row and column of the last two dimensions, in `row_avg` and `col_avg`; of what has fewer, in `sqr_avg`
    (Shazeer & Stern 2018, https://arxiv.org/abs/1804.04235, alg. 4-5)."""
    new = step**-decay_power
    if p.ndim < 2: return average_sqr_grad(p, 1-new, sqr_avg=sqr_avg)
    rows, columns = mean_sqrs(p.grad.data)
    return {'row_avg': rows if row_avg is None else mixed(row_avg, rows, new), 'col_avg': columns if col_avg is None else mixed(col_avg, columns, new)}
factored_sqr_grad.whole = True


def factored_update(p,
    eps=1e-30, # Added to the mean squares
    row_avg=None, # State: mean of the squares of each row
    col_avg=None, # State: mean of the squares of each column
    sqr_avg=None, # State: mean square, of a parameter with fewer than two dimensions
    **kwargs):
    "The gradient over the root of the mean square that its row and its column let expect (Shazeer & Stern 2018, https://arxiv.org/abs/1804.04235, alg. 4-5)."
    if p.ndim < 2: return rms_update(p, sqr_avg + eps, 0.)
    return {'update': over_factored(p.grad.data, row_avg, col_avg, eps)}


# SM3: a bound of the sum of squares for each row, column, …

@by_torch
def least_cover(x, cover):
    "Of each element, the smallest of the bounds that its places in all dimensions have."
    bounds = cover.split(list(x.shape))
    res = bounds[0].view(-1, *[1]*(x.ndim-1))
    for i, b in enumerate(bounds[1:], 1): res = torch.minimum(res, b.view(-1, *[1]*(x.ndim-1-i)))
    return res.expand(x.shape).contiguous()


@by_torch
def maxima(x):
    "The largest element at each place of each dimension, one dimension after the other."
    if not x.numel(): return x.new_zeros(sum(x.shape))
    return torch.cat([x.movedim(i, 0).flatten(1).amax(1) for i in range(x.ndim)])


def cover_sqr_grad(p,
    sqr_avg=None, # State: sum of squared gradients, of a parameter with fewer than two dimensions
    cover=None, # State: for each place of each dimension, a bound of the sums there
    **kwargs):
    """For this step, `sqr_avg` is a bound of the sum of squared gradients, made from those of rows, columns, … (Anil et al. 2019,
    https://arxiv.org/abs/1901.11150, alg. SM3-II); what has fewer than two dimensions has the sum itself, as state."""
    if p.ndim < 2: return sum_sqr_grad(p, 0., sqr_avg)
    sqr = p.grad.data.pow(2)
    return once(sqr_avg=sqr if cover is None else sqr + least_cover(sqr, cover))
cover_sqr_grad.whole = True


def keep_cover(p,
    sqr_avg, # This step's bound of each element
    **kwargs):
    "Keep the largest of the bounds at each place of each dimension, in `cover` (Anil et al. 2019, https://arxiv.org/abs/1901.11150, alg. SM3-II)."
    if p.ndim >= 2: return {'cover': maxima(sqr_avg)}
