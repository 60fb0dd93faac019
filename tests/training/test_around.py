"""What stands around a step (SAM, Lookahead, accumulation, averages, a Hessian) goes with every part and several kinds of rules.

Each pair is compared with a loop around the same pair as it is, which shares nothing with what is tested. Whether a pair
maximizes is found out by stepping with it, not by asking its steppers: a part that turns gradients round, and doesn't say
so, makes SAM probe the wrong way, which is seen here.
"""
import warnings
from contextlib import contextmanager
from functools import cache, partial

import pytest
import torch
from helpers import difference, params
from test_sam import closure_of, loss_of
from test_wrapping import PARTS, RULES, taken

import optimcb as oc

D = torch.float64
KINDS = ['momentum', 'Lion', 'Lamb', 'Adan', 'Muon', 'Prodigy'] # one of each kind; a part goes with one of them, and with Adam
PAIRS = [(rule, name) for i, name in enumerate(PARTS) for rule in ('Adam', KINDS[i % len(KINDS)])]
PAIRS += [(rule, 'maximize') for rule in KINDS if (rule, 'maximize') not in PAIRS]
pairs = pytest.mark.parametrize('rule, name', PAIRS, ids=lambda o: o)


@contextmanager
def quietly():
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.manual_seed(0)
        yield


def pair(rule, name):
    "The rule with the part; skips what is refused"
    try: return partial(taken(RULES[rule], PARTS[name]), lr=0.01, engine='eager', check=False)
    except ValueError as e: pytest.skip(f'refused: {e}')


def grads_at(ps, t=0):
    for p, g in zip(ps, torch.autograd.grad(loss_of(ps, t), ps)): p.grad = g


def plain(make, steps, each=1):
    "The weights after each step of a pair as it is; each gradient comes `each` times"
    ps = params(dtype=D)
    opt, seen = make(ps), []
    for t in range(steps):
        grads_at(ps, t)
        for _ in range(each): opt.step()
        seen.append([p.detach().clone() for p in ps])
    return seen


@cache
def maximizes(name) -> bool:
    "Does SGD with a part go up, on a loss whose gradient keeps its direction?"
    p = torch.nn.Parameter(torch.ones(3, 3, dtype=D))
    with quietly(): opt = taken(oc.SGD, PARTS[name])([p], lr=0.01, engine='eager', check=False)
    for _ in range(4):
        p.grad = torch.arange(1., 10., dtype=D).reshape(3, 3)*100
        opt.step()
    moved = ((p.detach() - 1)*p.grad).sum().item()
    assert moved, f'{name} never moves'
    return moved > 0


def test_maximizing_is_seen():
    assert [k for k in PARTS if maximizes(k)] == ['maximize']


@pairs
def test_sam_probes_against_the_way_of_the_step(rule, name):
    "Up where the pair minimizes, down where it maximizes; then it steps as the pair does by the gradients found there"
    make, rho = pair(rule, name), 0.05
    way = -1 if maximizes(name) else 1
    ps, qs = params(dtype=D), params(dtype=D)
    with quietly():
        opt = oc.SAM(make(ps), rho=rho)
        for t in range(4): opt.step(closure_of(opt, ps, t))
    with quietly():
        opt = make(qs)
        for t in range(4):
            grads, start = torch.autograd.grad(loss_of(qs, t), qs), [q.detach().clone() for q in qs]
            norm = sum(g.pow(2).sum() for g in grads).sqrt()
            for q, g in zip(qs, grads): q.data.add_(g, alpha=(way*rho/norm).item())
            grads_at(qs, t)
            for q, s in zip(qs, start): q.data.copy_(s)
            opt.step()
    assert difference([p.data for p in ps], [q.data for q in qs]) < 1e-10


@pytest.mark.parametrize('name', PARTS)
def test_a_probe_of_length_0_is_the_pair_itself(name):
    make, ps = pair('Adam', name), params(dtype=D)
    with quietly(): expected = plain(make, 4)[-1]
    with quietly():
        opt = oc.SAM(make(ps), rho=0.)
        for t in range(4): opt.step(closure_of(opt, ps, t))
    assert all(map(torch.equal, (p.data for p in ps), expected))


@pairs
def test_lookahead_goes_back_a_share_of_the_way(rule, name):
    make, k, alpha = pair(rule, name), 2, 0.25
    calls = 2 if name == 'accumulate' else 1 # for one step
    ps, qs = params(dtype=D), params(dtype=D)
    with quietly():
        try: opt = oc.Lookahead(make(ps), k=k, alpha=alpha)
        except ValueError as e: pytest.skip(f'refused: {e}')
        for t in range(6*calls):
            grads_at(ps, t)
            opt.step()
    with quietly():
        opt, slow = make(qs), [q.detach().clone() for q in qs]
        for t in range(6*calls):
            grads_at(qs, t)
            opt.step()
            if (t + 1) % (k*calls): continue
            for q, s in zip(qs, slow): q.data.copy_(s.add_(q.detach() - s, alpha=alpha))
    assert difference([p.data for p in ps], [q.data for q in qs]) < 1e-10


@pairs
def test_a_gradient_that_comes_twice_is_accumulated_to_itself(rule, name):
    make = pair(rule, name)
    with quietly(): expected = plain(make, 4)
    try: both = taken(RULES[rule], PARTS[name], oc.accumulate)
    except ValueError as e: pytest.skip(f'refused: {e}')
    with quietly(): got = plain(partial(both, accum=2, lr=0.01, engine='eager', check=False), 4, each=2)
    assert difference(got[-1], expected[-1]) < 1e-12


@pairs
def test_averages_are_of_the_weights_of_the_pair(rule, name):
    "Training goes on as without them; `eval` puts in their mean, and `train` takes it out, to the bit"
    make, mom = pair(rule, name), 0.8
    with quietly(): seen = plain(make, 5)
    ps = params(dtype=D)
    with quietly():
        averaged = taken(RULES[rule], PARTS[name], partial(oc.ema_weights, ema_mom=mom))
        opt = averaged(ps, lr=0.01, engine='eager', check=False)
        for t in range(5):
            grads_at(ps, t)
            opt.step()
    assert all(map(torch.equal, (p.data for p in ps), seen[-1]))
    steps = seen[1::2] if name == 'accumulate' else seen
    mean = [p.clone() for p in steps[0]]
    for at in steps[1:]: mean = [mom*m + (1-mom)*p for m, p in zip(mean, at)]
    opt.eval()
    assert difference([p.data for p in ps], mean) < 1e-12
    opt.train()
    assert all(map(torch.equal, (p.data for p in ps), seen[-1]))


@pytest.mark.parametrize('name', PARTS)
def test_a_hessian_is_of_what_is_minimized(name):
    "Where a pair maximizes, an estimate's sign is turned, so that a maximum curves as a minimum does"
    make = pair('Sophia', name)
    ps = params(dtype=D)
    with quietly(): opt = make(ps)
    for _ in range(4):
        grads_at(ps)
        opt.step()
    for p in ps: opt.state[p].pop('hess_avg', None)
    way = -1. if maximizes(name) else 1.
    oc.update_hessian(opt, [torch.full_like(p, 3*way) for p in ps])
    assert all((opt.state[p]['hess_avg'] > 0).all() for p in ps)
