"""The kernels for CUDA on the CPU, by Triton's interpreter: a plugin of pytest that makes them the engine `fused`, and tests of their own.

    TRITON_INTERPRET=1 PYTHONPATH=tests python -m pytest -p interpreted tests/interpreted.py tests/engines/test_engines.py tests/tracing/test_operations.py -k "not foreach"
"""
import inspect
import re
import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import triton.language as tl
import without_gpu
from cases import CASES
from helpers import params, set_grads
from on_engines import stepped, ulps
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

import optimcb as oc
from optimcb import Optimizer
from optimcb.engines import captures, foreach, grad_scaling, runner, triton_kernels, triton_math
from optimcb.engines.compilation import Compilation
from optimcb.engines.triton_kernels import Launch

# What a GPU has and the interpreter lacks


def nvidia(f):
    "NVIDIA's function, which is torch's"
    def g(*xs):
        xs = tl.broadcast(*xs) if len(xs) > 1 else xs
        return tl.tensor(TensorHandle(f(*(torch.from_numpy(x.handle.data.copy()) for x in xs)).numpy(),
                                      xs[0].handle.dtype), xs[0].type)
    return g


def cast(self, src, dst_type, plain=InterpreterBuilder.cast_impl):
    "The interpreter cuts off what bfloat16 has no bits for, and knows no denormals of it; a GPU rounds to nearest"
    x, a, b = torch.from_numpy(src.data.copy()), src.dtype.scalar, dst_type.scalar
    if (a, b) == (tl.float32, tl.bfloat16): return TensorHandle(x.bfloat16().view(torch.uint16).numpy(), b)
    if (a, b) == (tl.bfloat16, tl.float32): return TensorHandle(x.view(torch.bfloat16).float().numpy(), b)
    return plain(self, src, dst_type)


def fma(self, x, y, z):
    """A multiply-add, rounded once; the interpreter rounds twice.

    In wider numbers, what is rounded away the first time matters about once in 10**12 times"""
    a, b, c = x.data, y.data, z.data
    if a.dtype == np.float32: return TensorHandle((a.astype(np.longdouble)*b + c).astype(np.float32), z.dtype.scalar)
    high, low = product(a, b)
    total = high + c
    part = total - high
    error = (high - (total - part)) + (c - part)
    with np.errstate(all='ignore'): exact = total + (error + low)
    return TensorHandle(np.where(np.isfinite(exact), exact, a*b + c), z.dtype.scalar)


def product(a, b):
    "The product of numbers of float64, and what it is rounded by (Dekker 1971)"
    def halves(x):
        big = x*134217729.
        high = big - (big - x)
        return high, x - high
    with np.errstate(all='ignore'):
        (p, q), (r, s), res = halves(a), halves(b), a*b
        return res, ((p*r - res) + p*s + q*r) + q*s


torchs = {o: getattr(torch, {'rint': 'round'}.get(o, o))
          for o in re.findall(r'libdevice\.(\w+)', inspect.getsource(triton_math))}
triton_math.libdevice = SimpleNamespace(**{o: nvidia(f) for o, f in torchs.items()})
InterpreterBuilder.cast_impl, InterpreterBuilder.create_fma = cast, fma
Compilation.lowering = lambda self, device: foreach if self.engine == 'foreach' else triton_kernels

without_gpu.install()
Launch._compiled = lambda self, function: function
Launch._run = lambda self, kernel, count, arguments: kernel[(count,)](*arguments.tensors, **triton_kernels.OPTIONS)


# Tests

SIZES = [(1,), (1023,), (1025,), (50, 100), ()]


def both(make, dtype=torch.float32, steps=4):
    "Parameters and states after some steps, of two groups, on the eager engine and by Triton; a gradient is missing once"
    res = []
    for engine in ('eager', 'fused'):
        ps = params(SIZES, dtype)
        opt = make([{'params': ps[:2]}, {'params': ps[2:], 'lr': 0.003}], lr=0.01)
        opt.engine = engine
        for i in range(steps):
            set_grads(ps, i, [1] if i == 2 else [])
            opt.step()
        res.append(([p.detach() for p in ps], [dict(opt.state[p]) for p in ps]))
    return res


@pytest.mark.parametrize('name, make', [c[:2] for c in CASES], ids=[c[0] for c in CASES])
def test_algorithms(name, make):
    "A few units in the last place over four steps, since sums are added in another order and powers are exact to the last bit"
    (want, want_states), (got, got_states) = both(make)
    for p, q, s, t in zip(got, want, got_states, want_states):
        torch.testing.assert_close(p, q, rtol=2e-6, atol=2e-6*q.abs().max().item())
        assert s.keys() == t.keys()
        for k, v in t.items():
            if isinstance(v, torch.Tensor):
                torch.testing.assert_close(s[k], v, rtol=2e-5, atol=2e-5*v.abs().max().item())
            else: assert s[k] == v


def some(*sizes, dtypes=(torch.float32,), seed=0):
    r = torch.Generator().manual_seed(seed)
    return [torch.randn(n, generator=r, dtype=torch.float64).to(dtypes[i % len(dtypes)]) for i, n in enumerate(sizes)]


def clip(p, lr):
    "Two totals, the second of which needs the first"
    total = yield p.grad.pow(2).sum()
    scale = 1/total.sqrt().clamp(min=1.)
    largest = yield (p.grad*scale).abs().amax()
    p.data.add_(p.grad*scale/largest, alpha=-lr)
    return {'total': total.float(), 'ok': p.data > 0}


def test_totals_over_launches_for_several_types():
    dtypes = torch.float32, torch.float64
    ps, gs = some(3000, 7, 1025, 1, dtypes=dtypes), some(3000, 7, 1025, 1, dtypes=dtypes, seed=1)
    (_, want, ws), (_, got, s) = (stepped(e, ps, [gs], [clip], steps=3, lr=0.1) for e in ('eager', 'fused'))
    for a, b, t, u in zip(got, want, s, ws):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(t['total'], u['total'], rtol=1e-6, atol=0)
        assert torch.equal(t['ok'], u['ok'])


def numbers(p, lr, level=None, last=None, count=None):
    "Keeps numbers of each tensor, which all of its elements read; overwrites what it has read with something else"
    if level is None:
        level, last, count = torch.ones_like(p.grad.sum()), p.grad.clone(), torch.zeros((), dtype=torch.int64)
    p.data.add_(last*level/(count + 1), alpha=-lr)
    last.copy_(p.grad)
    return {'level': level*0.5 + p.grad.amax(), 'last': last, 'count': count + 1}


def test_numbers_of_each_tensor():
    "To the bit: nothing is added up"
    ps, gs = some(2500, 8, 1), [some(2500, 8, 1, seed=i) for i in range(3)]
    (_, want, ws), (_, got, s) = (stepped(e, ps, gs, [numbers], steps=3, lr=0.1) for e in ('eager', 'fused'))
    for a, b, t, u in zip(got, want, s, ws):
        assert ulps(a, b) == 0 and all(ulps(t[k], u[k]) == 0 for k in ('level', 'last', 'count'))


@pytest.mark.parametrize('make', [oc.Lamb, oc.Adafactor, oc.Prodigy], ids=lambda o: o.__name__)
def test_sums_of_many_chunks_are_joined_in_two_stages(make, monkeypatch):
    "The same bits each time; to a few units in the last place as eager adds"
    def steps(engine):
        ps = params([(9000,), (1, 2), (5000,), ()])
        opt = make(ps, lr=0.01, engine=engine)
        for i in range(3):
            set_grads(ps, i)
            opt.step()
        return ps, opt
    for k in ('JOIN', 'ALONE'): monkeypatch.setattr(triton_kernels, k, 2)
    (ps, opt), (qs, _), (want, _) = steps('fused'), steps('fused'), steps('eager')
    launches = [launch for found in opt._running.plan.launches.values() for launch, _ in found]
    assert any(len(o.joins) == 2 for o in launches)
    for p, q, r in zip(ps, qs, want):
        assert ulps(p, q) == 0
        torch.testing.assert_close(p, r, rtol=1e-5, atol=1e-6)

def test_tensors_that_lie_anywhere():
    "At odd addresses, elements are loaded one by one; each tensor is told apart"
    flat, grad, res = *some(5000), *some(5000, seed=1), []
    def moved(p, lr): p.data.sub_(p.grad*0.3)
    for engine in ('eager', 'fused'):
        res.append(flat.clone())
        ps = [torch.nn.Parameter(res[-1][a:b]) for a, b in ((0, 1024), (1025, 2049), (2050, 4000), (4008, 4016))]
        for p, a in zip(ps, (3, 1027, 2052, 4008)): p.grad = grad[a:a + p.numel()]
        Optimizer(ps, [moved], lr=0.1, engine=engine).step()
    assert ulps(*res) == 0 and not torch.equal(res[1], flat)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bits_beside_others(dtype):
    "One step, as eager's float32 rounds"
    dtypes = dtype, torch.float32, torch.float64
    ps, gs = some(2000, 30, 1025, dtypes=dtypes), some(2000, 30, 1025, dtypes=dtypes, seed=1)
    def mixed(p, lr, avg=None):
        avg = torch.zeros_like(p, dtype=torch.float32) if avg is None else avg
        avg.mul_(0.9).add_(p.grad.float(), alpha=0.1)
        p.data.sub_((avg*lr).to(p.dtype) if p.dtype == torch.float64 else avg*lr)
        return {'avg': avg, 'seen': avg.abs() > 0.1}
    (_, want, ws), (_, got, s) = (stepped(e, ps, [gs], [mixed], lr=0.1) for e in ('eager', 'fused'))
    for a, b, t, u in zip(got, want, s, ws):
        assert ulps(a, b) <= 1 and ulps(t['avg'], u['avg']) <= 1 and torch.equal(t['seen'], u['seen'])


def test_real_tensors_of_one_number():
    ps, gs, scale = some(1500, 3), some(1500, 3, seed=1), torch.tensor(0.25)
    def scaled(p, lr): p.data.add_(p.grad*scale, alpha=-lr)
    (_, want, _), (_, got, _) = (stepped(e, ps, [gs], [scaled], steps=2, lr=0.1) for e in ('eager', 'fused'))
    assert all(ulps(a, b) <= 1 for a, b in zip(got, want))


def test_a_step_that_the_device_skips(monkeypatch):
    "As if it had not been; gradients are unscaled by a number that only the device knows"
    monkeypatch.setattr(grad_scaling, '_known', lambda x: x)
    res = []
    for skipped in (False, True):
        ps = params(SIZES)
        opt = oc.Yogi(ps, lr=0.01)
        for i in range(4):
            if not skipped and i in (0, 2): continue
            set_grads(ps, i)
            for p in ps: p.grad.mul_(1024)
            opt.grad_scale, opt.found_inf = torch.tensor(1024.), torch.tensor(float(i in (0, 2)))
            if i in (0, 2): ps[1].grad[5] = float('nan')
            opt.step()
        res.append([*(p.detach() for p in ps),
                    *(v for s in opt.state_dict()['state'].values() for k, v in s.items() if k != 'step')])
        assert {s['step'] for s in opt.state.values()} == {2}
    assert all(ulps(a, b) == 0 for a, b in zip(*res))


def test_kernels_leave_zeros_in_gradients():
    "To the bit as without; not in a step that the device may skip, nor where gradients share memory"
    for make in (oc.AdamW, oc.Lamb, oc.Muon, oc.Adafactor, oc.AdEMAMix):
        res = []
        for on in (False, True):
            ps = params(SIZES) + params([(1030,)], torch.bfloat16)
            opt = make(ps, lr=0.01, zero_in_step=on)
            for i in range(4):
                set_grads(ps, i)
                opt.step()
                assert on != any(p.grad.any() for p in ps)
            res.append([p.detach() for p in ps])
        assert all(ulps(a, b) == 0 for a, b in zip(*res))

def test_gradients_of_a_step_that_the_device_may_skip_stay(monkeypatch):
    monkeypatch.setattr(grad_scaling, '_known', lambda x: x)
    ps = params(SIZES)
    opt = oc.AdamW(ps, lr=0.01, zero_in_step=True)
    for found in (0., 1., 0.):
        set_grads(ps)
        opt.grad_scale, opt.found_inf = torch.tensor(1.), torch.tensor(found)
        opt.step()
        assert all(p.grad.any() for p in ps) and '_zeroed' not in {k for k, v in vars(opt).items() if v}
        opt.zero_grad()
        assert not any(p.grad.any() for p in ps)
    del opt.grad_scale, opt.found_inf
    set_grads(ps)
    opt.step()
    assert not any(p.grad.any() for p in ps)


class OpsOfTorch(TorchDispatchMode):
    "Takes down what torch computes of tensors that steppers get as hyper-parameters, as of `-lr`"
    def __init__(self):
        super().__init__()
        self.done = []
    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        out = f(*args, **kwargs or {})
        if f.__name__.split('.')[0] in ('neg', 'mul', 'div', 'add', 'sub', 'rsub', 'pow', 'sqrt', 'reciprocal'): self.done.append((out, f, args))
        return out


class Graph:
    "What `torch.cuda.CUDAGraph` does: takes kernels down, instead of running them, and runs them later with what then lies in memory"
    def __init__(self, monkeypatch): self.m, self.kernels, self.ops = monkeypatch, [], OpsOfTorch()
    def __enter__(self):
        self.ops.__enter__()
        for o in (runner, captures): self.m.setattr(o, 'is_capturing', lambda: True)
        self.m.setattr(Launch, '_run', lambda launch, kernel, count, arguments: self.kernels.append((kernel, count, list(arguments.tensors))))
    def __exit__(self, *args):
        self.m.undo()
        self.ops.__exit__(*args)
    def replay(self):
        for out, f, args in self.ops.done: out.copy_(f(*args))
        for kernel, count, arguments in self.kernels: kernel[(count,)](*arguments, **triton_kernels.OPTIONS)


@pytest.mark.parametrize('make', [oc.Adam, oc.Lamb, oc.NAdam], ids=['Adam', 'Lamb', 'NAdam'])
def test_a_captured_step_is_replayed_with_other_numbers(make, monkeypatch):
    res, lrs = [], [0.01, 0.02, 0.005, 0.03]
    for captured in (False, True):
        ps = params(SIZES)
        opt = make(ps, lr=0.01)
        set_grads(ps, 0)
        for _ in range(3): opt.step()
        graph = Graph(monkeypatch)
        if captured:
            with graph: opt.step()
            assert opt.state[ps[0]]['step'] == 3
        for i, lr in enumerate(lrs):
            opt.set_hyper('lr', lr)
            for p, g in zip(ps, params(SIZES, seed=i)): p.grad.copy_(g)
            if captured:
                opt.before_replay()
                graph.replay()
            else: opt.step()
        opt.set_hyper('wd', 0.3)
        opt.step() # an ordinary one
        res.append([*(p.detach() for p in ps),
                    *(torch.as_tensor(v) for s in opt.state_dict()['state'].values() for v in s.values())])
    assert all(ulps(a, b) == 0 for a, b in zip(*res))


def ready(make, **options):
    "Parameters, and an optimizer that has taken some steps"
    ps = params(SIZES)
    opt = make(ps, lr=0.01, **options)
    set_grads(ps, 0)
    for _ in range(3): opt.step()
    return ps, opt

def captured(opt, monkeypatch):
    with (graph := Graph(monkeypatch)): opt.step()
    return graph

def all_of(ps, opt): return [t.detach().clone() for t in [*ps, *(v for s in opt.state.values() for v in s.values() if isinstance(v, torch.Tensor))]]


@pytest.mark.parametrize('make', [oc.Adam, oc.Lamb, oc.AdamW], ids=['Adam', 'Lamb', 'AdamW'])
def test_a_replay_without_new_numbers_has_those_of_the_capture(make, monkeypatch):
    (ps, opt), (qs, other) = ready(make), ready(make)
    graph = captured(opt, monkeypatch)
    graph.replay()
    other.step()
    assert all(ulps(a, b) == 0 for a, b in zip(ps, qs))

def test_all_graphs_of_an_optimizer_are_served(monkeypatch):
    "Each with the gradients that it has captured, and whatever steps are taken without a graph"
    (ps, opt), (qs, other) = ready(oc.Adam), ready(oc.Adam)
    graphs, grads = [], []
    for i in range(3):
        grads.append([torch.full_like(p, i + 1.) for p in ps])
        for p, q, g in zip(ps, qs, grads[-1]): p.grad, q.grad = g, g.clone()
        graphs.append(captured(opt, monkeypatch))
        opt.before_replay()
        graphs[-1].replay()
        other.step()
    for i, lr in ((2, 0.1), (0, 0.2), (None, 0.3), (1, 0.1), (0, 0.1)):
        for o in (opt, other): o.set_hyper('lr', lr)
        for q, g in zip(qs, grads[i or 0]): q.grad = g.clone()
        other.step()
        if i is None:
            for p, g in zip(ps, grads[0]): p.grad = g.clone()
            opt.step()
        else:
            opt.before_replay()
            graphs[i].replay()
        assert all(ulps(a, b) == 0 for a, b in zip(ps, qs))

FREES = dict(load_state_dict=lambda ps, opt: opt.load_state_dict(opt.state_dict()), clear_state=lambda ps, opt: opt.clear_state(),
             engine=lambda ps, opt: setattr(opt, 'engine', 'fused'))

@pytest.mark.parametrize('make', [oc.SGD, oc.Adam, oc.Lamb, oc.Prodigy, partial(oc.Optimizer, cbs=[numbers])], ids=['SGD', 'Adam', 'Lamb', 'Prodigy', 'numbers'])
@pytest.mark.parametrize('free', FREES.values(), ids=FREES)
def test_what_frees_the_state_of_a_graph_says_so_and_a_replay_changes_nothing(make, free, monkeypatch):
    ps, opt = ready(make)
    graphs = [captured(opt, monkeypatch)]
    opt.step()
    graphs.append(captured(opt, monkeypatch))
    held = all_of(ps, opt) and [v for s in opt.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    with pytest.warns(UserWarning, match='a replay of it changes no parameter'): free(ps, opt)
    before = [t.clone() for t in (*ps, *held)]
    with pytest.raises(RuntimeError, match='no step was captured'): opt.before_replay()
    for graph in graphs: graph.replay()
    assert all(ulps(a, b) == 0 for a, b in zip((*ps, *held), before))
    opt.step()
    opt.step()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        captured(opt, monkeypatch)
        opt.before_replay()

def test_other_parameters_drop_a_graph_at_the_next_step(monkeypatch):
    ps, opt = ready(oc.Adam)
    graph = captured(opt, monkeypatch)
    ps[1].grad = None
    with pytest.warns(UserWarning, match='a replay of it changes no parameter'): opt.step()
    before = all_of(ps, opt)
    graph.replay()
    assert all(ulps(a, b) == 0 for a, b in zip(all_of(ps, opt), before))

@pytest.mark.parametrize('make', [oc.SGD, oc.AdamW, oc.Lamb, oc.NAdam, oc.Adan, oc.Lion], ids=lambda o: o.__name__)
def test_a_capturable_step_is_replayed_with_no_call_of_ours(make, monkeypatch):
    "Its learning rate is changed where it lies"
    res = []
    for with_graph in (False, True):
        ps = params(SIZES)
        opt = make(ps, lr=torch.tensor(0.01), capturable=True)
        set_grads(ps, 0)
        for _ in range(3): opt.step()
        graph = captured(opt, monkeypatch) if with_graph else None
        for i in range(5):
            opt.param_groups[0]['lr'].fill_(0.01/(i + 1))
            for p, g in zip(ps, params(SIZES, seed=i)): p.grad.copy_(g)
            graph.replay() if with_graph else opt.step()
        assert all(float(s.get('step', 8)) == 8 for s in opt.state.values())
        res.append(all_of(ps, opt))
    assert all(ulps(a, b) == 0 for a, b in zip(*res))

def test_what_branches_on_the_step_is_not_capturable(monkeypatch):
    with pytest.raises(RuntimeError, match="`radam_step` .* branches on a tensor's value"): ready(oc.RAdam, capturable=True, engine='fused')
    ps = params(SIZES)
    opt = oc.RAdam(ps, lr=0.01, capturable=True, engine='auto')
    set_grads(ps, 0)
    with pytest.warns(UserWarning, match="branches on a tensor's value"):
        for _ in range(3): opt.step()
    with pytest.raises(RuntimeError, match='a part of it is run by the eager engine'): captured(opt, monkeypatch)

def test_what_a_graph_cant_have(monkeypatch):
    ps = params(SIZES)
    opt = oc.RAdam(ps, lr=0.01, sqr_mom=0.9)
    set_grads(ps, 0)
    graph = Graph(monkeypatch)
    with pytest.raises(RuntimeError, match='take some steps before'), graph: opt.step()
    assert not opt.state[ps[0]].get('step')
    with pytest.raises(RuntimeError, match='no step was captured'): opt.before_replay()
    for _ in range(2): opt.step()
    with graph: opt.step()
    with pytest.raises(RuntimeError, match='captured just before'), graph: opt.step()
    with pytest.raises(RuntimeError, match='another branch'):
        for _ in range(9): opt.before_replay() # rectified from a certain step on
    steps = opt.state[ps[0]]['step']
    opt.step()
    assert opt.state[ps[0]]['step'] == steps + 1

def test_a_graph_cant_have_other_parameters_than_the_one_before(monkeypatch):
    "Nothing can be disarmed while a graph captures"
    ps, opt = ready(oc.Adam)
    captured(opt, monkeypatch)
    ps[0].grad = None
    with pytest.raises(RuntimeError, match='have changed: take some steps'): captured(opt, monkeypatch)
    with pytest.warns(UserWarning, match='a replay of it changes no parameter'): opt.step()
    captured(opt, monkeypatch)
