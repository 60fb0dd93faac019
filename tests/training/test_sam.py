"SAM goes up and comes back to the bit, steps by any rule on every engine, and gives what naive loops give."
import copy
import io
import pickle
import warnings
from functools import partial

import pytest
import torch
from helpers import difference, params
from torch import nn

import optimcb as oc
from optimcb import SAM, Optimizer, ema_weights, sgd_step, stats_kept
from optimcb.editing.wrap import wrapped

ENGINES = ('eager', 'foreach', 'fused')
RULES = {'sgd': (partial(oc.SGD, mom=0.9, wd=0.1, decouple_wd=False), partial(torch.optim.SGD, momentum=0.9, weight_decay=0.1)),
         'adamw': (oc.AdamW, torch.optim.AdamW)}


def loss_of(ps, t=0):
    "Not quadratic, other for each step, with a gradient for each parameter"
    return sum((((p - 0.1*(i + t % 3)).pow(2) + 1).sqrt() + 0.1*p*p).sum() * 2.**-i for i, p in enumerate(ps))


def naive(make, ps, steps, rho, adaptive=False, eta=0.):
    "The papers' algorithms, around an optimizer of torch"
    opt = make(ps)
    for t in range(steps):
        grads = torch.autograd.grad(loss_of(ps, t), ps)
        sizes = [p.detach().abs() + eta if adaptive else torch.ones_like(p) for p in ps]
        norm = sum(float(((s*g)**2).sum()) for s, g in zip(sizes, grads))**0.5
        old = [p.detach().clone() for p in ps]
        for p, s, g in zip(ps, sizes, grads): p.data = p.data + rho*s*s*g/(norm + 1e-12) # as the authors' code has it
        grads = torch.autograd.grad(loss_of(ps, t), ps)
        for p, o, g in zip(ps, old, grads): p.data, p.grad = o, g
        opt.step()
    return ps


def closure_of(opt, ps, t):
    def closure():
        opt.zero_grad(set_to_none=True)
        loss = loss_of(ps, t)
        loss.backward()
        return loss
    return closure


def by_closure(opt, ps, steps, start=0):
    return [opt.step(closure_of(opt, ps, t)).item() for t in range(start, start + steps)]


def by_hand(opt, ps, steps):
    for t in range(steps):
        for go in (opt.ascend, opt.step):
            opt.zero_grad()
            loss_of(ps, t).backward()
            go()


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('adaptive', [False, True])
@pytest.mark.parametrize('rule', RULES)
def test_equals_naive(rule, adaptive, engine):
    ours, theirs = RULES[rule]
    a, b, c = (params(dtype=torch.float64) for _ in range(3))
    expected = naive(partial(theirs, lr=0.01), a, 50, 0.3, adaptive, 0.02)
    by_closure(opt := SAM(ours(b, lr=0.01, engine=engine), 0.3, adaptive, 0.02), b, 50)
    by_hand(SAM(ours(c, lr=0.01, engine=engine), 0.3, adaptive, 0.02), c, 50)
    assert difference(b, expected) < 1e-12 and all(map(torch.equal, b, c)) and not opt.is_up


@pytest.mark.parametrize('adaptive', [False, True])
def test_equals_published_code(adaptive):
    theirs = pytest.importorskip('pytorch_optimizer').SAM
    a, b = params(dtype=torch.float64), params(dtype=torch.float64)
    other = theirs(a, torch.optim.SGD, rho=0.3, adaptive=adaptive, lr=0.01, momentum=0.9)
    for t in range(30):
        loss_of(a, t).backward()
        other.first_step(zero_grad=True)
        loss_of(a, t).backward()
        other.second_step(zero_grad=True)
    by_closure(SAM(oc.SGD(b, lr=0.01, mom=0.9), 0.3, adaptive, 0.), b, 30)
    assert difference(a, b) < 1e-6 # its norm is in float32


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.complex64])
def test_comes_back_to_the_bit(dtype, engine):
    ps = [nn.Parameter(torch.randn(4, 3).to(dtype)), nn.Parameter(torch.randn(5).to(dtype))]
    unused = nn.Parameter(torch.ones(2))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore') # kernels leave complex numbers to the eager engine
        opt = SAM(oc.SGD([*ps, unused], lr=0.1, engine='auto' if dtype.is_complex and engine != 'eager' else engine))
        for scale in (1., 1000.):
            before, versions = [p.detach().clone() for p in ps], [p._version for p in ps]
            for p in ps: p.grad = torch.randn_like(p)*scale
            opt.ascend()
            assert opt.is_up and not any(map(torch.equal, ps, before)) and all(p._version > v
                                                                               for p, v in zip(ps, versions))
            if not dtype.is_complex and dtype != torch.bfloat16:
                assert sum((p - b).pow(2).sum()
                           for p, b in zip(ps, before)).sqrt().item() == pytest.approx(0.05, rel=1e-4)
            opt.descend()
            assert not opt.is_up and all(map(torch.equal, ps, before))


def test_a_rule_that_looks_at_all_gradients_and_groups_with_a_radius_of_their_own():
    a, b = params(dtype=torch.float64)[:2], params(dtype=torch.float64)[:2]
    opt = SAM(oc.SGD([dict(params=a[:1]), dict(params=a[1:])], lr=0.1))
    assert [h['sam_rho'] for h in opt.hypers] == [0.05]*2 and opt.defaults['sam_rho'] == 0.05
    opt.set_hyper('sam_rho', [0., 0.2])
    opt.add_param_group(dict(params=[extra := nn.Parameter(torch.ones(2, dtype=torch.float64))], sam_rho=0.1))
    for p in [*a, extra]: p.grad = torch.ones_like(p)
    opt.ascend()
    norm = sum(p.numel() for p in [*a, extra])**0.5
    assert torch.equal(a[0], b[0]) and torch.allclose(a[1], b[1] + 0.2/norm) and torch.allclose(extra, torch.full_like(extra, 1 + 0.1/norm))


def test_gradients_losses_and_the_hooks_of_a_step():
    ps, seen = params(dtype=torch.float64), []
    opt = SAM(oc.SGD(ps, lr=0.1), 0.2)
    opt.register_step_pre_hook(lambda *_: seen.append('hook'))
    first = loss_of(ps).item()
    def closure():
        seen.append(opt.is_up)
        loss = loss_of(ps)
        loss.backward() # clears no gradients
        return loss
    before = [p.detach().clone() for p in ps]
    assert opt.step(closure).item() == first and seen == [False, True, 'hook']
    assert difference([p.grad for p in ps], [(b - p)/0.1 for p, b in zip(ps, before)]) < 1e-10 # those of the second pass, which the step was by
    other = copy.deepcopy(opt)
    others = other.param_groups[0]['params']
    other.register_step_pre_hook(lambda *_: seen.append('copy'))
    other.step(closure_of(other, others, 0))
    assert seen.count('copy') == 1


def test_schedulers_and_sums_over_all_and_averages_inside():
    ps, qs = params(dtype=torch.float64), params(dtype=torch.float64)
    def clip(p, max_norm=0.5):
        total = yield p.grad.pow(2).sum()
        p.grad = p.grad * (max_norm/total.sqrt()).clamp(max=1)
    opt = SAM(Optimizer(ps, wrapped([clip, sgd_step], ema_weights), lr=0.1, ema_mom=0.5))
    sched = torch.optim.lr_scheduler.StepLR(opt, 1, gamma=0.5)
    for t in range(3):
        opt.step(closure_of(opt, ps, t))
        sched.step()
    assert opt.param_groups[0]['lr'] == 0.1/8
    with opt.averaged():
        assert all(map(torch.equal, ps, [opt.state[p]['ema_avg'] for p in ps]))
        with pytest.raises(RuntimeError, match='train'): opt.step(closure_of(opt, ps, 0))
        with pytest.raises(RuntimeError, match='train'): opt.ascend()
    class Clipped(torch.optim.SGD):
        def step(self):
            norm = sum(float((q.grad**2).sum()) for q in qs)**0.5
            for q in qs: q.grad *= min(1, 0.5/norm)
            super().step()
            self.param_groups[0]['lr'] /= 2
    naive(lambda _: Clipped(qs, lr=0.1), qs, 3, 0.05)
    assert difference(ps, qs) < 1e-12


def test_saved_and_copied():
    ps = params(dtype=torch.float64)
    opt = SAM(oc.AdamW(ps, lr=0.1), 0.2)
    by_closure(opt, ps, 3)
    f = io.BytesIO()
    torch.save(opt.state_dict(), f)
    f.seek(0)
    qs = [nn.Parameter(p.detach().clone()) for p in ps]
    again = SAM(oc.AdamW(qs, lr=0.5), 0.9)
    again.load_state_dict(torch.load(f, weights_only=True))
    assert again.hypers[0]['sam_rho'] == 0.2 and set(again.state[qs[0]]) == {'grad_avg', 'sqr_avg', 'step'}
    oc.AdamW([nn.Parameter(p.detach().clone()) for p in ps], lr=0.1).load_state_dict(opt.state_dict())
    opt.zero_grad()
    loss_of(ps, 3).backward()
    opt.ascend()
    with pytest.raises(RuntimeError, match='descend'): opt.state_dict()
    with pytest.raises(RuntimeError, match='descend'): opt.eval()
    for copied in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        rs = copied.param_groups[0]['params']
        copied.zero_grad()
        loss_of(rs, 3).backward()
        copied.step()
        by_closure(copied, rs, 2, 4)
        assert copied.ascent.opt is copied and not copied.is_up
    opt.zero_grad()
    loss_of(ps, 3).backward()
    opt.step()
    by_closure(opt, ps, 2, 4)
    by_closure(again, qs, 3, 3)
    assert all(map(torch.equal, ps, qs)) and all(map(torch.equal, ps, rs))


def test_what_is_refused_changes_nothing():
    ps = params()
    opt = SAM(oc.Adam(ps, lr=0.1))
    for p in ps: p.grad = torch.ones_like(p)
    before = [p.detach().clone() for p in ps]
    with pytest.raises(RuntimeError, match='ascend'): opt.step()
    with pytest.raises(TypeError, match='already'): SAM(opt)
    with pytest.raises(TypeError, match='step of its own'): SAM(torch.optim.SGD(ps, lr=0.1))
    with pytest.raises(TypeError, match='step of its own'): oc.Lookahead(opt)
    with pytest.raises(TypeError, match='step of its own'): oc.step_in_backward(opt)
    with pytest.raises(ValueError, match='sam_rho'): SAM(oc.SGD(ps, lr=0.1), -1.)
    with oc.step_in_backward(inside := oc.SGD(ps, lr=0.1)), pytest.raises(ValueError, match='all gradients'):
        SAM(inside)
    emb = nn.Embedding(5, 2, sparse=True)
    emb(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(ValueError, match='sparse'): SAM(oc.SGD(emb.parameters(), lr=0.1)).ascend()
    def fails():
        if opt.is_up: raise KeyError('second')
        loss_of(ps).backward()
        return torch.tensor(0.)
    with pytest.raises(KeyError): opt.step(fails)
    assert all(map(torch.equal, ps, before)) and not opt.is_up and not any(opt.state.values())


def test_infinite_gradients_and_skipped_steps_lead_nowhere():
    ps = params()
    opt, scaler = SAM(oc.SGD(ps, lr=0.1)), torch.amp.GradScaler('cpu', init_scale=4.)
    reference = SAM(oc.SGD(qs := params(), lr=0.1))
    for t, broken in enumerate([None, 'first', 'second', None]):
        before = [p.detach().clone() for p in ps]
        for at, go in (('first', opt.ascend), ('second', partial(scaler.step, opt))):
            opt.zero_grad()
            scaler.scale(loss_of(ps, t)).backward()
            if at == broken: ps[0].grad[0] = float('inf')
            if at == 'first': scaler.unscale_(opt)
            go()
            assert all(p.isfinite().all() for p in ps)
            scaler.update()
        if broken == 'second':
            assert opt.is_up
            opt.descend()
            assert all(map(torch.equal, ps, before))
        elif broken is None: by_closure(reference, qs, 1, t)
        else:
            for p, q in zip(ps, qs): q.data.copy_(p) # a plain step
    assert difference(ps, qs) < 1e-6


def test_running_statistics_are_of_the_weights_that_are_trained():
    torch.manual_seed(0)
    def net():
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Unflatten(1, (2, 3)),
                             nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten(), nn.Linear(6, 1))
    model, x = net(), torch.randn(16, 4)
    other = copy.deepcopy(model)
    opt = SAM(oc.SGD(model.parameters(), lr=0.1), model=model)
    def closure():
        opt.zero_grad()
        loss = model(x).pow(2).mean()
        loss.backward()
        return loss
    opt.step(closure)
    other(x) # once
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), other.buffers()))
    with pytest.raises(ZeroDivisionError), stats_kept(model): raise ZeroDivisionError
    assert model[1].track_running_stats and model[3].momentum == 0.1 and model[1].momentum == 0.1
    model(x), other(x)
    assert model[1].num_batches_tracked == other[1].num_batches_tracked == 2


# fastai

def learner(path, opt_func, cbs, model):
    import fastai.callback.schedule  # noqa: F401
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    torch.manual_seed(1)
    x = torch.randn(24, 3)
    rows = list(zip(x, x.sum(1, keepdim=True).sin()))
    dls = DataLoaders.from_dsets(rows, rows[:8], bs=8, num_workers=0, device='cpu', shuffle=False)
    learn = Learner(dls, copy.deepcopy(model), loss_func=nn.functional.mse_loss, opt_func=opt_func, path=path,
                    lr=0.05, cbs=cbs)
    learn.remove_cbs(learn.cbs.filter(lambda cb: cb.name == 'progress'))
    learn.logger = lambda *_: None
    return learn


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('ours', [True, False])
def test_learner_does_what_the_loop_does(ours, tmp_path):
    pytest.importorskip('fastai')
    from fastai.callback.training import GradientClip
    from fastai.optimizer import SGD

    from optimcb.learner import SAMCallback
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))
    learn = learner(tmp_path, partial(oc.SGD if ours else SGD, mom=0.9), [SAMCallback(0.2), GradientClip(0.3)], model)
    learn.recorder.smooth_loss.beta = 0. # as they are
    learn.fit(2)
    opt = SAM(oc.SGD(model.parameters(), lr=0.05, mom=0.9), 0.2)
    losses = []
    for _ in range(2):
        for x, y in learn.dls.train:
            opt.zero_grad()
            losses.append(loss := nn.functional.mse_loss(model(x), y))
            loss.backward()
            opt.ascend()
            opt.zero_grad()
            with stats_kept(model): nn.functional.mse_loss(model(x), y).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)
            opt.step()
    assert difference(list(learn.model.parameters()), list(model.parameters())) < 1e-5
    assert all(torch.allclose(a.double(), b.double(), rtol=1e-5)
               for a, b in zip(learn.model.buffers(), model.buffers()))
    assert torch.allclose(torch.stack(learn.recorder.losses), torch.stack(losses).detach(), rtol=1e-4)
    assert learn.sam.ascent is None
    learn.lr_find(num_it=6, show_plot=False, suggest_funcs=None)


@pytest.mark.filterwarnings('ignore')
def test_learner_schedules_the_radius_and_refuses_what_does_not_know_of_it(tmp_path):
    pytest.importorskip('fastai')
    from fastai.callback.fp16 import MixedPrecision
    from fastai.callback.schedule import ParamScheduler, SchedLin
    from fastai.callback.training import GradientAccumulation

    from optimcb.learner import SAMCallback
    learn = learner(tmp_path, oc.SGD, [SAMCallback(0.2)], nn.Linear(3, 1))
    learn.fit(1, cbs=ParamScheduler(dict(sam_rho=SchedLin(0.1, 0.4))))
    assert learn.opt.hypers[0]['sam_rho'] == pytest.approx(0.3) # of the last of three batches
    for cb in (MixedPrecision(), GradientAccumulation(2)):
        with pytest.raises(ValueError, match='again'):
            learner(tmp_path, oc.SGD, [SAMCallback(), cb], nn.Linear(3, 1)).fit(1)
    with pytest.raises(ValueError, match='so does this'):
        learner(tmp_path, lambda ps, lr: SAM(oc.SGD(ps, lr)), [SAMCallback()], nn.Linear(3, 1)).fit(1)
    with pytest.raises(RuntimeError, match='SAMCallback'):
        learner(tmp_path, lambda ps, lr: SAM(oc.SGD(ps, lr)), [], nn.Linear(3, 1)).fit(1)
    with pytest.raises(ValueError, match='sam_rho'): SAMCallback(-1)
