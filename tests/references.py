"""Formulas of the papers in naive loops, for what `torch.optim` doesn't have.

Each takes the weights `p`, the gradient `g`, a dict `s` that it may keep things in, the number `t` of the step from 1,
and hyper-parameters; it returns the new weights. Nothing here is shared with the library.
"""
import math

import torch


class Naive:
    "Runs a formula on each parameter that has a gradient"
    def __init__(self, params, formula, **hypers):
        self.params, self.formula, self.hypers = list(params), formula, hypers
        self.state = [{} for _ in self.params]

    def step(self):
        for p, s in zip(self.params, self.state):
            if p.grad is None: continue
            s['t'] = s.get('t', 0) + 1
            p.data.copy_(self.formula(p.data.clone(), p.grad.clone(), s, s['t'], **self.hypers))


def ema(s, k, x, beta, start=0.):
    s[k] = beta*s.get(k, torch.full_like(x, start)) + (1-beta)*x
    return s[k]


def averaged_momentum(p, g, s, t, lr, mom): return p - lr*ema(s, 'm', g, mom)


def momentum_then_rms(p, g, s, t, lr, mom, sqr_mom, eps):
    s['b'] = mom*s.get('b', 0) + g
    return p - lr*s['b']/(ema(s, 'v', g*g, sqr_mom).sqrt() + eps)


def adam(p, g, s, t, lr, mom, sqr_mom, eps, debias1=True, debias2=True, eps_inside=False):
    m, v = ema(s, 'm', g, mom), ema(s, 'v', g*g, sqr_mom)
    if debias1: m = m/(1 - mom**t)
    if debias2: v = v/(1 - sqr_mom**t)
    return p - lr*m/((v + eps).sqrt() if eps_inside else v.sqrt() + eps)


def yogi(p, g, s, t, lr, mom, sqr_mom, eps, start=0., wd=0.):
    p = p*(1 - lr*wd)
    m = ema(s, 'm', g, mom, start)
    v = s.get('v', torch.full_like(g, start))
    s['v'] = v - (1-sqr_mom)*torch.sign(v - g*g)*g*g
    return p - lr*(m/(1 - mom**t))/((s['v']/(1 - sqr_mom**t)).sqrt() + eps)


def radam(p, g, s, t, lr, mom, sqr_mom, eps, wd=0., beta=0.):
    p = p*(1 - lr*wd)
    m, v = ema(s, 'm', g, mom), ema(s, 'v', g*g, sqr_mom)
    most = 2/(1-sqr_mom) - 1
    length = most - 2*t*sqr_mom**t/(1 - sqr_mom**t)
    m = m/(1 - mom**t)
    if length <= 5: return p - lr*m
    r = math.sqrt((length-4)*(length-2)*most/((most-4)*(most-2)*length))
    root = (v/(1 - sqr_mom**t)).sqrt() + eps
    if beta: root = torch.where(beta*root > 20, root, torch.log1p(torch.exp(beta*root))/beta) # linear where it is so to 1e-9
    return p - lr*r*m/root


def qhadam(p, g, s, t, lr, mom, sqr_mom, eps, nu_1, nu_2):
    m, v = ema(s, 'm', g, mom)/(1 - mom**t), ema(s, 'v', g*g, sqr_mom)/(1 - sqr_mom**t)
    return p - lr*((1-nu_1)*g + nu_1*m)/(((1-nu_2)*g*g + nu_2*v).sqrt() + eps)


def larc(p, g, s, t, lr, mom, trust_coeff, eps, wd, clip=True):
    p = p*(1 - lr*wd)
    s['b'] = mom*s.get('b', 0) + g
    size, gsize = (p*p).sum().sqrt(), (g*g).sum().sqrt()
    local = lr*trust_coeff*size/(gsize + wd*size + eps)
    return p - (min(lr, local) if clip else local)*s['b']


def lamb(p, g, s, t, lr, mom, sqr_mom, eps, wd=0.):
    p = p*(1 - lr*wd)
    u = (ema(s, 'm', g, mom)/(1 - mom**t))/((ema(s, 'v', g*g, sqr_mom)/(1 - sqr_mom**t)).sqrt() + eps)
    size, usize = (p*p).mean().sqrt().item(), (u*u).mean().sqrt().item()
    return p - lr*(min(size/usize, 10) if size and usize else 1)*u


def looking_ahead(p, g, s, t, k, alpha, formula, **hypers):
    slow = s.setdefault('slow', p)
    p = formula(p, g, s, t, **hypers)
    if t % k == 0: s['slow'] = p = slow + alpha*(p - slow)
    return p
