"""The table of algorithms: name, recipe with hyper-parameters, reference.

A new algorithm is a row here. The reference is `torch.optim` where it has the algorithm, else a formula of
`references`. All must hold over 50 steps to `TOL`.
"""
from functools import partial

import references as ref
import torch
import torch.optim as to
from references import Naive

import optimcb as oc
from optimcb import (
    Optimizer,
    apply_update,
    average_grad,
    average_sqr_grad,
    debias_grad_avg,
    debias_sqr_avg,
    eps_in_root,
    lamb_step,
    rms_update,
    step_stat,
)

TOL = {torch.float64: 1e-12, torch.float32: 1e-5}

mean_grad = partial(average_grad, dampening=True)
adam_hypers = dict(mom=0.9, sqr_mom=0.99, eps=1e-3)
l2 = dict(wd=0.1, decouple_wd=False)


def composed(*cbs, **hypers): return partial(Optimizer, cbs=list(cbs), **hypers)


CASES = [
    ('sgd', oc.SGD, to.SGD),
    ('sgd, l2', partial(oc.SGD, **l2), partial(to.SGD, weight_decay=0.1)),
    ('sgd, torch names', partial(oc.SGD, momentum=0.9, weight_decay=0.1, decouple_wd=False), partial(to.SGD, momentum=0.9, weight_decay=0.1)),
    ('momentum', partial(oc.SGD, mom=0.9, **l2), partial(to.SGD, momentum=0.9, weight_decay=0.1)),
    ('averaged momentum', partial(oc.SGD, mom=0.9, dampening=True), partial(Naive, formula=ref.averaged_momentum, mom=0.9)),
    ('nesterov', partial(oc.SGD, mom=0.9, nesterov=True, **l2), partial(to.SGD, momentum=0.9, nesterov=True, weight_decay=0.1)),
    ('rmsprop', partial(oc.RMSProp, **l2), partial(to.RMSprop, weight_decay=0.1)),
    ('rmsprop, eps', partial(oc.RMSProp, eps=0.5), partial(to.RMSprop, eps=0.5)),
    ('rmsprop, momentum', partial(oc.RMSProp, mom=0.9, eps=1e-3), partial(Naive, formula=ref.momentum_then_rms, **adam_hypers)),
    ('rmsprop, divide first', partial(oc.RMSProp, mom=0.9, divide_first=True), partial(to.RMSprop, momentum=0.9)),
    ('rmsprop, centered', partial(oc.RMSProp, centered=True, eps=1e-3), partial(to.RMSprop, centered=True, eps=1e-3)),
    ('rmsprop, centered, divide first', partial(oc.RMSProp, mom=0.9, centered=True, divide_first=True, eps=1e-3),
     partial(to.RMSprop, centered=True, momentum=0.9, eps=1e-3)),
    ('adam, l2', partial(oc.Adam, sqr_mom=0.999, eps=1e-8, **l2), partial(to.Adam, weight_decay=0.1)),
    ('adam, torch names', partial(oc.Adam, betas=(0.8, 0.95), eps=1e-8, weight_decay=0.1), partial(to.AdamW, betas=(0.8, 0.95), weight_decay=0.1)),
    ('adamw', oc.AdamW, to.AdamW),
    ('adam in parts', composed(mean_grad, average_sqr_grad, step_stat, debias_grad_avg, debias_sqr_avg, rms_update, apply_update, **adam_hypers),
     partial(Naive, formula=ref.adam, **adam_hypers)),
    ('adam, first moment not debiased', composed(mean_grad, average_sqr_grad, step_stat, debias_sqr_avg, rms_update, apply_update, **adam_hypers),
     partial(Naive, formula=ref.adam, debias1=False, **adam_hypers)),
    ('adam, second moment not debiased', composed(mean_grad, average_sqr_grad, step_stat, debias_grad_avg, rms_update, apply_update, **adam_hypers),
     partial(Naive, formula=ref.adam, debias2=False, **adam_hypers)),
    ('adam, eps inside',
     composed(mean_grad, average_sqr_grad, step_stat, debias_grad_avg, debias_sqr_avg, eps_in_root, rms_update, apply_update, **adam_hypers),
     partial(Naive, formula=ref.adam, eps_inside=True, **adam_hypers)),
    ('amsgrad', partial(oc.AMSGrad, **l2), partial(to.Adam, amsgrad=True, weight_decay=0.1)),
    ('amsgrad, decoupled', partial(oc.AMSGrad, wd=0.1), partial(to.AdamW, amsgrad=True, weight_decay=0.1)),
    ('yogi', partial(oc.Yogi, wd=0.1), partial(Naive, formula=ref.yogi, mom=0.9, sqr_mom=0.999, eps=1e-3, wd=0.1)),
    ('yogi, started at 1e-6', partial(oc.Yogi, init_avg=1e-6), partial(Naive, formula=ref.yogi, mom=0.9, sqr_mom=0.999, eps=1e-3, start=1e-6)),
    ('nadam', partial(oc.NAdam, **l2), partial(to.NAdam, weight_decay=0.1)),
    ('nadam, decoupled', partial(oc.NAdam, wd=0.1, mom_decay=0.1), partial(to.NAdam, weight_decay=0.1, decoupled_weight_decay=True, momentum_decay=0.1)),
    ('adamax', partial(oc.Adamax, **l2), partial(to.Adamax, weight_decay=0.1)),
    ('adagrad', partial(oc.Adagrad, **l2), partial(to.Adagrad, weight_decay=0.1)),
    ('adagrad, options', partial(oc.Adagrad, lr_decay=0.1, init_sum=0.5), partial(to.Adagrad, lr_decay=0.1, initial_accumulator_value=0.5)),
    ('adadelta', partial(oc.Adadelta, **l2), partial(to.Adadelta, weight_decay=0.1)),
    ('radam', partial(oc.RAdam, wd=0.1), partial(Naive, formula=ref.radam, mom=0.9, sqr_mom=0.99, eps=1e-5, wd=0.1)),
    ('sadam', partial(oc.RAdam, beta=50.), partial(Naive, formula=ref.radam, mom=0.9, sqr_mom=0.99, eps=1e-5, beta=50.)),
    ('qhadam', partial(oc.QHAdam, nu_2=0.9), partial(Naive, formula=ref.qhadam, mom=0.999, sqr_mom=0.999, eps=1e-8, nu_1=0.7, nu_2=0.9)),
    ('larc', partial(oc.Larc, wd=0.1), partial(Naive, formula=ref.larc, mom=0.9, trust_coeff=0.02, eps=1e-8, wd=0.1)),
    ('lars', partial(oc.Larc, clip=False, trust_coeff=2.), partial(Naive, formula=ref.larc, mom=0.9, trust_coeff=2., eps=1e-8, wd=0., clip=False)),
    ('lamb', partial(oc.Lamb, wd=0.1), partial(Naive, formula=ref.lamb, mom=0.9, sqr_mom=0.99, eps=1e-5, wd=0.1)),
    ('lamb in one', composed(mean_grad, average_sqr_grad, step_stat, lamb_step, **adam_hypers), partial(Naive, formula=ref.lamb, **adam_hypers)),
    ('lookahead', lambda ps, lr: oc.Lookahead(oc.SGD(ps, lr), k=3, alpha=0.3),
     partial(Naive, formula=partial(ref.looking_ahead, formula=lambda p, g, s, t, lr: p - lr*g), k=3, alpha=0.3)),
    ('ranger', oc.ranger, partial(Naive, formula=partial(ref.looking_ahead, formula=ref.radam), k=6, alpha=0.5, mom=0.95, sqr_mom=0.99, eps=1e-6, wd=0.01)),
]
