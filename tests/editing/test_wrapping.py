"Parts that go with any rule: each equals its reference, each goes with each rule on each engine, and what makes no sense is refused."
import inspect
import math
import os
import pickle
import warnings
from functools import cache, partial

import pytest
import torch
from helpers import difference, params, set_grads, trajectory
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

import optimcb as oc
from optimcb import (
    SGD,
    Adam,
    AdamW,
    Composition,
    Lamb,
    Larc,
    Optimizer,
    accumulate,
    add_noise,
    agc,
    apply_update,
    average_grad,
    cautious,
    centralize,
    clip_norm,
    clip_tensor_norm,
    clip_update,
    clip_update_norm,
    clip_update_rms,
    clip_value,
    decay_toward,
    decay_update,
    full_decay,
    grokfast,
    l2_reg,
    lookahead_step,
    maximize,
    of_signs,
    once,
    part,
    renamed,
    sgd_step,
    skip_nonfinite,
    slow_start,
    step_in_backward,
    step_stat,
    stop,
    trust_ratio,
    wrapped,
    zero_nonfinite,
)
from optimcb.composition.stepper import Stepper
from optimcb.engines import c_compiler
from optimcb.engines.runner import CantRun

D = torch.float64
ALGORITHMS = {k: o for k, o in vars(oc).items() if isinstance(o, oc.Algorithm)}
RULES = {**ALGORITHMS, 'momentum': partial(SGD, mom=0.9), 'nesterov': partial(SGD, mom=0.9, nesterov=True),
         'rmsprop, momentum': partial(oc.RMSProp, mom=0.9)}
SCALING = {'value': partial(clip_value, max_grad=0.05), 'tensor norm': partial(clip_tensor_norm, max_tensor_norm=0.1), 'norm': partial(clip_norm, max_norm=0.1),
           'agc': agc}
PARTS = {**SCALING, 'centralize': centralize, 'grokfast': grokfast, 'zero non-finite': zero_nonfinite, 'skip non-finite': skip_nonfinite,
         'accumulate': partial(accumulate, accum=2), 'l2': l2_reg, 'full decay': full_decay, 'decay toward': decay_toward, 'decay inside': decay_update,
         'trust ratio': trust_ratio, 'cautious': cautious, 'update value': partial(clip_update, max_update=0.1),
         'update norm': partial(clip_update_norm, max_update_norm=0.5), 'update rms': partial(clip_update_rms, max_update_rms=0.5),
         'lookahead': [slow_start, partial(lookahead_step, k=2)], 'noise': add_noise, 'maximize': maximize}


def labels(o): return Composition(o.cbs if hasattr(o, 'cbs') else o).labels


def taken(rule, *parts, **options):
    "A rule, with its options, that has parts"
    given = rule.keywords if type(rule) is partial else {}
    return partial((rule.func if type(rule) is partial else rule).wrap(*parts), **given, **options)


def stepped(make, engine, steps=3, skip=lambda step: (), **options):
    "Where the parameters are after a few steps, and their state"
    torch.manual_seed(0)
    ps = params(dtype=D)
    opt = make(ps, lr=0.1, engine=engine, **options)
    for i in range(steps):
        set_grads(ps, i, skip(i))
        opt.step()
    return [p.data for p in ps], [dict(opt.state[p]) for p in ps]


def same(a, b, tol=1e-12):
    "Are parameters and states the same?"
    if difference(a[0], b[0]) > tol: return False
    for s, t in zip(a[1], b[1]):
        if s.keys() != t.keys(): return False
        tensors = [k for k in s if isinstance(s[k], torch.Tensor)]
        if any(s[k] != t[k] for k in s if k not in tensors) or difference([s[k] for k in tensors] or a[0], [t[k] for k in tensors] or a[0]) > tol:
            return False
    return True


# Each with each

@cache
def expected(rule, *name, coming=False):
    return stepped(taken(RULES[rule], *(PARTS[k] for k in name)), 'eager', **COMING if coming else {})


COMING = dict(steps=5, skip=lambda step: {step % 3} if step < 3 else ())


@pytest.fixture
def quickly(monkeypatch):
    "Kernels that are compiled quickly"
    monkeypatch.setattr(c_compiler, 'FLAGS', [o if o != '-O3' else '-O1' for o in c_compiler.FLAGS])


def goes_with(rule, name, engine, **kwargs):
    "Run a pair on an engine, or on what `auto` takes where that engine can't; or be refused"
    try: make = taken(RULES[rule], PARTS[name])
    except ValueError as e:
        assert len(str(e)) > 40 and '`' in str(e)
        return
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        theirs = expected(rule, name, coming=bool(kwargs))
        try: ours = stepped(make, engine, check=False, **kwargs)
        except CantRun: ours = stepped(make, 'auto', check=False, **kwargs)
    assert same(ours, theirs)


ALL = 'OPTIMCB_CASES' in os.environ
EVERY = 1 if ALL else -(-len(RULES)*len(PARTS) // 400) # of so many pairs one
PAIRS = [(r, n) for i, r in enumerate(RULES) for j, n in enumerate(PARTS) if (i + j) % EVERY == 0]
FUSED = [(r, n) for i, r in enumerate(RULES) for j, n in enumerate(PARTS) if ALL or i == 7*j % len(RULES)] # each part once


@pytest.mark.parametrize('rule, name', PAIRS)
def test_every_part_goes_with_every_rule(rule, name):
    goes_with(rule, name, 'foreach')


@pytest.mark.parametrize('rule, name', FUSED)
def test_every_part_goes_with_every_rule_in_a_kernel(rule, name, quickly):
    goes_with(rule, name, 'fused')


@pytest.mark.parametrize('name', PARTS)
def test_parts_with_gradients_that_come_and_go(name):
    for rule in ('Adam', 'momentum'): goes_with(rule, name, 'foreach', **COMING)


@pytest.mark.parametrize('name', SCALING)
@pytest.mark.parametrize('rule', RULES)
def test_a_part_that_would_do_nothing_is_refused(rule, name):
    try: make = taken(RULES[rule], PARTS[name])
    except ValueError: return
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert difference(stepped(make, 'eager')[0],
                          expected(rule)[0]) > 1e-9, "it does nothing: mark the step, with `of_signs`"


# Each as its reference

class Around:
    "A rule of torch, what is done to gradients before it, and to what it did after it"
    def __init__(self, params, lr, rule, grads=lambda gs, ps, s, t: gs, update=None, every=1, **hypers):
        self.ps, self.opt, self.lr = list(params), rule(params, lr=lr, **hypers), lr
        self.grads, self.update, self.every, self.s, self.t, self.sums = grads, update, every, {}, 0, None

    def step(self):
        gs = [p.grad.clone() for p in self.ps]
        self.sums = [a + b for a, b in zip(self.sums, gs)] if self.sums else gs
        self.calls = getattr(self, 'calls', 0) + 1
        if self.calls % self.every: return
        gs, self.sums = [g/self.every for g in self.sums], None
        self.t += 1
        for p, g in zip(self.ps, self.grads(gs, [p.data.clone() for p in self.ps], self.s, self.t)): p.grad = g
        before = [p.data.clone() for p in self.ps]
        self.opt.step()
        if self.update is None: return
        for p, b in zip(self.ps, before): p.data.copy_(b - self.lr*self.update((b - p.data)/self.lr, p.grad, b))


def clip_all(gs, ps, s, t):
    qs = [torch.nn.Parameter(p) for p in ps]
    for q, g in zip(qs, gs): q.grad = g
    clip_grad_norm_(qs, 0.5)
    return [q.grad for q in qs]


def clip_each(gs, ps, s, t): return [g if g.norm() + 1e-6 <= 0.5 else g*0.5/(g.norm() + 1e-6) for g in gs]


def clip_elements(gs, ps, s, t):
    qs = [torch.nn.Parameter(p) for p in ps]
    for q, g in zip(qs, gs): q.grad = g
    clip_grad_value_(qs, 0.05)
    return [q.grad for q in qs]


def units(x): return [x] if x.ndim < 2 else list(x)


def clip_units(gs, ps, s, t):
    for g, p in zip(gs, ps):
        for a, b in zip(units(g), units(p)):
            most = 0.01*max(b.norm().item(), 1e-3)
            if a.norm() > most: a *= most/a.norm().item()
    return gs


def without_mean(gs, ps, s, t):
    for g in gs:
        for row in units(g) if g.ndim > 1 else (): row -= row.mean().item()
    return gs


def slow_added(gs, ps, s, t):
    for i, g in enumerate(gs): s[i] = 0.9*s[i] + 0.1*g if i in s else g
    return [g + 1.5*s[i] for i, g in enumerate(gs)]


def noisy(gs, ps, s, t): return [g + math.sqrt(0.3/t**0.55)*torch.randn_like(g) for g in gs]


def toward(gs, ps, s, t):
    at = s.setdefault('at', ps)
    return [g + 0.1*(p - a) for g, p, a in zip(gs, ps, at)]


def masked(u, g, p): # github.com/kyleliang919/C-Optim
    mask = (u*g > 0).to(g.dtype)
    return u*mask/mask.mean().clamp(min=1e-3)


def shorter(u, g, p): return u/max(1., math.sqrt((u*u).mean().item())/0.5)


adamw, sgd = partial(Around, rule=torch.optim.AdamW, weight_decay=0.), partial(Around, rule=torch.optim.SGD,
                                                                               momentum=0.9)
ours, mine = partial(AdamW, wd=0.), partial(SGD, mom=0.9)
decayed = partial(Around, rule=torch.optim.SGD)
REFERENCES = [
    ('clip_norm', taken(ours, partial(clip_norm, max_norm=0.5)), partial(adamw, grads=clip_all)),
    ('clip_norm, momentum', taken(mine, clip_norm, max_norm=0.5), partial(sgd, grads=clip_all)),
    ('clip_tensor_norm', taken(mine, clip_tensor_norm, max_tensor_norm=0.5), partial(sgd, grads=clip_each)),
    ('clip_value', taken(mine, clip_value, max_grad=0.05), partial(sgd, grads=clip_elements)),
    ('agc', taken(mine, agc), partial(sgd, grads=clip_units)),
    ('centralize', taken(ours, centralize), partial(adamw, grads=without_mean)),
    ('grokfast', taken(ours, partial(grokfast, grok_mom=0.9), grok_gain=1.5), partial(adamw, grads=slow_added)),
    ('add_noise', taken(mine, add_noise, noise=0.3), partial(sgd, grads=noisy)),
    ('accumulate', taken(ours, accumulate, accum=3), partial(adamw, every=3)),
    ('accumulate, then clip', taken(ours, partial(clip_norm, max_norm=0.5), accumulate), partial(adamw, every=4, grads=clip_all)),
    ('l2', taken(mine, l2_reg, wd=0.1), partial(sgd, weight_decay=0.1)),
    ('decay_toward', taken(partial(Adam, eps=1e-8, sqr_mom=0.999), decay_toward, wd=0.1), partial(adamw, grads=toward)),
    ('full_decay', taken(partial(SGD, wd=0.1), full_decay), partial(decayed, update=lambda u, g, p: u + 0.1*p/0.01)),
    ('full_decay, schedule', taken(partial(SGD, wd=0.1), full_decay, max_lr=0.05), partial(decayed, update=lambda u, g, p: u + 0.1*p/0.05)),
    ('decay_update', taken(partial(AdamW, wd=0.1), decay_update), partial(adamw, update=lambda u, g, p: u + 0.1*p)),
    ('cautious', taken(ours, cautious), partial(adamw, update=masked)),
    ('cautious, momentum', taken(mine, cautious), partial(sgd, update=masked)),
    ('clip_update', taken(ours, clip_update, max_update=0.3), partial(adamw, update=lambda u, g, p: torch.minimum(torch.maximum(u, u*0-0.3), u*0+0.3))),
    ('clip_update_norm', taken(ours, clip_update_norm, max_update_norm=0.5), partial(adamw, update=lambda u, g, p: u*min(1., 0.5/(u.norm().item()+1e-6)))),
    ('clip_update_rms', taken(ours, clip_update_rms, max_update_rms=0.5), partial(adamw, update=shorter)),
    ('trust_ratio', taken(ours, trust_ratio),
     partial(adamw, update=lambda u, g, p: u*(min((p.norm()/u.norm()).item(), 10) if p.norm() > 0 and u.norm() > 0 else 1))),
    ('trust ratio of decay', taken(partial(Lamb, sqr_mom=0.999, eps=1e-8, wd=0.1), decay_update),
     partial(adamw, update=lambda u, g, p: (lambda v: v*min((p.norm()/v.norm()).item(), 10))(u + 0.1*p))),
]


@pytest.mark.parametrize('name, ours, theirs', REFERENCES, ids=[r[0] for r in REFERENCES])
def test_equals_reference(name, ours, theirs):
    def run(make):
        torch.manual_seed(0)
        return trajectory(make, D)
    assert difference(run(partial(ours, engine='eager')), run(theirs)) < 1e-12


@oc.part('update')
def left_alone(p, update, **kwargs): return {'update': update}


@pytest.mark.parametrize('rule', [SGD, mine, oc.RMSProp, Adam, oc.RAdam, partial(oc.RAdam, beta=50.), oc.QHAdam, oc.Larc, partial(oc.Larc, mom=0.),
                                  Adam.replace(oc.adam_step, oc.lamb_step)],
                         ids=['sgd', 'momentum', 'rmsprop', 'adam', 'radam', 'sadam', 'qhadam', 'larc', 'larc without momentum', 'lamb'])
def test_a_step_taken_apart_is_the_step(rule):
    apart = taken(rule, left_alone)
    assert any(Stepper(f).traits.unfused for f in rule(params(), lr=0.1).cbs) and left_alone in apart(params(), lr=0.1).cbs
    assert difference(trajectory(partial(rule, wd=0.1, engine='eager'), D),
                      trajectory(partial(apart, wd=0.1, engine='eager'), D)) < 1e-12


def test_what_is_divided_by_has_a_floor():
    "Weights that are zero have a norm of 1e-3 for AGC; where less than a thousandth agrees, cautious counts a thousandth"
    p = torch.nn.Parameter(torch.zeros(2, 3, dtype=D))
    p.grad = torch.tensor([[3., 0., 4.], [0., 1e-6, 0.]], dtype=D)
    SGD.wrap(agc)([p], lr=1., engine='eager').step()
    torch.testing.assert_close(p.data, torch.tensor([[-0.6e-5, 0., -0.8e-5], [0., -1e-6, 0.]], dtype=D),
                               rtol=1e-12, atol=0)
    p = torch.nn.Parameter(torch.zeros(2000, dtype=D))
    p.grad = -torch.ones_like(p)
    p.grad[7] = 1.
    Optimizer(p, [lambda p: {'update': torch.ones_like(p.data)}, cautious, apply_update], lr=1., engine='eager').step()
    torch.testing.assert_close(p.data, torch.zeros(2000, dtype=D).index_fill(0, torch.tensor(7), -1000.),
                               rtol=1e-12, atol=0)


def test_equals_other_libraries():
    others = pytest.importorskip('pytorch_optimizer')
    grokfast_ema = pytest.importorskip('pytorch_optimizer.optimizer.grokfast').gradfilter_ema
    def central(gs, ps, s, t):
        for g in gs: others.centralize_gradient(g)
        return gs
    def filtered(gs, ps, s, t):
        model = torch.nn.ParameterList(map(torch.nn.Parameter, ps))
        for p, g in zip(model, gs): p.grad = g
        s['avg'] = grokfast_ema(model, s.get('avg'))
        return [p.grad for p in model]
    for f, grads in ((agc, lambda gs, ps, s, t: [others.agc(p, g) for p, g in zip(ps, gs)]),
                     (centralize, central), (grokfast, filtered)):
        assert difference(trajectory(taken(mine, f, engine='eager'), D),
                          trajectory(partial(sgd, grads=grads), D)) < 1e-12


def test_a_long_step_is_cut_as_by_optax():
    optax, jax = pytest.importorskip('optax'), pytest.importorskip('jax')
    x, g = torch.randn(4, 3), 3*torch.randn(4, 3)
    for f, rule in ((clip_update_rms, optax.clip_by_block_rms(1.)), (clip_update, optax.clip(1.)), (agc, None)):
        p = torch.nn.Parameter(x.clone())
        p.grad = g.clone()
        SGD.wrap(f)([p], lr=1., engine='eager').step()
        if f is agc: rule, args = optax.adaptive_grad_clip(0.01), [jax.numpy.asarray(v.numpy().T) for v in (g, x)] # its units are columns
        else: args = [jax.numpy.asarray(v.numpy()) for v in (g, x)]
        theirs = torch.tensor(rule.update(args[0], rule.init(args[1]), args[1])[0].__array__().copy())
        torch.testing.assert_close(x - p.data, theirs.T if f is agc else theirs, atol=1e-6, rtol=1e-5)


# Whole steps

@pytest.mark.parametrize('engine', ['eager', 'foreach', 'fused'])
@pytest.mark.parametrize('bad', [math.inf, math.nan])
def test_a_step_with_gradients_that_are_not_finite_is_skipped(engine, bad):
    ps, qs = params(dtype=D), params(dtype=D)
    opt, ref = Adam.wrap(skip_nonfinite)(ps, lr=0.1, engine=engine), Adam(qs, lr=0.1, engine=engine)
    for i in range(5):
        for o, xs in ((opt, ps), (ref, qs)):
            set_grads(xs, i)
            if i in (0, 3):
                if o is ref: continue
                xs[1].grad[2] = bad
                before = [p.clone() for p in xs]
                assert o.step(lambda: 7) == 7 and all(map(torch.equal, before, xs)) # noqa: B023
            else: o.step()
    assert all(map(torch.equal, ps, qs)) and [s['step'] for s in opt.state.values()] == [3]*4
    ps[0].grad.fill_(1e300) # large is not infinite
    ps[0].grad = ps[0].grad.clone()
    before = ps[0].clone()
    opt.step()
    assert not torch.equal(before, ps[0])


def test_a_step_is_skipped_for_any_kind_of_gradient():
    make = SGD.wrap(skip_nonfinite)
    for p, grad in ((torch.zeros(3, dtype=torch.complex64), torch.tensor([1, complex(0, math.inf), 0])),
                    (torch.zeros(3, dtype=torch.float16), torch.tensor([6e4, 6e4, math.inf], dtype=torch.float16)),
                    (torch.zeros(4, 2), torch.sparse_coo_tensor([[1]], [[1., math.nan]], (4, 2)))):
        for g, moves in ((grad, False), (grad*0 if grad.is_sparse else torch.ones_like(grad)*6e4, True)):
            q, other = torch.nn.Parameter(p.clone()), torch.nn.Parameter(torch.zeros(2))
            q.grad = g if not (moves and g.is_sparse) else torch.sparse_coo_tensor([[1]], [[1., 2.]], (4, 2))
            other.grad = torch.ones(2)
            make([q, other], lr=0.1).step()
            assert bool(other.any()) is moves is bool(q.detach().ne(0).any())


def test_skipped_steps_and_what_a_grad_scaler_skips():
    p = torch.nn.Parameter(torch.ones(3))
    opt, scaler = Adam.wrap(skip_nonfinite)([p], lr=0.1), torch.amp.GradScaler('cpu', init_scale=4.)
    for bad in (False, True, False):
        opt.zero_grad()
        scaler.scale((p*(math.inf if bad else 1.)).sum()).backward()
        scaler.step(opt)
        scaler.update()
    assert opt.state[p]['step'] == 2 and scaler.get_scale() == 2. and torch.isfinite(p).all()


@pytest.mark.parametrize('f', [skip_nonfinite, clip_norm])
def test_what_needs_all_gradients_is_not_for_steps_in_backward(f):
    with pytest.raises(ValueError, match=f'`{f.__name__}` needs .* gradients of all parameters'):
        step_in_backward(SGD.wrap(f)(params(), lr=0.1))


@pytest.mark.parametrize('engine', ['eager', 'foreach', 'fused'])
def test_between_accumulated_steps_nothing_changes(engine):
    ps = params()
    opt = Adam.wrap(accumulate, clip_norm, [slow_start, lookahead_step])(ps, lr=0.1, accum=3, engine=engine)
    for i in range(7):
        before, states = [p.clone() for p in ps], [{k: v for k, v in opt.state[p].items() if k not in ('accum_sum', 'accum_count')} for p in ps]
        set_grads(ps, i)
        grads = [p.grad.clone() for p in ps]
        opt.step()
        assert all(map(torch.equal, grads, (p.grad for p in ps)))
        if i % 3 == 2:
            assert not any(map(torch.equal, before, ps)) and all(opt.state[p]['step'] == i//3 + 1 for p in ps)
        else:
            assert all(map(torch.equal, before, ps)) and all(opt.state[p]['accum_count'] == i % 3 + 1 for p in ps)
            assert [{k: v for k, v in opt.state[p].items() if k not in ('accum_sum', 'accum_count')}
                    for p in ps] == states


def test_accumulated_gradients_of_16_bits_are_summed_in_32():
    p = torch.nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))
    opt = SGD.wrap(accumulate)([p], lr=1., accum=300)
    for _ in range(300):
        p.grad = torch.ones_like(p)
        opt.step()
    assert p.tolist() == [-1., -1.] and opt.state[p]['accum_sum'].dtype is torch.float32


def ends(p, count=0): return stop(count=count + 1) if count % 2 == 0 else {'count': count + 1}


@pytest.mark.parametrize('engine', ['eager', 'foreach', 'fused'])
def test_a_stepper_can_end_the_step_of_its_parameter(engine):
    ps = params()
    opt = Optimizer(ps, [ends, renamed(ends, count='other'), step_stat, sgd_step], lr=0.1, engine=engine)
    for i in range(8):
        set_grads(ps, i)
        opt.step()
    assert all((s['count'], s['other'], s['step']) == (8, 4, 2) for s in opt.state.values())


def test_formulas_tell_when_a_step_is_done():
    shown = str(SGD.wrap(accumulate).explain())
    assert 'accum_sum' in shown and 'in every 4th step' in shown


# How it is put together

def test_parts_are_where_they_belong():
    made = Adam.wrap(clip_norm, cautious, accumulate, [slow_start, lookahead_step], full_decay, trust_ratio,
                     clip_update, zero_nonfinite)
    assert labels(made) == ['accumulate', 'slow_start', 'clip_norm', 'zero_nonfinite', 'full_decay', 'average_grad(dampening=True)', 'average_sqr_grad', 'step_stat',
                            'debias_grad_avg', 'debias_sqr_avg', 'rms_update(eps=1e-05)', 'cautious', 'clip_update', 'trust_ratio', 'apply_update', 'lookahead_step']
    assert labels(Lamb.wrap(decay_update))[-4:] == ['rms_update', 'decay_update', 'trust_ratio', 'apply_update'] and 'weight_decay' not in labels(Lamb.wrap(decay_update))
    assert labels(Adam.wrap(clip_norm))[1:] == labels(Adam) # a step that does all stays where nobody changes updates
    assert labels(wrapped([sgd_step], l2_reg, clip_norm)) == ['clip_norm', 'l2_reg', 'sgd_step']


def test_options_of_parts_are_those_of_the_algorithm():
    made = Adam.wrap(partial(clip_norm, max_norm=0.5), agc, cautious)
    known = inspect.signature(made).parameters
    assert known['max_norm'].default == 0.5 and known['agc_clip'].default == 0.01 and known['eps'].default == 1e-5
    opt = made(params(), lr=0.1, max_norm=2., decouple_wd=False)
    assert opt.hypers[0]['max_norm'] == 2. and 'l2_reg' in labels(opt)
    again = pickle.loads(pickle.dumps(made))
    assert labels(again) == labels(made) and again.hypers == made.hypers


def test_numbers_of_parts_are_their_own():
    "No two parts share a number, but decay; none shares one with a rule"
    given = {}
    for f in PARTS.values():
        for k in Composition(f if isinstance(f, list) else [f]).defaults: given.setdefault(k, []).append(f)
    assert all(len(fs) == 1 for k, fs in given.items() if k != 'wd')
    own = given.keys() - {'wd', 'max_trust', 'max_update_rms', 'k', 'alpha'} # those of parts that some rule has, too
    assert not any(own & set(a.hypers) for a in ALGORITHMS.values())


def test_optimizers_are_wrapped_where_they_are():
    ps, qs = params(dtype=D), params(dtype=D)
    opt, ref = Adam(ps, lr=0.1), AdamW(qs, lr=0.1, sqr_mom=0.99, eps=1e-5)
    for i in range(6):
        if i == 3:
            assert opt.wrap(partial(clip_norm, max_norm=0.5)) is opt and opt.hypers[0]['max_norm'] == 0.5
        for o, xs in ((opt, ps), (ref, qs)):
            set_grads(xs, i)
            if o is ref and i >= 3: clip_grad_norm_(xs, 0.5)
            o.step()
    assert difference([p.data for p in ps], [q.data for q in qs]) < 1e-12 and labels(opt)[0] == 'clip_norm(max_norm=0.5)'
    before = labels(opt)
    with pytest.raises(ValueError, match='is there already'): opt.wrap(clip_norm)
    assert labels(opt) == before


def mystep(p, lr, **kwargs): p.data.sub_(lr * p.grad.data.sign())
def myheavystep(p, lr, grad_avg, **kwargs): p.data.sub_(lr * grad_avg)
def mydecay(p, lr, wd, **kwargs): p.data.mul_(1 - lr*wd)


@pytest.mark.parametrize('name', ['cautious', 'trust ratio', 'update rms', 'decay inside'])
def test_updates_of_steps_of_ones_own(name):
    "What they did is taken back, and is the update"
    def sign(p, **kwargs): return {'update': p.grad.data.sign()}
    by_hand = stepped(partial(Optimizer, cbs=[sign, PARTS[name], apply_update], wd=0.1), 'eager')
    made = wrapped([mystep], PARTS[name])
    assert labels(made)[:3] == ['note_weights', 'mystep', 'undo_step']
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        Optimizer(params(), made, lr=0.1) # there is nothing to doubt
    for engine in ('eager', 'foreach'): assert same(stepped(partial(Optimizer, cbs=made, wd=0.1), engine), by_hand)
    for lr in (0., torch.tensor(0.)):
        assert same(stepped(lambda ps, engine, lr=None, to=lr: Optimizer(ps, made, lr=to, wd=0., engine=engine), 'eager'), (params(dtype=D), [{}]*4))


def test_a_step_that_is_taken_apart_keeps_its_names_and_its_parameters():
    ours = Adam.rename(oc.adam_step, eps='my_eps').wrap(cautious)
    assert labels(ours)[-3:] == ['rms_update(eps=1e-05, eps→my_eps)', 'cautious', 'apply_update']
    assert same(stepped(partial(ours, my_eps=0.3), 'eager'), stepped(partial(Adam.wrap(cautious), eps=0.3), 'eager'))
    some = wrapped([oc.only(sgd_step, oc.by_ndim(2))], clip_update)
    assert labels(some) == ['grad_update[by_ndim(2)]', 'clip_update[by_ndim(2)]', 'apply_update[by_ndim(2)]']


def test_decay_in_the_update_is_of_those_that_were_decayed():
    some = wrapped([oc.only(oc.weight_decay, oc.by_ndim(2)), sgd_step], oc.decay_update)
    assert labels(some) == ['grad_update', 'decay_update[by_ndim(2)]', 'apply_update']


def in_routes(*parts, a=(oc.SOAP,), b=(AdamW,), **options):
    return partial(oc.route(apart=['wd'], a=(a[0].wrap(*a[1:]), oc.by_ndim(2)),
                            b=b[0].wrap(*b[1:])).wrap(*parts), **options)


@pytest.mark.parametrize('name', ['cautious', 'trust ratio', 'full decay', 'decay inside', 'l2', 'decay toward'])
def test_a_part_of_routes_is_in_each_of_them(name):
    "As if each was wrapped before; decays keep the coefficients of the routes"
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        theirs = stepped(in_routes(a=(oc.SOAP, PARTS[name]), b=(AdamW, PARTS[name]), a_wd=0.2, b_wd=0.1), 'eager')
        for engine in ('eager', 'foreach'):
            assert same(stepped(in_routes(PARTS[name], a_wd=0.2, b_wd=0.1), engine), theirs)


def test_parts_see_hyper_parameters_that_are_scheduled():
    "Whichever came first"
    slow = oc.scheduled(lr=oc.warmup(5), max_norm=oc.warmup(9))
    for o in (oc.schedule_free(), clip_norm):
        before, after = SGD.insert(*slow, before=0).wrap(o, clip_value), SGD.wrap(o, clip_value).insert(*slow, before=0)
        assert labels(before) == labels(after)
    assert labels(SGD.insert(*slow, before=0).wrap(accumulate))[0] == 'accumulate' # steps are counted, not calls


@pytest.mark.parametrize('options', [dict(ema_every=0), dict(swa_every=0), dict(ema_mom=1.5), dict(accum=0)], ids=str)
def test_options_that_cant_be_are_refused_before_a_step(options):
    with pytest.raises(ValueError, match=f'`{next(iter(options))}` must be at least'):
        SGD.wrap(oc.ema_weights, oc.swa_weights, accumulate)(params(), lr=0.1, **options)


def test_a_route_without_an_update_is_named():
    with pytest.raises(ValueError, match='route `a` makes none'):
        oc.route(a=([mystep], oc.by_ndim(2)), b=AdamW).wrap(cautious)


def test_a_decay_is_in_the_place_of_its_own():
    assert labels(Adam.replace(oc.weight_decay, oc.only(oc.weight_decay, oc.by_ndim(2))).wrap(full_decay))[0] == 'full_decay[by_ndim(2)]'
    assert not {'proximal_decay', 'decay_in_update'} & {*labels(oc.Adan.wrap(full_decay)),
                                                        *labels(oc.NovoGrad.wrap(full_decay))}
    assert 'weight_decay(wd→lambd)' in labels(oc.ASGD.wrap(full_decay)) # which is ASGD's way, beside `wd`
    for algo in (oc.StableAdamW, oc.SOAP, oc.Adan): assert labels(algo.wrap(l2_reg))[0] == 'l2_reg' # before gradients are read
    assert not same(stepped(partial(oc.SOAP.wrap(l2_reg), wd=0.5), 'eager'),
                    stepped(partial(oc.SOAP.wrap(l2_reg), wd=0.), 'eager'))


def test_fastais_steppers_are_wrapped_like_ours():
    fo = pytest.importorskip('fastai.optimizer')
    theirs = [fo.weight_decay, partial(fo.average_grad, dampening=True), fo.average_sqr_grad, fo.step_stat,
              fo.adam_step]
    hypers = dict(mom=0.9, sqr_mom=0.99, eps=1e-5, wd=0.1)
    made = wrapped(theirs, cautious, trust_ratio, clip_norm)
    assert labels(made)[:3] == ['clip_norm', 'weight_decay', 'note_weights']
    ours = stepped(partial(Adam.wrap(cautious, trust_ratio, clip_norm), **hypers), 'eager')
    assert same((stepped(partial(Optimizer, cbs=made, **hypers), 'eager')[0], []), (ours[0], []), 1e-10)
    assert labels(wrapped(theirs, l2_reg))[0] == 'l2_reg' and len(wrapped(theirs, l2_reg)) == len(theirs) # in the place of fastai's


@of_signs
def sign_update(p, grad_avg=None, **kwargs): return {'update': (p.grad.data if grad_avg is None else grad_avg).sign()}


SIGNS = [sign_update, apply_update]


@pytest.mark.parametrize('make, said', [
    (lambda: Adam.wrap(clip_norm, clip_norm), '`clip_norm` is there already'),
    (lambda: Adam.wrap(accumulate).wrap(partial(accumulate, accum=2)), '`accumulate` is there already'),
    (lambda: Lamb.wrap(trust_ratio), '`trust_ratio` is there already'),
    (lambda: Larc.wrap(trust_ratio), '`trust_ratio` can\'t be put beside `larc_layer_lr'),
    (lambda: SGD.wrap([slow_start, lookahead_step], [slow_start, lookahead_step]), 'is there already'),
    (lambda: oc.Lookahead(SGD(params(), lr=0.1)).wrap([slow_start, lookahead_step]), 'is there already'),
    (lambda: Adam.wrap(l2_reg, full_decay), '`l2_reg` and `full_decay` both decay'),
    (lambda: Adam.wrap(oc.schedule_free), 'call it: `schedule_free'),
    (lambda: Adam.wrap(skip_nonfinite, zero_nonfinite), '`zero_nonfinite` can\'t be put beside `skip_nonfinite`'),
    (lambda: Adam.wrap(average_grad), '`average_grad` doesn\'t say where it belongs.*insert'),
    (lambda: Adam.wrap(apply_update), 'doesn\'t say where it belongs'),
    (lambda: wrapped([step_stat], cautious), '`cautious` changes the update, but nothing makes one or steps: step_stat'),
    (lambda: wrapped([sgd_step, sgd_step], cautious), 'there is more than one: `sgd_step`, `sgd_step`'),
    *[(lambda f=f: wrapped(SIGNS, f), 'would do nothing.*`sign_update` depends on their signs only') for f in (clip_norm, clip_value, clip_tensor_norm, agc)],
], ids=range(17))
def test_what_makes_no_sense_is_refused(make, said):
    with pytest.raises(ValueError, match=said): make()


def test_a_part_that_was_called_is_refused():
    with pytest.raises(TypeError, match='`clip_norm` has been called.*partial'): Adam.wrap(clip_norm(1.))
    with pytest.raises(TypeError, match='by name, but gives \\(1.0,\\)'): Adam.wrap(partial(clip_norm, 1.))


def test_averages_before_signs_look_at_sizes():
    assert labels(wrapped([average_grad, *SIGNS], clip_norm)) == ['clip_norm', 'average_grad', 'sign_update',
                                                                  'apply_update']
    assert labels(wrapped(SIGNS, centralize, accumulate)) == ['accumulate', 'centralize', 'sign_update', 'apply_update']


def test_a_list_that_makes_an_update_and_leaves_it():
    assert labels(wrapped(SIGNS[:1], cautious)) == ['sign_update', 'cautious']


def test_a_part_of_ones_own():
    @part('update')
    def halved(p, update): return {'update': update/2}
    assert labels(SGD.wrap(halved)) == ['weight_decay', 'grad_update', 'halved', 'apply_update']
    with pytest.raises(ValueError, match="no place 'middle'. There are gate"): part('middle')


PENALTY = [k for k, a in ALGORITHMS.items() if 'decouple_wd' in a.options and k not in ('NovoGrad', 'ASGD')] # they decay in another way, too


@pytest.mark.parametrize('name', PENALTY)
def test_a_penalty_is_in_the_gradient_before_a_rule_sees_it(name):
    made = ALGORITHMS[name].wrap(l2_reg)
    assert same(stepped(made, 'eager', wd=0.1), stepped(ALGORITHMS[name], 'eager', wd=0.1, decouple_wd=False))


@pytest.mark.parametrize('name', ['SOAP', 'StableAdamW', 'Adan', 'NovoGrad', 'Prodigy'])
@pytest.mark.parametrize('decay', [l2_reg, decay_toward, full_decay, decay_update])
def test_a_decay_is_the_only_one_wherever_the_own_one_is(name, decay):
    made = ALGORITHMS[name].wrap(decay)
    rest, found = set(ALGORITHMS[name].composition.labels), labels(made)
    assert rest - set(found) <= {'weight_decay', 'proximal_decay', 'decay_update'} and found.count(decay.__name__) == 1
    assert sum(o in ('weight_decay', 'proximal_decay', 'l2_reg', 'decay_toward', 'full_decay', 'decay_update')
               for o in found) == 1
    if decay in (l2_reg, decay_toward): assert found[0] == decay.__name__


def test_weights_to_decay_toward_can_be_given():
    p = torch.nn.Parameter(torch.ones(3))
    opt = SGD.wrap(decay_toward)([p], lr=1., wd=0.5)
    opt.state[p]['anchor'] = torch.full((3,), 3.)
    p.grad = torch.zeros(3)
    opt.step()
    assert p.tolist() == [2.]*3 and opt.state[p]['anchor'].tolist() == [3.]*3


def test_noise_runs_quietly_on_the_eager_engine():
    p = torch.nn.Parameter(torch.ones(3))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        opt = Adam.wrap(add_noise)([p], lr=0.1)
        p.grad = torch.zeros(3)
        opt.step()
    assert 'draws random numbers' in str(opt.explain())
    with pytest.raises(CantRun, match='`add_noise` draws random numbers'):
        opt.engine = 'fused'
        opt.step()


def test_values_of_one_step_go_with_parts():
    def halved(p, lr): return once(lr=lr/2)
    cbs = [halved, mystep]
    assert same(stepped(partial(Optimizer, cbs=wrapped(cbs, decay_update), wd=0.1), 'eager'),
                stepped(partial(Optimizer, cbs=[halved, *SIGNS[:1], decay_update, apply_update], wd=0.1), 'eager'))


def test_explained_are_steps_that_are_done_to_the_end():
    shown = Adam.wrap(accumulate, cautious).explain()
    assert shown.state.keys() == {'accum_sum', 'accum_count', 'grad_avg', 'sqr_avg',
                                  'step'} and all('?' not in s['writes'] for s in shown.steppers)


def test_nothing_is_doubtful_about_parts():
    with warnings.catch_warnings():
        warnings.simplefilter('error', oc.CompositionWarning)
        for f in PARTS.values():
            for wd in (0., 0.1): Adam.wrap(f)(params(), lr=0.1, wd=wd)
        SGD.wrap(accumulate)(params(), lr=0.1, accum=100)
        Optimizer(params(), wrapped([average_grad, myheavystep], cautious), lr=0.1)


@pytest.mark.parametrize('name', PARTS)
def test_parts_of_16_bits_lose_digits_and_nothing_else(name):
    def run(dtype, engine):
        ps = params(dtype=dtype)
        torch.manual_seed(0)
        opt = Adam.wrap(PARTS[name])(ps, lr=0.01, engine=engine)
        for i in range(4):
            set_grads(ps, i)
            opt.step()
        return [p.data for p in ps], [opt.state[p] for p in ps]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        exact, coarse, traced = run(torch.float32, 'eager'), run(torch.bfloat16, 'eager'), run(torch.bfloat16, 'auto' if name in ('agc', 'centralize', 'noise') else 'foreach')
    assert all(p.dtype is torch.bfloat16 for p in coarse[0]) and (name == 'noise' or difference(coarse[0], exact[0]) < 0.03)
    assert difference(traced[0], coarse[0]) < 0.01


def test_sparse_gradients_are_accumulated_as_a_whole():
    p = torch.nn.Parameter(torch.ones(4, 2))
    opt = SGD.wrap(accumulate)([p], lr=1., accum=2)
    for row in (0, 1):
        p.grad = torch.sparse_coo_tensor([[row]], [[2., 4.]], (4, 2), check_invariants=True)
        opt.step()
    assert p.tolist() == [[0., -1.], [0., -1.], [1., 1.], [1., 1.]]


def test_a_window_of_gradients_goes_on_from_a_file():
    ps, make = params(), Adam.wrap(accumulate)
    opt = make(ps, lr=0.1)
    def go(opt, ps, steps):
        for i in steps:
            set_grads(ps, i)
            opt.step()
    go(opt, ps, range(6))
    qs = [torch.nn.Parameter(p.detach().clone()) for p in ps]
    other = make(qs, lr=0.1)
    other.load_state_dict(opt.state_dict())
    for o, xs in ((opt, ps), (other, qs)): go(o, xs, range(6, 12))
    assert all(map(torch.equal, ps, qs)) and opt.state[ps[0]]['step'] == 3


@pytest.mark.parametrize('engine', ['eager', 'foreach', 'fused'])
def test_parameters_that_step_at_different_calls_are_summed_over_as_they_step(engine):
    "The norm is that of those that step now"
    def run(engine):
        ps = params(dtype=D)
        opt = SGD.wrap(accumulate, clip_norm)(ps, lr=0.1, accum=2, engine=engine)
        for i in range(6):
            set_grads(ps, i, {1, 3} if i == 0 else ())
            opt.step()
        return [p.data for p in ps], [dict(opt.state[p]) for p in ps]
    assert same(run(engine), run('eager'))


@pytest.mark.parametrize('name', PARTS)
def test_parts_have_a_kernel_for_gpus(name):
    pytest.importorskip('triton')
    if name in ('noise', 'agc', 'centralize'): return # drawn, or by torch
    compile(str(Adam.wrap(PARTS[name]).kernel('cuda')), name, 'exec')
