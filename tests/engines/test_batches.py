"Functions by torch that are called once for parameters of the same shapes: the same numbers, fewer calls, and no more memory than a group needs."
from collections import Counter
from functools import partial

import pytest
import torch
from helpers import difference
from hypothesis import given, settings
from hypothesis import strategies as st
from on_engines import TRACED
from torch.utils._python_dispatch import TorchDispatchMode

import optimcb as oc
from optimcb import Optimizer, by_torch
from optimcb.bench.sets import matrices
from optimcb.bench.timing import extra_memory
from optimcb.engines import batches
from optimcb.engines.runner import CantRun
from optimcb.steppers import muon, precision

engines = pytest.mark.parametrize('engine', TRACED)
NO_WORK = {'empty', 'empty_strided', 'view', '_unsafe_view', 'transpose', 't', 'detach', 'expand', 'diagonal',
           'unbind', 'alias', 'as_strided', 'select'}


@pytest.fixture(params=[False, True], ids=['with bfloat16', 'without bfloat16'])
def slow_bfloat16(request, monkeypatch):
    "A processor of each kind"
    why = "this CPU has no instructions for bfloat16" if request.param else None
    monkeypatch.setattr(precision, 'why_slow_in_bfloat16', lambda device: why)
    return request.param


class Calls(TorchDispatchMode):
    "Counts what torch is called for, by name"
    def __init__(self):
        super().__init__()
        self.n = Counter()

    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        self.n[f._schema.name.split('::')[1]] += 1
        return f(*args, **(kwargs or {}))

    @property
    def working(self): return sum(n for name, n in self.n.items() if name not in NO_WORK)


def some(shapes, dtype=torch.float64, seed=0):
    r = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(s, generator=r, dtype=torch.float64).to(dtype)) for s in shapes]


def set_grads(ps, i):
    for p, g in zip(ps, some([p.shape for p in ps], seed=100 + i)): p.grad = g.detach().to(p.dtype)


def stepped(make, shapes, engine, dtype=torch.float64, steps=3):
    ps = some(shapes, dtype)
    opt = make(ps, lr=0.02, engine=engine)
    for i in range(steps):
        set_grads(ps, i)
        opt.step()
    return opt, ps


# The same numbers

def naive_muon(shapes, steps, lr=0.02, mom=0.95):
    "In a loop over the singular values of each matrix, in float64"
    ps = [p.detach().clone() for p in some(shapes)]
    avgs = [torch.zeros_like(p) for p in ps]
    for i in range(steps):
        for p, m, g in zip(ps, avgs, some(shapes, seed=100 + i)):
            m.lerp_(g.detach(), 1 - mom)
            update = g.detach().lerp(m, mom)
            for w, u in zip(p if p.ndim == 3 else p[None], update if p.ndim == 3 else update[None]):
                if not w.numel(): continue
                left, size, right = torch.linalg.svd(u.reshape(len(u), -1), full_matrices=False)
                size = size/size.norm()
                for _ in range(5): size = 3.4445*size - 4.775*size**3 + 2.0315*size**5
                scale = max(1, len(u)/(u.numel()//len(u)))**0.5
                w -= lr*scale*(left*size @ right).reshape(w.shape)
    return ps


shapes = st.sampled_from([(3, 4), (4, 3), (2, 7), (7, 2), (3, 3), (1, 5), (2, 3, 4), (3, 4, 2), (2, 3, 2, 2),
                          (4, 2, 1, 3), (0, 3), (2, 0, 3)])
groups_of_shapes = st.lists(st.tuples(shapes, st.integers(1, 4)), min_size=1,
                            max_size=4).map(lambda o: [s for s, n in o for _ in range(n)])


@engines
@settings(deadline=None, max_examples=60)
@given(groups_of_shapes, st.permutations(range(16)), st.booleans())
def test_muon_is_what_a_loop_over_singular_values_gives(engine, shapes, order, pairs):
    "Groups of the same shape, mixed; stacks of matrices, kernels, empty ones, single ones"
    shapes = [shapes[i] for i in order if i < len(shapes)]
    _, ps = stepped(partial(oc.Muon, exact=True, pairs=pairs), shapes, engine)
    for p, q in zip(ps, naive_muon(shapes, 3)): assert torch.allclose(p, q, rtol=1e-7, atol=1e-9)


MATRIX_RULES = {
    'Muon': (partial(oc.Muon, exact=True), 1e-12), 'Shampoo': (oc.Shampoo, 1e-9), 'diagonals': (partial(oc.Shampoo, max_dim=3), 1e-9),
    'SOAP': (partial(oc.SOAP, refresh_steps=2), 1e-9), 'SOAP of one side': (partial(oc.SOAP, refresh_steps=2, max_dim=3), 1e-9),
    'Adafactor': (oc.Adafactor, 1e-12), 'SM3': (oc.SM3, 1e-12), 'agc': (oc.SGD.wrap(oc.agc), 1e-12), 'centralize': (oc.SGD.wrap(oc.centralize), 1e-12)}


@engines
@pytest.mark.parametrize('name', MATRIX_RULES)
def test_every_rule_gives_what_eager_gives(name, engine):
    make, tol = MATRIX_RULES[name]
    shapes = [(3, 4), (4, 3), (3, 4), (5,), (2, 3, 2, 2), (3, 4), (5,), (2, 3, 2, 2), (1, 6), ()]
    (opt, ps), (eager, qs) = (stepped(make, shapes, e, steps=5) for e in (engine, 'eager'))
    assert difference(ps, qs) <= tol
    for p, q in zip(ps, qs):
        for k, v in eager.state[q].items():
            if isinstance(v, torch.Tensor):
                assert opt.state[p][k].shape == v.shape and torch.allclose(opt.state[p][k], v, atol=100*tol), k
            else: assert opt.state[p][k] == v


@engines
def test_muon_agrees_in_the_type_that_it_iterates_in(engine, slow_bfloat16):
    "On processors of both kinds"
    shapes = [(16, 24)]*3 + [(24, 16)]*2 + [(12, 48), (2, 8, 8)]
    for options in ({}, dict(bfloat16=True), dict(exact=True)):
        a, b = (stepped(partial(oc.Muon, **options), shapes, e, torch.float32)[1] for e in (engine, 'eager'))
        in_bfloat16 = options.get('bfloat16') or not options and not slow_bfloat16
        assert difference(a, b) < (1e-2 if in_bfloat16 else 1e-5)


@pytest.mark.parametrize('engine', ['eager', *TRACED])
def test_muon_is_torchs_in_bfloat16(engine, slow_bfloat16):
    theirs = pytest.importorskip('torch.optim._muon', reason='torch 2.6 has no Muon').Muon
    shapes = [(16, 24)]*3 + [(24, 16)]*2
    ps = some(shapes, torch.float32)
    opt = theirs(ps, lr=0.02, weight_decay=0.)
    for i in range(3):
        set_grads(ps, i)
        opt.step()
    ours = partial(oc.Muon, bfloat16=True, pairs=False)
    assert difference(stepped(ours, shapes, engine, torch.float32)[1], ps) < 1e-2
    assert difference(stepped(partial(oc.Muon, pairs=False), shapes, engine, torch.float32)[1], ps) < 3e-2 # to the rounding of bfloat16


# Fewer calls

@engines
def test_calls_for_a_transformers_matrices(engine):
    "48 matrices of four shapes, made narrower: 17 products and some rounding for each shape, instead of for each matrix"
    shapes = [(m//8, n//8) for m, n in matrices()]
    ps = some(shapes, torch.float32)
    opt = oc.Muon(ps, lr=0.02, engine=engine)
    set_grads(ps, 0)
    for _ in range(2): opt.step()
    with Calls() as calls: opt.step()
    products = sum(calls.n[k] for k in ('mm', 'addmm', 'bmm', 'baddbmm'))
    assert len(shapes) == 48 and len(set(shapes)) == 4 and products <= 4*17
    if engine == 'fused': assert calls.working <= 110


@engines
def test_parameters_of_several_groups_are_one_batch_if_their_numbers_are_the_same(engine, monkeypatch):
    seen = []
    @by_torch(batched=lambda x, a: seen.append(len(x)) or x*a)
    def scaled(x, a): return x*a
    def step(p, lr, a): p.data.add_(scaled(p.grad, a), alpha=-lr)
    ps = some([(3, 4)]*5 + [(4, 3)]*2)
    groups = [dict(params=ps[:2], a=2.), dict(params=ps[2:4], a=2., lr=0.5), dict(params=ps[4:], a=3.)]
    opt = Optimizer(groups, [step], lr=0.1, engine=engine)
    set_grads(ps, 0)
    before = [p.detach().clone() for p in ps]
    opt.step()
    assert max(seen) >= 2 and sum(seen) == 6 # the fifth is alone in its shape and number
    for p, q, (lr, a) in zip(ps, before, [(0.1, 2)]*2 + [(0.5, 2)]*2 + [(0.1, 3)]*3):
        assert torch.allclose(p, q - lr*a*p.grad)


@engines
def test_functions_without_the_word_are_called_one_by_one(engine):
    seen = []
    @by_torch
    def looked(x):
        if x.device.type != 'meta': seen.append(x.shape)
        return x*2
    def step(p, lr): p.data.add_(looked(p.grad), alpha=-lr)
    stepped(partial(Optimizer, cbs=[step]), [(3, 4)]*4, engine, steps=1)
    assert seen == [(3, 4)]*4


@engines
@pytest.mark.parametrize('kind', [True, 'function'])
def test_what_is_shared_is_not_stacked_and_numbers_of_each_are(engine, kind):
    "A hyper-parameter that is a tensor; a sum over each parameter; several results, one of another shape, which is state"
    def batch(x, size, scale):
        assert size.shape == (len(x),) and scale.shape == ()
        return x/size[:, None, None]*scale, (x @ x.mT)
    @by_torch(batched=True if kind is True else batch)
    def split(x, size, scale): return x/size*scale, x @ x.mT
    def step(p, lr, scale, gram=None):
        u, new = split(p.grad, p.grad.abs().sum(), scale)
        p.data.add_(u, alpha=-lr)
        return {'gram': new}
    def run(engine):
        ps = some([(3, 4)]*3 + [(2, 2)])
        opt = Optimizer(ps, [step], lr=0.1, scale=torch.tensor(2., dtype=torch.float64), engine=engine)
        for i in range(3):
            set_grads(ps, i)
            opt.step()
        return ps, [opt.state[p]['gram'] for p in ps]
    (ps, grams), (qs, others) = run(engine), run('eager')
    assert difference(ps, qs) < 1e-12 and difference(grams, others) < 1e-12
    assert len({g.untyped_storage().data_ptr()
                for g in grams}) == 4 and all(g.untyped_storage().nbytes() == g.nbytes for g in grams)


@engines
def test_what_a_batch_returns_must_be_a_batch(engine):
    @by_torch(batched=lambda x: x[0])
    def wrong(x): return x*1
    def step(p, lr): p.data.add_(wrong(p.grad), alpha=-lr)
    ps = some([(3, 4)]*2)
    opt, before = Optimizer(ps, [step], lr=0.1, engine=engine), [p.detach().clone() for p in ps]
    set_grads(ps, 0)
    with pytest.raises(CantRun, match=r'`wrong` returns a tensor of shape \(3, 4\) for a batch of 2'): opt.step()
    assert all(torch.equal(p, q) for p, q in zip(ps, before))


# No more memory than a group

def test_no_more_memory_than_one_group_needs():
    "Twice as many shapes take as much more as their updates, which a step holds anyway, whoever calls"
    def extra(shapes, batched):
        ps = some(shapes, torch.float32)
        opt = oc.Muon(ps, lr=0.02, engine='fused')
        set_grads(ps, 0)
        for _ in range(2): opt.step()
        was = muon.orthogonalized.batched
        muon.orthogonalized.batched = was if batched else False
        try: return extra_memory(opt.step, 'cpu')
        finally: muon.orthogonalized.batched = was
    groups = [[(64, 128 + 2*i)]*8 for i in range(6)]
    group = sum(64*s[1]*4 for s in groups[-1])
    few, many = (extra(sum(groups[:n], []), True) - extra(sum(groups[:n], []), False) for n in (1, 6))
    assert many - few < group/2 and many < 4*group


@pytest.mark.parametrize('limit, largest', [(3, 3), (1, 1), (100, 10)])
def test_a_stack_is_limited(limit, largest, monkeypatch):
    seen = []
    @by_torch(batched=lambda x: seen.append(len(x)) or x*1)
    def same(x):
        if x.device.type != 'meta': seen.append(1)
        return x*1
    def step(p, lr): p.data.add_(same(p.grad), alpha=-lr)
    monkeypatch.setattr(batches, 'MOST_BYTES', limit*3*4*8)
    stepped(partial(Optimizer, cbs=[step]), [(3, 4)]*10, 'foreach', steps=1)
    assert max(seen) == largest and sum(seen) == 10


def test_large_tensors_are_not_copied_for_vmap(monkeypatch):
    "On a CPU that costs more than calls"
    call, calls = torch.vmap, []
    monkeypatch.setattr(torch, 'vmap', lambda f: calls.append(1) or call(f))
    for large, n in ((1 << 20, 3), (10, 0)): # steps, with one call each
        monkeypatch.setattr(batches, 'LARGE', large)
        calls.clear()
        stepped(oc.SGD.wrap(oc.centralize), [(3, 4)]*10, 'fused')
        assert len(calls) == n


# The type that Muon iterates in

def test_the_type_is_decided_by_the_processor_unless_it_is_asked_for(slow_bfloat16):
    by_itself = torch.float32 if slow_bfloat16 else torch.bfloat16
    assert precision.product_dtype(torch.float32, 'cpu')[0] is by_itself
    assert precision.product_dtype(torch.float64, 'cpu')[0] is by_itself
    assert precision.product_dtype(torch.float32, 'cpu', bfloat16=True)[0] is torch.bfloat16
    assert precision.product_dtype(torch.float64, 'cpu', exact=True)[0] is torch.float64
    assert precision.product_dtype(torch.bfloat16, 'cpu', exact=True)[0] is torch.float32


@pytest.mark.parametrize('machine, mkldnn, avx512, amx, has', [
    ('x86_64', True, True, False, True), ('x86_64', True, False, True, True), ('x86_64', True, False, False, False), # AVX-512 without bfloat16
    ('x86_64', False, False, False, False), ('aarch64', True, False, False, True), ('aarch64', False, False, False, False)])
def test_what_a_cpu_is_asked(machine, mkldnn, avx512, amx, has, monkeypatch):
    if not torch.backends.mkldnn.is_available(): pytest.skip('torch was built without oneDNN')
    monkeypatch.setattr(precision.platform, 'machine', lambda: machine)
    monkeypatch.setattr(torch.ops.mkldnn, '_is_mkldnn_bf16_supported', lambda: mkldnn)
    monkeypatch.setattr(torch.cpu, '_is_avx512_bf16_supported', lambda: avx512)
    monkeypatch.setattr(torch.cpu, '_is_amx_tile_supported', lambda: amx)
    assert precision._cpu_has_bfloat16() is has


def test_explain_tells_the_type_and_why(slow_bfloat16):
    ps = some([(3, 4), (5,)], torch.float32)
    def notes(**options): return oc.Muon(ps, lr=0.1, **options).explain().notes
    note, = notes()
    assert ('iterates in float32, this CPU has no instructions for bfloat16' if slow_bfloat16 else 'iterates in bfloat16') in note
    assert note in str(oc.Muon(ps, lr=0.1).explain())
    assert 'iterates in float32, `exact=True`' in notes(exact=True)[0] and 'iterates in bfloat16, `bfloat16=True`' in notes(bfloat16=True)[0]
    assert oc.Muon(ps[1:], lr=0.1).explain().notes == [] == oc.Adam(ps, lr=0.1).explain().notes
    routed = oc.route(hidden=(oc.Muon, oc.by_ndim(2)), rest=oc.Adam)(ps, lr=0.1).explain()
    assert len(routed.notes) == 1 and '[hidden]' in routed.notes[0]


def test_two_types_are_too_many():
    with pytest.raises(ValueError, match='ask for two types'):
        oc.Muon(some([(3, 4)]), lr=0.1, exact=True, bfloat16=True)


def test_a_state_dict_goes_from_one_kind_of_processor_to_the_other(monkeypatch):
    "And has the names that it had before there was a choice"
    def on(slow): monkeypatch.setattr(precision, 'why_slow_in_bfloat16', lambda device: 'slow' if slow else None)
    on(False)
    opt, ps = stepped(oc.Muon, [(8, 12)]*2 + [(5,)], 'fused', torch.float32)
    sd = opt.state_dict()
    assert 'orthogonal_update(exact=False, pairs=True)' in map(str, sd['steppers'])
    on(True)
    qs = [torch.nn.Parameter(p.detach().clone()) for p in ps]
    other = oc.Muon(qs, lr=0.02)
    other.load_state_dict(sd)
    for o, x, slow in ((opt, ps, False), (other, qs, True)):
        on(slow)
        set_grads(x, 9)
        o.step()
    assert difference(ps, qs) < 1e-2 and not all(torch.equal(p, q) for p, q in zip(ps, qs))
