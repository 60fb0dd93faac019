"Rows for the table of algorithms: signs, momentum, averages of weights, norms, given curvature. References are `torch.optim` or naive formulas."
import math
from functools import partial

import torch
import torch.optim as to
from references import Naive, ema

import optimcb as oc
from optimcb import average_sqr_grad, newton_update, renamed

LRS = {'SignSGD': 3e-3, 'Signum': 3e-3, 'Lion': 3e-3, 'Tiger': 1e-2, 'Rprop': 1e-3, 'ASGD': 1., 'QHM': 1., 'AggMo': 0.03, 'MADGRAD': 1e-2,
       'Fromage': 0.02, 'Sophia': 3e-3}


def signum(p, g, s, t, lr, mom, wd=0.): return p*(1 - lr*wd) - lr*torch.sign(ema(s, 'm', g, mom))


def lion(p, g, s, t, lr, beta1, beta2, wd):
    p = p*(1 - lr*wd)
    update = torch.sign(beta1*s.get('m', 0.*g) + (1-beta1)*g)
    ema(s, 'm', g, beta2)
    return p - lr*update


def tiger(p, g, s, t, lr, beta, wd):
    lr, wd = (lr*(p*p).mean().sqrt(), wd) if p.dim() > 1 else (lr/2, 0.)
    return p - lr*(torch.sign(ema(s, 'm', g, beta)) + wd*p)


def qhm(p, g, s, t, lr, mom, nu, wd):
    g = g + wd*p
    return p - lr*((1-nu)*g + nu*ema(s, 'm', g, mom))


def aggmo(p, g, s, t, lr, moms, wd):
    g = g + wd*p
    for mom in moms:
        s[mom] = mom*s.get(mom, 0.) + g
        p = p - lr/len(moms)*s[mom]
    return p


def madgrad(p, g, s, t, lr, mom, eps, wd, decouple):
    start, old, lr = s.setdefault('start', p), p, lr + eps
    if not decouple: g = g + wd*p
    s['sum'] = s.get('sum', 0.) + lr*math.sqrt(t)*g
    s['sqr'] = s.get('sqr', 0.) + lr*math.sqrt(t)*g*g
    p = mom*p + (1-mom)*(start - s['sum']/(s['sqr']**(1/3) + eps))
    return p - lr*wd*old if decouple else p


def fromage(p, g, s, t, lr, p_bound=math.inf):
    bound = s.setdefault('bound', p_bound*p.norm())
    if p.norm() > 0 and g.norm() > 0: g = g*(p.norm()/g.norm())
    p = (p - lr*g)/math.sqrt(1 + lr**2)
    return p*(bound/p.norm()) if p.norm() > bound else p


def sophia(p, g, s, t, lr, mom, sqr_mom, rho, eps, wd, scale=0.):
    p = p*(1 - lr*wd)
    m, h = ema(s, 'm', g, mom), ema(s, 'h', scale*g*g, sqr_mom)
    return p - lr*torch.clamp(m/torch.clamp(rho*h, min=eps), -1, 1)


bounded = oc.Fromage.insert(oc.keep_bound, before=0).insert(oc.bound_norm, after=oc.apply_update)
fisher = oc.Sophia.insert(renamed(average_sqr_grad, sqr_avg='hess_avg'), before=newton_update) # the newest gradients as an estimate

CASES = [
    ('signsgd', partial(oc.SignSGD, wd=0.1), partial(Naive, formula=signum, mom=0., wd=0.1)),
    ('signum', partial(oc.Signum, wd=0.1), partial(Naive, formula=signum, mom=0.9, wd=0.1)),
    ('lion', partial(oc.Lion, wd=0.1), partial(Naive, formula=lion, beta1=0.9, beta2=0.99, wd=0.1)),
    ('tiger', oc.Tiger, partial(Naive, formula=tiger, beta=0.965, wd=0.01)),
    ('rprop', oc.Rprop, to.Rprop),
    ('rprop, options', partial(oc.Rprop, eta_minus=0.3, eta_plus=1.5, min_step=0.004, max_step=0.02), partial(to.Rprop, etas=(0.3, 1.5), step_sizes=(0.004, 0.02))),
    ('asgd', partial(oc.ASGD, wd=0.1, decouple_wd=False), partial(to.ASGD, weight_decay=0.1)),
    ('asgd, averaging', partial(oc.ASGD, lambd=0.1, power=0.6, t0=5), partial(to.ASGD, lambd=0.1, alpha=0.6, t0=5)),
    ('qhm', partial(oc.QHM, wd=0.1, decouple_wd=False), partial(Naive, formula=qhm, mom=0.999, nu=0.7, wd=0.1)),
    ('aggmo', partial(oc.AggMo, wd=0.1, decouple_wd=False), partial(Naive, formula=aggmo, moms=(0., 0.9, 0.99), wd=0.1)),
    ('madgrad', partial(oc.MADGRAD, wd=0.1), partial(Naive, formula=madgrad, mom=0.9, eps=1e-6, wd=0.1, decouple=False)),
    ('madgrad, decoupled', partial(oc.MADGRAD, mom=0.5, wd=0.1, decouple_wd=True), partial(Naive, formula=madgrad, mom=0.5, eps=1e-6, wd=0.1, decouple=True)),
    ('fromage', oc.Fromage, partial(Naive, formula=fromage)),
    ('fromage, bounded', partial(bounded, p_bound=1.001), partial(Naive, formula=fromage, p_bound=1.001)),
    ('sophia', oc.Sophia, partial(Naive, formula=sophia, mom=0.965, sqr_mom=0.99, rho=0.04, eps=1e-12, wd=0.1)),
    ('sophia, estimated', partial(fisher, rho=4.), partial(Naive, formula=sophia, mom=0.965, sqr_mom=0.99, rho=4., eps=1e-12, wd=0.1, scale=1.)),
]
