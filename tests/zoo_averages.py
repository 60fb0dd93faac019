"Schedule-free recipes, and rules with parts that keep averages: rows for the table of algorithms, with naive formulas."
from functools import partial

from references import Naive

import optimcb as oc
from optimcb import Optimizer, ema_weights, look_ahead, schedule_free, swa_weights
from optimcb.editing.wrap import wrapped


def free(p, g, s, t, lr, mom, lr_power=2., step_power=0., warm_steps=0, wd=0., direction=lambda g, s, t: g):
    "Defazio et al. 2024, eq. 3-5, with all three sequences kept; `p` is y"
    z, x = s.get('z', p), s.get('x', p)
    lr = lr*min(1, t/warm_steps) if warm_steps else lr
    s['top'] = max(lr, s.get('top', 0))
    weight = t**step_power * s['top']**lr_power
    s['sum'] = s.get('sum', 0) + weight
    s['z'] = z = z - lr*(direction(g, s, t) + wd*p)
    s['x'] = x = x + weight/s['sum']*(z - x)
    return (1-mom)*z + mom*x


def rms(g, s, t, sqr_mom, eps):
    s['v'] = sqr_mom*s.get('v', 0) + (1-sqr_mom)*g*g
    return g/((s['v']/(1 - sqr_mom**t)).sqrt() + eps)


def look(p, g, s, t, lr, mom):
    "Momentum, looking ahead by 3 steps, half of the way"
    slow = s.setdefault('slow', p)
    s['m'] = mom*s.get('m', 0) + g
    p = p - lr*s['m']
    if t % 3 == 0: s['slow'] = p = slow + 0.5*(p - slow)
    return p


CASES = [
    ('schedule-free sgd', partial(oc.ScheduleFreeSGD, warm_steps=10, wd=0.1), partial(Naive, formula=free, mom=0.9, warm_steps=10, wd=0.1)),
    ('schedule-free sgd, options', partial(oc.ScheduleFreeSGD, mom=0.5, lr_power=1., step_power=0.5), partial(Naive, formula=free, mom=0.5, lr_power=1., step_power=0.5)),
    ('schedule-free adamw', partial(oc.ScheduleFreeAdamW, warm_steps=5, wd=0.1, eps=1e-3),
     partial(Naive, formula=free, mom=0.9, warm_steps=5, wd=0.1, direction=partial(rms, sqr_mom=0.999, eps=1e-3))),
    ('momentum with averages and lookahead', partial(Optimizer, cbs=wrapped([oc.average_grad, oc.momentum_step], look_ahead(), ema_weights, swa_weights), mom=0.9, k=3),
     partial(Naive, formula=look, mom=0.9)),
    ('schedule-free sgd, as a part', partial(Optimizer, cbs=wrapped([oc.sgd_step], schedule_free()), free_mom=0.8), partial(Naive, formula=free, mom=0.8)),
]

LRS = dict(ScheduleFreeSGD=1., ScheduleFreeAdamW=0.01)
