"Recipes of rules based on signs, momentum, averages of weights, norms, or a given curvature."
from optimcb.algorithm import algorithm
from optimcb.composition.stepper import renamed
from optimcb.steppers import *
from optimcb.steppers.lists import decay_of, mean_grad

__all__ = ['SignSGD', 'Signum', 'Lion', 'Tiger', 'Rprop', 'ASGD', 'QHM', 'AggMo', 'MADGRAD', 'Fromage',
           'Sophia']


@algorithm
def SignSGD(
    wd=0., # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    "Steps along the gradient's sign (Bernstein et al. 2018, https://arxiv.org/abs/1802.04434)."
    return [decay_of(decouple_wd), sign_update, apply_update]


@algorithm
def Signum(
    mom=0.9, # Coefficient of past gradients, 0 to 1
    wd=0., # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    """Steps along the sign of the average gradient
    (Bernstein et al. 2018, https://arxiv.org/abs/1802.04434, alg. 2)."""
    return [decay_of(decouple_wd), mean_grad, sign_update, apply_update]


@algorithm
def Lion(
    mom=0.9, # Weight of the average in the update (β1), 0 to 1
    sqr_mom=0.99, # Coefficient of past gradients in the average (β2), 0 to 1
    wd=0., # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    """Steps along the sign of a mixture of gradient and average
    (Chen et al. 2023, https://arxiv.org/abs/2302.06675). `lr` is a tenth to a third of Adam's."""
    average = renamed(mean_grad, mom='sqr_mom')
    return [decay_of(decouple_wd), renamed(mixed_update, nu='mom'), sign_update, average, apply_update]


@algorithm
def Tiger(
    mom=0.965, # Coefficient of past gradients, 0 to 1
    wd=0.01, # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    """Signum, with `lr` proportional to the RMS of the tensor (Su 2023, https://github.com/bojone/tiger).

    The source treats each row of an embedding separately."""
    return [rms_lr, decay_of(decouple_wd), mean_grad, sign_update, apply_update]


@algorithm
def Rprop(
    eta_minus=0.5, # Factor of a step size after the gradient has changed its sign
    eta_plus=1.2, # Factor of a step size after the gradient has kept its sign
    min_step=1e-6, # Smallest step size
    max_step=50. # Largest step size
):
    """Steps along the sign, with a step size per element that starts at `lr`; for full-batch gradients
    (Riedmiller & Braun 1993, https://doi.org/10.1109/ICNN.1993.298623)."""
    return [rprop_update, whole_step, apply_update]


@algorithm
def ASGD(
    lambd=1e-4, # Decay of the weights, and of `lr`
    power=0.75, # Power with which `lr` falls; torch's `alpha`
    t0=1e6, # Number of steps before averaging starts
    wd=0., # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    """Stochastic gradient descent that keeps the mean of the weights, in `ax`
    (Polyak & Juditsky 1992, https://doi.org/10.1137/0330046).

    When `lr` changes, torch still steps with the previous one."""
    return [decay_of(decouple_wd), step_stat, asgd_lr, renamed(weight_decay, wd='lambd'), grad_update,
            apply_update, average_weights]


@algorithm
def QHM(
    mom=0.999, # Coefficient of past gradients, 0 to 1
    nu=0.7, # Weight of the average; the newest gradient has the rest
    wd=0., # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    """Momentum mixed with the newest gradient
    (Ma & Yarats 2019, https://arxiv.org/abs/1810.06801). `lr` is that of momentum divided by `1-mom`."""
    return [decay_of(decouple_wd), mean_grad, mixed_update, apply_update]


@algorithm
def AggMo(
    mom=0.9, # Coefficient of past gradients in the first sum, 0 to 1
    slow_mom=0.99, # Coefficient of past gradients in the slow sum, 0 to 1
    wd=0., # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    """The mean of three momenta, with coefficients 0, `mom` and `slow_mom`
    (Lucas et al. 2019, https://arxiv.org/abs/1804.00325)."""
    return [decay_of(decouple_wd), average_grad, renamed(average_grad, mom='slow_mom', grad_avg='slow_avg'),
            mean_of_avgs, apply_update]


@algorithm
def MADGRAD(
    mom=0.9, # Weight of the current parameter value, 0 to 1
    eps=1e-6, # Added to the root, and to `lr`
    wd=0., # Weight decay
    decouple_wd=False # Decay the weights, or add an L2 penalty to the gradient?
):
    """Dual averaging with a cube root, and momentum
    (Defazio & Jelassi 2021, https://arxiv.org/abs/2101.11075)."""
    sums = [keep_start, step_stat, eps_in_lr, dual_sums, over_cube_root, dual_update]
    if decouple_wd: return [*sums, weight_decay, whole_step, apply_update]
    return [l2_reg, *sums, whole_step, apply_update]


@algorithm
def Fromage():
    """Steps whose norm is `lr` times that of the tensor, which is shrunk so that it doesn't grow
    (Bernstein et al. 2020, https://arxiv.org/abs/2002.03432).

    `Fromage.insert(keep_bound, before=0).insert(bound_norm, after=apply_update)` bounds each tensor's norm by
    `p_bound` times its initial value, an option of the authors' code."""
    return [norm_ratio, shrink_by_lr, apply_update]


@algorithm
def Sophia(
    mom=0.965, # Coefficient of past gradients (β1), 0 to 1
    sqr_mom=0.99, # Coefficient of past estimates of the Hessian (β2), 0 to 1
    rho=0.04, # Factor of the curvature in the divisor
    eps=1e-12, # Smallest divisor
    wd=0.1, # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    """Clipped Newton steps, by a curvature that `update_hessian` updates every few steps
    (Liu et al. 2024, https://arxiv.org/abs/2305.14342)."""
    return [decay_of(decouple_wd), mean_grad, newton_update, apply_update]
