"""Functions that torch runs between kernels: each engine gives what the eager one gives.

With matrices, state of other shapes, and sums before and after them."""
import copy
import pickle
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from helpers import difference
from on_engines import TRACED

import optimcb as oc
from optimcb import Optimizer
from optimcb.composition.calls import by_torch
from optimcb.engines import runner
from optimcb.engines.runner import CantRun
from optimcb.steppers import (
    apply_update,
    average_grad,
    average_sqr_grad,
    rms_update,
    step_stat,
    trust_ratio,
    weight_decay,
)

engines = pytest.mark.parametrize('engine', TRACED)


# Functions

@by_torch
def by_rows(g): return g - g.mean(1, keepdim=True)


@by_torch
def orthogonal(g, steps, eps=1e-7):
    "By Newton and Schulz"
    x = g.flatten(1)
    x = x/(x.norm() + eps)
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445*x + (-4.775*a + 2.0315*a @ a) @ x
    return x.view_as(g)


@by_torch
def factors(rows, columns, g, sqr_mom):
    "Means of squares over the columns and over the rows"
    sqr = g.flatten(1).square()
    new = sqr.mean(1), sqr.mean(0)
    return new if rows is None else (rows.lerp(new[0], 1 - sqr_mom), columns.lerp(new[1], 1 - sqr_mom))


@by_torch
def unfactored(rows, columns, g): return (rows[:, None]*columns/rows.mean()).view_as(g)


@by_torch
def gram(L, g, mom):
    new = g.flatten(1) @ g.flatten(1).T
    return new if L is None else L*mom + new


@by_torch
def inverse_root(L, power=-0.25):
    w, q = torch.linalg.eigh(L)
    return q*(w.clamp(min=0) + 0.1)**power @ q.T


@by_torch
def times(L, g): return (L @ g.flatten(1)).view_as(g)


@by_torch
def largest(g, scale): return torch.linalg.matrix_norm(g.flatten(1), 2)*scale


# Steppers

def central(p):
    if p.ndim > 1: p.grad = by_rows(p.grad)


def muon(p, grad_avg, steps=5):
    return {'update': orthogonal(grad_avg, steps) if p.ndim > 1 else grad_avg}


def adafactor(p, sqr_mom, eps, rows=None, columns=None):
    if p.ndim < 2: return {'update': p.grad/(p.grad.abs() + eps)}
    rows, columns = factors(rows, columns, p.grad, sqr_mom)
    return {'rows': rows, 'columns': columns, 'update': p.grad/(unfactored(rows, columns, p.grad).sqrt() + eps)}


def shampoo(p, mom, grad_avg, every=3, count=0, L=None, root=None):
    if p.ndim < 2: return {'update': grad_avg, 'count': count + 1}
    L = gram(L, p.grad, mom)
    if count % every == 0: root = inverse_root(L, power=-0.5)
    return {'L': L, 'root': root, 'update': times(root, grad_avg), 'count': count + 1}


def doubled(p, wd): p.grad = p.grad*2 + p.data*wd


def twice(p, between=None):
    "What was worked out from one call is handed to another"
    if p.ndim < 2: return {'update': p.grad}
    u = by_rows(p.grad)*2 + p.grad
    u = by_rows(orthogonal(u, 1)).add_(u.mean(), alpha=0.5)
    return {'update': u, 'between': u.clone()}


def clip(p, top=0.5):
    total = yield p.grad.pow(2).sum()
    p.grad = p.grad*(top/total.sqrt()).clamp(max=1.)


def clip_by_largest(p, top=0.5):
    "A call, a sum over all parameters that have one, and another call"
    size = largest(p.grad, 1.) if p.ndim > 1 else p.grad.abs().amax()
    total = yield size.square()
    if p.ndim > 1: p.grad = by_rows(p.grad*(top/total.sqrt()))


def spectral(p, lr, size=None):
    "Numbers of each parameter are handed over, returned and kept"
    if p.ndim < 2: return None
    size = largest(p.grad, p.grad.abs().amax()) if size is None else size*0.5 + largest(p.grad*2, p.grad.sum())
    p.grad = p.grad/(1 + size)
    return {'size': size}


def two_sums(p, top=0.5):
    "The second sum is ready at once for some, and only after a call for others"
    first = p.grad.pow(2).sum()
    second = largest(p.grad*2, 1.) if p.ndim > 1 else p.grad.abs().sum()
    a = yield first
    b = yield second*a if p.ndim > 2 else second
    p.grad = p.grad*(top/(a + b))


def by_eigenvalues(p, L=None):
    "A function of torch's own, whose results have names"
    if p.ndim < 2: return None
    L = gram(L, p.grad, 0.5)
    p.grad = p.grad/(1 + mean(eigh(L).eigenvalues))
    return {'L': L}


eigh, mean = by_torch(torch.linalg.eigh), by_torch(torch.mean)


def sgd(p, lr): p.data.add_(p.grad, alpha=-lr)


COMPOSITIONS = {
    'central': [weight_decay, central, sgd],
    'muon': [weight_decay, average_grad, muon, trust_ratio, apply_update],
    'adafactor': [doubled, adafactor, apply_update],
    'shampoo': [average_grad, shampoo, apply_update],
    'twice': [doubled, twice, apply_update],
    'clipped': [clip, central, average_grad, muon, apply_update],
    'clip_by_largest': [clip_by_largest, average_grad, step_stat, average_sqr_grad, partial(rms_update), apply_update],
    'spectral': [spectral, sgd],
    'two_sums': [two_sums, central, sgd],
    'by_eigenvalues': [by_eigenvalues, sgd],
}
HYPERS = dict(lr=0.1, mom=0.9, sqr_mom=0.9, eps=1e-3, wd=0.1)
SHAPES = (3, 4), (5,), (4, 4), (2, 3, 2, 2), (), (1, 6)


def some(dtype=torch.float64, shapes=SHAPES, like=None):
    r = torch.Generator().manual_seed(0)
    def drawn(shape):
        x = torch.randn(shape, generator=r, dtype=torch.float64).to(dtype)
        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
    return [torch.nn.Parameter(drawn(s)) for s in shapes]


def set_grads(ps, i):
    "Gradients that come and go, and lie in another way than the parameter at times"
    r = torch.Generator().manual_seed(100 + i)
    for k, p in enumerate(ps):
        g = torch.randn(p.shape, generator=r, dtype=torch.float64).to(p.dtype)
        p.grad = None if k == i % 7 else g


def made(name, engine, ps, **kwargs):
    cbs = COMPOSITIONS[name]
    known = Optimizer([torch.nn.Parameter(torch.zeros(()))], cbs, check=False, lr=0.1).composition.reads
    hypers = {k: v for k, v in HYPERS.items() if k in known or k == 'lr'}
    return Optimizer(ps, cbs, engine=engine, **hypers, **kwargs)


def run(name, engine, dtype=torch.float64, steps=7, **kwargs):
    ps = some(dtype)
    opt = made(name, engine, ps, **kwargs)
    with warnings.catch_warnings():
        if engine != 'eager': warnings.simplefilter('error')
        for i in range(steps):
            set_grads(ps, i)
            opt.step()
    return opt, ps


def assert_alike(a, b, tol):
    (opt, ps), (other, qs) = a, b
    for p, q in zip(ps, qs):
        assert difference([p.detach()], [q.detach()]) <= tol
        s, t = opt.state[p], other.state[q]
        assert s.keys() == t.keys()
        for k, v in t.items():
            if not isinstance(v, torch.Tensor):
                assert s[k] == v and type(s[k]) is type(v), k
                continue
            assert (s[k].dtype, s[k].shape) == (v.dtype, v.shape), k
            assert difference([s[k]], [v]) <= 10*tol, k


@engines
@pytest.mark.parametrize('name', COMPOSITIONS)
def test_every_engine_gives_what_eager_gives(name, engine):
    assert_alike(run(name, engine), run(name, 'eager'), 1e-12)


@engines
@pytest.mark.parametrize('dtype, tol', [(torch.float32, 1e-4), (torch.bfloat16, 0.1)], ids=['float32', 'bfloat16'])
@pytest.mark.parametrize('name', ['adafactor', 'twice'])
def test_other_types(name, dtype, tol, engine):
    assert_alike(run(name, engine, dtype, steps=4), run(name, 'eager', dtype, steps=4), tol)


def test_auto_takes_kernels():
    opt, ps = run('shampoo', 'auto')
    plan = opt._running.plan
    launches = [o for o, _ in next(iter(plan.launches.values()))]
    of_matrices = [o for o in launches if o.members[0][0].example.dim() > 1]
    assert not plan.eager and all(o.program.calls for o in of_matrices)


def test_parameters_of_different_shapes_share_a_launch(monkeypatch):
    ps = some(shapes=[(3, 4), (4, 3), (7, 2), (2, 2, 3)])
    opt = made('muon', 'fused', ps)
    set_grads(ps, 5)
    for _ in range(2): opt.step()
    plan = opt._running.plan
    assert len(plan.buckets) == 4 and [len(o) for o in plan.launches.values()] == [1]


@engines
def test_gradients_that_were_scaled(engine):
    res = []
    for name in (engine, 'eager'):
        opt, ps = run('central', name, steps=3)
        set_grads(ps, 3)
        opt.grad_scale, opt.found_inf = torch.tensor(4.), torch.tensor(0.)
        opt.step()
        res.append((opt, ps))
    assert_alike(*res, 1e-12)


@engines
def test_what_is_memory_is_handed_over_as_it_is(engine):
    seen = {}
    @by_torch
    def look(p, g, avg, sum_):
        if p.device.type != 'meta': seen[p.data_ptr()] = g.data_ptr(), avg.data_ptr(), sum_.shape
        return g*1
    def step(p, lr, avg=None):
        if avg is None: avg = torch.zeros_like(p)
        u = look(p, p.grad, avg, p.grad.sum())
        avg.add_(u)
        p.data.sub_(u, alpha=lr)
        return {'avg': avg}
    ps = some()
    opt = Optimizer(ps, [step], lr=0.1, engine=engine)
    for _ in range(2):
        set_grads(ps, 5)
        opt.step()
    for p in ps:
        if p.grad is None or p.grad.stride() != p.stride(): continue
        assert seen[p.data_ptr()] == (p.grad.data_ptr(), opt.state[p]['avg'].data_ptr(), ())


@engines
def test_sixteen_bits_are_handed_over_as_they_are(engine):
    seen = []
    @by_torch
    def look(g):
        if g.device.type != 'meta': seen.append((g.dtype, g.clone()))
        return g*2
    def step(p, lr): p.data.copy_(look(p.grad + p.data))
    def both(name):
        ps = some(torch.bfloat16)[:3]
        opt = Optimizer(ps, [step], lr=0.1, engine=name)
        set_grads(ps, 5)
        opt.step()
        return ps
    got, want = both(engine), both('eager')
    assert {dtype for dtype, _ in seen} == {torch.bfloat16}
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(seen[:3], seen[3:]))
    assert all(torch.equal(a, b) for a, b in zip(got, want))


@engines
def test_checkpoints_and_copies(engine):
    opt, ps = run('shampoo', engine, steps=4)
    def from_state(qs):
        new = made('shampoo', engine, qs)
        new.load_state_dict(opt.state_dict())
        return new
    both = opt, ps
    others = [copy.deepcopy(both), pickle.loads(pickle.dumps(both))]
    qs = [torch.nn.Parameter(p.detach().clone()) for p in ps]
    others.append((from_state(qs), qs))
    def go_on(o, ps):
        for i in range(4, 8):
            set_grads(ps, i)
            o.step()
    for o in others: go_on(*o)
    go_on(opt, ps)
    for o in others: assert_alike(o, (opt, ps), 0)
    assert_alike((opt, ps), run('shampoo', 'eager', steps=8), 1e-12)


@engines
def test_inside_of_backward(engine):
    def trained(inside):
        torch.manual_seed(0)
        m = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)).double()
        opt = made('shampoo', engine, list(m.parameters()))
        hook = oc.step_in_backward(opt) if inside else None
        for i in range(4):
            m(torch.linspace(-1, 1, 6).double().view(2, 3) + i).square().sum().backward()
            if not inside: opt.step()
            opt.zero_grad(set_to_none=True)
        if hook: # of a matrix, all is done by kernels
            targets = [o for o in hook.targets.values() if any(m.p.dim() > 1 for m in o.members)]
            plans = [o.runner.plan for o in targets]
            assert not any(plan is not None and plan.eager for plan in plans)
        return opt, list(m.parameters())
    assert_alike(trained(True), trained(False), 1e-12)


# What functions may be

@engines
def test_what_is_returned_may_be_what_was_given(engine):
    "It is copied where engines would write into it"
    @by_torch
    def same(x): return x
    @by_torch
    def turned(x): return x.T, x.T
    def keep(p, lr, a=None, b=None, c=None):
        first = same(p)
        b, c = turned(p.grad)
        p.data.add_(same(p.grad), alpha=-lr)
        return {'a': first, 'b': b, 'c': c}
    def trained(engine):
        ps = some(shapes=[(3, 4), (4, 4)])
        opt = Optimizer(ps, [keep], lr=0.1, engine=engine)
        for i in range(3):
            set_grads(ps, i + 2)
            before = [p.detach().clone() for p in ps]
            opt.step()
        return opt, ps, before
    opt, ps, before = trained(engine)
    assert not opt._running.plan or not opt._running.plan.eager
    for p, q in zip(ps, before):
        state = opt.state[p]
        assert torch.equal(state['a'], q) and torch.equal(state['b'], p.grad.T) and torch.equal(p.grad, p.grad)
        assert len({v.untyped_storage().data_ptr() for v in (*state.values(), p, p.grad)}) == 5
    assert all(torch.equal(a, b) for a, b in zip(ps, trained('eager')[1]))


@by_torch(like=lambda x, top: x)
def bounded(x, top):
    while x.norm() > top: x = x/2
    return x


without_like = by_torch(bounded.__wrapped__)
def bound_without(p, top=0.5): p.grad = without_like(p.grad, top)
def bound(p, top=0.5): p.grad = bounded(p.grad, top)


@engines
def test_a_function_that_looks_into_tensors(engine):
    def trained(engine):
        ps = some()
        opt = Optimizer(ps, [bound, sgd], lr=0.1, engine=engine)
        set_grads(ps, 5)
        opt.step()
        return opt, ps
    assert_alike(trained(engine), trained('eager'), 0)
    opt = Optimizer(some(), [bound_without, sgd], lr=0.1, engine=engine)
    set_grads(opt.param_lists[0], 5)
    with pytest.raises(CantRun, match='like='): opt.step()


@engines
def test_a_function_that_surprises(engine):
    "Before anything has changed"
    @by_torch
    def growing(x, step): return x if step < 2 else x.sum()
    @by_torch
    def failing(x, step):
        if x.device.type != 'meta' and x.ndim == 2 and step == 2: raise ArithmeticError('no inverse')
        return x*1
    def counted(f):
        def step(p, lr, count=0):
            p.data.add_(f(p.grad, count), alpha=-lr)
            return {'count': count + 1}
        return step
    expected = [(growing, CantRun, 'differs from the inferred'), (failing, ArithmeticError, 'no inverse')]
    for f, error, message in expected:
        ps = some()
        opt = Optimizer(ps, [counted(f)], lr=0.1, engine=engine)
        set_grads(ps, 5)
        for p in ps: p.grad = torch.ones_like(p)
        for _ in range(2): opt.step()
        before = copy.deepcopy((ps, opt.state_dict()['state']))
        with pytest.raises(error, match=message): opt.step()
        assert all(torch.equal(a, b) for a, b in zip(ps, before[0]))
        assert opt.state_dict()['state'] == before[1]
        if f is failing:
            for p in ps:
                if p.ndim == 2: p.grad = None
            opt.step() # it goes on
    opt = Optimizer(ps, [counted(growing)], lr=0.1)
    with pytest.warns(UserWarning, match='differs from the inferred'):
        for _ in range(3): opt.step()
    assert {s['count'] for s in opt.state.values()} == {3}


@by_torch
def written(x): return x.mul_(2)


@by_torch
def number(x): return 2.


@by_torch
def complex_(x): return x + 1j


@by_torch
def noisy(x): return x + torch.randn_like(x)


WRONG = {
    'writes into a tensor that it is given': lambda p: {'update': written(p.grad)},
    'returns float, no tensor': lambda p: {'update': number(p.grad)},
    'makes a tensor of torch.complex': lambda p: {'update': complex_(p.grad)},
    'another order': lambda p: {'update': noisy(p.grad)},
    "of shape (3, 3), which is not the parameter's": lambda p: {'update': p.grad + gram(None, p.grad, 1.)},
    'decorated with `by_torch`': lambda p: {'update': torch.sqrt(gram(None, p.grad, 1.))},
    'which is not': lambda p: {'update': p.grad.add_(gram(None, p.grad, 1.).mean())},
    'passes list': lambda p: {'update': times([1], p.grad)},
    'of another shape': lambda p, rows=None: {'rows': gram(None, p.grad, 1.) if rows is None else orthogonal(p.grad, 1), 'update': p.grad},
}


@pytest.mark.parametrize('message', WRONG)
def test_what_cant_be_had_is_said(message):
    ps = some(shapes=[(3, 4)])
    opt = Optimizer(ps, [WRONG[message], apply_update], lr=0.1, engine='foreach', check=False)
    set_grads(ps, 5)
    with pytest.raises(CantRun) as e:
        for _ in range(2): opt.step()
    assert message in str(e.value)


def test_where_nothing_can_be_called_between_kernels(monkeypatch):
    opt, ps = run('muon', 'auto')
    opt.step()
    monkeypatch.setattr(runner, 'is_capturing', lambda: True)
    with pytest.raises(CantRun, match='between its kernels'): opt.step()
    monkeypatch.undo()
    monkeypatch.setattr('optimcb.engines.grad_scaling._known', lambda x: x)
    opt.grad_scale, opt.found_inf = torch.tensor(2.), torch.tensor(0.)
    with pytest.warns(UserWarning, match='GradScaler may skip'): opt.step()


# What is told of it

def test_formula_and_kernel():
    opt, _ = run('adafactor', 'fused', steps=2)
    assert 'rows = factors(rows, columns, grad, sqr_mom)[0]' in opt.formula.text
    assert 'unfactored(' in opt.formula.text
    assert r'\operatorname{unfactored}' in opt.formula.latex and '_{1}' in opt.formula.latex
    kernel = opt.kernel()
    assert 'for `factors`' in repr(kernel) and 'from `unfactored`' in repr(kernel)
    text = str(opt.explain())
    assert 'float64 of another shape' in text and 'fused, in C' in text
    assert 'gram(None, grad, mom)' in str(made('shampoo', 'auto', some()).explain())
    tensors = [v for s in opt.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    assert opt.explain().state_bytes == sum(v.nbytes for v in tensors)


def test_state_bytes_are_foreseen():
    ps = some(shapes=[(3, 4), (7, 2), (5,)])
    opt = made('shampoo', 'fused', ps)
    expected = opt.explain().state_bytes
    set_grads(ps, 5)
    opt.step()
    assert expected == opt.explain().state_bytes


def test_steppers_that_ask():
    "Tensors of other shapes say that they are tensors, and of which shape"
    def asks(p, lr, rows=None):
        if not isinstance(p, torch.Tensor): raise TypeError
        rows, _ = factors(rows, None, p.grad, 0.) if rows is None else (rows, None)
        assert isinstance(rows, torch.Tensor) and rows.shape == (len(p),) and rows.ndim == rows.dim() == 1 and rows.numel() == rows.size(0)
        p.data.sub_(p.grad, alpha=lr)
        return {'rows': rows}
    ps = some(shapes=[(3, 4)])
    opt = Optimizer(ps, [asks], lr=0.1, engine='foreach')
    set_grads(ps, 5)
    for _ in range(2): opt.step()
    assert opt.state[ps[0]]['rows'].shape == (3,)


def test_without_stand_ins_it_is_called():
    assert torch.equal(by_rows(torch.ones(2, 2)), torch.zeros(2, 2)) and by_rows.__name__ == 'by_rows'
    assert pickle.loads(pickle.dumps(by_rows)) is by_rows


@pytest.mark.parametrize('kind', [np.float64, partial(torch.tensor, dtype=torch.float64)], ids=['numpy', 'torch'])
@pytest.mark.parametrize('algo', [oc.Muon, oc.Shampoo, oc.SOAP, oc.Adafactor, oc.DAdaptSGD], ids=lambda o: o.__name__)
def test_hyper_parameters_of_numpys_and_torchs_are_handed_over(algo, kind):
    "As schedules set them; NumPy's numbers have a `trace` of their own, and what is asked of them is no number"
    ps, qs = some(), some()
    ours, eager = algo(ps, lr=0.01, engine='fused'), algo(qs, lr=0.01, engine='eager')
    for k, v in dict(ours.hypers[0]).items():
        if isinstance(v, float) and v != float('inf'): ours.set_hyper(k, kind(v))
    for i in range(3):
        for o, x in ((ours, ps), (eager, qs)):
            set_grads(x, i)
            o.step()
    assert difference(ps, qs) < 1e-9
