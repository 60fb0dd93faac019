# Generated from the code by `python -m tests.checklist --write`
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from optimcb.algorithm import Algorithm
from optimcb.algorithms.averages import schedule_free as schedule_free
from optimcb.algorithms.classic import ranger as ranger
from optimcb.optimizer import Optimizer

# One value, one for each group, or a slice, for discriminative learning rates
Hyper = float | Tensor | Sequence[float] | slice
# Tensors, `(name, tensor)` pairs, dicts with `params`, or a list of lists, one per group
Params = Tensor | Iterable[Any]

class _SGD(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.0,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        nesterov: bool = False,
        dampening: bool = False,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Stochastic gradient descent, with momentum if `mom` is not 0
        (Robbins & Monro 1951; Polyak 1964; Sutskever et al. 2013)."""
SGD: _SGD

class _RMSProp(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.0,
        sqr_mom: Hyper = 0.99,
        eps: Hyper = 1e-08,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        centered: bool = False,
        divide_first: bool = False,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Gradients divided by their root mean square (Tieleman & Hinton 2012, lecture 6.5)."""
RMSProp: _RMSProp

class _Adam(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.9,
        sqr_mom: Hyper = 0.99,
        eps: Hyper = 1e-05,
        wd: Hyper = 0.01,
        decouple_wd: bool = True,
        amsgrad: bool = False,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Adam, by default with decoupled weight decay
        (Kingma & Ba 2015, https://arxiv.org/abs/1412.6980)."""
Adam: _Adam

class _AdamW(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.9,
        sqr_mom: Hyper = 0.999,
        eps: Hyper = 1e-08,
        wd: Hyper = 0.01,
        amsgrad: bool = False,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Adam with decoupled weight decay and torch's defaults
        (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101)."""
AdamW: _AdamW

class _AMSGrad(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.9,
        sqr_mom: Hyper = 0.999,
        eps: Hyper = 1e-08,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Adam that divides by the largest mean square so far
        (Reddi et al. 2018, https://arxiv.org/abs/1904.09237, alg. 2; bias correction as in torch)."""
AMSGrad: _AMSGrad

class _Yogi(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.9,
        sqr_mom: Hyper = 0.999,
        eps: Hyper = 0.001,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        *,
        init_avg: Hyper = 0.0,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Adam whose mean square changes by at most the newest square
        (Zaheer et al. 2018, alg. 2; bias correction as in published code)."""
Yogi: _Yogi

class _NAdam(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.9,
        sqr_mom: Hyper = 0.999,
        eps: Hyper = 1e-08,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        *,
        mom_decay: Hyper = 0.004,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Adam with Nesterov's momentum (Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ)."""
NAdam: _NAdam

class _Adamax(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.9,
        sqr_mom: Hyper = 0.999,
        eps: Hyper = 1e-08,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Adam with a maximum instead of the root mean square
        (Kingma & Ba 2015, https://arxiv.org/abs/1412.6980, alg. 2)."""
Adamax: _Adamax

class _Adagrad(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        eps: Hyper = 1e-10,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        *,
        lr_decay: Hyper = 0.0,
        init_sum: Hyper = 0.0,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Gradients divided by the root of the sum of all their squares
        (Duchi et al. 2011, https://jmlr.org/papers/v12/duchi11a.html)."""
Adagrad: _Adagrad

class _Adadelta(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        sqr_mom: Hyper = 0.9,
        eps: Hyper = 1e-06,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Gradients scaled to the size of past updates, meant for `lr=1`
        (Zeiler 2012, https://arxiv.org/abs/1212.5701)."""
Adadelta: _Adadelta

class _RAdam(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.9,
        sqr_mom: Hyper = 0.99,
        eps: Hyper = 1e-05,
        wd: Hyper = 0.0,
        beta: Hyper = 0.0,
        decouple_wd: bool = True,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Adam with rectified variance at the start
        (Liu et al. 2020, https://arxiv.org/abs/1908.03265); `beta` is the sharpness of SAdam's softplus."""
RAdam: _RAdam

class _QHAdam(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.999,
        sqr_mom: Hyper = 0.999,
        nu_1: Hyper = 0.7,
        nu_2: Hyper = 1.0,
        eps: Hyper = 1e-08,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Adam with the newest gradient mixed into its means (Ma & Yarats 2019, https://arxiv.org/abs/1810.06801)."""
QHAdam: _QHAdam

class _Larc(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.9,
        clip: bool = True,
        trust_coeff: Hyper = 0.02,
        eps: Hyper = 1e-08,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Momentum with a learning rate for each tensor (You et al. 2017, https://arxiv.org/abs/1708.03888)."""
Larc: _Larc

class _Lamb(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.9,
        sqr_mom: Hyper = 0.99,
        eps: Hyper = 1e-05,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        *,
        max_trust: Hyper = 10.0,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Adam with a learning rate for each tensor (You et al. 2020, https://arxiv.org/abs/1904.00962)."""
Lamb: _Lamb

class _AdaBelief(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.9,
        sqr_mom: Hyper = 0.999,
        eps: Hyper = 1e-16,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        amsgrad: bool = False,
        rectify: bool = False,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Adam that divides by the deviation of gradients from their mean
        (Zhuang et al. 2020, https://arxiv.org/abs/2010.07468)."""
AdaBelief: _AdaBelief

class _Adan(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.98,
        diff_mom: Hyper = 0.92,
        sqr_mom: Hyper = 0.99,
        eps: Hyper = 1e-08,
        wd: Hyper = 0.0,
        proximal: bool = True,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Adam with Nesterov's momentum, estimated from differences of gradients
        (Xie et al. 2022, https://arxiv.org/abs/2208.06677; debiased as in its code)."""
Adan: _Adan

class _ADOPT(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.9,
        sqr_mom: Hyper = 0.9999,
        eps: Hyper = 1e-06,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        clip: bool = True,
        *,
        clip_power: Hyper = 0.25,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Adam that divides by previous squares only, before averaging; the first step only initializes them
        (Taniguchi et al. 2024, https://arxiv.org/abs/2411.02853)."""
ADOPT: _ADOPT

class _LaProp(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.9,
        sqr_mom: Hyper = 0.999,
        eps: Hyper = 1e-15,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        amsgrad: bool = False,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Adam that divides before averaging
        (Ziyin et al. 2020, https://arxiv.org/abs/2002.04839; its code weighs past updates by their `lr`)."""
LaProp: _LaProp

class _AdEMAMix(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.9,
        sqr_mom: Hyper = 0.999,
        slow_mom: Hyper = 0.9999,
        slow_weight: Hyper = 2.0,
        slow_mom_warmup: Hyper = 0,
        slow_weight_warmup: Hyper = 0,
        eps: Hyper = 1e-08,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Adam with a second, slow mean of the gradients
        (Pagliardini et al. 2024, https://arxiv.org/abs/2409.03137)."""
AdEMAMix: _AdEMAMix

class _NovoGrad(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.95,
        sqr_mom: Hyper = 0.98,
        eps: Hyper = 1e-08,
        wd: Hyper = 0.0,
        decouple_wd: bool = False,
        dampening: bool = False,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Momentum of gradients that are divided by a running mean of their tensor's norm
        (Ginsburg et al. 2019, https://arxiv.org/abs/1905.11286)."""
NovoGrad: _NovoGrad

class _AdaBound(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.9,
        sqr_mom: Hyper = 0.999,
        final_rate: Hyper = 100.0,
        gamma: Hyper = 0.001,
        eps: Hyper = 1e-08,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        amsbound: bool = False,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Adam whose learning rates converge to that of SGD
        (Luo et al. 2019, https://arxiv.org/abs/1902.09843; debiased, and not divided by the step's root, as in
        its code)."""
AdaBound: _AdaBound

class _AdaMod(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.9,
        sqr_mom: Hyper = 0.999,
        rate_mom: Hyper = 0.999,
        eps: Hyper = 1e-08,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Adam whose learning rates are bounded by their running mean
        (Ding et al. 2019, https://arxiv.org/abs/1910.12249; its code debiases them, not the gradient)."""
AdaMod: _AdaMod

class _DiffGrad(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.9,
        sqr_mom: Hyper = 0.999,
        eps: Hyper = 1e-08,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Adam with smaller steps where the gradient hardly changes
        (Dubey et al. 2019, https://arxiv.org/abs/1909.11015; its code adds `eps` before it debiases)."""
DiffGrad: _DiffGrad

class _PAdam(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.9,
        sqr_mom: Hyper = 0.999,
        power: Hyper = 0.125,
        eps: Hyper = 1e-08,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        amsgrad: bool = True,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Partially adaptive AMSGrad, between Adam and momentum
        (Chen et al. 2018, https://arxiv.org/abs/1806.06763; its code debiases, as Adam does)."""
PAdam: _PAdam

class _StableAdamW(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.9,
        sqr_mom: Hyper = 0.99,
        eps: Hyper = 1e-06,
        wd: Hyper = 0.01,
        decouple_wd: bool = True,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """AdamW that takes smaller steps for tensors whose gradient is large compared to its mean square
        (Wortsman et al. 2023, https://arxiv.org/abs/2304.13013, alg. 2)."""
StableAdamW: _StableAdamW

class _MARS(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.95,
        sqr_mom: Hyper = 0.99,
        gamma: Hyper = 0.025,
        eps: Hyper = 1e-08,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        amsgrad: bool = False,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """AdamW on variance-reduced gradients
        (Yuan et al. 2024, https://arxiv.org/abs/2411.10438; its code uses plain AdamW for tensors that aren't
        matrices)."""
MARS: _MARS

class _SignSGD(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Steps along the gradient's sign (Bernstein et al. 2018, https://arxiv.org/abs/1802.04434)."""
SignSGD: _SignSGD

class _Signum(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.9,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Steps along the sign of the average gradient
        (Bernstein et al. 2018, https://arxiv.org/abs/1802.04434, alg. 2)."""
Signum: _Signum

class _Lion(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.9,
        sqr_mom: Hyper = 0.99,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Steps along the sign of a mixture of gradient and average
        (Chen et al. 2023, https://arxiv.org/abs/2302.06675). `lr` is a tenth to a third of Adam's."""
Lion: _Lion

class _Tiger(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.965,
        wd: Hyper = 0.01,
        decouple_wd: bool = True,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Signum, with `lr` proportional to the RMS of the tensor (Su 2023, https://github.com/bojone/tiger).

        The source treats each row of an embedding separately."""
Tiger: _Tiger

class _Rprop(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        eta_minus: Hyper = 0.5,
        eta_plus: Hyper = 1.2,
        min_step: Hyper = 1e-06,
        max_step: Hyper = 50.0,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Steps along the sign, with a step size per element that starts at `lr`; for full-batch gradients
        (Riedmiller & Braun 1993, https://doi.org/10.1109/ICNN.1993.298623)."""
Rprop: _Rprop

class _ASGD(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        lambd: Hyper = 0.0001,
        power: Hyper = 0.75,
        t0: Hyper = 1000000.0,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Stochastic gradient descent that keeps the mean of the weights, in `ax`
        (Polyak & Juditsky 1992, https://doi.org/10.1137/0330046).

        When `lr` changes, torch still steps with the previous one."""
ASGD: _ASGD

class _QHM(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.999,
        nu: Hyper = 0.7,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Momentum mixed with the newest gradient
        (Ma & Yarats 2019, https://arxiv.org/abs/1810.06801). `lr` is that of momentum divided by `1-mom`."""
QHM: _QHM

class _AggMo(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.9,
        slow_mom: Hyper = 0.99,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """The mean of three momenta, with coefficients 0, `mom` and `slow_mom`
        (Lucas et al. 2019, https://arxiv.org/abs/1804.00325)."""
AggMo: _AggMo

class _MADGRAD(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.9,
        eps: Hyper = 1e-06,
        wd: Hyper = 0.0,
        decouple_wd: bool = False,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Dual averaging with a cube root, and momentum
        (Defazio & Jelassi 2021, https://arxiv.org/abs/2101.11075)."""
MADGRAD: _MADGRAD

class _Fromage(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Steps whose norm is `lr` times that of the tensor, which is shrunk so that it doesn't grow
        (Bernstein et al. 2020, https://arxiv.org/abs/2002.03432).

        `Fromage.insert(keep_bound, before=0).insert(bound_norm, after=apply_update)` bounds each tensor's norm by
        `p_bound` times its initial value, an option of the authors' code."""
Fromage: _Fromage

class _Sophia(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.965,
        sqr_mom: Hyper = 0.99,
        rho: Hyper = 0.04,
        eps: Hyper = 1e-12,
        wd: Hyper = 0.1,
        decouple_wd: bool = True,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Clipped Newton steps, by a curvature that `update_hessian` updates every few steps
        (Liu et al. 2024, https://arxiv.org/abs/2305.14342)."""
Sophia: _Sophia

class _Prodigy(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.9,
        sqr_mom: Hyper = 0.999,
        eps: Hyper = 1e-08,
        d0: Hyper = 1e-06,
        d_coef: Hyper = 1.0,
        d_mom: Hyper = 0.0,
        growth_rate: Hyper = float('inf'),
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        bias_correction: bool = False,
        safeguard_warmup: bool = False,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Adam that finds its own step size: start with `lr=1`
        (Mishchenko & Defazio 2024, https://arxiv.org/abs/2306.06101; as in
        https://github.com/konstmish/prodigy)."""
Prodigy: _Prodigy

class _DAdaptAdam(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.9,
        sqr_mom: Hyper = 0.999,
        eps: Hyper = 1e-08,
        d0: Hyper = 1e-06,
        growth_rate: Hyper = float('inf'),
        layer_scale: Hyper = 1.0,
        wd: Hyper = 0.0,
        decouple_wd: bool = False,
        bias_correction: bool = False,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Adam that finds its own step size: start with `lr=1`
        (Defazio & Mishchenko 2023, https://arxiv.org/abs/2301.07733; as in their code, 3.2)."""
DAdaptAdam: _DAdaptAdam

class _DAdaptSGD(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.0,
        d0: Hyper = 1e-06,
        growth_rate: Hyper = float('inf'),
        wd: Hyper = 0.0,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Dual averaging that finds its own step size: start with `lr=1`
        (Defazio & Mishchenko 2023, https://arxiv.org/abs/2301.07733; as in their code, 3.2)."""
DAdaptSGD: _DAdaptSGD

class _Muon(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.95,
        sqr_mom: Hyper = 0.95,
        eps: Hyper = 1e-07,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        nesterov: bool = True,
        match_rms: bool = False,
        kernel_ndim: Hyper = 4,
        exact: bool = False,
        pairs: bool = True,
        bfloat16: bool = False,
        *,
        vector_lr: Hyper = 0.015,
        ns_steps: Hyper = 5,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Momentum with all singular values made one, and Adam for what is no matrix
        (Jordan 2024, https://kellerjordan.github.io/posts/muon/).

        The iteration is in bfloat16, unless the processor multiplies in float32 faster: `explain()` tells."""
Muon: _Muon

class _Shampoo(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.0,
        eps: Hyper = 0.0001,
        max_dim: Hyper = 1200,
        refresh_steps: Hyper = 1,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Gradients preconditioned by an inverse root of their summed products, in each dimension
        (Gupta et al. 2018, https://arxiv.org/abs/1802.09568, alg. 2)."""
Shampoo: _Shampoo

class _SOAP(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.95,
        sqr_mom: Hyper = 0.95,
        eps: Hyper = 1e-08,
        max_dim: Hyper = 10000,
        refresh_steps: Hyper = 10,
        wd: Hyper = 0.01,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Adam in the eigenbases of Shampoo's matrices, from the second step on
        (Vyas et al. 2024, https://arxiv.org/abs/2409.11321)."""
SOAP: _SOAP

class _Adafactor(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper = 0.01,
        eps: Hyper = 1e-30,
        decay_power: Hyper = 0.8,
        max_update_rms: Hyper = 1.0,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        relative_step: bool = True,
        scale_parameter: bool = True,
        mom: Hyper = 0.0,
        warmup_init: bool = False,
        decay_by_step: bool = False,
        *,
        min_rms: Hyper = 0.001,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Gradients divided by a root mean square that is factored into rows and columns
        (Shazeer & Stern 2018, https://arxiv.org/abs/1804.04235, alg. 4-6).

        It also takes the arguments of `transformers.Adafactor`. `clip_threshold`, `decay_rate`, `beta1` and a
        pair for `eps` imply `decay_by_step`, unless it is given."""
Adafactor: _Adafactor

class _SM3(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.9,
        eps: Hyper = 1e-30,
        wd: Hyper = 0.0,
        decouple_wd: bool = True,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Adagrad with an upper bound of the squares for each row and column
        (Anil et al. 2019, https://arxiv.org/abs/1901.11150, alg. SM3-II)."""
SM3: _SM3

class _ScheduleFreeSGD(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.9,
        wd: Hyper = 0.0,
        warm_steps: Hyper = 0,
        lr_power: Hyper = 2.0,
        step_power: Hyper = 0.0,
        decouple_wd: bool = True,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Schedule-free SGD, with an average of the weights
        (Defazio et al. 2024, https://arxiv.org/abs/2405.15682); needs `eval()` and `train()`."""
ScheduleFreeSGD: _ScheduleFreeSGD

class _ScheduleFreeAdamW(Algorithm):
    def __call__(
        self,
        params: Params,
        lr: Hyper,
        mom: Hyper = 0.9,
        sqr_mom: Hyper = 0.999,
        eps: Hyper = 1e-08,
        wd: Hyper = 0.0,
        warm_steps: Hyper = 0,
        lr_power: Hyper = 2.0,
        step_power: Hyper = 0.0,
        decouple_wd: bool = True,
        *,
        engine: str = 'auto',
        check: bool = True,
        zero_in_step: bool = False,
        **names: Any
    ) -> Optimizer:
        """Schedule-free Adam, with an average of the weights
        (Defazio et al. 2024, https://arxiv.org/abs/2405.15682, alg. 1); needs `eval()` and `train()`."""
ScheduleFreeAdamW: _ScheduleFreeAdamW

__all__ = [
    'SGD',
    'RMSProp',
    'Adam',
    'AdamW',
    'AMSGrad',
    'Yogi',
    'NAdam',
    'Adamax',
    'Adagrad',
    'Adadelta',
    'RAdam',
    'QHAdam',
    'Larc',
    'Lamb',
    'ranger',
    'AdaBelief',
    'Adan',
    'ADOPT',
    'LaProp',
    'AdEMAMix',
    'NovoGrad',
    'AdaBound',
    'AdaMod',
    'DiffGrad',
    'PAdam',
    'StableAdamW',
    'MARS',
    'SignSGD',
    'Signum',
    'Lion',
    'Tiger',
    'Rprop',
    'ASGD',
    'QHM',
    'AggMo',
    'MADGRAD',
    'Fromage',
    'Sophia',
    'Prodigy',
    'DAdaptAdam',
    'DAdaptSGD',
    'Muon',
    'Shampoo',
    'SOAP',
    'Adafactor',
    'SM3',
    'ScheduleFreeSGD',
    'ScheduleFreeAdamW',
    'schedule_free']
