"""State that is stored in fewer bits: steppers see float32, what is kept is its rounding, in every engine, for every rule.

The references are loops of their own, and rules on copies of the state that this file rounds itself after each step."""
import warnings

import pytest
import torch
from helpers import params, set_grads
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import Parameter

import optimcb as oc
from optimcb import AdamW, MissingName, Optimizer, average_grad, momentum_step, stored

FORMATS = {'bfloat16': torch.bfloat16, 'float16': torch.float16, 'float32': torch.float32}
BOTH = stored(grad_avg='bfloat16', sqr_avg='bfloat16')
SHAPES = [(300, 20), (7,), (), (2, 3, 4)]
# rules, and the state of the parameter's shape that each keeps
RULES = {'Adam': ('grad_avg', 'sqr_avg'), 'AdamW': ('grad_avg', 'sqr_avg'), 'RMSProp': ('sqr_avg',), 'Lion': ('grad_avg',), 'Yogi': ('grad_avg', 'sqr_avg'),
         'NAdam': ('grad_avg', 'sqr_avg'), 'RAdam': ('grad_avg', 'sqr_avg'), 'Lamb': ('grad_avg', 'sqr_avg'), 'Adan': ('grad_avg',), 'AdaBelief': ('grad_avg',),
         'Signum': ('grad_avg',), 'QHAdam': ('grad_avg', 'sqr_avg'), 'Muon': ('grad_avg',)}


def params_of(opt): return [p for g in opt.param_groups for p in g['params']]


def stepped(opt, steps):
    for i in steps:
        set_grads(params_of(opt), i)
        opt.step()
    return opt


def rounded_after(opt, formats, steps):
    "Steps whose state is rounded here, and kept in float32"
    for i in steps:
        stepped(opt, [i])
        for p in params_of(opt):
            for k, dtype in formats.items(): opt.state[p][k] = opt.state[p][k].to(dtype).to(torch.promote_types(p.dtype, torch.float32))
    return opt


def assert_same(a, b, rtol=0., atol=0.):
    "Parameters and state are equal, but for the types of state"
    for p, q in zip(params_of(a), params_of(b)):
        torch.testing.assert_close(p, q, rtol=rtol, atol=atol, equal_nan=True)
        assert a.state[p].keys() == b.state[q].keys()
        for k, v in a.state[p].items():
            if isinstance(v, torch.Tensor): torch.testing.assert_close(v.float(), b.state[q][k].float(), rtol=rtol, atol=atol, equal_nan=True)
            else: assert v == b.state[q][k]


@pytest.mark.parametrize('format', FORMATS)
@pytest.mark.parametrize('rule', RULES)
def test_it_is_the_rule_with_state_that_is_rounded_after_each_step(rule, format):
    "To the bit, in the eager engine; every other engine gives what that gives, but where a last bit decides how a number is rounded"
    algo, names = getattr(oc, rule), RULES[rule]
    shapes = [s for s in SHAPES if rule != 'Muon' or len(s) == 2]
    storing = algo.wrap(stored(**dict.fromkeys(names, format)))
    want = rounded_after(algo(params(shapes), lr=0.01, engine='eager'), dict.fromkeys(names, FORMATS[format]), range(10))
    got = stepped(storing(params(shapes), lr=0.01, engine='eager'), range(10))
    assert_same(got, want)
    assert all(got.state[p][k].dtype is FORMATS[format] for p in params_of(got) for k in names)
    for engine in ('foreach', 'fused'):
        other = stepped(storing(params(shapes), lr=0.01, engine=engine), range(10))
        assert all(other.state[p][k].dtype is FORMATS[format] for p in params_of(other) for k in names)
        for p, q in zip(params_of(other), params_of(got)):
            if rule in ('Lion', 'Signum', 'Muon'): assert ((p - q).abs() <= 0.03).all() # a sign may flip
            else: torch.testing.assert_close(p, q, rtol=2e-4, atol=2e-4)
        if engine == 'fused': assert not other._running.plan.eager


def test_adamw_by_a_loop():
    "The rule's formula in float64, with averages that are rounded to bfloat16 after each step"
    [p], lr, wd, mom, sqr_mom, eps = params([(50, 3)]), 0.01, 0.1, 0.9, 0.999, 1e-8
    opt = AdamW.wrap(BOTH)([p], lr=lr, wd=wd, mom=mom, sqr_mom=sqr_mom, eps=eps)
    w, m, v = p.detach().double(), torch.zeros(50, 3).double(), torch.zeros(50, 3).double()
    for t in range(1, 30):
        set_grads([p], t)
        g = p.grad.double()
        opt.step()
        m, v = mom*m + (1-mom)*g, sqr_mom*v + (1-sqr_mom)*g**2
        w = w*(1 - lr*wd) - lr*(m/(1 - mom**t)) / ((v/(1 - sqr_mom**t)).sqrt() + eps)
        torch.testing.assert_close(p.double(), w, rtol=1e-5, atol=1e-5)
        for mine, kept in ((m, opt.state[p]['grad_avg']), (v, opt.state[p]['sqr_avg'])):
            torch.testing.assert_close(kept.double(), mine.bfloat16().double(), rtol=2**-7, atol=0) # the last bit may be rounded otherwise
        m, v = opt.state[p]['grad_avg'].double(), opt.state[p]['sqr_avg'].double() # from where both go on


@given(values=st.lists(st.floats(width=32), min_size=1, max_size=20), format=st.sampled_from(list(FORMATS)))
@settings(max_examples=60, deadline=None)
def test_what_is_kept_is_torchs_rounding(values, format):
    "Of any number: denormal, infinite, NaN, too large for float16"
    for engine in ('eager', 'fused'):
        def keep(p, x=None): return {'x': p.grad.clone()}
        p = Parameter(torch.zeros(len(values)))
        p.grad = torch.tensor(values)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            opt = Optimizer([p], [*stored(x=format)[:1], keep, *stored(x=format)[1:]], lr=0.1, engine=engine)
        for _ in range(2):
            opt.step()
            kept = opt.state[p]['x']
            assert kept.dtype is FORMATS[format]
            torch.testing.assert_close(kept, p.grad.to(kept.dtype), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_parameters_of_other_types(dtype):
    "State in float32 for parameters in 16 bits; float64 is computed in float64"
    for engine in ('eager', 'foreach', 'fused'):
        kept = torch.float32 if dtype.itemsize == 2 else torch.bfloat16
        opt = AdamW.wrap(stored(grad_avg=kept, sqr_avg=kept))(params(dtype=dtype), lr=0.01, engine=engine)
        stepped(opt, range(5))
        for p in params_of(opt): assert p.dtype is dtype and opt.state[p]['grad_avg'].dtype is opt.state[p]['sqr_avg'].dtype is kept
        if engine == 'eager': want = opt
        else: assert_same(opt, want, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize('mom, expected', [(0.9, 1.), (0.99, 1.05), (0.999, 2.0)])
def test_how_far_an_average_of_squares_is_off(mom, expected):
    "The documentation says so"
    torch.manual_seed(0)
    p = Parameter(torch.zeros(1000))
    opt = oc.RMSProp.wrap(stored(sqr_avg='bfloat16'))([p], lr=0., sqr_mom=mom)
    for _ in range(8000 if mom > 0.99 else 2000):
        p.grad = torch.randn(1000)
        opt.step()
    assert abs(opt.state[p]['sqr_avg'].float().mean().item()/expected - 1) < 0.06


def test_small_squares_survive_in_float32():
    "Beside parameters in bfloat16, whose own average of squares stands still"
    [p], [q] = params([(100,)], torch.bfloat16), params([(100,)], torch.bfloat16)
    plain, opt = AdamW([p], lr=0., wd=0.), AdamW.wrap(stored(sqr_avg='float32'))([q], lr=0., wd=0.)
    for _ in range(3000):
        for x, o in ((p, plain), (q, opt)):
            x.grad = torch.full_like(x, 0.5)
            o.step()
    assert (plain.state[p]['sqr_avg'] < 0.2).all() # 0.25 is where it goes to
    torch.testing.assert_close(opt.state[q]['sqr_avg'], torch.full((100,), 0.25*(1 - 0.999**3000)), rtol=1e-3, atol=0)


# Conversions

@pytest.mark.parametrize('engine', ['eager', 'foreach', 'fused'])
def test_a_running_optimizer_is_converted(engine):
    opt = stepped(AdamW(params(SHAPES), lr=0.01, engine=engine), range(5))
    before = {p: {k: v.clone() for k, v in opt.state[p].items() if k != 'step'} for p in params_of(opt)}
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        opt.wrap(stored(grad_avg='bfloat16'))
        for p, state in before.items():
            assert torch.equal(opt.state[p]['grad_avg'], state['grad_avg'].bfloat16()) and opt.state[p]['sqr_avg'].dtype is torch.float32
        stepped(opt, range(5, 8))
        opt.edit(lambda cbs: [f for f in cbs if getattr(oc.composition.stepper.innermost(f), '__name__', '') not in ('decode_state', 'encode_state')])
        assert all(opt.state[p]['grad_avg'].dtype is torch.float32 for p in params_of(opt))
        stepped(opt, range(8, 10))
    assert opt.composition.labels == AdamW.composition.labels


@pytest.mark.parametrize('make', [AdamW, AdamW.wrap(stored(grad_avg='float16')), torch.optim.AdamW], ids=['float32', 'other format', 'torch'])
def test_a_state_dict_is_converted(make):
    ps = params(SHAPES)
    theirs = make(ps, lr=0.01)
    for i in range(4):
        set_grads(ps, i)
        theirs.step()
    ours = AdamW.wrap(BOTH)(params(SHAPES), lr=0.01)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        ours.load_state_dict(theirs.state_dict())
    names = ('exp_avg', 'exp_avg_sq') if make is torch.optim.AdamW else ('grad_avg', 'sqr_avg')
    for p, q in zip(ps, params_of(ours)):
        for k, other in zip(('grad_avg', 'sqr_avg'), names): assert torch.equal(ours.state[q][k], theirs.state[p][other].bfloat16())
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        stepped(ours, range(4, 7))


def test_what_was_stored_goes_into_a_plain_optimizer():
    stored_opt = stepped(AdamW.wrap(BOTH)(params(SHAPES), lr=0.01), range(4))
    plain = AdamW(params(SHAPES), lr=0.01)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        plain.load_state_dict(stored_opt.state_dict())
    for p, q in zip(params_of(stored_opt), params_of(plain)): assert torch.equal(plain.state[q]['sqr_avg'], stored_opt.state[p]['sqr_avg'].float())


def test_torchs_optimizer_goes_on():
    "In the parameter's type, as torch has it; and ours takes over from torch's without a word"
    ours = stepped(AdamW.wrap(BOTH)(params(SHAPES), lr=0.01), range(4))
    theirs = torch.optim.AdamW([Parameter(p.detach().clone()) for p in params_of(ours)], lr=0.01)
    theirs.load_state_dict(oc.to_torch(ours))
    for p, q in zip(params_of(ours), theirs.param_groups[0]['params']):
        assert theirs.state[q]['exp_avg'].dtype is torch.float32 and torch.equal(theirs.state[q]['exp_avg'], ours.state[p]['grad_avg'].float())
    again = AdamW.wrap(BOTH)(params(SHAPES), lr=0.01)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        again.load_state_dict(theirs.state_dict())
    for p, q in zip(params_of(ours), params_of(again)): assert torch.equal(ours.state[p]['sqr_avg'], again.state[q]['sqr_avg'])


@pytest.mark.parametrize('suffix', ['.pt', '.safetensors'])
def test_it_is_saved_as_it_is_stored_and_goes_on_bit_for_bit(suffix, tmp_path):
    if suffix == '.safetensors': pytest.importorskip('safetensors')
    make = AdamW.wrap(BOTH)
    one, other = (make([(f'p{i}', p) for i, p in enumerate(params(SHAPES))], lr=0.01) for _ in range(2))
    stepped(one, range(6))
    oc.save_state(one, tmp_path/f'state{suffix}')
    assert (tmp_path/f'state{suffix}').stat().st_size < 40_000 # 6,032 elements, of 4 bytes
    for p, q in zip(params_of(one), params_of(other)): q.data.copy_(p)
    oc.load_state(other, tmp_path/f'state{suffix}')
    for o in (one, other): stepped(o, range(6, 10))
    assert_same(one, other)
    assert all(other.state[p]['sqr_avg'].dtype is torch.bfloat16 for p in params_of(other))


# With all else

def training(make, steps=8, after=lambda model, opt: None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    opt = make(model)
    after(model, opt)
    x = torch.randn(16, 3)
    for _ in range(steps):
        opt.zero_grad()
        ((model(x) - x.sum(1, keepdim=True))**2).mean().backward()
        opt.step()
    return model, opt


@pytest.mark.parametrize('part', [oc.clip_norm, oc.cautious, oc.ema_weights, oc.accumulate, oc.skip_nonfinite, oc.scheduled(lr=oc.warmup(3)), oc.maximize, oc.agc,
                                  oc.look_ahead()], ids=lambda o: getattr(o, '__name__', 'list'))
def test_it_goes_with_every_part(part):
    "What is kept in float32 is what is kept without it"
    (a, one), (b, other) = (training(lambda m, p=parts: AdamW.wrap(*p)(m.parameters(), lr=0.01, engine='eager'))
                            for parts in ((part, stored(grad_avg='float32', sqr_avg='float32')), (part,)))
    for p, q in zip(a.parameters(), b.parameters()): assert torch.equal(p, q)
    model, opt = training(lambda m: AdamW.wrap(part, BOTH)(m.parameters(), lr=0.01))
    reference, _ = training(lambda m: AdamW.wrap(part, BOTH)(m.parameters(), lr=0.01, engine='eager'))
    for p, q in zip(model.parameters(), reference.parameters()):
        assert opt.state[p]['grad_avg'].dtype is torch.bfloat16
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-3)


def test_routes_have_their_own():
    algo = oc.route(matrices=(oc.Lion.wrap(stored(grad_avg='bfloat16')), oc.by_ndim(2)), rest=AdamW)
    model, opt = training(lambda m: algo(m.parameters(), lr=0.01))
    for p in model.parameters(): assert opt.state[p]['grad_avg'].dtype is (torch.bfloat16 if p.dim() == 2 else torch.float32)


def test_each_route_converts_its_own():
    "Of the same name, in two formats; parameters of a route without `stored` keep theirs"
    algo = oc.route(matrices=(oc.Lion.wrap(stored(grad_avg='bfloat16')), oc.by_ndim(2)), vectors=(oc.Lion.wrap(stored(grad_avg='float16')), oc.by_ndim(1)), rest=AdamW)
    expected = {(3, 4): torch.bfloat16, (5,): torch.float16, (): torch.float32}
    def types(opt): return {tuple(p.shape): opt.state[p]['grad_avg'].dtype for p in params_of(opt)}
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        opt = stepped(algo(params(list(expected)), lr=0.01), range(3))
        assert types(opt) == expected
        other = algo(params(list(expected)), lr=0.01)
        other.load_state_dict(opt.state_dict())
        assert types(other) == expected
        stepped(other, range(3))
    opt.edit(lambda cbs: cbs)
    assert types(opt) == expected


def test_inside_backward():
    model, opt = training(lambda m: AdamW.wrap(BOTH)(m.parameters(), lr=0.01), after=lambda m, o: oc.step_in_backward(o))
    assert all(opt.state[p]['sqr_avg'].dtype is torch.bfloat16 for p in model.parameters())


def test_a_gradscaler_that_skips_leaves_every_bit():
    opt = stepped(AdamW.wrap(BOTH)(params(SHAPES), lr=0.01), range(3))
    before = [(p.detach().clone(), opt.state[p]['sqr_avg'].clone()) for p in params_of(opt)]
    opt.grad_scale, opt.found_inf = torch.tensor(2.), torch.tensor(1.)
    stepped(opt, [3])
    assert all(torch.equal(p, q) and torch.equal(opt.state[p]['sqr_avg'], v) for p, (q, v) in zip(params_of(opt), before))


def test_it_trains():
    "As well as in float32, on a regression"
    losses = []
    for make in (AdamW, AdamW.wrap(BOTH)):
        model, _ = training(lambda m, f=make: f(m.parameters(), lr=0.03), steps=200)
        torch.manual_seed(1)
        x = torch.randn(64, 3)
        losses.append(((model(x) - x.sum(1, keepdim=True))**2).mean().item())
    assert losses[1] < 1.2*losses[0] + 0.01


# What is said

def test_what_it_costs():
    plain, ours = (f(params([(1000, 10)]), lr=0.01).explain() for f in (AdamW, AdamW.wrap(BOTH)))
    assert (plain.state_bytes, ours.state_bytes) == (80_000, 40_000) and (plain.moved_bytes, ours.moved_bytes) == (280_000, 200_000)
    assert ours.state['grad_avg'] == ours.state['sqr_avg'] == 'bfloat16' and str(ours.formulas[0]) == str(plain.formulas[0])


@pytest.mark.parametrize('formats, error, said', [
    ({}, TypeError, r"`stored` needs the names of state, as `stored\(grad_avg='bfloat16'\)`"), (dict(grad_avg='int4'), ValueError, "can't be stored as 'int4'"),
    (dict(grad_avg='bfloat'), ValueError, "Did you mean 'bfloat16'"), (dict(grad_avg=torch.int8), ValueError, 'Formats are bfloat16, float16, float32')])
def test_formats_that_are_not_there(formats, error, said):
    with pytest.raises(error, match=said): stored(**formats)


def test_names_that_are_not_there():
    with pytest.raises(MissingName, match='Did you mean `grad_avg`'): AdamW.wrap(stored(grad_av='bfloat16'))(params(), lr=0.1)
    with pytest.raises(ValueError, match='is there already'): AdamW.wrap(BOTH, stored(grad_avg='float16'))
    load, store = stored(grad_avg='bfloat16')
    with pytest.raises(ValueError, match='`grad_avg` is stored twice'): Optimizer(params(), [average_grad, momentum_step, store, store], lr=0.1, mom=0.9)
