"Each algorithm equals its reference, on any shape, dtype and layout, whatever the gradients do."
import inspect
import math
import pickle
from copy import deepcopy
from functools import partial

import pytest
import torch
from cases import CASES, TOL
from helpers import difference, params, set_grads, trajectory
from hypothesis import example, given, settings
from hypothesis import strategies as st

import optimcb as oc
from optimcb.algorithms import classic

EVERY = {k: o for k, o in vars(oc).items() if isinstance(o, oc.Algorithm)} | {'ranger': oc.ranger}
by_name = pytest.mark.parametrize('name, ours, theirs', CASES, ids=[c[0] for c in CASES])
ALGORITHMS = [o for o in vars(classic).values() if isinstance(o, oc.Algorithm)]
every = pytest.mark.parametrize('algo', [*ALGORITHMS, oc.ranger], ids=lambda o: o.__name__)


@by_name
@pytest.mark.parametrize('dtype', TOL, ids=str)
def test_equals_reference(name, ours, theirs, dtype):
    assert difference(trajectory(ours, dtype), trajectory(theirs, dtype)) <= TOL[dtype]


@by_name
def test_gradients_that_come_and_go(name, ours, theirs):
    skip = lambda step: {step % 5, (step // 3) % 4} # noqa: E731
    assert difference(trajectory(ours, torch.float64, skip=skip),
                      trajectory(theirs, torch.float64, skip=skip)) <= TOL[torch.float64]


@every
def test_layer_that_joins_late(algo):
    "The first update of a layer doesn't depend on the steps that others have done"
    early, late = params([(4, 3)])[0], params([(4, 3)])[0]
    opt = algo([torch.nn.Parameter(torch.ones(2)), late], lr=0.01)
    for i in range(2000):
        set_grads([p for p in opt.param_groups[0]['params'] if p is not late], i)
        opt.step()
    assert torch.equal(early, late)
    set_grads([early]); set_grads([late]) # noqa: E702
    algo([early], lr=0.01).step()
    opt.step()
    assert torch.equal(early, late)


COARSE = {'SOAP': 0.1} # its eigenbasis is any of many where a gradient's rank isn't full, so that rounding chooses one


def corners(f):
    "Shapes without elements, of one element, and without dimensions, which may not be drawn"
    for shape in ([0, 3], [2, 0], [0], [], [1, 1], [2, 0, 3]):
        f = example(shape=shape, dtype=torch.float32, flip=False, wd=0.1, seed=0)(f)
    return f


@pytest.mark.parametrize('algo', EVERY.values(), ids=EVERY)
@corners
@given(shape=st.lists(st.integers(0, 4), max_size=4), dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
       flip=st.booleans(), wd=st.sampled_from([0., 0.1]), seed=st.integers(0, 9))
@settings(max_examples=15, deadline=None)
def test_any_shape_dtype_and_layout(algo, shape, dtype, flip, wd, seed):
    """Neither the memory layout of a parameter or gradient nor 16 bits change what is computed, beyond
    rounding; gradients stay as they are"""
    exact, p = params([shape], torch.float64, seed)[0], params([shape], dtype, seed)[0]
    turned = tuple(reversed(range(p.dim())))
    if flip: p.data = p.data.permute(turned).contiguous().permute(turned)
    coarse = dict(eps=1e-2, sqr_mom=0.9, wd=wd) # 1e-8, and a thousandth of a square, are nothing in 16 bits
    coarse = {k: v for k, v in coarse.items() if k in inspect.signature(algo).parameters}
    compiled = algo in ALGORITHMS or dtype == torch.float32 # to compile the others takes long, and other tests do
    a = algo([exact], lr=0.01, engine='eager', **coarse)
    b = algo([p], lr=0.01, engine='auto' if compiled else 'eager', **coarse)
    for i in range(3):
        set_grads([exact], i); set_grads([p], i) # noqa: E702
        grad, kept = p.grad, p.grad.clone()
        a.step(); b.step() # noqa: E702
        assert p.grad is grad and torch.equal(grad, kept)
    assert p.dtype == dtype and p.shape == exact.shape
    tol = {torch.float64: 1e-9, torch.float32: 1e-4}.get(dtype, 0.02)
    if dtype != torch.float64: tol = max(tol, COARSE.get(algo.__name__, 0.))
    assert torch.allclose(p.double(), exact, rtol=tol, atol=tol)


@every
def test_can_be_called_in_a_loop_on_a_real_loss(algo):
    torch.manual_seed(0)
    x, target = torch.randn(64, 5), torch.randn(5)
    model = torch.nn.Linear(5, 1)
    opt = algo(model.parameters(), lr=1. if algo is oc.Adadelta else 0.05)
    losses = []
    for _ in range(100):
        loss = (model(x)[:, 0] - x @ target).pow(2).mean()
        losses.append(loss.item())
        loss.backward()
        opt.step()
        opt.zero_grad()
    assert losses[-1] < 0.9*losses[0] and math.isfinite(losses[-1])


@pytest.mark.parametrize('algo', ALGORITHMS, ids=lambda o: o.__name__)
def test_is_a_partial_of_callbacks(algo):
    assert isinstance(algo, partial) and algo.func is oc.Optimizer
    assert pickle.loads(pickle.dumps(algo)) is algo and deepcopy(algo) is algo
    assert algo.__name__ in repr(algo) and 'lr' in repr(algo) and all(s in repr(algo) for s in oc.Composition(algo.cbs).labels)
    by_recipe, by_hand = params(), params()
    a, b = algo(by_recipe, lr=0.01), oc.Optimizer(by_hand, algo.cbs, lr=0.01, **algo.hypers)
    for i in range(5):
        set_grads(by_recipe, i); set_grads(by_hand, i) # noqa: E702
        a.step(); b.step() # noqa: E702
    assert all(torch.equal(x, y) for x, y in zip(by_recipe, by_hand))
    extended = partial(oc.Optimizer, cbs=[*algo.cbs, lambda p, **kwargs: p.data.clamp_(-1e-3, 1e-3)], **algo.hypers)
    extended(by_hand, lr=0.01).step()
    assert all(p.abs().max() <= 1e-3 for p in by_hand)


def test_options_that_were_flags_are_no_hypers():
    assert dict(oc.Adam(params(), 1e-3).hypers[0]) == dict(lr=1e-3, mom=0.9, sqr_mom=0.99, eps=1e-5, wd=0.01)
    assert dict(oc.Larc(params(), 1e-3).hypers[0]) == dict(lr=1e-3, mom=0.9, trust_coeff=0.02, eps=1e-8, wd=0.)
    assert oc.SGD(params(), 1e-3).hypers[0]['mom'] == 0.


@pytest.mark.filterwarnings('error')
def test_what_an_option_leaves_out_takes_its_numbers_along():
    assert oc.ADOPT(params(), 1e-3).hypers[0]['clip_power'] == 0.25
    assert 'clip_power' not in oc.ADOPT(params(), 1e-3, clip=False).hypers[0]
    with pytest.warns(UserWarning, match='no stepper reads `clip_power`'):
        oc.ADOPT(params(), 1e-3, clip=False, clip_power=0.5)


fastai_names = ['SGD', 'RMSProp', 'Adam', 'RAdam', 'QHAdam', 'Larc', 'Lamb', 'ranger']


@pytest.mark.parametrize('options', [{}, dict(mom=0.8), dict(wd=0.1), dict(wd=0.1, decouple_wd=False)], ids=str)
@pytest.mark.parametrize('dtype', TOL, ids=str)
@pytest.mark.parametrize('name', fastai_names)
def test_equals_fastai_to_the_bit(name, options, dtype):
    fastai = pytest.importorskip('fastai.optimizer')
    ours = trajectory(partial(getattr(oc, name), engine='eager', **options), dtype)
    theirs = trajectory(partial(getattr(fastai, name), **options), dtype)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs))


@pytest.mark.parametrize('name', [*fastai_names, 'Lookahead'])
def test_has_the_signature_of_fastai(name):
    fastai = pytest.importorskip('fastai.optimizer')
    ours, theirs = (inspect.signature(getattr(m, name)).parameters for m in (oc, fastai))
    assert list(ours)[:len(theirs)] == list(theirs)
    assert {k: ours[k].default for k in theirs} == {k: p.default for k, p in theirs.items()}


def test_lookahead_is_its_optimizer_with_two_more_steppers():
    ps = params()
    inner = oc.Adam(ps, lr=0.1)
    opt = oc.Lookahead(inner, k=2, alpha=0.25)
    assert (opt.k, opt.alpha, opt.count, opt.slow_weights) == (2, 0.25, 0, None)
    start = [p.data.clone() for p in ps]
    for i in range(2):
        set_grads(ps, i)
        opt.step()
    assert opt.count == 2 and opt.state is inner.state and opt.param_groups is inner.param_groups
    assert all(torch.equal(s, p) and not torch.equal(p, o) for s, p, o in zip(opt.slow_weights[0], ps, start))
    sd = opt.state_dict()
    keys = set(sd)
    opt.load_state_dict(sd)
    assert set(sd) == keys and opt.count == 2
    opt.clear_state()
    assert opt.count == 0 and opt.slow_weights is None
    opt.k = 5
    assert inner.hypers[0]['k'] == 5
    with pytest.raises(ValueError, match='whole number'): oc.Lookahead(inner, k=0)
    with pytest.raises(ValueError, match='alpha'): oc.Lookahead(inner, alpha=2)
    with pytest.raises(TypeError, match='step of its own'): oc.Lookahead(torch.optim.SGD(ps, lr=0.1))
    with pytest.raises(TypeError, match='already'): oc.Lookahead(opt)
    with pytest.raises(ValueError, match='whole number'): opt.k = 0
    assert dict(oc.ranger(ps, 0.1, weight_decay=0.3, betas=(0.5, 0.6)).hypers[0]).items() >= dict(wd=0.3, mom=0.5, sqr_mom=0.6, eps=1e-6).items()


def test_nesterov_needs_momentum():
    for options in (dict(), dict(mom=0.9, dampening=True)):
        with pytest.raises(ValueError, match='Nesterov'): oc.SGD(params(), lr=0.1, nesterov=True, **options)
    ps = params()
    assert list(oc.SGD([ps[:2], ps[2:]], lr=0.1, mom=[0.9, 0.8]).hypers.itemgot('mom')) == [0.9, 0.8]


def test_lookahead_around_an_optimizer_with_a_scheduler():
    ps = params()
    inner = oc.SGD(ps, lr=0.1)
    torch.optim.lr_scheduler.ExponentialLR(inner, 0.9)
    opt = oc.Lookahead(inner, k=1)
    set_grads(ps)
    opt.step()
    assert opt.count == 1


# Corners that random gradients don't reach

def one(values, grad, dtype=torch.float32):
    p = torch.nn.Parameter(torch.tensor(values, dtype=dtype))
    p.grad = torch.tensor(grad, dtype=dtype)
    return p


def test_lamb_moves_a_tensor_of_zeros_by_its_update():
    p = one([0., 0.], [3., -0.5])
    oc.Lamb([p], lr=0.1, eps=0.).step()
    assert torch.allclose(p, torch.tensor([-0.1, 0.1]))
    q = one([2.], [0.])
    oc.Lamb([q], lr=0.1).step()
    assert q.item() == 2.


def test_lamb_goes_no_further_than_its_largest_ratio():
    p = one([100., 100.], [1., 1.])
    oc.Lamb([p], lr=0.1, eps=0., max_trust=3.).step()
    assert torch.allclose(p, torch.tensor([99.7, 99.7]))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_norms_of_16_bit_tensors_neither_overflow_nor_stop_counting(dtype):
    for algo in (partial(oc.Lamb, eps=1e-3), partial(oc.Larc, clip=False)):
        exact, p = one([300.]*4096, [100.]*4096, torch.float64), one([300.]*4096, [100.]*4096, dtype)
        for o in (exact, p): algo([o], lr=1.).step()
        assert exact[0] < 299 and torch.allclose(p.double(), exact, rtol=8e-3)


def test_centered_rmsprop_is_finite_where_gradients_are_constant():
    p = one([1.]*1000, list(torch.linspace(0.1, 3, 1000)))
    opt = oc.RMSProp([p], lr=1e-9, centered=True, sqr_mom=0.5)
    for _ in range(100): opt.step()
    assert p.isfinite().all() and (opt.state[p]['sqr_avg'] < opt.state[p]['grad_center']**2).any()


def test_defaults_of_steppers_are_fastais():
    fastai = pytest.importorskip('fastai.optimizer')
    for name in ('weight_decay', 'l2_reg', 'average_grad', 'average_sqr_grad', 'rms_prop_step', 'adam_step', 'radam_step', 'qhadam_step', 'larc_layer_lr',
                 'lamb_step'):
        theirs = getattr(fastai, name)
        theirs = getattr(theirs, 'defaults', None) or theirs._defaults
        ours = inspect.signature(getattr(oc, name)).parameters
        assert {k: ours[k].default for k in theirs if k in ours} == {k: v for k, v in theirs.items() if k in ours}, name


@pytest.mark.parametrize('engine', ['eager', 'foreach', 'fused'])
def test_novograds_first_norm_is_of_a_gradient_that_is_there(engine):
    "As its authors' code has it; a mean with the first one, 0, would make the step seven times as large"
    p = one([1., 2.], [0., 0.])
    opt = oc.NovoGrad([p], lr=0.1, mom=0., engine=engine)
    opt.step()
    p.grad = torch.tensor([3., 4.])
    opt.step()
    assert torch.allclose(p.data, torch.tensor([1 - 0.06, 2 - 0.08]))


@pytest.mark.parametrize('engine', ['eager', 'foreach', 'fused'])
def test_madgrad_rests_while_lr_is_0(engine):
    "`eps` is added to other learning rates only"
    p = one([1., 2.], [3., 4.])
    opt = oc.MADGRAD([p], lr=0., engine=engine)
    opt.step()
    assert p.tolist() == [1., 2.]
    opt.set_hyper('lr', 0.1)
    opt.step()
    assert (p < torch.tensor([1., 2.])).all()
