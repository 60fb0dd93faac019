"A step that raises has changed nothing, wherever that can be known before."
import copy
import warnings

import pytest
import torch
from helpers import params, set_grads
from hypothesis import given, settings
from hypothesis import strategies as st
from on_engines import TRACED
from torch import nn

import optimcb as oc
from optimcb import Optimizer, by_torch

ENGINES = ('auto', 'eager', *TRACED)
QUIET = pytest.mark.filterwarnings('ignore:the eager engine runs')


def snapshot(opt, ps): return copy.deepcopy([(p.detach(), dict(opt.state.get(p, {}))) for p in ps])


def same(before, after):
    def equal(a, b): return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    def equal_states(s, t): return s.keys() == t.keys() and all(equal(v, t[k]) for k, v in s.items())
    return all(torch.equal(p, q) and equal_states(s, t) for (p, s), (q, t) in zip(before, after))


class Stumble:
    "A stepper that fails for a parameter of which an element is larger than it likes"
    def __init__(self, at): self.at = at
    __name__ = 'stumble'
    def __call__(self, p):
        if p.data.max() > self.at: raise ArithmeticError('too large')


def mixed(dtype=torch.float64, eager=2):
    "Parameters that kernels step, and others that only the eager engine can"
    ps = params([(3, 4), (5,), (2, 2), (7,), (4, 1)], dtype)
    for p in ps[-eager:]:
        wide = p.data.new_zeros(*(2*n for n in p.shape))
        every_other = tuple(slice(None, None, 2) for _ in p.shape)
        p.data = wide[every_other].copy_(p.data)
    return ps


@QUIET
@pytest.mark.parametrize('where', range(5))
@pytest.mark.parametrize('engine', ENGINES[:2])
def test_the_first_step_is_undone_whichever_parameter_raises(engine, where):
    ps = params([(3,)]*5, torch.float64)
    ps[where].data[0] = 100
    opt = Optimizer(ps, [*oc.AdamW.cbs, Stumble(50)], lr=0.1, engine=engine, **oc.AdamW.hypers)
    set_grads(ps)
    before = snapshot(opt, ps)
    for _ in range(2):
        with pytest.raises(ArithmeticError): opt.step()
        assert same(before, snapshot(opt, ps))
    ps[where].data[0] = 1
    opt.step()
    assert all(opt.state[p]['step'] == 1 for p in ps)


@pytest.mark.parametrize('engine', ENGINES)
def test_kernels_wait_for_what_the_eager_engine_does(engine):
    "In a later step, too: a stepper that fails on the only parameter that is left to the eager engine"
    def fragile(p, lr, fails=False):
        if fails: raise ZeroDivisionError
        p.data.sub_(p.grad, alpha=lr)
    ps = mixed(eager=1)
    opt = Optimizer(ps, [oc.step_stat, fragile], lr=0.1, engine=engine)
    for i in range(5):
        set_grads(ps, i)
        if i == 3:
            opt.state[ps[-1]]['fails'] = True
            before = snapshot(opt, ps)
            with pytest.raises(ZeroDivisionError): opt.step()
            after = snapshot(opt, ps)
            if engine != 'eager': assert same(before[:-1], after[:-1])
            opt.state[ps[-1]]['fails'] = False
        opt.step()
    assert [opt.state[p]['step'] for p in ps[:-1]] == ([6] if engine == 'eager' else [5])*4


@QUIET
@pytest.mark.parametrize('engine', ENGINES)
def test_one_that_joins_late_and_fails(engine):
    "All of that step is undone"
    ps = params([(3,)]*4, torch.float64)
    opt = Optimizer(ps, oc.AdamW.cbs, lr=0.1, engine=engine, **oc.AdamW.hypers)
    for i in range(2):
        set_grads(ps, i, skip=[2])
        opt.step()
    set_grads(ps, 2)
    opt.state[ps[2]]['grad_avg'] = torch.ones(2, 2) # of no use
    before = snapshot(opt, ps)
    with pytest.raises(RuntimeError): opt.step()
    assert same(before, snapshot(opt, ps))


@by_torch
def inverse(x):
    if x.device.type != 'meta' and x.abs().max() > 1e3: raise ArithmeticError('singular')
    return x.clone()


@pytest.mark.parametrize('engine', ENGINES)
def test_a_function_between_kernels_that_raises(engine):
    "In a later step, for the last parameter: also what the eager engine has for itself is as it was"
    def update(p): return {'update': inverse(p.grad.data)}
    ps = mixed(eager=1)[::-1]
    opt = Optimizer(ps, [oc.weight_decay, update, oc.apply_update], lr=0.1, wd=0.1, engine=engine)
    for i in range(3):
        set_grads(ps, i)
        for p in ps: p.grad.clamp_(-9, 9)
        opt.step()
    ps[-1].grad.fill_(1e4)
    before = snapshot(opt, ps)
    with pytest.raises(ArithmeticError): opt.step()
    assert same(before, snapshot(opt, ps)) != (engine == 'eager')


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(ENGINES), st.integers(0, 4), st.integers(0, 3), st.booleans())
def test_what_a_later_step_that_fails_leaves(engine, where, late, sparse):
    "What is promised: those before it in the eager engine's part are stepped, kernels' are not"
    calls = []
    def fragile(p, lr):
        calls.append(1)
        if len(calls) == 5*late + where + 1: raise ZeroDivisionError
        p.data.sub_(p.grad, alpha=lr)
    ps = params([(3,)]*5, torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        opt = Optimizer(ps, fragile, lr=0.1, engine='auto' if engine in TRACED else engine, check=False)
        for i in range(late + 1):
            set_grads(ps, i)
            if sparse: ps[1].grad = ps[1].grad.to_sparse()
            before = snapshot(opt, ps)
            if i < late: opt.step()
        with pytest.raises(ZeroDivisionError): opt.step()
    moved = [not torch.equal(p, b) for p, (b, _) in zip(ps, before)]
    assert moved == [late > 0 and i < where for i in range(5)]


@QUIET
@pytest.mark.parametrize('engine', ENGINES[:2])
def test_a_sparse_gradient_that_cant_be_had(engine):
    def odd(p): # sums over all, and keeps state without rows
        total = yield p.grad.pow(2).sum()
        p.grad = p.grad / total.sqrt()
        return {'sizes': torch.ones(3, dtype=p.grad.dtype)}
    ps = params([(4, 2), (3,)], torch.float64)
    opt = Optimizer(ps, [odd, oc.sgd_step], lr=0.1, engine=engine, check=False)
    set_grads(ps)
    ps[0].grad = torch.sparse_coo_tensor([[1, 3]], torch.ones(2, 2, dtype=torch.float64), (4, 2))
    before = snapshot(opt, ps)
    with pytest.raises(ValueError, match='sparse'): opt.step()
    assert same(before, snapshot(opt, ps))


def test_a_step_that_fails_counts_for_autograd():
    "Values that were saved for backward have changed, as far as it is known"
    ps = params([(3,)]*2, torch.float64)
    calls = []
    def fragile(p, lr):
        calls.append(1)
        if len(calls) == 4: raise ZeroDivisionError
        p.data.sub_(p.grad, alpha=lr)
    opt = Optimizer(ps, fragile, lr=0.1, engine='eager', check=False)
    set_grads(ps)
    opt.step()
    out = (ps[0]*ps[0]*nn.Parameter(torch.ones(3, dtype=torch.float64))).sum()
    with pytest.raises(ZeroDivisionError): opt.step()
    with pytest.raises(RuntimeError, match='modified by an inplace operation'): out.backward()
