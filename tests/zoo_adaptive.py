"""Adam's kin: rows of the table of algorithms, and formulas of their papers and of their authors' code, which share nothing with the library.

A row is `(name, recipe with hyper-parameters, reference)`, as in `cases`.
"""
import math
from functools import partial

import torch
from references import Naive, ema

import optimcb as oc


def adam_like(m, v, t, mom, sqr_mom, eps): return m/(1 - mom**t) / ((v/(1 - sqr_mom**t)).sqrt() + eps)
def kept(s, k, x):
    "What was kept, and `x` from now on"
    before, s[k] = s.get(k), x.clone()
    return before
def largest(s, v):
    s['most'] = torch.maximum(s.get('most', torch.zeros_like(v)), v)
    return s['most']


def adabelief(p, g, s, t, lr, mom, sqr_mom, eps, wd=0., amsgrad=False, rectify=False):
    "The authors' adabelief-pytorch 0.2, but for what is rectified there, whose `eps` in the root is not debiased"
    p = p - lr*wd*p
    m = ema(s, 'm', g, mom)
    s['v'] = v = sqr_mom*s.get('v', 0) + (1-sqr_mom)*(g - m)**2 + eps
    if amsgrad: v = largest(s, v)
    u = adam_like(m, v, t, mom, sqr_mom, eps)
    if rectify:
        most = 2/(1-sqr_mom) - 1
        length = most - 2*t*sqr_mom**t/(1 - sqr_mom**t)
        u = m/(1 - mom**t) if length < 5 else u*math.sqrt((length-4)/(most-4)*(length-2)/length*most/(most-2))
    return p - lr*u


def adan(p, g, s, t, lr, mom, diff_mom, sqr_mom, eps, wd, proximal=True):
    "The authors' adan.py, with each parameter's own count of steps"
    before = kept(s, 'g', g)
    d = g - before if before is not None else 0*g
    m, n, v = ema(s, 'm', g, mom), ema(s, 'd', d, diff_mom), ema(s, 'v', (g + diff_mom*d)**2, sqr_mom)
    u = (m/(1 - mom**t) + diff_mom*n/(1 - diff_mom**t)) / (v.sqrt()/math.sqrt(1 - sqr_mom**t) + eps)
    return (p - lr*u)/(1 + lr*wd) if proximal else p*(1 - lr*wd) - lr*u


def adopt(p, g, s, t, lr, mom, sqr_mom, eps, wd, clip=True, l2=False):
    "The authors' adopt.py, which counts from 0"
    if l2: g = g + wd*p
    if t == 1:
        s['v'] = g*g
        return p
    if not l2: p = p - lr*wd*p
    x = g/torch.clamp(s['v'].sqrt(), min=eps)
    if clip: x = x.clamp(-(t-1)**0.25, (t-1)**0.25)
    s['v'] = sqr_mom*s['v'] + (1-sqr_mom)*g*g
    return p - lr*ema(s, 'm', x, mom)


def laprop(p, g, s, t, lr, mom, sqr_mom, eps, wd=0., amsgrad=False):
    p = p - lr*wd*p
    v = ema(s, 'v', g*g, sqr_mom)
    if amsgrad: v = largest(s, v)
    return p - lr*ema(s, 'm', g/((v/(1 - sqr_mom**t)).sqrt() + eps), mom)/(1 - mom**t)


def ademamix(p, g, s, t, lr, mom, sqr_mom, slow_mom, slow_weight, eps, wd=0., T_mom=0, T_weight=0):
    "The paper's schedules: the authors' code adds 1e-8 to the β whose logarithm it takes"
    if t < T_weight: slow_weight = slow_weight*t/T_weight
    if t < T_mom:
        a, b = math.log(mom), math.log(slow_mom)
        slow_mom = min(math.exp(a*b/((1 - t/T_mom)*b + t/T_mom*a)), slow_mom)
    m, slow, v = ema(s, 'm', g, mom), ema(s, 'slow', g, slow_mom), ema(s, 'v', g*g, sqr_mom)
    u = (m/(1 - mom**t) + slow_weight*slow)/(v.sqrt()/math.sqrt(1 - sqr_mom**t) + eps)
    return p - lr*(u + wd*p)


def novograd(p, g, s, t, lr, mom, sqr_mom, eps, wd, inside=True, share=1.):
    if not inside: p = p - lr*wd*p
    sqr = (g*g).sum()
    s['v'] = sqr if t == 1 else sqr_mom*s['v'] + (1-sqr_mom)*sqr
    s['m'] = mom*s.get('m', 0) + share*(g/(s['v'].sqrt() + eps) + (wd*p if inside else 0))
    return p - lr*s['m']


def adabound(p, g, s, t, lr, mom, sqr_mom, final_lr, gamma, eps, wd, amsbound=False):
    "The authors' adabound.py, with a decay as AdamW has it"
    p = p - lr*wd*p
    m, v = ema(s, 'm', g, mom), ema(s, 'v', g*g, sqr_mom)
    if amsbound: v = largest(s, v)
    rate = lr*math.sqrt(1 - sqr_mom**t)/(1 - mom**t)/(v.sqrt() + eps)
    return p - m*rate.clamp(final_lr*(1 - 1/(gamma*t + 1)), final_lr*(1 + 1/(gamma*t)))


def adamod(p, g, s, t, lr, mom, sqr_mom, rate_mom, eps, wd):
    p = p - lr*wd*p
    m, v = ema(s, 'm', g, mom), ema(s, 'v', g*g, sqr_mom)
    rate = lr/((v/(1 - sqr_mom**t)).sqrt() + eps)
    return p - torch.minimum(rate, ema(s, 'r', rate, rate_mom))*m/(1 - mom**t)


def diffgrad(p, g, s, t, lr, mom, sqr_mom, eps, wd):
    p = p - lr*wd*p
    before = kept(s, 'g', g)
    friction = 1/(1 + torch.exp(-(g - (0 if before is None else before)).abs()))
    return p - lr*friction*adam_like(ema(s, 'm', g, mom), ema(s, 'v', g*g, sqr_mom), t, mom, sqr_mom, eps)


def padam(p, g, s, t, lr, mom, sqr_mom, power, eps, wd, amsgrad=True):
    p = p - lr*wd*p
    m, v = ema(s, 'm', g, mom), ema(s, 'v', g*g, sqr_mom)
    if amsgrad: v = largest(s, v)
    return p - lr*m/(v.sqrt() + eps)**(2*power)


def stable_adamw(p, g, s, t, lr, mom, sqr_mom, eps, wd):
    m, v = ema(s, 'm', g, mom)/(1 - mom**t), ema(s, 'v', g*g, sqr_mom)/(1 - sqr_mom**t)
    lr = lr/max(1., (g*g/torch.clamp(v, min=eps*eps)).mean().sqrt().item())
    return p*(1 - lr*wd) - lr*m/(v.sqrt() + eps)


def mars(p, g, s, t, lr, mom, sqr_mom, gamma, eps, wd, amsgrad=False):
    "The authors' mars.py with `optimize_1d=True`"
    before = kept(s, 'g', g)
    c = g + gamma*mom/(1-mom)*(g - (0 if before is None else before))
    norm = (c*c).sum().sqrt().item()
    if norm > 1: c = c/norm
    m, v = ema(s, 'm', c, mom), ema(s, 'v', c*c, sqr_mom)
    if amsgrad: v = largest(s, v)
    return p - lr*(wd*p + adam_like(m, v, t, mom, sqr_mom, eps))


def pair(name, ours, formula, ref=None, wd=0.1, options=None, **hypers):
    "A row: `hypers` are the same on both sides, `options` are the recipe's, `ref` are the formula's"
    defaults = {k: v for k, v in ours.hypers.items() if k in formula.__code__.co_varnames}
    return name, partial(ours, wd=wd, **hypers, **options or {}), partial(Naive, formula=formula, **defaults | hypers | {'wd': wd} | (ref or {}))


def flags(**kw): return dict(options=kw, ref=kw)


CASES = [
    pair('adabelief', oc.AdaBelief, adabelief),
    pair('adabelief, amsgrad, rectified', oc.AdaBelief, adabelief, sqr_mom=0.9, eps=1e-4, **flags(amsgrad=True, rectify=True)),
    pair('adan', oc.Adan, adan),
    pair('adan, decay first', oc.Adan, adan, **flags(proximal=False)),
    pair('adopt', oc.ADOPT, adopt),
    pair('adopt, l2, not clipped', oc.ADOPT, adopt, options=dict(decouple_wd=False, clip=False), ref=dict(l2=True, clip=False)),
    pair('laprop', oc.LaProp, laprop),
    pair('laprop, amsgrad', oc.LaProp, laprop, sqr_mom=0.9, **flags(amsgrad=True)),
    pair('ademamix', oc.AdEMAMix, ademamix),
    pair('ademamix, warmed up', oc.AdEMAMix, ademamix, options=dict(slow_mom_warmup=30, slow_weight_warmup=40), ref=dict(T_mom=30, T_weight=40)),
    pair('novograd', oc.NovoGrad, novograd),
    pair('novograd, decoupled, averaged', oc.NovoGrad, novograd, mom=0.9, options=dict(decouple_wd=True, dampening=True), ref=dict(inside=False, share=1-0.9)),
    pair('adabound', oc.AdaBound, adabound, gamma=0.05, options=dict(final_rate=5.), ref=dict(final_lr=0.05)), # of the tests' lr, 0.01
    pair('amsbound', oc.AdaBound, adabound, sqr_mom=0.9, options=dict(amsbound=True), ref=dict(amsbound=True, final_lr=1.)),
    pair('adamod', oc.AdaMod, adamod, rate_mom=0.9),
    pair('diffgrad', oc.DiffGrad, diffgrad),
    pair('padam', oc.PAdam, padam),
    pair('padam, not the largest', oc.PAdam, padam, power=0.3, **flags(amsgrad=False)),
    pair('stableadamw', oc.StableAdamW, stable_adamw),
    pair('mars', oc.MARS, mars),
    pair('mars, amsgrad', oc.MARS, mars, sqr_mom=0.9, **flags(amsgrad=True)),
]

LRS = {'AdaBelief': 0.01, 'Adan': 0.03, 'ADOPT': 0.01, 'LaProp': 0.01, 'AdEMAMix': 0.01, 'NovoGrad': 0.01, 'AdaBound': 0.01, 'AdaMod': 0.1,
       'DiffGrad': 0.03, 'PAdam': 0.1, 'StableAdamW': 0.01, 'MARS': 0.03} # for a small network on digits
