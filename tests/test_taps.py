"What taps record is what is there, on every engine, and nothing else changes."
import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from helpers import SHAPES, params, set_grads

import optimcb as oc
from optimcb import Adam, Lookahead, Optimizer, OptStats, Record, sgd_step, tap
from optimcb.taps import cosine, histogram, norm

engines = pytest.mark.parametrize('engine', ['eager', 'foreach', 'fused'])
ALL = dict(size=norm('grad'), cos=cosine('grad', 'grad_avg'), shares=histogram('sqr_avg', -6, 2, 4),
           mean=lambda p, sqr_avg: sqr_avg.mean(), rate=lambda p, lr: lr)


def trained(opt, ps, steps=6, skip=lambda i: (), seen=lambda i: None):
    for i in range(steps):
        set_grads(ps, i, skip(i))
        opt.step()
        seen(i)
    return opt


@engines
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_taps_record_what_is_there(engine, dtype):
    ps, plain = params(dtype=dtype), params(dtype=dtype)
    opt = Adam.insert(tap(**ALL), after=oc.average_sqr_grad)(ps, lr=0.1, engine=engine)
    record, want = Record(opt), []

    def note(i):
        for p in ps:
            g, m, v = (t.double().flatten() for t in (p.grad, opt.state[p]['grad_avg'], opt.state[p]['sqr_avg']))
            shares = np.histogram(v.abs().clamp(1e-6, 99).numpy(), 10.**np.linspace(-6, 2, 5))[0] / len(v)
            want.append([g.norm(), g@m/g.norm()/m.norm(), v.mean(), 0.1, *shares])
    trained(opt, ps, seen=note)
    got = np.stack([record[k] for k in ('size', 'cos', 'mean', 'rate', *(f'shares.{i}' for i in range(4)))], -1)
    tol = 1e-5 if dtype != torch.bfloat16 else 0.05
    assert got.shape == (6, len(SHAPES), 8) and np.allclose(got, np.reshape(want, got.shape), rtol=tol, atol=tol)
    trained(Adam(plain, lr=0.1, engine=engine), plain)
    if dtype != torch.bfloat16 or engine == 'eager': assert all(map(torch.equal, ps, plain)) # nothing else has changed


@engines
def test_stats_are_norms_of_steps_gradients_and_weights(engine):
    ps = params()
    opt = Adam(ps, lr=0.1, engine=engine)
    before, stats, want = [*opt.cbs], OptStats(opt), []
    last = [p.detach().clone() for p in ps]

    def note(i):
        for p, o in zip(ps, last):
            d, g = (p - o).norm(), p.grad.norm()
            want.append([g, d/p.norm(), d/g])
            o.copy_(p.detach())
    trained(opt, ps, seen=note)
    got = np.stack([stats[k] for k in stats.names], -1)
    assert stats.names == ['grad_norm', 'update_ratio', 'effective_lr'] and np.allclose(got, torch.tensor(want).reshape(got.shape), rtol=1e-4)
    stats.stop()
    assert list(opt.cbs) == before and all(s.keys() == {'grad_avg', 'sqr_avg', 'step'} for s in opt.state.values())
    trained(opt, ps, 2)
    assert len(stats) == 6


@engines
def test_watching_changes_no_step(engine):
    ps, qs = params(), params()
    opt = Adam(ps, lr=0.1, engine=engine)
    trained(opt, ps, 2)
    stats = OptStats(opt)
    trained(opt, ps, 3)
    stats.stop()
    trained(opt, ps, 2)
    other = Adam(qs, lr=0.1, engine=engine)
    for n in (2, 3, 2): trained(other, qs, n)
    assert all(map(torch.equal, ps, qs)) and opt.state[ps[0]]['step'] == 7


def test_records_are_nan_where_there_was_no_gradient():
    opt = Adam.insert(tap(size=norm('grad')), before=0)(ps := params(), lr=0.1)
    record = Record(opt)
    trained(opt, ps, 4, skip=lambda i: [1] if i in (0, 2) else [0, 1, 2, 3] if i == 3 else [])
    assert np.isnan(record['size']).tolist() == [[False, True, False, False], [False]*4,
                                                 [False, True, False, False], [True]*4]


def test_every_so_many_steps_under_names():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    opt = Adam(model.parameters(), lr=0.1)
    stats = OptStats(opt, model, every=3)
    trained(opt, list(model.parameters()), 7)
    frame = stats.frame('grad_norm')
    assert frame.columns.tolist() == ['0.weight', '0.bias', '1.weight', '1.bias'] and frame.index.tolist() == [1, 4, 7]
    named = OptStats(Adam(list(model.named_parameters()), lr=0.1))
    assert named.param_names == frame.columns.tolist() and 'nothing yet' in repr(named) and repr(stats).endswith('3 steps, 4 parameters')


def test_taps_are_not_saved_and_do_not_keep_a_run_from_going_on():
    ps, qs = params(), params()
    opt = Adam.insert(tap(size=norm('grad')), before=0)(ps, lr=0.1)
    trained(opt, ps, 3)
    sd = opt.state_dict()
    assert all(s.keys() == {'grad_avg', 'sqr_avg', 'step'} for s in sd['state'].values()) and 'size' in opt.state[ps[0]]
    other = Adam(qs, lr=0.1)
    for q, p in zip(qs, ps): q.data.copy_(p.data)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        other.load_state_dict(sd)
    for o, rs in ((opt, ps), (other, qs)): trained(o, rs, 3)
    assert all(map(torch.equal, ps, qs))


def test_nothing_waits_for_the_device(monkeypatch):
    "What asks a tensor for its value is never called while training"
    opt = Adam(ps := params(), lr=0.1)
    stats = OptStats(opt)
    trained(opt, ps, 2)
    for name in ('item', 'cpu', 'tolist', 'numpy', '__float__', '__bool__', 'nonzero'):
        monkeypatch.setattr(torch.Tensor, name, lambda *args, name=name: pytest.fail(f'{name} was called'))
    grads = [torch.ones_like(p) for p in ps]
    for _ in range(3):
        for p, g in zip(ps, grads): p.grad = g
        opt.step()
    monkeypatch.undo()
    assert stats['grad_norm'].shape == (5, 4)


def test_wrappers_pickles_and_copies():
    opt = Lookahead(Adam(ps := params(), lr=0.1), k=2)
    stats = OptStats(opt)
    trained(opt, ps, 4)
    again = pickle.loads(pickle.dumps(stats))
    assert np.array_equal(again['update_ratio'], stats['update_ratio']) and again.param_names == stats.param_names
    assert copy.deepcopy(opt).cbs
    stats.stop()
    assert len(opt.cbs) == 7


def test_what_cannot_be_tapped_is_said():
    with pytest.raises(ValueError, match='something to measure'): tap()
    with pytest.raises(TypeError, match=r'tap `a` measures a tensor of shape \(3, 4\), not a number'):
        trained(Optimizer(ps := params(), [tap(a=lambda p: p.grad), sgd_step], lr=0.1, engine='eager'), ps, 1)
    with pytest.raises(oc.MissingName, match=r'`tap\(a\)` needs `sqr_avg`.* Put `average_sqr_grad`'):
        Optimizer(params(), [tap(a=norm('sqr_avg')), sgd_step], lr=0.1)
    with pytest.raises(ValueError, match='no stepper of this optimizer is a tap'): Record(Adam(params(), lr=0.1))
    stats = OptStats(Adam(ps := params(), lr=0.1))
    with pytest.raises(KeyError, match='no step yet'): stats['grad_norm']
    with pytest.raises(ValueError, match='no step yet'): stats.plot_sched()
    trained(stats.opt, ps, 1)
    with pytest.raises(KeyError, match='There are grad_norm'): stats['norm']
    with pytest.raises(KeyError, match='no hyper-parameter `lrr`'): stats.plot_sched('lrr')
    with pytest.raises(ValueError, match=r'`tap\(step\)` would overwrite `step`, of `adam_step`'):
        Adam.insert(tap(step=norm('p')), before=0)
    with pytest.raises(ValueError, match='would overwrite `update`'): Adam.insert(tap(update=norm('p')), before=0)
    with pytest.raises(ValueError, match='has an OptStats already'): OptStats(stats.opt)
    with pytest.raises(ValueError, match='`every`'): OptStats(Adam(params(), lr=0.1), every=0)


def test_they_are_drawn():
    mpl = pytest.importorskip('matplotlib')
    mpl.use('Agg')
    import matplotlib.pyplot as plt
    opt = Adam([params()[:2], params()[2:]], lr=0.1)
    ps = [p for g in opt.param_groups for p in g['params']]
    stats = OptStats(opt)
    sched = torch.optim.lr_scheduler.ExponentialLR(opt, 0.5)
    trained(opt, ps, 3, seen=lambda i: sched.step())
    axs = stats.plot()
    assert [ax.get_title() for ax in axs] == stats.names and len(axs[0].lines) == 4
    assert np.allclose(axs[0].lines[2].get_ydata(), stats['grad_norm'][:, 2]) and axs[0].get_yscale() == 'log'
    ax, = stats.plot_sched('lr')
    assert np.allclose(ax.lines[0].get_ydata(), [0.1, 0.05, 0.025]) and len(ax.lines) == 2
    assert {ax.get_title() for ax in stats.plot_sched()} == {'lr', 'mom', 'sqr_mom', 'eps', 'wd'}
    many = Adam(params([(2,)]*12), lr=0.1)
    stats = OptStats(many)
    trained(many, many.param_groups[0]['params'], 3)
    ax, = stats.plot('update_ratio')
    assert np.allclose(ax.images[0].get_array(), stats['update_ratio'].T)
    plt.close('all')


# In fastai

@pytest.fixture
def learn():
    pytest.importorskip('fastai')
    import fastai.callback.all  # noqa: F401
    from fastai.test_utils import synth_learner

    from optimcb.learner import OptStatsCallback
    learn = synth_learner(cbs=OptStatsCallback())
    learn.opt_func = Adam
    return learn


def test_learners_have_stats(learn):
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(2, 1e-2)
        stats, lrs = learn.opt_stats, list(learn.recorder.lrs)
        learn.validate()
        assert learn.opt_stats is stats
        steps = len(stats)
        assert steps == 2*len(learn.dls.train) and stats.param_names == [k for k, _ in learn.model.named_parameters()]
        assert [h[-1]['lr'] for h in stats.hypers] == pytest.approx(lrs) and learn.opt_stats['grad_norm'].shape == (steps, 2)
        assert learn.opt.composition.labels == oc.Composition(Adam.cbs).labels
        learn.fit(1)
        assert learn.opt_stats is not stats and len(stats) == steps and len(learn.opt_stats) == len(learn.dls.train)
    assert pickle.loads(pickle.dumps(stats))['grad_norm'].shape == (steps, 2)


def test_a_callback_of_one_fit_leaves_its_stats(learn):
    from optimcb.learner import OptStatsCallback
    learn.remove_cb(OptStatsCallback)
    with learn.no_bar(), learn.no_logging():
        learn.validate()
        learn.fit(1, cbs=OptStatsCallback())
        learn.fit(1)
    assert len(learn.opt_stats) == len(learn.dls.train)
    pickle.dumps(Adam.insert(tap(a=norm('grad'), b=cosine('p', 'grad'), c=histogram('p')), before=0))


def test_a_fit_with_its_own_callback_that_is_broken_off_leaves_a_learner_that_trains(learn):
    from fastai.callback.core import Callback

    from optimcb.learner import OptStatsCallback
    class Stop(Callback):
        def after_step(self): raise KeyboardInterrupt
    learn.remove_cb(OptStatsCallback)
    with learn.no_bar(), learn.no_logging():
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt): learn.fit(1, cbs=[OptStatsCallback(), Stop()])
        learn.fit(1, cbs=[OptStatsCallback(), OptStatsCallback()])
    assert len(learn.opt_stats) == len(learn.dls.train) and len(learn.opt.cbs) == 5
    again = copy.deepcopy(learn.opt_stats)
    again.stop()


def test_a_fit_that_is_broken_off_leaves_a_learner_that_trains(learn):
    from fastai.callback.core import Callback
    class Stop(Callback):
        def after_step(self): raise RuntimeError('stop')
    with learn.no_bar(), learn.no_logging():
        with pytest.raises(RuntimeError): learn.fit(1, cbs=Stop())
        learn.fit(1)
    assert len(learn.opt_stats) == len(learn.dls.train) and len(learn.opt.cbs) == 5


def test_lr_find_is_not_watched(learn):
    with learn.no_bar(), learn.no_logging():
        learn.lr_find(show_plot=False, num_it=5)
        assert not hasattr(learn, 'opt_stats') and len(learn.opt.cbs) == 5
        learn.fit(1)
    assert len(learn.opt_stats) == len(learn.dls.train)


def test_other_optimizers_are_refused():
    pytest.importorskip('fastai')
    import fastai.callback.all  # noqa: F401
    from fastai.optimizer import SGD as theirs
    from fastai.test_utils import synth_learner

    from optimcb.learner import OptStatsCallback
    learn = synth_learner(cbs=OptStatsCallback())
    learn.opt_func = theirs
    with learn.no_bar(), learn.no_logging(), pytest.raises(TypeError, match='watches an optimcb Optimizer'):
        learn.fit(1)
