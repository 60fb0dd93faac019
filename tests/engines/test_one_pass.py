"One look at all parameters, in C: it finds all that Python's passes find, and is what a steady step uses."
import gc
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.two_tensor import TwoTensor

import optimcb as oc
from optimcb.engines import addresses, c_compiler, one_pass, plan
from optimcb.tracing.bucket import Changed

try: one_pass._loaded()
except c_compiler.CantBuild as e: pytestmark = pytest.mark.skip(reason=f"no look in C here: {e}")

SHAPES = [(3, 4), (5,), (), (2, 3, 4, 5)]


@pytest.fixture
def opt():
    ps = [nn.Parameter(torch.randn(s)) for s in SHAPES]
    for p in ps: p.grad = torch.randn_like(p)
    o = oc.AdamW([{'params': ps[:2]}, {'params': ps[2:], 'lr': 0.1}], lr=0.01, engine='fused')
    for _ in range(4): o.step()
    return o


def params(opt): return [p for g in opt.param_groups for p in g['params']]
def look(opt):
    plan = opt._running.plan
    return plan.one_pass.look(opt.param_groups, opt.state, plan.known)


def test_nothing_has_changed(opt):
    assert look(opt) == one_pass.SAME


def test_where_new_gradients_lie(opt):
    p, plan = params(opt)[0], opt._running.plan
    old = p.grad
    p.grad = old.clone()
    assert look(opt) == one_pass.MOVED
    assert plan.one_pass.ordered_grad_ptrs.tolist() == [q.grad.data_ptr() for q in plan.flat]
    assert look(opt) == one_pass.SAME


def test_which_parameters_have_gradients(opt):
    ps, plan = params(opt), opt._running.plan
    kept, ps[1].grad = ps[1].grad, None
    assert look(opt) == one_pass.OTHERS and plan.one_pass.present.tolist() == [True, False, True, True]
    assert look(opt) == one_pass.SAME
    ps[1].grad = kept
    assert look(opt) == one_pass.OTHERS and plan.one_pass.present.all()


def test_what_has_no_gradient_is_looked_at_when_it_has_one(opt):
    p = params(opt)[1]
    kept, p.grad = p.grad, None
    opt.step()
    opt.state[p]['step'] = 17
    opt.step()
    assert opt._running.plan.one_pass is not None
    p.grad = kept
    with pytest.raises(Changed): look(opt)


def another_type(p):
    class Mine(nn.Parameter): pass
    p.__class__ = Mine


def swapped(p):
    other = nn.Parameter(torch.randn(p.shape))
    other.grad = torch.randn_like(p)
    torch.utils.swap_tensors(p, other)


CHANGES = {
    'memory': lambda o, p: setattr(p, 'data', p.data.clone()),
    'shape': lambda o, p: setattr(p, 'data', p.data.view(4, 3)),
    'strides': lambda o, p: setattr(p, 'data', p.data.t()),
    'type': lambda o, p: setattr(p, 'data', p.data.bfloat16()),
    'class': lambda o, p: another_type(p),
    'swapped': lambda o, p: swapped(p),
    'frozen': lambda o, p: p.requires_grad_(False),
    'sparse gradient': lambda o, p: setattr(p, 'grad', torch.eye(3, 4).to_sparse()),
    'negative gradient': lambda o, p: setattr(p, 'grad', torch._neg_view(torch.ones(3, 4))),
    'strides of the gradient': lambda o, p: setattr(p, 'grad', torch.ones(4, 3).t()),
    'class of the gradient': lambda o, p: setattr(p, 'grad', TwoTensor(torch.ones(3, 4), torch.ones(3, 4))),
    'a negative parameter': lambda o, p: setattr(p, 'data', torch._neg_view(p.data)),
    'another parameter': lambda o, p: o.param_groups[0]['params'].__setitem__(0, nn.Parameter(torch.ones(3, 4))),
    'one parameter less': lambda o, p: o.param_groups[0]['params'].pop(),
    'one parameter more': lambda o, p: o.param_groups[1]['params'].append(nn.Parameter(torch.ones(2))),
    'another order': lambda o, p: o.param_groups[0]['params'].reverse(),
    'another state': lambda o, p: o.state.__setitem__(p, dict(o.state[p])),
    'one state more': lambda o, p: o.state.__setitem__(nn.Parameter(torch.ones(2)), {}),
    'one state less': lambda o, p: o.state.pop(p),
    'another tensor in a state': lambda o, p: o.state[p].update(grad_avg=torch.zeros(3, 4)),
    'a number in a state': lambda o, p: o.state[p].update(step=17),
    'a name more in a state': lambda o, p: o.state[p].update(note=1),
    'a name less in a state': lambda o, p: o.state[p].pop('grad_avg'),
    'a tensor for a number': lambda o, p: o.state[p].update(step=torch.ones(2)),
    'no tensor': lambda o, p: o.param_groups[0]['params'].__setitem__(0, 'p'),
    'no list': lambda o, p: dict.__setitem__(o.param_groups[0], 'params', tuple(params(o)[:2])),
}


@pytest.mark.parametrize('what', CHANGES)
def test_it_finds(opt, what):
    CHANGES[what](opt, params(opt)[0])
    with pytest.raises(Changed): look(opt)


def test_another_group(opt):
    opt.add_param_group({'params': [nn.Parameter(torch.ones(2))]})
    with pytest.raises(Changed): look(opt)


def test_an_equal_number_of_a_state_is_no_change(opt):
    p = params(opt)[0]
    opt.state[p]['step'] = int('4')
    assert look(opt) == one_pass.SAME


@pytest.mark.parametrize('given', ['same', 'new', 'some'])
def test_a_steady_step_only_looks(opt, given, monkeypatch):
    "Whether gradients are new tensors in each step, or the same, or others have one"
    def refuse(*args): raise AssertionError('Python looked')
    monkeypatch.setattr(plan.Plan, 'refresh', refuse)
    monkeypatch.setattr(plan.Plan, '__init__', refuse)
    for i in range(6):
        for k, p in enumerate(params(opt)):
            if given != 'same': p.grad = torch.randn_like(p)
            if given == 'some' and (i + k) % 3 == 0: p.grad = None
        opt.step()


def test_without_it_a_step_is_the_same(monkeypatch):
    def run():
        torch.manual_seed(0)
        ps = [nn.Parameter(torch.randn(s)) for s in SHAPES]
        o = oc.AdamW(ps, lr=0.01, engine='fused')
        for i in range(8):
            for p in ps: p.grad = torch.randn_like(p) if i % 3 else p.grad if i else torch.ones_like(p)
            o.step()
        return ps, o._running.plan.one_pass
    with_look, found = run()
    assert found is not None
    def lacks(plan): raise c_compiler.CantBuild('no compiler')
    monkeypatch.setattr(plan, 'OnePass', lacks)
    without, found = run()
    assert found is None
    for p, q in zip(with_look, without): assert torch.equal(p, q)


def test_a_change_in_turn_is_found_within_some_steps():
    "States in arenas are looked at in turn: one that was given other memory is used from then on"
    ps = [nn.Parameter(torch.randn(40)) for _ in range(200)]
    for p in ps: p.grad = torch.ones_like(p)
    opt = oc.SGD(ps, lr=0.1, mom=0.9, engine='fused')
    for _ in range(5): opt.step()
    state = opt.state[ps[150]]['grad_avg']
    state.data = torch.zeros(40)
    for _ in range(1 + 200//addresses.IN_TURN): opt.step()
    assert state.abs().sum() > 0


def test_memory_of_many_steps(opt):
    "It holds on to nothing"
    p = params(opt)[0]
    def counts():
        gc.collect()
        return [sys.getrefcount(o) for o in (p, p.grad, opt.state[p], opt.state, Tensor, torch.strided)]
    for _ in range(3): opt.step()
    before = counts()
    for _ in range(1000): opt.step()
    assert all(abs(now - then) < 100 for now, then in zip(counts(), before))


@pytest.mark.parametrize('lacks', ['offset', 'libtorch', 'lock'])
def test_what_is_missing_is_said(lacks, monkeypatch):
    one_pass._checked.cache_clear()
    if lacks == 'offset': monkeypatch.setattr(one_pass, '_place', lambda *args: None)
    if lacks == 'libtorch': monkeypatch.setattr(one_pass, 'LIBTORCH', {'libc10.so': ['no_such']})
    if lacks == 'lock': monkeypatch.setattr(one_pass.sysconfig, 'get_config_var', lambda name: 1)
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    opt = oc.AdamW([p], lr=0.1)
    for _ in range(4): opt.step()
    assert opt._running.plan.one_pass is None and opt.state[p]['step'] == 4
    one_pass._checked.cache_clear()
