"What a kernel that works on raw memory must not fall into: each test fails without its guard."
import gc
import warnings
import weakref
from functools import partial

import pytest
import torch
from helpers import clip_all, params, set_grads
from on_engines import stepped, ulps

import optimcb as oc
from optimcb import Optimizer, average_grad, momentum_step, once, sgd_step, weight_decay
from optimcb.engines import c_kernels
from optimcb.engines.runner import CantRun

pytestmark = pytest.mark.usefixtures('looking') # every guard is there on both

MOMENTUM = [weight_decay, average_grad, momentum_step]


@pytest.fixture
def launches(monkeypatch):
    "Counts launches, and the parameters in each"
    seen = []
    phase = c_kernels.Launch.phase
    def counted(self, i):
        seen.append(int(self.rows[-1]))
        return phase(self, i)
    monkeypatch.setattr(c_kernels.Launch, 'phase', counted)
    return seen


def both(make, change=lambda ps, opt, i: None, steps=4, cbs=MOMENTUM, engine='auto', **hypers):
    "Parameters and optimizer of the eager engine and another, with `change` before each step"
    res = []
    for e in ('eager', engine):
        ps = make()
        opt = Optimizer(ps, cbs, engine=e, **{'lr': 0.1, 'mom': 0.9, 'wd': 0.1, **hypers})
        for i in range(steps):
            set_grads(ps, i)
            change(ps, opt, i)
            opt.step()
        res.append((ps, opt))
    (want, eager), (got, opt) = res
    for p, q in zip(got, want):
        assert ulps(p, q) == 0
        assert eager.state[q].keys() == opt.state[p].keys()
        tensors = {k: v for k, v in eager.state[q].items() if isinstance(v, torch.Tensor)}
        assert all(ulps(opt.state[p][k], v) == 0 for k, v in tensors.items())
    return got, opt


def test_one_launch_for_all(launches):
    groups = lambda ps: [{'params': ps[:2]}, {'params': ps[2:], 'lr': 0.5, 'wd': 0.3}] # noqa: E731
    for e in ('eager', 'fused'):
        ps = params([(3, 4), (5,), (), (70000,)])
        opt = Optimizer(groups(ps), [*MOMENTUM, oc.step_stat], lr=0.1, wd=0.1, engine=e)
        for i in range(3):
            set_grads(ps, i, skip=[1] if i == 0 else [])
            opt.step()
    # new state is a program of its own once
    assert launches == [3, 4, 4], 'step counts, groups and gradients that come later notwithstanding'

def test_lamb_is_one_call_a_step(launches):
    ps = params([(300, 4), (5,), (70000,)])
    opt = oc.Lamb(ps, lr=0.1)
    for i in range(3): set_grads(ps, i); opt.step() # noqa: E702
    assert launches == [3, 3, 3]


# Memory

def channels_last():
    ps = params([(4, 3, 5, 5), (2, 3, 2, 2)])
    return [torch.nn.Parameter(p.detach().contiguous(memory_format=torch.channels_last)) for p in ps]

def test_gradients_lie_otherwise_than_parameters():
    def other(ps, opt, i):
        layout = torch.channels_last if i % 2 else torch.contiguous_format
        for p in ps: p.grad = p.grad.contiguous(memory_format=layout)
    both(lambda: params([(4, 3, 5, 5), (2, 3, 2, 2)]), other, engine='fused')
    both(channels_last, other, engine='fused')

def test_state_lies_otherwise_than_its_parameter():
    def turned(ps, opt, i):
        if i == 2: opt.state[ps[0]]['grad_avg'] = opt.state[ps[0]]['grad_avg'].t().contiguous().t()
    both(lambda: params([(4, 3), (5,)]), turned, engine='fused')

def test_parameters_with_gaps(launches):
    def make(): return [torch.nn.Parameter(torch.arange(24.).view(4, 6)[:, ::2]), *params([(5,)])]
    ps, _ = both(make)
    assert not ps[0].is_contiguous() and launches[-1] == 1 # the other one

def test_parameters_that_overlap_or_share_all_their_memory(launches):
    def make():
        flat = torch.arange(10.)
        return [torch.nn.Parameter(flat[:6]), torch.nn.Parameter(flat[4:]), *params([(5,)])]
    both(make)
    assert launches[-1] == 1
    def twins():
        flat = torch.arange(6.)
        return [torch.nn.Parameter(flat), torch.nn.Parameter(flat), *params([(5,)])]
    both(twins)
    assert launches[-1] == 1

def test_a_parameter_with_gaps_around_another_one():
    def make():
        flat = torch.arange(12.)
        return [torch.nn.Parameter(flat[::2]), torch.nn.Parameter(flat[:5])]
    both(make)

def test_neighbours_in_one_buffer_are_no_overlap(launches):
    def make():
        flat = torch.arange(10.)
        return [torch.nn.Parameter(flat[:6]), torch.nn.Parameter(flat[6:].view(2, 2))]
    both(make)
    assert launches[-1] == 2

def test_state_that_is_memory_of_a_parameter(launches):
    def share(ps, opt, i):
        if i == 1: opt.state[ps[0]]['grad_avg'] = ps[1].data
    def make(): return params([(4,), (4,), (3,)])
    for e in ('eager', 'auto'):
        ps = make()
        opt = Optimizer(ps, MOMENTUM, lr=0.1, engine=e)
        for i in range(3):
            set_grads(ps, i)
            share(ps, opt, i)
            opt.step()
        if e == 'eager': want = [p.detach().clone() for p in ps]
    assert all(ulps(p.detach(), q) == 0 for p, q in zip(ps, want))

def test_expanded_parameter():
    def make():
        return [torch.nn.Parameter(torch.ones(1).expand(3).contiguous()), torch.nn.Parameter(torch.zeros(()))]
    both(make, engine='fused')

def test_empty_parameters():
    both(lambda: [torch.nn.Parameter(torch.zeros(0, 3)), *params([(4,)])])
    both(lambda: [torch.nn.Parameter(torch.zeros(0))])

def test_no_gradients_at_all():
    ps = params()
    for e in ('eager', 'foreach', 'fused', 'auto'): Optimizer(ps, MOMENTUM, lr=0.1, engine=e).step()
    assert all(torch.equal(p, q) for p, q in zip(ps, params()))

def test_data_is_replaced_between_steps():
    def replace(ps, opt, i):
        if i == 1: ps[0].data = ps[0].data.clone()
        if i == 2: ps[1].data = ps[1].data.t() # the same address, and with a square the same shape
        if i == 2: ps[1].grad = ps[1].grad.clone()
    both(lambda: params([(4, 3), (3, 3)]), replace, engine='fused')

def test_a_turned_parameter_with_the_gradient_of_before():
    kept = {}
    def turn(ps, opt, i):
        if i == 0: kept[id(opt)] = ps[0].grad
        ps[0].grad = kept[id(opt)]
        if i == 2: ps[0].data = ps[0].data.t()
    both(lambda: params([(3, 3)]), turn, engine='fused')

def test_state_is_replaced_between_steps():
    def replace(ps, opt, i):
        if i == 1: opt.state[ps[0]]['grad_avg'] = torch.ones_like(ps[0])
        if i == 2: opt.state[ps[1]]['grad_avg'].data = torch.full_like(ps[1], 2.)
        if i == 3: opt.state[ps[2]] = {}
    both(params, replace, engine='fused')

def test_state_dict_of_one_parameter_is_emptied_or_dropped():
    def drop(ps, opt, i):
        if i == 1: opt.state.pop(ps[0])
        if i == 2: opt.state[ps[1]].clear()
        if i == 3: opt.clear_state()
    both(params, drop, engine='fused')

def test_a_parameter_becomes_a_part_of_itself():
    def cut(ps, opt, i):
        if i == 2:
            ps[0].data = ps[0].data[:3]
            opt.state[ps[0]]['grad_avg'] = opt.state[ps[0]]['grad_avg'][:3].clone()
            ps[0].grad = ps[0].grad.clone()[:3]
    def make(): return params([(1000,), (4,)])
    ps, _ = both(make, cut, steps=4, cbs=[average_grad, momentum_step], engine='fused')
    assert ps[0].shape == (3,)

def test_state_gets_other_memory_while_somebody_keeps_the_old():
    kept = []
    def swap(ps, opt, i):
        if i == 2:
            kept.append(opt.state[ps[0]]['grad_avg'].detach())
            opt.state[ps[0]]['grad_avg'].data = torch.full_like(ps[0], 2.)
    both(params, swap, engine='fused')

def test_attributes_change_between_steps():
    def make():
        ps = params()
        for p in ps: p.lr_mult = 1.
        return ps
    def change(ps, opt, i):
        if i == 2: ps[1].lr_mult = 0.
    def scaled(p, lr): p.data.sub_(p.grad, alpha=lr*p.lr_mult)
    both(make, change, cbs=[scaled], engine='fused')
    def absent(ps, opt, i): ps[0].nodecay = None
    def decay(p, lr):
        if not hasattr(p, 'nodecay'): p.data.mul_(1 - lr)
    both(params, absent, cbs=[decay], engine='fused')

def test_numbers_of_other_types_are_other_numbers():
    def scaled(p, scale): p.data.sub_((p.grad > 0).sum()*scale)
    for e in ('eager', 'fused'):
        ps = params([(4,), (5,)])
        groups = [{'params': ps[:1], 'scale': 1}, {'params': ps[1:], 'scale': 1.}]
        opt = Optimizer(groups, scaled, scale=1., engine=e)
        set_grads(ps)
        opt.step()
        if e == 'eager': want = [p.detach().clone() for p in ps]
    assert all(ulps(p.detach(), q) == 0 for p, q in zip(ps, want))

def test_state_of_one_number_and_its_sum():
    def cb(p, v=None):
        if v is None: v = p.grad.sum()*0 + 1
        t = v.sum()
        t.mul_(0.5)
        p.data.sub_(t*v)
        return {'v': v}
    both(lambda: params([(4,), (3, 2)]), cbs=[cb], engine='fused')

def test_state_that_turns_from_number_to_tensor():
    def late(p, lr, steps=0, buf=None):
        if steps >= 2: buf = (0 if buf is None or isinstance(buf, float) else buf*0.9) + p.grad
        p.data.sub_(p.grad if buf is None else buf, alpha=lr)
        return {'steps': steps + 1, 'buf': buf}
    both(params, cbs=[late], engine='fused', steps=6)

def test_gradients_are_let_go():
    ps = params()
    opt = oc.Adam(ps, lr=0.1)
    for _ in range(3):
        set_grads(ps)
        opt.step()
    refs = [weakref.ref(p.grad.untyped_storage()) for p in ps]
    grads = [weakref.ref(p.grad) for p in ps]
    opt.zero_grad(set_to_none=True)
    gc.collect()
    assert not any(r() is not None for r in grads) and not any(r() is not None for r in refs)


# Gradients

def test_sparse_gradients():
    def make(): return [torch.nn.Parameter(torch.ones(5, 2)), *params([(4,)])]
    def sparse(ps, opt, i): ps[0].grad = torch.sparse_coo_tensor([[1, 3]], torch.ones(2, 2), (5, 2))
    both(make, sparse, cbs=[lambda p, lr: p.data.add_(p.grad, alpha=-lr)])

def test_gradients_that_are_sparse_now_and_then(launches):
    def make(): return [torch.nn.Parameter(torch.ones(5, 2)), *params([(4,)])]
    def sparse(ps, opt, i):
        if i % 2: ps[0].grad = torch.sparse_coo_tensor([[1, 3]], torch.ones(2, 2), (5, 2))
    both(make, sparse, cbs=[lambda p, lr: p.data.add_(p.grad, alpha=-lr)])
    assert launches == [2, 1, 2, 1]

def test_negated_views():
    def negate(ps, opt, i):
        for p in ps:
            z = torch.complex(torch.zeros_like(p), p.grad).detach()
            p.grad = z.conj().imag if i % 2 else z.imag.clone()
            assert p.grad.is_neg() == bool(i % 2)
    both(lambda: params([(4,), (3,)]), negate)

@pytest.mark.skipif(not hasattr(torch.Tensor, 'grad_dtype'), reason="torch 2.6 has gradients of the parameter's type only")
def test_gradients_of_another_type():
    def make():
        ps = params([(4,), (3, 2)], torch.bfloat16)
        for p in ps: p.grad_dtype = torch.float32
        return ps
    def wide(ps, opt, i):
        for p in ps: p.grad = torch.full_like(p, 0.3, dtype=torch.float32)
    res = []
    for e in ('eager', 'fused'):
        opt = Optimizer(ps := make(), [lambda p: p.data.sub_(p.grad.to(p.dtype))], engine=e)
        wide(ps, opt, 0)
        opt.step()
        res.append(ps)
    assert all(ulps(p, q) == 0 for p, q in zip(*res))

def test_a_gradient_is_the_data_itself():
    def own(ps, opt, i): ps[0].grad = ps[0].data
    def halve(p, lr): p.data.mul_(0.5)
    def step(p, lr): p.data.sub_(p.grad, alpha=lr)
    both(lambda: params([(4,)]), own, cbs=[halve, step])

def test_complex_parameters():
    def make(): return [torch.nn.Parameter(torch.complex(torch.arange(4.), torch.ones(4))), *params([(3,)])]
    both(make)


# Types and numbers

def test_nan_inf_and_denormals():
    tiny = [float('nan'), float('inf'), -float('inf'), 1e-40, -1e-42, 0., -0., 1e38]
    def odd(ps, opt, i): ps[0].grad = torch.tensor(tiny[i:] + tiny[:i])
    def make(): return [torch.nn.Parameter(torch.tensor(tiny))]
    def halve(p, grad_avg): p.data.copy_(grad_avg*0.5)
    ps, opt = both(make, odd, cbs=[average_grad, halve], engine='fused')
    assert (opt.state[ps[0]]['grad_avg'].abs() < 1e-38).any()
    assert (torch.tensor([1e-40])*1).item() > 0, 'the loaded kernel must not flush denormals for everybody'

@pytest.mark.parametrize('state', [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_states_of_other_types(dtype, state):
    def avg(p, lr, grad_avg=None):
        if grad_avg is None: grad_avg = torch.zeros_like(p, dtype=state)
        grad_avg.mul_(0.5).add_(p.grad)
        p.data.sub_(grad_avg.to(p.dtype), alpha=0.25)
        return {'grad_avg': grad_avg}
    grads = [[torch.tensor([0.5, -1., 3., 0.125])], [torch.tensor([1.5, 2., -0.25, 0.])]]
    grads = [[g.to(dtype) for g in gs] for gs in grads]
    p = [torch.tensor([1., 2., -3., 0.5], dtype=dtype)]
    (_, a, s), (_, b, t) = (stepped(e, p, grads, [avg], steps=4, lr=0.1) for e in ('eager', 'fused'))
    # these numbers are exact in every type
    assert ulps(a[0], b[0]) == 0 and ulps(s[0]['grad_avg'], t[0]['grad_avg']) == 0
    assert t[0]['grad_avg'].dtype == state

def test_memory_of_16_bits_is_read_as_it_was_written():
    "Kahan summation lives on the rounding of the parameter"
    def kahan(p, lr, left=None):
        if left is None: left = torch.zeros_like(p)
        left.add_(p.grad, alpha=-lr)
        before = p.data.clone()
        p.data.add_(left)
        left.add_(before - p.data)
        return {'left': left}
    ps = [torch.ones(5, dtype=torch.bfloat16)]
    grads = [[torch.full((5,), -1., dtype=torch.bfloat16)]]
    for e in ('eager', 'fused'):
        _, got, _ = stepped(e, ps, grads, [kahan], steps=200, lr=1e-3)
        assert torch.allclose(got[0].float(), torch.tensor(1.2), atol=0.02), e
    _, got, _ = stepped('fused', ps, grads, [sgd_step], steps=200, lr=1e-3)
    assert got[0][0] == 1 # without it, nothing moves

def test_rounding_to_16_bits_equals_torchs():
    bits = torch.arange(-2**15, 2**15, dtype=torch.int32).to(torch.int16)
    r = torch.randint(-2**31, 2**31 - 1, (200000,), generator=torch.Generator().manual_seed(0))
    r = r.to(torch.int32).view(torch.float32)
    for dtype in (torch.float16, torch.bfloat16):
        every = bits.view(dtype)
        exact = every.float()
        just_above, between = torch.nextafter(exact, torch.tensor(float('inf'))), (exact + exact.roll(1))/2
        wide = torch.cat([exact, r, just_above, between])
        def up(p, dtype=dtype): return {'up': p.grad.float()*1}
        def down(p, dtype=dtype):
            return {'down': (p.grad*1).to(dtype), 'back': (p.grad*1).to(dtype).float()*1}
        (_, _, s), (_, _, t) = (stepped(e, [every], [[every]], [up]) for e in ('eager', 'fused'))
        assert ulps(s[0]['up'], t[0]['up']) == 0
        (_, _, s), (_, _, t) = (stepped(e, [wide], [[wide]], [down]) for e in ('eager', 'fused'))
        assert ulps(s[0]['down'], t[0]['down']) == 0 and ulps(s[0]['back'], t[0]['back']) == 0


# What others rely on

def test_autograd_knows_that_parameters_changed():
    for e in ('eager', 'foreach', 'fused'):
        p = torch.nn.Parameter(torch.ones(3))
        loss = (p*p).sum()
        p.grad = torch.ones(3)
        before = p._version
        Optimizer([p], sgd_step, lr=0.1, engine=e).step()
        assert p._version > before
        with pytest.raises(RuntimeError, match='modified by an inplace'): loss.backward()

def test_gradients_and_their_tensors_stay():
    def clip(p): p.grad.clamp_(-0.1, 0.1)
    def replace(p): p.grad = p.grad*2
    def make(): return params([(4,), (3, 2)])
    both(make, cbs=[clip, replace, sgd_step], engine='fused')
    ps = make()
    set_grads(ps)
    kept, tensors = [p.grad.clone() for p in ps], [p.grad for p in ps]
    Optimizer(ps, [clip, replace, sgd_step], lr=0.1, engine='fused').step()
    assert all(torch.equal(p.grad, k) and p.grad is t for p, k, t in zip(ps, kept, tensors))

def test_numbers_in_the_state_of_one_parameter(launches):
    def change(ps, opt, i):
        if i == 1: opt.state[ps[0]]['do_wd'] = False
        if i == 2: opt.state[ps[1]]['step'] = 10
        if i == 3: opt.state[ps[0]]['do_wd'] = True
    def use(p, step, lr): p.data.sub_(lr/step)
    both(params, change, cbs=[weight_decay, oc.step_stat, use], engine='fused')
    assert launches.count(4) >= 2

def test_hyper_parameters_that_are_tensors():
    both(params, lr=torch.tensor(0.1), engine='fused')
    def schedule(ps, opt, i): opt.set_hyper('lr', torch.tensor(0.1/(i+1)))
    both(params, schedule, lr=torch.tensor(0.1), engine='fused')

def test_numbers_of_numpy():
    import numpy as np
    def schedule(ps, opt, i): opt.set_hyper('lr', np.float64(0.1)/(i+1))
    both(params, schedule, engine='fused', wd=np.float32(0.25))

def test_what_a_stepper_looks_at(launches):
    def scaled(p, lr): p.data.sub_(p.grad, alpha=lr/p.numel() if p.ndim > 1 else lr*p.shape[0] if p.ndim else lr)
    both(lambda: params([(3, 4), (5,), (4, 3), ()]), cbs=[scaled], engine='fused')
    assert launches[-1] == 4
    def matrices_only(p, lr):
        if p.dim() >= 2 and p.dtype == torch.float32 and p.device.type == 'cpu' and p.is_floating_point():
            p.data.sub_(p.grad, alpha=lr)
    both(lambda: params([(3, 4), (5,), (4, 3), ()]), cbs=[matrices_only], engine='fused')

def test_state_that_changes_its_type():
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        _, opt = both(params, cbs=[other_type, sgd_step])
    assert all((s['a'] == 9).all() for s in opt.state.values())

def test_attributes_of_parameters():
    def make():
        ps = params()
        ps[0].no_decay = True
        return ps
    def decay(p, lr, wd):
        if not getattr(p, 'no_decay', False): p.data.mul_(1 - lr*wd)
    both(make, cbs=[decay], engine='fused')

def test_steppers_that_ask_for_types():
    def asks(p, lr, avg=None):
        if not isinstance(avg, torch.Tensor): avg = torch.zeros_like(p)
        assert torch.is_tensor(p.grad) and isinstance(p, torch.nn.Parameter) and not isinstance(p.grad, torch.nn.Parameter)
        avg.add_(p.grad)
        p.data.sub_(avg, alpha=lr)
        return {'avg': avg}
    both(params, cbs=[asks], engine='fused')


# What can't be recorded

def needs_item(p, lr): p.data.sub_(p.grad, alpha=lr/max(1., p.grad.norm().item()))
def branches(p, lr):
    if p.grad.norm() > 1: p.data.sub_(p.grad, alpha=lr)
def sorts(p, lr): p.data.sub_(p.grad.sort(dim=-1)[0] if p.dim() else p.grad, alpha=lr)
def draws(p, lr): p.data.add_(torch.randn_like(p), alpha=0.)
def by_dimension(p, lr): p.data.sub_(p.grad - p.grad.mean(dim=-1, keepdim=True) if p.dim() else p.grad, alpha=lr)
def real_tensor(p, lr): p.data.sub_(torch.ones(p.shape)*lr)
def in_list(p, lr, seen=None): return {'seen': [*(seen or []), float(lr)]}
def swallows(p, lr):
    try: scale = p.grad.norm().item()
    except Exception: scale = 123.
    p.data.sub_(p.grad, alpha=lr*scale)
counted = []
def counts(p, lr):
    counted.append(1)
    p.data.sub_(p.grad, alpha=lr)
class Callable:
    calls = 0
    def __call__(self, p, lr): self.calls += 1
MASKS = {}
def by_identity(p, lr): p.data.sub_(p.grad, alpha=MASKS.get(id(p), lr))
def two_names(p, a=None):
    a = torch.zeros_like(p) if a is None else a.add_(1)
    return {'a': a, 'b': a}
def alias(p, a=None):
    p.data.add_(1)
    return {'a': p.data}
def other_type(p, steps=0, a=None):
    return {'steps': steps + 1, 'a': torch.zeros_like(p) if a is None else (a + 3).to(torch.float64 if steps == 1 else torch.float32)}
def writes_back(p, lr):
    p.seen = True
def tuples(p, mv=None):
    m = p.grad*0.1 if mv is None else mv[0]*0.9 + p.grad
    p.data.sub_(m)
    return {'mv': (m, m*2)}
def new_memory(p, lr):
    before = p.data
    p.data = before - lr*p.grad
    p.data.add_(p.data - before)
SPECIALS = (torch.zeros(1),)
def asks_is(p, lr): p.data.sub_(p.grad, alpha=0. if any(p is q for q in SPECIALS) else lr)
def asks_exact_type(p, avg=None):
    if type(avg) is not torch.Tensor: avg = torch.zeros_like(p)
    avg.add_(p.grad)
    p.data.sub_(avg)
    return {'avg': avg}
def changes_what_it_used(p, lr):
    t = torch.tensor(1.)
    p.data.add_(p.grad*t, alpha=-lr)
    t.mul_(0.5)
    p.data.mul_(t)
class Meter:
    n = 0
    def update(self): self.n += 1
METER = Meter()
def meters(p, lr): METER.update(); p.data.sub_(p.grad, alpha=lr) # noqa: E702
class Logger:
    def __init__(self): self.h = []
    def log(self, x): self.h.append(float(x))
    def __call__(self, p, lr): self.log(lr)
def iterates(p, lr, _it=iter(range(10**6))): p.data.sub_(p.grad, alpha=lr*(next(_it) >= 0)) # noqa: B008
def default_list(p, lr, _c=[0]): # noqa: B006
    _c[0] += 1
    p.data.sub_(p.grad, alpha=lr)
def partial_views(p, lr): p.data.view(-1)[:1].sub_(1)
def swallowed_type(p, lr): p.data.sub_(p.grad.to(torch.complex64).real, alpha=lr)

ALL = [needs_item, branches, sorts, draws, by_dimension, real_tensor, in_list, swallows, counts, Callable(), by_identity, two_names, alias, writes_back, partial_views,
       swallowed_type, tuples, new_memory, asks_is, asks_exact_type, changes_what_it_used, meters, Logger(), iterates, default_list]


@pytest.mark.parametrize('cb', ALL, ids=lambda f: getattr(f, '__name__', type(f).__name__))
def test_falls_back_with_one_warning_that_says_why(cb):
    def make(): return params([(3, 4), (5,), ()])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        both(make, cbs=[average_grad, cb, sgd_step], engine='auto')
    said = [str(w.message) for w in caught if 'eager engine' in str(w.message)]
    assert len(said) == 1 and getattr(cb, '__name__', type(cb).__name__) in said[0], said
    ps = make()
    set_grads(ps)
    kept = [p.detach().clone() for p in ps]
    opt = Optimizer(ps, [average_grad, cb, sgd_step], lr=0.1, engine='fused')
    with pytest.raises(CantRun, match='stepper'): opt.step()
    assert all(torch.equal(p, k) for p, k in zip(ps, kept)) and not any(opt.state.values())

def test_random_numbers_are_drawn_for_each_parameter():
    import random
    class Noise:
        def amount(self): return random.gauss(0, 1)
    hidden = partial(getattr, random, 'gauss')
    def noisy(p, lr): p.data.add_(hidden()(0, 1), alpha=lr)
    def drawn(p, lr): p.data.mul_(torch.empty(()).uniform_())
    for cb in (noisy, drawn):
        def seed(ps, opt, i):
            if i == 0: random.seed(0); torch.manual_seed(0) # noqa: E702
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            both(params, seed, cbs=[cb])

def test_the_warning_names_line_operation_and_what_to_write():
    ps = params()
    set_grads(ps)
    said = r'`branches` at test_traps.py:\d+: it branches on a tensor.s value. Choose with `torch.where'
    with pytest.warns(UserWarning, match=said) as w: Optimizer(ps, branches, lr=0.1).step()
    assert w[0].filename == __file__

def test_only_those_that_cannot_be_traced_fall_back(launches):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        def centred(p, lr): p.data.sub_(p.grad - p.grad.mean(dim=-1, keepdim=True) if p.ndim > 1 else p.grad, alpha=lr)
        both(lambda: params([(3, 4), (5,), (7,)]), cbs=[centred])
    assert launches[-1] == 2

def test_errors_of_steppers_are_theirs():
    def broken(p, lr): raise ArithmeticError('mine')
    ps = params()
    set_grads(ps)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with pytest.raises(ArithmeticError, match='mine'): Optimizer(ps, broken, lr=0.1).step()

def test_steppers_in_a_ones_own_class_of_tensors():
    class Loud(torch.Tensor): pass
    def make(): return [torch.nn.Parameter(torch.ones(3).as_subclass(Loud)), *params([(4,)])]
    both(make)

def test_a_refused_engine_stays_refused():
    ps = params()
    set_grads(ps)
    opt = Optimizer(ps, [sgd_step, counts], lr=0.1, engine='fused')
    for _ in range(3):
        with pytest.raises(CantRun, match='counts'): opt.step()
    assert all(torch.equal(p, q) for p, q in zip(ps, params()))

def test_structure_without_end(monkeypatch):
    from optimcb.engines import compilation, refusals
    for o in (compilation, refusals): monkeypatch.setattr(o, 'MAX_KERNELS', 3)
    def more(p, lr, steps=0):
        for _ in range(steps): p.data.mul_(0.9)
        return {'steps': steps + 1}
    with pytest.warns(UserWarning, match='differ from step to step'):
        both(params, cbs=[more, sgd_step], steps=6)

def test_attributes_that_are_no_keys():
    def make():
        ps = params()
        ps[0].tags = ['a', 'list']
        return ps
    def tagged(p, lr): p.data.sub_(p.grad, alpha=lr*(1 + len(getattr(p, 'tags', []))))
    both(make, cbs=[tagged], engine='fused')

def test_engine_names():
    ps = params()
    with pytest.raises(ValueError, match='fussed.*eager'): Optimizer(ps, sgd_step, lr=0.1, engine='fussed')
    opt = oc.Adam(ps, lr=0.1, engine='eager')
    opt.engine = 'fused'
    set_grads(ps)
    opt.step()
    assert opt.engine == 'fused'


# Sums over all parameters

def count_all(p, lr):
    n = yield p.numel()
    p.data.mul_(1/n)

def keep_total(p):
    total = yield (p.grad*2).sum()
    return once(total=total)

def use_total(p, lr, total): p.data.sub_(total*lr*1e-3)

SUMS = [
    [clip_all, sgd_step],
    [partial(clip_all, max_norm=0.5), average_grad, momentum_step],
    [clip_all, clip_all, sgd_step],
    [sgd_step, count_all],
    [average_grad, clip_all, keep_total, use_total, momentum_step],
]
def names_of(cbs): return '-'.join(getattr(f, '__name__', 'partial') for f in cbs)

@pytest.mark.parametrize('engine', ['foreach', 'fused', 'auto'])
@pytest.mark.parametrize('cbs', SUMS, ids=names_of)
def test_sums_over_all_parameters(cbs, engine, launches):
    res = []
    for e in ('eager', engine):
        ps = params([(3, 4), (5,), (), (20000,)], torch.float64 if engine == 'auto' else torch.float32)
        opt = Optimizer([{'params': ps[:2]}, {'params': ps[2:], 'lr': 0.01}], cbs, lr=0.1, engine=e)
        for i in range(4):
            set_grads(ps, i, skip=[1] if i == 2 else [])
            opt.step()
        res.append(ps)
    assert all(torch.allclose(p, q, rtol=1e-5, atol=1e-6) for p, q in zip(*res))
    assert bool(launches) == (engine != 'foreach')

def test_clipping_equals_torchs():
    for e in ('eager', 'foreach', 'fused'):
        ps, qs = params(), params()
        opt, ref = Optimizer(ps, [clip_all, sgd_step], lr=0.1, engine=e), torch.optim.SGD(qs, lr=0.1)
        for i in range(3):
            set_grads(ps, i); set_grads(qs, i) # noqa: E702
            torch.nn.utils.clip_grad_norm_(qs, 1.)
            opt.step(); ref.step() # noqa: E702
        assert all(torch.allclose(p, q, rtol=1e-5) for p, q in zip(ps, qs))

def test_sums_over_all_where_one_cannot_be_traced():
    def make(): return [torch.nn.Parameter(torch.arange(24.).view(4, 6)[:, ::2]), *params([(5,)])]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        both(make, cbs=[clip_all, sgd_step])
