"What doesn't fit is said in words, before anything has changed: state of another shape or type, a tensor that was filled with NaN, a compiler that says nothing."
import logging

import pytest
import torch

import optimcb as oc
from optimcb import Optimizer
from optimcb.engines.c_compiler import CantBuild, _run

pytestmark = pytest.mark.filterwarnings('ignore:the eager engine runs')


def two_params(): return [torch.nn.Parameter(torch.ones(3, 2)) for _ in range(2)]


def set_ones(ps):
    for p in ps: p.grad = torch.ones_like(p)


@pytest.mark.parametrize('engine', ['auto', 'eager'])
@pytest.mark.parametrize('bad, kind', [(torch.zeros(5), r'shape \(5,\)'), ('abc', 'str'), ([1, 2], 'list'), ((1,), 'tuple'), ({'a': 1}, 'dict')])
def test_state_that_does_not_fit_is_named(engine, bad, kind):
    ps = two_params()
    opt = oc.Adam(ps, lr=.1, engine=engine)
    set_ones(ps)
    opt.step()
    before = [p.detach().clone() for p in ps]
    opt.state[ps[0]]['grad_avg'] = bad
    words = rf"\(Stepper `average_grad\(dampening=True\)` failed on a parameter of shape \(3, 2\), of whose state these have another shape or type: `grad_avg` \({kind}\)\.\)"
    with pytest.raises((RuntimeError, AttributeError, TypeError), match=words): opt.step()
    if engine == 'auto': assert torch.equal(ps[0], before[0]), 'the eager engine alone undoes only what is new to it'


def test_state_that_fits_is_not_named_in_other_errors():
    def fails(p, lr, n=0, v=None):
        if n == 1: raise RuntimeError('its own')
        return {'n': n + 1, 'v': torch.zeros_like(p)}
    ps = two_params()
    opt = Optimizer(ps, [fails], lr=.1, engine='eager', check=False)
    set_ones(ps)
    opt.step()
    with pytest.raises(RuntimeError, match='^its own$'): opt.step()


def test_state_that_does_not_fit_is_named_where_steppers_sum_over_all():
    def shrinks(p, v=None):
        total = yield p.grad.square().sum()
        return {'v': torch.zeros_like(p) if v is None else v.add_(p.grad/total)}
    ps = two_params()
    opt = Optimizer(ps, [shrinks, lambda p, lr, v: p.data.sub_(v, alpha=lr)], lr=.1, engine='eager')
    set_ones(ps)
    opt.step()
    opt.state[ps[1]]['v'] = torch.zeros(7)
    with pytest.raises(RuntimeError, match=r'`shrinks` failed .* `v` \(shape \(7,\)\)'): opt.step()


@pytest.mark.parametrize('make', [oc.Adafactor, oc.Shampoo, oc.SOAP])
def test_torch_does_not_log_what_is_tried(make, caplog):
    "A function of whole tensors is tried on tensors without memory, where it may fail"
    ps = two_params()
    opt = make(ps, lr=.1)
    set_ones(ps)
    opt.step()
    name = next(k for k, v in opt.state[ps[0]].items() if isinstance(v, torch.Tensor) and v.dim())
    opt.state[ps[0]][name] = torch.zeros(5)
    with caplog.at_level(logging.DEBUG), pytest.raises(Exception, match='.'): opt.step()
    assert not [r for r in caplog.records if 'failed while' in r.getMessage()]


@pytest.mark.parametrize('engine', ['auto', 'eager', 'foreach', 'fused'])
@pytest.mark.parametrize('value, words', [(float('nan'), '`lr` is NaN'), (-1., '`lr` must be at least 0 and finite, but is -1.0'), (float('inf'), '`lr` must be at least 0')])
def test_a_tensor_that_was_filled_in_place_is_checked(engine, value, words):
    ps = two_params()
    opt = Optimizer([dict(params=[p]) for p in ps], oc.Adam.cbs, lr=torch.tensor(.1), engine=engine)
    for step in range(4):
        if step == 3: opt.param_groups[1]['lr'].fill_(value)
        set_ones(ps)
        before = [p.detach().clone() for p in ps]
        if step < 3:
            opt.step()
            assert not torch.equal(ps[0], before[0])
        else:
            with pytest.raises(ValueError, match=words): opt.step()
            assert all(map(torch.equal, ps, before))
    opt.param_groups[1]['lr'].fill_(.1)
    opt.step()
    assert torch.allclose(ps[0], ps[1]) and not torch.equal(ps[1], before[1])


def test_a_compiler_that_says_nothing():
    with pytest.raises(CantBuild, match=r'the compiler false failed: it said nothing, and ended with status 1\.'): _run(['false'])
