"Sparse gradients: a composition runs on the rows that have one."
from functools import partial

import pytest
import torch
import torch.optim as to
from hypothesis import given, settings
from hypothesis import strategies as st
from on_engines import ulps
from torch import nn

import optimcb as oc
from optimcb import (
    Optimizer,
    apply_update,
    average_grad,
    average_sqr_grad,
    by_torch,
    debias_grad_avg,
    rms_update,
    step_stat,
)

ENGINES = ('eager', 'auto')


def sparse_grad(shape, i, rows=3, dims=1, dtype=torch.float64, doubled=True):
    "Some rows, one of them twice"
    r = torch.Generator().manual_seed(i)
    at = torch.stack([torch.randint(n, (rows,), generator=r) for n in shape[:dims]])
    if doubled and rows > 1: at[:, -1] = at[:, 0]
    values = torch.randn(rows, *shape[dims:], generator=r, dtype=torch.float64).to(dtype)
    return torch.sparse_coo_tensor(at, values, shape, check_invariants=True)


def start(shape, dtype=torch.float64):
    r = torch.Generator().manual_seed(7)
    return nn.Parameter(torch.randn(shape, generator=r, dtype=torch.float64).to(dtype))


def train(make, shape=(9, 4), steps=12, **kw):
    p = start(shape, kw.get('dtype', torch.float64))
    opt = make([p], lr=0.01)
    for i in range(steps):
        p.grad = sparse_grad(shape, i, **kw)
        opt.step()
    return opt, p


def after_eps(p, update, step, sqr_mom): return {'update': update * (1 - sqr_mom**step)**0.5}


# SparseAdam adds eps to the root before it corrects its bias, Adam after that
SPARSE_ADAM = [partial(average_grad, dampening=True), average_sqr_grad, step_stat, debias_grad_avg,
               rms_update, after_eps, apply_update]
sparse_adam = partial(Optimizer, cbs=SPARSE_ADAM, sqr_mom=0.999, eps=1e-8)


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('ours, theirs', [
    (sparse_adam, to.SparseAdam),
    (partial(sparse_adam, mom=0.5, sqr_mom=0.9, eps=0.1), partial(to.SparseAdam, betas=(0.5, 0.9), eps=0.1)),
    (oc.SGD, to.SGD),
    (oc.Adagrad, to.Adagrad),
    (partial(oc.Adagrad, lr_decay=0.1, init_sum=0.5, eps=0.1), partial(to.Adagrad, lr_decay=0.1, initial_accumulator_value=0.5, eps=0.1)),
], ids=['SparseAdam', 'SparseAdam, options', 'SGD', 'Adagrad', 'Adagrad, options'])
def test_as_torchs(ours, theirs, engine):
    torch.set_default_dtype(torch.float64)
    try: _, want = train(theirs)
    finally: torch.set_default_dtype(torch.float32)
    _, got = train(partial(ours, engine=engine))
    assert torch.allclose(got, want, rtol=1e-12, atol=1e-12)


def test_adam_is_sparse_adam_but_for_eps():
    torch.set_default_dtype(torch.float64)
    try: _, want = train(to.SparseAdam)
    finally: torch.set_default_dtype(torch.float32)
    assert torch.allclose(train(partial(oc.AdamW, wd=0.))[1], want, rtol=1e-6, atol=1e-6)


BY_ROWS = [
    partial(oc.SGD, mom=0.9, wd=0.1),
    partial(oc.SGD, mom=0.9, dampening=True),
    partial(oc.RMSProp, wd=0.1),
    partial(oc.RMSProp, mom=0.9, centered=True),
    oc.Adadelta,
    partial(oc.Larc, wd=0.1),
]


@settings(max_examples=30, deadline=None)
@given(algo=st.sampled_from(BY_ROWS), shape=st.sampled_from([(5, 3), (4, 2, 3), (6,), (1, 1)]),
       rows=st.integers(0, 6), dims=st.integers(1, 2),
       dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
def test_rows_as_parameters_of_their_own(algo, shape, rows, dims, dtype):
    "To the bit, where nothing counts steps and no norm goes over rows"
    if dims > len(shape) or algo.func is oc.Larc and rows > 1: return
    opt, p = train(algo, shape, rows=rows, dims=dims, dtype=dtype, doubled=False)
    places = torch.cartesian_prod(*map(torch.arange, shape[:dims])).view(-1, dims).tolist()
    alone = {at: nn.Parameter(start(shape, dtype).detach()[at].clone()) for at in map(tuple, places)}
    other = algo(list(alone.values()), lr=0.01, engine='eager')
    for i in range(12):
        grad = sparse_grad(shape, i, rows=rows, dims=dims, dtype=dtype, doubled=False).coalesce()
        for q in alone.values(): q.grad = None
        for at, g in zip(grad.indices().T.tolist(), grad.values()): alone[tuple(at)].grad = g.clone()
        other.step()
    for at, q in alone.items(): assert ulps(p[at], q) <= 2, (at, p[at], q)


def test_other_rows_are_not_looked_at():
    "Nor does their state change; state has the parameter's shape"
    p = start((9, 4), torch.float32)
    p.data[0] = float('nan')
    opt = oc.Yogi([p], lr=0.1, wd=0.1)
    before, p.grad = p.detach().clone(), torch.sparse_coo_tensor([[2, 5]], torch.ones(2, 4), (9, 4))
    opt.step()
    touched, others = [2, 5], [0, 1, 3, 4, 6, 7, 8]
    assert ulps(p[others], before[others]) == 0 and (p[touched] != before[touched]).all()
    state = opt.state[p]
    assert state['step'] == 1 and state['sqr_avg'].shape == p.shape and p.grad.is_sparse
    assert not state['grad_avg'][[0, 1, 3, 4, 6, 7, 8]].any() and state['grad_avg'][2].all()


def test_state_starts_from_what_the_steppers_start_it_from():
    p = start((4, 2))
    opt = oc.Adagrad([p], lr=0.1, init_sum=0.5)
    p.grad = torch.sparse_coo_tensor([[1]], torch.ones(1, 2, dtype=torch.float64), (4, 2))
    opt.step()
    name = next(k for k, v in opt.state[p].items() if isinstance(v, torch.Tensor))
    assert opt.state[p][name].tolist() == [[0.5, 0.5], [1.5, 1.5], [0.5, 0.5], [0.5, 0.5]]


def test_sparse_now_and_then():
    "A dense gradient goes on from the same state"
    ps = [start((5, 3)) for _ in ENGINES]
    for p, engine in zip(ps, ENGINES):
        opt = oc.Adam([p, nn.Parameter(torch.ones(2, dtype=torch.float64))], lr=0.1, engine=engine)
        for i in range(8):
            grad = sparse_grad((5, 3), i)
            p.grad = grad.to_dense() if i % 3 == 1 else grad
            opt.step()
    assert torch.allclose(*ps, rtol=1e-13)
    assert opt.state[p]['step'] == 8


def test_an_embedding_in_a_model_with_a_norm_over_all_and_a_scaler():
    "As its own dense gradients where all rows are touched"
    def clip(p, max_norm=0.1):
        total = yield p.grad.pow(2).sum()
        p.grad = p.grad * (max_norm / total.sqrt()).clamp(max=1)
    res = []
    for sparse in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(6, 4, sparse=sparse), nn.Linear(4, 1)).double()
        opt = Optimizer(model.parameters(), [clip, *oc.AdamW.cbs], lr=0.1, **oc.AdamW.hypers)
        scaler = torch.amp.GradScaler('cpu', init_scale=8.)
        for _ in range(5):
            scaler.scale(model(torch.arange(6)).pow(2).sum()).backward()
            scaler.step(opt)
            scaler.update()
            opt.zero_grad(set_to_none=sparse)
        res.append([p.detach() for p in model.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(*res))


def test_complex_rows():
    res = []
    for sparse in (True, False):
        p = nn.Parameter(torch.ones(3, 2, dtype=torch.complex128))
        opt = oc.Adam([p], lr=0.1)
        for i in range(4):
            grad = torch.randn(3, 2, dtype=torch.complex128, generator=torch.Generator().manual_seed(i))
            p.grad = grad.to_sparse(1) if sparse else grad
            opt.step()
        res.append(p.detach())
    assert torch.allclose(*res, rtol=1e-12)


def test_resuming_goes_on_bit_for_bit():
    opt, p = train(oc.Adam)
    q = nn.Parameter(p.detach().clone())
    other = oc.Adam([q], lr=5.)
    other.load_state_dict(opt.state_dict())
    for i in range(5):
        for o, r in ((opt, p), (other, q)):
            r.grad = sparse_grad((9, 4), 100 + i)
            o.step()
    assert torch.equal(p, q)


def test_an_error_leaves_all_as_it_was():
    def fails(p): raise ZeroDivisionError
    p = start((9, 4))
    before, p.grad = p.detach().clone(), sparse_grad((9, 4), 0)
    opt = Optimizer([p], [oc.average_grad, oc.momentum_step, fails], lr=0.1, check=False)
    with pytest.raises(ZeroDivisionError): opt.step()
    assert torch.equal(p, before) and not opt.state[p] and p.grad.is_sparse


@pytest.mark.parametrize('engine', ENGINES)
def test_state_that_starts_from_the_parameter(engine):
    "Slow weights and averages of weights, of rows that no gradient has touched, too"
    def mean(p, ema=None): return {'ema': p.data.clone() if ema is None else 0.9*ema + 0.1*p.data}
    p = start((4, 2))
    opt = oc.Lookahead(Optimizer([p], [oc.sgd_step, mean], lr=0., engine=engine), k=2)
    before = p.detach().clone()
    for at in ([0], [0, 1], [1, 2]):
        p.grad = torch.sparse_coo_tensor([at], torch.ones(len(at), 2, dtype=torch.float64), (4, 2))
        opt.step()
    state = opt.state[p]
    assert torch.equal(p, before) and torch.equal(state['slow_avg'], before)
    assert torch.allclose(state['ema'], before, rtol=1e-14)


def test_a_number_of_the_shape_of_the_rows_is_no_row():
    "Where it was there before"
    p = start((4,))
    opt = Optimizer([p], [lambda p, lr, seen=None: p.data.add_(p.grad, alpha=-lr)], lr=0.1)
    opt.state[p]['seen'] = torch.ones(1)
    p.grad = torch.sparse_coo_tensor([[2]], torch.ones(1, dtype=torch.float64), (4,))
    opt.step()
    assert opt.state[p]['seen'].tolist() == [1]


@pytest.mark.parametrize('engine', ENGINES)
def test_complex_parameters_that_get_other_memory_and_conjugate_gradients(engine):
    def assigned(p, lr): p.data = p.data - lr*p.grad
    p = nn.Parameter(torch.ones(3, dtype=torch.complex128))
    opt = Optimizer([p], assigned, lr=0.5, engine=engine)
    p.grad = torch.full((3,), 1 + 1j, dtype=torch.complex128).conj()
    opt.step()
    assert p.tolist() == [0.5 + 0.5j]*3


@by_torch
def row_means(x): return x.mean(-1, keepdim=True)


def of_rows(p, lr, row_avg=None):
    "A stepper of one's own, with state that has no rows like the parameter"
    new = row_means(p.grad.data)
    row_avg = new if row_avg is None else 0.5*row_avg + 0.5*new
    p.data.sub_(p.grad - row_avg, alpha=lr)
    return {'row_avg': row_avg}


WHOLE = {
    'Adafactor': oc.Adafactor,
    'Shampoo': oc.Shampoo,
    'SOAP': oc.SOAP,
    'SM3': oc.SM3,
    'Muon': partial(oc.Muon, exact=True),
    'own': partial(Optimizer, cbs=of_rows),
}


def alike(v, w):
    return torch.allclose(v, w, rtol=1e-9, atol=1e-11) if isinstance(v, torch.Tensor) else v == w


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('shape, rows', [((9, 4), 3), ((9, 4), 0), ((4, 2, 3), 2), ((6,), 1), ((5, 1), 1)], ids=str)
@pytest.mark.parametrize('name', WHOLE)
def test_rules_of_whole_matrices_have_the_dense_gradient(name, shape, rows, engine):
    "And step all rows, as with `sparse=False`; what kernels step beside them is stepped, too"
    if name == 'own' and (len(shape) == 1 or shape[1] == 1): return # its state has rows then
    ends = []
    for sparse in (True, False):
        p, q = start(shape), start((3, 3))
        opt = WHOLE[name]([p, q], lr=0.01, engine=engine)
        for i in range(5):
            grad = sparse_grad(shape, i, rows=rows)
            p.grad = grad if sparse else grad.to_dense()
            q.grad = torch.ones(3, 3, dtype=torch.float64) * (i+1)
            opt.step()
            assert p.grad.is_sparse == sparse
        ends.append((p.detach(), q.detach(), opt.state[p]))
    (p, q, s), (p_, q_, t) = ends
    assert torch.allclose(p, p_, rtol=1e-11, atol=1e-13) and torch.allclose(q, q_, rtol=1e-11)
    assert s.keys() == t.keys() and all(alike(v, t[k]) for k, v in s.items())


def test_of_a_route_without_them_the_rows_are_stepped():
    p, q = start((9, 4)), start((3, 3))
    opt = oc.route(hidden=(oc.Muon, oc.by_shape(lambda s: s == (3, 3))), rest=oc.AdamW)([p, q], lr=0.1)
    before = p.detach().clone()
    p.grad = torch.sparse_coo_tensor([[2, 5]], torch.ones(2, 4, dtype=torch.float64), (9, 4))
    q.grad = torch.eye(3, dtype=torch.float64)
    opt.step()
    assert [i for i in range(9) if not torch.equal(p[i], before[i])] == [2, 5]
    assert q.grad is not None and opt.state[q]


def test_a_stepper_that_draws_is_called_again_with_the_same_numbers():
    "Where it turns out that state has no rows"
    def draws(p, lr, total=None):
        p.data.sub_(lr*torch.rand(()))
        return {'total': torch.ones(2)}
    p = start((9, 4))
    opt, before = Optimizer([p], draws, lr=1., engine='eager', check=False), p.detach().clone()
    p.grad = sparse_grad((9, 4), 0)
    torch.manual_seed(3)
    opt.step()
    after = torch.rand(())
    torch.manual_seed(3)
    assert torch.allclose(before - p, torch.rand(()).double().expand(9, 4)) and torch.rand(()) == after
