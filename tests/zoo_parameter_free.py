"""Rows for the table of algorithms: rules that find their own step size.

References step all parameters together, by naive formulas of the authors' code: prodigyopt 1.1.2 and dadaptation 3.2.
"""
import math
from functools import partial

import torch

import optimcb as oc

LRS = {'Prodigy': 1., 'DAdaptAdam': 1., 'DAdaptSGD': 0.25}
OPTIONS = {'DAdaptSGD': dict(mom=0.9, d0=0.01)} # in a hundred steps, and at `lr=1`, the authors' code doesn't train a small network


class Together:
    "Runs a formula on all parameters that have a gradient; `shared` is for what all have in common. Takes groups, too"
    def __init__(self, params, lr, formula, **hypers):
        params = list(params)
        groups = params if isinstance(params[0], dict) else [{'params': params}]
        self.params = [(p, {'lr': g.get('lr', lr), 'layer_scale': g.get('layer_scale', 1.)}) for g in groups
                       for p in g['params']]
        self.state, self.shared, self.formula, self.hypers = [{} for _ in self.params], {'t': 0}, formula, hypers

    def step(self):
        work = [(p, p.grad.clone(), s, h) for (p, h), s in zip(self.params, self.state) if p.grad is not None]
        if not work: return
        self.shared['t'] += 1
        for p, _, s, _ in work:
            for k in ('m', 'v', 's'): s.setdefault(k, torch.zeros_like(p.data))
            s.setdefault('start', p.data.clone())
        self.formula(work, self.shared, self.shared['t'], **self.hypers)


def corrected(lr, t, beta1, beta2, bias_correction):
    return lr*math.sqrt(1 - beta2**t)/(1 - beta1**t) if bias_correction else lr


def prodigy(work, a, t, beta1=0.9, beta2=0.999, beta3=None, eps=1e-8, wd=0., decouple=True, bias_correction=False, safeguard=False, d0=1e-6, d_coef=1.,
            growth_rate=math.inf):
    beta3 = math.sqrt(beta2) if beta3 is None else beta3
    d, d_max = a.get('d', d0), a.get('d_max', d0)
    top, bottom = beta3*a.get('top', 0.), 0.
    for p, g, s, h in work:
        if not decouple: g += wd*p
        lr = corrected(d*h['lr'], t, beta1, beta2, bias_correction)
        top += d/d0*lr*(g*(s['start'] - p)).sum().item()
        s['m'] = beta1*s['m'] + d*(1-beta1)*g
        s['v'] = beta2*s['v'] + d*d*(1-beta2)*g*g
        s['s'] = beta3*s['s'] + d/d0*(d if safeguard else lr)*g
        bottom += s['s'].abs().sum().item()
    if bottom == 0: return
    old, d_hat = d, d_coef*top/bottom
    if d == d0: d = max(d, d_hat)
    d_max = max(d_max, d_hat)
    d = min(d_max, d*growth_rate)
    a.update(d=d, d_max=d_max, top=top)
    for p, _, s, h in work:
        lr = corrected(old*h['lr'], t, beta1, beta2, bias_correction)
        if decouple: p.data -= lr*wd*p.data
        p.data -= lr*s['m']/(s['v'].sqrt() + d*eps)


def dadapt_adam(work, a, t, beta1=0.9, beta2=0.999, eps=1e-8, wd=0., decouple=False, bias_correction=False,
                d0=1e-6, growth_rate=math.inf):
    root2, d, top, bottom = math.sqrt(beta2), a.get('d', d0), 0., 0.
    for p, g, s, h in work:
        lr, r = corrected(d*h['lr'], t, beta1, beta2, bias_correction), h['layer_scale']
        if not decouple: g += wd*p
        top += r*lr*(g*s['s']/(s['v'].sqrt() + eps)).sum().item()
        s['m'] = beta1*s['m'] + (1-beta1)*r*lr*g
        s['v'] = beta2*s['v'] + (1-beta2)*g*g
        s['s'] = root2*s['s'] + (1-root2)*lr*g
        bottom += r*s['s'].abs().sum().item()
    if bottom == 0: return
    a['top'] = root2*a.get('top', 0.) + (1-root2)*top
    a['d'] = max(d, min(a['top']/((1-root2)*bottom), d*growth_rate))
    for p, _, s, h in work:
        if decouple: p.data -= corrected(d*h['lr'], t, beta1, beta2, bias_correction)*wd*p.data
        p.data -= s['m']/(s['v'].sqrt() + eps)


def dadapt_sgd(work, a, t, mom=0., wd=0., d0=1e-6, growth_rate=math.inf):
    "Of the first norm, the authors' code leaves decay out, by a slip: it adds that to a copy"
    d, size = a.get('d', d0), 0.
    for p, g, _, _ in work: g += wd*p
    a.setdefault('norm', math.sqrt(sum((g*g).sum().item() for _, g, _, _ in work)))
    for _, g, s, h in work:
        lr = d*h['lr']/a['norm']
        a['top'] = a.get('top', 0.) + lr*(g*s['s']).sum().item()
        s['s'] = s['s'] + lr*g
        size += (s['s']**2).sum().item()
    a['d'] = max(d, min(2*a['top']/math.sqrt(size), d*growth_rate))
    for p, _, s, _ in work: p.data.copy_(mom*p.data + (1-mom)*(s['start'] - s['s']))


# `d` starts larger than its default: a step of 1e-6 is a difference of weights of which rounding leaves ten digits
prodigy_options = partial(oc.Prodigy, wd=0.1, decouple_wd=False, bias_correction=True, safeguard_warmup=True,
                          d_coef=2., growth_rate=1.5, d0=1e-3, d_mom=0.9)
adam_options = partial(oc.DAdaptAdam, wd=0.1, decouple_wd=True, bias_correction=True, growth_rate=2., d0=1e-3)
DISJOINT = 1e-5 # if no parameter takes part in two steps on end, none can tell of the first; else 1e-12, see `test_parameter_free`

CASES = [
    ('prodigy', partial(oc.Prodigy, wd=0.1, d0=1e-2), partial(Together, formula=prodigy, wd=0.1, d0=1e-2)),
    ('prodigy, options', prodigy_options, partial(Together, formula=prodigy, wd=0.1, decouple=False, bias_correction=True, safeguard=True, d_coef=2.,
                                                  growth_rate=1.5, d0=1e-3, beta3=0.9), DISJOINT),
    ('dadapt adam', partial(oc.DAdaptAdam, wd=0.1, d0=1e-2), partial(Together, formula=dadapt_adam, wd=0.1, d0=1e-2)),
    ('dadapt adam, options', adam_options, partial(Together, formula=dadapt_adam, wd=0.1, decouple=True, bias_correction=True, growth_rate=2., d0=1e-3),
     DISJOINT),
    ('dadapt sgd', partial(oc.DAdaptSGD, mom=0.9, wd=0.1, d0=0.1), partial(Together, formula=dadapt_sgd, mom=0.9, wd=0.1, d0=0.1)),
]
