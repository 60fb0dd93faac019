"`Optimizer` keeps torch's contract and fastai's, runs steppers as people write them, and refuses bad input unharmed."
import copy
import functools
import io
import pickle
import threading
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from fastcore.basics import GetAttr
from fastcore.foundation import L
from fastcore.test import test_eq as same
from helpers import params, set_grads
from torch import nn, tensor

import optimcb as oc
from optimcb import (
    Optimizer,
    average_grad,
    average_sqr_grad,
    momentum_step,
    once,
    sgd_step,
    step_stat,
    weight_decay,
)
from optimcb.optimizer import _update

same.__test__ = False


def param(val, grad=None):
    p = tensor(val, dtype=torch.float32)
    p.grad = p/10 if grad is None else tensor(grad, dtype=torch.float32)
    return p


# Steppers as people write them

def sgd_cb(p, lr, **kwargs): p.data.add_(p.grad.data, alpha=-lr)

def book_average_grad(p, mom, grad_avg=None, **kwargs):
    if grad_avg is None: grad_avg = torch.zeros_like(p.grad.data)
    return {'grad_avg': mom*grad_avg + (1-mom)*p.grad.data}

def book_momentum_step(p, lr, grad_avg, **kwargs): p.data.add_(grad_avg, alpha=-lr)

def average_square_grad(p, square_mom, square_avg=None, **kwargs):
    if square_avg is None: square_avg = torch.zeros_like(p.grad.data)
    return {'square_avg': square_mom*square_avg + (1-square_mom)*p.grad.data**2}

def book_rms_prop_step(p, lr, square_avg, eps, grad_avg=None, **kwargs):
    denom = square_avg.sqrt() + eps
    p.data.addcdiv_(grad_avg if grad_avg is not None else p.grad, denom, value=-lr)


class Clip:
    "A callback object with fastai's attribute"
    defaults = dict(limit=0.5)
    def __call__(self, p, limit, **kwargs): p.grad.clamp_(-limit, limit)


def run(opt, ps, steps=4):
    for i in range(steps):
        set_grads(ps, i)
        opt.step()
    return [p.data for p in ps]


@pytest.mark.parametrize('ours, theirs', [
    (partial(Optimizer, cbs=[sgd_cb]), torch.optim.SGD),
    (partial(Optimizer, cbs=sgd_cb), torch.optim.SGD),
    (partial(Optimizer, cbs=[book_average_grad, book_momentum_step], mom=0.9), partial(oc.SGD, mom=0.9, dampening=True)),
    (partial(Optimizer, cbs=[average_square_grad, book_rms_prop_step], square_mom=0.99, eps=1e-8), torch.optim.RMSprop),
    (partial(Optimizer, cbs=[Clip(), sgd_step]), lambda ps, lr: Optimizer(ps, [lambda p: p.grad.clamp_(-0.5, 0.5), sgd_step], lr=lr)),
], ids=['one', 'alone', 'momentum', 'rmsprop', 'object'])
def test_steppers_as_people_write_them(ours, theirs):
    a, b = params(), params()
    for x, y in zip(run(ours(a, lr=0.1), a), run(theirs(b, lr=0.1), b)): assert torch.allclose(x, y, atol=1e-6)


def test_steppers_of_fastai_itself():
    fo = pytest.importorskip('fastai.optimizer')
    cbs = [fo.weight_decay, partial(fo.average_grad, dampening=True), fo.average_sqr_grad, fo.step_stat, fo.adam_step]
    hypers = dict(lr=0.1, mom=0.9, sqr_mom=0.99, eps=1e-5, wd=0.01)
    a, b = params(), params()
    assert all(torch.equal(x, y) for x, y in zip(run(Optimizer(a, cbs, engine='eager', **hypers), a), run(fo.Optimizer(b, cbs, **hypers), b)))
    c = params()
    cbs = [weight_decay, partial(average_grad, dampening=True), average_sqr_grad, step_stat, oc.adam_step]
    assert all(torch.equal(x, y) for x, y in zip(b, run(fo.Optimizer(c, cbs, **hypers), c))) # ours in theirs


def test_first_argument_may_have_any_name_and_order_any_group():
    seen = []
    def cb(weights, lr, *, wd=0.25): seen.append((weights, lr, wd))
    ps = params()
    set_grads(ps, skip=[1])
    opt = Optimizer([ps[:2], ps[2:]], cb, lr=[1., 2.])
    opt.step()
    assert [(id(p), lr, wd) for p, lr, wd in seen] == [(id(ps[0]), 1., 0.25), (id(ps[2]), 2., 0.25), (id(ps[3]), 2., 0.25)]


def test_user_loop_over_callbacks():
    a, b = params(), params()
    run(oc.Adam(a, 0.1, engine='eager'), a, 3)
    opt = oc.Adam(b, 0.1)
    for i in range(3):
        set_grads(b, i)
        for p, _, state, hyper in opt.all_params(with_grad=True):
            for cb in opt.cbs: state = _update(state, cb(p, **{**state, **hyper}))
            opt.state[p] = state
    assert all(torch.equal(x, y) for x, y in zip(a, b))


# Names

def test_defaults_come_from_attribute_signature_and_partial():
    def one(p, nu=0.7, flag=True, text='a', none=None, **kwargs): return {'seen': (nu, flag, text, none)}
    def two(p, step=0): return {'step': step + 1}
    def three(p, count=0): return dict(count=count + 1)
    opt = Optimizer(params(), [one, two, three, partial(average_grad, mom=0.5), Clip()])
    assert dict(opt.hypers[0]) == dict(nu=0.7, mom=0.5, limit=0.5)
    opt.set_hyper('nu', 0.1)
    p = opt.param_lists[0][0]
    set_grads([p])
    for _ in range(3): opt.step()
    assert opt.state[p]['seen'] == (0.1, True, 'a', None) and (opt.state[p]['step'], opt.state[p]['count']) == (3, 3)
    assert dict(Optimizer(params(), partial(average_grad, dampening=True)).hypers[0]) == dict(mom=0.9)


def test_state_comes_before_a_default_also_after_loading():
    def scaled(p, lr, lr_mult=1.25): p.data.add_(p.grad, alpha=-lr*lr_mult)
    ps = params([(2,), (2,)])
    start = [p.data.clone() for p in ps]
    opt = Optimizer(ps, scaled, lr=1.)
    opt.state[ps[1]]['lr_mult'] = 0.5
    for _ in range(2):
        for p in ps: p.grad = torch.ones(2)
        opt.step()
        f = io.BytesIO()
        torch.save(opt.state_dict(), f)
        f.seek(0)
        opt.load_state_dict(torch.load(f, weights_only=True))
    assert torch.allclose(start[0] - ps[0], torch.tensor(2.5)) and torch.allclose(start[1] - ps[1], torch.tensor(1.)) and opt.hypers[0]['lr_mult'] == 1.25


def test_steppers_that_disagree_keep_their_own_default():
    def a(p, beta=0.1): return {'a': beta}
    def b(p, beta=0.2): return {'b': beta}
    ps = params([(2,)])
    set_grads(ps)
    opt = Optimizer(ps, [a, b])
    opt.step()
    assert 'beta' not in opt.hypers[0] and opt.state[ps[0]] == {'a': 0.1, 'b': 0.2}
    opt.set_hyper('beta', 0.3)
    opt.step()
    assert opt.state[ps[0]] == {'a': 0.3, 'b': 0.3}


def test_speaking_of_a_hyper_doesnt_make_it_state():
    seen = []
    def log(p, **kwargs): seen.append(kwargs['mom'])
    def helper(p, mom, grad_avg): return oc.momentum_step(p, lr=mom, grad_avg=grad_avg)
    ps = params([(2,)])
    run(opt := Optimizer(ps, [average_grad, log, helper, momentum_step], lr=0.1), ps, 2)
    assert seen == [0.9, 0.9] and opt.hypers[0]['mom'] == 0.9


def test_a_default_gives_way_to_what_a_stepper_made():
    seen = []
    def make(p): return {'size': 7.}
    def use(p, size=0., **kwargs): seen.append((size, kwargs.get('size')))
    ps = params([(2,), (2,)])
    run(opt := Optimizer(ps, [make, use]), ps, 2)
    assert seen == [(7., None)]*4 and 'size' not in opt.hypers[0] and 'size' not in opt.defaults
    opt.set_hyper('size', 3.)
    run(opt, ps, 1)
    assert seen[-1] == (3., None)


def test_a_number_that_turns_out_to_be_state():
    "Nothing in the text of this stepper says that `n` is what it returns"
    def count(p, n=0):
        new = {}
        new[chr(110)] = n + 1
        return new
    ps = params()
    run(opt := Optimizer(ps, count), ps, 3)
    assert all(opt.state[p]['n'] == 3 for p in ps) and 'n' not in opt.hypers[0]
    opt.add_param_group({'params': (others := params())})
    run(opt, others, 3)
    assert all(opt.state[p]['n'] == 3 for p in others)


def test_a_hyper_wins_over_state_and_once_over_both():
    def state(p): return {'x': 'state', 'y': 'state', 'lr': 'state'}
    def shadow(p): return once(y='once', lr='once')
    seen = {}
    def look(p, **kwargs): seen.update(kwargs)
    ps = params([(2,)])
    set_grads(ps)
    opt = Optimizer(ps, [state, look, lambda p, x, y, lr: seen.update(early=(x, y, lr)), shadow, look],
                    x='hyper', lr=0.5)
    opt.step()
    assert seen['early'] == ('hyper', 'state', 0.5) and (seen['x'], seen['y'], seen['lr']) == ('hyper', 'once', 'once')
    assert opt.state[ps[0]] == {'x': 'state', 'y': 'state', 'lr': 'state'} and opt.hypers[0]['lr'] == 0.5


def test_what_lives_for_one_step_is_not_kept():
    ps = params()
    for make in (oc.Larc, oc.NAdam, oc.Adadelta, oc.AMSGrad):
        opt = make(ps, lr=0.1)
        run(opt, ps, 2)
        assert not {'update', 'local_lr', 'lr'} & {k for s in opt.state.values() for k in s}


def test_gradients_are_left_as_they_are():
    ps = params()
    set_grads(ps)
    grads, kept = [p.grad for p in ps], [p.grad.clone() for p in ps]
    opt = Optimizer(ps, [oc.l2_reg, lambda p: p.grad.zero_(), lambda p: {'seen': p.grad}], wd=0.5)
    opt.step()
    assert all(p.grad is g and torch.equal(g, k) for p, g, k in zip(ps, grads, kept))
    assert all((opt.state[p]['seen'] == 0).all() for p in ps)
    def broken(p): raise ArithmeticError(p.grad.zero_())
    with pytest.raises(ArithmeticError): Optimizer(ps, broken).step()
    assert all(p.grad is g and torch.equal(g, k) for p, g, k in zip(ps, grads, kept))


def test_a_wrapped_library_stepper_is_not_the_librarys():
    @functools.wraps(sgd_step)
    def halved(p, **kwargs):
        p.grad.mul_(0.5)
        return sgd_step(p, **kwargs)
    ps = params([(2,)])
    set_grads(ps)
    kept = ps[0].grad.clone()
    Optimizer(ps, halved, lr=0.1).step()
    assert torch.equal(ps[0].grad, kept)


def test_a_stepper_may_differentiate_the_gradient():
    p = nn.Parameter(torch.tensor([2., 3.]))
    (p**3).sum().backward(create_graph=True)
    def second(p): return {'hess': torch.autograd.grad(p.grad, p, torch.ones_like(p), retain_graph=True)[0]}
    opt = Optimizer([p], second)
    opt.step()
    assert torch.allclose(opt.state[p]['hess'], torch.tensor([12., 18.]))


def test_groups_are_stepped_in_order():
    def noise(p, lr): p.data.add_(torch.randn_like(p), alpha=lr)
    runs = []
    for cbs in ([noise], [noise, lambda p: None]):
        ps = params([(2,)]*4)
        set_grads(ps)
        torch.manual_seed(0)
        if len(cbs) == 2:
            for p in ps: noise(p, 0.1)
        else: Optimizer([ps[:2], ps[2:]], cbs, lr=0.1).step()
        runs.append(ps)
    assert all(torch.equal(a, b) for a, b in zip(*runs))


# fastai's protocol

def test_groups_as_fastai_documents_them():
    for given, groups in [([1, 2, 3], [[1, 2, 3]]), (range(3), [[0, 1, 2]]), ([[1, 2], [3]], [[1, 2], [3]]),
                          (([o, o+1] for o in range(0, 4, 2)), [[0, 1], [2, 3]])]:
        same(Optimizer(given, sgd_step).param_lists, groups)
    def stepper(p, lr=0, **kwargs): return p
    stepper.defaults = dict(lr=1e-2)
    same(Optimizer([1, 2], stepper).hypers, [{'lr': 1e-2}])
    same(Optimizer([[1, 2], [3]], stepper, lr=0.1).hypers, [{'lr': 0.1}, {'lr': 0.1}])
    same(Optimizer([[1, 2], [3]], stepper, lr=[0.1, 0.2]).hypers, [{'lr': 0.1}, {'lr': 0.2}])
    same(Optimizer([[1], [3], [4]], stepper, lr=slice(1e-2)).hypers, [{'lr': 1e-3}, {'lr': 1e-3}, {'lr': 1e-2}])
    opt = Optimizer([[1, 2], [3], [4]], stepper, lr=slice(1e-4, 1e-2))
    same(opt.param_groups, [{'params': [1, 2], 'lr': 1e-4}, {'params': [3], 'lr': 1e-3}, {'params': [4], 'lr': 1e-2}])
    with pytest.raises(ValueError, match='2 values, but there are 3'):
        Optimizer([[1, 2], [3], [4]], stepper, lr=np.array([0.1, 0.2]))


def test_a_bare_tensor_is_one_parameter():
    p = param([[1., 2., 3.]], [[4., 5., 6.]])
    opt = Optimizer(p, average_grad)
    same(opt.state, {})
    opt.step()
    same(opt.state[p]['grad_avg'], p.grad)


def test_hypers_and_param_groups_are_two_views_of_one_thing():
    ps = params()
    opt = oc.Adam([ps[:2], ps[2:]], lr=slice(1e-3, 1e-1))
    opt.hypers[-1]['lr'] = np.float64(0.5)
    assert opt.param_groups[-1]['lr'] == 0.5
    opt.param_groups[0]['wd'] = 0.3
    assert opt.hypers[0]['wd'] == 0.3 and opt.hypers[:1][0]['wd'] == 0.3
    opt.set_hyper('new', [1, 2])
    assert [g['new'] for g in opt.param_groups] == [1, 2] and 'new' in dict(opt.hypers[0])
    opt.param_groups[0]['initial_lr'] = 3 # a scheduler's note
    assert 'initial_lr' not in opt.hypers[0] and 'params' not in opt.hypers[0]
    opt.hypers = [dict(lr=1., mom=0.9), dict(lr=2., mom=0.8)]
    assert [dict(h) for h in opt.hypers] == [dict(lr=1., mom=0.9), dict(lr=2., mom=0.8)] and opt.param_groups[0]['initial_lr'] == 3
    opt.hypers[0].update(mom=0.1)
    assert {**opt.hypers[0]} == dict(lr=1., mom=0.1) == opt.hypers[0] == opt.hypers[0].copy()
    with pytest.raises(KeyError): opt.hypers[0]['params'] = []
    assert 'nothing' not in opt.hypers[0] and opt.hypers[0].get('nothing') is None


def test_foreign_keys_reach_only_those_that_ask():
    seen = {}
    ps = params([(2,)])
    set_grads(ps)
    opt = Optimizer(ps, [lambda p, **kwargs: seen.update(all=set(kwargs)), sgd_step], lr=0.1)
    torch.optim.lr_scheduler.ExponentialLR(opt, 0.5)
    opt.step()
    assert seen['all'] == {'lr'}
    opt.cbs.append(lambda p, initial_lr: seen.update(asked=initial_lr))
    opt.step()
    assert seen['asked'] == 0.1


def test_hypers_can_be_assigned_whole_or_one_by_one():
    ps = params()
    opt = oc.SGD([ps[:2], ps[2:]], lr=[0.1, 0.2])
    opt.hypers = opt.hypers
    assert [h['lr'] for h in opt.hypers] == [0.1, 0.2]
    opt.hypers = opt.hypers[::-1]
    assert [h['lr'] for h in opt.hypers] == [0.2, 0.1]
    opt.hypers[0] = dict(lr=0.5, wd=0.)
    assert dict(opt.hypers[0]) == dict(lr=0.5, wd=0.) and opt.hypers[1] | {} == dict(lr=0.1, mom=0., wd=0.)
    with pytest.raises(ValueError): opt.hypers[1] = dict(lr=-1)
    assert opt.hypers[1]['lr'] == 0.1 and copy.deepcopy(opt.hypers[1]) == opt.hypers[1]


def test_param_lists_can_be_assigned():
    ps, others = params(), params(seed=1)
    opt = oc.Adam([ps[:2], ps[2:]], lr=0.1)
    before = opt.param_lists
    opt.param_lists = [others[:2], others[2:]]
    assert all(p is q for p, q in zip(opt.param_groups[0]['params'] + list(before[0]), others[:2] + ps[:2]))
    run(opt, others, 1)
    assert set(opt.state) == set(others)


def test_all_params_and_freezing():
    ps = params([(2,)]*6)
    opt = oc.SGD([ps[:2], ps[2:4], ps[4:]], lr=0.1)
    for p in (ps[0], ps[2]): opt.state[p] = {'force_train': True, 'do_wd': False}
    opt.freeze()
    assert [p.requires_grad for p in ps] == [True, False, True, False, True, True] and opt.frozen_idx == 2
    opt.freeze_to(1)
    assert [p.requires_grad for p in ps] == [True, False, True, True, True, True] and opt.frozen_idx == 1
    opt.unfreeze()
    assert all(p.requires_grad for p in ps) and opt.frozen_idx == 0
    with pytest.warns(UserWarning, match='whole model'): opt.freeze_to(3)
    assert [p.requires_grad for p in ps] == [True, False, True, False, False, False]
    set_grads(ps, skip=[5])
    assert [len(opt.all_params(n, with_grad=w)) for n, w in [(slice(None), False), (slice(None), True), (slice(1, None), False), (-1, True)]] == [6, 2, 4, 0]
    p, pg, state, hyper = opt.all_params(1)[0]
    assert p is ps[2] and list(pg) == ps[2:4] and state is opt.state[p] and hyper['lr'] == 0.1
    opt.step()
    opt.clear_state()
    assert opt.state[ps[0]] == {'force_train': True, 'do_wd': False} and opt.state[ps[1]] == {}
    with pytest.raises(ValueError, match='only one'): oc.SGD(ps, lr=0.1).freeze()
    assert opt # fastai asks `if not self.opt`


def test_zero_grad():
    ps = params()
    set_grads(ps)
    grads = [p.grad for p in ps]
    opt = oc.SGD(ps, lr=0.1)
    opt.zero_grad()
    assert all(p.grad is g and (g == 0).all() for p, g in zip(ps, grads))
    loss = (ps[1]**3).sum()
    ps[1].grad = torch.autograd.grad(loss, ps[1], create_graph=True)[0]
    opt.zero_grad()
    assert ps[1].grad.grad_fn is None and not ps[1].grad.requires_grad
    opt.zero_grad(set_to_none=True)
    assert all(p.grad is None for p in ps)


def test_do_wd_keeps_a_parameter_from_decay():
    ps = params([(3,), (3,)])
    start = [p.data.clone() for p in ps]
    for decouple in (True, False):
        opt = oc.SGD(ps, lr=0.1, wd=0.5, decouple_wd=decouple)
        opt.state[ps[0]]['do_wd'] = False
        for p, s in zip(ps, start): p.data.copy_(s); p.grad = torch.zeros_like(p) # noqa: E702
        opt.step()
        assert torch.equal(ps[0], start[0]) and torch.allclose(ps[1], start[1]*0.95)


class OldLookahead(Optimizer, GetAttr):
    "A wrapper as people wrote them for fastai: no `super().__init__`, everything delegated"
    _default = 'opt'
    def __init__(self, opt, k): self.opt, self.k, self.count, self.slow = opt, k, 0, None
    def step(self, closure=None):
        if self.slow is None: self.slow = [p.detach().clone() for p, *_ in self.all_params()]
        self.opt.step()
        self.count += 1
        if self.count % self.k: return
        for s, (p, *_) in zip(self.slow, self.all_params()): p.data.copy_(s.add_(p.data - s, alpha=0.5))
    def clear_state(self):
        self.opt.clear_state()
        self.slow = None
    @property
    def param_lists(self): return self.opt.param_lists
    @param_lists.setter
    def param_lists(self, v): self.opt.param_lists = v


def test_wrappers_as_people_wrote_them():
    a, b = params(), params()
    old, new = OldLookahead(oc.Adam(a, lr=0.1), k=2), oc.Lookahead(oc.Adam(b, lr=0.1), k=2)
    torch.optim.lr_scheduler.StepLR(old, 10)
    old.set_hyper('mom', 0.8); new.set_hyper('mom', 0.8) # noqa: E702
    assert all(torch.equal(x, y) for x, y in zip(run(old, a), run(new, b)))
    assert old.hypers[0]['mom'] == 0.8 and len(old.state_dict()['state']) == len(a) and old.frozen_idx == 0
    old.zero_grad()
    assert all((p.grad == 0).all() for p in a)
    clone = copy.deepcopy(old)
    clone.load_state_dict(old.state_dict())
    pickle.loads(pickle.dumps(old))
    old.clear_state()
    assert all(s == {} for s in old.opt.state.values())


def test_subclass_that_passes_no_callback():
    class Own(Optimizer):
        def __init__(self, params, lr): super().__init__(params, [None], lr=lr)
        def step(self, closure=None):
            for p, _, _, hyper in self.all_params(with_grad=True): p.data.add_(p.grad, alpha=-hyper['lr'])
    a, b = params(), params()
    assert all(torch.equal(x, y) for x, y in zip(run(Own(a, lr=0.1), a), run(oc.SGD(b, lr=0.1), b)))


# torch's contract

def test_is_a_torch_optimizer_with_schedulers():
    a, b = params(), params()
    for make, ps in ((oc.SGD, a), (torch.optim.SGD, b)):
        opt = make(ps, lr=0.1)
        assert isinstance(opt, torch.optim.Optimizer)
        scheds = [torch.optim.lr_scheduler.CosineAnnealingLR(opt, 5), torch.optim.lr_scheduler.ReduceLROnPlateau(opt, patience=0),
                  torch.optim.lr_scheduler.OneCycleLR(opt, 0.5, total_steps=9, cycle_momentum=False)]
        for i in range(6):
            set_grads(ps, i)
            opt.step()
            for s in scheds: s.step(*([1.] if isinstance(s, torch.optim.lr_scheduler.ReduceLROnPlateau) else []))
    assert all(torch.equal(x, y) for x, y in zip(a, b))


def test_parameters_in_all_of_torchs_forms():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    assert len(oc.Adam(model.parameters(), lr=0.1).param_groups[0]['params']) == 4
    named = oc.Adam(model.named_parameters(), lr=0.1)
    assert named.param_groups[0]['param_names'] == ['0.weight', '0.bias', '1.weight',
                                                    '1.bias'] and 'param_names' not in named.hypers[0]
    groups = oc.Adam([{'params': model[0].parameters(), 'weight_decay': 0.},
                      {'params': model[1].weight, 'lr': 1., 'betas': (0.5, 0.6)}], lr=0.1, wd=0.3)
    assert [(h['wd'], h['lr'], h['mom'], h['sqr_mom'])
            for h in groups.hypers] == [(0., 0.1, 0.9, 0.99), (0.3, 1., 0.5, 0.6)]
    groups.add_param_group({'params': [model[1].bias], 'mom': 0.7})
    assert groups.hypers[2] == dict(lr=0.1, mom=0.7, sqr_mom=0.99, eps=1e-5, wd=0.3)
    assert len(oc.Adam({'params': model.parameters()}, lr=0.1).param_groups) == 1


def test_closure_and_hooks():
    p = nn.Parameter(torch.tensor([3.]))
    opt = oc.SGD([p], lr=0.1)
    called = []
    opt.register_step_pre_hook(lambda *_: called.append('pre'))
    opt.register_step_post_hook(lambda *_: called.append('post'))
    opt.register_state_dict_post_hook(lambda o, sd: {**sd, 'extra': 1})
    opt.register_load_state_dict_pre_hook(lambda o, sd: called.append(sd.pop('extra')))
    opt.register_load_state_dict_post_hook(lambda o: called.append('loaded'))
    def closure():
        opt.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss
    assert opt.step(closure).item() == 9. and torch.allclose(p, torch.tensor([2.4]))
    opt.load_state_dict(opt.state_dict())
    assert called == ['pre', 'post', 1, 'loaded']


def test_grad_scaler_and_clipping():
    a, b = params(), params()
    for make, ps in ((oc.Adam, a), (partial(torch.optim.AdamW, betas=(0.9, 0.99), eps=1e-5), b)):
        opt, scaler = make(ps, lr=0.1), torch.amp.GradScaler('cpu', init_scale=4.)
        for i in range(4):
            opt.zero_grad()
            scaler.scale(sum((p**2).sum() for p in ps)).backward()
            if i == 2: ps[0].grad[0, 0] = float('inf') # this step is skipped
            scaler.unscale_(opt)
            nn.utils.clip_grad_norm_(ps, 0.5)
            scaler.step(opt)
            scaler.update()
        assert scaler.get_scale() == 2.
    assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(a, b))


def test_copies_and_pickles_go_on_alike():
    ps = params()
    opt = oc.Adam([ps[:2], ps[2:]], lr=0.1)
    run(opt, ps, 2)
    opt.freeze_to(1)
    torch.optim.lr_scheduler.StepLR(opt, 1) # replaces `step`
    for other in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        theirs = [p for g in other.param_groups for p in g['params']]
        assert other.frozen_idx == 1 and other.hypers == opt.hypers and other.composition.labels == opt.composition.labels
        mine = copy.deepcopy(opt)
        x, y = run(mine, [p for g in mine.param_groups for p in g['params']], 2), run(other, theirs, 2)
        assert all(torch.equal(u, v) for u, v in zip(x, y))
        other.set_hyper('lr', 5.)
        assert opt.hypers[0]['lr'] == 0.1
        other.add_param_group({'params': params()})
        assert 'differentiable' not in other.param_groups[-1]


def test_callbacks_can_change_between_steps():
    ps = params([(2,)])
    opt = Optimizer(ps, [sgd_step], lr=1.)
    cbs = opt.cbs
    start = ps[0].data.clone()
    ps[0].grad = torch.ones(2)
    opt.step()
    cbs.insert(0, lambda p: p.grad.mul_(2))
    opt.step()
    opt.cbs = L(momentum_step)
    opt.cbs.insert(0, average_grad)
    opt.step()
    assert torch.allclose(ps[0], start - 1 - 2 - 1)
    shared = [sgd_step]
    Optimizer(ps, shared, lr=1.).cbs.append(average_grad)
    assert shared == [sgd_step]


def test_sparse_gradients_of_sgd():
    emb = nn.Embedding(5, 3, sparse=True)
    start = emb.weight.data.clone()
    emb(torch.tensor([1, 1, 4])).sum().backward()
    opt = Optimizer(emb.parameters(), sgd_step, lr=0.1)
    opt.step()
    assert torch.allclose(start - emb.weight, torch.tensor([0., .2, 0., 0., .1])[:, None].expand(5, 3), atol=1e-6)
    opt.zero_grad()


def test_learning_rate_as_a_tensor():
    a, b = params(), params()
    assert all(torch.allclose(x, y) for x, y in zip(run(oc.Adam(a, lr=torch.tensor(0.1)), a), run(oc.Adam(b, lr=0.1), b)))


def test_threads_have_optimizers_of_their_own():
    want = params()
    run(oc.Adam(want, lr=0.1), want, 20)
    lists = [params() for _ in range(4)]
    threads = [threading.Thread(target=run, args=(oc.Adam(ps, lr=0.1), ps, 20)) for ps in lists]
    for t in threads: t.start()
    for t in threads: t.join()
    assert all(torch.equal(x, y) for ps in lists for x, y in zip(ps, want))


# Bad input

@pytest.mark.parametrize('name, value, error', [
    ('lr', -0.1, ValueError), ('lr', float('nan'), ValueError), ('lr', 'fast', TypeError), ('lr', None, TypeError), ('lr', [0.1, -0.1], ValueError),
    ('lr', float('inf'), ValueError), ('lr', np.array(float('nan')), ValueError), ('lr', slice(1e-3, None), ValueError), ('lr', slice(-1e-3), ValueError),
    ('lr', torch.ones(3), ValueError), ('mom', 1., ValueError), ('mom', -0.1, ValueError), ('sqr_mom', 1.5, ValueError), ('eps', -1e-8, ValueError),
    ('wd', -1, ValueError), ('wd', 'none', TypeError)])
def test_values_that_cannot_be(name, value, error):
    ps = params()
    with pytest.raises(error, match=f'`{name}`'): oc.Adam([ps[:2], ps[2:]], **{'lr': 0.1, name: value})
    opt = oc.Adam([ps[:2], ps[2:]], lr=0.1)
    before = [dict(h) for h in opt.hypers]
    with pytest.raises(error, match=f'`{name}`'): opt.set_hyper(name, value)
    assert [dict(h) for h in opt.hypers] == before
    if not isinstance(value, (slice, list, torch.Tensor)):
        with pytest.raises(error, match=f'`{name}`'): opt.hypers[0][name] = value
        with pytest.raises(error, match=f'`{name}`'): opt.add_param_group({'params': params(), name: value})
        assert len(opt.param_groups) == 2


@pytest.mark.parametrize('algo, name, value', [
    (oc.Larc, 'trust_coeff', 'a'), (oc.Larc, 'trust_coeff', -1), (oc.Adagrad, 'init_sum', -1), (oc.Adagrad, 'lr_decay', None), (oc.Lamb, 'max_trust', -1),
    (oc.Yogi, 'init_avg', -1), (oc.NAdam, 'mom_decay', float('inf')), (oc.QHAdam, 'nu_1', float('nan')), (oc.RAdam, 'beta', -1)])
def test_values_that_other_algorithms_cannot_have(algo, name, value):
    with pytest.raises((ValueError, TypeError), match=f'`{name}` must be|`{name}` is NaN'):
        algo(params(), lr=0.1, **{name: value})


def test_a_name_that_is_misspelt():
    for name, meant in [('wieght_decay', '`wd`'), ('weight_dacay', '`wd`'), ('sqr_mon', '`sqr_mom`'),
                        ('momentun', '`mom`'), ('beta', '`mom` and `sqr_mom`')]:
        with pytest.raises(TypeError, match=rf'Adam has no `{name}`\. Did you mean {meant}\?'):
            oc.Adam(params(), **{name: 0.1})
    with pytest.raises(TypeError, match="missing a required argument: 'lr'"): oc.Adam(params())
    with pytest.raises(TypeError, match="`weight_decay` is torch's name for `wd`"):
        oc.Adam(params(), lr=0.1, wd=0.1, weight_decay=0.1)
    with pytest.raises(ValueError, match='`betas` must have 2'): oc.Adam(params(), lr=0.1, betas=0.9)


def test_a_hyper_that_no_stepper_reads_is_a_warning():
    with pytest.warns(UserWarning, match='no stepper reads `wieght_decay`: weight_decay, sgd_step don.t. Did you mean `wd`?'):
        Optimizer(params(), [weight_decay, sgd_step], lr=0.1, wieght_decay=0.1)
    with pytest.warns(UserWarning, match='no stepper reads `wd`'):
        Optimizer([{'params': params(), 'wd': 0.1}], sgd_step, lr=0.1)
    with pytest.warns(UserWarning, match="no stepper reads `other`: sgd_step doesn't"):
        Optimizer(params(), sgd_step, lr=0.1).set_hypers(other=3)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        opt = Optimizer(params(), sgd_step, lr=0.1, mom=0.9)
        opt.set_hypers(mom=0.5)
        oc.SGD(params(), lr=0.1)
        Optimizer(params(), lambda p, **kwargs: p.data.mul_(1 - kwargs['nu']), nu=0.1)
        oc.RMSProp(params(), lr=0.1)
        Optimizer(params(), [lambda p, **kwargs: weight_decay(p, **kwargs), sgd_step], lr=0.1, wd=0.1)
        noted = Optimizer([{'params': params(), 'name': 'body', 'initial_lr': 0.1}], sgd_step, lr=0.1)
    assert dict(noted.hypers[0]) == dict(lr=0.1) and noted.param_groups[0]['name'] == 'body'
    ours = Optimizer(params(), [average_sqr_grad, average_grad, oc.rms_prop_step], lr=0.1, alpha=0.5)
    assert ours.hypers[0]['sqr_mom'] == 0.5 and 'alpha' not in ours.hypers[0]


def adam_without(*names):
    return [cb for cb in oc.Adam.cbs if getattr(getattr(cb, 'func', cb), '__name__', '') not in names]


@pytest.mark.parametrize('cbs, hypers, message', [
    ([weight_decay, momentum_step], {}, r'`momentum_step` needs `grad_avg`.* Put `average_grad`'),
    ([weight_decay, momentum_step, average_grad], {}, r'`momentum_step` needs `grad_avg`.* Put `average_grad`'),
    (adam_without('step_stat'), {}, r'`adam_step` needs `step`.* Put `step_stat`'),
    (adam_without('average_sqr_grad'), dict(sqr_mom=0.9), r'`adam_step` needs `sqr_avg`.* Put .*`average_sqr_grad`'),
    ([weight_decay, lambda p, lrr: None], {}, r"`<lambda>` needs `lrr`.* Did you mean `lr`\? Pass it as a hyper-parameter, `(Optimizer\(…, lrr=…\)|opt.set_hyper\('lrr', …\))`"),
    ([weight_decay, lambda p: {'late': 1} if p.ndim > 9 else None, lambda p, late: None], {}, 'needs `late`'),
    ([weight_decay, average_grad, average_sqr_grad, step_stat, lambda p: p + 'a'], {}, 'unsupported operand|can only concatenate'),
], ids=['missing', 'too late', 'step', 'sqr_avg', 'typo', 'conditional', 'bug'])
def test_a_stepper_that_lacks_something_harms_nothing(cbs, hypers, message):
    ps = params()
    start = [p.data.clone() for p in ps]
    if 'unsupported' not in message:
        with pytest.raises(oc.MissingName, match=message): Optimizer(ps, cbs, lr=0.1, wd=0.5, **hypers)
    opt = Optimizer(ps, cbs, lr=0.1, wd=0.5, check=False, **hypers)
    opt.state[ps[0]]['do_wd'] = True
    set_grads(ps)
    with pytest.raises(TypeError, match=message): opt.step()
    assert all(torch.equal(p, s) for p, s in zip(ps, start))
    assert opt.state[ps[0]] == {'do_wd': True} and not any(opt.state[p] for p in ps[1:])


def test_a_name_that_only_one_group_has_harms_nothing():
    ps = params()
    start = [p.data.clone() for p in ps]
    opt = partial(Optimizer, [{'params': ps[:2], 'nu': 1.}, {'params': ps[2:]}], lambda p, nu: p.data.mul_(nu/2))
    with pytest.raises(oc.MissingName, match='`nu`'): opt()
    opt = opt(check=False)
    opt.step() # without gradients nothing happens, and nothing is tried
    set_grads(ps)
    with pytest.raises(oc.MissingName, match='`nu`'): opt.step()
    assert all(torch.equal(p, s) for p, s in zip(ps, start)) and not any(opt.state.values())


def test_parameters_that_cannot_be():
    ps = params()
    cases = [
        ([], ValueError, 'empty'), (iter([]), ValueError, 'empty'), (nn.Linear(2, 2), TypeError, r'model.parameters\(\)'), (set(ps), TypeError, 'set'),
        ([{'params': set(ps)}], TypeError, 'set'), (['a'], TypeError, "'a'"), ([ps[0]*2], ValueError, 'no leaf'), ([ps[0], ps[0]], ValueError, 'twice'),
        ([[ps[0]], [ps[0]]], ValueError, 'twice'), ([{'lr': 0.1}], ValueError, 'needs `params`'), ([('a', ps[0]), ps[1]], ValueError, 'names'),
        ([{'params': ps}, 3], TypeError, 'must be a dict'), ([(ps[0], ps[1])], TypeError, 'pair must be'), ([[], []], ValueError, 'empty')]
    for bad, error, message in cases:
        with pytest.raises(error, match=message): oc.SGD(bad, lr=0.1)
    opt = oc.SGD(ps, lr=0.1)
    with pytest.raises(ValueError, match='twice'): opt.add_param_group({'params': ps[:1]})
    with pytest.raises(TypeError, match='dict'): opt.add_param_group(ps)
    with pytest.raises(ValueError, match='names'): opt.add_param_group({'params': [('a', params()[0])]})
    assert len(opt.param_groups) == 1
    with pytest.raises(TypeError, match='callable'): Optimizer(ps, ['sgd'], lr=0.1)
    with pytest.raises(TypeError, match='Adam is an optimizer, not a stepper'): Optimizer(ps, [oc.Adam], lr=0.1)
    assert len(oc.SGD(nn.ParameterList(ps), lr=0.1).param_lists[0]) == len(ps)
    oc.SGD(nn.LazyLinear(3).parameters(), lr=0.1)


def test_frozen_empty_and_gradless_parameters_are_left_alone():
    frozen, empty, gradless = torch.zeros(3), nn.Parameter(torch.zeros(0, 3)), nn.Parameter(torch.ones(2))
    empty.grad = torch.zeros(0, 3)
    for algo in (oc.Adam, oc.Lamb, oc.Larc):
        opt = algo([[], [frozen, empty, gradless]], lr=0.1, wd=0.5)
        opt.step()
        assert (frozen == 0).all() and (gradless == 1).all() and opt.state[gradless] == {}


def test_nan_gradients_come_out_as_in_torch():
    a, b = params(), params()
    x, y = oc.AdamW(a, lr=0.1), torch.optim.AdamW(b, lr=0.1)
    for ps, opt in ((a, x), (b, y)):
        set_grads(ps)
        ps[0].grad[0, 0], ps[0].grad[1, 1] = float('nan'), float('inf')
        opt.step()
    assert all(torch.equal(u.isnan(), v.isnan()) for u, v in zip(a, b)) and a[0].isnan().sum() == 2


@pytest.mark.parametrize('ours, theirs', [(oc.AdamW, torch.optim.AdamW), (oc.SGD, torch.optim.SGD), (oc.RMSProp, torch.optim.RMSprop),
                                          (partial(oc.Adam, sqr_mom=0.999, eps=1e-8, wd=0.1, decouple_wd=False), partial(torch.optim.Adam, weight_decay=0.1))])
def test_complex_parameters_as_in_torch(ours, theirs):
    runs = []
    for make in (ours, theirs):
        p = nn.Parameter(torch.tensor([1+2j, 3-1j, 0j]))
        opt = make([p], lr=0.1)
        for i in range(5):
            p.grad = torch.tensor([1j, 2-1j, 0.5])*(i+1)
            grad = p.grad
            opt.step()
            assert p.grad is grad
        runs.append(p.detach())
    assert torch.allclose(*runs, atol=1e-6)


def test_printing_shows_the_steppers():
    assert repr(oc.Adam(params(), lr=0.1)).startswith('Adam: weight_decay, average_grad(dampening=True), average_sqr_grad, step_stat, adam_step\nOptimizer')


def test_train_bn_is_the_learners():
    with pytest.warns(UserWarning, match='train_bn'):
        assert 'train_bn' not in Optimizer(params(), sgd_step, lr=0.1, train_bn=True).hypers[0]
