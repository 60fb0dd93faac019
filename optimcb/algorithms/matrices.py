"Recipes of rules that treat a parameter as a matrix."
from functools import partial

from optimcb.algorithm import algorithm
from optimcb.steppers import *
from optimcb.steppers.lists import decay_of, mean_grad, momentum

__all__ = ['Muon', 'Shampoo', 'SOAP', 'Adafactor', 'SM3']


@algorithm
def Muon(
    mom=0.95, # Coefficient of past gradients, 0 to 1
    sqr_mom=0.95, # Coefficient of past squares, 0 to 1, of parameters with fewer than two dimensions
    eps=1e-7, # Smallest norm of a matrix to divide by; for other tensors, added to the root
    wd=0., # Weight decay
    decouple_wd=True, # Decay the weights, or add an L2 penalty to the gradient?
    nesterov=True, # Look ahead by one step?
    match_rms=False, # Are updates to be as large as Adam's, so that its learning rate fits?
    kernel_ndim=4, # Dimensions from which on a tensor is a kernel, one matrix, and no stack; 3 for `Conv1d`
    exact=False, # Iterate in the parameter's type, float32 at least, instead of bfloat16?
    pairs=True, # Take two steps at a time with long matrices, to be quicker? Else round as `torch.optim.Muon`
    bfloat16=False # Iterate in bfloat16 also where float32 is faster, as `torch.optim.Muon` does?
):
    """Momentum with all singular values made one, and Adam for what is no matrix
    (Jordan 2024, https://kellerjordan.github.io/posts/muon/).

    The iteration is in bfloat16, unless the processor multiplies in float32 faster: `explain()` tells."""
    if exact and bfloat16: raise ValueError("`exact=True` and `bfloat16=True` ask for two types: take one.")
    slow, scale = ([], match_rms_lr) if match_rms else ([scale_vector_lr], spectral_lr)
    ahead = [partial(nesterov_update, dampening=True)] if nesterov else []
    asked = dict(bfloat16=True) if bfloat16 else {} # else it has the name that it has in earlier state dicts
    matrix_update = partial(orthogonal_update, exact=exact, pairs=pairs, **asked)
    return [*slow, decay_of(decouple_wd), mean_grad, step_stat, *ahead, matrix_update, scale, vector_update,
            apply_update]


@algorithm
def Shampoo(
    mom=0., # Coefficient of past updates, 0 to 1
    eps=1e-4, # Initial value of the matrices' diagonals
    max_dim=1200, # Larger dimensions have a diagonal instead of a matrix
    refresh_steps=1, # Number of steps between computations of the inverse roots
    wd=0., # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    """Gradients preconditioned by an inverse root of their summed products, in each dimension
    (Gupta et al. 2018, https://arxiv.org/abs/1802.09568, alg. 2)."""
    return [decay_of(decouple_wd), step_stat, sum_grams, inverse_roots, shampoo_update,
            *momentum(average_update, mom), apply_update]


@algorithm
def SOAP(
    mom=0.95, # Coefficient of past gradients (β1), 0 to 1
    sqr_mom=0.95, # Coefficient of past squares (β2) and of their products, 0 to 1
    eps=1e-8, # Added to the root
    max_dim=10000, # Larger dimensions are not rotated
    refresh_steps=10, # Number of steps between refreshes of the bases
    wd=0.01 # Weight decay, decoupled, and after the step as in the authors' code
):
    """Adam in the eigenbases of Shampoo's matrices, from the second step on
    (Vyas et al. 2024, https://arxiv.org/abs/2409.11321)."""
    return [step_stat, refresh_bases, average_grams, project_grad, mean_grad, average_sqr_grad,
            debias_grad_avg, debias_sqr_avg, debias_eps, rms_update, project_back, apply_update, weight_decay]


@algorithm
def Adafactor(
    eps=1e-30, # Added to the mean squares
    decay_power=0.8, # Past squares have the coefficient `1 - step**-decay_power`
    max_update_rms=1., # Largest root mean square of the update
    wd=0., # Weight decay
    decouple_wd=True, # Decay the weights, or add an L2 penalty to the gradient?
    relative_step=True, # Use a learning rate of one over the root of the step, at most `lr`?
    scale_parameter=True, # Multiply the learning rate by the size of the weights?
    mom=0., # Coefficient of past updates (β1), 0 to 1
    warmup_init=False, # Let the largest learning rate grow with the steps? Needs `relative_step`
    decay_by_step=False, # Decay by the step's own learning rate, as `transformers` does? Else by `lr`
    lr=1e-2 # Learning rate
):
    """Gradients divided by a root mean square that is factored into rows and columns
    (Shazeer & Stern 2018, https://arxiv.org/abs/1804.04235, alg. 4-6).

    It also takes the arguments of `transformers.Adafactor`. `clip_threshold`, `decay_rate`, `beta1` and a
    pair for `eps` imply `decay_by_step`, unless it is given."""
    if warmup_init and not relative_step:
        raise ValueError("`warmup_init=True` needs `relative_step=True`: "
                         "it is about the largest learning rate.")
    before, after = ([param_rms], [scale_lr]) if scale_parameter else ([], [])
    rate = partial(relative_lr, warmup_init=True) if warmup_init else relative_lr
    relative = [rate] if relative_step else []
    early, late = ([], [weight_decay]) if decay_by_step and decouple_wd else ([decay_of(decouple_wd)], [])
    average = momentum(partial(average_update, dampening=True), mom)
    return [*before, *early, step_stat, factored_sqr_grad, factored_update, clip_update_rms, *relative,
            *after, *late, *([lr_in_update, *average] if average else []), apply_update]


def from_transformers(
    given:dict # Arguments, or a parameter group
) -> dict:
    "Translate arguments of `Adafactor` of `transformers` to ours. A tuple for `eps` is its pair."
    res, own = dict(given), {'clip_threshold', 'decay_rate', 'beta1'} & given.keys()
    if isinstance(res.get('eps'), tuple) and len(res['eps']) == 2:
        own.add('eps')
        res['eps'], res['min_rms'] = res['eps']
    if 'decay_rate' in own: res['decay_power'] = -res.pop('decay_rate')
    if 'clip_threshold' in own: res['max_update_rms'] = res.pop('clip_threshold')
    if 'beta1' in own: res['mom'] = res.pop('beta1') or 0.
    if own and 'params' not in given: res.setdefault('decay_by_step', True)
    return res
Adafactor.recipe.translated = from_transformers


@algorithm
def SM3(
    mom=0.9, # Coefficient of past updates, 0 to 1
    eps=1e-30, # Added to the bounds, inside the root
    wd=0., # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    """Adagrad with an upper bound of the squares for each row and column
    (Anil et al. 2019, https://arxiv.org/abs/1901.11150, alg. SM3-II)."""
    average = momentum(partial(average_update, dampening=True), mom)
    return [decay_of(decouple_wd), cover_sqr_grad, keep_cover, eps_in_root, rms_update, *average,
            apply_update]
