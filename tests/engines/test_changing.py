"Gradients that come and go: each step chooses among parameters that a plan knows, and gives the eager engine's numbers."
import copy
import gc
import tracemalloc
import warnings
import weakref

import pytest
import torch
from helpers import params
from hypothesis import given, settings
from hypothesis import strategies as st
from on_engines import ulps
from test_stress import Interrupted

import optimcb as oc
from optimcb import Optimizer, average_grad, momentum_step, sgd_step, step_stat, weight_decay
from optimcb.composition.calls import by_torch
from optimcb.engines import c_compiler, plan
from optimcb.tracing.bucket import Bucket

SHAPES = [(3, 4), (5,), (), (2, 3), (4, 3), (5,)]
N = len(SHAPES)


@by_torch
def turned(x): return x.flip(0) if x.dim() else x*1

def turns(p, lr): p.data.sub_(turned(p.grad), alpha=lr)

def counted_step(p, lr, step): p.data.sub_(p.grad, alpha=lr/step)

def clip_all(p, max_norm=1.):
    total = yield p.grad.double().pow(2).sum()
    p.grad = p.grad*(max_norm/(total.sqrt() + 1e-6)).clamp(max=1.).to(p.dtype)

def divided_by_all(p):
    n = yield 1
    p.grad = p.grad/n

def every_second(p, step): return None if step % 2 else oc.stop()


def recipe(make, **options): return lambda ps, **flags: make(ps, lr=0.1, **options, **flags)
def steppers(*cbs, **hypers): return lambda ps, **flags: Optimizer(ps, cbs, lr=0.1, **hypers, **flags)
def in_groups(ps, **flags):
    groups = [dict(params=ps[:2]), dict(params=ps[2:4], lr=0.3, mom=0.5), dict(params=ps[4:], wd=0.2)]
    return Optimizer(groups, [weight_decay, average_grad, momentum_step], lr=0.1, mom=0.9, wd=0.1, **flags)


CASES = { # how to make an optimizer, and how many units in the last place its engines may differ in
    'no state': (steppers(sgd_step), 0),
    'momentum': (steppers(average_grad, momentum_step, mom=0.9), 0),
    'counts': (steppers(step_stat, counted_step), 0),
    'AdamW': (recipe(oc.AdamW), None), # torch's square roots are MKL's
    'groups': (in_groups, 0),
    'masks': (steppers(oc.only(weight_decay, oc.by_ndim(2)), sgd_step, wd=0.1), 0),
    'stops': (steppers(step_stat, every_second, sgd_step), 0),
    'a function by torch': (steppers(average_grad, turns, mom=0.9), 0),
    'sums of numbers': (steppers(divided_by_all, sgd_step), 0),
    'sums': (steppers(clip_all, average_grad, momentum_step, mom=0.9), None),
    'state of other shapes': (recipe(oc.Shampoo), None), # torch's functions, called for one or for many
    'zeroed in the step': (recipe(oc.SGD, mom=0.9, zero_in_step=True), 0),
    'Lookahead': (lambda ps, **flags: oc.Lookahead(oc.SGD(ps, lr=0.1, mom=0.9, **flags), k=3), 0),
}


def grad_of(shape, i, k):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1000*i + k))


def taken(make, masks, before=lambda i, ps, opt: None, shapes=SHAPES, **flags):
    "Parameters and optimizer after steps in which those have gradients that `masks` has"
    ps = params(shapes)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        opt = make(ps, **flags)
        for i, mask in enumerate(masks):
            for k, (p, m) in enumerate(zip(ps, mask)): p.grad = grad_of(p.shape, i, k) if m else None
            before(i, ps, opt)
            opt.step()
    return ps, opt


def assert_same(a, b, most=0):
    (ps, opt), (qs, other) = a, b
    for p, q in zip(ps, qs):
        assert torch.allclose(p, q, atol=1e-5) if most is None else ulps(p, q) <= most
        assert (p in opt.state) == (q in other.state)
        if p not in opt.state: continue
        s, t = opt.state[p], other.state[q]
        assert s.keys() == t.keys()
        for k, v in s.items():
            if not isinstance(v, torch.Tensor): assert type(v) is type(t[k]) and v == t[k], k
            elif most is None: assert torch.allclose(v, t[k], atol=1e-5), k
            else: assert ulps(v, t[k]) <= most, k


@pytest.mark.parametrize('engine', ['foreach', 'fused'])
@pytest.mark.parametrize('case', CASES)
@settings(max_examples=6, deadline=None)
@given(masks=st.lists(st.lists(st.booleans(), min_size=N, max_size=N), min_size=2, max_size=12))
def test_any_parameters_have_gradients(case, engine, masks):
    make, most = CASES[case]
    assert_same(taken(make, masks, engine=engine), taken(make, masks, engine='eager'), most)


def a_new_plan(i, ps, opt):
    inner = opt
    while hasattr(inner, 'opt'): inner = inner.opt
    inner._running.plan = None


@pytest.mark.parametrize('case', CASES)
@settings(max_examples=6, deadline=None)
@given(masks=st.lists(st.lists(st.booleans(), min_size=N, max_size=N), min_size=4, max_size=12))
def test_as_if_each_step_had_a_plan_of_its_own(case, masks):
    "To the bit"
    make, _ = CASES[case]
    assert_same(taken(make, masks, engine='fused'), taken(make, masks, a_new_plan, engine='fused'))


def random_masks(steps, seed, share=0.4, n=N):
    g = torch.Generator().manual_seed(seed)
    return [[True]*n, *((torch.rand(n, generator=g) < share).tolist() for _ in range(steps))]


def changed_number(i, ps, opt):
    if i in (6, 11) and opt.state[ps[1]]: opt.state[ps[1]]['step'] = 40
def load(i, ps, opt):
    if i in (7, 12): opt.load_state_dict(opt.state_dict())
def freeze(i, ps, opt):
    if i in (6, 10): ps[3].requires_grad_(i == 10)
def other_memory(i, ps, opt):
    if i == 8: ps[0].data = ps[0].data.clone()
    if i == 9: opt.state[ps[4]]['grad_avg'] = opt.state[ps[4]]['grad_avg'].clone()
def comes_late(i, ps, opt):
    if i < 9: ps[2].grad = None
def schedule(i, ps, opt): opt.set_hyper('lr', 0.1/(i + 1))
def new_group(i, ps, opt):
    if i == 7:
        ps.append(torch.nn.Parameter(torch.ones(3)))
        opt.add_param_group(dict(params=ps[-1:], lr=0.5))
    if i >= 7: ps[-1].grad = torch.ones(3) if i % 2 else None
def sparse(i, ps, opt):
    if i % 3 == 0 and ps[0].grad is not None: ps[0].grad = ps[0].grad.to_sparse()
def turned_grad(i, ps, opt):
    if i % 3 == 0 and ps[0].grad is not None: ps[0].grad = ps[0].grad.t().contiguous().t()
def negative(i, ps, opt):
    if i % 3 == 0 and ps[0].grad is not None: ps[0].grad = torch._neg_view(-ps[0].grad)

EVENTS = [changed_number, load, freeze, other_memory, comes_late, schedule, new_group, sparse, turned_grad, negative]


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('event', EVENTS, ids=lambda f: f.__name__)
def test_something_happens_in_between(event, seed, looking):
    make = steppers(step_stat, average_grad, momentum_step, counted_step, mom=0.9)
    masks = random_masks(16, seed)
    assert_same(taken(make, masks, event, engine='auto'), taken(make, masks, event, engine='eager'))


@pytest.mark.parametrize('case', ['counts', 'groups', 'AdamW', 'a function by torch'])
def test_a_look_and_passes_are_the_same(case, monkeypatch):
    make, _ = CASES[case]
    masks = random_masks(20, 5)
    looked = taken(make, masks, engine='fused')
    def lacks(plan): raise c_compiler.CantBuild('no compiler')
    monkeypatch.setattr(plan, 'OnePass', lacks)
    assert_same(looked, taken(make, masks, engine='fused'))


def test_a_scaler_that_skips_steps(looking):
    def run(engine):
        ps = params(SHAPES)
        opt = Optimizer(ps, [step_stat, average_grad, momentum_step, counted_step], lr=0.1, mom=0.9, engine=engine)
        scaler = torch.amp.GradScaler('cpu', init_scale=4.)
        scaler.scale(torch.zeros(()))
        for i, mask in enumerate(random_masks(12, 3)):
            for k, p in enumerate(ps):
                p.grad = grad_of(p.shape, i, k)*scaler.get_scale() if mask[k] or not any(mask) else None
                if i in (4, 9) and p.grad is not None: p.grad.fill_(float('inf'))
            scaler.step(opt)
            scaler.update()
        return ps, opt
    assert_same(run('fused'), run('eager'))


def test_steps_in_backward(looking):
    def run(inside):
        ps = params(SHAPES)
        opt = Optimizer(ps, [step_stat, average_grad, momentum_step, counted_step], lr=0.1, mom=0.9)
        handle = oc.step_in_backward(opt) if inside else None
        for mask in random_masks(12, 4):
            used = [p for p, m in zip(ps, mask) if m] or ps
            sum((p*p).sum() for p in used).backward()
            if not inside: opt.step()
            opt.zero_grad(set_to_none=True)
        return ps, opt, handle
    assert_same(run(True)[:2], run(False)[:2])


@pytest.fixture
def plans(monkeypatch):
    "Counts the plans that are made"
    made, real = [], plan.Plan.__init__
    def counted(self, *args):
        made.append(1)
        real(self, *args)
    monkeypatch.setattr(plan.Plan, '__init__', counted)
    return made


@pytest.mark.parametrize('case', ['no state', 'momentum', 'counts', 'AdamW', 'groups', 'masks', 'a function by torch'])
def test_a_mask_and_not_a_plan(case, plans, looking):
    "When steps have made state and looked at parameters, one plan does, whoever has a gradient"
    make, _ = CASES[case]
    taken(make, random_masks(30, 1), engine='fused')
    assert len(plans) <= 3


def test_what_is_left_to_the_eager_engine_comes_and_goes(plans, looking):
    def by_value(p, lr): p.data.sub_(p.grad, alpha=lr*float(p.grad.sum() > 0) if p.ndim > 1 else lr)
    def quiet(*args): return taken(steppers(by_value), random_masks(30, 2), engine=args[0])
    assert_same(quiet('auto'), quiet('eager'))
    assert len(plans) <= 4


def test_counts_that_drift_apart_share_buckets():
    "There are as many buckets as counts, twice at most: those with a gradient, and the others"
    make, _ = CASES['counts']
    ps, opt = taken(make, random_masks(60, 7, n=40), shapes=[(2,)]*40, engine='fused')
    counts = {opt.state[p]['step'] for p in ps}
    assert 2 < len(counts) and len(opt._running.plan.known) <= 2*len(counts) + 2


def test_numbers_of_other_types_stay_apart():
    def scaled(p, k=1): p.data.sub_((p.grad > 0).sum()*k)
    def run(engine):
        def give(i, ps, opt):
            for q, p in enumerate(ps): opt.state[p].setdefault('k', 1 if q % 2 else 1.)
        return taken(steppers(scaled), random_masks(6, 0), give, engine=engine)
    assert_same(run('fused'), run('eager'))


def test_memory_of_many_steps(looking):
    "Neither objects nor memory grow with the steps"
    ps = params([(2,)]*30)
    opt = Optimizer(ps, [step_stat, counted_step], lr=1e-3, engine='fused')
    def run(steps, seed):
        for i, mask in enumerate(random_masks(steps, seed, n=30)):
            for k, p in enumerate(ps): p.grad = grad_of((2,), i, k) if mask[k] else None
            opt.step()
        gc.collect()
        return sum(type(o) is Bucket for o in gc.get_objects()), tracemalloc.get_traced_memory()[0]
    tracemalloc.start()
    try:
        run(150, 0)
        (few, before), (many, after) = run(150, 1), run(300, 2)
    finally: tracemalloc.stop()
    assert many < 2*few + 30 and after - before < 200_000


def test_gradients_are_let_go_that_others_follow():
    ps, opt = taken(CASES['momentum'][0], random_masks(8, 0), engine='fused')
    for i in range(4):
        for k, p in enumerate(ps): p.grad = grad_of(p.shape, i, k) if (i + k) % 2 else None
        opt.step()
    kept = [weakref.ref(p.grad) for p in ps if p.grad is not None]
    for p in ps: p.grad = None
    assert kept and not any(r() is not None for r in kept)


def test_memory_that_is_shared_with_a_parameter_without_a_gradient(plans):
    "It is in nobody's way as long as it has none"
    def make():
        flat = torch.arange(6.)
        return [torch.nn.Parameter(flat[:4]), torch.nn.Parameter(flat[2:]), *params([(5,)])]
    res = []
    for engine in ('eager', 'fused'):
        ps = make()
        opt = Optimizer(ps, [average_grad, momentum_step], lr=0.1, mom=0.9, engine=engine)
        for i, mask in enumerate([(1, 1, 1), (1, 0, 1), (1, 0, 1), (0, 1, 1), (1, 1, 0), (1, 0, 1)]):
            for k, p in enumerate(ps): p.grad = grad_of(p.shape, i, k) if mask[k] else None
            opt.step()
        res.append((ps, opt))
    assert_same(*res)
    assert not opt._running.plan.eager


def test_interrupts_when_others_have_gradients():
    "Wherever such a step is broken off, training goes on from what is there as it would on the eager engine"
    cbs = [step_stat, average_grad, momentum_step, counted_step]
    def take(ps, opt, i, mask):
        for k, p in enumerate(ps): p.grad = grad_of(p.shape, i, k) if mask[k] else None
        opt.step()
    def ready():
        ps = params([(3,), (2, 2), (4,)])
        opt = Optimizer(ps, cbs, lr=0.1, mom=0.9, engine='fused')
        for i in range(4): take(ps, opt, i, [1, 1, i != 3])
        return ps, opt
    ps, opt = ready()
    with (all_lines := Interrupted(-1)): take(ps, opt, 4, [1, 0, 1])
    broken = 0
    for at in range(1, all_lines.lines*9//10, 1 + all_lines.lines//60):
        ps, opt = ready()
        with pytest.raises(KeyboardInterrupt), Interrupted(at): take(ps, opt, 4, [1, 0, 1])
        qs, other = copy.deepcopy((ps, opt))
        other.engine = 'eager'
        for i, mask in enumerate([(1, 0, 1), (0, 1, 1), (1, 1, 1)]):
            take(ps, opt, 5 + i, mask)
            take(qs, other, 5 + i, mask)
        assert_same((ps, opt), (qs, other))
        broken += 1
    assert broken > 20
