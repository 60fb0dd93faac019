"Rows of the table of algorithms, see `cases`: rules that see a parameter as a matrix. The formulas share nothing with the library."
import itertools
import math
from functools import partial

import torch
import torch.optim as to
from references import Naive, ema

import optimcb as oc


def muon(p, g, s, t, lr, mom, sqr_mom, eps, wd, nesterov=True, match_rms=False):
    "By singular values: the iteration is a polynomial of each of them"
    m = ema(s, 'm', g, mom)
    if p.dim() < 2: # Adam, by a share of the learning rate
        lr = lr if match_rms else 0.015*lr
        return p*(1 - lr*wd) - lr*(m/(1 - mom**t))/((ema(s, 'v', g*g, sqr_mom)/(1 - sqr_mom**t)).sqrt() + eps)
    u, size, v = torch.linalg.svd(((1-mom)*g + mom*m if nesterov else m).reshape(len(p), -1), full_matrices=False)
    size = size/size.pow(2).sum().sqrt()
    for _ in range(5): size = 3.4445*size - 4.775*size**3 + 2.0315*size**5
    rows, columns = len(p), p.numel()//len(p)
    scale = 0.2*max(rows, columns)**0.5 if match_rms else max(1, rows/columns)**0.5
    return p*(1 - lr*wd) - lr*scale*(u @ size.diag() @ v).reshape(p.shape)


def power(m, exponent):
    u, size, v = torch.linalg.svd(m)
    return u @ size.pow(exponent).diag() @ v


def multiplied(x, m, i):
    "Tensor `x` times matrix `m` along dimension `i`"
    letters = 'abcd'[:x.dim()]
    return torch.einsum(f"{letters},{letters[i]}z->{letters.replace(letters[i], 'z')}", x, m)


def shampoo(p, g, s, t, lr, eps, wd=0., mom=0., every=1, most=1200):
    x, g = p*(1 - lr*wd), g.reshape(p.shape or (1,))
    for i, n in enumerate(g.shape):
        rest = g.movedim(i, 0).reshape(n, -1)
        gram = s[i] = s.get(i, eps*torch.eye(n).to(g)) + rest @ rest.T
        if (t-1) % every == 0: s['root', i] = power(gram if n <= most else gram.diag().diag(), -1/(2*g.dim()))
    for i in range(g.dim()): g = multiplied(g, s['root', i], i)
    s['u'] = mom*s.get('u', 0) + g.reshape(p.shape)
    return x - lr*s['u']


def soap(p, g, s, t, lr, mom, sqr_mom, eps, wd, every, most=10000):
    "The authors' code, with the average of the gradients left where it is"
    def turned(x, back=False):
        for i, q in s.get('q', {}).items(): x = multiplied(x, q.T if back else q, i)
        return x
    if t > 1:
        n = t - 1
        m, v = ema(s, 'm', g, mom), ema(s, 'v', turned(g)**2, sqr_mom)
        u = turned(turned(m)/(v.sqrt() + eps), back=True)
        p = p - lr*math.sqrt(1 - sqr_mom**n)/(1 - mom**n)*u
        p = p - lr*wd*p
    if p.dim() < 2: return p
    gram = s.setdefault('gram', {i: torch.zeros(n, n).to(g) for i, n in enumerate(p.shape) if n <= most})
    for i in gram:
        gram[i] = sqr_mom*gram[i] + (1-sqr_mom)*torch.tensordot(g, g, dims=[[j for j in range(g.dim()) if j != i]]*2)
    if t == 1: s['q'] = {i: torch.linalg.eigh(o)[1].flip(1) for i, o in gram.items()}
    elif (t-1) % every == 0:
        for i, q in s['q'].items():
            order = torch.diag(q.T @ gram[i] @ q).argsort(descending=True)
            s['v'] = s['v'].index_select(i, order)
            s['q'][i] = torch.linalg.qr(gram[i] @ q[:, order])[0]
    return p


def adafactor(p, g, s, t, lr, eps=1e-30, wd=0., d=1., scale=True, relative=True):
    beta, size = 1 - t**-0.8, max(1e-3, p.pow(2).mean().sqrt().item()) if scale else 1
    sqr = g*g + eps
    if p.dim() < 2: v = ema(s, 'v', sqr, beta)
    else:
        r, c = ema(s, 'r', sqr.sum(-1), beta), ema(s, 'c', sqr.sum(-2), beta)
        v = torch.einsum('...i,...j->...ij', r, c) / r.sum(-1)[..., None, None]
    u = g/v.sqrt()
    u = u/max(1, u.pow(2).mean().sqrt().item()/d)
    return p*(1 - lr*wd) - size*(min(lr, t**-0.5) if relative else lr)*u


def sm3(p, g, s, t, lr, mom, eps=1e-30, wd=0.):
    p, u = p*(1 - lr*wd), torch.empty_like(g)
    old, new = [s.get(i, [0.]*n) for i, n in enumerate(g.shape)], [[0.]*n for n in g.shape]
    if p.dim() < 2: s['v'] = s.get('v', 0) + g*g
    for at in itertools.product(*map(range, g.shape)):
        v = s['v'][at] if p.dim() < 2 else min(old[i][k] for i, k in enumerate(at)) + g[at]**2
        for i, k in enumerate(at): new[i][k] = max(new[i][k], v)
        u[at] = g[at]/(v + eps)**0.5
    s.update(enumerate(new))
    return p - lr*ema(s, 'm', u, mom)


muon_hypers, soap_hypers = dict(mom=0.95, sqr_mom=0.95, eps=1e-7, wd=0.1), dict(mom=0.95, sqr_mom=0.95,
                                                                                eps=1e-8, wd=0.1)

CASES = [
    ('muon', partial(oc.Muon, wd=0.1, exact=True), partial(Naive, formula=muon, **muon_hypers)),
    ('muon, as large as adam', partial(oc.Muon, wd=0.1, exact=True, nesterov=False, match_rms=True),
     partial(Naive, formula=muon, nesterov=False, match_rms=True, **muon_hypers)),
    ('shampoo', partial(oc.Shampoo, wd=0.1), partial(Naive, formula=shampoo, eps=1e-4, wd=0.1)),
    ('shampoo, large dimensions', partial(oc.Shampoo, mom=0.9, refresh_steps=3, max_dim=3), partial(Naive, formula=shampoo, eps=1e-4, mom=0.9, every=3, most=3)),
    ('soap', partial(oc.SOAP, wd=0.1), partial(Naive, formula=soap, every=10, **soap_hypers)),
    ('soap, large dimensions', partial(oc.SOAP, wd=0.1, refresh_steps=3, max_dim=3), partial(Naive, formula=soap, every=3, most=3, **soap_hypers)),
    ('adafactor', oc.Adafactor, to.Adafactor),
    ('adafactor, plain', partial(oc.Adafactor, wd=0.1, relative_step=False, scale_parameter=False),
     partial(Naive, formula=adafactor, wd=0.1, relative=False, scale=False)),
    ('sm3', partial(oc.SM3, wd=0.1), partial(Naive, formula=sm3, mom=0.9, wd=0.1)),
]

LRS = dict(Muon=0.02, Shampoo=0.1, SOAP=1e-2, Adafactor=2e-2, SM3=0.1) # for a small network on digits
