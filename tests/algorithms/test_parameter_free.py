"""What rules that find their own step size do about parameters that are not all alike, and about averaged
weights."""
from functools import partial

import pytest
import torch
from on_engines import TRACED
from zoo import apart
from zoo_parameter_free import CASES, DISJOINT, Together, dadapt_adam, dadapt_sgd, prodigy

from optimcb import ASGD, DAdaptAdam, DAdaptSGD, Prodigy

ENGINES = ['eager', *TRACED]
RULES = [(Prodigy, prodigy), (DAdaptAdam, dadapt_adam), (DAdaptSGD, dadapt_sgd)]


def params():
    r = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=r, dtype=torch.float64)) for shape in [(3, 4), (4,), ()]]


def set_grads(ps, i, there=(0, 1, 2)):
    "Of a quadratic function, so that a longer step makes a difference"
    r = torch.Generator().manual_seed(i)
    for j, p in enumerate(ps):
        grad = (j+1)*(p.data - 0.7) + 0.1*torch.randn(p.shape, generator=r, dtype=p.dtype)
        p.grad = grad if j in there else None


def assert_equal(rule, formula, engine, groups=list, there=lambda i: (0, 1, 2), **hypers):
    ps, qs = params(), params()
    opt, ref = rule(groups(ps), lr=1., engine=engine, d0=0.01, **hypers), Together(groups(qs), lr=1., formula=partial(formula, d0=0.01))
    for i in range(20):
        for o, xs in ((opt, ps), (ref, qs)):
            set_grads(xs, i, there(i))
            o.step()
    for p, q in zip(ps, qs): torch.testing.assert_close(p.data, q.data, rtol=1e-10, atol=1e-12)
    return opt, ps


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('rule,formula', RULES, ids=lambda o: getattr(o, '__name__', ''))
def test_who_comes_late_or_was_away_has_what_the_others_have(rule, formula, engine):
    opt, ps = assert_equal(rule, formula, engine,
                           there=lambda i: {0, 1, 2} - ({2} if i < 5 else {0} if 8 < i < 13 else set()))
    states = [opt.state[p] for p in ps]
    for k in ('d', 'd_numerator', 'turn'):
        for s in states[1:]: torch.testing.assert_close(torch.as_tensor(s[k]), torch.as_tensor(states[0][k]))
    assert states[0]['turn'] == 20 and states[0]['d'] > 0.01


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('rule,formula', RULES[:2], ids=['Prodigy', 'DAdaptAdam'])
def test_a_group_has_a_rate_of_its_own(rule, formula, engine):
    assert_equal(rule, formula, engine, groups=lambda ps: [{'params': ps[:1], 'lr': 0.3}, {'params': ps[1:]}])


@pytest.mark.parametrize('name,rule,reference', [c[:3] for c in CASES if DISJOINT in c], ids=lambda o: o if isinstance(o, str) else '')
@pytest.mark.parametrize('skip', [lambda i: (), lambda i: {0} if i % 3 else {1}], ids=['all', 'some'])
def test_options_equal_the_reference(name, rule, reference, skip):
    assert apart(partial(rule, engine='eager'), reference, skip=skip) < 1e-12


@pytest.mark.parametrize('engine', ENGINES)
def test_layers_can_be_scaled(engine):
    assert_equal(DAdaptAdam, dadapt_adam, engine,
                 groups=lambda ps: [{'params': ps[:1], 'layer_scale': 0.3}, {'params': ps[1:]}])


@pytest.mark.parametrize('rule', [o for o, _ in RULES], ids=lambda o: o.__name__)
@pytest.mark.parametrize('engine', ENGINES)
def test_gradients_of_zero_change_nothing(rule, engine):
    ps, start = params(), params()
    opt = rule(ps, lr=1., engine=engine)
    for p in ps: p.grad = torch.zeros_like(p)
    for _ in range(2): opt.step()
    for p, q in zip(ps, start): torch.testing.assert_close(p.data, q.data)
    for i in range(10):
        set_grads(ps, i)
        opt.step()
    assert opt.state[ps[0]]['d'] > 1e-6 and all(p.isfinite().all() for p in ps)


def test_growth_may_be_without_limit_but_no_shrinking():
    assert Prodigy(params(), lr=1., growth_rate=float('inf')).hypers[0]['growth_rate'] == float('inf')
    with pytest.raises(ValueError, match='`growth_rate` must be at least 1, but is 0.5'):
        Prodigy(params(), lr=1., growth_rate=0.5)


@pytest.mark.parametrize('engine', ENGINES)
def test_asgd_keeps_torchs_average(engine):
    ps, qs = params(), params()
    opt, ref = ASGD(ps, lr=0.1, t0=3, lambd=0.01, engine=engine), torch.optim.ASGD(qs, lr=0.1, t0=3, lambd=0.01)
    for i in range(20):
        for o, xs in ((opt, ps), (ref, qs)):
            set_grads(xs, i)
            o.step()
    for p, q in zip(ps, qs): torch.testing.assert_close(opt.state[p]['ax'], ref.state[q]['ax'], rtol=1e-6, atol=1e-8) # torch has rates in float32
