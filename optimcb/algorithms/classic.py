"""Recipes of fastai's and torch's algorithms.

fastai's algorithms keep its signatures and defaults; the others have those of their paper or `torch.optim`.
"""
from functools import partial

import numpy as np
from fastcore.meta import delegates

from optimcb.algorithm import algorithm
from optimcb.hypers.torch_names import from_torch
from optimcb.steppers import *
from optimcb.steppers.lists import adam_avgs, decay_of, largest, mean_grad, momentum
from optimcb.steppers.lookahead import ALPHA, K
from optimcb.training.lookahead import Lookahead

__all__ = ['SGD', 'RMSProp', 'Adam', 'AdamW', 'AMSGrad', 'Yogi', 'NAdam', 'Adamax', 'Adagrad',
           'Adadelta', 'RAdam', 'QHAdam', 'Larc', 'Lamb', 'ranger']


@algorithm
def SGD(
    mom=0., # Coefficient of past gradients, 0 to 1
    wd=0., # Weight decay
    decouple_wd=True, # Decay the weights, or add an L2 penalty to the gradient?
    nesterov=False, # Look ahead by one step?
    dampening=False # Average the gradients, instead of summing them? A number means the same as in torch
):
    """Stochastic gradient descent, with momentum if `mom` is not 0
    (Robbins & Monro 1951; Polyak 1964; Sutskever et al. 2013)."""
    if nesterov and (dampening or not np.any(mom)):
        raise ValueError("Nesterov momentum needs `mom` and no `dampening`.")
    if not np.any(mom): return [decay_of(decouple_wd), sgd_step]
    average = mean_grad if dampening is True else average_grad # a number is a hyper-parameter
    return [decay_of(decouple_wd), *momentum(average, mom),
            *([nesterov_update, apply_update] if nesterov else [momentum_step])]


@algorithm
def RMSProp(
    mom=0., # Coefficient of past gradients, 0 to 1
    sqr_mom=0.99, # Coefficient of past squares, 0 to 1
    eps=1e-8, # Added to the root
    wd=0., # Weight decay
    decouple_wd=True, # Decay the weights, or add an L2 penalty to the gradient?
    centered=False, # Divide by the standard deviation, instead of the root mean square?
    divide_first=False # Take the momentum of the quotients, as in torch, instead of the gradients?
):
    "Gradients divided by their root mean square (Tieleman & Hinton 2012, lecture 6.5)."
    sqr = [average_sqr_grad, *([average_center, center_sqr_avg] if centered else [])]
    if not np.any(mom): return [decay_of(decouple_wd), *sqr, rms_prop_step]
    if divide_first:
        return [decay_of(decouple_wd), *sqr, rms_update, *momentum(average_update, mom), apply_update]
    return [decay_of(decouple_wd), *momentum(average_grad, mom), *sqr, rms_prop_step]


@algorithm
def Adam(
    mom=0.9, # Coefficient of past gradients (β1), 0 to 1
    sqr_mom=0.99, # Coefficient of past squares (β2), 0 to 1
    eps=1e-5, # Added to the root
    wd=0.01, # Weight decay
    decouple_wd=True, # Decay the weights (AdamW), or add an L2 penalty to the gradient?
    amsgrad=False # Divide by the largest mean square so far?
):
    """Adam, by default with decoupled weight decay
    (Kingma & Ba 2015, https://arxiv.org/abs/1412.6980)."""
    return [*adam_avgs(decouple_wd), *largest(amsgrad), step_stat, adam_step]


@algorithm
def AdamW(
    mom=0.9, # Coefficient of past gradients (β1), 0 to 1
    sqr_mom=0.999, # Coefficient of past squares (β2), 0 to 1
    eps=1e-8, # Added to the root
    wd=0.01, # Weight decay
    amsgrad=False # Divide by the largest mean square so far?
):
    """Adam with decoupled weight decay and torch's defaults
    (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101)."""
    return Adam.recipe(amsgrad=amsgrad)


@algorithm
def AMSGrad(
    mom=0.9, # Coefficient of past gradients (β1), 0 to 1
    sqr_mom=0.999, # Coefficient of past squares (β2), 0 to 1
    eps=1e-8, # Added to the root
    wd=0., # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    """Adam that divides by the largest mean square so far
    (Reddi et al. 2018, https://arxiv.org/abs/1904.09237, alg. 2; bias correction as in torch)."""
    return Adam.recipe(decouple_wd=decouple_wd, amsgrad=True)


@algorithm
def Yogi(
    mom=0.9, # Coefficient of past gradients, 0 to 1
    sqr_mom=0.999, # Coefficient of past squares, 0 to 1
    eps=1e-3, # Added to the root
    wd=0., # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    """Adam whose mean square changes by at most the newest square
    (Zaheer et al. 2018, alg. 2; bias correction as in published code)."""
    return [start_avgs, *adam_avgs(decouple_wd, yogi_sqr_grad), step_stat, adam_step]


@algorithm
def NAdam(
    mom=0.9, # Coefficient of past gradients (β1), 0 to 1
    sqr_mom=0.999, # Coefficient of past squares (β2), 0 to 1
    eps=1e-8, # Added to the root
    wd=0., # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    "Adam with Nesterov's momentum (Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ)."
    return [*adam_avgs(decouple_wd), step_stat, nadam_schedule, nadam_avg, debias_sqr_avg, rms_update,
            apply_update]


@algorithm
def Adamax(
    mom=0.9, # Coefficient of past gradients (β1), 0 to 1
    sqr_mom=0.999, # Coefficient of past squares (β2), 0 to 1
    eps=1e-8, # Added to the magnitude of the gradient
    wd=0., # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    """Adam with a maximum instead of the root mean square
    (Kingma & Ba 2015, https://arxiv.org/abs/1412.6980, alg. 2)."""
    return [*adam_avgs(decouple_wd, max_abs_grad), step_stat, debias_grad_avg, adamax_update, apply_update]


@algorithm
def Adagrad(
    eps=1e-10, # Added to the root
    wd=0., # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    """Gradients divided by the root of the sum of all their squares
    (Duchi et al. 2011, https://jmlr.org/papers/v12/duchi11a.html)."""
    return [decay_of(decouple_wd), step_stat, decay_lr, sum_sqr_grad, rms_update, apply_update]


@algorithm
def Adadelta(
    sqr_mom=0.9, # Coefficient of past squares (β2), 0 to 1
    eps=1e-6, # Added to both means, inside the root
    wd=0., # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    """Gradients scaled to the size of past updates, meant for `lr=1`
    (Zeiler 2012, https://arxiv.org/abs/1212.5701)."""
    return [decay_of(decouple_wd), average_sqr_grad, adadelta_update, apply_update]


@algorithm
def RAdam(
    mom=0.9, # Coefficient of past gradients (β1), 0 to 1
    sqr_mom=0.99, # Coefficient of past squares (β2), 0 to 1
    eps=1e-5, # Added to the root
    wd=0., # Weight decay
    beta=0., # Sharpness of SAdam's softplus of the root; 0: none
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    """Adam with rectified variance at the start
    (Liu et al. 2020, https://arxiv.org/abs/1908.03265); `beta` is the sharpness of SAdam's softplus."""
    return [*adam_avgs(decouple_wd), step_stat, radam_step]


@algorithm
def QHAdam(
    mom=0.999, # Coefficient of past gradients (β1), 0 to 1
    sqr_mom=0.999, # Coefficient of past squares (β2), 0 to 1
    nu_1=0.7, # Weight of the mean gradient; the newest gradient has the rest
    nu_2=1.0, # Weight of the mean square; the newest square has the rest
    eps=1e-8, # Added to the root
    wd=0., # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    "Adam with the newest gradient mixed into its means (Ma & Yarats 2019, https://arxiv.org/abs/1810.06801)."
    return [*adam_avgs(decouple_wd, partial(average_sqr_grad, dampening=True)), step_stat, qhadam_step]


@algorithm
def Larc(
    mom=0.9, # Coefficient of past gradients, 0 to 1
    clip=True, # Limit learning rates to `lr` (LARC)? Else LARS
    trust_coeff=0.02, # Size of a step relative to the norm of the tensor
    eps=1e-8, # Added to the norm of the gradient
    wd=0., # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    "Momentum with a learning rate for each tensor (You et al. 2017, https://arxiv.org/abs/1708.03888)."
    return [decay_of(decouple_wd), *momentum(average_grad, mom), partial(larc_layer_lr, clip=clip), larc_step]


@algorithm
def Lamb(
    mom=0.9, # Coefficient of past gradients (β1), 0 to 1
    sqr_mom=0.99, # Coefficient of past squares (β2), 0 to 1
    eps=1e-5, # Added to the root
    wd=0., # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    "Adam with a learning rate for each tensor (You et al. 2020, https://arxiv.org/abs/1904.00962)."
    return [*adam_avgs(decouple_wd), step_stat, debias_grad_avg, debias_sqr_avg, rms_update, trust_ratio,
            apply_update]


@delegates(RAdam)
def ranger(
    params, # Model parameters
    lr, # Learning rate
    mom=0.95, # Coefficient of past gradients, 0 to 1
    wd=0.01, # Weight decay
    eps=1e-6, # Added to the root
    k=K, # Number of fast steps per slow step
    alpha=ALPHA, # Slow step as a fraction of the distance, 0 to 1
    **kwargs # Other options of `RAdam`
) -> Lookahead:
    "`Lookahead` with `RAdam`."
    options = {'mom': mom, 'wd': wd, 'eps': eps, **from_torch(kwargs, RAdam.options)}
    return Lookahead(RAdam(params, lr=lr, **options), k=k, alpha=alpha)
