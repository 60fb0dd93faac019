"Second moments from rows and columns: Adafactor and SM3."
import math

import torch

from optimcb.composition.calls import by_torch
from optimcb.composition.results import once
from optimcb.composition.traits import stepper
from optimcb.steppers.adam import average_sqr_grad, rms_update
from optimcb.steppers.norms import at_least_float32, rms
from optimcb.steppers.second_moments import sum_sqr_grad
from optimcb.steppers.shapes import is_matrix

__all__ = ['param_rms', 'relative_lr', 'scale_lr', 'lr_in_update', 'factored_sqr_grad', 'factored_update',
           'cover_sqr_grad', 'keep_cover']


# Adafactor: a mean square per row and per column

@by_torch(batched=True)
def mean_sqrs(x):
    "Return the mean square of each row, and of each column."
    sqr = at_least_float32(x).pow(2)
    return sqr.mean(-1, keepdim=True), sqr.mean(-2, keepdim=True)


@by_torch(batched=True)
def mixed(a, b, weight):
    "Return a weighted mean of `a` and `b`, with `weight` for `b`."
    return a.lerp(b, weight)


@by_torch(batched=True)
def over_factored(x, row_avg, col_avg, eps):
    "Divide `x` by the root of the mean square that its row and column predict."
    rows, columns = row_avg + eps, col_avg + eps
    return (at_least_float32(x) * (rows / rows.mean(-2, keepdim=True)).rsqrt() * columns.rsqrt()).to(x.dtype)


@stepper
def param_rms(p,
    min_rms=1e-3, # Smallest result, which lets a parameter grow from zero
    **kwargs):
    """Compute the root mean square of the weights, in `p_rms`, for this step
    (Shazeer & Stern 2018, https://arxiv.org/abs/1804.04235, alg. 4). Comes before the decay."""
    return once(p_rms=rms(p.data).clamp(min=min_rms))


@stepper
def relative_lr(p,
    lr, # Largest learning rate
    step, # State: steps done
    relative_step=True, # Groups with False keep their `lr`
    warmup_init=False, # Let the largest learning rate grow by a ten-thousandth of `lr` per step?
    **kwargs):
    """Limit `lr` to one over the root of the number of steps, for this step
    (Shazeer & Stern 2018, https://arxiv.org/abs/1804.04235, alg. 6 and sec. 9)."""
    if not relative_step: return None
    return once(lr=min(lr*1e-4*step if warmup_init else lr, 1/math.sqrt(step)))


@stepper
def scale_lr(p,
    lr, # Learning rate relative to the size of the weights
    p_rms, # Root mean square of the weights
    scale_parameter=True, # Groups with False keep their `lr`
    **kwargs):
    """Multiply `lr` by the root mean square of the weights, for this step
    (Shazeer & Stern 2018, https://arxiv.org/abs/1804.04235, alg. 4)."""
    if scale_parameter: return once(lr=lr*p_rms)


@stepper
def lr_in_update(p,
    lr, # Learning rate
    update, # This step's update
    **kwargs):
    "Move `lr` into the update, so that an average of updates remembers it; `lr` is then 1, for this step."
    return once(lr=1., update=update*lr)


@stepper(needs_dense_grad=True)
def factored_sqr_grad(p,
    step, # State: steps done
    decay_power=0.8, # Past squares have the coefficient `1 - step**-decay_power`
    row_avg=None, # State: mean of the squares of each row
    col_avg=None, # State: mean of the squares of each column
    sqr_avg=None, # State: mean square, of a parameter with fewer than two dimensions
    **kwargs):
    """Average the squared gradients of each row and column of the last two dimensions, in `row_avg` and
    `col_avg`.

    Parameters with fewer dimensions have `sqr_avg`
    (Shazeer & Stern 2018, https://arxiv.org/abs/1804.04235, alg. 4-5)."""
    new = step**-decay_power
    if not is_matrix(p): return average_sqr_grad(p, 1-new, sqr_avg=sqr_avg)
    rows, columns = mean_sqrs(p.grad.data)
    return {'row_avg': rows if row_avg is None else mixed(row_avg, rows, new),
            'col_avg': columns if col_avg is None else mixed(col_avg, columns, new)}


@stepper
def factored_update(p,
    eps=1e-30, # Added to the mean squares
    row_avg=None, # State: mean of the squares of each row
    col_avg=None, # State: mean of the squares of each column
    sqr_avg=None, # State: mean square, of a parameter with fewer than two dimensions
    **kwargs):
    """Divide the gradient by the root of the mean square that its row and column predict
    (Shazeer & Stern 2018, https://arxiv.org/abs/1804.04235, alg. 4-5)."""
    if not is_matrix(p): return rms_update(p, sqr_avg + eps, 0.)
    return {'update': over_factored(p.grad.data, row_avg, col_avg, eps)}


# SM3: an upper bound of the sum of squares for each row, column, …

@by_torch(batched=True)
def least_cover(x, cover):
    "Return the smallest bound of each element, from those of its row, its column, …."
    bounds = cover.split(list(x.shape))
    res = bounds[0].view(-1, *[1]*(x.ndim-1))
    for i, b in enumerate(bounds[1:], 1): res = torch.minimum(res, b.view(-1, *[1]*(x.ndim-1-i)))
    return res.expand(x.shape).contiguous()


@by_torch(batched=True)
def maxima(x):
    "Return the largest element of each row, of each column, …, as one vector."
    if not x.numel(): return x.new_zeros(sum(x.shape))
    return torch.cat([x.movedim(i, 0).flatten(1).amax(1) for i in range(x.ndim)])


@stepper(needs_dense_grad=True)
def cover_sqr_grad(p,
    sqr_avg=None, # State: sum of squared gradients, of a parameter with fewer than two dimensions
    cover=None, # State: a bound for each index of each dimension
    **kwargs):
    """Bound the sums of squared gradients by the bounds of rows, columns, …, in `sqr_avg`, for this step.

    For parameters with fewer than two dimensions, the state has the sum itself (Anil et al. 2019,
    https://arxiv.org/abs/1901.11150, alg. SM3-II)."""
    if not is_matrix(p): return sum_sqr_grad(p, 0., sqr_avg)
    sqr = p.grad.data.pow(2)
    return once(sqr_avg=sqr if cover is None else sqr + least_cover(sqr, cover))


@stepper
def keep_cover(p,
    sqr_avg, # This step's bound of each element
    **kwargs):
    """Keep the largest bound of each row, of each column, …, in `cover`
    (Anil et al. 2019, https://arxiv.org/abs/1901.11150, alg. SM3-II)."""
    if is_matrix(p): return {'cover': maxima(sqr_avg)}
