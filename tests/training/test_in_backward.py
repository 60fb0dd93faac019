"Steps in backward: the bits that backward, step and zero_grad give one after the other, whatever comes in between."
import copy
import gc
import pickle
import warnings
import weakref
from functools import partial

import pytest
import torch
from cases import CASES
from helpers import clip_all
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

import optimcb as oc
from optimcb import Optimizer, sgd_step, step_in_backward
from optimcb.engines import c_kernels

ENGINES = 'eager', 'foreach', 'fused'


class Net(torch.nn.Module):
    "Several shapes, a matrix that is used twice, and one that gets no gradient in every other step"
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.scale = torch.nn.Linear(6, 6), torch.nn.Linear(6, 6), torch.nn.Linear(6, 3), torch.nn.Parameter(torch.tensor(0.7))
        self.b.weight = self.a.weight

    def forward(self, x, i=0):
        x = self.b(self.a(x).tanh()).tanh()
        return (self.c(x) if i % 2 == 0 else x[:, :3]) * self.scale


def batch(i): return torch.randn(5, 6, generator=torch.Generator().manual_seed(i))
def loss_of(model, i): return model(batch(i), i).pow(2).mean()
def as_usual(opt):
    opt.step()
    opt.zero_grad(set_to_none=True)


def same(a, b, opt=None, other=None):
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    if opt is None: return
    mine, theirs = opt.state_dict(), other.state_dict()
    assert mine['param_groups'] == theirs['param_groups']
    for s, t in zip(mine['state'].values(), theirs['state'].values(), strict=True):
        assert s.keys() == t.keys()
        assert all(torch.equal(s[k], t[k]) if isinstance(s[k], torch.Tensor) else s[k] == t[k] for k in s)


def race(make, change=lambda model, opt, i: None, steps=6, model=Net, loss=loss_of,
         backward=lambda loss: loss.backward(), call_step=True):
    "Train twice, in backward and as usual, with `change` before each step: the same parameters and state. Returns the one that stepped in backward"
    a, b = model(), model()
    opt, other = make(a), make(b)
    inside = step_in_backward(opt)
    for i in range(steps):
        for m, o in ((a, opt), (b, other)):
            change(m, o, i)
            backward(loss(m, i))
            if o is other: as_usual(o)
            elif call_step: as_usual(o)
        assert all(p.grad is None for p in a.parameters())
    same(a, b, opt, other)
    return a, opt, inside


def adam(model, **hypers): return oc.Adam(model.parameters(), **{'lr': 0.05, 'wd': 0.1, **hypers})
def two_groups(model, **hypers):
    ps = list(model.parameters())
    return oc.Adam([{'params': ps[:2], 'lr': 0.01}, {'params': ps[2:], 'wd': 0.}], lr=0.05, wd=0.1, **hypers)


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('name,recipe', [o[:2] for o in CASES], ids=[o[0] for o in CASES])
def test_the_bits_of_every_algorithm(name, recipe, engine):
    def make(model):
        opt = recipe(model.parameters(), lr=0.01)
        opt.engine = engine
        return opt
    race(make, steps=7)

@pytest.mark.parametrize('engine', ENGINES)
def test_groups(engine): race(partial(two_groups, engine=engine))

@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16, torch.complex64])
def test_other_types(dtype):
    def model(): return torch.nn.ParameterList([torch.ones(3, 4, dtype=dtype), torch.full((), 0.5, dtype=dtype)])
    race(adam, model=model, loss=lambda m, i: (m[0].sum() * m[1] * (i+1)).abs().float())

def test_sparse_gradients():
    def model(): return torch.nn.Embedding(7, 3, sparse=True, _weight=torch.ones(7, 3))
    race(lambda m: oc.SGD(m.parameters(), lr=0.1, engine='eager'), model=model,
         loss=lambda m, i: m(torch.tensor([i, 1, i])).sum())

def test_a_tap_is_left_to_the_eager_engine_with_one_warning():
    def odd(p, lr): p.data.sub_(p.grad, alpha=lr*float(p.grad.abs().max() > 0))
    with pytest.warns(UserWarning, match='the eager engine runs') as caught:
        race(lambda m: Optimizer(m.parameters(), odd, lr=0.1))
    assert len(caught) == 2, 'one for each of the two optimizers'


# Gradients

def test_a_gradient_is_freed_before_the_next_one_is_there():
    ws = [torch.nn.Parameter(torch.eye(4)*(i+1)/3) for i in range(5)]
    opt, alive, most = oc.Adam(ws, lr=0.1), [], []
    def before(p):
        most.append(sum(r() is not None for r in alive))
        alive.append(weakref.ref(p.grad))
    for w in ws: w.register_post_accumulate_grad_hook(before)
    step_in_backward(opt, together=0)
    for _ in range(3):
        x = torch.ones(4)
        for w in ws: x = w @ x
        x.sum().backward()
    gc.disable()
    try: assert max(most) == 0 and not any(r() is not None for r in alive)
    finally: gc.enable()

@pytest.fixture
def launched(monkeypatch):
    "How many parameters each launch steps"
    found, real = [], c_kernels.Launch.phase
    def phase(self, i):
        found.append(sum(len(b.params) for b, _ in self.members))
        return real(self, i)
    monkeypatch.setattr(c_kernels.Launch, 'phase', phase)
    return found

SIZES = 30, 5, 100, 8, 8, 8, 1, 99, 2

def chain(): return torch.nn.ParameterList([torch.full((n,), 1 + n/100) for n in SIZES])
def loss_of_chain(m, i):
    x = torch.tensor(1. + i)
    for p in m: x = (x*p).mean()
    return x

@pytest.mark.parametrize('together,expected', [
    (0, [1]*9), (1, [1]*9), (32, [1, 1, 6, 1]), (100, [2, 1, 6]), (10**6, [9])])
def test_small_parameters_wait_for_others(together, expected, launched):
    "The launches of the last backward pass, from the last parameter to the first"
    a, b = chain(), chain()
    opt, other = adam(a), adam(b)
    step_in_backward(opt, together)
    for i in range(4):
        launched.clear()
        loss_of_chain(a, i).backward()
        if i: assert launched == expected
        assert all(p.grad is None for p in a)
        loss_of_chain(b, i).backward()
        as_usual(other)
    same(a, b, opt, other)

@given(st.integers(0, 300), st.lists(st.integers(1, 120), min_size=1, max_size=12), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_as_a_plain_step_whatever_waits(together, sizes, groups):
    "To the bit, with groups of their own and parameters that are left out in some passes; what waits is bounded"
    def model(): return torch.nn.ParameterList([torch.full((n,), 1 + n/100) for n in sizes])
    def make(m):
        return oc.Lamb([{'params': ps, 'lr': 0.01*(k+1)} for k in range(groups) if (ps := list(m)[k::groups])], lr=0.01)
    def loss(m, i):
        used = [p for k, p in enumerate(m) if i == 0 or (k + i) % 3]
        return sum((p*(i+1)).square().sum() for p in used) if used else m[0].sum()
    most = []
    a, b = model(), model()
    opt, other = make(a), make(b)
    step_in_backward(opt, together)
    for p in a:
        p.register_post_accumulate_grad_hook(lambda p: most.append(sum(q.numel() for q in a if q.grad is not None)))
    for i in range(5):
        loss(a, i).backward()
        assert all(p.grad is None for p in a)
        loss(b, i).backward()
        as_usual(other)
    same(a, b, opt, other)
    assert max(most) <= together

def test_many_sets_of_parameters_that_wait():
    "Plans of sets that don't come again are dropped"
    m = torch.nn.ParameterList([torch.ones(2) for _ in range(9)])
    opt = adam(m)
    inside = step_in_backward(opt)
    for i in range(1, 300): sum(p.sum() for k, p in enumerate(m) if i >> k & 1).backward()
    assert len(inside.targets) <= 64 + 9
    assert all(opt.state[p]['step'] == sum(i >> k & 1 for i in range(1, 300)) for k, p in enumerate(m))

def test_what_waits_in_a_pass_around_a_nested_one():
    def model():
        torch.manual_seed(0)
        return torch.nn.Sequential(*[torch.nn.Linear(6, 6) for _ in range(3)])
    def loss(m, i):
        x = m[0](batch(i))
        return m[2](checkpoint(m[1], x, use_reentrant=True)).pow(2).mean()
    race(adam, model=model, loss=loss)

@pytest.mark.parametrize('bad', [-1, 0.5, None, True])
def test_together_is_a_number(bad):
    with pytest.raises(ValueError, match='`together` must be a number'): step_in_backward(adam(Net()), together=bad)

def test_a_hook_that_takes_the_gradient_first():
    m = Net()
    m.a.weight.register_post_accumulate_grad_hook(lambda p: setattr(p, 'grad', None))
    start, opt = m.a.weight.detach().clone(), adam(m)
    step_in_backward(opt)
    loss_of(m, 0).backward()
    assert torch.equal(m.a.weight, start) and m.a.weight not in opt.state and opt.state[m.a.bias]['step'] == 1

def test_gradients_of_other_origin_are_stepped_in_step():
    def change(m, opt, i):
        m.c.weight.grad = torch.ones_like(m.c.weight)
    race(adam, change, loss=lambda m, i: loss_of(m, 1)) # which gives `c` none

def test_gradients_from_before_are_added_to():
    a, b = Net(), Net()
    opt, other = adam(a), adam(b)
    for m in (a, b): loss_of(m, 0).backward()
    step_in_backward(opt)
    for m in (a, b): loss_of(m, 2).backward()
    opt.step()
    as_usual(other)
    same(a, b, opt, other)

def test_only_backward_steps():
    m = Net()
    start = copy.deepcopy(m)
    opt = adam(m)
    step_in_backward(opt)
    torch.autograd.grad(loss_of(m, 0), list(m.parameters()))
    with torch.no_grad(): loss_of(m, 0)
    same(m, start)

def test_a_second_pass_through_the_graph_is_an_error():
    "The weights that it was computed with are gone, as they are after a step"
    m = Net()
    opt = adam(m)
    step_in_backward(opt)
    loss = loss_of(m, 0)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'): loss.backward()

def test_create_graph():
    race(adam, backward=lambda loss: loss.backward(create_graph=True), steps=3)

def test_gradients_cannot_be_accumulated():
    m = Net()
    opt = adam(m)
    step_in_backward(opt)
    for i in range(3): loss_of(m, i).backward() # who never calls `step` means each of them
    opt.step()
    loss_of(m, 0).backward()
    opt.step()
    loss_of(m, 0).backward()
    with pytest.warns(UserWarning, match='gradients twice between two calls') as caught:
        for i in range(4): loss_of(m, i).backward()
    assert len(caught) == 1

@pytest.mark.parametrize('reentrant', [False, True])
def test_checkpoints(reentrant):
    def model():
        torch.manual_seed(0)
        return torch.nn.Sequential(*[torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Tanh()) for _ in range(4)])
    def loss(m, i):
        x = batch(i).requires_grad_()
        for part in m: x = checkpoint(part, x, use_reentrant=reentrant)
        return x.pow(2).mean()
    race(adam, model=model, loss=loss)

def test_a_weight_that_several_checkpoints_share():
    def loss(m, i):
        x = batch(i)
        for _ in range(3): x = checkpoint(lambda x: m.a(x).tanh(), x, use_reentrant=False)
        return x.pow(2).mean()
    _, opt, _ = race(adam, loss=loss)
    assert opt.state[opt.param_groups[0]['params'][1]]['step'] == 6

@pytest.mark.parametrize('waits,then', [(False, 'go on'), (True, 'go on'), (True, 'step'), (True, 'drop')])
def test_an_error_in_backward(waits, then):
    m = Net()
    opt = adam(m)
    step_in_backward(opt, together=100 if waits else 0)
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x): return x.clone()
        @staticmethod
        def backward(ctx, g): raise KeyError('mine')
    start = copy.deepcopy(m)
    with pytest.raises(KeyError, match='mine'): m.c(Fails.apply(m.a(batch(0)))).sum().backward()
    assert torch.equal(m.a.weight, start.a.weight) and torch.equal(m.c.weight, start.c.weight) is waits, 'it had come to the last layer'
    if waits: assert m.c.weight.grad is not None
    gc.collect()
    assert not opt._in_backward.waiting
    if then == 'step': as_usual(opt)
    if then == 'drop': opt.zero_grad(set_to_none=True)
    assert opt.state[m.c.weight].get('step', 0) == (not waits or then == 'step')
    for i in range(3): loss_of(m, i).backward()
    assert opt.state[m.c.weight]['step'] == 3 - (waits and then != 'step') and opt.state[m.a.weight]['step'] == 3

def test_an_error_in_a_stepper_leaves_its_parameter():
    m, fail = Net(), [True]
    def fails(p, lr):
        if fail[0] and p.dim() == 0: raise ZeroDivisionError('mine')
    opt = Optimizer(m.parameters(), [fails, *oc.Adam.cbs], lr=0.1, engine='eager', check=False)
    step_in_backward(opt)
    with pytest.raises(ZeroDivisionError, match='mine'): loss_of(m, 0).backward()
    assert m.scale.grad is not None and m.scale == 0.7 and not opt.state[m.scale]
    fail[0] = False
    opt.step() # its gradient is still there
    assert opt.state[m.scale]['step'] == 1
    m.scale.grad = None
    loss_of(m, 1).backward()
    assert opt.state[m.scale]['step'] == 2


# Whatever happens to an optimizer

def test_schedulers():
    scheds = {}
    def change(m, opt, i):
        if i == 0: scheds[opt] = torch.optim.lr_scheduler.ExponentialLR(opt, 0.5)
        else: scheds[opt].step()
    for call_step in (True, False):
        scheds.clear()
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            _, opt, _ = race(two_groups, change, call_step=call_step)
        assert opt.param_groups[0]['lr'] == 0.01/32

def test_step_runs_closures_and_hooks():
    a, b, calls = Net(), Net(), []
    opt, other = adam(a), adam(b)
    step_in_backward(opt)
    opt.register_step_post_hook(lambda *_: calls.append(1))
    for i in range(3):
        losses = []
        for m, o in ((a, opt), (b, other)):
            def closure(m=m, o=o, i=i):
                o.zero_grad(set_to_none=True)
                loss = loss_of(m, i)
                loss.backward()
                return loss
            losses.append(o.step(closure))
        assert losses[0] == losses[1]
    same(a, b, opt, other)
    assert calls == [1]*3

def test_frozen_groups():
    def change(m, opt, i):
        if i in (0, 4): opt.freeze()
        if i == 2: opt.unfreeze()
    _, opt, _ = race(two_groups, change)
    assert [opt.state[ps[0]]['step'] for ps in opt.param_lists] == [2, 6]

def test_frozen_from_before():
    def model():
        m = Net()
        m.a.requires_grad_(False)
        return m
    def change(m, opt, i):
        if i == 2: m.requires_grad_(True)
    m, opt, _ = race(adam, change, model=model)
    assert opt.state[m.a.bias]['step'] == 4

def test_groups_that_come_later():
    def change(m, opt, i):
        if i == 2: opt.add_param_group({'params': list(m.c.parameters()), 'lr': 0.3})
    for call_step in (True, False):
        race(lambda m: oc.Adam(m.a.parameters(), lr=0.1), change, call_step=call_step,
             loss=lambda m, i: m.c(m.a(batch(i))).pow(2).mean() if i > 1 else m.a(batch(i)).pow(2).mean())

def test_parameters_that_are_moved_or_gone():
    m = Net()
    opt = two_groups(m)
    step_in_backward(opt)
    loss_of(m, 0).backward()
    a, b = opt.param_lists
    opt.param_lists = [b[:-1], a] # `scale` is the optimizer's no more... or the last of `c`
    gone, kept = b[-1], b[0]
    start = gone.detach().clone()
    loss_of(m, 0).backward()
    assert torch.equal(gone, start) and gone.grad is not None and not gone._post_accumulate_grad_hooks
    assert opt.state[kept]['step'] == 2

@pytest.mark.parametrize('engine', ENGINES)
def test_edits(engine):
    def half(p, update): return {'update': update/2}
    def change(m, opt, i):
        if i == 1: opt.insert(half, before=oc.apply_update)
        if i == 3: opt.remove('weight_decay')
        if i == 4: opt.set_hyper('mom', 0.5)
    race(lambda m: oc.Lamb(m.parameters(), lr=0.1, wd=0.1, engine=engine), change)

def test_another_engine():
    def change(m, opt, i): opt.engine = ENGINES[i % 3]
    race(adam, change)

def test_state_that_is_cleared_or_loaded():
    kept = {}
    def change(m, opt, i):
        if i == 2: kept[opt] = opt.state_dict()
        if i == 3: opt.clear_state()
        if i == 4: opt.load_state_dict(kept[opt])
        if i == 5: opt.state[m.a.bias]['grad_avg'] = torch.ones(6)
    race(two_groups, change, steps=8)

def test_weights_that_are_replaced():
    def change(m, opt, i):
        if i == 3:
            for p in m.parameters(): p.data = p.data.clone()*2
    race(adam, change)

def test_zero_grad_and_explain():
    m, opt, _ = race(adam)
    opt.zero_grad()
    assert all(p.grad is None for p in m.parameters()) and 'fused' in str(opt.explain())

def test_records():
    names = 'grad_norm', 'update_ratio', 'effective_lr'
    a, b = Net(), Net()
    opt, other = adam(a), adam(b)
    inside, stats = step_in_backward(opt), {o: oc.OptStats(o, m) for m, o in ((a, opt), (b, other))}
    for i in range(4):
        for m, o in ((a, opt), (b, other)):
            loss_of(m, i).backward()
            o.step()
            o.zero_grad(set_to_none=True)
    for k in names:
        x, y = (torch.from_numpy(stats[o][k]) for o in (opt, other))
        assert torch.allclose(x, y, equal_nan=True) and x.isnan().any() and not x.isnan().all()
    inside.remove()

def test_compiled_model():
    def loss(m, i): return torch.compile(m, backend='aot_eager')(batch(i)).pow(2).mean()
    race(adam, loss=loss, steps=3)
    torch._dynamo.reset()


# Undone, copied, refused

def test_removed():
    a, b = Net(), Net()
    opt, other = adam(a), adam(b)
    with step_in_backward(opt) as inside:
        for i in range(2): loss_of(a, i).backward()
    assert not any(p._post_accumulate_grad_hooks for p in a.parameters()) and '_in_backward' not in vars(opt)
    inside.remove()
    for i in range(2, 4):
        loss_of(a, i).backward()
        assert a.scale.grad is not None
        as_usual(opt)
    for i in range(4): loss_of(b, i).backward(); as_usual(other) # noqa: E702
    same(a, b, opt, other)
    step_in_backward(opt)
    for m in (a, b): loss_of(m, 4).backward()
    as_usual(other)
    same(a, b, opt, other)

@pytest.mark.parametrize('way', [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=['deepcopy', 'pickle'])
def test_copies_step_as_usual(way):
    m = Net()
    opt = adam(m)
    inside = step_in_backward(opt)
    loss_of(m, 0).backward()
    twin, other = way((m, opt))
    assert '_in_backward' not in vars(other) and not any(p._post_accumulate_grad_hooks for p in twin.parameters())
    for i in range(1, 3): loss_of(m, i).backward()
    for i in range(1, 3): loss_of(twin, i).backward(); as_usual(other) # noqa: E702
    same(m, twin, opt, other)
    with pytest.raises(TypeError, match='copied'): way(inside)

def test_nothing_is_kept_alive():
    m = Net()
    opt = adam(m)
    refs = weakref.ref(opt), weakref.ref(m.a.weight)
    step_in_backward(opt)
    loss_of(m, 0).backward()
    del m, opt
    gc.collect()
    assert not any(r() is not None for r in refs)

def test_an_optimizer_that_nobody_keeps():
    m = Net()
    step_in_backward(adam(m))
    gc.collect()
    with pytest.warns(UserWarning, match='is gone') as caught:
        for i in range(2): loss_of(m, i).backward()
    assert len(caught) == 1 and m.scale.grad is not None
    opt = adam(m)
    with step_in_backward(opt): loss_of(m, 0).backward()
    assert m.scale.grad is None

def test_sums_over_all_are_refused():
    m = Net()
    with pytest.raises(ValueError, match='stepper `clip_all` needs sums over .* all parameters.*Leave'):
        step_in_backward(Optimizer(m.parameters(), [clip_all, sgd_step], lr=0.1))
    opt = adam(m)
    step_in_backward(opt)
    loss_of(m, 0).backward()
    start = copy.deepcopy(m)
    opt.insert(clip_all, before=0)
    with pytest.raises(ValueError, match='stepper `clip_all` needs sums'): loss_of(m, 0).backward()
    same(m, start)

def test_what_else_is_refused():
    m = Net()
    with pytest.raises(TypeError, match='SGD has a step of its own'):
        step_in_backward(torch.optim.SGD(m.parameters(), lr=0.1))
    class Own(Optimizer):
        def step(self, closure=None): super().step(closure)
    class Mine(Optimizer): pass
    with pytest.raises(TypeError, match='Own has a step of its own'):
        step_in_backward(Own(m.parameters(), sgd_step, lr=0.1))
    step_in_backward(Mine(m.parameters(), sgd_step, lr=0.1)).remove()
    opt = adam(m)
    with step_in_backward(opt):
        for o in (opt, adam(m)):
            with pytest.raises(ValueError, match='in backward already'): step_in_backward(o)
        with pytest.raises(ValueError, match='Wrap it first'): oc.Lookahead(opt)
    assert isinstance(step_in_backward(oc.Lookahead(opt)), oc.InBackward)

@pytest.mark.parametrize('unscale', [False, True])
def test_scaled_gradients_are_an_error(unscale):
    m = Net()
    opt, scaler = adam(m), torch.amp.GradScaler('cpu')
    step_in_backward(opt)
    scaler.scale(loss_of(m, 0)).backward()
    if unscale: scaler.unscale_(opt)
    with pytest.raises(RuntimeError, match='GradScaler.*in backward'): scaler.step(opt)

def test_learner():
    pytest.importorskip('fastai')
    from fastai.callback import schedule  # noqa: F401
    from fastai.callback.progress import ProgressCallback
    from fastai.data.core import DataLoaders
    from fastai.learner import Callback, Learner, Recorder
    runs = []
    class Inside(Callback):
        def before_fit(self): self.inside = step_in_backward(self.opt)
        def after_fit(self): self.inside.remove()
    for cbs in ([], [Inside()]):
        dls = DataLoaders([(batch(i), batch(i)[:, :3]) for i in range(3)], [(batch(9), batch(9)[:, :3])])
        learn = Learner(dls, Net(), torch.nn.functional.mse_loss, oc.Adam, lr=0.1, cbs=cbs)
        learn.remove_cbs([ProgressCallback, Recorder])
        learn.fit_one_cycle(2, 0.1)
        runs.append(learn.model)
    same(*runs)
