"`torch.amp.GradScaler`: gradients are unscaled, and steps skipped, as it does it for torch's own optimizers."
import copy
import warnings
from functools import partial

import pytest
import torch
import torch.optim as to
from helpers import params, set_grads
from on_engines import TRACED, ulps
from torch import nn

import optimcb as oc
from optimcb import Optimizer
from optimcb.engines import grad_scaling

ENGINES = ('eager', *TRACED)
PAIRS = [
    (partial(oc.SGD, mom=0.9, wd=0.1, decouple_wd=False), partial(to.SGD, momentum=0.9, weight_decay=0.1)),
    (oc.AdamW, to.AdamW),
    (partial(oc.AMSGrad, wd=0.1, decouple_wd=False), partial(to.Adam, amsgrad=True, weight_decay=0.1)),
    (oc.NAdam, to.NAdam), # a schedule that counts steps
    (partial(oc.Adagrad, init_sum=0.5), partial(to.Adagrad, initial_accumulator_value=0.5)), # state that starts from a number
]


def clip_norm(p, max_norm=0.5):
    total = yield p.grad.pow(2).sum()
    p.grad = p.grad * (max_norm / total.sqrt()).clamp(max=1)


@pytest.fixture(params=['host', 'device'])
def known_by(request, monkeypatch):
    "Who knows whether a step is to be skipped: the host, or a device that the host doesn't wait for"
    if request.param == 'device': monkeypatch.setattr(grad_scaling, '_known', lambda x: x)
    return request.param


def train(make, steps=9, bad=(0, 3, 4, 7), dtype=torch.float64, before=lambda opt, scaler, ps: None, unscale=False):
    "Parameters and scale after steps with scaled gradients, some of which are infinite or NaN"
    ps = params(dtype=dtype)
    opt = make(ps, lr=0.01)
    scaler = torch.amp.GradScaler('cpu', init_scale=2.**10, growth_interval=2)
    scaler.scale(torch.zeros(()))
    for i in range(steps):
        set_grads(ps, i)
        for p in ps: p.grad.mul_(scaler.get_scale())
        if i in bad: ps[i % 3].grad.view(-1)[-1] = [float('inf'), float('nan')][i % 2]
        if unscale: scaler.unscale_(opt)
        before(opt, scaler, ps)
        scaler.step(opt)
        scaler.update()
    return opt, [p.detach() for p in ps], scaler.get_scale()


def same(a, b, tol=1e-12): return all(torch.allclose(x, y, rtol=tol, atol=tol) for x, y in zip(a, b))


@pytest.mark.parametrize('ours, theirs', PAIRS, ids=[o.func.__name__ if isinstance(o, partial) and hasattr(o, 'func') and hasattr(o.func, '__name__') else o.__name__ for o, _ in PAIRS])
@pytest.mark.parametrize('engine', ENGINES)
def test_as_torchs_own_optimizers(ours, theirs, engine, known_by):
    torch.set_default_dtype(torch.float64)
    try: _, want, scale = train(theirs)
    finally: torch.set_default_dtype(torch.float32)
    opt, got, mine = train(partial(ours, engine=engine))
    assert same(got, want) and mine == scale
    counts = {s['step'] for s in opt.state.values() if 'step' in s}
    assert counts <= {5}, "skipped steps are not counted"


@pytest.mark.parametrize('engine', ENGINES)
def test_clipping(engine, known_by):
    "In the composition, which sees gradients as they should be; and torch's, after `unscale_`"
    mine = partial(Optimizer, cbs=[clip_norm, *oc.AdamW.cbs], engine=engine, **oc.AdamW.hypers)
    def clip(opt, scaler, ps): nn.utils.clip_grad_norm_(ps, 0.5)
    torch.set_default_dtype(torch.float64)
    try: _, want, _ = train(to.AdamW, unscale=True, before=clip)
    finally: torch.set_default_dtype(torch.float32)
    assert same(train(mine)[1], want, 1e-6) # torch adds 1e-6 to the norm
    assert same(train(partial(oc.AdamW, engine=engine), unscale=True, before=clip)[1], want)
    assert same(train(mine, unscale=True)[1], want, 1e-6)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_engines_agree(dtype, known_by):
    "Scales are powers of two, but not exact where they make 16 bits denormal: fused computes with more bits than there are in memory"
    (_, want, _), (_, got, _) = (train(partial(oc.Adam, engine=e), dtype=dtype) for e in ('eager', 'fused'))
    tol = {torch.float32: 1e-6, torch.bfloat16: 2e-2, torch.float16: 2e-2}[dtype]
    assert all(torch.allclose(a, b, rtol=tol, atol=tol) for a, b in zip(got, want))


@pytest.mark.parametrize('engine', ENGINES)
def test_a_step_that_is_skipped_leaves_no_trace(engine, known_by):
    "To the bit: also the first one, which would have made the state"
    for bad in ((0,), (2,)):
        opt, got, _ = train(partial(oc.Yogi, engine=engine), steps=3, bad=bad)
        if bad == (0,): opt, got, _ = train(partial(oc.Yogi, engine=engine), steps=1, bad=bad)
        again, want, _ = train(partial(oc.Yogi, engine=engine), steps=0 if bad == (0,) else 2, bad=())
        assert all(ulps(a, b) == 0 for a, b in zip(got, want))
        for s, t in zip(opt.state_dict()['state'].values(), again.state_dict()['state'].values()):
            assert s.keys() == t.keys() and all(torch.equal(torch.as_tensor(s[k]), torch.as_tensor(t[k])) for k in s)


def test_the_host_asks_when_it_needs_to_know(monkeypatch):
    "Not before: until then it counts on"
    monkeypatch.setattr(grad_scaling, '_known', lambda x: x)
    opt, ps, _ = train(partial(oc.Adam, engine='fused'), steps=3, bad=(2,))
    assert opt.__dict__['state'][opt.param_lists[0][0]]['step'] == 3, "it doesn't know yet"
    for use in (lambda o: o.state, lambda o: o.all_params()[0][2], lambda o: o.state_dict()['state'],
                copy.deepcopy, lambda o: o.explain()):
        other, *_ = train(partial(oc.Adam, engine='fused'), steps=3, bad=(2,))
        use(other)
        assert other.__dict__['state'][other.param_lists[0][0]]['step'] == 2
    assert opt.state[opt.param_lists[0][0]]['step'] == 2


def test_what_no_kernel_runs_waits(known_by):
    "A stepper that branches on a value, beside one that the kernel runs; and sums over all of both"
    def odd(p, lr): p.data.sub_(p.grad, alpha=lr if p.grad.sum() > 0 else lr/2)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert same(*(train(lambda ps, lr, e=e: Optimizer(ps, [odd], lr=lr, engine=e))[1] for e in ('auto', 'eager')))


def supports(opt): return eval('opt._step_supports_amp_scaling', dict(opt=opt, __name__=torch.amp.GradScaler.__module__)) # as GradScaler sees it


def test_a_wrapper_with_a_step_of_its_own_is_unscaled_by_the_scaler():
    class Wrapper(Optimizer):
        def step(self, closure=None): return super().step(closure)
    assert not supports(Wrapper(params(), oc.sgd_step, lr=0.1))
    opt = oc.Adam(params(), lr=0.1)
    assert supports(opt) and supports(oc.Lookahead(oc.Adam(params(), lr=0.1)))
    torch.optim.lr_scheduler.StepLR(opt, 1) # puts a step that calls the optimizer's into the instance
    assert 'step' in opt.__dict__ and supports(opt)
    assert same(train(lambda ps, lr: Wrapper(ps, oc.sgd_step, lr=lr))[1], train(partial(oc.SGD))[1])


def test_who_counts_steps_sees_which_are_skipped():
    "As accelerate does, with a step in the instance; and who else asks may unscale and clip gradients, as Lightning does"
    opt = oc.Adam(params(), lr=0.1)
    assert not opt._step_supports_amp_scaling
    called = []
    def counted(ps, lr):
        opt, step = oc.Adam(ps, lr=lr), oc.Adam.func.step
        opt.step = lambda *args, **kwargs: [called.append(1), step(opt, *args, **kwargs)] and None
        return opt
    _, got, scale = train(counted)
    _, want, theirs = train(oc.Adam)
    assert len(called) == 5 and scale == theirs and same(got, want)


def test_gradients_are_left_as_backward_made_them():
    for engine in ENGINES:
        p = nn.Parameter(torch.ones(3))
        scaler = torch.amp.GradScaler('cpu', init_scale=4.)
        opt = oc.SGD([p], lr=1., engine=engine)
        scaler.scale((p*torch.tensor([1., 2., 3.])).sum()).backward()
        scaler.step(opt)
        assert p.grad.tolist() == [4, 8, 12] and p.tolist() == [0, -1, -2]
        assert not hasattr(opt, 'grad_scale') and not hasattr(opt, 'found_inf')


def test_an_optimizer_without_gradients():
    scaler = torch.amp.GradScaler('cpu')
    opt = oc.Adam(params(), lr=0.1)
    scaler.scale(torch.zeros(()))
    scaler.step(opt)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype):
    "A loop as in torch's documentation, with a model in 32 bits, that overflows at first; as torch's AdamW to the rounding of 32 bits"
    def run(make):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 1))
        opt, scaler, losses = make(model.parameters(), lr=1e-2), torch.amp.GradScaler('cpu', init_scale=2.**30), []
        x = torch.randn(64, 20)
        for _ in range(30):
            with torch.autocast('cpu', dtype): loss = nn.functional.mse_loss(model(x).float(), x.sum(1, keepdim=True))
            scaler.scale(loss).backward()
            scaler.step(opt)
            scaler.update()
            opt.zero_grad()
            losses.append(loss.item())
        return torch.tensor(losses), scaler.get_scale()
    (mine, scale), (theirs, their_scale) = run(oc.AdamW), run(to.AdamW)
    assert scale == their_scale and torch.allclose(mine, theirs, rtol=2e-2) and mine[-1] < mine[0]/2


def test_a_step_that_fails_doesnt_leave_the_scale_behind():
    fail = [True]
    def fails(p):
        if fail[0]: raise ZeroDivisionError
    p = nn.Parameter(torch.ones(()))
    opt, scaler = Optimizer([p], [fails, oc.sgd_step], lr=0.1, check=False), torch.amp.GradScaler('cpu', init_scale=8.)
    scaler.scale(p).backward()
    with pytest.raises(ZeroDivisionError): scaler.step(opt)
    fail[0], p.grad = False, torch.ones(())
    opt.step()
    assert p.item() == pytest.approx(0.9)


def test_what_is_in_doubt_is_settled_before_the_engine_changes(monkeypatch):
    monkeypatch.setattr(grad_scaling, '_known', lambda x: x)
    for change in (lambda o: setattr(o, 'engine', 'eager'), lambda o: oc.Lookahead(o), lambda o: o.clear_state() or o):
        opt, *_ = train(partial(oc.Adam, engine='fused'), steps=3, bad=(2,))
        kept = opt.__dict__['state'][opt.param_lists[0][0]]
        change(opt)
        assert kept['step'] == 2
