"Gradients that are zeroed, by `zero_grad` and by the step itself: the zeros and the weights that a plain loop gives."
import copy
import gc
import pickle
import weakref
from functools import partial

import pytest
import torch
from cases import CASES
from helpers import params, set_grads
from hypothesis import given, settings
from hypothesis import strategies as st

import optimcb as oc
from optimcb import Optimizer, sgd_step
from optimcb.engines import zeroing

ENGINES = 'eager', 'foreach', 'fused'


def grads_of(opt): return [p.grad for g in opt.param_groups for p in g['params'] if p.grad is not None]
def add_grads(ps, i, skip=()):
    "As `backward` does: into the gradients that are there"
    fresh = [torch.nn.Parameter(p.detach()) for p in ps]
    set_grads(fresh, i)
    for k, (p, q) in enumerate(zip(ps, fresh)):
        if k in skip: continue
        if p.grad is None: p.grad = q.grad.clone()
        else:
            with torch.no_grad(): p.grad.add_(q.grad)


@pytest.fixture
def zeroed(monkeypatch):
    "Gradients that list calls have zeroed"
    found = []
    real = torch._foreach_zero_
    def noted(grads):
        found.extend(grads)
        return real(grads)
    monkeypatch.setattr(torch, '_foreach_zero_', noted)
    return found


# `zero_grad`

class Sub(torch.Tensor): "A gradient of a class of its own"


def odd_params():
    "Parameters with gradients of every kind"
    shapes = [(3,), (2, 3), (), (0, 2), (4, 2), (3,), (2,), (5,), (6, 2), (2, 2), (3,), (3,)]
    ps = params(shapes)
    set_grads(ps)
    ps[1].grad = torch.randn(3, 2).t()
    ps[4].grad = torch.sparse_coo_tensor([[1, 3, 1]], torch.ones(3, 2), (4, 2))
    ps[5].data, ps[5].grad = ps[5].data.to(torch.complex64), torch.randn(3, dtype=torch.complex64).conj()
    ps[6].grad = (torch.ones(2, requires_grad=True)*2).requires_grad_() # in a graph
    ps[7].grad = torch.randn(5, requires_grad=True)
    ps[8].grad = torch.randn(6, 4)[:, ::2]
    ps[9].data, ps[9].grad = ps[9].data.double(), torch.randn(2, 2, dtype=torch.float64)
    ps[10].grad = torch.ones(3).as_subclass(Sub)
    ps[11].grad = ps[0].grad # shared
    ps[3].grad = None
    ps[0].requires_grad_(False)
    return ps

def test_zero_grad_as_fastais_and_torchs():
    fo = pytest.importorskip('fastai.optimizer')
    def after(make, views=True):
        torch.manual_seed(0)
        ps = [p for p in odd_params() if views or p.grad is None or not p.grad._is_view()] # which fastai can't detach
        before = [p.grad for p in ps]
        make(ps).zero_grad()
        assert all(p.grad is g for p, g in zip(ps, before))
        return [g if g is None else (type(g), g.layout, g.requires_grad, g.grad_fn,
                                     g.to_dense().abs().sum().item(), g._version) for g in before]
    ours = after(lambda ps: Optimizer(ps, sgd_step, lr=0.1))
    def torchs(ps):
        opt = torch.optim.SGD(ps, lr=0.1)
        opt.zero_grad = partial(opt.zero_grad, set_to_none=False)
        return opt
    assert [g and g[:-1] for g in ours] == [g and g[:-1] for g in after(torchs)]
    ours, theirs = (after(make, views=False)
                    for make in (lambda ps: Optimizer(ps, sgd_step, lr=0.1), lambda ps: fo.SGD(ps, lr=0.1)))
    assert [g and g[:-1] for g in ours] == [g and g[:-1] for g in theirs] and len(ours) > 6
    assert all(g is None or g[4] == 0 and g[-1] > 0 for g in ours)

def test_zero_grad_is_one_call_for_each_type(monkeypatch):
    calls = []
    real = torch._foreach_zero_
    monkeypatch.setattr(torch, '_foreach_zero_', lambda gs: calls.append(len(gs)) or real(gs))
    ps = params([(3,)]*5) + params([(2,)]*2, dtype=torch.float64)
    set_grads(ps)
    opt = Optimizer([ps[:3], ps[3:]], sgd_step, lr=0.1)
    opt.zero_grad()
    assert sorted(calls) == [2, 5] and all(not p.grad.any() for p in ps)
    opt.zero_grad(set_to_none=True)
    opt.zero_grad()
    assert sorted(calls) == [2, 5] and all(p.grad is None for p in ps)

def test_an_expanded_gradient_is_left_to_zero_grad():
    p = torch.nn.Parameter(torch.ones(3))
    opt = Optimizer([p], sgd_step, lr=0.1, zero_in_step=True)
    p.grad = torch.ones(1).expand(3)
    opt.step()
    assert p.grad.all() and torch.equal(p, torch.full((3,), 0.9))
    opt.zero_grad()
    assert not p.grad.any()

def test_numbers_among_parameters(): Optimizer([1., torch.nn.Parameter(torch.ones(2))], sgd_step, lr=0.1).zero_grad()


# In the step

def race(make, grads=add_grads, ps=params, steps=6, before=lambda opt, i: None, compare=torch.equal):
    "The same loop with and without the option: zeros after `zero_grad`, the same weights and state. Returns the optimizer with it"
    a, b = ps(), ps()
    opt, other = make(a), make(b)
    opt.zero_in_step = True
    for i in range(steps):
        for o, qs in ((opt, a), (other, b)):
            before(o, i)
            grads(qs, i)
            o.step()
            o.zero_grad()
            assert not any(g.to_dense().any() for g in grads_of(o))
    assert all(compare(p, q) for p, q in zip(a, b, strict=True))
    for p, q in zip(a, b):
        s, t = opt.state[p], other.state[q]
        assert s.keys() == t.keys()
        assert all(compare(s[k], t[k]) if isinstance(s[k], torch.Tensor) else s[k] == t[k] for k in s)
    return opt

@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('name,recipe', [o[:2] for o in CASES], ids=[o[0] for o in CASES])
def test_the_bits_of_every_algorithm(name, recipe, engine):
    def make(ps):
        opt = recipe(ps, lr=0.01)
        opt.engine = engine
        return opt
    race(make, lambda ps, i: add_grads(ps, i, skip=(1,) if i < 2 else ()))

@pytest.mark.parametrize('name', ['Muon', 'Shampoo', 'Adafactor', 'Lamb', 'Prodigy', 'ScheduleFreeAdamW', 'MARS', 'Rprop', 'SM3'])
@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16, torch.float16])
def test_rules_with_sums_functions_and_old_gradients(name, dtype):
    race(lambda ps: getattr(oc, name)(ps, lr=0.01), ps=partial(params, dtype=dtype))

def test_kernels_zero_what_they_read(zeroed):
    ps = params()
    opt = oc.AdamW(ps, lr=0.1, zero_in_step=True)
    for i in range(3):
        add_grads(ps, i)
        versions = [p.grad._version for p in ps]
        opt.step()
        assert not any(p.grad.any() for p in ps) and [p.grad._version for p in ps] == [v + 1 for v in versions]
        opt.zero_grad()
        assert [p.grad._version for p in ps] == [v + 1 for v in versions]
    assert not zeroed

@pytest.mark.parametrize('engine', ['eager', 'foreach'])
def test_other_engines_zero_by_a_list_call(engine, zeroed):
    ps = params()
    opt = oc.AdamW(ps, lr=0.1, zero_in_step=True, engine=engine)
    add_grads(ps, 0)
    opt.step()
    assert len(zeroed) == len(ps) and not any(p.grad.any() for p in ps)
    opt.zero_grad()
    assert len(zeroed) == len(ps)


@pytest.mark.parametrize('change', [
    lambda p: p.grad.add_(1), lambda p: setattr(p, 'grad', torch.ones_like(p)), lambda p: p.grad.fill_(float('nan')),
    lambda p: (p*2).sum().backward(), lambda p: p.grad.view(-1)[:1].add_(1), lambda p: p.grad.detach().add_(1)])
@pytest.mark.parametrize('engine', ENGINES)
def test_what_changes_after_the_step_is_zeroed(change, engine):
    ps = params()
    opt = oc.AdamW(ps, lr=0.1, zero_in_step=True, engine=engine)
    for i in range(3):
        add_grads(ps, i)
        opt.step()
        with torch.no_grad() if i < 2 else torch.enable_grad():
            if i < 2: ps[1].grad.add_(1)
            else: change(ps[1])
        assert ps[1].grad.any()
        opt.zero_grad()
        assert not any(p.grad.any() for p in ps)

def test_a_second_zero_grad_zeroes_all(zeroed):
    ps = params()
    opt = oc.AdamW(ps, lr=0.1, zero_in_step=True)
    add_grads(ps, 0)
    opt.step()
    opt.zero_grad()
    for p in ps: p.grad.data.fill_(1.) # a CUDA graph would write like that
    opt.zero_grad()
    assert len(zeroed) == len(ps) and not any(p.grad.any() for p in ps)

def test_no_gradient_is_kept_alive():
    ps = params()
    opt = oc.AdamW(ps, lr=0.1, zero_in_step=True)
    add_grads(ps, 0)
    refs = [weakref.ref(p.grad) for p in ps]
    opt.step()
    for p in ps: p.grad = None
    gc.collect()
    assert not any(r() is not None for r in refs)
    add_grads(ps, 1)
    opt.zero_grad()
    assert not any(p.grad.any() for p in ps)

def test_gradients_that_only_torch_holds_are_known_again(zeroed):
    ps = params()
    opt = oc.AdamW(ps, lr=0.1, zero_in_step=True)
    for i in range(4):
        sum((p*(i+1)).sum() for p in ps).backward()
        opt.step()
        gc.collect()
        opt.zero_grad()
    assert not zeroed

@given(st.lists(st.sampled_from(['step', 'zero', 'none', 'backward', 'add', 'new', 'freeze', 'thaw', 'off', 'on']), max_size=14), st.sampled_from(ENGINES))
@settings(max_examples=60, deadline=None)
def test_any_order_of_calls(calls, engine):
    "Whatever is called in whatever order, with a `zero_grad` after each step"
    sets = params(), params()
    opts = [oc.AdamW(ps, lr=0.1, zero_in_step=on, engine=engine) for ps, on in zip(sets, (True, False))]
    for i, c in enumerate(calls):
        for ps, opt, on in zip(sets, opts, (True, False)):
            if c == 'step':
                opt.step()
                opt.zero_grad()
                assert not any(g.any() for g in grads_of(opt))
            elif c == 'zero': opt.zero_grad()
            elif c == 'none': opt.zero_grad(set_to_none=True)
            elif c == 'backward':
                sum((p*(i+1)).sum() for p in ps if p.requires_grad).backward() if any(p.requires_grad
                                                                                      for p in ps) else None
            elif c == 'add': add_grads(ps, i)
            elif c == 'new': set_grads(ps, i, skip=(i % 4,))
            elif c in ('freeze', 'thaw'): ps[1].requires_grad_(c == 'thaw')
            elif on: opt.zero_in_step = c == 'on'
        for p, q in zip(*sets):
            assert torch.equal(p, q) and (p.grad is None) == (q.grad is None) and (p.grad is None or torch.equal(p.grad, q.grad))


# What is left to `zero_grad`

@pytest.mark.parametrize('engine', ['foreach', 'fused'])
@pytest.mark.parametrize('kind', ['same', 'overlap', 'flat', 'transposed', 'gaps', 'parameter', 'state', 'requires', 'sparse', 'complex', 'subclass', 'frozen'])
def test_gradients_of_every_kind(kind, engine):
    def make_ps():
        torch.manual_seed(0)
        dtype = torch.complex64 if kind == 'complex' else torch.float32
        return [torch.nn.Parameter(torch.randn(s, dtype=dtype)) for s in ((4, 4), (4, 4), (3,))]
    def grads(ps, i):
        torch.manual_seed(i)
        a, b, c = (torch.randn(p.shape, dtype=p.dtype) for p in ps)
        flat = torch.randn(40)
        if kind == 'same': b = a
        if kind == 'overlap': a, b = flat[:16].view(4, 4), flat[8:24].view(4, 4)
        if kind == 'flat': a, b = flat[:16].view(4, 4), flat[16:32].view(4, 4)
        if kind == 'transposed': b = a.t()
        if kind == 'gaps': b = torch.randn(4, 8)[:, ::2]
        if kind == 'requires': b.requires_grad_()
        if kind == 'sparse': b = b.to_sparse()
        if kind == 'subclass': b = b.as_subclass(Sub)
        for p, g in zip(ps, (a, b, c)): p.grad = g
        if kind == 'frozen': ps[0].requires_grad_(i < 2)
    if kind in ('complex', 'sparse') and engine == 'fused': engine = 'auto'
    if kind == 'parameter':
        def grads(ps, i):
            for p in ps: p.grad = torch.ones_like(p)
            ps[1].grad = ps[1].detach()
    if kind == 'state':
        def grads(ps, i):
            for p in ps: p.grad = torch.ones_like(p)
            if (s := next(o for o in made if o.param_groups[0]['params'][0] is ps[0]).state[ps[1]]):
                ps[1].grad = s['grad_avg']
    made = []
    def make(ps):
        made.append(oc.AdamW(ps, lr=0.01, engine='auto' if engine == 'fused'
                             or kind in ('complex', 'sparse') else engine))
        return made[-1]
    race(make, grads, ps=make_ps, steps=4)

@pytest.mark.parametrize('engine', ENGINES)
def test_a_step_that_is_skipped(engine):
    ps = params()
    opt, scaler = oc.AdamW(ps, lr=0.1, zero_in_step=True, engine=engine), torch.amp.GradScaler('cpu', init_scale=4.)
    def grads(bad):
        scaler.scale(sum((p*(float('inf') if bad else 1.)).sum() for p in ps)).backward()
    for bad in (False, True, False):
        grads(bad)
        scaler.step(opt)
        assert all(p.grad.any() for p in ps) if bad else not any(p.grad.any() for p in ps)
        scaler.update()
        opt.zero_grad()
        assert not any(p.grad.any() for p in ps)
    assert opt.state[ps[0]]['step'] == 2
    nonfinite = Optimizer(ps, oc.wrapped(oc.AdamW.cbs, oc.parts.skip_nonfinite), lr=0.1, wd=0., mom=0.9,
                          sqr_mom=0.99, eps=1e-8, zero_in_step=True, engine=engine)
    ps[0].grad[0, 0] = float('nan')
    nonfinite.step()
    assert ps[0].grad.isnan().any()

@pytest.mark.parametrize('engine', ENGINES)
def test_accumulating_steps(engine):
    race(lambda ps: Optimizer(ps, oc.wrapped(list(oc.AdamW.cbs), oc.parts.accumulate), lr=0.1, accum=3,
                              engine=engine, wd=0.1, mom=0.9, sqr_mom=0.99, eps=1e-8), steps=7)

def test_closures():
    runs = []
    for on in (True, False):
        ps = params()
        opt = oc.AdamW(ps, lr=0.1, zero_in_step=on)
        def closure(opt=opt, ps=ps):
            opt.zero_grad()
            loss = sum(p.square().sum() for p in ps)
            loss.backward()
            return loss
        runs.append([opt.step(closure).item() for _ in range(4)])
    assert runs[0] == runs[1]

@pytest.mark.parametrize('closure', [True, False])
def test_sam(closure):
    def train(on):
        ps = params()
        opt = oc.SAM(oc.AdamW(ps, lr=0.1, zero_in_step=on))
        def loss():
            opt.zero_grad()
            res = sum(p.square().sum() for p in ps)
            res.backward()
            return res
        for _ in range(4):
            if closure: opt.step(loss)
            else:
                loss()
                opt.ascend()
                loss()
                opt.step()
            opt.zero_grad()
            assert not any(p.grad.any() for p in ps)
        return ps
    assert all(map(torch.equal, train(True), train(False)))

def test_steps_in_backward_drop_gradients():
    def train(on):
        ps = params()
        opt = oc.AdamW(ps, lr=0.1, zero_in_step=on)
        with oc.step_in_backward(opt):
            for i in range(4):
                sum(p.square().sum() for p in ps).backward()
                assert all(p.grad is None for p in ps)
                set_grads(ps, i)
                opt.step()
                opt.zero_grad()
                assert not any(p.grad.any() for p in ps)
                for p in ps: p.grad = None
        return ps
    assert all(map(torch.equal, train(True), train(False)))

def test_estimates_of_the_hessian_need_gradients():
    ps = params()
    opt = oc.Sophia(ps, lr=0.1, zero_in_step=True)
    add_grads(ps, 0)
    oc.update_hessian(opt)
    opt.step()
    with pytest.raises(ValueError, match='has zeroed the gradients'): oc.update_hessian(opt)
    add_grads(ps, 1)
    oc.update_hessian(opt)

def test_taps_see_gradients():
    ps = params()
    opt = oc.AdamW(ps, lr=0.1, zero_in_step=True)
    opt.insert(oc.tap(size=oc.taps.norm('grad')), before=0)
    record = oc.Record(opt)
    for i in range(3):
        add_grads(ps, i)
        norms = [p.grad.norm().item() for p in ps]
        opt.step()
        opt.zero_grad()
        assert record['size'][-1] == pytest.approx(norms)


# Who says it

@pytest.mark.parametrize('way', [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=['deepcopy', 'pickle'])
def test_copies_have_the_option_and_no_notes(way):
    ps = params()
    opt = oc.AdamW(ps, lr=0.1, zero_in_step=True)
    add_grads(ps, 0)
    opt.step()
    other = way(opt)
    assert other.zero_in_step and '_zeroed' not in vars(other)
    other.zero_grad()
    assert not oc.AdamW(params(), lr=0.1).zero_in_step

def test_a_state_dict_leaves_it_as_it_is():
    opt, other = oc.AdamW(params(), lr=0.1, zero_in_step=True), oc.AdamW(params(), lr=0.1)
    assert opt.state_dict() == other.state_dict()
    opt.load_state_dict(other.state_dict())
    other.load_state_dict(opt.state_dict())
    assert opt.zero_in_step and not other.zero_in_step

def test_ways_to_ask_for_it():
    ps = params()
    for opt in (partial(oc.AdamW, zero_in_step=True)(ps, lr=0.1), oc.AdamW(zero_in_step=True)(ps, lr=0.1), oc.create_optimizer('adamw', ps, lr=0.1, zero_in_step=True),
                Optimizer(ps, sgd_step, lr=0.1, zero_in_step=True), oc.Lookahead(oc.AdamW(ps, lr=0.1, zero_in_step=True)), oc.ranger(ps, lr=0.1, zero_in_step=True)):
        assert opt.zero_in_step
        opt.zero_in_step = False
        assert not opt.zero_in_step
        with pytest.raises(TypeError, match='must be True or False'): opt.zero_in_step = 'yes'
    with pytest.raises(TypeError, match='must be True or False'): oc.AdamW(ps, lr=0.1, zero_in_step=None)

def test_explanations_say_it():
    ps = params()
    opt, plain = oc.AdamW(ps, lr=0.1, zero_in_step=True), oc.AdamW(ps, lr=0.1)
    assert 'zero_in_step: a step leaves zeros' in str(opt.explain()) and 'zero_in_step' not in str(plain.explain())
    n = sum(p.numel() for p in ps)
    assert opt.explain().moved_bytes == plain.explain().moved_bytes + 4*n
    assert '= (float)v13' in opt.kernel() and 'tl.full((), 0' in opt.kernel('cuda')

def test_many_parameters_pay_little_for_it():
    "A note of gradients asks no parameter twice"
    ps = params([(2,)]*50)
    set_grads(ps)
    note = zeroing.Zeroed([p.grad for p in ps])
    assert note.others([p.grad for p in ps]) == []
    ps[3].grad.add_(1)
    assert [g is ps[3].grad for g in note.others([p.grad for p in ps])] == [True]
