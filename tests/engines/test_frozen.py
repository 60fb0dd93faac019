"""A frozen parameter rests, with its state, whatever lies in its `.grad`; unfrozen, it goes on.

Plain tensors are stepped by any `.grad`."""
import copy
import pickle
from functools import partial

import pytest
import torch
from helpers import params, set_grads
from hypothesis import given, settings
from hypothesis import strategies as st
from on_engines import TRACED
from torch import nn

import optimcb as oc
from optimcb import Optimizer, clip_norm, ema_weights
from optimcb.optimizer import _update
from optimcb.training.hessian import update_hessian

ENGINES = ('eager', *TRACED)
RULES = [partial(oc.SGD, mom=0.9, wd=0.1), partial(oc.AdamW, wd=0.1),
         partial(oc.Lion.wrap(clip_norm, ema_weights), wd=0.1), oc.Adafactor]


def name_of(rule):
    has_options = isinstance(rule, partial) and not isinstance(rule, oc.Algorithm)
    return rule.func.__name__ if has_options else rule.__name__


def snapshot(opt, p): return copy.deepcopy((p.detach(), dict(opt.state[p])))


def same(a, b):
    def equal(v, w): return torch.equal(v, w) if isinstance(v, torch.Tensor) else v == w
    (p, s), (q, t) = a, b
    return torch.equal(p, q) and s.keys() == t.keys() and all(equal(v, t[k]) for k, v in s.items())


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('rule', RULES, ids=name_of)
def test_a_layer_that_is_frozen_in_mid_training_rests_and_goes_on(rule, engine):
    "As one whose gradients are None meanwhile"
    results = []
    for drops in (False, True):
        torch.manual_seed(0)
        m = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
        opt = rule(m.parameters(), lr=0.1, engine=engine)
        for i in range(9):
            m[0].requires_grad_(not 3 <= i < 6)
            if drops and i == 3:
                for p in m[0].parameters(): p.grad = None
            m(torch.ones(5, 3, dtype=torch.float64)).pow(2).sum().backward()
            before = [snapshot(opt, p) for p in m[0].parameters()]
            opt.step()
            if 3 <= i < 6: assert all(same(b, snapshot(opt, p)) for b, p in zip(before, m[0].parameters()))
            else: assert not any(torch.equal(b, p) for (b, _), p in zip(before, m[0].parameters()))
            opt.zero_grad()
        results.append([p.detach() for p in m.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.booleans()]*4), min_size=2, max_size=8), st.sampled_from(ENGINES),
       st.sampled_from(range(len(RULES))))
def test_any_pattern_of_freezing(pattern, engine, rule):
    "Those that are trained go on as if the others had no gradient"
    rule, ends = RULES[rule], []
    for stale in (True, False):
        ps = params(dtype=torch.float64)
        opt = rule(ps, lr=0.01, engine=engine)
        for i, trained in enumerate(pattern):
            set_grads(ps, i)
            for p, t in zip(ps, trained):
                p.requires_grad_(t)
                if not t and not stale: p.grad = None
            opt.step()
        ends.append([snapshot(opt, p) for p in ps])
    assert all(map(same, *ends))


@pytest.mark.parametrize('engine', ENGINES)
def test_plain_tensors_are_stepped_by_any_gradient(engine):
    "Also those that join later, and those that took the place of others"
    ps = [torch.ones(3) for _ in range(3)]
    opt = oc.SGD([ps[0]], lr=0.5, engine=engine)
    opt.add_param_group({'params': [ps[1]]})
    opt.add_param_group({'params': [torch.ones(3)]})
    opt.param_lists[2][:] = []
    opt.param_groups[2]['params'] = [ps[2]]
    for p in ps: p.grad = torch.ones(3)
    opt.step()
    assert [p.tolist() for p in ps] == [[0.5]*3]*3 and len(opt.all_params(with_grad=True)) == 3


@pytest.mark.parametrize('engine', ENGINES)
def test_a_parameter_that_is_frozen_when_it_is_given(engine):
    "It is trained when it is unfrozen, and rests when it is frozen again"
    p = nn.Parameter(torch.ones(2), requires_grad=False)
    opt = oc.SGD([p, nn.Parameter(torch.ones(2))], lr=0.25, mom=0.9, engine=engine)
    p.requires_grad_(True)
    for want in (0.75, 0.275):
        p.grad = torch.ones(2)
        opt.step()
        assert torch.allclose(p.detach(), torch.full((2,), want))
    p.requires_grad_(False)
    opt.zero_grad()
    before = snapshot(opt, p)
    for _ in range(3): opt.step()
    assert same(before, snapshot(opt, p))


@pytest.mark.parametrize('engine', ENGINES)
def test_a_plain_tensor_that_was_trained_and_is_frozen(engine):
    p = torch.ones(2)
    opt = oc.SGD([p], lr=0.25, engine=engine)
    for grad, want in ((None, 0.75), (True, 0.5), (False, 0.5), (False, 0.5), (True, 0.25)):
        if grad is not None: p.requires_grad_(grad)
        p.grad = torch.ones(2)
        opt.step()
        assert p.tolist() == [want]*2


@pytest.mark.parametrize('engine', ENGINES)
def test_freeze_to_and_unfreeze(engine):
    ps = params(dtype=torch.float64)
    opt = oc.AdamW([ps[:2], ps[2:]], lr=0.1, wd=0.1, engine=engine)
    set_grads(ps, 0)
    opt.step()
    opt.freeze()
    set_grads(ps, 1)
    before = [snapshot(opt, p) for p in ps]
    opt.step()
    assert [same(b, snapshot(opt, p)) for b, p in zip(before, ps)] == [True, True, False, False]
    assert [p is q for (p, *_), q in zip(opt.all_params(with_grad=True), ps[2:])] == [True, True]
    opt.unfreeze()
    opt.step()
    assert [opt.state[p]['step'] for p in ps] == [2, 2, 3, 3]


@pytest.mark.parametrize('again', [copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt))], ids=['deepcopy', 'pickle'])
def test_copies_know_what_is_frozen(again):
    ps = params(dtype=torch.float64)
    opt = oc.SGD(ps, lr=0.1, mom=0.9)
    set_grads(ps, 0)
    opt.step()
    ps[0].requires_grad_(False)
    other = again(opt)
    qs = other.param_lists[0]
    set_grads(qs, 1)
    before = [snapshot(other, q) for q in qs]
    other.step()
    assert [same(b, snapshot(other, q)) for b, q in zip(before, qs)] == [True, False, False, False]


def test_state_of_a_frozen_parameter_is_saved_and_loaded():
    ps = params(dtype=torch.float64)
    opt = oc.AdamW(ps, lr=0.1)
    for i in range(2):
        set_grads(ps, i)
        opt.step()
    ps[1].requires_grad_(False)
    qs = [nn.Parameter(p.detach().clone(), p.requires_grad) for p in ps]
    other = oc.AdamW(qs, lr=0.1)
    other.load_state_dict(opt.state_dict())
    assert all(same(snapshot(opt, p), snapshot(other, q)) for p, q in zip(ps, qs))
    for i in range(4):
        for o, rs in ((opt, ps), (other, qs)):
            rs[1].requires_grad_(i >= 2)
            set_grads(rs, 10 + i, skip=[1] if i < 2 else [])
            o.step()
    assert all(same(snapshot(opt, p), snapshot(other, q)) for p, q in zip(ps, qs))


@pytest.mark.parametrize('engine', ENGINES)
def test_sums_over_all_leave_it_out(engine):
    "And so does what looks whether gradients are finite"
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    opt = oc.SGD.wrap(clip_norm, oc.skip_nonfinite)([a, b], lr=1., max_norm=1., engine=engine)
    b.requires_grad_(False)
    a.grad, b.grad = torch.tensor([3., 4.]), torch.tensor([float('inf'), 1e6])
    opt.step()
    assert torch.allclose(a.detach(), torch.tensor([-0.6, -0.8])) and not b.any()


@pytest.mark.parametrize('engine', ENGINES)
def test_step_in_backward(engine):
    "A layer that is frozen between forward and backward gets a gradient, but no step"
    p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    opt = oc.SGD([p, q], lr=0.1, wd=0.5, engine=engine)
    with oc.step_in_backward(opt):
        loss = (p*q).sum()
        p.requires_grad_(False)
        loss.backward()
        assert p.tolist() == [1, 1] and torch.allclose(q.detach(), torch.full((2,), 0.85)) and p.grad is None
        p.requires_grad_(True)
        (p*q).sum().backward()
        assert torch.allclose(p.detach(), torch.full((2,), 0.95 - 0.085))


def test_grad_scaler():
    p, q = (nn.Parameter(torch.ones(2)) for _ in range(2))
    opt, scaler = oc.SGD([p, q], lr=0.1, mom=0.9), torch.amp.GradScaler('cpu', init_scale=4.)
    for i in range(3):
        p.requires_grad_(i == 0)
        scaler.scale((p*q).sum()).backward()
        scaler.step(opt)
        scaler.update()
        opt.zero_grad()
        assert torch.allclose(p.detach(), torch.full((2,), 0.9))
    assert opt.state[q].keys() == opt.state[p].keys()
    assert not torch.equal(opt.state[q]['grad_avg'], opt.state[p]['grad_avg'])


def test_going_up_before_a_step():
    "SAM doesn't move it, take it into the norm, or take it back to where it was once"
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    opt = oc.SAM(oc.SGD([a, b], lr=0.1), rho=1.)
    for frozen in (False, True):
        b.requires_grad_(not frozen)
        a.grad, b.grad = torch.tensor([3., 4.]), torch.full((2,), 100.)
        before, was = a.detach().clone(), b.detach().clone()
        opt.ascend()
        if frozen:
            assert torch.allclose(a.detach() - before, torch.tensor([0.6, 0.8]))
            assert torch.equal(b, was)
        opt.step()
        assert torch.equal(b, was) == frozen


def test_no_curvature_of_it():
    p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    opt = oc.Sophia([p, q], lr=0.1)
    p.grad, q.grad = torch.ones(2), torch.ones(2)
    q.requires_grad_(False)
    update_hessian(opt)
    assert 'hess_avg' in opt.state[p] and not opt.state[q]


def test_rules_say_nothing_of_it():
    "Its state is left alone"
    p, q = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    opt = Optimizer([p, q], [oc.only(oc.weight_decay, oc.by_ndim(2)), oc.sgd_step], lr=0.1, wd=0.1)
    q.requires_grad_(False)
    p.grad, q.grad = torch.ones(2, 2), torch.ones(2)
    opt.step()
    assert opt.state[p] and not opt.state[q] and q.tolist() == [1, 1]


def test_a_loop_over_all_params_leaves_it_out():
    "In a subclass with a step of its own"
    class Own(Optimizer):
        def step(self, closure=None):
            for p, _, state, hyper in self.all_params(with_grad=True):
                for cb in self.cbs: state = _update(state, cb(p, **{**state, **hyper}))
    p, q = nn.Parameter(torch.ones(2)), torch.ones(2)
    opt = Own([p, q], lambda p, lr, **kwargs: p.data.sub_(lr*p.grad), lr=0.5)
    p.grad, q.grad = torch.ones(2), torch.ones(2)
    p.requires_grad_(False)
    opt.step()
    assert p.tolist() == [1, 1] and q.tolist() == [0.5, 0.5]


def test_what_is_explained():
    p, q = nn.Parameter(torch.ones(1000)), nn.Parameter(torch.ones(9))
    opt = oc.SGD([p, q], lr=0.1)
    for o in (p, q): o.grad = torch.zeros_like(o)
    p.requires_grad_(False)
    assert '(1 frozen)' in str(opt.explain()) and any('1 parameter' in line for line in opt.explain().engine)
