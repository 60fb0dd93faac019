"What a subclass overrides is its own business: a step that doesn't go on to ours is neither rehearsed nor displayed as if ours ran."
import copy
import pickle
import warnings
from functools import partial

import pytest
import torch
from fastcore.foundation import L
from helpers import params, set_grads
from torch import nn

import optimcb as oc
from optimcb import CompositionWarning, Optimizer
from optimcb.optimizer import _update
from optimcb.tracing.recording import NotRecorded


@pytest.fixture(autouse=True)
def silent():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        yield


def needy(p, lr, extra, **kwargs):
    p.data.sub_(p.grad, alpha=lr*extra)
    return {'seen': extra}


class WithExtra(Optimizer):
    "As people write it: what the steppers need is put in by the step"
    @torch.no_grad()
    def step(self, closure=None):
        for p, _, state, hyper in self.all_params(with_grad=True):
            for cb in self.cbs: state = _update(state, cb(p, **{**state, **hyper, 'extra': 2.}))
            self.state[p] = state


class ForEach(Optimizer):
    "As in fastxtend: a function of lists in the place of steppers"
    def __init__(self, params, opt_step, decouple_wd=True, **defaults):
        super().__init__(params, [None], **defaults)
        self.opt_step, self.decouple_wd = opt_step, decouple_wd

    @torch.no_grad()
    def step(self, closure=None):
        for pg, hyper in zip(self.param_lists, self.hypers):
            ps = [p for p in pg if p.grad is not None]
            for p in ps: self.state[p].setdefault('avg', torch.zeros_like(p))
            self.opt_step(ps, [p.grad for p in ps], [self.state[p]['avg'] for p in ps], **hyper)


def foreach_step(ps, grads, avgs, lr, beta1, wd, **kwargs):
    torch._foreach_mul_(ps, 1 - lr*wd)
    torch._foreach_mul_(avgs, beta1)
    torch._foreach_add_(avgs, grads)
    torch._foreach_add_(ps, avgs, alpha=-lr)


def linear(): return [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))]


def test_steppers_that_need_what_the_step_gives():
    p = linear()[0]
    opt = WithExtra([p], needy, lr=0.25)
    p.grad = torch.ones_like(p)
    opt.step()
    assert p.eq(0.5).all() and opt.state[p] == {'seen': 2.}


def test_lists_as_in_fastxtend():
    ps = params()
    opt = ForEach([ps[:2], ps[2:]], foreach_step, lr=slice(0.01, 0.1), beta1=0.9, wd=0.1)
    qs, avgs = [p.detach().clone() for p in ps], [torch.zeros_like(p) for p in ps]
    for i in range(3):
        set_grads(ps, i)
        for lr, at in zip(opt.hypers.itemgot('lr'), (slice(2), slice(2, None))):
            foreach_step(qs[at], [p.grad for p in ps[at]], avgs[at], lr, 0.9, 0.1)
        opt.step()
    assert all(map(torch.equal, ps, qs))
    other = ForEach([ps[:2], ps[2:]], foreach_step, lr=1., beta1=0.5, wd=0.)
    other.load_state_dict(opt.state_dict())
    assert all(torch.equal(other.state[p]['avg'], a) for p, a in zip(ps, avgs)) and other.hypers[0]['beta1'] == 0.9
    for again in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert [h['wd'] for h in again.hypers] == [0.1, 0.1] and again.opt_step is foreach_step


class Reads(Optimizer):
    def step(self, closure=None): self.done = True


@pytest.mark.parametrize('cbs', [[None], [], {'lr': .1}, 'adam', ['adam', 3], 5, [torch.optim.SGD], [foreach_step, None], object(), [oc.adam_step], [oc.rms_update, oc.weight_decay],
                                 partial(needy, 1), oc.Adam.cbs[:1], [lambda: None], [dict]], ids=lambda o: str(o)[:20])
def test_cbs_may_be_anything(cbs):
    opt = Reads(linear(), cbs, lr=0.1, wd=0.1, beta1=0.5, epss=3., flag=True, foreach=True, maximize=True,
                name='adam', engine='fused')
    opt.step()
    assert opt.done and list(opt.cbs) == list(L(cbs))
    hyper = dict(opt.hypers[0])
    for k, v in dict(lr=0.1, wd=0.1, beta1=0.5, epss=3., flag=True, foreach=True, maximize=True, name='adam').items():
        assert hyper[k] == v
    opt.add_param_group({'params': [nn.Parameter(torch.ones(3))], 'epss': 1., 'maximize': False})
    opt.set_hyper('beta1', 0.9)
    assert [h['beta1'] for h in opt.hypers] == [0.9, 0.9] and [h['epss'] for h in opt.hypers] == [3., 1.]
    opt.load_state_dict(opt.state_dict())
    opt.zero_grad()
    opt.clear_state()


@pytest.mark.parametrize('make', [lambda: WithExtra(linear(), needy, lr=0.1), lambda: ForEach(linear(), foreach_step, lr=0.1, beta1=0.9, wd=0.),
                                  lambda: Reads(linear(), oc.Adam.cbs, lr=0.1)], ids=['extra', 'foreach', 'read'])
def test_nothing_is_claimed(make):
    opt = make()
    name = type(opt).__name__
    for said in (str(opt.explain()), opt._repr_html_()):
        assert f'none of ours: {name} has a step of its own' in said and 'formula' not in said and 'fused' not in said and 'eager' not in said and 'moves' not in said
    assert repr(opt).startswith(f'{name} (') and 'lr: 0.1' in repr(opt)
    for ask in (lambda: opt.formula, opt.kernel):
        with pytest.raises(NotRecorded, match=f'{name} has a step of its own'): ask()
    if len(opt.composition.labels): opt.insert(needy, after=-1)


class Counted(Optimizer):
    "A step that goes on to ours"
    count = 0
    def step(self, closure=None):
        self.count += 1
        return super().step(closure)


class Named(Optimizer):
    def step(self, closure=None): return Optimizer.step(self, closure)


class Deeper(Counted): pass
class OfOwn(Reads):
    def step(self, closure=None): return super().step(closure)


@pytest.mark.parametrize('cls', [Counted, Named, Deeper, partial(oc.SAM), Optimizer], ids=['super', 'named', 'inherited', 'SAM', 'none'])
def test_a_step_that_goes_on_to_ours_is_rehearsed(cls):
    if isinstance(cls, partial): opt = cls(oc.Adam(linear(), lr=0.1))
    else:
        with pytest.raises(oc.MissingName): cls(linear(), oc.momentum_step, lr=0.1)
        opt = cls(linear(), oc.Adam.cbs, lr=0.1, **oc.Adam.hypers)
    assert 'own' not in str(opt.explain()) and opt.formula and 'adam_step' in repr(opt)


def test_one_that_ends_in_another_step_is_not():
    opt = OfOwn(linear(), oc.momentum_step, lr=0.1)
    opt.step()
    assert opt.done and 'none of ours: Reads' in str(opt.explain())


def test_a_patch_of_the_class(monkeypatch):
    "As fastcore's `patch` makes one"
    def step(self, closure=None):
        for p, _, state, hyper in self.all_params(with_grad=True):
            for cb in self.cbs: state = _update(state, cb(p, **{**state, **hyper, 'extra': 2.}))
    monkeypatch.setattr(Optimizer, 'step', step)
    p = torch.ones(2)
    opt = Optimizer([p], needy, lr=0.25)
    p.grad = torch.ones(2)
    opt.step()
    assert p.tolist() == [0.5, 0.5] and 'none of ours: Optimizer' in str(opt.explain())
    with pytest.raises(TypeError, match='step of its own'): oc.step_in_backward(opt)


def test_no_steppers_and_no_step_of_its_own():
    "It is said once that there are none, and not that each of them doesn't read something"
    with pytest.warns(CompositionWarning) as said: Optimizer(linear(), [None], lr=0.1, wd=0.1, beta1=0.9)
    assert [str(w.message).partition(',')[0] for w in said] == ['there are no steppers']
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        Optimizer(linear(), [None], lr=0.1, wd=0.1, beta1=0.9, check=False)
