"""Every engine gives what the eager one gives: the library's algorithms, and compositions that hypothesis draws.

`OPTIMCB_CASES=20000 python -m pytest tests/engines/test_engines.py -k drawn` draws as many compositions as one likes.
"""
import os
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from cases import CASES
from helpers import params, set_grads
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from on_engines import TRACED, ulps

import optimcb as oc
from optimcb import Optimizer

engines = pytest.mark.parametrize('engine', TRACED)
# Algorithms

@engines
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize('name, ours', [c[:2] for c in CASES], ids=[c[0] for c in CASES])
def test_algorithms_on_every_engine(name, ours, dtype, engine):
    "All parameters in one launch, over steps in which gradients come and go"
    def trajectory(engine):
        ps = params([(3, 4), (5,), (2, 3, 2, 2), (), (20000,)], dtype)
        opt = ours(ps, lr=0.01)
        opt.engine = engine
        for i in range(12):
            set_grads(ps, i, skip=[1] if i % 3 == 1 else [])
            opt.step()
        return ps, opt
    (want, eager), (got, other) = trajectory('eager'), trajectory(engine)
    tol = 2e-6 if dtype == torch.float32 else 1e-13
    for p, q in zip(got, want):
        assert torch.allclose(p, q, rtol=tol, atol=tol*q.abs().max().item())
        assert eager.state[q].keys() == other.state[p].keys()
        for k, v in eager.state[q].items():
            w = other.state[p][k]
            assert type(v) is type(w) and (torch.allclose(v, w, rtol=20*tol, atol=20*tol*v.abs().max().item()) and v.dtype == w.dtype and v.stride() == w.stride()
                                           if isinstance(v, torch.Tensor) else v == w), (k, v, w)
    assert dict(eager.hypers[0]) == dict(other.hypers[0])


# Compositions that are drawn: what a stepper may do, as instructions on a list of values

def ieee_sqrt(x): return x.abs().double().sqrt().to(x.dtype) # torch's own is one unit off, here and there


def full(x, like):
    """A number for each parameter as a number for each element. Torch rounds `x + alpha*y` once. Where it broadcasts
    an operand, it rounds some elements once and others twice, by their position, and in place not as out of place."""
    return x*torch.ones_like(like, dtype=x.dtype)


UNARY = (torch.neg, torch.abs, torch.sign, lambda x: x.square(), lambda x: x.clamp(-2., 2.), lambda x: x*0.7, lambda x: 1.5 - x, lambda x: x + 0.25, lambda x: x/3,
         lambda x: (x > 0).to(x.dtype), lambda x: torch.where(x.isnan(), 0., x), lambda x: F.relu(x), lambda x: x.float().to(x.dtype), lambda x: x.clone(),
         lambda x: x**3, lambda x: 1/(x.square() + 0.5), lambda x: x.trunc(), lambda x: torch.full_like(x, 0.3), ieee_sqrt, lambda x: torch.zeros_like(x).add_(x, alpha=0.1))
BINARY = (torch.add, torch.sub, torch.mul, lambda x, y: x/(y.abs() + 0.1), torch.maximum, torch.minimum, lambda x, y: torch.where(x > y, x, y),
          lambda x, y: full(x, y).add(full(y, x), alpha=-0.3), lambda x, y: torch.lerp(full(x, y), full(y, x).to(x.dtype), 0.1),
          lambda x, y: torch.lerp(full(x, y), full(y, x).to(x.dtype), 0.9), lambda x, y: full(x, y).addcmul(full(y, x), full(y, x), value=0.2),
          lambda x, y: full(x, y).addcdiv(full(y, x), full(y, x).square() + 1, value=-0.2), lambda x, y: x*((x*y) > 0), lambda x, y: torch.where((x < 0) & ~(y < 0), -x, y))
REDUCE = (lambda x: x.abs().amax(), lambda x: x.amin(), lambda x: (x > 0).any().to(x.dtype), lambda x: (x > 0).sum().to(x.dtype)*0.1) # their bits don't depend on the order
INPLACE = (lambda x, y: x.mul_(0.9).add_(full(y, x), alpha=0.1), lambda x, y: x.copy_(y), lambda x, y: x.sub_(y), lambda x, y: x.addcmul_(full(y, x), full(y, x), value=0.01),
           lambda x, y: x.lerp_(full(y, x).to(x.dtype), 0.3),
           lambda x, y: x.clamp_(-3, 3).add_(y), lambda x, y: x.mul_(y.sign()))
KINDS = (UNARY, BINARY, REDUCE, INPLACE)


def drawn_stepper(p, lr=0.1, scale=1., a=None, b=None, level=None, steps=0, instructions=(), state_dtype=None):
    "Runs instructions on what it is given and what it has made; keeps two tensors, a number for each parameter, and a count"
    if a is None: a = torch.zeros_like(p, dtype=state_dtype)
    if b is None: b = p.grad.to(state_dtype or p.dtype).clone()
    made = p.data, p.grad, a, b
    for kind, which, x, y in instructions:
        f, x, y = KINDS[kind][which % len(KINDS[kind])], made[x % len(made)], made[y % len(made)]
        if kind == 3: f((p.data, a, b)[which % 3], y)
        else: made = (*made, f(x, y) if kind == 1 else f(x))
    if level is None: level = torch.zeros_like(p.grad.amax())
    level.mul_(0.5).add_(a.amax().to(level.dtype).clamp(-1, 1))
    p.data.add_(full(made[-1], p).clamp(-1, 1), alpha=-lr*scale if steps % 2 else -lr)
    return {'a': a, 'b': b, 'level': level, 'steps': steps + 1}


instruction = st.tuples(st.sampled_from([0, 0, 0, 1, 1, 1, 2, 3]), st.integers(0, 30), st.integers(0, 30),
                        st.integers(0, 30))
shape = st.sampled_from([(), (0,), (1,), (7,), (3, 4), (2, 3, 4, 5), (33, 17), (16384,), (16385,), (40000,), (5, 1, 3)])


def laid_out(t, layout):
    "The same numbers, otherwise in memory"
    if layout == 'transposed' and t.dim() > 1: return t.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == 'channels_last' and t.dim() == 4: return t.contiguous(memory_format=torch.channels_last)
    if layout == 'sparse' and t.dim(): return torch.stack([t, t], -1)[..., 0]
    return t


@engines
@settings(max_examples=int(os.environ.get('OPTIMCB_CASES', 100)), deadline=None, suppress_health_check=list(HealthCheck))
@given(instructions=st.lists(instruction, min_size=1, max_size=8).map(tuple), shapes=st.lists(shape, min_size=1, max_size=6), seed=st.integers(0, 100),
       layout=st.sampled_from(['plain', 'plain', 'transposed', 'channels_last', 'sparse']), grad_layout=st.sampled_from(['plain', 'plain', 'transposed', 'channels_last', 'sparse']),
       dtype=st.sampled_from([torch.float32, torch.float32, torch.float64]), state_dtype=st.sampled_from([None, None, torch.float64, torch.bfloat16]),
       lr=st.sampled_from([0., 0.1, 3e-4]), split=st.integers(0, 5), missing=st.sets(st.integers(0, 5), max_size=2), frozen=st.integers(0, 9))
def test_drawn_compositions_give_the_bits_that_eager_gives(engine, instructions, shapes, seed, layout, grad_layout, dtype, state_dtype, lr, split, missing, frozen):
    "To the bit, since these operations round as torch's; groups differ in lr, gradients come and go, a layer may be frozen"
    r = torch.Generator().manual_seed(seed)
    ps = [laid_out(torch.randn(s, generator=r, dtype=torch.float64).to(dtype), layout) for s in shapes]
    grads = [[None if i in missing and step == 1 or i == frozen else laid_out(torch.randn(p.shape, generator=r, dtype=torch.float64).to(dtype), grad_layout) for i, p in enumerate(ps)]
             for step in range(3)]
    if any(p.numel() == 0 for p in ps): instructions = tuple(i for i in instructions if i[0] != 2)
    cb = partial(drawn_stepper, instructions=instructions, state_dtype=state_dtype)
    ps = [p for p in ps if p.numel()] or [torch.ones(3, dtype=dtype)]
    grads = [[g for g in gs if g is None or g.numel()] for gs in grads]
    grads = [gs if len(gs) == len(ps) else [torch.ones_like(p) for p in ps] for gs in grads]
    results = []
    for e in ('eager', engine):
        mine = [torch.nn.Parameter(torch.empty_strided(p.shape, p.stride(), dtype=p.dtype).copy_(p)) for p in ps]
        groups = [g for g in ({'params': mine[:split]}, {'params': mine[split:], 'lr': lr/2}) if g['params']]
        opt = Optimizer(groups, [cb], lr=lr, engine=e)
        for gs in grads:
            for p, g in zip(mine, gs):
                p.grad = None if g is None else torch.empty_strided(g.shape, g.stride(), dtype=g.dtype).copy_(g)
            opt.step()
        results.append((mine, [opt.state[p] for p in mine]))
    (want, want_states), (got, got_states) = results
    low = state_dtype == torch.bfloat16
    for p, q, s, t in zip(got, want, got_states, want_states):
        if not (low and engine == 'fused'): assert ulps(p, q) == 0
        assert s.keys() == t.keys() and s.get('steps') == t.get('steps')
        for k in ('a', 'b', 'level'):
            if k in s and not (low and engine == 'fused'): assert ulps(s[k], t[k]) == 0, k
            if k in s: assert s[k].dtype == t[k].dtype and s[k].shape == t[k].shape


@engines
@settings(max_examples=int(os.environ.get('OPTIMCB_CASES', 150)), deadline=None)
@given(data=st.data(), algo=st.sampled_from([oc.SGD, oc.RMSProp, oc.Adam, oc.AMSGrad, oc.Yogi, oc.NAdam, oc.Adamax, oc.Adagrad, oc.Adadelta, oc.RAdam, oc.QHAdam, oc.Larc, oc.Lamb]),
       shapes=st.lists(shape.filter(lambda s: 0 not in s), min_size=1, max_size=5), steps=st.integers(1, 7), dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
       wd=st.sampled_from([0., 0.1]), mom=st.sampled_from([0., 0.9]), lr=st.sampled_from([0.1, 1e-3]), decouple=st.booleans())
def test_drawn_algorithms(engine, data, algo, shapes, steps, dtype, wd, mom, lr, decouple):
    "In 16 bits to the rounding of the parameter at each step: a kernel computes in float32, eager rounds each operation"
    options = dict(wd=wd, decouple_wd=decouple, **({'mom': mom} if 'mom' in algo.options and algo not in (oc.Adam, oc.NAdam) else {}), **({'eps': 1e-3 if dtype == torch.float32 else 0.1} if 'eps' in algo.options else {}))
    results = []
    for e in ('eager', engine):
        ps = params(shapes, dtype, seed=1)
        wide = e == 'eager' and engine == 'fused' and dtype != torch.float32
        opt = algo(mine := [torch.nn.Parameter(p.detach().float()) for p in ps] if wide else ps, lr=lr,
                   engine=e, **options)
        for i in range(steps):
            r = torch.Generator().manual_seed(i)
            for q in mine: q.grad = torch.randn(q.shape, generator=r).to(dtype).to(q.dtype)
            opt.set_hyper('lr', lr/(i+1))
            opt.step()
        results.append([p.detach().double() for p in mine])
    eps = torch.finfo(dtype).eps
    for p, q in zip(*results):
        assert torch.allclose(p, q, rtol=4*steps*eps, atol=32*steps*eps*(1 + 30*lr)), (p - q).abs().max()
